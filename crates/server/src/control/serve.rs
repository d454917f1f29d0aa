//! The server's end: routes, peers, limits, and the thread it runs in.

use super::{BODY_MAX_BYTES, CALLS_MAX, frame};
use api::{
    Answer, Caller, Chunk, Chunks, Control, ControlExt as _, Failure, Kind, Request, codes,
    control::{API_VERSION, VERBS, VERSION_HEADER, no_such_call},
    verbs::{export, past},
};
use axum::{
    Router,
    body::Body,
    extract::{
        ConnectInfo, Path, Query, State, connect_info::Connected, rejection::QueryRejection,
    },
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{any, get},
    serve::IncomingStream,
};
use hyper::body::{Body as _, Bytes};
use std::{io, os::unix::net::UnixListener, sync::Arc, thread, time::Duration};
use tokio::{
    runtime,
    sync::{Semaphore, mpsc, oneshot},
    task, time,
};

/// How long calls may go on after the server was told to stop.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// How long the body of a request may take to come.
const BODY_GRACE: Duration = Duration::from_secs(10);

/// What the server asks its owner besides the control calls.
pub struct Hooks {
    /// The text of `/metrics`, in Prometheus' form.
    pub metrics: Box<dyn Fn() -> String + Send + Sync>,
    /// Whether `/readyz` says yes: the store is recovered and serves.
    pub ready: Box<dyn Fn() -> bool + Send + Sync>,
}

/// A control server at work. Dropping it stops it.
pub struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Server {
    /// Serves on the listener until it is stopped.
    pub fn start(
        listener: UnixListener,
        control: Arc<dyn Control>,
        hooks: Hooks,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(CALLS_MAX)
            .thread_name("control-call")
            .build()?;
        let listener = {
            let _inside = runtime.enter();
            tokio::net::UnixListener::from_std(listener)?
        };
        let state = Arc::new(Shared { control, hooks, calls: Arc::new(Semaphore::new(CALLS_MAX)) });
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new().name("control".to_owned()).spawn(move || {
            runtime.block_on(run(listener, state, stopped));
            runtime.shutdown_timeout(STOP_GRACE);
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }

    /// Takes no more connections, lets calls finish, and ends.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the control server's thread panicked");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

struct Shared {
    control: Arc<dyn Control>,
    hooks: Hooks,
    calls: Arc<Semaphore>,
}

async fn run(
    listener: tokio::net::UnixListener,
    state: Arc<Shared>,
    stopped: oneshot::Receiver<()>,
) {
    let (told, mut telling) = oneshot::channel();
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/v1/read", get(read))
        .route("/v1/export/read", get(export_read))
        .route("/v1/{*path}", any(call))
        .fallback(elsewhere)
        .layer(middleware::map_response(with_version))
        .with_state(state)
        .into_make_service_with_connect_info::<Peer>();
    let serving = axum::serve(listener, router).with_graceful_shutdown(async move {
        let _ = stopped.await; // a dropped sender says stop, too
        let _ = told.send(());
    });
    let mut serving = std::pin::pin!(serving.into_future());
    let ended = tokio::select! {
        ended = &mut serving => Some(ended),
        _ = &mut telling => None,
    };
    let ended = match ended {
        Some(ended) => Ok(ended),
        None => time::timeout(STOP_GRACE, serving).await,
    };
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, "the control server ended"),
        Err(_) => tracing::warn!("calls that would not end were cut off"),
    }
}

/// The other end of a connection; `None` when the kernel would not say.
#[derive(Clone, Copy)]
struct Peer(Option<Caller>);

impl Connected<IncomingStream<'_, tokio::net::UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, tokio::net::UnixListener>) -> Self {
        let credentials = stream.io().peer_cred().ok();
        Self(credentials.map(|peer| Caller { uid: peer.uid(), gid: peer.gid(), pid: peer.pid() }))
    }
}

impl Peer {
    fn caller(self) -> Result<Caller, Refusal> {
        self.0.ok_or_else(|| {
            Refusal(Failure::new(codes::NOT_ALLOWED, "the kernel does not say who is asking"))
        })
    }
}

