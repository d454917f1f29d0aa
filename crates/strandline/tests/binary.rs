//! The binary as a user runs it: exit codes, where what is printed, and a server at the other end.

use api::{
    Answer, Caller, Chunk, Chunks, Control, Failure, Request, codes,
    verbs::{export, past, session},
};
use server::control::{Hooks, Server};
use std::{
    os::unix::net::UnixListener,
    path::Path,
    process::{Command, Output},
    sync::Arc,
};

fn strandline(store: &Path, line: &[&str]) -> Output {
    let binary = env!("CARGO_BIN_EXE_strandline");
    let mut command = Command::new(binary);
    command.env_clear().arg("--store").arg(store).args(line);
    command.output().expect("the binary runs")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

#[test]
fn a_wrong_line_exits_2_with_nothing_on_stdout() {
    let ran = strandline(Path::new("/nonexistent"), &["vol", "creatt"]);
    assert_eq!((ran.status.code(), text(&ran.stdout)), (Some(2), ""));
    assert!(text(&ran.stderr).starts_with("error[E2001]: unrecognized subcommand 'creatt'\n"));
    let ran = strandline(Path::new("/nonexistent"), &["vol", "creatt", "--json"]);
    let error: serde_json::Value = serde_json::from_slice(&ran.stderr).expect("JSON");
    assert_eq!((&error["error"]["code"], &error["error"]["exit"]), (&"E2001".into(), &2.into()));
}

#[test]
fn no_store_exits_3_and_says_how_to_make_one() {
    let ran = strandline(Path::new("/nonexistent"), &["vol", "ls"]);
    assert_eq!((ran.status.code(), text(&ran.stdout)), (Some(3), ""));
    assert!(text(&ran.stderr).contains("strandline store init"), "{}", text(&ran.stderr));
}

#[test]
fn completions_and_pages_come_without_a_store() {
    for shell in ["bash", "zsh", "fish"] {
        let ran = strandline(Path::new("/nonexistent"), &["completions", shell]);
        assert!(ran.status.success() && text(&ran.stdout).contains("rewind"), "{shell}");
    }
    let ran = strandline(Path::new("/nonexistent"), &["man"]);
    assert!(ran.status.success() && text(&ran.stdout).contains(".TH strandline 1"));
}

struct Fake;

impl Control for Fake {
    fn call(&self, who: &Caller, request: Request) -> Result<Answer, Failure> {
        assert_eq!(who.uid, rustix::process::geteuid().as_raw());
        match request {
            Request::SessionLs(_) => {
                Ok(Answer::SessionLs(session::SessionList { sessions: vec![] }))
            }
            _ => Err(Failure::new(codes::IN_USE, "volume `db` is in use").doing("wait")),
        }
    }

    fn read(&self, _who: &Caller, _request: past::Read) -> Result<Box<dyn Chunks>, Failure> {
        Ok(Box::new(Nothing))
    }

    fn export(&self, _who: &Caller, _request: export::Read) -> Result<Box<dyn Chunks>, Failure> {
        Ok(Box::new(Nothing))
    }
}

struct Nothing;

impl Chunks for Nothing {
    fn next(&mut self) -> Result<Option<Chunk>, Failure> {
        Ok(None)
    }
}

#[test]
fn a_running_server_is_asked_and_its_refusal_is_ours() {
    let store = tempfile::tempdir().expect("a directory");
    let listener = UnixListener::bind(store.path().join("control.sock")).expect("a free name");
    let hooks = Hooks { metrics: Box::new(String::new), ready: Box::new(|| true) };
    let server = Server::start(listener, Arc::new(Fake), hooks).expect("it starts");

    let ran = strandline(store.path(), &["session", "ls", "--json"]);
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    let answer: serde_json::Value = serde_json::from_slice(&ran.stdout).expect("JSON");
    assert_eq!(answer, serde_json::json!({ "schema": "session.ls/1", "sessions": [] }));

    let ran = strandline(store.path(), &["vol", "rename", "db", "new"]);
    assert_eq!(ran.status.code(), Some(4));
    assert_eq!(text(&ran.stderr), "error[E4003]: volume `db` is in use\n  do            wait\n");
    server.stop();
}
