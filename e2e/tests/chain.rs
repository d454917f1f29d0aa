//! Does the chain guard hold against a real QEMU: are parents kept from being written, is a changed
//! one noticed before a machine starts, and does a repaired child read the right bytes?

#![expect(
    clippy::disallowed_methods,
    reason = "the client's side: files of its own, and other people's programs"
)]

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use e2e::{finish, need, noise, program, said, succeed};
use tempfile::TempDir;

/// A folder with images and a book of seals.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        need(&["qemu-img", "qemu-io"], "qemu-utils");
        Self(TempDir::with_prefix("strandline-chain-").expect("temp dir"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A command in the folder.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>, line: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.0.path()).args(line);
        command
    }

    fn qemu_img(&self, line: &[&str]) -> Output {
        finish(&mut self.command("qemu-img", line))
    }

    /// Runs commands of qemu-io on an image.
    fn qemu_io(&self, image: &str, commands: &[&str]) -> Output {
        let mut command = self.command("qemu-io", &[image]);
        for line in commands {
            command.args(["-c", line]);
        }
        finish(&mut command)
    }

    /// `strandline image chain VERB … --book BOOK`.
    fn chain(&self, line: &[&str]) -> Command {
        let mut command = self.command(program(), &["image", "chain", line[0], "--book", "book"]);
        command.args(&line[1..]);
        command
    }

    fn code(&self, line: &[&str]) -> (i32, String) {
        let output = finish(&mut self.chain(line));
        (output.status.code().expect("no signal"), said(&output))
    }

    /// The whole disk as qemu-img reads it.
    fn bytes(&self, image: &str) -> Vec<u8> {
        let raw = self.path("judge.raw");
        let _ = fs::remove_file(&raw);
        let out = raw.to_str().expect("UTF-8").to_owned();
        let output = self.qemu_img(&["convert", "-O", "raw", image, &out]);
        assert!(output.status.success(), "{}", said(&output));
        fs::read(raw).expect("written")
    }

    /// A parent of 4 MiB and a child that holds a part of its own, sealed.
    fn sealed_pair(&self) {
        self.pair();
        succeed(&mut self.chain(&["guard", "child.qcow2"]));
    }

    fn pair(&self) {
        fs::write(self.path("seed.raw"), noise(1, 4 << 20)).expect("written");
        let made = |line: &[&str]| {
            let output = self.qemu_img(line);
            assert!(output.status.success(), "{}", said(&output));
        };
        made(&["convert", "-O", "qcow2", "seed.raw", "base.qcow2"]);
        made(&["create", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "child.qcow2"]);
        let written = self.qemu_io("child.qcow2", &["write -P 9 1M 128k"]);
        assert!(written.status.success(), "{}", said(&written));
    }
}

