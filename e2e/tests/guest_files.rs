//! Do files come back out of a disk's past as the guest had them?
//!
//! File systems are made by their own tools from a directory tree; what `restore` gives is compared
//! with that tree, so neither side of the comparison is code of ours.

#![expect(clippy::disallowed_methods, reason = "the client's side has files of its own")]

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fmt::Write as _,
    fs,
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink},
    },
    path::{Path, PathBuf},
    process::{Command, Output},
};

use e2e::{MIB, Store, VOLUME, finish, need, noise, said, succeed};

/// What two trees are compared by: kind, length, permissions, seconds of the last change, content.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    kind: char,
    mode: u32,
    seconds: i64,
    content: Vec<u8>,
}

/// What a tree is compared by, beside names and contents.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    ModesAndTimes,
    Contents,
}

fn seen(root: &Path, by: By) -> BTreeMap<OsString, Seen> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(root.join(&directory)).expect("a directory") {
            let relative = directory.join(entry.expect("an entry").file_name());
            let path = root.join(&relative);
            let stat = path.symlink_metadata().expect("stat");
            let (kind, content) = if stat.is_dir() {
                waiting.push(relative.clone());
                ('d', Vec::new())
            } else if stat.is_symlink() {
                ('l', fs::read_link(&path).expect("a link").into_os_string().into_vec())
            } else {
                ('f', fs::read(&path).expect("a file"))
            };
            let all = by == By::ModesAndTimes;
            let mode = if all && kind != 'l' { stat.permissions().mode() & 0o7777 } else { 0 };
            let seconds = if all && kind == 'f' { stat.mtime() } else { 0 };
            found.insert(relative.into_os_string(), Seen { kind, mode, seconds, content });
        }
    }
    found.remove(OsStr::new("lost+found"));
    found
}

/// Compares without printing contents.
fn assert_same(got: &Path, expected: &Path, by: By) {
    let (got, expected) = (seen(got, by), seen(expected, by));
    for (path, want) in &expected {
        let have = got.get(path).unwrap_or_else(|| panic!("{} is missing", path.display()));
        let bare = |seen: &Seen| (seen.kind, seen.mode, seen.seconds, seen.content.len());
        assert_eq!(bare(have), bare(want), "{}", path.display());
        assert!(have.content == want.content, "{} has other bytes", path.display());
    }
    let more: Vec<_> = got.keys().filter(|path| !expected.contains_key(*path)).collect();
    assert!(more.is_empty(), "these were not there: {more:?}");
}

const SIZES: &[usize] = &[0, 1, 59, 60, 61, 150, 511, 512, 4095, 4096, 4097, 65_536, 3_000_000];

/// A tree that every file system can hold.
fn plain_tree(root: &Path, many: u32) {
    for (seed, size) in (1..).zip(SIZES) {
        put(&root.join(format!("sizes/of {size} bytes")), &noise(seed, *size));
    }
    for index in 0..many {
        let name = format!("many/a file with a rather long name, number {index:05}");
        put(&root.join(name), index.to_string().as_bytes());
    }
    put(&root.join("long").join("n".repeat(200)), b"long");
    put(&root.join("a/b/c/d/e/f/g/deep.txt"), b"deep");
    put(&root.join("grün/日本語.txt"), "日本".as_bytes());
    fs::create_dir_all(root.join("empty")).expect("made");
    let sparse = fs::File::create(root.join("sparse")).expect("made");
    sparse.write_all_at(&noise(99, 5000), MIB).expect("written");
    sparse.write_all_at(b"the end", (7 << 20) - 7).expect("written");
}

