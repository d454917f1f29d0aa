//! Round trips over a real socket, with a store that is three lines long.

use super::{BODY_MAX_BYTES, Client, Hooks, Server};
use api::{
    Answer, Caller, Chunk, Chunks, Control, ControlExt, Failure, Request, Verb, codes,
    verbs::{past, session, vol},
};
use std::{
    io::{Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    sync::Arc,
};

struct Fake;

impl Control for Fake {
    fn call(&self, who: &Caller, request: Request) -> Result<Answer, Failure> {
        match request {
            Request::VolCreate(asked) if asked.name.as_str() == "taken" => {
                Err(Failure::new(codes::VOLUME_EXISTS, "volume `taken` exists").doing("choose"))
            }
            Request::VolCreate(asked) => Ok(Answer::VolCreate(vol::VolCreated {
                id: who.uid,
                name: asked.name,
                size: asked.size,
                block: asked.block,
                keep: "all".to_owned(),
                uri: None,
            })),
            Request::SessionLs(_) => {
                Ok(Answer::SessionLs(session::SessionList { sessions: vec![] }))
            }
            Request::Stop(_) => panic!("a planned fault"),
            other => Err(Failure::bug(format!("{} was not expected", other.path()))),
        }
    }

    fn read(&self, _who: &Caller, request: past::Read) -> Result<Box<dyn Chunks>, Failure> {
        request.reference.local()?;
        let length = request.length.unwrap_or(10);
        let mut steps = vec![
            Ok(Chunk::Data(b"hello".to_vec())),
            Ok(Chunk::Zeroes(length)),
            Ok(Chunk::Data(b"world".to_vec())),
        ];
        if request.offset > 0 {
            steps.push(Err(Failure::new(codes::DAMAGED, "a damaged cell")));
        }
        Ok(Box::new(Steps(steps.into_iter())))
    }
}

struct Steps(std::vec::IntoIter<Result<Chunk, Failure>>);

impl Chunks for Steps {
    fn next(&mut self) -> Result<Option<Chunk>, Failure> {
        self.0.next().transpose()
    }
}

/// A server on a socket of its own; both go when it is dropped.
struct Fixture {
    server: Option<Server>,
    socket: PathBuf,
    _directory: tempfile::TempDir,
}

impl Fixture {
    fn new(name: &str) -> Self {
        let directory = tempfile::tempdir().expect("a place for the socket");
        let below = directory.path().join(name);
        std::fs::create_dir_all(&below).expect("a directory");
        let socket = below.join("control.sock");
        let short = directory.path().join("s");
        let listener = UnixListener::bind(&short).expect("a free name");
        std::fs::hard_link(&short, &socket).expect("one file system");
        let hooks = Hooks {
            metrics: Box::new(|| "strandline_clients 2\n".to_owned()),
            ready: Box::new(|| false),
        };
        let server = Server::start(listener, Arc::new(Fake), hooks).expect("it starts");
        Self { server: Some(server), socket, _directory: directory }
    }

    fn client(&self) -> Client {
        Client::new(&self.socket, vec![me()], None)
    }

    /// The answer to a request as curl would send it, head and body.
    fn raw(&self, request: &str) -> String {
        let mut stream = UnixStream::connect(&self.socket).expect("it listens");
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers and closes");
        answer
    }

    fn get(&self, path: &str) -> String {
        self.raw(&format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
    }
}

fn me() -> u32 {
    rustix::process::getuid().as_raw()
}

const WHO: Caller = Caller { uid: 0, gid: 0, pid: None };

fn create(name: &str) -> vol::VolCreate {
    let name = name.parse().expect("a name");
    vol::VolCreate { name, size: 4096, block: 512, exclusive: false }
}

#[test]
fn a_call_reaches_the_store_with_the_caller_of_the_kernel() {
    let fixture = Fixture::new("a");
    let created = fixture.client().ask(&WHO, create("db")).expect("it is made");
    assert_eq!((created.id, created.size), (me(), 4096));
}

#[test]
fn a_failure_keeps_its_code_and_hint() {
    let fixture = Fixture::new("a");
    let failure = fixture.client().ask(&WHO, create("taken")).expect_err("taken");
    assert_eq!(
        failure,
        Failure::new(codes::VOLUME_EXISTS, "volume `taken` exists").doing("choose")
    );
}

#[test]
fn a_socket_with_a_long_path_is_reached() {
    let fixture = Fixture::new(&format!("{0}/{0}", "long".repeat(30)));
    assert!(fixture.socket.as_os_str().len() > 200);
    assert_eq!(fixture.client().probe(), Ok(true));
    assert!(fixture.client().ask(&WHO, create("db")).is_ok());
}

#[test]
fn a_stranger_is_told_nothing() {
    let fixture = Fixture::new("a");
    let client = Client::new(&fixture.socket, vec![me() + 1], None);
    assert_eq!(client.ask(&WHO, create("db")).expect_err("a stranger").code, codes::SOCKET_FOREIGN);
}

#[test]
fn no_socket_and_a_dead_one_are_no_server() {
    let mut fixture = Fixture::new("a");
    let client = Client::new(fixture.socket.with_file_name("none.sock"), vec![me()], None);
    assert_eq!(client.probe(), Ok(false));
    let client = fixture.client();
    fixture.server.take().expect("it runs").stop();
    assert_eq!(client.probe(), Ok(false));
    assert_eq!(client.ask(&WHO, create("db")).expect_err("dead").code, codes::SERVER_SILENT);
}

fn read(offset: u64, length: u64) -> past::Read {
    let reference = "db@mark:a~1^quiet:2s".parse().expect("well formed");
    past::Read { reference, offset, length: Some(length), exact: true }
}

#[test]
fn bytes_come_in_order_and_zeroes_as_a_count() {
    let fixture = Fixture::new("a");
    let mut chunks = fixture.client().read(&WHO, read(0, 1 << 40)).expect("a stream");
    let mut seen = Vec::new();
    while let Some(chunk) = chunks.next().expect("no failure") {
        seen.push(chunk);
    }
    let data = |text: &[u8]| Chunk::Data(text.to_vec());
    assert_eq!(seen, [data(b"hello"), Chunk::Zeroes(1 << 40), data(b"world")]);
    assert_eq!(chunks.next(), Ok(None));
}

#[test]
fn a_failure_in_mid_stream_keeps_its_code() {
    let fixture = Fixture::new("a");
    let mut chunks = fixture.client().read(&WHO, read(1, 1)).expect("a stream");
    let failure = loop {
        match chunks.next() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the failure was lost"),
            Err(failure) => break failure,
        }
    };
    assert_eq!(failure.code, codes::DAMAGED);
}

#[test]
fn plain_bytes_are_for_everybody_else() {
    let fixture = Fixture::new("a");
    let answer = fixture.get("/v1/read?ref=db&length=100000");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.contains("application/octet-stream"), "{head}");
    let zeroes = body.bytes().filter(|byte| *byte == 0).count();
    assert_eq!(zeroes, 100_000);
    assert!(body.contains("hello") && body.contains("world"));
    let refused = fixture.get("/v1/read?ref=office/db");
    assert!(refused.starts_with("HTTP/1.1 404") && refused.contains("E3202"), "{refused}");
}

