//! A store that is served: its engine with the doors open, until somebody says stop.
//!
//! The control socket is bound before the first NBD socket: who sees the latter can use both.
//! Stopping goes the other way round, in order: no more calls, then the log thread answers what is in
//! flight and makes it durable, then the sockets' names go. All of it is driven by one loop on the
//! thread that calls [`Serving::run`]; a second wish to stop ends that loop at once.

use crate::{
    control,
    data::{Core, Hub, StopReason},
    engine::{Engine, Listening, Opened, Settings},
};
use api::{
    Caller, Control, ControlExt as _, Failure, Reference, VolumeName, codes, verbs::vol::VolShow,
};
use listenfd::ListenFd;
use sd_notify::NotifyState;
use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread,
    time::Duration,
};
use world::{
    Clock as _, Waker,
    real::{
        ListenAddress, ListenError, RealClock, RealListener, RingChoice, StopSignals,
        adopt_listener, listen_tcp, listen_unix,
    },
};

/// Name of the control socket in the store's directory.
const CONTROL: &str = "control.sock";

/// How often it is looked whether something is due.
const TICK: Duration = Duration::from_secs(2);

/// Signals that come so soon after the first are the same wish: `timeout` and shells send theirs to
/// the process and to its group.
const SAME_WISH_NS: u64 = 300_000_000;

/// How long a socket of a server that was killed may seem alive: the kernel ends what its io_uring
/// had begun, an accept for instance, only some time after the process.
const LINGER_NS: u64 = 1_000_000_000;

/// How long to wait between two looks at it.
const AGAIN: Duration = Duration::from_millis(10);

/// Where clients shall knock.
#[derive(Clone, Debug, Default)]
pub struct Doors {
    /// Addresses that were named.
    pub nbd: Vec<Address>,
    /// The address where nothing was named or passed by the service manager.
    pub usual: Option<PathBuf>,
    /// Members may use the NBD sockets.
    pub socket_group: Option<u32>,
    /// Members may use the control socket.
    pub admin_group: Option<u32>,
}

/// An address to listen at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A socket file.
    Unix(PathBuf),
    /// A port; 0 lets the system choose one.
    Tcp(SocketAddr),
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All that was asked is answered and durable.
    Whole,
    /// Somebody did not want to wait for that.
    Impatient,
}

enum Event {
    Signal,
    Asked,
    LogEnded(io::Result<StopReason>),
}

/// See the module's head.
pub struct Serving {
    engine: Arc<Engine>,
    listening: Vec<Listening>,
    control: Option<control::Server>,
    /// Caught while this lives.
    _signals: StopSignals,
    abandoned: bool,
    told: Receiver<Event>,
    log: Option<thread::JoinHandle<()>>,
    /// Its name goes with it.
    _door: Option<RealListener>,
}

impl Serving {
    /// Opens the doors of a store. When this returns, clients are served.
    pub fn start(
        opened: Opened,
        settings: Settings,
        ring: RingChoice,
        doors: &Doors,
    ) -> Result<Self, Failure> {
        for healed in &opened.held.healed {
            tracing::warn!("healed: {healed}");
        }
        let path = opened.held.path.join(CONTROL);
        let door = match listen_at(&path, doors.admin_group) {
            Ok(door) => Some(door),
            Err(error) if opened.held.read_only => {
                let error = with_cause(&error);
                tracing::warn!(error, "no control socket: commands open the store themselves");
                None
            }
            Err(error) => return Err(not_listening(&error)),
        };
        let calls = door.as_ref().map(RealListener::to_unix_listener);
        let calls = calls.transpose().map_err(no_thread)?;
        let (listeners, listening) = open_doors(doors)?;

        let (tell, told) = mpsc::channel();
        let waker = {
            let tell = tell.clone();
            Waker(Arc::new(move || {
                let _ = tell.send(Event::Signal); // nobody waits any more: it has ended
            }))
        };
        let signals = StopSignals::install(waker).map_err(no_thread)?;
        let default = settings.default_volume.clone();
        let (engine, running) = Engine::start(opened, settings, ring)?;
        engine.set_listening(listening.clone());
        {
            let tell = tell.clone();
            engine.set_stop(move || {
                let _ = tell.send(Event::Asked);
            });
        }
        let log = {
            let tell = tell.clone();
            let wait = move || {
                let _ = tell.send(Event::LogEnded(running.join()));
            };
            thread::Builder::new().name("log-end".to_owned()).spawn(wait).map_err(no_thread)?
        };
        let mut serving = Self {
            engine,
            listening,
            control: None,
            _signals: signals,
            abandoned: false,
            told,
            log: Some(log),
            _door: door,
        };
        if let Some(name) = default {
            serving.must_exist(name)?;
        }
        serving.open(calls, listeners)?;
        Ok(serving)
    }