/// The same with what only Unix has.
fn unix_tree(root: &Path) {
    plain_tree(root, 600);
    let named = |bytes: &[u8]| root.join("long").join(OsStr::from_bytes(bytes));
    put(&named(b"not \xff\xfe text"), b"bytes");
    put(&named(b"a\nb\x1b[31m"), b"control");
    put(&named(&[b'm'; 255]), b"longest");
    for (name, length) in [("short", 9), ("59", 59), ("60", 60), ("long", 900)] {
        symlink("x".repeat(length), root.join("a").join(name)).expect("a link");
    }
    symlink("/etc/passwd", root.join("absolute")).expect("a link");
    symlink("../../../../etc/passwd", root.join("upwards")).expect("a link");
    symlink("a/b", root.join("way")).expect("a link");
    fs::hard_link(root.join("sizes/of 4097 bytes"), root.join("a/again")).expect("a name");
    for (name, mode) in [("of 1 bytes", 0o750), ("of 59 bytes", 0o4755), ("of 60 bytes", 0o400)] {
        let path = root.join("sizes").join(name);
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
    }
    let old = fs::File::options().write(true).open(root.join("sizes/of 61 bytes")).expect("open");
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_007);
    old.set_modified(time).expect("set");
}

fn put(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("below the root")).expect("made");
    fs::write(path, bytes).expect("written");
}

/// A store whose volume holds this disk, and the instant of it.
fn store_of(disk: &Path) -> Store {
    need(&["nbdcopy"], "libnbd-bin");
    let length = disk.metadata().expect("stat").len();
    let store = Store::with_volume(length);
    let server = store.serve(&[]);
    succeed(Command::new("nbdcopy").arg(disk).arg(server.uri(VOLUME)));
    store.run(["mark", "add", VOLUME, "full"]);
    assert!(server.stop().success());
    store
}

fn restore(store: &Store, paths: &[&str], to: &Path, more: &[&str]) -> Output {
    let instant = format!("{VOLUME}@mark:full");
    let mut command = store.command();
    command.args(["restore", &instant]).args(paths).arg("--to").arg(to).args(more);
    finish(&mut command)
}

fn restored(store: &Store, paths: &[&str], to: &Path, more: &[&str]) -> String {
    let output = restore(store, paths, to, more);
    assert!(output.status.success(), "{}", said(&output));
    said(&output)
}

fn refused(store: &Store, paths: &[&str], to: &Path, exit: i32) -> String {
    let output = restore(store, paths, to, &[]);
    assert_eq!(output.status.code(), Some(exit), "{}", said(&output));
    said(&output)
}

/// An empty file of that length.
fn blank(path: &Path, length: u64) {
    fs::File::create(path).expect("made").set_len(length).expect("grown");
}

fn ext(kind: &str, options: &[&str], tree: &Path, disk: &Path) {
    need(&["mkfs.ext4"], "e2fsprogs");
    blank(disk, 96 * MIB);
    let mut make = Command::new("mkfs.ext4");
    make.env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin").args(["-q", "-F", "-t", kind]);
    succeed(make.args(options).arg("-d").arg(tree).arg(disk));
}

#[test]
fn ext_trees_come_back_whole() {
    let place = tempfile::tempdir().expect("a directory");
    let tree = place.path().join("tree");
    unix_tree(&tree);
    let forms: &[(&str, &[&str])] = &[
        ("ext4", &[]),
        ("ext4", &["-O", "inline_data", "-I", "512"]),
        ("ext4", &["-O", "meta_bg,^resize_inode,^metadata_csum", "-b", "1024"]),
        ("ext4", &["-O", "^64bit,metadata_csum_seed"]),
        ("ext3", &[]),
        ("ext2", &["-b", "1024"]),
    ];
    for (index, (kind, options)) in forms.iter().enumerate() {
        let (disk, to) =
            (place.path().join(format!("{index}.raw")), place.path().join(format!("to{index}")));
        ext(kind, options, &tree, &disk);
        let store = store_of(&disk);
        let told = restored(&store, &[], &to, &["--preserve"]);
        assert!(told.contains("verified "), "{told}");
        if options.contains(&"inline_data") {
            // mke2fs 1.47 cuts the hole at the end of a sparse file off where it has inline data.
            fs::remove_file(to.join("sparse")).expect("there");
            let expected = place.path().join("without");
            succeed(Command::new("cp").arg("-a").arg(&tree).arg(&expected));
            fs::remove_file(expected.join("sparse")).expect("there");
            assert_same(&to, &expected, By::ModesAndTimes);
        } else {
            assert_same(&to, &tree, By::ModesAndTimes);
        }
        let inode = |path: &str| to.join(path).metadata().expect("stat").ino();
        assert_eq!(inode("a/again"), inode("sizes/of 4097 bytes"), "{kind}: one file, two names");
        if index == 0 {
            let kept = to.join("sparse").metadata().expect("stat").blocks() * 512;
            assert!(kept < MIB, "a sparse file stays sparse, and takes {kept}");
        }
    }
}