#[test]
fn questions_may_be_asked_by_get_and_deeds_not() {
    let fixture = Fixture::new("a");
    let answer = fixture.get("/v1/session/ls");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("strandline-api: v1"), "{answer}");
    assert!(answer.ends_with(r#"{"schema":"session.ls/1","sessions":[]}"#), "{answer}");
    assert!(fixture.get("/v1/vol/create").starts_with("HTTP/1.1 400"));
    assert!(fixture.get("/v1/stop").starts_with("HTTP/1.1 400"));
}

#[test]
fn health_and_metrics_are_plain_text() {
    let fixture = Fixture::new("a");
    assert!(fixture.get("/livez").ends_with("ok\n"));
    assert!(fixture.get("/readyz").starts_with("HTTP/1.1 503"));
    assert_eq!(fixture.client().text("/metrics"), Ok("strandline_clients 2\n".to_owned()));
}

#[test]
fn what_is_not_understood_is_refused_in_the_error_form() {
    let fixture = Fixture::new("a");
    assert!(fixture.get("/v1/vol/fly").contains("E3204"));
    let other = fixture.get("/v2/vol/ls");
    assert!(other.starts_with("HTTP/1.1 409") && other.contains("E4006"), "{other}");
    let length = BODY_MAX_BYTES + 1;
    let head = format!(
        "POST /v1/vol/create HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    assert!(fixture.raw(&head).contains("E2017"));
}

#[test]
fn a_panic_in_a_call_is_a_bug_and_the_server_goes_on() {
    let fixture = Fixture::new("a");
    let client = fixture.client();
    let failure = client.ask(&WHO, api::verbs::store::Stop {}).expect_err("it panics");
    assert_eq!(failure.exit(), 70);
    assert!(client.ask(&WHO, create("db")).is_ok());
    let path = create("db").into_request().path();
    assert_eq!(path, "vol/create");
}
