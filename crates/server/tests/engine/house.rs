//! A store in a temporary directory with a server over it, as tests need it.

use crate::client::Client;
use api::{Caller, ControlExt as _, Failure, Reference, Verb, codes::Code, verbs::vol};
use server::{
    data::{Running, StopReason},
    engine::{self, Engine, InitKey, InitOptions, KeySource, Listening, OpenOptions, Settings},
};
use std::{path::PathBuf, sync::Arc};
use tempfile::TempDir;
use world::{
    Clock as _,
    real::{RealClock, RingChoice, listen_unix},
};

/// Where a store and its key lie; both go with it.
pub struct Place {
    directory: TempDir,
}

/// A store that is served.
pub struct House {
    pub engine: Arc<Engine>,
    pub socket: PathBuf,
    running: Running,
}

impl Place {
    /// With a fresh store.
    pub fn new() -> Self {
        let place = Self::empty();
        let key = InitKey::File(Some(place.key()));
        let options = InitOptions { key, segment_bytes: Some(8 << 20), network_fs: true };
        engine::init(&place.store(), &options).expect("made");
        place
    }

    pub fn empty() -> Self {
        Self { directory: tempfile::tempdir().expect("a directory") }
    }

    pub fn store(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    pub fn key(&self) -> PathBuf {
        self.directory.path().join("keys/test.key")
    }

    pub fn options(&self) -> OpenOptions {
        OpenOptions { key: KeySource::File(self.key()), network_fs: true, ..OpenOptions::default() }
    }

    pub fn serve(&self) -> House {
        self.serve_with(&self.options(), Settings { serving: true, ..Settings::default() })
    }

    pub fn serve_with(&self, options: &OpenOptions, settings: Settings) -> House {
        let opened = engine::open(&self.store(), options).expect("opened");
        let started = Engine::start(opened, settings, RingChoice::Auto);
        let (engine, running) = started.expect("started");
        let socket = self.directory.path().join("nbd.sock");
        let listener = listen_unix(&socket, None).expect("bound").into_listener();
        engine.hub().visit(move |core| core.listen(listener)).expect("listens");
        engine.set_listening(vec![Listening::Unix(socket.clone())]);
        House { engine, socket, running }
    }
}

impl House {
    pub fn ask<V: Verb>(&self, verb: V) -> Result<V::Answer, Failure> {
        self.engine.ask(&owner(), verb)
    }

    /// The code of the failure that the verb must end with.
    pub fn refusal<V: Verb>(&self, verb: V) -> Code {
        match self.ask(verb) {
            Ok(_) => panic!("{} was done", V::PATH),
            Err(failure) => failure.code,
        }
    }

    pub fn create(&self, name: &str, size: u64) {
        let name = name.parse().expect("a name");
        self.ask(vol::VolCreate { name, size, block: 512, exclusive: false }).expect("created");
    }

    pub fn connect(&self, name: &str) -> Client {
        Client::connect(&self.socket, name).expect(name)
    }

    pub fn show(&self, name: &str) -> vol::VolDetails {
        self.ask(vol::VolShow { reference: reference(name), exact: false }).expect("shown")
    }

    /// Waits until nobody is attached to the volume.
    pub fn wait_until_free(&self, name: &str) {
        let deadline = RealClock.boot_ns() + 20_000_000_000;
        while !self.show(name).clients.is_empty() {
            assert!(RealClock.boot_ns() < deadline, "{name} stays attached");
            std::thread::yield_now();
        }
    }

    pub fn stop(self) {
        let Self { engine, running, .. } = self;
        engine.hub().visit(server::data::Core::stop).expect("runs");
        assert_eq!(engine.join(running).expect("ended"), StopReason::Asked);
    }
}

/// Who made the store.
pub fn owner() -> Caller {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    Caller { uid, gid, pid: None }
}

pub fn reference(text: &str) -> Reference {
    text.parse().expect("well formed")
}