#[test]
fn nobody_writes_a_parent_while_a_program_runs_on_its_child() {
    let place = Place::new();
    place.sealed_pair();
    let before = fs::read(place.path("base.qcow2")).expect("read");
    let script = "
        no() { if \"$@\" > out 2>&1; then echo \"done: $*\"; exit 1; fi; grep -q lock out || { cat out; exit 1; }; }
        no qemu-io -c 'write -P 7 0 64k' base.qcow2
        no qemu-img resize base.qcow2 8M
        no qemu-img commit child.qcow2
        set -e
        qemu-io -r -c 'read 0 64k' base.qcow2 > out
        qemu-img check base.qcow2 > out
        qemu-io -c 'write -P 8 2M 64k' child.qcow2 > out
        exit 5";
    let ran = place.code(&["run", "child.qcow2", "--", "sh", "-c", script]);
    assert_eq!(ran, (5, String::new()));
    assert!(fs::read(place.path("base.qcow2")).expect("read") == before, "the parent was written");

    let written = place.qemu_io("base.qcow2", &["write -P 7 0 64k"]);
    assert!(written.status.success(), "a lock was left behind: {}", said(&written));
    let (code, told) = place.code(&["run", "child.qcow2", "--", "touch", "started"]);
    assert_eq!(code, 6, "{told}");
    assert!(told.contains("error[E6011]") && told.contains("65536 bytes"), "{told}");
    assert!(!place.path("started").exists(), "a stale chain was used");
}

#[test]
fn a_parent_that_is_being_written_is_in_use() {
    let place = Place::new();
    place.sealed_pair();
    let mut writer = place
        .command(
            "stdbuf",
            &["-oL", "qemu-io", "-c", "read 0 512", "-c", "sleep 60000", "base.qcow2"],
        )
        .stdout(Stdio::piped())
        .spawn()
        .expect("qemu-io starts");
    let mut line = String::new();
    BufReader::new(writer.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    let (code, told) = place.code(&["run", "child.qcow2", "--", "touch", "started"]);
    writer.kill().expect("own child");
    writer.wait().expect("own child");
    assert!(code == 4 && told.contains("open for writing"), "{code} {told}");
    assert!(!place.path("started").exists());
    assert_eq!(place.code(&["run", "child.qcow2", "--", "true"]), (0, String::new()));
}

#[test]
fn what_was_never_sealed_runs_only_if_told() {
    let place = Place::new();
    place.pair();
    let (code, told) = place.code(&["run", "child.qcow2", "--", "true"]);
    assert!(code == 6 && told.contains("--unsealed"), "{code} {told}");
    assert_eq!(place.code(&["run", "--unsealed", "child.qcow2", "--", "sh", "-c", "exit 3"]).0, 3);
    let (code, told) = place.code(&["run", "--unsealed", "child.qcow2", "--", "./no-such-program"]);
    assert!(code == 3 && told.contains("no program"), "{code} {told}");
}

/// The hook as libvirt runs it: the script, arguments, XML on stdin.
fn hook(place: &Place, operation: &str, xml: &str) -> (i32, String) {
    let script = place.path("qemu");
    fs::write(&script, succeed(&mut place.chain(&["hook", "--script"]))).expect("written");
    let mut path = program().parent().expect("in a folder").as_os_str().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let mut command = place.command("sh", &["qemu", "vm", operation, "begin", "-"]);
    command.env("PATH", path).env("STRANDLINE_STORE", place.path("store"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("sh starts");
    child.stdin.take().expect("piped").write_all(xml.as_bytes()).expect("told");
    let output = child.wait_with_output().expect("ends");
    (output.status.code().expect("no signal"), said(&output))
}

#[test]
fn libvirt_does_not_start_a_machine_on_a_changed_parent() {
    let place = Place::new();
    place.pair();
    let absolute = |name: &str| place.path(name).to_str().expect("UTF-8").to_owned();
    // As libvirt makes them: the parent by its absolute name.
    let (base, child) = (absolute("base.qcow2"), absolute("vm/child.qcow2"));
    fs::create_dir(place.path("vm")).expect("made");
    let line = ["create", "-f", "qcow2", "-b", &base, "-F", "qcow2", &child];
    assert!(place.qemu_img(&line).status.success());
    assert!(place.qemu_io(&child, &["write -P 5 1M 64k"]).status.success());
    let xml = format!(
        "<domain type='kvm'><name>vm</name><devices><disk type='file' device='disk'>\
         <driver name='qemu' type='qcow2'/><source file='{child}'/><target dev='vda'/></disk>\
         </devices></domain>"
    );
    assert_eq!(hook(&place, "prepare", &xml), (0, String::new()), "nobody sealed it");
    let mut guard = place.command(program(), &["image", "chain", "guard", "--outside", &child]);
    succeed(guard.env("STRANDLINE_STORE", place.path("store")));
    assert_eq!(hook(&place, "prepare", &xml), (0, String::new()));
    assert!(place.qemu_io("base.qcow2", &["write -P 7 0 64k"]).status.success());
    let (code, told) = hook(&place, "prepare", &xml);
    assert!(code == 6 && told.contains("does not stand on"), "{code} {told}");
    assert_eq!(hook(&place, "release", &xml), (0, String::new()));
    assert_eq!(hook(&place, "prepare", "no XML").0, 2);
}

/// What qemu-img reads through a child is what it read before.
fn reads(place: &Place, image: &str, wanted: &[u8]) {
    assert!(place.bytes(image) == wanted, "{image}: other bytes");
}

#[test]
fn a_moved_parent_is_found_by_what_was_sealed() {
    let place = Place::new();
    place.sealed_pair();
    let wanted = place.bytes("child.qcow2");
    // A decoy that has the old name, and a copy with other times under a new one.
    fs::create_dir(place.path("moved")).expect("made");
    fs::copy(place.path("base.qcow2"), place.path("moved/the golden image.qcow2")).expect("copied");
    fs::remove_file(place.path("base.qcow2")).expect("removed");
    let decoy = ["create", "-f", "qcow2", "moved/base.qcow2", "4M"];
    assert!(place.qemu_img(&decoy).status.success());

    let (code, told) = place.code(&["fix", "child.qcow2"]);
    assert!(code == 3 && told.contains("--search DIR"), "{code} {told}");
    let line = ["fix", "child.qcow2", "--search", "moved"];
    let (code, told) = place.code(&line);
    assert!(code == 6 && told.contains("pass --yes"), "{code} {told}");
    assert!(!told.contains("moved/base.qcow2"), "the decoy was taken: {told}");
    let (code, told) = place.code(&[&line[..], &["-n"]].concat());
    assert!(code == 0 && told.contains("the bytes that were sealed"), "{code} {told}");
    let before = fs::read(place.path("child.qcow2")).expect("read");
    place.code(&line);
    assert!(before == fs::read(place.path("child.qcow2")).expect("read"), "a look changed it");

    let (code, told) = place.code(&[&line[..], &["--yes"]].concat());
    assert_eq!(code, 0, "{told}");
    reads(&place, "child.qcow2", &wanted);
    let after = fs::read(place.path("child.qcow2")).expect("read");
    assert!(before[65536..] == after[65536..] && before != after, "only the header changed");
    assert_eq!(place.code(&["check", "child.qcow2"]).0, 0);
    let (code, told) = place.code(&["fix", "child.qcow2"]);
    assert!(code == 0 && told.contains("nothing to mend"), "{code} {told}");
}

#[test]
fn a_parent_elsewhere_is_named_by_its_whole_path_if_told() {
    let place = Place::new();
    place.sealed_pair();
    let wanted = place.bytes("child.qcow2");
    let other = TempDir::with_prefix("strandline-chain-").expect("temp dir");
    fs::copy(place.path("base.qcow2"), other.path().join("base.qcow2")).expect("copied");
    fs::remove_file(place.path("base.qcow2")).expect("removed");
    let folder = other.path().to_str().expect("UTF-8");
    let (code, told) = place.code(&["fix", "child.qcow2", "--search", folder, "--yes"]);
    assert!(code == 2 && told.contains("--outside"), "{code} {told}");
    let line = ["fix", "child.qcow2", "--search", folder, "--outside", "--yes"];
    assert_eq!(place.code(&line).0, 0);
    reads(&place, "child.qcow2", &wanted);
    assert_eq!(place.code(&["check", "child.qcow2"]).0, 5, "strangers' names stay refused");
    assert_eq!(place.code(&["check", "child.qcow2", "--outside"]).0, 0);
}

#[test]
fn what_is_not_proven_wants_a_reason() {
    let place = Place::new();
    place.pair();
    let wanted = place.bytes("child.qcow2");
    fs::create_dir(place.path("moved")).expect("made");
    fs::rename(place.path("base.qcow2"), place.path("moved/base.qcow2")).expect("moved");
    let line = ["fix", "child.qcow2", "--relink", "--search", "moved", "--yes"];
    let (code, told) = place.code(&line);
    assert!(code == 6 && told.contains("error[E6014]"), "{code} {told}");
    let reason = [&line[..], &["--reason", "moved it myself"]].concat();
    assert_eq!(place.code(&reason).0, 0);
    reads(&place, "child.qcow2", &wanted);

    let written = place.qemu_io("moved/base.qcow2", &["write -P 7 0 64k"]);
    assert!(written.status.success(), "{}", said(&written));
    let (code, told) = place.code(&["fix", "child.qcow2", "--accept", "--yes"]);
    assert!(code == 6 && told.contains("65536 bytes"), "{code} {told}");
    let line = ["fix", "child.qcow2", "--accept", "--reason", "meant so", "--yes"];
    assert_eq!(place.code(&line).0, 0);
    let (code, told) = place.code(&["check", "child.qcow2", "--json"]);
    assert!(code == 0 && told.contains("meant so"), "{code} {told}");
}

#[test]
fn a_child_becomes_independent() {
    let place = Place::new();
    place.sealed_pair();
    let wanted = place.bytes("child.qcow2");
    let mode = |name: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        fs::metadata(place.path(name)).expect("there").permissions().mode()
    };
    let before = mode("child.qcow2");
    let (code, told) = place.code(&["fix", "child.qcow2", "--absorb", "--yes"]);
    assert_eq!(code, 0, "{told}");
    fs::remove_file(place.path("base.qcow2")).expect("removed");
    reads(&place, "child.qcow2", &wanted);
    assert_eq!(mode("child.qcow2"), before);
    let left: Vec<_> = fs::read_dir(place.0.path())
        .expect("listed")
        .map(|entry| entry.expect("read").file_name())
        .filter(|name| name.to_string_lossy().starts_with('.'))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn what_is_proven_is_saved_and_the_rest_listed() {
    let place = Place::new();
    place.sealed_pair();
    let mut wanted = place.bytes("child.qcow2");
    let written = place.qemu_io("base.qcow2", &["write -P 7 64k 64k", "write -P 7 1M 64k"]);
    assert!(written.status.success(), "{}", said(&written));
    let (code, told) = place.code(&["fix", "child.qcow2"]);
    assert!(code == 6 && told.contains("--salvage OUT"), "{code} {told}");
    let (code, told) = place.code(&["fix", "child.qcow2", "--absorb", "--yes"]);
    assert!(code == 6, "a stale parent was taken in: {code} {told}");
    let (code, told) = place.code(&["fix", "child.qcow2", "--salvage", "out.raw", "--yes"]);
    assert_eq!(code, 7, "{told}");
    // The child holds what was written at 1 MiB; only the other range is lost.
    wanted[64 << 10..128 << 10].fill(0);
    assert!(fs::read(place.path("out.raw")).expect("read") == wanted, "other bytes");
    let list = fs::read_to_string(place.path("out.raw.map")).expect("read");
    assert!(list.contains("0x00010000  0x00010000  -\n"), "{list}");
}

#[test]
fn what_somebody_uses_is_not_changed() {
    let place = Place::new();
    place.sealed_pair();
    fs::rename(place.path("base.qcow2"), place.path("new.qcow2")).expect("moved");
    let mut user = place
        .command("stdbuf", &["-oL", "qemu-io", "-c", "read 1M 512", "-c", "sleep 60000"])
        .args(["-c", "quit", "json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"child.qcow2\"},\"backing\":null}"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("qemu-io starts");
    let mut line = String::new();
    BufReader::new(user.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    let before = fs::read(place.path("child.qcow2")).expect("read");
    let (code, told) = place.code(&["fix", "child.qcow2", "--relink", "--yes"]);
    user.kill().expect("own child");
    user.wait().expect("own child");
    assert!(code == 4 && told.contains("has it open"), "{code} {told}");
    assert!(fs::read(place.path("child.qcow2")).expect("read") == before, "it was changed");
    assert_eq!(place.code(&["fix", "child.qcow2", "--relink", "--yes"]).0, 0);
}

/// The other formats: made by us, led on by us, read by QEMU where it reads children of that format.
#[test]
fn children_of_other_formats_are_led_to_a_renamed_parent() {
    let place = Place::new();
    fs::write(place.path("seed.raw"), noise(3, 2 << 20)).expect("written");
    let made = |line: &[&str]| {
        let output = place.qemu_img(line);
        assert!(output.status.success(), "{}", said(&output));
    };
    made(&["convert", "-O", "vmdk", "seed.raw", "base.vmdk"]);
    made(&["create", "-f", "vmdk", "-b", "base.vmdk", "-F", "vmdk", "child.vmdk"]);
    assert!(place.qemu_io("child.vmdk", &["write -P 9 1M 64k"]).status.success());
    let wanted = place.bytes("child.vmdk");
    fs::rename(place.path("base.vmdk"), place.path("a base with a longer name.vmdk"))
        .expect("moved");
    let (code, told) = place.code(&["fix", "child.vmdk", "--yes"]);
    assert!(code == 0 && told.contains("the identifiers"), "{code} {told}");
    reads(&place, "child.vmdk", &wanted);

    // A write that changes no byte still moves the CID: both QEMU and we refuse the child then.
    succeed(&mut place.chain(&["guard", "child.vmdk"]));
    let bytes = fs::read(place.path("seed.raw")).expect("read");
    fs::write(place.path("sector.raw"), &bytes[..512]).expect("written");
    let again = place.qemu_io("a base with a longer name.vmdk", &["write -s sector.raw 0 512"]);
    assert!(again.status.success(), "{}", said(&again));
    let output = place.qemu_img(&["convert", "-O", "raw", "child.vmdk", "no.raw"]);
    assert!(!output.status.success(), "the CID did not move");
    let (code, told) = place.code(&["fix", "child.vmdk", "--yes"]);
    assert_eq!(code, 0, "{told}");
    reads(&place, "child.vmdk", &wanted);
}
