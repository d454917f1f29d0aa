//! Are the files of `strandline mount` what other people's tools take them for, and does it end well?
//!
//! The kernel's FUSE reads them: page cache, read-ahead and large requests as any program meets them.
//! A kill of the server or of the mount must cost a reader an error, never its patience.

#![expect(clippy::disallowed_methods, reason = "the client's side has files of its own")]

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, ErrorKind},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use e2e::{MIB, Server, Store, VOLUME, finish, need, noise, program, said, succeed};
use tempfile::TempDir;

/// Virtual files, and what qemu-img calls their formats.
const FILES: [(&str, &str); 6] = [
    ("disk.qcow2", "qcow2"),
    ("disk.raw", "raw"),
    ("disk.vdi", "vdi"),
    ("disk.vhd", "vpc"),
    ("disk.vhdx", "vhdx"),
    ("disk.vmdk", "vmdk"),
];

/// How long anything here may take that should come at once.
const SOON: Duration = Duration::from_mins(1);

/// The time limit of a mount whose server goes away.
const LIMIT: Duration = Duration::from_secs(2);

/// A mount that runs; taken off when dropped, whatever has happened to it.
struct Mount {
    child: Child,
    dir: PathBuf,
    /// What it said when it was ready.
    greeting: String,
    /// Kept open: it says more later.
    _stdout: BufReader<ChildStdout>,
}

impl Mount {
    /// Starts `command`, whose last word is the directory, and waits until it is mounted.
    fn start(mut command: Command, dir: &Path) -> Self {
        fs::create_dir_all(dir).expect("scratch");
        command.arg(dir).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut greeting = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        stdout.read_line(&mut greeting).expect("readable");
        assert!(greeting.starts_with("mounted "), "{command:?} said {greeting:?}");
        Self { child, dir: dir.to_owned(), greeting, _stdout: stdout }
    }

    fn of_image(image: &Path, dir: &Path) -> Self {
        let mut command = Command::new(program());
        command.arg("mount").arg(image);
        Self::start(command, dir)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn signal(&self, signal: &str) {
        succeed(Command::new("kill").arg(signal).arg(self.child.id().to_string()));
    }

    /// The end of the process, which must come soon.
    fn ended(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("own child") {
                return status;
            }
            assert!(began.elapsed() < SOON, "the mount does not end");
            thread::sleep(Duration::from_millis(5)); // between two looks at a condition
        }
    }

    /// SIGTERM: it ends with 0, and its directory is empty again.
    fn stop(mut self) {
        self.signal("-TERM");
        assert_eq!(self.ended().code(), Some(0));
        assert_eq!(names(&self.dir), Vec::<String>::new());
    }

    /// The most memory it has had, in bytes.
    fn memory_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("known");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kib << 10
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // After `stop` all of this fails, and that is right.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let mut free = Command::new("umount");
        let _ = free.arg("-l").arg(&self.dir).stderr(Stdio::null()).status();
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entry = |entry: std::io::Result<fs::DirEntry>| {
        entry.expect("listed").file_name().into_string().expect("text")
    };
    let mut names: Vec<String> = fs::read_dir(dir).expect("listed").map(entry).collect();
    names.sort();
    names
}

fn qemu_img(words: &[&str]) -> String {
    succeed(Command::new("qemu-img").args(words))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("utf-8")
}

fn sha256(path: &Path) -> String {
    let line = succeed(Command::new("sha256sum").arg(path));
    line.split_whitespace().next().expect("a digest").to_owned()
}

/// Reads small ranges here and there before anything else has, then the whole; both must agree.
fn read_anyhow(path: &Path) -> Vec<u8> {
    let file = File::open(path).expect("opens");
    let length = file.metadata().expect("known").len();
    let places = noise(length, 8 * 64);
    let parts: Vec<(u64, Vec<u8>)> = places
        .chunks_exact(8)
        .map(|bytes| {
            let number = u64::from_le_bytes(bytes.try_into().expect("8 bytes"));
            let start = number % length;
            let wanted = (number >> 40) % 100_000;
            let mut part = vec![1; usize::try_from(wanted.min(length - start)).expect("small")];
            file.read_exact_at(&mut part, start).expect("read");
            (start, part)
        })
        .collect();
    let whole = fs::read(path).expect("read");
    assert_eq!(whole.len() as u64, length, "{}", path.display());
    for (start, part) in parts {
        let start = usize::try_from(start).expect("fits");
        assert!(whole[start..start + part.len()] == part, "{} at {start}", path.display());
    }
    whole
}

