//! The asking end: an [`api::Control`] that forwards to a server's socket.
//!
//! A connection for each call: calls are rare, and none outlives the command that made it. Before
//! a byte is sent, the peer must be one of the users that the caller trusts.

use super::{ANSWER_MAX_BYTES, frame};
use api::{
    Answer, Caller, Chunk, Chunks, Control, Failure, Request, codes,
    control::{API_VERSION, VERSION_HEADER},
    failure::ErrorDocument,
    verbs::{export, past},
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method,
    body::{Bytes, Incoming},
    client::conn::http1::{self, SendRequest},
    header,
};
use hyper_util::rt::TokioIo;
use rustix::fs::{Mode, OFlags};
use std::{
    fmt::Write as _,
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{net::UnixStream, runtime, task::JoinHandle};

/// The longest path that fits the address of a unix socket.
const ADDRESS_MAX_BYTES: usize = 107;

/// Asks the server that listens at a socket.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    trusted: Vec<u32>,
    timeout: Option<Duration>,
}

impl Client {
    /// A client of the server at `socket`, which must run as one of the users `trusted`. Without a
    /// timeout a call may take as long as it takes.
    pub fn new(socket: impl Into<PathBuf>, trusted: Vec<u32>, timeout: Option<Duration>) -> Self {
        Self { socket: socket.into(), trusted, timeout }
    }

    /// Whether a server listens: `false` when the socket is missing or left behind by a dead one.
    pub fn probe(&self) -> Result<bool, Failure> {
        let runtime = runtime()?;
        match runtime.block_on(self.connect()) {
            Ok(_) => Ok(true),
            Err(Trouble::Absent) => Ok(false),
            Err(Trouble::Failed(failure)) => Err(failure),
        }
    }

    /// The text of `/metrics`, `/livez` or another path outside the calls.
    pub fn text(&self, path: &str) -> Result<String, Failure> {
        let bytes = self.exchange(Method::GET, path, Bytes::new())?;
        String::from_utf8(bytes.into())
            .map_err(|_| Failure::new(codes::UNEXPECTED_ANSWER, format!("{path} is no text")))
    }

    fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, Failure> {
        let runtime = runtime()?;
        runtime.block_on(self.in_time(async {
            let (response, _connection) = self.send(method, path, "application/json", body).await?;
            let body = Limited::new(response, ANSWER_MAX_BYTES).collect().await;
            Ok(body.map_err(|error| gone(&error))?.to_bytes())
        }))
    }

    async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        within(self.timeout, work).await
    }

    /// Sends one request; the answer's body comes through the task that is returned with it.
    async fn send(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        body: Bytes,
    ) -> Result<(Incoming, JoinHandle<()>), Failure> {
        let stream = self.connect().await.map_err(|trouble| trouble.failure(&self.socket))?;
        let (mut sender, connection): (SendRequest<Full<Bytes>>, _) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| gone(&error))?;
        let connection = tokio::spawn(async move {
            let _ = connection.await; // its failure shows in the answer's body
        });
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "strandline")
            .header(header::ACCEPT, accept)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| Failure::bug(format!("the request to {path}: {error}")))?;
        let response = sender.send_request(request).await.map_err(|error| gone(&error))?;
        let version = response.headers().get(VERSION_HEADER).cloned();
        let (parts, body) = response.into_parts();
        if parts.status.is_success() && version.is_some_and(|found| found == API_VERSION) {
            return Ok((body, connection));
        }
        let body = Limited::new(body, ANSWER_MAX_BYTES).collect().await;
        let body = body.map_err(|error| gone(&error))?.to_bytes();
        let document: Result<ErrorDocument, _> = serde_json::from_slice(&body);
        Err(document.map_or_else(
            |_| {
                Failure::new(
                    codes::VERSIONS_DIFFER,
                    format!(
                        "what listens at {} is no server of {API_VERSION}",
                        self.socket.display()
                    ),
                )
                .doing("update the package `strandline` and restart the server")
            },
            Failure::from_json,
        ))
    }

    async fn connect(&self) -> Result<UnixStream, Trouble> {
        let (address, _directory) = self.address().map_err(|error| self.trouble(&error))?;
        let stream = UnixStream::connect(address).await.map_err(|error| self.trouble(&error))?;
        let peer = stream.peer_cred().map_err(|error| self.trouble(&error))?;
        if self.trusted.contains(&peer.uid()) {
            return Ok(stream);
        }
        let failure = Failure::new(
            codes::SOCKET_FOREIGN,
            format!("the server at {} runs as user {}", self.socket.display(), peer.uid()),
        );
        Err(Trouble::Failed(failure.doing("run the command as that user, or name another socket")))
    }

    /// A name of the socket that fits; through its directory's descriptor where the path does not.
    fn address(&self) -> io::Result<(PathBuf, Option<OwnedFd>)> {
        if self.socket.as_os_str().len() <= ADDRESS_MAX_BYTES {
            return Ok((self.socket.clone(), None));
        }
        let (Some(parent), Some(name)) = (self.socket.parent(), self.socket.file_name()) else {
            return Err(io::ErrorKind::InvalidFilename.into());
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(parent, flags, Mode::empty())?;
        let through = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string());
        Ok((through.join(name), Some(directory)))
    }

    fn trouble(&self, error: &io::Error) -> Trouble {
        use io::ErrorKind::{ConnectionRefused, NotADirectory, NotFound, PermissionDenied};
        let socket = self.socket.display();
        match error.kind() {
            NotFound | ConnectionRefused | NotADirectory => Trouble::Absent,
            PermissionDenied => Trouble::Failed(
                Failure::new(codes::FILE_DENIED, format!("cannot connect to {socket}: {error}"))
                    .doing(
                        "run the command as the store's owner, or in the server's --admin-group",
                    ),
            ),
            _ => Trouble::Failed(Failure::new(
                codes::SERVER_SILENT,
                format!("cannot connect to {socket}: {error}"),
            )),
        }
    }
}

