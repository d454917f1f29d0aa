//! Where keys of stores are kept, and opening a store's slots with them.

use super::failures::{disk_failure, secrets_failure};
use api::{Failure, codes};
use manifest::{KeyFile, RecoveryKey, Secret, Secrets, SlotKind};
use rustix::process::geteuid;
use seal::Key;
use std::{
    env, io,
    path::{Path, PathBuf},
};
use units::StoreId;
use world::{Access, Disk as _, real::RealDisk};
use zeroize::Zeroizing;

/// Longer files are no key files.
const KEY_FILE_BYTES_MAX: u64 = 4096;

/// Keys of the whole system.
const SYSTEM_KEYS: &str = "/etc/strandline/keys";

/// What opens a store.
#[derive(Clone, Debug, Default)]
pub enum KeySource {
    /// The store's key file, in the usual places.
    #[default]
    Search,
    /// This key file.
    File(PathBuf),
    /// A passphrase.
    Passphrase(Zeroizing<String>),
    /// A recovery key as it was typed.
    Recovery(Zeroizing<String>),
}

/// Where key files are looked for; a new one goes to the first place.
pub fn key_dirs() -> Vec<PathBuf> {
    let own = env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".config")))
        .map(|config| config.join("strandline/keys"));
    let system = PathBuf::from(SYSTEM_KEYS);
    if geteuid().is_root() {
        return [system].into_iter().chain(own).collect();
    }
    own.into_iter().chain([system]).collect()
}

/// Which store lies in a directory and what kinds of secrets open it: whether to ask for one.
pub fn slot_kinds(dir: &Path) -> Result<(StoreId, Vec<SlotKind>), Failure> {
    let disk = RealDisk::open(dir).map_err(|error| super::open::no_directory(dir, &error))?;
    let secrets = Secrets::read(&disk).map_err(|error| secrets_failure(dir, error))?;
    Ok((secrets.facts().store, secrets.slots().into_iter().map(|slot| slot.kind).collect()))
}

/// Name of a store's key file.
pub(super) fn key_file_name(store: StoreId) -> String {
    format!("{store}.key")
}

/// What opened a store.
pub(super) struct Unlocked {
    pub slot: u32,
    pub master: Key,
    /// The key file, if it was one.
    pub file: Option<PathBuf>,
}

/// Opens one of the slots.
pub(super) fn unlock(
    dir: &Path,
    secrets: &Secrets,
    source: &KeySource,
    dirs: &[PathBuf],
) -> Result<Unlocked, Failure> {
    let with = |secret: Secret<'_>, file: Option<PathBuf>| {
        let (slot, master) =
            secrets.unlock_slot(secret).map_err(|error| secrets_failure(dir, error))?;
        Ok(Unlocked { slot, master, file })
    };
    match source {
        KeySource::Passphrase(text) => with(Secret::Passphrase(text), None),
        KeySource::Recovery(text) => {
            let key = RecoveryKey::parse(text)
                .map_err(|error| Failure::new(codes::WRONG_KEY, error.to_string()))?;
            with(Secret::Recovery(&key), None)
        }
        KeySource::File(path) => {
            let file = read_key_file(path).map_err(|error| unread(path, &error))?;
            let file = KeyFile::parse(&file).map_err(|error| about(path, &error))?;
            with(Secret::KeyFile(&file), Some(path.clone()))
                .map_err(|failure| in_file(failure, path))
        }
        KeySource::Search => {
            let store = secrets.facts().store;
            for directory in dirs {
                let path = directory.join(key_file_name(store));
                let text = match read_key_file(&path) {
                    Ok(text) => text,
                    Err(error) if is_absent(&error) => continue,
                    Err(error) => return Err(unread(&path, &error)),
                };
                let file = KeyFile::parse(&text).map_err(|error| about(&path, &error))?;
                return with(Secret::KeyFile(&file), Some(path.clone()))
                    .map_err(|failure| in_file(failure, &path));
            }
            Err(no_key(secrets, dirs))
        }
    }
}

/// Writes a new key file, readable for its owner only.
pub(super) fn write_key_file(path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            Failure::new(codes::TARGET_EXISTS, format!("{} exists", path.display()))
                .doing("name another file with --key-file")
        }
        _ => disk_failure(&format!("write the key file {}", path.display()), &error),
    };
    let (directory, name) = split(path).map_err(failed)?;
    make_private_dir(&directory).map_err(failed)?;
    let disk = RealDisk::open(&directory).map_err(failed)?;
    let file = disk.open(&name, Access::WRITE.new_file()).map_err(failed)?;
    let write = || {
        file.write_at(0, text.as_bytes())?;
        file.sync_data()?;
        disk.sync_dir("")
    };
    write().map_err(|error| {
        let _ = disk.remove(&name); // half a key would be in the way of the next try
        failed(error)
    })
}

/// Takes back what [`write_key_file`] wrote.
pub(super) fn remove_key_file(path: &Path) {
    if let Ok((directory, name)) = split(path)
        && let Ok(disk) = RealDisk::open(&directory)
    {
        let _ = disk.remove(&name); // the error that led here is the one to tell
    }
}

/// Makes a directory, closed to others. Parents that it lacks are made as any program makes them:
/// a closed /etc/strandline would hide the settings there from the users they are for.
pub(super) fn make_private_dir(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    if let Some(parent) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).create(parent)?;
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn read_key_file(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let path = std::fs::canonicalize(path)?; // a key may be a link
    let (directory, name) = split(&path)?;
    let file = RealDisk::open(&directory)?.open(&name, Access::READ)?;
    let length = file.length_bytes()?.min(KEY_FILE_BYTES_MAX);
    let mut bytes = Zeroizing::new(vec![0; usize::try_from(length).unwrap_or(0)]);
    file.read_at(0, &mut bytes)?;
    Ok(bytes)
}

fn split(path: &Path) -> io::Result<(PathBuf, String)> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no file name"))?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    Ok((parent.unwrap_or(Path::new(".")).to_owned(), name.to_owned()))
}

/// Places that a user has no right to look at hold no key for that user.
fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::PermissionDenied
    )
}

fn unread(path: &Path, error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::NotFound {
        return Failure::new(
            codes::KEY_MISSING,
            format!("there is no key file {}", path.display()),
        );
    }
    if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::IsADirectory) {
        return Failure::new(codes::KEY_MISSING, format!("{} is no key file", path.display()));
    }
    disk_failure(&format!("read the key file {}", path.display()), error)
}

fn about(path: &Path, error: &manifest::SecretsError) -> Failure {
    Failure::new(codes::WRONG_KEY, format!("{}: {error}", path.display()))
}

fn in_file(mut failure: Failure, path: &Path) -> Failure {
    if failure.code == codes::WRONG_KEY {
        failure.message = format!("{}: {}", path.display(), failure.message);
    }
    failure
}

fn no_key(secrets: &Secrets, dirs: &[PathBuf]) -> Failure {
    let store = secrets.facts().store;
    let places: Vec<String> =
        dirs.iter().map(|dir| dir.join(key_file_name(store)).display().to_string()).collect();
    let has = |kind| secrets.slots().iter().any(|slot| slot.kind == kind);
    let message =
        format!("no key was found for store {store}: there is no {}", places.join(", no "));
    Failure::new(codes::KEY_MISSING, message).doing(
        match (has(SlotKind::KeyFile), has(SlotKind::Passphrase)) {
            (_, true) => "give the passphrase: --passphrase or --passphrase-file FILE",
            (true, false) => "name the key file with --key-file FILE, or use the recovery key",
            (false, false) => "use the recovery key",
        },
    )
}