/// A raw disk of 48 MiB with data, and holes between them, and an odd end.
fn disk(path: &Path) -> Vec<u8> {
    let mut bytes = vec![0; (48 << 20) + 512];
    for (number, start) in
        [0_usize, 3 << 20, (7 << 20) + 4096, 20 << 20, 47 << 20].iter().enumerate()
    {
        let data = noise(number as u64 + 1, (1 << 20) + 512);
        bytes[*start..*start + data.len()].copy_from_slice(&data);
    }
    let file = File::create(path).expect("scratch");
    file.set_len(bytes.len() as u64).expect("scratch");
    for (start, block) in bytes.chunks(4096).enumerate() {
        if block.iter().any(|byte| *byte != 0) {
            file.write_all_at(block, start as u64 * 4096).expect("scratch");
        }
    }
    bytes
}

#[test]
fn an_image_is_there_in_every_format() {
    need(&["qemu-img"], "qemu-utils");
    let scratch = TempDir::with_prefix("strandline-mount-").expect("temp dir");
    let raw = scratch.path().join("source.raw");
    let bytes = disk(&raw);
    for source in ["raw", "qcow2", "vmdk", "vhdx", "vpc", "vdi"] {
        let image = scratch.path().join(format!("source.{source}"));
        if source != "raw" {
            let words = ["convert", "-f", "raw", "-O", source, text(&raw), text(&image)];
            qemu_img(&words);
        }
        let dir = scratch.path().join("mounted");
        let mount = Mount::of_image(&image, &dir);
        assert_eq!(names(&dir), FILES.map(|(name, _)| name), "{}", mount.greeting);
        for (name, format) in FILES {
            let file = mount.file(name);
            let words = ["compare", "-f", format, "-F", source, text(&file), text(&image)];
            qemu_img(&words);
        }
        let guest = read_anyhow(&mount.file("disk.raw"));
        // QEMU rounds the size of a VHD up to whole cylinders.
        assert!(guest[..bytes.len()] == bytes, "another disk from {source}");
        assert!(guest[bytes.len()..].iter().all(|byte| *byte == 0));
        assert!(mount.memory_bytes() < 256 * MIB, "{} bytes", mount.memory_bytes());
        mount.stop();
    }
}

#[test]
fn files_are_whole_and_always_the_same() {
    need(&["qemu-img"], "qemu-utils");
    let scratch = TempDir::with_prefix("strandline-mount-").expect("temp dir");
    let (raw, image) = (scratch.path().join("source.raw"), scratch.path().join("source.qcow2"));
    let bytes = disk(&raw);
    qemu_img(&["convert", "-c", "-f", "raw", "-O", "qcow2", text(&raw), text(&image)]);
    let dir = scratch.path().join("mounted");
    let mount = Mount::of_image(&image, &dir);
    let mut first = Vec::new();
    for (name, format) in FILES {
        let file = mount.file(name);
        let whole = read_anyhow(&file);
        let copy = scratch.path().join(format!("copy-{name}"));
        succeed(Command::new("cp").arg(&file).arg(&copy));
        assert!(fs::read(&copy).expect("copied") == whole, "{name}: cp made another file");
        assert_eq!(fs::metadata(&file).expect("known").mode() & 0o777, 0o400, "{name}");
        if ["qcow2", "vdi", "vhdx", "vmdk"].contains(&format) {
            qemu_img(&["check", "-f", format, text(&file)]);
        }
        // `image convert` writes the same bytes: they follow from the source alone.
        let converted = scratch.path().join(name);
        let mut convert = Command::new(program());
        succeed(convert.args(["image", "convert", "--force", "-q"]).args([&image, &converted]));
        assert!(fs::read(&converted).expect("written") == whole, "{name}: not as converted");
        first.push(sha256(&file));
    }
    // A copy of the raw disk has holes where the disk has.
    let kept = fs::metadata(scratch.path().join("copy-disk.raw")).expect("copied").blocks() * 512;
    assert!(kept < 8 * MIB, "the copy takes {kept} bytes of {}", bytes.len());
    mount.stop();
    let mount = Mount::of_image(&image, &dir);
    let again: Vec<String> = FILES.iter().map(|(name, _)| sha256(&mount.file(name))).collect();
    assert_eq!(again, first);
    mount.stop();
}