#[test]
fn paths_are_found_or_refused() {
    let place = tempfile::tempdir().expect("a directory");
    let (tree, disk, to) =
        (place.path().join("tree"), place.path().join("raw"), place.path().join("to"));
    unix_tree(&tree);
    ext("ext4", &[], &tree, &disk);
    let store = store_of(&disk);
    restored(&store, &["/sizes", "/a/b/c/d/e/f/g/deep.txt", "/absolute"], &to, &[]);
    assert_same(&to.join("sizes"), &tree.join("sizes"), By::Contents);
    assert_eq!(fs::read(to.join("deep.txt")).expect("there"), b"deep");
    assert_eq!(fs::read_link(to.join("absolute")).expect("a link"), Path::new("/etc/passwd"));
    let setuid = to.join("sizes/of 59 bytes").metadata().expect("stat").permissions().mode();
    assert_eq!(setuid & 0o7777, 0o755, "no setuid bit without --preserve");

    // Through a link on the way, and not through the last one.
    restored(&store, &["/way/c/d", "/way"], &place.path().join("way"), &[]);
    assert_eq!(fs::read(place.path().join("way/d/e/f/g/deep.txt")).expect("there"), b"deep");
    assert!(place.path().join("way/way").is_symlink());

    // Nothing is written over, and nothing is begun where one place is taken.
    let told = refused(&store, &["/long", "/sizes"], &to, 4);
    assert!(told.contains("E4009") && !to.join("long").exists(), "{told}");
    fs::write(to.join("sizes/of 1 bytes"), b"changed").expect("written");
    restored(&store, &["/sizes"], &to, &["--force"]);
    assert_same(&to.join("sizes"), &tree.join("sizes"), By::Contents);

    let told = refused(&store, &["/a/b/c/d/e/f/g/deep.text"], &to, 3);
    assert!(told.contains("did you mean") && told.contains("deep.txt"), "{told}");
    assert!(refused(&store, &["/nothing/at/all"], &to, 3).contains("E3005"));
    assert!(refused(&store, &["/a/again/x"], &to, 3).contains("is no directory"));
    assert!(refused(&store, &["p3:/a"], &to, 3).contains("disk"));
    assert!(refused(&store, &["a/b"], &to, 2).contains("E2030"));
    assert!(
        refused(&store, &["/sizes", "/many/../sizes"], &place.path().join("x"), 2)
            .contains("one name")
    );

    let dry = place.path().join("dry");
    assert!(restored(&store, &["/many"], &dry, &["--dry-run"]).contains("600 files"));
    assert!(!dry.exists());
    let json = restored(&store, &["/many"], &dry, &["--json"]);
    assert!(
        json.contains(r#""schema": "restore.files/1""#) && json.contains(r#""files": 600"#),
        "{json}"
    );
}

#[test]
fn a_served_store_gives_the_same_files() {
    let place = tempfile::tempdir().expect("a directory");
    let (tree, disk, to) =
        (place.path().join("tree"), place.path().join("raw"), place.path().join("to"));
    plain_tree(&tree, 300);
    ext("ext4", &[], &tree, &disk);
    let store = store_of(&disk);
    let server = store.serve(&[]);
    restored(&store, &[], &to, &[]);
    assert_same(&to, &tree, By::ModesAndTimes);
    assert!(server.stop().success());
}

/// A disk with these partitions, each a file to copy in: by `sfdisk`, at 1 MiB steps.
fn partitioned(label: &str, script: &str, parts: &[(u64, &Path)], disk: &Path) {
    need(&["sfdisk"], "fdisk");
    blank(disk, 256 * MIB);
    let mut sfdisk = Command::new("sfdisk");
    sfdisk.env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin").arg("-q").arg(disk);
    let mut child = sfdisk.stdin(std::process::Stdio::piped()).spawn().expect("sfdisk starts");
    let text = format!("label: {label}\n{script}");
    child.stdin.take().expect("piped").write_all(text.as_bytes()).expect("written");
    assert!(child.wait().expect("own child").success(), "sfdisk refused\n{text}");
    let target = fs::File::options().write(true).open(disk).expect("there");
    for (start_mib, part) in parts {
        let mut bytes = Vec::new();
        fs::File::open(part).expect("there").read_to_end(&mut bytes).expect("read");
        target.write_all_at(&bytes, start_mib * MIB).expect("written");
    }
}

#[test]
fn partitions_are_told_apart() {
    let place = tempfile::tempdir().expect("a directory");
    let path = |name: &str| place.path().join(name);
    put(&path("one/etc/hosts"), b"one");
    put(&path("one/only/first"), b"1");
    put(&path("two/etc/hosts"), b"two");
    ext("ext4", &[], &path("one"), &path("one.raw"));
    ext("ext3", &[], &path("two"), &path("two.raw"));
    let parts: &[(u64, &Path)] = &[(2, &path("one.raw")), (120, &path("two.raw"))];
    let sectors = 96 * 2048;
    let gpt = format!("start=4096, size={sectors}\nstart=245760, size={sectors}\n");
    let mbr = format!(
        "start=4096, size={sectors}, type=83\nstart=241664, type=5\nstart=245760, size={sectors}, type=83\n"
    );
    for (label, script, second) in [("gpt", gpt, "p2"), ("dos", mbr, "p5")] {
        let (disk, to) = (path(label), path(&format!("to-{label}")));
        partitioned(label, &script, parts, &disk);
        let store = store_of(&disk);
        restored(&store, &["/only"], &to, &[]);
        assert_eq!(fs::read(to.join("only/first")).expect("there"), b"1", "{label}");
        let told = refused(&store, &["/etc/hosts"], &to, 2);
        assert!(told.contains("p1:/etc/hosts") && told.contains(second), "{told}");
        restored(&store, &[&format!("{second}:/etc/hosts")], &to, &[]);
        assert_eq!(fs::read(to.join("hosts")).expect("there"), b"two", "{label}");
    }
}

/// What mkfs and debugfs make of a journal, without a mount: a block of a file, once in a committed
/// transaction, and once revoked after it.
#[test]
fn a_journal_is_replayed_in_memory() {
    need(&["debugfs"], "e2fsprogs");
    let place = tempfile::tempdir().expect("a directory");
    let path = |name: &str| place.path().join(name);
    put(&path("tree/replayed"), &[b'a'; 4096]);
    put(&path("tree/revoked"), &[b'a'; 4096]);
    put(&path("tree/magic"), &[b'a'; 4096]);
    fs::write(path("new"), [b'b'; 4096]).expect("written");
    let mut magic = vec![b'c'; 4096];
    magic[..4].copy_from_slice(&0xc03b_3998_u32.to_be_bytes()); // as a header of the journal begins
    fs::write(path("magic"), &magic).expect("written");
    for checksums in ["", "-c"] {
        let disk = path("disk.raw");
        ext("ext4", &["-b", "4096"], &path("tree"), &disk);
        let debugfs = |commands: &[String]| {
            let script = path("commands");
            fs::write(&script, commands.join("\n")).expect("written");
            let mut run = Command::new("debugfs");
            run.env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin").arg("-w").arg("-f").arg(&script);
            succeed(run.arg(&disk))
        };
        let block = |name: &str| {
            let told = debugfs(&[format!("blocks /{name}")]);
            let last = told.lines().last().expect("an answer").trim().to_owned();
            assert!(last.parse::<u64>().is_ok(), "{told}");
            last
        };
        let (replayed, revoked, escaped) = (block("replayed"), block("revoked"), block("magic"));
        let (new, magic_file) = (path("new"), path("magic"));
        debugfs(&[
            format!("jo {checksums}"),
            format!("jw -b {replayed} {}", new.display()),
            format!("jw -b {revoked} {}", new.display()),
            format!("jw -b {escaped} {}", magic_file.display()),
            format!("jw -r {revoked}"),
            "jc".to_owned(),
        ]);
        let store = store_of(&disk);
        let to = path(&format!("to{checksums}"));
        let told = restored(&store, &[], &to, &[]);
        assert!(told.contains("its journal was replayed in memory (2 blocks)"), "{told}");
        assert!(fs::read(to.join("replayed")).expect("there") == [b'b'; 4096], "not replayed");
        assert!(
            fs::read(to.join("revoked")).expect("there") == [b'a'; 4096],
            "revoked and replayed"
        );
        assert!(fs::read(to.join("magic")).expect("there") == magic, "what was escaped");
    }
}

/// Names that a guest can only have by damage or malice, written into a directory's block.
#[test]
fn hostile_names_stay_inside() {
    let place = tempfile::tempdir().expect("a directory");
    let path = |name: &str| place.path().join(name);
    for hostile in ["../escaped", "/tmp/escpd", "a\0bcdefghi", "sub/escape"] {
        put(&path("tree/ten-letter"), b"x");
        put(&path("tree/good"), b"good");
        let disk = path("disk.raw");
        ext("ext2", &[], &path("tree"), &disk);
        let mut bytes = fs::read(&disk).expect("there");
        let found = bytes.windows(10).position(|window| window == b"ten-letter");
        let at = found.expect("the name stands in the directory");
        bytes[at..at + 10].copy_from_slice(hostile.as_bytes());
        fs::write(&disk, bytes).expect("written");
        let store = store_of(&disk);
        let to = path("in/to");
        fs::create_dir_all(path("in")).expect("made");
        let told = refused(&store, &[], &to, 7);
        assert!(told.contains("a name that cannot be"), "{told}");
        assert!(!path("in/escaped").exists() && !Path::new("/tmp/escpd").exists());
        fs::remove_dir_all(path("in")).expect("there");
    }
}

/// Bits flipped all over: what comes back is told as damage or is right; nothing else happens.
#[test]
fn damaged_file_systems_end_in_an_error() {
    let place = tempfile::tempdir().expect("a directory");
    let path = |name: &str| place.path().join(name);
    plain_tree(&path("tree"), 300);
    ext("ext4", &[], &path("tree"), &path("ext.raw"));
    let store = Store::with_volume(96 * MIB);
    let server = store.serve(&[]);
    succeed(Command::new("nbdcopy").arg(path("ext.raw")).arg(server.uri(VOLUME)));
    assert!(server.stop().success());
    let nonsense = noise(7, 8 << 10);
    for (round, place_of) in [1024_u64, 4096, 8192, 65_536, 1 << 20].into_iter().enumerate() {
        let server = store.serve(&[]);
        let mut disk =
            fs::File::options().read(true).write(true).open(path("ext.raw")).expect("there");
        disk.seek(SeekFrom::Start(place_of)).expect("inside");
        disk.write_all(&nonsense[..512]).expect("written");
        succeed(Command::new("nbdcopy").arg(path("ext.raw")).arg(server.uri(VOLUME)));
        assert!(server.stop().success());
        let mut command = store.command();
        let to = path(&format!("to{round}"));
        command.args(["restore", "vol@now", "--to"]).arg(&to);
        let output = finish(&mut command);
        let code = output.status.code();
        assert!(matches!(code, Some(0 | 2 | 7)), "{place_of}: {}", said(&output));
        assert!(!said(&output).contains("panicked"), "{}", said(&output));
    }
}

#[test]
fn fat_trees_come_back_whole() {
    need(&["mkfs.vfat"], "dosfstools");
    need(&["mcopy"], "mtools");
    let place = tempfile::tempdir().expect("a directory");
    let tree = place.path().join("tree");
    plain_tree(&tree, 60);
    put(&tree.join("lower.txt"), b"a short name in small letters");
    for (width, length) in [("12", 24 * MIB), ("16", 64 * MIB), ("32", 300 * MIB)] {
        let (disk, to) = (place.path().join("raw"), place.path().join(width));
        blank(&disk, length);
        let mut make = Command::new("mkfs.vfat");
        make.env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin").args(["-F", width]).arg(&disk);
        succeed(&mut make);
        let mut copy = Command::new("mcopy");
        copy.env("MTOOLS_SKIP_CHECK", "1").env("LC_ALL", "C.UTF-8").args(["-s", "-m", "-i"]);
        copy.arg(&disk);
        for entry in fs::read_dir(&tree).expect("a directory") {
            copy.arg(entry.expect("an entry").path());
        }
        succeed(copy.arg("::"));
        let store = store_of(&disk);
        restored(&store, &[], &to, &[]);
        assert_same(&to, &tree, By::Contents);
        // Regardless of case, as the guest would look it up.
        restored(&store, &["/LOWER.TXT"], &place.path().join(format!("case{width}")), &[]);
    }
}

/// mkfs.xfs fills a file system from a list: one line a file, its content from a file beside.
fn xfs_list(tree: &Path, list: &mut String) {
    for entry in fs::read_dir(tree).expect("a directory") {
        let entry = entry.expect("an entry");
        let (path, name) = (entry.path(), entry.file_name());
        let stat = path.symlink_metadata().expect("stat");
        let (name, mode) = (name.to_str().expect("text"), stat.permissions().mode() & 0o777);
        if stat.is_dir() {
            writeln!(list, "{name} d--{mode:03o} 0 0").expect("a string takes all");
            xfs_list(&path, list);
            list.push_str("$\n");
        } else if stat.is_symlink() {
            let target = fs::read_link(&path).expect("a link");
            writeln!(list, "{name} l--777 0 0 {}", target.display()).expect("a string takes all");
        } else {
            writeln!(list, "{name} ---{mode:03o} 0 0 {}", path.display())
                .expect("a string takes all");
        }
    }
}

#[test]
fn xfs_trees_come_back_whole() {
    need(&["mkfs.xfs"], "xfsprogs");
    let place = tempfile::tempdir().expect("a directory");
    let tree = place.path().join("tree");
    for (seed, size) in (1..).zip(SIZES) {
        put(&tree.join(format!("sizes/of-{size}-bytes")), &noise(seed, *size));
    }
    for index in 0..3000 {
        put(&tree.join(format!("many/a-file-with-a-rather-long-name-{index:05}")), b"");
    }
    put(&tree.join("few/one"), b"1");
    put(&tree.join("a/b/c/d/deep.txt"), b"deep");
    // Longer ones mkfs.xfs 6.1 writes without their header; the kernel's are in `guest_mounts.rs`.
    symlink("x".repeat(20), tree.join("a/short")).expect("a link");
    let forms: &[&[&str]] =
        &[&[], &["-m", "crc=0"], &["-b", "size=1024", "-n", "size=8192"], &["-m", "bigtime=1"]];
    for (index, options) in forms.iter().enumerate() {
        let (disk, list) = (place.path().join("raw"), place.path().join("list"));
        let mut text = "/dev/null\n0 0\nd--755 0 0\n".to_owned();
        xfs_list(&tree, &mut text);
        text.push_str("$\n");
        fs::write(&list, text).expect("written");
        blank(&disk, 320 * MIB);
        let mut make = Command::new("mkfs.xfs");
        make.env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin").args(["-q", "-f"]).args(*options);
        succeed(make.arg("-p").arg(&list).arg(&disk));
        let store = store_of(&disk);
        let to = place.path().join(format!("to{index}"));
        let told = restored(&store, &[], &to, &[]);
        assert!(!told.contains("not replayed"), "the log of a new file system is empty: {told}");
        assert_same(&to, &tree, By::Contents);
    }
}

#[test]
fn diff_tells_which_files_differ() {
    let place = tempfile::tempdir().expect("a directory");
    let (one, two, disk) =
        (place.path().join("one"), place.path().join("two"), place.path().join("raw"));
    plain_tree(&one, 50);
    put(&one.join("to be/removed"), b"gone soon");
    put(&one.join("to be/a link"), b"a file first");
    succeed(Command::new("cp").arg("-a").arg(&one).arg(&two));
    put(&two.join("sizes/of 4096 bytes"), &noise(77, 4096));
    put(&two.join("sizes/of 150 bytes"), b"shorter");
    put(&two.join("new directory/new file"), &noise(78, 10_000));
    fs::remove_dir_all(two.join("a")).expect("there");
    fs::remove_file(two.join("to be/removed")).expect("there");
    fs::remove_file(two.join("to be/a link")).expect("there");
    symlink("removed", two.join("to be/a link")).expect("a link");
    let mode = fs::Permissions::from_mode(0o600);
    fs::set_permissions(two.join("long").join("n".repeat(200)), mode).expect("set");
    ext("ext4", &[], &one, &disk);
    let store = store_of(&disk);
    ext("ext4", &[], &two, &disk);
    let server = store.serve(&[]);
    succeed(Command::new("nbdcopy").arg(&disk).arg(server.uri(VOLUME)));
    assert!(server.stop().success());
    let diff = |more: &[&str]| {
        let mut command = store.command();
        command.args(["diff", "vol@mark:full", "vol@now", "--files"]).args(more);
        finish(&mut command)
    };
    let output = diff(&[]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let told = said(&output);
    // The model: what is in one tree and not in the other, and what is not the same in both.
    let (before, after) = (seen(&one, By::ModesAndTimes), seen(&two, By::ModesAndTimes));
    let mut expected = BTreeMap::new();
    for path in before.keys().chain(after.keys()) {
        let word = match (before.get(path), after.get(path)) {
            (Some(old), Some(new)) if old == new => continue,
            (Some(old), Some(new)) if old.kind == new.kind => "M",
            (Some(_), Some(_)) => "DA",
            (Some(_), None) => "D",
            _ => "A",
        };
        expected.insert(format!("/{}", path.to_str().expect("text")), word.to_owned());
    }
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    for line in told.lines() {
        let mut columns = line.split('\t');
        let (word, path) = (columns.next().expect("a column"), columns.next().expect("a path"));
        found.entry(path.to_owned()).or_default().push_str(word);
    }
    found.remove("/lost+found"); // its time is that of mkfs
    assert_eq!(found, expected, "{told}");
    let json = said(&diff(&["--json"]));
    for part in [r#""schema": "diff.files/1""#, r#""kind": "added""#, r#""file_system": "ext4""#] {
        assert!(json.contains(part), "{json}");
    }
    // Nothing differs from itself.
    let mut same = store.command();
    same.args(["diff", "vol@now", "vol@now", "--files"]);
    assert_eq!(finish(&mut same).status.code(), Some(0));
}