    /// Refuses a default volume that is not there.
    fn must_exist(&self, name: VolumeName) -> Result<(), Failure> {
        let who = Caller { uid: self.engine.held().owner, gid: 0, pid: None };
        let reference = Reference::volume(name);
        self.engine.ask(&who, VolShow { reference, exact: false }).map(drop)
    }

    fn open(
        &mut self,
        calls: Option<UnixListener>,
        listeners: Vec<RealListener>,
    ) -> Result<(), Failure> {
        let (metrics, ready) = (self.engine.clone(), self.engine.hub().clone());
        let hooks = control::Hooks {
            metrics: Box::new(move || metrics.metrics()),
            ready: Box::new(move || ready.visit(|_| ()).is_ok()),
        };
        let control: Arc<dyn Control> = self.engine.clone();
        let server = calls.map(|calls| control::Server::start(calls, control, hooks));
        self.control = server.transpose().map_err(no_thread)?;
        let listen = move |core: &mut Core| {
            for listener in listeners {
                core.listen(listener.into_listener());
            }
        };
        self.engine.hub().visit(listen).map_err(ended)?;
        notify(NotifyState::Ready);
        let (held, io) = (self.engine.held(), self.engine.io());
        let store = held.facts.store;
        tracing::info!(%store, path = %held.path.display(), io, "serving");
        Ok(())
    }

    /// The store at work.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Where clients knock, as it came to be.
    pub fn listening(&self) -> &[Listening] {
        &self.listening
    }

    /// Serves until a signal, `stop`, or until `enough` says so; it is asked every few seconds.
    pub fn run(mut self, mut enough: impl FnMut(&Engine) -> bool) -> Result<Ended, Failure> {
        let mut stopping: Option<u64> = None;
        loop {
            let wish = match self.told.recv_timeout(TICK) {
                Ok(Event::LogEnded(end)) => return self.ended(end),
                Ok(Event::Signal) if stopping.is_some_and(|since| self.is_later(since)) => {
                    tracing::warn!("not waiting for what is in flight");
                    self.abandoned = true;
                    return Ok(Ended::Impatient);
                }
                Ok(Event::Signal | Event::Asked) => true,
                Err(RecvTimeoutError::Timeout) if stopping.is_some() => false,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    if let Err(failure) = self.engine.on_time() {
                        tracing::warn!(%failure, "what is due could not be done");
                    }
                    enough(&self.engine)
                }
            };
            if wish && stopping.is_none() {
                stopping = Some(self.engine.held().clock.boot_ns());
                notify(NotifyState::Stopping);
                tracing::info!("stopping");
                self.begin_stop()?;
            }
        }
    }

    fn is_later(&self, since_boot_ns: u64) -> bool {
        self.engine.held().clock.boot_ns().saturating_sub(since_boot_ns) > SAME_WISH_NS
    }

    /// In a thread of its own, so that this one hears the second wish.
    fn begin_stop(&mut self) -> Result<(), Failure> {
        self.engine.end_background();
        let (control, hub) = (self.control.take(), self.engine.hub().clone());
        let stop = move || {
            if let Some(control) = control {
                control.stop();
            }
            stop_log(&hub);
        };
        thread::Builder::new().name("stop".to_owned()).spawn(stop).map(drop).map_err(no_thread)
    }

    fn ended(mut self, end: io::Result<StopReason>) -> Result<Ended, Failure> {
        drop(self.control.take());
        if let Some(log) = self.log.take() {
            let _ = log.join();
        }
        match end {
            Ok(StopReason::Asked) => Ok(Ended::Whole),
            Ok(StopReason::GaveUp) => {
                tracing::warn!("not all answers could be given in time");
                Ok(Ended::Whole)
            }
            Ok(StopReason::Unflushed) => Err(unflushed()),
            Err(error) => Err(Failure::new(codes::DISK_ERROR, format!("the log ended: {error}"))),
        }
    }
}

