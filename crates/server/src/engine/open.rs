//! Opening a store: lock, key, manifest, log; what is held of it while it runs.

use super::{
    failures::{
        denied_in, disk_failure, log_failure, manifest_failure, record_failure, secrets_failure,
    },
    keys::{self, KeySource},
};
use api::{Failure, codes};
use catalogue::{Catalogue, CatalogueRecord};
use manifest::{Facts, Manifest, Record, Secrets};
use seal::Key;
use segment_log::{AckPolicy, Config, Environment, Keyring, Mode, state::KIND_END};
use std::{
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};
use volume::Store;
use world::{
    Access, Chance, Clock, Disk, Pool, Space,
    real::{
        FileSystem, FileSystemKind, LockError, LockKind, ProcessId, RealChance, RealClock,
        RealDisk, StoreLock,
    },
};

/// Name of the file that is locked; it holds the pid of who has it.
const LOCK: &str = "lock";
/// Memory for I/O pages.
const IO_BYTES: usize = 192 << 20;
/// The recycled segments: share of the file system, files at least, bytes at most.
const POOL_SHARE: u64 = 32;
const POOL_FILES_MIN: u64 = 4;
const POOL_BYTES_MAX: u64 = 4 << 30;
/// Share of the file system that full segments may fill before writers are slowed.
const BACKLOG_SHARE: u64 = 10;
const BACKLOG_SEGMENTS_MIN: u64 = 8;
/// Room left free: a share of the file system, bytes at most.
const RESERVE_SHARE: u64 = 20;
const RESERVE_BYTES_MAX: u64 = 1 << 30;

/// How a store is opened.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct OpenOptions {
    /// What opens it.
    pub key: KeySource,
    /// Where key files are looked for.
    pub key_dirs: Vec<PathBuf>,
    /// Nothing is written.
    pub read_only: bool,

    /// When a write is answered.
    pub ack: AckPolicy,
    /// Whether full segments become packs.
    pub pack: bool,
    /// Room for recycled segment files; chosen from the file system when absent.
    pub pool_bytes: Option<u64>,
    /// May lie on a network file system.
    pub network_fs: bool,
    /// Goes on where the log ends, even if flushed data behind it is missing.
    pub accept_loss: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            key: KeySource::Search,
            key_dirs: keys::key_dirs(),
            read_only: false,
            ack: AckPolicy::Disk,
            pack: true,
            pool_bytes: None,
            network_fs: false,
            accept_loss: false,
        }
    }
}

/// A store that is open, ready to be run.
pub struct Opened {
    /// Its state machine.
    pub store: Store,
    /// What else is known of it.
    pub held: Held,
}

/// What an engine holds of its store.
pub struct Held {
    /// Its directory.
    pub path: PathBuf,
    /// The same, as a disk.
    pub disk: Arc<dyn Disk>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub chance: Arc<dyn Chance>,
    /// What is fixed.
    pub facts: Facts,
    /// How its log works.
    pub config: Config,
    /// Nothing is written.
    pub read_only: bool,
    /// The manifest still holds keys that were destroyed.
    pub(super) destroyed_keys: bool,
    /// Who owns the directory.
    pub owner: u32,
    /// What it lies on.
    pub file_system: FileSystem,
    /// What was found wrong while opening and is right again.
    pub healed: Vec<String>,
    /// Pages for I/O.
    pub(super) pages: Pool,
    pub(super) master: Key,
    pub(super) keyring: Arc<Keyring>,
    pub(super) secrets: Mutex<Secrets>,
    pub(super) slot: u32,
    pub(super) key_file: Option<PathBuf>,
    /// The store is ours while it lives; none on a medium where there is no file to lock.
    _lock: Option<StoreLock>,
}

