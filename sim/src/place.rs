//! Where a simulated store lies: its disk, its clock, its chance; and how it is made and opened.

use catalogue::{Catalogue, CatalogueRecord, RecordError};
use manifest::{Manifest, ManifestError, Mode as ManifestMode, Record};
use seal::Key;
use segment_log::{Config, Environment, Keyring, Mode, OpenError, state::KIND_END};
use sim_world::{Rng, Seed, SimChance, SimClock, SimDisk};
use std::{
    error::Error,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};
use units::StoreId;
use volume::Store;
use world::Pool;

/// The store of all simulations.
pub const STORE: StoreId = StoreId([0xa5; 16]);

/// A machine that may hold a store; clones share clock and chance, and the disk.
#[derive(Clone)]
pub struct Place {
    /// Its disk.
    pub disk: SimDisk,
    /// Its clock.
    pub clock: SimClock,
    /// Its source of keys.
    pub chance: SimChance,
    dice: Arc<Mutex<Rng>>,
}

/// Why a store does not start.
#[derive(Debug)]
pub enum StartError {
    /// The manifest.
    Manifest(ManifestError),
    /// The catalogue's records.
    Catalogue(RecordError),
    /// The log.
    Log(OpenError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifest(error) => write!(f, "manifest: {error} ({:?})", error.source()),
            Self::Catalogue(error) => write!(f, "catalogue: {error}"),
            Self::Log(error) => write!(f, "log: {error} ({error:?})"),
        }
    }
}

/// The master key of all simulations.
pub fn master() -> Key {
    Key::from_bytes([0x17; 32])
}

impl Place {
    /// An empty one.
    pub fn new(seed: Seed) -> Self {
        Self::with_disk(seed, SimDisk::new(seed))
    }

    /// A machine with that disk; two of one seed do the same as long as their disks do.
    pub fn with_disk(seed: Seed, disk: SimDisk) -> Self {
        let clock = SimClock::default();
        disk.set_clock(&clock);
        let chance = SimChance::new(seed);
        Self { disk, clock, chance, dice: Arc::new(Mutex::new(seed.rng("dice"))) }
    }

    /// The same clock and chance over another disk.
    #[must_use]
    pub fn over(&self, disk: SimDisk) -> Self {
        disk.set_clock(&self.clock);
        Self { disk, ..self.clone() }
    }

    /// Dice for somebody.
    pub fn dice(&self) -> Rng {
        self.dice.lock().unwrap_or_else(PoisonError::into_inner).split()
    }

    /// Makes a store without volumes.
    pub fn make_store(&self) -> Result<(), StartError> {
        Manifest::create(&self.disk, &master(), STORE, &self.chance)
            .map(|_| ())
            .map_err(StartError::Manifest)
    }

    /// The catalogue as it lies on disk.
    pub fn catalogue(records: &[Record]) -> Result<Catalogue, StartError> {
        let mut catalogue = Catalogue::new();
        for record in records.iter().filter(|record| record.kind >= KIND_END) {
            let read = CatalogueRecord::decode(record.kind, &record.body);
            read.and_then(|record| catalogue.apply(record)).map_err(StartError::Catalogue)?;
        }
        Ok(catalogue)
    }

    /// Opens the store, as the server does.
    pub fn open_store(&self, config: Config, mode: Mode, pool: &Pool) -> Result<Store, StartError> {
        let master = master();
        let manifest_mode = match mode {
            Mode::Read => ManifestMode::Read,
            Mode::Write | Mode::AcceptLoss => ManifestMode::Write(&self.chance),
        };
        let (manifest, records) = Manifest::open(&self.disk, &master, STORE, manifest_mode)
            .map_err(StartError::Manifest)?;
        let catalogue = Self::catalogue(&records)?;
        let keyring = Arc::new(Keyring::default());
        volume::learn_keys(&catalogue, &keyring);
        let env = Arc::new(Environment {
            disk: Arc::new(self.disk.clone()),
            clock: Arc::new(self.clock.clone()),
            chance: Arc::new(self.chance.clone()),
            pool: pool.clone(),
            master,
            store: STORE,
            keyring,
        });
        let others: Vec<Record> = catalogue
            .snapshot()
            .iter()
            .map(|record| {
                let (kind, body) = record.encode();
                Record { kind, body }
            })
            .collect();
        let log = segment_log::open(config, &env, manifest, &records, &others, mode)
            .map_err(StartError::Log)?;
        Ok(Store::new(log, catalogue))
    }
}