#[test]
fn damage_is_an_error_where_it_is() {
    need(&["qemu-img"], "qemu-utils");
    let scratch = TempDir::with_prefix("strandline-mount-").expect("temp dir");
    let (raw, image) = (scratch.path().join("source.raw"), scratch.path().join("source.qcow2"));
    let bytes = noise(9, 4 << 20);
    fs::write(&raw, &bytes).expect("scratch");
    qemu_img(&["convert", "-f", "raw", "-O", "qcow2", text(&raw), text(&image)]);
    // The last cluster of the file holds the end of the disk: it is cut off.
    let length = fs::metadata(&image).expect("made").len();
    let file = File::options().write(true).open(&image).expect("made");
    file.set_len(length - 65_536).expect("cut");
    let dir = scratch.path().join("mounted");
    let mount = Mount::of_image(&image, &dir);
    let damaged = bytes.len() - 65_536;
    let disk = File::open(mount.file("disk.raw")).expect("opens");
    // From the end on, so that no read-ahead has been there before.
    for start in (0..bytes.len()).step_by(4096).rev() {
        let mut block = [0; 4096];
        let read = disk.read_exact_at(&mut block, start as u64);
        if start < damaged {
            read.unwrap_or_else(|error| panic!("{error} at {start}"));
            assert!(block == bytes[start..start + 4096], "other bytes at {start}");
        } else {
            let error = read.expect_err("the cluster is gone");
            assert_eq!(error.raw_os_error(), Some(5), "EIO at {start}");
        }
    }
    // A reader who goes through all gets all that is good.
    let told = finish(Command::new("cat").arg(mount.file("disk.raw")));
    assert!(!told.status.success() && told.stdout == bytes[..damaged], "{}", told.stdout.len());
    let vhdx = fs::read(mount.file("disk.vhdx"));
    assert!(vhdx.is_err(), "a format over a damaged disk hides it");
    drop(disk);
    mount.stop();
}

#[test]
fn only_a_good_place_is_taken() {
    let scratch = TempDir::with_prefix("strandline-mount-").expect("temp dir");
    let image = scratch.path().join("source.raw");
    fs::write(&image, noise(1, 1 << 20)).expect("scratch");
    let refused = |what: &Path, dir: &Path, exit: i32, words: &str| {
        let output = finish(Command::new(program()).arg("mount").arg(what).arg(dir));
        let told = said(&output);
        assert_eq!(output.status.code(), Some(exit), "{told}");
        assert!(told.contains(words), "`{words}` is not in\n{told}");
    };
    let (full, dir) = (scratch.path().join("full"), scratch.path().join("mounted"));
    fs::create_dir_all(full.join("below")).expect("scratch");
    refused(&image, &full, 4, "is not empty");
    refused(&image, &scratch.path().join("absent"), 3, "mkdir");
    refused(&image, &image, 2, "is no directory");
    refused(&scratch.path().join("absent.raw"), &full.join("below"), 3, "is not there");
    let mount = Mount::of_image(&image, &dir);
    refused(&image, &dir, 4, "something is mounted on");
    let mut write = File::options();
    let error = write.write(true).open(mount.file("disk.raw")).expect_err("read-only");
    assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem);
    assert_eq!(
        File::create(mount.file("new")).expect_err("read-only").kind(),
        ErrorKind::ReadOnlyFilesystem
    );
    mount.stop();
}

