//! [`Engine`]: a store that runs, as the control plane sees it.
//!
//! Who changes the catalogue holds the lock of all planners from the snapshot until the change is
//! durable. Nothing is done on the log thread but short visits.

use super::{
    adopting::Sources,
    census::Census,
    failures::{change_failure, disk_failure, read_only_failure},
    filling::Filling,
    naming,
    open::{Held, Opened},
    opening::Idle,
    past::Past,
    rights::Anyone,
    shelf::Shelf,
};
use crate::data::{self, ChangeError, Core, Hub, Running, StopReason};
use api::{Failure, Reference, VolumeName};
use catalogue::{CatalogueRecord, Trash};
use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    thread::JoinHandle,
};
use units::Timestamp;
use world::real::{RingChoice, open_ring};

/// What was chosen for a server.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Clients are served; else the store is open for one command only.
    pub serving: bool,
    /// The volume that an empty export name means.
    pub default_volume: Option<VolumeName>,
    /// What everybody may do.
    pub anyone: Option<Anyone>,
    /// Members may read, write and list.
    pub socket_group: Option<u32>,
    /// Members may do all: the control socket lets them in.
    pub admin_group: Option<u32>,
    /// Version of the program.
    pub version: String,
}

/// Where clients knock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listening {
    /// A unix socket.
    Unix(PathBuf),
    /// A TCP port.
    Tcp(SocketAddr),
}

/// See the module's head.
pub struct Engine {
    pub(super) hub: Hub,
    pub(super) held: Held,
    pub(super) settings: Settings,
    /// Which ring drives the disk, for people.
    pub(super) io: String,
    pub(super) started_boot_ns: u64,
    pub(super) census: Census,
    pub(super) idle: Mutex<Idle>,
    pub(super) shelf: Shelf,
    /// For threads of its own.
    pub(super) me: Weak<Self>,
    /// Threads that write down the ends of attachments.
    pub(super) detaching: Mutex<Vec<JoinHandle<()>>>,
    /// Images that volumes stand on.
    pub(super) sources: Sources,
    /// What takes them over.
    pub(super) filling: Filling,
    planners: Mutex<()>,
    listening: Mutex<Vec<Listening>>,
    stop: Mutex<Option<Box<dyn Fn() + Send>>>,
}

/// The right to change the catalogue.
pub(super) struct Planning<'a>(#[expect(dead_code, reason = "held")] MutexGuard<'a, ()>);

impl Engine {
    /// Runs a store: starts its log thread, lets go of clients whose processes are gone, and empties
    /// what has lain in the trash for its time.
    pub fn start(
        opened: Opened,
        settings: Settings,
        ring: RingChoice,
    ) -> Result<(Arc<Self>, Running), Failure> {
        let Opened { store, held } = opened;
        let (tell, told) = crossbeam_channel::bounded(1);
        let open = move || {
            let (ring, what) = open_ring(ring)?;
            let _ = tell.send(what); // who starts us waits for it
            Ok(ring)
        };
        let running = data::start(store, held.clock.clone(), open)
            .map_err(|error| disk_failure("start the log's thread", &error))?;
        let engine = Arc::new_cyclic(|me| Self {
            hub: running.hub.clone(),
            io: told.try_recv().unwrap_or("unknown").to_owned(),
            started_boot_ns: held.clock.boot_ns(),
            held,
            settings,
            census: Census::default(),
            idle: Mutex::default(),
            shelf: Shelf::default(),
            me: me.clone(),
            detaching: Mutex::default(),
            sources: Sources::default(),
            filling: Filling::default(),
            planners: Mutex::new(()),
            listening: Mutex::default(),
            stop: Mutex::new(None),
        });
        let exports = engine.clone();
        engine.visit(move |core| core.set_exports(exports))?;
        if !engine.held.read_only {
            engine.end_dead_attachments()?;
            engine.empty_due_trash()?;
        }
        if engine.held.destroyed_keys {
            engine.forget_destroyed_keys();
        }
        engine.look_at_sources()?;
        if engine.settings.serving && engine.wants_filling()? {
            engine.begin_filling();
        }
        Ok((engine, running))
    }

    /// The way to the log thread.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// What is held of the store.
    pub fn held(&self) -> &Held {
        &self.held
    }

    /// Which ring drives the disk, for people.
    pub fn io(&self) -> &str {
        &self.io
    }

