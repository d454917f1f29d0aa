//! What this process does itself when no server does it: make a store, open it, serve it.
//!
//! Everything that needs an engine in this process goes through these functions, so that the
//! commands know nothing but [`Control`].

mod addresses;
pub mod demo;
mod keys;

use crate::cli::{AckPolicy, AnyoneRight, Global, InitArgs, IoChoice, ServeArgs};
use api::{
    Control, Failure, codes,
    verbs::{
        image::{ImageAdopt, ImageAdopted},
        past::{self, Open},
        store::StoreCreated,
    },
};
use server::{
    control::Client,
    engine::{self, Anyone, Engine, InitOptions, Listening, OpenOptions, Opened, Settings},
    image::Served,
    serving::{Alone, Doors, Ended, Serving, offers_opened},
};
use std::{
    path::{Path, PathBuf},
    thread,
    time::Duration,
};
use world::{
    Clock as _,
    real::{RealClock, RingChoice, forbid_dumps, group_id, raise_descriptor_limit},
};

/// How long a command waits for another one that has the store open.
const LOCKED_NS: u64 = 2_000_000_000;
/// How long it waits between two tries.
const AGAIN: Duration = Duration::from_millis(20);

/// What opening a store needs.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Directory of the store.
    pub store: PathBuf,
    /// Key file, where it is not in its usual place.
    pub key_file: Option<PathBuf>,
    /// File that holds the passphrase.
    pub passphrase_file: Option<PathBuf>,
    /// Whether the user may be asked for a passphrase.
    pub may_ask: bool,
    /// The store may lie on a network file system.
    pub network_fs: bool,
    /// History may end before flushed data that is missing.
    pub accept_loss: bool,
}

impl EngineOptions {
    /// As the command line says.
    pub fn new(global: &Global, store: &Path, may_ask: bool) -> Self {
        Self {
            store: store.to_owned(),
            key_file: global.key_file.clone(),
            passphrase_file: global.passphrase_file.clone(),
            may_ask,
            network_fs: global.network_fs,
            accept_loss: false,
        }
    }
}

/// Opens the store in this process. On a medium that cannot be written, what it holds can be read.
pub fn open(options: &EngineOptions) -> Result<Box<dyn Control>, Failure> {
    let key = keys::source(options, false)?;
    let (network_fs, accept_loss) = (options.network_fs, options.accept_loss);
    let open = OpenOptions { key, network_fs, accept_loss, ..OpenOptions::default() };
    let opened = match open_store(options, &open) {
        Err(failure) if failure.code == codes::READ_ONLY => {
            open_store(options, &OpenOptions { read_only: true, ..open })?
        }
        other => other?,
    };
    let settings = Settings { version: version(), ..Settings::default() };
    Ok(Box::new(Alone::start(opened, settings, RingChoice::Auto)?))
}

/// Makes a store.
pub fn init(options: &EngineOptions, args: &InitArgs) -> Result<StoreCreated, Failure> {
    hide_memory();
    let key = keys::for_new_store(options, args.passphrase)?;
    let segment_bytes = args.segment_size;
    let made = InitOptions { key, segment_bytes, network_fs: options.network_fs };
    engine::init(&options.store, &made)
}

/// Serves the store until SIGTERM or Ctrl-C; `begun` is told once clients are served.
pub fn serve(
    options: &EngineOptions,
    args: &ServeArgs,
    begun: &mut dyn FnMut(&Serving),
) -> Result<u8, Failure> {
    let nbd = addresses::parse_all(&args.nbd, args.insecure_lan)?;
    let socket_group = group(args.socket_group.as_deref())?;
    let admin_group = group(args.admin_group.as_deref())?;
    let default_volume = args.default.as_deref().map(str::parse).transpose()?;
    let open = OpenOptions {
        key: keys::source(options, args.passphrase)?,
        read_only: args.read_only,
        ack: args.ack.map(ack).unwrap_or_default(),
        pack: !args.no_pack,
        pool_bytes: args.pool_size,
        network_fs: options.network_fs,
        ..OpenOptions::default()
    };
    let opened = open_store(options, &open)?;
    let settings = Settings {
        serving: true,
        default_volume,
        anyone: args.anyone.map(anyone),
        socket_group,
        admin_group,
        version: version(),
    };
    let usual = if nbd.is_empty() { Some(addresses::usual(&options.store)) } else { None };
    let doors = Doors { nbd, usual, socket_group, admin_group };
    let serving = start(opened, settings, args.io.map_or(RingChoice::Auto, ring), &doors)?;
    begun(&serving);
    finish(serving, |_| false)
}

/// Opens an instant, offers it at `nbd` (or at the usual socket), tells `opened`, and serves until
/// Ctrl-C or until it closes by itself.
pub fn serve_opened(
    options: &EngineOptions,
    nbd: Option<&str>,
    request: Open,
    opened: &mut dyn FnMut(&past::Opened),
) -> Result<u8, Failure> {
    let nbd = nbd.map(str::to_owned);
    let nbd = addresses::parse_all(nbd.as_slice(), false)?;
    let key = keys::source(options, false)?;
    let network_fs = options.network_fs;
    let open = OpenOptions { key, network_fs, ..OpenOptions::default() };
    let store = match open_store(options, &open) {
        Err(failure) if failure.code == codes::READ_ONLY && !request.writable => {
            open_store(options, &OpenOptions { read_only: true, ..open })?
        }
        Err(failure) if failure.code == codes::READ_ONLY => {
            return Err(failure.doing("open it without --rw"));
        }
        other => other?,
    };
    let usual = if nbd.is_empty() { Some(addresses::usual(&options.store)) } else { None };
    let doors = Doors { nbd, usual, ..Doors::default() };
    let settings = Settings { serving: true, version: version(), ..Settings::default() };
    let serving = start(store, settings, RingChoice::Auto, &doors)?;
    let answer = api::ControlExt::ask(&**serving.engine(), &crate::places::caller(), request)?;
    opened(&answer);
    let read_only = serving.engine().held().read_only; // then nothing records what is open
    finish(serving, |engine| !read_only && !offers_opened(engine))
}

