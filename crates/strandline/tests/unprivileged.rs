//! The binary in the hands of a user without rights: what may be read is read, and what may not is
//! told as that, never as damage.
//!
//! Only root can become somebody else: for other users these tests say nothing.

use rustix::{
    fs::Mode,
    process::{Pid, Signal, geteuid, kill_process},
};
use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};
use tempfile::TempDir;

/// A user that owns nothing.
const NOBODY: u32 = 65_534;

/// A store of root's, and the program where anybody can run it.
struct Place(TempDir);

impl Place {
    fn new() -> Option<Self> {
        if !geteuid().is_root() {
            eprintln!("not run: only root can become another user");
            return None;
        }
        let place = Self(tempfile::tempdir().expect("a directory"));
        set_mode(place.0.path(), 0o755);
        // Not by ourselves: while we had the copy open for writing another test's child might hold it
        // open too, and what is open for writing cannot be run.
        let mut copy = Command::new("cp");
        done(copy.arg(env!("CARGO_BIN_EXE_strandline")).arg(place.path("strandline")));
        fs::create_dir(place.path("home")).expect("made");
        chown(place.path("home"), Some(NOBODY), Some(NOBODY)).expect("given away");
        done(place.root(&["store", "init", "--key-file"]).arg(place.path("store.key")));
        done(&mut place.root(&["vol", "create", "db", "--size", "16M"]));
        Some(place)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn root(&self, line: &[&str]) -> Command {
        let mut command = Command::new(self.path("strandline"));
        command.env_clear().args(line).current_dir(self.path("home")).stdin(Stdio::null());
        command.env("STRANDLINE_STORE", self.path("store"));
        command.env("STRANDLINE_KEY_FILE", self.path("store.key"));
        command
    }

    fn nobody(&self, line: &[&str]) -> Command {
        let mut command = self.root(line);
        command.uid(NOBODY).gid(NOBODY).env("HOME", self.path("home"));
        command
    }

    /// Gives everybody the right to read the store and its key.
    fn open_to_readers(&self) {
        set_mode(&self.path("store.key"), 0o644);
        let mut left = vec![self.path("store")];
        while let Some(path) = left.pop() {
            if !path.is_dir() {
                set_mode(&path, 0o644);
                continue;
            }
            set_mode(&path, 0o755);
            left.extend(fs::read_dir(&path).expect("listed").flatten().map(|entry| entry.path()));
        }
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

fn done(command: &mut Command) -> String {
    let ran = command.output().expect("the binary runs");
    assert!(ran.status.success(), "{command:?}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).expect("text")
}

fn refused(command: &mut Command, exit: i32) -> String {
    let Output { status, stderr, .. } = command.output().expect("the binary runs");
    let told = String::from_utf8(stderr).expect("text");
    assert_eq!(status.code(), Some(exit), "{command:?}: {told}");
    told
}

#[test]
fn who_may_not_read_a_store_is_not_told_of_damage() {
    let Some(place) = Place::new() else { return };
    set_mode(&place.path("store"), 0o755); // the super blocks in it stay root's
    let told = refused(&mut place.nobody(&["vol", "ls"]), 5);
    assert!(told.starts_with("error[E5006]: cannot read the super blocks"), "{told}");
    assert!(told.contains("as the store's owner") && told.contains("see  "), "{told}");
    let told = refused(&mut place.nobody(&["store", "init"]), 5);
    assert!(told.starts_with("error[E5006]"), "{told}");
}

#[test]
fn who_may_only_read_reads_and_serves_the_past() {
    let Some(place) = Place::new() else { return };
    place.open_to_readers();
    assert!(done(&mut place.nobody(&["vol", "ls"])).starts_with("db\t"));
    let told = refused(&mut place.nobody(&["mark", "add", "db", "x"]), 5);
    assert!(told.starts_with("error[E5004]") && told.contains("\n  do  "), "{told}");
    let told = refused(&mut place.nobody(&["open", "db@now", "--rw", "--nbd", "unix:./s"]), 5);
    assert!(told.contains("without --rw"), "{told}");
    for line in [&["open", "db@now"][..], &["serve", "--read-only"]] {
        let mut command = place.nobody(line);
        command.args(["--nbd", "unix:./s"]).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut server = command.spawn().expect("the binary runs");
        let mut first = String::new();
        let mut stdout = BufReader::new(server.stdout.take().expect("piped"));
        stdout.read_line(&mut first).expect("text");
        assert!(first.starts_with("db"), "{line:?} begins with `{first}`");
        let pid = i32::try_from(server.id()).ok().and_then(Pid::from_raw).expect("a pid");
        kill_process(pid, Signal::TERM).expect("it runs");
        assert_eq!(server.wait().expect("ours").code(), Some(0), "{line:?}");
    }
}

#[test]
fn a_user_makes_a_store_and_closes_only_what_holds_secrets() {
    let Some(place) = Place::new() else { return };
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let own = |line: &[&str]| {
        let mut command = place.nobody(line);
        command.env_remove("STRANDLINE_STORE").env_remove("STRANDLINE_KEY_FILE");
        command
    };
    done(&mut own(&["store", "init"]));
    assert_eq!(mode(&place.path("home/.config/strandline")), 0o755);
    assert_eq!(mode(&place.path("home/.config/strandline/keys")), 0o700);
    assert_eq!(mode(&place.path("home/.local/share/strandline")), 0o700);
    done(&mut own(&["vol", "create", "mine", "--size", "1M"]));
}

#[test]
fn an_address_out_of_reach_is_refused_with_what_helps() {
    let Some(place) = Place::new() else { return };
    place.open_to_readers();
    let socket = format!("unix:{}", place.path("nbd.sock").display());
    let told = refused(&mut place.nobody(&["serve", "--read-only", "--nbd", &socket]), 5);
    assert!(told.contains("cannot serve") && told.contains("\n  do  "), "{told}");
}