async fn call(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    method: Method,
    Path(path): Path<String>,
    body: Body,
) -> Result<Response, Refusal> {
    let who = peer.caller()?;
    let Some(verb) = VERBS.iter().find(|verb| verb.path == path) else {
        return Err(no_such_call(&path).into());
    };
    let body = match method {
        Method::GET if verb.asks => Bytes::new(),
        Method::POST => whole(body).await?,
        _ => return Err(bad_request(&format!("{method} {path}; a call is a POST"))),
    };
    let request = Request::parse(&path, &body)?;
    let answer = shared.blocking(move |control| control.call(&who, request)).await?;
    Ok(json(StatusCode::OK, serde_json::to_vec(&Answer::to_json(&answer))))
}

/// The body of a request: refused at once when it says that it is too long, and when it does not
/// come in time.
async fn whole(body: Body) -> Result<Bytes, Refusal> {
    let too_long = || bad_request(&format!("a request has at most {BODY_MAX_BYTES} bytes"));
    if body.size_hint().lower() > BODY_MAX_BYTES as u64 {
        return Err(too_long());
    }
    match time::timeout(BODY_GRACE, axum::body::to_bytes(body, BODY_MAX_BYTES)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => Err(too_long()),
        Err(_) => Err(bad_request("the request's body did not come")),
    }
}

async fn read(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    headers: HeaderMap,
    query: Result<Query<past::Read>, QueryRejection>,
) -> Result<Response, Refusal> {
    let who = peer.caller()?;
    let Query(request) = query.map_err(|rejection| bad_request(&rejection.body_text()))?;
    let framed = wants_frames(&headers);
    let body = shared.stream(framed, move |control| control.read(&who, request)).await?;
    Ok(([(header::CONTENT_TYPE, kind_of(framed))], body).into_response())
}

/// A file of an export. Who takes frames gets the range that the query names; everybody else may ask
/// for a part by `Range`, and whether it changed by `If-None-Match`.
async fn export_read(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    method: Method,
    headers: HeaderMap,
    query: Result<Query<export::Read>, QueryRejection>,
) -> Result<Response, Refusal> {
    let who = peer.caller()?;
    let Query(request) = query.map_err(|rejection| bad_request(&rejection.body_text()))?;
    if wants_frames(&headers) {
        let body = shared.stream(true, move |control| control.export(&who, request)).await?;
        return Ok(([(header::CONTENT_TYPE, kind_of(true))], body).into_response());
    }
    let describe = request.describe();
    let described = shared.blocking(move |control| control.ask(&who, describe)).await?;
    let (answer, read) = super::range::answer(&described, request, &headers)?;
    let response = Response::builder().status(answer.status);
    let mut response = answer
        .headers
        .into_iter()
        .fold(response, |response, (name, value)| response.header(name, value));
    let body = match read {
        Some(read) if method != Method::HEAD => {
            response = response.header(header::CONTENT_TYPE, kind_of(false));
            shared.stream(false, move |control| control.export(&who, read)).await?
        }
        _ => Body::empty(),
    };
    response.body(body).map_err(|error| Refusal(Failure::bug(error.to_string())))
}

fn wants_frames(headers: &HeaderMap) -> bool {
    headers.get(header::ACCEPT).is_some_and(|accepted| accepted == frame::MEDIA_TYPE)
}

const fn kind_of(framed: bool) -> &'static str {
    if framed { frame::MEDIA_TYPE } else { "application/octet-stream" }
}

/// Pulls the stream and pushes it to the reader, until either ends.
fn feed(chunks: &mut dyn Chunks, framed: bool, sender: &mpsc::Sender<io::Result<Bytes>>) {
    loop {
        let step = chunks.next();
        let last = !matches!(step, Ok(Some(_)));
        let sent = if framed {
            frame::framed(step).into_iter().all(|piece| sender.blocking_send(Ok(piece)).is_ok())
        } else {
            feed_plain(step, sender)
        };
        if last || !sent {
            return;
        }
    }
}

