//! Round trips over a real socket, with a store that is three lines long.

use super::{BODY_MAX_BYTES, Client, Hooks, Server};
use api::{
    Answer, Caller, Chunk, Chunks, Control, ControlExt, Failure, Request, Verb, codes,
    verbs::{export, past, session, vol},
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
            Request::ExportDescribe(asked) => Ok(Answer::ExportDescribe(described(&asked))),
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

    fn export(&self, _who: &Caller, request: export::Read) -> Result<Box<dyn Chunks>, Failure> {
        assert_eq!(request.reference.to_string(), "db@seq:7", "what was described is read");
        let length = request.length.unwrap_or(FILE.len() as u64 - request.offset);
        let place = |at: u64| usize::try_from(at).expect("small");
        let bytes = FILE[place(request.offset)..place(request.offset + length)].to_vec();
        Ok(Box::new(Steps(vec![Ok(Chunk::Data(bytes))].into_iter())))
    }
}

const FILE: &[u8] = b"the bytes of an image";

fn described(asked: &export::Describe) -> export::Described {
    let reference = "db@seq:7".parse().expect("well formed");
    let length = (asked.subformat.is_none()).then_some(FILE.len() as u64);
    let file = export::ExportFile {
        name: "db-seq7.qcow2".to_owned(),
        suffix: String::new(),
        length,
        etag: "a1".to_owned(),
    };
    export::Described {
        reference,
        seq: 7,
        time: units::Timestamp(0).into(),
        resolution: None,
        size: 4096,
        format: asked.format,
        subformat: "plain".to_owned(),
        base: None,
        data: Some(0),
        files: vec![file],
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

#[test]
fn parts_of_a_file_are_asked_as_of_any_web_server() {
    let fixture = Fixture::new("a");
    let ask = |method: &str, path: &str, headers: &str| {
        let path = format!("/v1/export/read?ref=db&format=qcow2{path}");
        let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
        let answer = fixture.raw(&format!("{head}{headers}\r\n"));
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        (head.to_ascii_lowercase(), body.to_owned())
    };
    let whole = std::str::from_utf8(FILE).expect("text");
    let (head, body) = ask("GET", "", "");
    assert_eq!(body, whole);
    for line in ["http/1.1 200", "etag: \"a1\"", "accept-ranges: bytes", "content-length: 21"] {
        assert!(head.contains(line), "{head}");
    }
    let (head, body) = ask("HEAD", "", "");
    assert_eq!((head.contains("content-length: 21"), body.as_str()), (true, ""));
    let (head, body) = ask("GET", "", "Range: bytes=4-8\r\n");
    assert_eq!(body, "bytes");
    assert!(head.contains("http/1.1 206") && head.contains("content-range: bytes 4-8/21"));
    let (head, body) = ask("GET", "", "Range: bytes=-5\r\nIf-Range: \"a1\"\r\n");
    assert_eq!((head.contains(" 206 "), body.as_str()), (true, "image"));
    let (head, body) = ask("GET", "", "Range: bytes=-5\r\nIf-Range: \"b2\"\r\n");
    assert_eq!((head.contains(" 200 "), body.as_str()), (true, whole), "another file: the whole");
    let (head, body) = ask("GET", "", "Range: bytes=21-\r\n");
    assert!(head.contains(" 416 ") && head.contains("content-range: bytes */21"), "{head}");
    assert_eq!(body, "");
    let (head, body) = ask("GET", "", "If-None-Match: \"a1\"\r\n");
    assert_eq!((head.contains(" 304 "), body.as_str()), (true, ""));
    let (head, body) = ask("GET", "&offset=4&length=5", "Range: bytes=0-0\r\n");
    assert_eq!((head.contains(" 200 "), body.as_str()), (true, "bytes"), "the name has the range");
    let (head, body) = ask("GET", "&subformat=zlib", "Range: bytes=4-8\r\n");
    assert!(head.contains(" 200 ") && head.contains("accept-ranges: none"), "{head}");
    assert!(!head.contains("content-length"), "{head}");
    assert!(body.contains(whole), "{body}");
    let (head, body) = ask("GET", "&file=1", "");
    assert!(head.contains(" 400 ") && body.contains("E2001"), "{head} {body}");
}

#[test]
fn our_client_asks_for_all_that_a_read_names() {
    let fixture = Fixture::new("a");
    let describe = export::Describe {
        name: Some("my disk+1.vmdk".to_owned()),
        base: Some("db@mark:a~1^quiet:2s".parse().expect("well formed")),
        base_name: Some("../b&c=d.vmdk".to_owned()),
        exact: true,
        ..export::Describe::of("db@seq:7".parse().expect("well formed"), export::ImageFormat::Vmdk)
    };
    let read = describe.read(0).range(4, 5);
    let mut chunks = fixture.client().export(&WHO, read).expect("a stream");
    assert_eq!(chunks.next(), Ok(Some(Chunk::Data(b"bytes".to_vec()))));
    assert_eq!(chunks.next(), Ok(None));
}