    /// Clients are reached there from now on; the first one is what URIs name.
    pub fn set_listening(&self, listening: Vec<Listening>) {
        *lock(&self.listening) = listening;
    }

    /// What `stop` does, instead of ending the log thread.
    pub fn set_stop(&self, stop: impl Fn() + Send + 'static) {
        *lock(&self.stop) = Some(Box::new(stop));
    }

    /// Does what is due; to be called every few seconds.
    pub fn on_time(&self) -> Result<(), Failure> {
        self.look_at_sources()?;
        self.shelf.clear_idle(self.held.clock.boot_ns());
        if self.held.read_only {
            return Ok(());
        }
        self.end_dead_attachments()?;
        self.destroy_keys(None)?;
        self.close_idle()
    }

    /// Ends the server.
    pub(super) fn end(&self) -> Result<(), Failure> {
        if let Some(stop) = &*lock(&self.stop) {
            stop();
            return Ok(());
        }
        self.visit(Core::stop)
    }

    /// Waits for the end of the log thread and of what still speaks to it. Who opens the same store
    /// again in this process must wait so: the store's lock goes with the last that holds us.
    pub fn join(&self, running: Running) -> io::Result<StopReason> {
        let ended = running.join();
        let threads = std::mem::take(&mut *lock(&self.detaching));
        for thread in threads {
            let _ = thread.join(); // it tells of its own faults
        }
        ended
    }

    /// Ends what goes on by itself; to be called before the log thread is stopped.
    pub(crate) fn end_background(&self) {
        self.filling.stop();
    }

    /// Where the server listens.
    pub(super) fn listening(&self) -> Vec<Listening> {
        lock(&self.listening).clone()
    }

    /// Where clients reach an export, if the server offers NBD.
    pub(super) fn uri(&self, export: &Reference) -> Option<String> {
        self.listening().first().map(|listening| naming::uri(listening, export))
    }

    pub(super) fn wall(&self) -> Timestamp {
        self.held.clock.wall()
    }

    /// Runs something short on the log thread.
    pub(super) fn visit<R: Send + 'static>(
        &self,
        visit: impl FnOnce(&mut Core) -> R + Send + 'static,
    ) -> Result<R, Failure> {
        self.hub.visit(visit).map_err(change_failure)
    }

    /// The store as it is durable now.
    pub(super) fn look(&self) -> Result<Past, Failure> {
        let snapshot = self.hub.snapshot().map_err(change_failure)?;
        Ok(Past::new(snapshot, self.wall()))
    }

    /// The same, with all that was accepted before.
    pub(super) fn settled(&self) -> Result<Past, Failure> {
        if !self.held.read_only {
            match self.hub.flush() {
                // What is durable can still be read.
                Ok(()) | Err(ChangeError::Refused) => {}
                Err(error) => return Err(change_failure(error)),
            }
        }
        self.look()
    }

    /// Waits for the right to change the catalogue.
    pub(super) fn planning(&self) -> Result<Planning<'_>, Failure> {
        if self.held.read_only {
            return Err(read_only_failure());
        }
        Ok(Planning(lock(&self.planners)))
    }

    /// Makes planned records durable.
    pub(super) fn commit(
        &self,
        _planning: &Planning<'_>,
        records: Vec<CatalogueRecord>,
    ) -> Result<(), Failure> {
        self.hub.change(records).map_err(change_failure)
    }

    /// Plans a change on all that was accepted before, and makes it.
    pub(super) fn change<R>(
        &self,
        plan: impl FnOnce(&Past) -> Result<(R, Vec<CatalogueRecord>), Failure>,
    ) -> Result<R, Failure> {
        let planning = self.planning()?;
        let past = self.settled()?;
        let (result, records) = plan(&past)?;
        self.commit(&planning, records)?;
        Ok(result)
    }

    /// Only now: what was emptied before lies in sealed segments alone, so that no recovery needs the
    /// keys that go.
    fn empty_due_trash(&self) -> Result<(), Failure> {
        self.change(|past| {
            let planned = past.catalogue().plan_empty_trash(Trash::Expired, past.now.time);
            let (_, records) = planned.map_err(|error| past.teller().catalogue(error))?;
            Ok(((), records))
        })
    }
}

/// A lock whose holder may have panicked: what it guards is whole between two statements.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