fn feed_plain(
    step: Result<Option<Chunk>, Failure>,
    sender: &mpsc::Sender<io::Result<Bytes>>,
) -> bool {
    match step {
        Ok(Some(Chunk::Data(data))) => sender.blocking_send(Ok(data.into())).is_ok(),
        Ok(Some(Chunk::Zeroes(mut length))) => {
            while length > 0 {
                let now = length.min(frame::ZERO_SLICE.len() as u64);
                let slice = &frame::ZERO_SLICE[..usize::try_from(now).expect("a slice's length")];
                if sender.blocking_send(Ok(Bytes::from_static(slice))).is_err() {
                    return false;
                }
                length -= now;
            }
            true
        }
        Ok(None) => true,
        Err(failure) => sender.blocking_send(Err(io::Error::other(failure))).is_ok(),
    }
}

impl Shared {
    /// A body that is fed on a thread of its own.
    async fn stream(
        &self,
        framed: bool,
        begin: impl FnOnce(&dyn Control) -> Result<Box<dyn Chunks>, Failure> + Send + 'static,
    ) -> Result<Body, Refusal> {
        let permit = self.permit().await?;
        let mut chunks = self.blocking_within(begin).await?;
        let (sender, receiver) = mpsc::channel(frame::QUEUE);
        task::spawn_blocking(move || {
            feed(&mut *chunks, framed, &sender);
            drop(permit);
        });
        Ok(Body::new(frame::Fed(receiver)))
    }

    async fn permit(&self) -> Result<tokio::sync::OwnedSemaphorePermit, Refusal> {
        let permit = Arc::clone(&self.calls).acquire_owned().await;
        permit.map_err(|_| Refusal(Failure::bug("the control server's calls were closed")))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Control) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Refusal> {
        let _permit = self.permit().await?;
        self.blocking_within(work).await
    }

    async fn blocking_within<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Control) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Refusal> {
        let control = Arc::clone(&self.control);
        match task::spawn_blocking(move || work(&*control)).await {
            Ok(result) => result.map_err(Refusal),
            Err(error) => {
                tracing::error!(%error, "a control call panicked");
                Err(Refusal(Failure::bug(
                    "the call ended without an answer; the server's log says why",
                )))
            }
        }
    }
}

async fn ready(State(shared): State<Arc<Shared>>) -> (StatusCode, &'static str) {
    if (shared.hooks.ready)() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the store is not ready\n")
    }
}

async fn metrics(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], (shared.hooks.metrics)())
}

async fn elsewhere(uri: axum::http::Uri) -> Refusal {
    let path = uri.path();
    let version = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    let number = version.strip_prefix('v').filter(|number| number.parse::<u32>().is_ok());
    Refusal(match number {
        Some(_) if version != API_VERSION => Failure::new(
            codes::VERSIONS_DIFFER,
            format!("the server speaks {API_VERSION}, the command line {version}"),
        )
        .doing("update the package `strandline` and restart the server"),
        _ => Failure::new(codes::NO_SUCH_CALL, format!("there is no `{path}`")),
    })
}

async fn with_version(mut response: Response) -> Response {
    response.headers_mut().insert(VERSION_HEADER, HeaderValue::from_static(API_VERSION));
    response
}

fn bad_request(what: &str) -> Refusal {
    Refusal(Failure::new(codes::BAD_REQUEST, what))
}

fn json(status: StatusCode, body: serde_json::Result<Vec<u8>>) -> Response {
    let body = body.expect("answers are plain data with string keys");
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// A failure on its way out.
pub(super) struct Refusal(Failure);

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        json(status(self.0.kind()), serde_json::to_vec(&self.0.to_json()))
    }
}

/// The one table from kinds to HTTP.
const fn status(kind: Kind) -> StatusCode {
    match kind {
        Kind::Usage => StatusCode::BAD_REQUEST,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Busy => StatusCode::CONFLICT,
        Kind::Denied => StatusCode::FORBIDDEN,
        Kind::Protected => StatusCode::PRECONDITION_REQUIRED,
        Kind::No => StatusCode::UNPROCESSABLE_ENTITY,
        Kind::Unreachable => StatusCode::BAD_GATEWAY,
        Kind::Full => StatusCode::INSUFFICIENT_STORAGE,
        Kind::Damaged | Kind::Bug => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