enum Trouble {
    Absent,
    Failed(Failure),
}

impl Trouble {
    fn failure(self, socket: &Path) -> Failure {
        match self {
            Self::Failed(failure) => failure,
            Self::Absent => Failure::new(
                codes::SERVER_SILENT,
                format!("no server listens at {}", socket.display()),
            )
            .doing("start one: strandline serve"),
        }
    }
}

impl Control for Client {
    /// The server sees who asks; `_who` is not sent.
    fn call(&self, _who: &Caller, request: Request) -> Result<Answer, Failure> {
        let path = request.path();
        let body = serde_json::to_vec(&request.to_json()).expect("plain data");
        let target = format!("/{API_VERSION}/{path}");
        let answer = self.exchange(Method::POST, &target, body.into())?;
        Answer::parse(path, &answer)
    }

    fn read(&self, _who: &Caller, request: past::Read) -> Result<Box<dyn Chunks>, Failure> {
        self.stream(&read_path(&request))
    }

    fn export(&self, _who: &Caller, request: export::Read) -> Result<Box<dyn Chunks>, Failure> {
        self.stream(&export_path(&request))
    }
}

impl Client {
    fn stream(&self, path: &str) -> Result<Box<dyn Chunks>, Failure> {
        let runtime = runtime()?;
        let (body, connection) = runtime.block_on(self.in_time(self.send(
            Method::GET,
            path,
            frame::MEDIA_TYPE,
            Bytes::new(),
        )))?;
        let reader = frame::Reader::default();
        let timeout = self.timeout;
        Ok(Box::new(Stream { reader, body, timeout, _connection: connection, runtime }))
    }
}

fn read_path(request: &past::Read) -> String {
    let mut path = format!("/{API_VERSION}/read?offset={}", request.offset);
    push_query(&mut path, "ref", &request.reference);
    if let Some(length) = request.length {
        push_query(&mut path, "length", &length);
    }
    if request.exact {
        path.push_str("&exact=true");
    }
    path
}

fn export_path(request: &export::Read) -> String {
    let mut path = format!("/{API_VERSION}/export/read?offset={}", request.offset);
    let format = serde_json::to_value(request.format).expect("a word");
    push_query(&mut path, "ref", &request.reference);
    push_query(&mut path, "format", &format.as_str().unwrap_or_default());
    push_query(&mut path, "file", &request.file);
    let base = request.base.as_ref().map(ToString::to_string);
    let texts = [
        ("subformat", &request.subformat),
        ("base", &base),
        ("base_name", &request.base_name),
        ("name", &request.name),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            push_query(&mut path, name, text);
        }
    }
    if let Some(length) = request.length {
        push_query(&mut path, "length", &length);
    }
    for (name, is_set) in [("exact", request.exact), ("head_last", request.head_last)] {
        if is_set {
            push_query(&mut path, name, &true);
        }
    }
    path
}

/// Adds a parameter, with all that means something in a query escaped.
fn push_query(path: &mut String, name: &str, value: &dyn std::fmt::Display) {
    write!(path, "&{name}=").expect("a string takes all");
    for byte in value.to_string().bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            path.push(char::from(byte));
        } else {
            write!(path, "%{byte:02X}").expect("a string takes all");
        }
    }
}

struct Stream {
    reader: frame::Reader,
    body: Incoming,
    /// For each piece.
    timeout: Option<Duration>,
    _connection: JoinHandle<()>,
    runtime: runtime::Runtime, // last: it drives the others
}

impl Chunks for Stream {
    fn next(&mut self) -> Result<Option<Chunk>, Failure> {
        loop {
            if let Some(chunk) = self.reader.poll()? {
                return Ok(Some(chunk));
            }
            if self.reader.ended() {
                return Ok(None);
            }
            let frame = async { Ok(self.body.frame().await) };
            match self.runtime.block_on(within(self.timeout, frame))? {
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        self.reader.receive(&bytes);
                    }
                }
                Some(Err(error)) => return Err(gone(&error)),
                None => return Err(gone(&"the stream of bytes was cut")),
            }
        }
    }
}

/// Waits no longer than it may.
async fn within<T>(
    timeout: Option<Duration>,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let Some(timeout) = timeout else { return work.await };
    tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| {
        let limit =
            api::amounts::stretch_text(u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX));
        Err(Failure::new(codes::TIMED_OUT, format!("the server did not answer in {limit}"))
            .doing("give it longer with --timeout; what was asked may still be done"))
    })
}

fn runtime() -> Result<runtime::Runtime, Failure> {
    runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::bug(format!("cannot wait for sockets: {error}")))
}

fn gone(error: &dyn std::fmt::Display) -> Failure {
    Failure::new(codes::SERVER_GONE, format!("the connection to the server broke: {error}"))
        .doing("see whether it still runs: strandline status")
}