#[test]
fn what_was_killed_says_how_to_free_its_place() {
    let scratch = TempDir::with_prefix("strandline-mount-").expect("temp dir");
    let (image, dir) = (scratch.path().join("source.raw"), scratch.path().join("mounted"));
    fs::write(&image, noise(1, 1 << 20)).expect("scratch");
    let mut mount = Mount::of_image(&image, &dir);
    let open = File::open(mount.file("disk.raw")).expect("opens");
    mount.child.kill().expect("own child");
    mount.child.wait().expect("own child");
    assert!(open.read_at(&mut [0; 9], 0).is_err(), "nobody is there to answer");
    drop(open);
    let output = finish(Command::new(program()).arg("mount").arg(&image).arg(&dir));
    let told = said(&output);
    assert_eq!(output.status.code(), Some(4), "{told}");
    let command = told.lines().find_map(|line| line.split_once("free it: ")).expect("a command").1;
    succeed(Command::new("sh").args(["-c", command]));
    assert_eq!(names(&dir), Vec::<String>::new());
}

#[test]
fn open_files_outlive_the_wish_to_stop() {
    let scratch = TempDir::with_prefix("strandline-mount-").expect("temp dir");
    let (image, dir) = (scratch.path().join("source.raw"), scratch.path().join("mounted"));
    let bytes = noise(1, 4 << 20);
    fs::write(&image, &bytes).expect("scratch");
    let mut mount = Mount::of_image(&image, &dir);
    let open = File::open(mount.file("disk.raw")).expect("opens");
    mount.signal("-TERM");
    let began = Instant::now();
    while !names(&dir).is_empty() {
        assert!(began.elapsed() < SOON, "it is still mounted");
        thread::sleep(Duration::from_millis(5)); // between two looks at a condition
    }
    let mut read = vec![0; bytes.len()];
    open.read_exact_at(&mut read, 0).expect("still there");
    assert!(read == bytes && mount.child.try_wait().expect("own child").is_none());
    drop(open);
    assert_eq!(mount.ended().code(), Some(0));

    // A second wish ends it though a file is open.
    let mut mount = Mount::of_image(&image, &dir);
    let open = File::open(mount.file("disk.raw")).expect("opens");
    let began = Instant::now();
    while mount.child.try_wait().expect("own child").is_none() {
        assert!(began.elapsed() < SOON, "it does not hear");
        mount.signal("-INT");
        thread::sleep(Duration::from_millis(600)); // wishes that come together are one
    }
    assert_eq!(mount.ended().code(), Some(130));
    assert!(open.read_at(&mut [0; 9], 0).is_err());
    assert_eq!(names(&dir), Vec::<String>::new());
}

/// Writes `fill` over a range of the volume, and flushes.
fn write(server: &Server, fill: &str, offset: &str, length: &str) {
    let command = format!("write -P {fill} {offset} {length}");
    let mut qemu_io = Command::new("qemu-io");
    let done = qemu_io.args(["-f", "raw", "-c", &command, "-c", "flush"]).arg(server.uri(VOLUME));
    succeed(done);
}

fn mount_store(store: &Store, words: &[&str], name: &str) -> Mount {
    let mut command = store.command();
    command.arg("mount").args(words);
    Mount::start(command, &store.scratch(name))
}