/// Makes a volume on an image, offers it at `nbd` (or at the usual socket), tells `made`, and serves the
/// store until Ctrl-C. Unless the name was `chosen`, another one is taken where it is not free.
pub fn serve_adopted(
    options: &EngineOptions,
    nbd: &[String],
    mut request: ImageAdopt,
    chosen: bool,
    made: &mut dyn FnMut(&ImageAdopted),
) -> Result<u8, Failure> {
    const NAMES_MAX: u32 = 99;
    let nbd = addresses::parse_all(nbd, false)?;
    let key = keys::source(options, false)?;
    let network_fs = options.network_fs;
    let open = OpenOptions { key, network_fs, ..OpenOptions::default() };
    let store = open_store(options, &open)?;
    let usual = if nbd.is_empty() { Some(addresses::usual(&options.store)) } else { None };
    let doors = Doors { nbd, usual, ..Doors::default() };
    let settings = Settings { serving: true, version: version(), ..Settings::default() };
    let serving = start(store, settings, RingChoice::Auto, &doors)?;
    let name = request.name.to_string();
    let mut number = 2;
    let answer = loop {
        let asked = request.clone();
        match api::ControlExt::ask(&**serving.engine(), &crate::places::caller(), asked) {
            Err(failure)
                if failure.code == codes::VOLUME_EXISTS && !chosen && number <= NAMES_MAX =>
            {
                request.name = format!("{name}-{number}").parse()?;
                number += 1;
            }
            other => break other?,
        }
    };
    made(&answer);
    finish(serving, |_| false)
}

/// Serves an image as it is, without a store, until Ctrl-C; `begun` is told once clients are served.
pub fn serve_image(
    served: Served,
    nbd: &[String],
    insecure_lan: bool,
    begun: &mut dyn FnMut(&[Listening]),
) -> Result<u8, Failure> {
    let nbd = addresses::parse_all(nbd, insecure_lan)?;
    let usual = if nbd.is_empty() { Some(addresses::own_socket()?) } else { None };
    addresses::prepare(usual.as_deref())?;
    let doors = Doors { nbd, usual, ..Doors::default() };
    Ok(exit_of(server::image::serve(served, RingChoice::Auto, &doors, begun)?))
}

fn start(
    opened: Opened,
    settings: Settings,
    ring: RingChoice,
    doors: &Doors,
) -> Result<Serving, Failure> {
    match raise_descriptor_limit() {
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "the limit of open files stays as it is"),
    }
    addresses::prepare(doors.usual.as_deref())?;
    Serving::start(opened, settings, ring, doors)
}

fn finish(serving: Serving, enough: impl FnMut(&Engine) -> bool) -> Result<u8, Failure> {
    Ok(exit_of(serving.run(enough)?))
}

const fn exit_of(ended: Ended) -> u8 {
    match ended {
        Ended::Whole => 0,
        Ended::Impatient => 130,
    }
}

/// Opens the store for this process; waits a moment for a command that is about to end.
fn open_store(options: &EngineOptions, open: &OpenOptions) -> Result<Opened, Failure> {
    hide_memory();
    let begun = RealClock.boot_ns();
    loop {
        let opened = engine::open(&options.store, open);
        let locked = opened.as_ref().is_err_and(|failure| failure.code == codes::STORE_LOCKED);
        let waited = RealClock.boot_ns().saturating_sub(begun);
        if !locked || waited > LOCKED_NS || is_served(&options.store) {
            return opened;
        }
        thread::park_timeout(AGAIN); // there is no event for the end of another process' lock
    }
}

fn is_served(store: &Path) -> bool {
    let socket = crate::places::control_socket(store);
    let client = Client::new(socket, crate::places::trusted(store), Some(AGAIN));
    client.probe().unwrap_or(true)
}

/// No dump of this process holds keys.
fn hide_memory() {
    if let Err(error) = forbid_dumps() {
        tracing::warn!(%error, "a crash dump of this process could hold keys");
    }
}

fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}

fn group(name: Option<&str>) -> Result<Option<u32>, Failure> {
    let Some(name) = name else { return Ok(None) };
    let known = group_id(name).map_err(|error| {
        Failure::new(codes::USAGE, format!("the group `{name}` cannot be looked up: {error}"))
    })?;
    match known.or_else(|| name.parse().ok()) {
        Some(id) => Ok(Some(id)),
        None => Err(Failure::new(codes::USAGE, format!("this host knows no group `{name}`"))
            .seeing("getent group")),
    }
}

const fn ack(policy: AckPolicy) -> segment_log::AckPolicy {
    match policy {
        AckPolicy::Disk => segment_log::AckPolicy::Disk,
        AckPolicy::Page => segment_log::AckPolicy::Page,
        AckPolicy::Memory => segment_log::AckPolicy::Memory,
    }
}

const fn ring(choice: IoChoice) -> RingChoice {
    match choice {
        IoChoice::Auto => RingChoice::Auto,
        IoChoice::Uring => RingChoice::Uring,
        IoChoice::Threads => RingChoice::Threads,
    }
}

const fn anyone(right: AnyoneRight) -> Anyone {
    match right {
        AnyoneRight::Read => Anyone::Read,
        AnyoneRight::Write => Anyone::Write,
    }
}
