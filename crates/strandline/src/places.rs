//! Where things are when nobody says: the store, its control socket, whom to trust.

use rustix::process::{getegid, geteuid, getpid};
use std::{
    env, fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// The store of the whole system.
const SYSTEM_STORE: &str = "/var/lib/strandline";

/// The store that is meant when none is named: the user's own if there is one, then the system's;
/// if there is neither, the one that the user may make.
pub fn default_store() -> PathBuf {
    let system = PathBuf::from(SYSTEM_STORE);
    let own = env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".local/share")))
        .map(|data| data.join("strandline"));
    match own {
        Some(own) if !geteuid().is_root() && (own.exists() || !system.exists()) => own,
        _ => system,
    }
}

/// Where seals of images are kept when neither a folder nor a store is named.
pub fn guard_book() -> PathBuf {
    let own = env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".local/state")));
    match own {
        Some(own) if !geteuid().is_root() => own.join("strandline/guard"),
        _ => Path::new(SYSTEM_STORE).join("guard"),
    }
}

/// The control socket of a store's server.
pub fn control_socket(store: &Path) -> PathBuf {
    store.join("control.sock")
}

/// Users whose server we tell what we want: ourselves, root, the owner of the store.
pub fn trusted(store: &Path) -> Vec<u32> {
    let owner = fs::metadata(store).ok().map(|metadata| metadata.uid());
    [geteuid().as_raw(), 0].into_iter().chain(owner).collect()
}

/// This process, as a store in it sees who asks.
pub fn caller() -> api::Caller {
    api::Caller {
        uid: geteuid().as_raw(),
        gid: getegid().as_raw(),
        pid: Some(getpid().as_raw_nonzero().get()),
    }
}
