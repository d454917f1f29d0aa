//! The seam to the store engine: what this process does itself when no server does it.
//!
//! Everything that needs an engine in this process goes through these functions, so that the
//! commands know nothing but [`Control`].

use crate::cli::{Global, InitArgs, ServeArgs};
use api::{
    Control, Failure, codes,
    verbs::{past, store::StoreCreated},
};
use std::path::{Path, PathBuf};

/// What opening a store needs.
#[expect(dead_code, reason = "read by the engine, which joins here")]
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
}

impl EngineOptions {
    /// As the command line says.
    pub fn new(global: &Global, store: &Path, may_ask: bool) -> Self {
        Self {
            store: store.to_owned(),
            key_file: global.key_file.clone(),
            passphrase_file: global.passphrase_file.clone(),
            may_ask,
        }
    }
}

/// Opens the store in this process.
pub fn open(options: &EngineOptions) -> Result<Box<dyn Control>, Failure> {
    Err(unopened(options))
}

/// Makes a store.
pub fn init(options: &EngineOptions, _args: &InitArgs) -> Result<StoreCreated, Failure> {
    Err(unopened(options))
}

/// Serves the store until SIGTERM or Ctrl-C.
pub fn serve(options: &EngineOptions, _args: &ServeArgs) -> Result<(), Failure> {
    Err(unopened(options))
}

/// Opens an instant, offers it at `nbd` (or at the usual socket), tells `opened`, and serves until
/// Ctrl-C or until it closes by itself.
pub fn serve_opened(
    options: &EngineOptions,
    _nbd: Option<&str>,
    _request: past::Open,
    _opened: &mut dyn FnMut(&past::Opened),
) -> Result<(), Failure> {
    Err(unopened(options))
}

/// Plays the first five minutes in a temporary store, or in `keep`.
pub fn demo(keep: Option<&Path>, _say: &mut dyn FnMut(&str)) -> Result<(), Failure> {
    let place = keep.unwrap_or(Path::new("a temporary directory"));
    Err(Failure::new(codes::NO_STORE, format!("no store can be made in {}", place.display())))
}

fn unopened(options: &EngineOptions) -> Failure {
    let place = options.store.display();
    Failure::new(codes::NO_STORE, format!("the store in {place} cannot be opened"))
        .doing("name the store with --store, or make one: strandline store init DIR")
}
