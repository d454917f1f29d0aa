//! Do files come back that a guest was using at the instant?
//!
//! The guest is this machine's kernel, over a loop device or FUSE; the product itself mounts nothing.

#![expect(clippy::disallowed_methods, reason = "the client's side has files of its own")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use e2e::{MIB, Store, VOLUME, finish, need, noise, said, succeed};

/// A mounted file system in a file; unmounted when dropped.
struct Mount(PathBuf);

impl Mount {
    fn new(point: &Path, command: &[&str], disk: &Path) -> Self {
        fs::create_dir_all(point).expect("made");
        let mut mount = Command::new(command[0]);
        mount.env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin").args(&command[1..]);
        succeed(mount.arg(disk).arg(point));
        Self(point.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        finish(Command::new("umount").arg(&self.0));
    }
}

fn blank(path: &Path, length: u64) {
    fs::File::create(path).expect("made").set_len(length).expect("grown");
}

fn make(program: &str, arguments: &[&str], disk: &Path) {
    let mut make = Command::new(program);
    make.env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin").args(arguments);
    succeed(make.arg(disk));
}

/// What `restore` says of a store that holds this disk, and where the files landed.
fn restored(disk: &Path, to: &Path) -> String {
    let store = Store::with_volume(disk.metadata().expect("stat").len());
    let server = store.serve(&[]);
    succeed(Command::new("nbdcopy").arg(disk).arg(server.uri(VOLUME)));
    assert!(server.stop().success());
    let mut command = store.command();
    command.args(["restore", "vol@now", "--to"]).arg(to);
    let output = finish(&mut command);
    assert!(output.status.success(), "{}", said(&output));
    said(&output)
}

fn assert_same(to: &Path, names: &[(String, Vec<u8>)]) {
    for (name, bytes) in names {
        let found = fs::read(to.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(found == *bytes, "{name} has other bytes");
    }
}

fn fill(root: &Path, count: u64) -> Vec<(String, Vec<u8>)> {
    let mut names = Vec::new();
    fs::create_dir_all(root.join("below/deeper")).expect("made");
    for index in 0..count {
        let name = format!("below/deeper/file {index}");
        let bytes = noise(index, usize::try_from(index * 37 % 9000).expect("small"));
        fs::write(root.join(&name), &bytes).expect("written");
        names.push((name, bytes));
    }
    names
}

#[test]
fn ext4_in_use_is_replayed() {
    need(&["mkfs.ext4"], "e2fsprogs");
    need(&["nbdcopy"], "libnbd-bin");
    let place = tempfile::tempdir().expect("a directory");
    let path = |name: &str| place.path().join(name);
    blank(&path("disk"), 128 * MIB);
    make("mkfs.ext4", &["-q", "-F", "-J", "size=4"], &path("disk"));
    let mount = Mount::new(&path("at"), &["mount", "-o", "loop"], &path("disk"));
    // Round the small journal several times, with names that come and go: blocks are revoked.
    let mut names = Vec::new();
    for _ in 0..6 {
        fs::remove_dir_all(path("at/below")).ok();
        names = fill(&path("at"), 300);
        succeed(Command::new("sync").arg("-f").arg(path("at")));
    }
    succeed(Command::new("cp").arg("--sparse=always").arg(path("disk")).arg(path("copy")));
    drop(mount);
    let told = restored(&path("copy"), &path("to"));
    assert!(told.contains("its journal was replayed in memory"), "{told}");
    assert_same(&path("to"), &names);
}

#[test]
fn xfs_in_use_says_that_its_log_was_not_replayed() {
    need(&["mkfs.xfs"], "xfsprogs");
    need(&["nbdcopy"], "libnbd-bin");
    let place = tempfile::tempdir().expect("a directory");
    let path = |name: &str| place.path().join(name);
    blank(&path("disk"), 320 * MIB);
    make("mkfs.xfs", &["-q", "-f"], &path("disk"));
    let mount = Mount::new(&path("at"), &["mount", "-o", "loop"], &path("disk"));
    let names = fill(&path("at"), 300);
    let long = "x/".repeat(500);
    std::os::unix::fs::symlink(&long, path("at/link")).expect("a link");
    // A frozen file system has written all back, and its log still says that it is in use.
    let freeze = |verb: &str| {
        succeed(Command::new("/usr/sbin/xfs_freeze").arg(verb).arg(path("at")));
    };
    freeze("-f");
    let copied =
        finish(Command::new("cp").arg("--sparse=always").arg(path("disk")).arg(path("copy")));
    freeze("-u");
    assert!(copied.status.success());
    drop(mount);
    let told = restored(&path("copy"), &path("to"));
    assert!(told.contains("its log was not replayed"), "{told}");
    assert_same(&path("to"), &names);
    assert_eq!(fs::read_link(path("to/link")).expect("a link"), Path::new(&long));
    // And cleanly left, nothing is said.
    let told = restored(&path("disk"), &path("clean"));
    assert!(!told.contains("not replayed"), "{told}");
    assert_same(&path("clean"), &names);
}

#[test]
fn ntfs_trees_come_back_whole() {
    need(&["mkntfs", "ntfs-3g"], "ntfs-3g");
    need(&["nbdcopy"], "libnbd-bin");
    let place = tempfile::tempdir().expect("a directory");
    let path = |name: &str| place.path().join(name);
    blank(&path("disk"), 128 * MIB);
    make("mkntfs", &["-F", "-Q", "-q"], &path("disk"));
    let mount = Mount::new(&path("at"), &["ntfs-3g"], &path("disk"));
    let mut names = fill(&path("at"), 400);
    let mut put = |name: String, bytes: Vec<u8>| {
        fs::write(path("at").join(&name), &bytes).expect("written");
        names.push((name, bytes));
    };
    for length in [0, 1, 600, 700, 4095, 4096, 70_000, 3_000_000] {
        put(format!("of {length}"), noise(length, usize::try_from(length).expect("small")));
    }
    put("grün 日本語 𝄞.txt".to_owned(), b"names".to_vec());
    put("n".repeat(255), b"the longest name".to_vec());
    fs::hard_link(path("at/of 700"), path("at/again")).expect("a name");
    // Two files that grow by turns lie in many pieces, so many that one record does not hold them.
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for round in 0..600 {
        for (name, all) in [("left", &mut left), ("right", &mut right)] {
            all.extend_from_slice(&noise(round, 4096));
            let mut file = fs::File::options();
            let file = file.create(true).append(true).open(path("at").join(name)).expect("opened");
            std::io::Write::write_all(&mut &file, &all[all.len() - 4096..]).expect("written");
        }
    }
    names.extend([("left".to_owned(), left), ("right".to_owned(), right)]);
    // A hole, and an end that was never written.
    let sparse = fs::File::create(path("at/sparse")).expect("made");
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"middle", 3 << 20).expect("written");
    sparse.set_len(5 << 20).expect("grown");
    drop(sparse);
    let mut bytes = vec![0; 5 << 20];
    bytes[3 << 20..(3 << 20) + 6].copy_from_slice(b"middle");
    names.push(("sparse".to_owned(), bytes));
    drop(mount);
    restored(&path("disk"), &path("to"));
    assert_same(&path("to"), &names);
    let again = fs::read(path("to/again")).expect("there");
    assert_eq!(again.len(), 700);
    let top = fs::read_dir(path("to")).expect("listed").count();
    assert_eq!(
        top,
        fs::read_dir(path("to"))
            .expect("listed")
            .filter(|entry| {
                entry
                    .as_ref()
                    .is_ok_and(|entry| !entry.file_name().to_string_lossy().starts_with('$'))
            })
            .count(),
        "the file system's own files stay out"
    );
}