/// Opens a store. It is ours alone from then on, unless it is read-only.
pub fn open(dir: &Path, options: &OpenOptions) -> Result<Opened, Failure> {
    let path = std::fs::canonicalize(dir).map_err(|error| no_directory(dir, &error))?;
    let real = RealDisk::open(&path).map_err(|error| no_directory(&path, &error))?;
    let secrets = Secrets::read(&real).map_err(|error| secrets_failure(&path, error))?;
    let file_system = check_file_system(&path, &real, options.network_fs)?;
    let read_only = options.read_only;
    if !read_only && file_system.read_only {
        return Err(Failure::new(
            codes::READ_ONLY,
            format!("{} cannot be written", path.display()),
        )
        .doing("open it with --read-only"));
    }
    let lock = lock(&path, &real, read_only)?;
    let unlocked = keys::unlock(&path, &secrets, &options.key, &options.key_dirs)?;
    let disk: Arc<dyn Disk> = Arc::new(real);
    let parts = Parts { path, disk, secrets, unlocked, lock, file_system };
    parts.open(options)
}

struct Parts {
    path: PathBuf,
    disk: Arc<dyn Disk>,
    secrets: Secrets,
    unlocked: keys::Unlocked,
    lock: Option<StoreLock>,
    file_system: FileSystem,
}

impl Parts {
    fn open(self, options: &OpenOptions) -> Result<Opened, Failure> {
        let Self { path, disk, mut secrets, unlocked, lock, file_system } = self;
        let (clock, chance): (Arc<dyn Clock>, Arc<dyn Chance>) =
            (Arc::new(RealClock), Arc::new(RealChance));
        let (facts, master) = (secrets.facts(), unlocked.master);
        let mut healed = Vec::new();
        let read_only = options.read_only;
        if !read_only {
            let mended = secrets.heal(&*disk, &master);
            let mended = mended.map_err(|error| secrets_failure(&path, error))?;
            healed.extend(mended.iter().map(|path| format!("{path}: written again from its copy")));
        }
        let mode = if read_only { manifest::Mode::Read } else { manifest::Mode::Write(&*chance) };
        let (manifest, records) = Manifest::open(&*disk, &master, facts.store, mode)
            .map_err(|error| denied_in(&path, manifest_failure(&error)))?;
        for repair in manifest.repairs() {
            let done =
                if repair.healed { "written again from its copy" } else { "its copy is used" };
            healed.push(format!("{}: {}, {done}", repair.path, repair.found));
        }
        let (catalogue, destroyed) = read_catalogue(&records)?;
        let keyring = Arc::new(Keyring::default());
        volume::learn_keys(&catalogue, &keyring);
        let space = disk.space().map_err(|error| disk_failure("ask for the room left", &error))?;
        let config = config(options, u64::from(facts.segment_bytes), space);
        let pages = Pool::new(IO_BYTES);
        let env = Arc::new(Environment {
            disk: disk.clone(),
            clock: clock.clone(),
            chance: chance.clone(),
            pool: pages.clone(),
            master: master.clone(),
            store: facts.store,
            keyring: keyring.clone(),
        });
        let others: Vec<Record> = catalogue.snapshot().iter().map(encode).collect();
        let mode = match (read_only, options.accept_loss) {
            (true, _) => Mode::Read,
            (false, false) => Mode::Write,
            (false, true) => Mode::AcceptLoss,
        };
        let log = segment_log::open(config, &env, manifest, &records, &others, mode)
            .map_err(|error| denied_in(&path, log_failure(error)))?;
        let owner = std::fs::metadata(&path).map_or(0, |metadata| metadata.uid());
        let store = Store::new(log, catalogue);
        let held = Held {
            path,
            disk,
            clock,
            chance,
            facts,
            config,
            read_only,
            destroyed_keys: destroyed && !read_only,
            owner,
            file_system,
            healed,
            pages,
            master,
            keyring,
            secrets: Mutex::new(secrets),
            slot: unlocked.slot,
            key_file: unlocked.file,
            _lock: lock,
        };
        Ok(Opened { store, held })
    }
}

fn encode(record: &CatalogueRecord) -> Record {
    let (kind, body) = record.encode();
    Record { kind, body }
}