impl Drop for Serving {
    /// After a failure at the start: nothing is left running.
    fn drop(&mut self) {
        let Some(log) = self.log.take() else { return };
        if self.abandoned {
            return; // the process ends now, whatever the log thread does
        }
        drop(self.control.take());
        self.engine.end_background();
        stop_log(self.engine.hub());
        let _ = log.join();
    }
}

fn stop_log(hub: &Hub) {
    let _ = hub.visit(Core::stop); // it may have ended by itself
}

fn unflushed() -> Failure {
    let text = "what was written since the last flush could not be made durable";
    Failure::new(codes::DISK_ERROR, text).doing("strandline status names what the disk refused")
}

/// A store that one command uses: its log thread ends with this.
pub struct Alone {
    engine: Arc<Engine>,
    running: Option<crate::data::Running>,
}

impl Alone {
    /// Runs a store for this process only.
    pub fn start(opened: Opened, settings: Settings, ring: RingChoice) -> Result<Self, Failure> {
        for healed in &opened.held.healed {
            tracing::warn!("healed: {healed}");
        }
        let (engine, running) = Engine::start(opened, settings, ring)?;
        Ok(Self { engine, running: Some(running) })
    }
}

impl Control for Alone {
    fn call(&self, who: &api::Caller, request: api::Request) -> Result<api::Answer, Failure> {
        self.engine.call(who, request)
    }

    fn read(
        &self,
        who: &api::Caller,
        request: api::verbs::past::Read,
    ) -> Result<Box<dyn api::Chunks>, Failure> {
        self.engine.read(who, request)
    }

    fn export(
        &self,
        who: &api::Caller,
        request: api::verbs::export::Read,
    ) -> Result<Box<dyn api::Chunks>, Failure> {
        self.engine.export(who, request)
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        let Some(running) = self.running.take() else { return };
        self.engine.end_background();
        stop_log(self.engine.hub());
        match self.engine.join(running) {
            Ok(StopReason::Asked) => {}
            Ok(StopReason::GaveUp) => tracing::warn!("the store was left before all was done"),
            Ok(StopReason::Unflushed) => tracing::error!("{}", unflushed().message),
            Err(error) => tracing::error!(%error, "the log ended"),
        }
    }
}

pub(crate) fn open_doors(doors: &Doors) -> Result<(Vec<RealListener>, Vec<Listening>), Failure> {
    let mut listeners = passed()?;
    for address in &doors.nbd {
        listeners.push(
            match address {
                Address::Unix(path) => listen_at(path, doors.socket_group),
                Address::Tcp(address) => listen_tcp(*address),
            }
            .map_err(|error| not_listening(&error))?,
        );
    }
    if listeners.is_empty()
        && let Some(path) = &doors.usual
    {
        let listener = listen_at(path, doors.socket_group);
        let listener = listener.map_err(|error| not_listening(&error))?;
        listeners.push(listener);
    }
    let listening = listeners.iter().filter_map(|listener| match listener.address() {
        ListenAddress::Unix(path) => Some(Listening::Unix(absolute(path))),
        ListenAddress::Tcp(address) => Some(Listening::Tcp(*address)),
        ListenAddress::Unknown => None,
    });
    let listening = listening.collect();
    Ok((listeners, listening))
}

