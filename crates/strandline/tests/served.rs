//! The binary as a server: how it begins, refuses and ends, and what the demo leaves behind.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, ChildStdout, Command, Output, Stdio},
};
use tempfile::TempDir;

/// A directory with a store, its key and sockets.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().expect("a directory"));
        place.done(&["store", "init"]);
        place.done(&["vol", "create", "db", "--size", "16M"]);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, line: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_strandline"));
        command.env_clear().args(line).current_dir(self.0.path()).stdin(Stdio::null());
        command.env("STRANDLINE_STORE", self.path("store"));
        command.env("STRANDLINE_KEY_FILE", self.path("store.key"));
        command.env("TMPDIR", self.0.path());
        command
    }

    fn run(&self, line: &[&str]) -> Output {
        self.command(line).output().expect("the binary runs")
    }

    fn done(&self, line: &[&str]) -> String {
        let ran = self.run(line);
        assert!(ran.status.success(), "{line:?}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).expect("text")
    }

    fn refused(&self, line: &[&str], exit: i32) -> String {
        let ran = self.run(line);
        let told = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert_eq!(ran.status.code(), Some(exit), "{line:?}: {told}");
        told
    }

    /// A server, and the first line that it prints.
    fn serve(&self) -> (Server, String) {
        let mut command = self.command(&["serve", "-q", "--nbd", "unix:./nbd.sock"]);
        let mut process = command.stdout(Stdio::piped()).spawn().expect("the binary runs");
        let mut stdout = BufReader::new(process.stdout.take().expect("piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("text");
        (Server { process, _stdout: stdout }, line)
    }
}

/// Killed when a test fails.
struct Server {
    process: Child,
    _stdout: BufReader<ChildStdout>,
}

impl Server {
    fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.process.id()).expect("a pid");
        let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
        rustix::process::kill_process(pid, signal).expect("it runs");
    }

    fn ended(mut self) -> Option<i32> {
        self.process.wait().expect("ours").code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_server_names_its_volumes_and_ends_when_told() {
    let place = Place::new();
    let (server, line) = place.serve();
    let socket = fs::canonicalize(place.path("nbd.sock")).expect("it is there");
    let uri = format!("nbd+unix:///db?socket={}", socket.display());
    assert!(line.starts_with("db  16.0 MiB  keep \"") && line.contains(&uri), "{line}");
    assert!(place.done(&["vol", "show", "db"]).contains(&uri));
    place.done(&["serve", "--stop"]);
    assert_eq!(server.ended(), Some(0));
    for name in ["nbd.sock", "store/control.sock"] {
        assert!(!place.path(name).exists(), "{name} is left");
    }
    assert!(place.refused(&["serve", "--stop"], 3).contains("E3112"));
}

#[test]
fn a_second_server_of_a_store_is_refused() {
    let place = Place::new();
    let (server, _) = place.serve();
    let told = place.refused(&["serve", "--nbd", "unix:./other.sock"], 4);
    assert!(told.starts_with("error[E4005]") && told.contains("serve --stop"), "{told}");
    assert!(!place.path("other.sock").exists());
    drop(server);
}

#[test]
fn a_signal_ends_a_server_and_a_kill_leaves_no_trouble() {
    let place = Place::new();
    let (server, _) = place.serve();
    server.signal(rustix::process::Signal::KILL);
    assert_eq!(server.ended(), None);
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        let (server, line) = place.serve();
        assert!(line.starts_with("db  "), "{line}");
        server.signal(signal);
        assert_eq!(server.ended(), Some(0));
    }
}

#[test]
fn what_cannot_be_served_is_refused_before_it_begins() {
    let place = Place::new();
    let line = |address| ["serve", "--nbd", address];
    assert!(place.refused(&line("unix:nbd.sock"), 2).starts_with("error[E2021]"));
    assert!(place.refused(&line("0.0.0.0:0"), 5).contains("--insecure-lan"));
    assert!(place.refused(&line("unix:./no/nbd.sock"), 3).contains("make the directory first"));
    let told = place.refused(&["serve", "--nbd", "unix:./nbd.sock", "--default", "web"], 3);
    assert!(told.starts_with("error[E3101]"), "{told}");
    assert!(!place.path("nbd.sock").exists());
}

#[test]
fn a_recovery_key_opens_a_store_whose_key_is_lost() {
    let place = Place(tempfile::tempdir().expect("a directory"));
    let told = place.done(&["store", "init", "--json"]);
    let created: serde_json::Value = serde_json::from_str(&told).expect("JSON");
    let recovery = created["recovery_key"].as_str().expect("shown once");
    #[expect(clippy::disallowed_methods, reason = "the user's file")]
    fs::write(place.path("typed"), format!("{recovery}\n")).expect("written");
    let open = |file: &str| {
        let mut command = place.command(&["vol", "ls", "--passphrase-file", file]);
        command.env_remove("STRANDLINE_KEY_FILE").output().expect("the binary runs").status.code()
    };
    assert_eq!(open("typed"), Some(0));
    assert_eq!(open("store.key"), Some(5), "a key file is no passphrase");
}

#[test]
fn a_key_that_found_no_room_is_not_in_the_way_of_the_next() {
    let place = Place(tempfile::tempdir().expect("a directory"));
    let program = env!("CARGO_BIN_EXE_strandline");
    // No file may have a byte: the key file is made and cannot be written.
    let line = format!("trap '' XFSZ; ulimit -f 0; exec {program} store init");
    let mut shell = Command::new("sh");
    shell.args(["-c", &line]).current_dir(place.0.path());
    shell.env("STRANDLINE_STORE", place.path("store"));
    let ran = shell.env("STRANDLINE_KEY_FILE", place.path("store.key")).output().expect("sh runs");
    let told = String::from_utf8_lossy(&ran.stderr);
    assert!(!ran.status.success() && told.contains("cannot write the key file"), "{told}");
    assert!(!place.path("store.key").exists());
    place.done(&["store", "init"]);
}

#[test]
fn the_demo_brings_the_files_back_and_leaves_nothing() {
    let place = Place(tempfile::tempdir().expect("a directory"));
    // Nobody is at a terminal: it ends by itself.
    let told = place.done(&["demo", "--built-in"]);
    for part in ["$ strandline rewind disk@", "equal to the disk before", "Every file is back"] {
        assert!(told.contains(part), "`{part}` is not in\n{told}");
    }
    assert_eq!(fs::read_dir(place.0.path()).expect("read").count(), 0, "something is left");
    let told = place.done(&["demo", "--once", "--built-in", "--keep", "kept"]);
    assert!(told.contains("The store stays in"), "{told}");
    assert!(place.path("kept/store/super.a").exists());
    assert!(place.refused(&["demo", "--once", "--keep", "kept"], 4).contains("kept"));
}

#[test]
fn a_live_socket_is_refused_by_its_name() {
    let place = Place::new();
    let (server, _) = place.serve();
    place.done(&["-s", "other", "--key-file", "other.key", "store", "init"]);
    let line = ["-s", "other", "--key-file", "other.key", "serve", "--nbd", "unix:./nbd.sock"];
    let told = place.refused(&line, 4);
    assert!(told.starts_with("error[E4007]") && told.contains("nbd.sock is served"), "{told}");
    drop(server);
}

#[test]
fn settings_come_from_a_file_and_flags_beat_them() {
    let place = Place::new();
    let text = "store = \"store\"\nkey-file = \"store.key\"\n[serve]\nnbd = [\"unix:./a.sock\"]\n";
    #[expect(clippy::disallowed_methods, reason = "the user's file")]
    fs::write(place.path("config.toml"), text).expect("written");
    let mut command = place.command(&["--config", "config.toml", "vol", "ls"]);
    command.env_remove("STRANDLINE_STORE").env_remove("STRANDLINE_KEY_FILE");
    let ran = command.output().expect("the binary runs");
    assert!(String::from_utf8_lossy(&ran.stdout).starts_with("db\t"), "{ran:?}");
    let mut command = place.command(&["--config", "config.toml", "-s", "nowhere", "vol", "ls"]);
    assert_eq!(command.output().expect("the binary runs").status.code(), Some(3));
    let told = place.refused(&["--config", "store.key", "vol", "ls"], 2);
    assert!(told.contains("store.key"), "{told}");
    assert!(place.refused(&["--config", "none.toml", "vol", "ls"], 3).contains("none.toml"));
}

#[test]
fn wrong_use_is_told_what_to_do() {
    let place = Place::new();
    let told = place.refused(&["vol", "set", "db"], 2);
    assert!(told.contains("--exclusive") && told.contains("vol set --help"), "{told}");
    let told = place.refused(&["vol", "create", "x", "--size", "-5"], 2);
    assert!(told.contains("`-5` is no size") && told.contains("vol create --help"), "{told}");
    assert!(
        place.refused(&["vol", "create", "x", "--size", "0"], 2).contains("did you mean  512?")
    );
    assert!(place.refused(&["restore", "db@now", "--to-disk", "-"], 2).contains("./-"));
    assert!(place.refused(&["store", "init", "store.key"], 4).contains("store.key"));
    assert!(place.refused(&["store", "init", "/proc/none"], 3).starts_with("error[E3002]"));
    assert!(place.refused(&["--key-file", "/", "vol", "ls"], 5).contains("is no key file"));
    assert!(place.done(&["help", "vol", "create"]).contains("--size"));
    let told = place.refused(&["store", "repair", "--accept-loss"], 6);
    assert!(told.contains("--yes"), "{told}");
    assert!(place.done(&["store", "repair", "--accept-loss", "-y"]).contains("nothing to rebuild"));
}