/// The catalogue that the records make, and whether keys lie among them that were destroyed since.
fn read_catalogue(records: &[Record]) -> Result<(Catalogue, bool), Failure> {
    let mut catalogue = Catalogue::new();
    let mut destroyed = false;
    for record in records.iter().filter(|record| record.kind >= KIND_END) {
        let record = CatalogueRecord::decode(record.kind, &record.body);
        let record = record.map_err(|error| record_failure(&error))?;
        destroyed |= matches!(record, CatalogueRecord::VolumeGone(_));
        catalogue.apply(record).map_err(|error| record_failure(&error))?;
    }
    Ok((catalogue, destroyed))
}

fn config(options: &OpenOptions, segment_bytes: u64, space: Space) -> Config {
    let total = space.total_bytes;
    let pool = options.pool_bytes.unwrap_or((total / POOL_SHARE).min(POOL_BYTES_MAX));
    let files = |bytes: u64, least: u64| {
        usize::try_from((bytes / segment_bytes).max(least)).unwrap_or(usize::MAX)
    };
    Config {
        ack: options.ack,
        pack: options.pack,
        segment_bytes,
        pool_files: files(pool, POOL_FILES_MIN),
        backlog_segments: files(total / BACKLOG_SHARE, BACKLOG_SEGMENTS_MIN),
        reserve_bytes: (total / RESERVE_SHARE).min(RESERVE_BYTES_MAX),
        ..Config::default()
    }
}

fn lock(path: &Path, disk: &RealDisk, read_only: bool) -> Result<Option<StoreLock>, Failure> {
    let kind = if read_only { LockKind::Read } else { LockKind::Write };
    match disk.lock(LOCK, kind) {
        Ok(lock) => {
            if !read_only {
                let _ = write_pid(disk); // only for who is refused while we run
            }
            Ok(Some(lock))
        }
        Err(LockError::Busy) => {
            let who = lock_holder(disk).map_or_else(
                || "another process".to_owned(),
                |pid| match world::real::program_of(pid) {
                    Some(program) => format!("{program}, pid {pid},"),
                    None => format!("process {pid}"),
                },
            );
            let message = format!("{who} has the store in {} open", path.display());
            Err(Failure::new(codes::STORE_LOCKED, message)
                .doing("ask the server that runs, or end it: strandline serve --stop"))
        }
        Err(LockError::Io(error)) if read_only && error.kind() == io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(LockError::Io(error)) => Err(denied_in(path, disk_failure("lock the store", &error))),
    }
}

fn write_pid(disk: &RealDisk) -> io::Result<()> {
    let file = disk.open(LOCK, Access::WRITE)?;
    file.set_length(0)?;
    file.write_at(0, format!("{}\n", std::process::id()).as_bytes())
}

fn lock_holder(disk: &RealDisk) -> Option<i32> {
    let file = disk.open(LOCK, Access::READ).ok()?;
    let length = usize::try_from(file.length_bytes().ok()?.min(16)).ok()?;
    let mut text = vec![0; length];
    file.read_at(0, &mut text).ok()?;
    let pid = std::str::from_utf8(&text).ok()?.trim().parse().ok()?;
    ProcessId::of(pid).ok().flatten().map(|process| process.pid)
}

/// What lies under a directory, if a store may lie there.
pub(super) fn check_file_system(
    path: &Path,
    disk: &RealDisk,
    network_fs: bool,
) -> Result<FileSystem, Failure> {
    let found =
        disk.file_system().map_err(|error| disk_failure("ask for the file system", &error))?;
    if found.kind == FileSystemKind::Network && !network_fs {
        return Err(Failure::new(
            codes::NETWORK_FS,
            format!(
                "{} lies on {}, where locks and flushes cannot be relied on",
                path.display(),
                found.name
            ),
        )
        .doing("use a local disk, or say --network-fs"));
    }
    Ok(found)
}

/// Why a store's directory cannot be used.
pub(super) fn no_directory(path: &Path, error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => no_store(path),
        _ => disk_failure(&format!("open {}", path.display()), error),
    }
}

/// Nothing is there.
pub(super) fn no_store(path: &Path) -> Failure {
    Failure::new(codes::NO_STORE, format!("there is no store in {}", path.display())).doing(
        format!("name one with --store DIR, or make one: strandline store init {}", path.display()),
    )
}