/// Listens on a socket file, once a killed server's socket there is dead.
fn listen_at(path: &Path, group: Option<u32>) -> Result<RealListener, ListenError> {
    let deadline = RealClock.boot_ns().saturating_add(LINGER_NS);
    loop {
        match listen_unix(path, group) {
            Err(ListenError::Busy { .. }) if RealClock.boot_ns() < deadline => {
                thread::park_timeout(AGAIN); // there is no event for its end
            }
            other => return other,
        }
    }
}

/// What clients elsewhere on this host must say.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Listeners that a service manager passed.
fn passed() -> Result<Vec<RealListener>, Failure> {
    let mut given = ListenFd::from_env();
    let mut listeners = Vec::new();
    for index in 0..given.len() {
        let unix = given.take_unix_listener(index).map(|it| it.map(OwnedFd::from));
        let tcp =
            |_| given.take_tcp_listener(index).map(|it: Option<TcpListener>| it.map(OwnedFd::from));
        let fd = unix.or_else(tcp).map_err(|error| {
            let text = format!("what the service manager passed as socket {index}: {error}");
            Failure::new(codes::ADDRESS, text).doing("pass listening stream sockets only")
        })?;
        if let Some(fd) = fd {
            listeners.push(adopt_listener(fd).map_err(|error| not_listening(&error))?);
        }
    }
    Ok(listeners)
}

/// Tells the service manager, if there is one.
fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "the service manager could not be told");
    }
}

fn not_listening(error: &ListenError) -> Failure {
    use io::ErrorKind as K;
    let code = match error {
        ListenError::Busy { .. } => codes::SOCKET_LIVE,
        ListenError::NotOurs { .. } | ListenError::OpenDirectory { .. } => codes::SOCKET_FOREIGN,
        ListenError::InTheWay { .. } => codes::TARGET_EXISTS,
        ListenError::BadName { .. } | ListenError::NotListening { .. } => codes::ADDRESS,
        ListenError::Io { source, .. } => match source.kind() {
            K::NotFound | K::NotADirectory => codes::NO_FILE,
            K::PermissionDenied | K::ReadOnlyFilesystem => codes::FILE_DENIED,
            K::AddrInUse => codes::SOCKET_LIVE,
            K::StorageFull | K::QuotaExceeded => codes::TARGET_FULL,
            _ => codes::ADDRESS,
        },
    };
    let failure = Failure::new(code, format!("cannot serve: {}", with_cause(error)));
    match code {
        codes::SOCKET_LIVE => failure.doing("choose another address: --nbd unix:PATH"),
        codes::NO_FILE => failure.doing("make the directory first"),
        codes::FILE_DENIED => failure
            .doing("name a socket in a directory that you may write to, or a port from 1024 on"),
        codes::SOCKET_FOREIGN => failure.doing(match error {
            ListenError::NotOurs { .. } => "serve as that user, or what is there must be yours",
            _ => "close the directory to others, or name a socket in another one",
        }),
        _ => failure,
    }
}

fn with_cause(error: &ListenError) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default())
}

#[expect(clippy::needless_pass_by_value, reason = "as `map_err` gives it")]
pub(crate) fn no_thread(error: io::Error) -> Failure {
    Failure::bug(format!("the server cannot start: {error}"))
}

fn ended(error: crate::data::ChangeError) -> Failure {
    Failure::bug(format!("the server ended while it started: {error}"))
}

/// Whether something is open that `open` opened.
pub fn offers_opened(engine: &Engine) -> bool {
    let Ok(snapshot) = engine.hub().snapshot() else { return false };
    let catalogue = &snapshot.catalogue;
    let branches = catalogue.volumes().flat_map(|volume| catalogue.branches(volume.id));
    let mut branches = branches.filter(|it| it.presence == catalogue::Presence::Live);
    catalogue.openings().next().is_some()
        || branches.any(|it| it.ended.is_none() && it.ttl_ns.is_some())
}
