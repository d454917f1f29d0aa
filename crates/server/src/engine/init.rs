//! Making a store: a directory with super blocks and an empty manifest, and its key outside of it.
//!
//! Instant: no segment is made, the pool fills by use. The key is written before the store, so that
//! no store exists that nothing opens.

use super::{
    failures::{disk_failure, manifest_failure, secrets_failure},
    keys::{self, key_file_name},
    open::{check_file_system, no_directory},
};
use api::{
    Failure, codes,
    verbs::{secret, store::StoreCreated},
};
use manifest::{Facts, KeyFile, Manifest, NewSlot, RecoveryKey, Secret, Secrets};
use seal::Stretch;
use std::path::{Path, PathBuf};
use units::StoreId;
use world::{
    Chance as _, Clock as _, Disk,
    real::{RealChance, RealClock, RealDisk},
};
use zeroize::Zeroizing;

/// Segments of a store on a file system that is not small.
const SEGMENT_BYTES: u64 = 64 << 20;
/// Segments of a small store.
const SMALL_SEGMENT_BYTES: u64 = 8 << 20;
/// What is small.
const SMALL_STORE_BYTES: u64 = 8 << 30;
/// Bounds of what may be chosen.
const SEGMENT_BOUNDS: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 30;

/// The cipher of a store's blocks, for people.
pub(super) const CIPHER: &str = "AES-256-GCM";

/// What opens the new store.
#[derive(Clone, Debug)]
pub enum InitKey {
    /// A new key file, here or in the usual place.
    File(Option<PathBuf>),
    /// A passphrase.
    Passphrase(Zeroizing<String>),
}

/// How a store is made.
#[derive(Clone, Debug)]
pub struct InitOptions {
    /// What opens it, beside the recovery key.
    pub key: InitKey,
    /// Length of its segments; chosen from the file system when absent.
    pub segment_bytes: Option<u64>,
    /// May lie on a network file system.
    pub network_fs: bool,
}

impl Default for InitOptions {
    fn default() -> Self {
        Self { key: InitKey::File(None), segment_bytes: None, network_fs: false }
    }
}

/// Makes a store in a directory that is empty or does not exist yet.
pub fn init(dir: &Path, options: &InitOptions) -> Result<StoreCreated, Failure> {
    keys::make_private_dir(dir).map_err(|error| disk_failure(&make(dir), &error))?;
    let dir = std::fs::canonicalize(dir).map_err(|error| disk_failure(&make(dir), &error))?;
    let disk = RealDisk::open(&dir).map_err(|error| no_directory(&dir, &error))?;
    must_be_empty(&dir, &disk)?;
    check_file_system(&dir, &disk, options.network_fs)?;
    let segment_bytes = segment_bytes(&dir, &disk, options.segment_bytes)?;

    let store = StoreId(RealChance.bytes());
    let recovery = RecoveryKey::random(&RealChance);
    let file = match &options.key {
        InitKey::Passphrase(_) => None,
        InitKey::File(path) => {
            let usual = || keys::key_dirs().into_iter().next();
            let path = match path {
                Some(path) => path.clone(),
                None => usual().ok_or_else(no_home)?.join(key_file_name(store)),
            };
            let key = KeyFile::random(store, &RealChance);
            keys::write_key_file(&path, &key.to_text())?;
            Some((path, key))
        }
    };
    let first = match (&options.key, &file) {
        (InitKey::Passphrase(text), _) => Secret::Passphrase(text),
        (InitKey::File(_), Some((_, key))) => Secret::KeyFile(key),
        (InitKey::File(_), None) => return Err(Failure::bug("a key file was to be made")),
    };
    let facts = Facts { store, created: RealClock.wall(), segment_bytes };
    if let Err(failure) = write_store(&dir, &disk, facts, first, &recovery) {
        if let Some((path, _)) = &file {
            keys::remove_key_file(path);
        }
        return Err(failure);
    }
    Ok(StoreCreated {
        id: store.to_string(),
        path: dir.display().to_string(),
        cipher: CIPHER.to_owned(),
        key_file: file.map(|(path, _)| path.display().to_string()),
        recovery_key: secret::Secret::new(recovery.to_text().to_string()),
    })
}

fn write_store(
    dir: &Path,
    disk: &dyn Disk,
    facts: Facts,
    first: Secret<'_>,
    recovery: &RecoveryKey,
) -> Result<(), Failure> {
    let slot =
        |secret, label| NewSlot { secret, label, made: facts.created, stretch: Stretch::DEFAULT };
    let slots =
        [slot(first, "made with the store"), slot(Secret::Recovery(recovery), "recovery key")];
    let made = Secrets::create(disk, facts, &slots, &RealChance);
    let (_, master) = made.map_err(|error| secrets_failure(dir, error))?;
    let manifest = Manifest::create(disk, &master, facts.store, &RealChance);
    if let Err(error) = manifest {
        for path in ["super.a", "super.b"] {
            let _ = disk.remove(path); // a store without a manifest would be taken for a damaged one
        }
        return Err(manifest_failure(&error));
    }
    Ok(())
}

fn must_be_empty(dir: &Path, disk: &dyn Disk) -> Result<(), Failure> {
    match Secrets::read(disk) {
        Err(manifest::SecretsError::Missing) => {}
        Ok(secrets) => {
            let store = secrets.facts().store;
            return Err(Failure::new(
                codes::STORE_EXISTS,
                format!("there is a store in {} already: {store}", dir.display()),
            ));
        }
        Err(error @ manifest::SecretsError::Io { .. }) => return Err(secrets_failure(dir, error)),
        Err(_) => {
            return Err(Failure::new(
                codes::STORE_EXISTS,
                format!("there is a store in {} already, and it is damaged", dir.display()),
            )
            .seeing(format!("strandline --store {} store info", dir.display())));
        }
    }
    let listing = std::fs::read_dir(dir).map_err(|error| disk_failure(&make(dir), &error))?;
    // Seals of images may be kept here before there is a store.
    let ours = |name: &std::ffi::OsStr| name == "lost+found" || name == "guard";
    let mut others = listing.flatten().filter(|entry| !ours(&entry.file_name()));
    match others.next() {
        None => Ok(()),
        Some(entry) => Err(Failure::new(
            codes::NOT_EMPTY,
            format!("{} is not empty: it holds {}", dir.display(), entry.file_name().display()),
        )
        .doing("name an empty directory, or one that does not exist yet")),
    }
}

fn segment_bytes(dir: &Path, disk: &dyn Disk, wanted: Option<u64>) -> Result<u32, Failure> {
    let bytes = if let Some(bytes) = wanted {
        bytes
    } else {
        let space = disk.space().map_err(|error| disk_failure(&make(dir), &error))?;
        if space.total_bytes < SMALL_STORE_BYTES { SMALL_SEGMENT_BYTES } else { SEGMENT_BYTES }
    };
    if !SEGMENT_BOUNDS.contains(&bytes) || !bytes.is_power_of_two() {
        return Err(Failure::new(codes::SIZE, format!("segments cannot have {bytes} bytes"))
            .doing("choose a power of two from 1M to 1G"));
    }
    u32::try_from(bytes).map_err(|_| Failure::bug("a segment of more than 4 GiB"))
}

fn make(dir: &Path) -> String {
    format!("make a store in {}", dir.display())
}

fn no_home() -> Failure {
    Failure::new(codes::KEY_MISSING, "there is no place for the key file: HOME is not set")
        .doing("name one with --key-file FILE")
}