#[test]
fn instants_of_volumes_are_folders() {
    need(&["qemu-img", "qemu-io"], "qemu-utils");
    let store = Store::with_volume(64 * MIB);
    let server = store.serve(&[]);
    write(&server, "0x11", "1M", "3M");
    write(&server, "0x22", "40M", "100k");
    store.run(["mark", "add", VOLUME, "first"]);
    let mount = mount_store(&store, &[], "mounted");
    assert_eq!(names(&mount.dir), [VOLUME]);
    let at = mount.file("vol/at");
    let listed = names(&at);
    for name in ["now", "start", "mark:first"] {
        assert!(listed.iter().any(|found| found == name), "{name} is not among {listed:?}");
    }
    let first = fs::read_link(at.join("mark:first")).expect("a link");
    assert!(text(&first).starts_with("seq:"), "{first:?}");
    assert!(listed.iter().any(|found| found == text(&first)), "{first:?} is not in {listed:?}");
    let state = at.join(&first);
    assert_eq!(names(&state), FILES.map(|(name, _)| name));
    // Whoever looks at the raw disk first leaves nothing out of the others.
    let length = |name: &str| fs::metadata(state.join(name)).expect("listed").len();
    assert!(length("disk.raw") == 64 * MIB && length("disk.qcow2") > 3 * MIB);
    let compare = |folder: &Path, export: &str| {
        for (name, format) in FILES {
            let file = folder.join(name);
            let export = server.uri(export);
            qemu_img(&["compare", "-f", format, "-F", "raw", text(&file), &export]);
        }
    };
    compare(&state, "vol@mark:first");
    let digests: Vec<String> = FILES.iter().map(|(name, _)| sha256(&state.join(name))).collect();

    // The present goes on; what has a fixed name stays, in another mount too.
    write(&server, "0x33", "2M", "8M");
    assert_ne!(fs::read_link(at.join("now")).expect("a link"), first);
    compare(&at.join("now"), "vol@now");
    compare(&at.join("-0s"), "vol@now");
    for (name, _) in FILES {
        read_anyhow(&state.join(name));
    }
    let copy = store.scratch("copy.raw");
    succeed(Command::new("cp").arg(state.join("disk.raw")).arg(&copy));
    assert!(fs::metadata(&copy).expect("copied").blocks() * 512 < 8 * MIB, "no holes");
    qemu_img(&["compare", "-f", "raw", "-F", "raw", text(&copy), &server.uri("vol@mark:first")]);
    let one = mount_store(&store, &["vol@mark:first"], "one");
    let again: Vec<String> = FILES.iter().map(|(name, _)| sha256(&one.file(name))).collect();
    assert_eq!(again, digests);
    assert!(File::open(at.join("mark:absent/disk.raw")).is_err());
    assert!(File::open(at.join("2020-01-01/disk.raw")).is_err());
    assert!(mount.memory_bytes() < 256 * MIB, "{} bytes", mount.memory_bytes());
    one.stop();
    mount.stop();
}

#[test]
fn a_store_that_nobody_serves_is_opened_by_the_mount() {
    need(&["qemu-img", "qemu-io"], "qemu-utils");
    let store = Store::with_volume(16 * MIB);
    let server = store.serve(&[]);
    write(&server, "0x44", "5M", "1M");
    server.stop();
    let mount = mount_store(&store, &[VOLUME], "mounted");
    let bytes = read_anyhow(&mount.file("at/now/disk.raw"));
    let mut written = vec![0; 16 << 20];
    written[5 << 20..6 << 20].fill(0x44);
    assert!(bytes == written, "other bytes than were written");
    let refused = finish(store.command().args(["vol", "ls"]));
    assert_eq!(refused.status.code(), Some(4), "{}", said(&refused));
    mount.stop();
    store.run(["vol", "ls"]);
}

#[test]
fn a_reader_does_not_wait_for_a_server_that_is_gone() {
    need(&["qemu-io"], "qemu-utils");
    let store = Store::with_volume(64 * MIB);
    let server = store.serve(&[]);
    write(&server, "0x55", "0", "64M");
    let mount = mount_store(&store, &["vol@now", "--timeout", "2s"], "mounted");
    let disk = File::open(mount.file("disk.raw")).expect("opens");
    let read = |offset: u64| {
        let began = Instant::now();
        let mut bytes = [0; 4096];
        let read = disk.read_exact_at(&mut bytes, offset);
        (read.map(|()| bytes[0]).map_err(|error| error.raw_os_error()), began.elapsed())
    };
    assert_eq!(read(0).0, Ok(0x55));
    let pid = server.pid().to_string();
    // Silent, as when its disk hangs: an error within two limits, and no harm afterwards.
    succeed(Command::new("kill").args(["-STOP", &pid]));
    let (found, took) = read(10 * MIB);
    assert_eq!(found, Err(Some(5)), "EIO");
    assert!(took < LIMIT * 2 + Duration::from_secs(2), "{took:?}");
    let listed = fs::read_dir(&mount.dir);
    drop(listed);
    succeed(Command::new("kill").args(["-CONT", &pid]));
    assert_eq!(read(20 * MIB).0, Ok(0x55));
    assert_eq!(read(10 * MIB).0, Ok(0x55), "an error was kept");
    server.kill();
    let (found, took) = read(40 * MIB);
    assert_eq!(found, Err(Some(5)), "EIO");
    assert!(took < LIMIT * 2 + Duration::from_secs(2), "{took:?}");
    // It comes back by itself with the server.
    let server = store.serve(&[]);
    assert_eq!(read(40 * MIB).0, Ok(0x55));
    server.kill();
    drop(disk);
    mount.stop();
}
