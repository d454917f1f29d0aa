//! The folder on which it is mounted: looked at before, served, and taken off again.
//!
//! A wish to stop unmounts. Where files are still open the folder is taken off its place at once,
//! and they can be read until they are closed; a second wish ends that. What is killed leaves a
//! place that answers nothing: [`MountError::Dead`] names the command that frees it.

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use crossbeam_channel::{bounded, never, select};
use fuser::{Config, MountOption, Session, SessionACL};
use rustix::{
    fs::{AtFlags, CWD, FileType, StatxAttributes, StatxFlags, statx},
    io::Errno,
    mount::UnmountFlags,
    process::{getegid, geteuid},
};

use world::{
    Clock as _, Waker,
    real::{RealClock, StopSignals},
};

use crate::{
    Entry,
    answers::{Answers, Owner},
};

/// Signals that come together are one wish: a terminal and a supervisor may both send one.
const SAME_WISH_NS: u64 = 500_000_000;

/// The name that `mount` and `findmnt` show.
const NAME: &str = "strandline";

/// How it is mounted.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Other users may read, too.
    pub allow_other: bool,
    /// How long one answer may take; see the crate's head.
    pub limit: Duration,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Unmounted, by us or by somebody else, and nothing is open any more.
    Whole,
    /// By a second wish, while files were open.
    Impatient,
}

/// What is told while it is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// The kernel knows it: it can be used.
    Mounted,
    /// It was taken off its place; so many files are open, and can be read until they are closed.
    StillOpen(u64),
}

/// Why it was not mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// There is no such folder.
    #[error("{} is not there", .0.display())]
    Missing(PathBuf),
    /// It is no folder.
    #[error("{} is no directory", .0.display())]
    NoFolder(PathBuf),
    /// What is in it would be hidden.
    #[error("{} is not empty", .0.display())]
    NotEmpty(PathBuf),
    /// It is the place of another file system.
    #[error("something is mounted on {}", .0.display())]
    InUse(PathBuf),
    /// What was mounted there ended without unmounting.
    #[error("what was mounted on {} has ended and left its place behind", path.display())]
    Dead {
        /// The folder.
        path: PathBuf,
        /// The command that frees it.
        command: String,
    },
    /// This system has no FUSE.
    #[error("{0}")]
    NoFuse(&'static str),
    /// The system does not let this user mount, or not so.
    #[error("{0}")]
    Refused(String),
    /// Something else went wrong.
    #[error("cannot {doing} {}: {cause}", path.display())]
    Io {
        /// The verb.
        doing: &'static str,
        /// The folder.
        path: PathBuf,
        /// The system's answer.
        cause: io::Error,
    },
}

/// Whether something can be mounted on a folder; gives its whole path.
pub fn look(folder: &Path) -> Result<PathBuf, MountError> {
    let own = || folder.to_owned();
    let cannot = |cause: io::Error| match Errno::from_io_error(&cause) {
        Some(Errno::NOENT) => MountError::Missing(own()),
        Some(Errno::NOTDIR) => MountError::NoFolder(own()),
        Some(Errno::NOTCONN | Errno::CONNABORTED) => {
            let shown = std::path::absolute(folder).unwrap_or_else(|_| own());
            MountError::Dead { path: own(), command: unmount_command(&shown) }
        }
        _ => MountError::Io { doing: "look at", path: own(), cause },
    };
    let facts = statx(CWD, folder, AtFlags::empty(), StatxFlags::BASIC_STATS);
    let facts = facts.map_err(|error| cannot(error.into()))?;
    let path = folder.canonicalize().map_err(cannot)?;
    if FileType::from_raw_mode(facts.stx_mode.into()) != FileType::Directory {
        return Err(MountError::NoFolder(own()));
    }
    // The kernel may remember what a dead one was: only its list shows that nobody answers.
    let mut entries = path.read_dir().map_err(cannot)?;
    if facts.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT)
        && facts.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
    {
        return Err(MountError::InUse(own()));
    }
    if entries.next().is_some() {
        return Err(MountError::NotEmpty(own()));
    }
    Ok(path)
}

/// The command by which this user unmounts a folder.
pub fn unmount_command(path: &Path) -> String {
    let command = if geteuid().is_root() { "umount" } else { "fusermount3 -u" };
    format!("{command} {}", path.display())
}

/// Mounts `root` on a folder that [`look`] gave, and serves it until it is unmounted. SIGINT and
/// SIGTERM are wishes to stop.
pub fn serve(
    root: Entry,
    path: &Path,
    options: Options,
    news: &mut dyn FnMut(News),
) -> Result<Ended, MountError> {
    let failed = |doing| move |cause| MountError::Io { doing, path: path.to_owned(), cause };
    let (stop, stops) = bounded(1);
    let waker = Waker(Arc::new(move || {
        let _ = stop.try_send(()); // one that waits is enough
    }));
    let _signals = StopSignals::install(waker).map_err(failed("catch signals for"))?;
    let (idle_sender, idle) = bounded(1);
    let owner =
        Owner { uid: geteuid().as_raw(), gid: getegid().as_raw(), shared: options.allow_other };
    let (answers, shared) = Answers::start(root, owner, options.limit, idle_sender)
        .map_err(failed("start the threads for"))?;
    let mut session =
        Session::new(answers, path, &config(options)).map_err(|error| refused(error, path))?;
    let mut unmounter = session.unmount_callable();
    let (ended_sender, ended) = bounded(1);
    thread::Builder::new()
        .name("mount".to_owned())
        .spawn(move || ended_sender.send(session.run()))
        .map_err(failed("start the threads for"))?;
    news(News::Mounted);
    let mut wished_ns: Option<u64> = None;
    let none = never();
    loop {
        let closed = if wished_ns.is_some() { &idle } else { &none };
        select! {
            recv(ended) -> end => {
                return match end {
                    Ok(Ok(())) => Ok(Ended::Whole),
                    Ok(Err(cause)) => Err(failed("serve")(cause)),
                    Err(_) => Err(failed("serve")(io::Error::other("its thread ended"))),
                };
            }
            recv(closed) -> _ => {
                if shared.opened() == 0 {
                    return Ok(Ended::Whole);
                }
            }
            recv(stops) -> _ => {
                let now_ns = RealClock.boot_ns();
                match wished_ns {
                    Some(before) if now_ns - before < SAME_WISH_NS => continue,
                    Some(_) => return Ok(Ended::Impatient),
                    None => wished_ns = Some(now_ns),
                }
                match unmounter.unmount() {
                    Ok(()) => {}
                    Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {
                        rustix::mount::unmount(path, UnmountFlags::DETACH)
                            .map_err(|error| failed("unmount")(error.into()))?;
                    }
                    Err(error) => return Err(failed("unmount")(error)),
                }
                match shared.opened() {
                    // Somebody may stand in the folder without having a file open: no reason to stay.
                    0 => return Ok(Ended::Whole),
                    opened => news(News::StillOpen(opened)),
                }
            }
        }
    }
}

fn config(options: Options) -> Config {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(NAME.to_owned()),
        MountOption::Subtype(NAME.to_owned()),
        MountOption::RO,
        MountOption::NoExec,
        MountOption::NoAtime,
        MountOption::DefaultPermissions,
    ];
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    config
}

/// Why the system did not mount, in words that help.
fn refused(error: io::Error, path: &Path) -> MountError {
    if !Path::new("/dev/fuse").exists() {
        return MountError::NoFuse("this system has no /dev/fuse");
    }
    let text = error.to_string();
    match error.kind() {
        ErrorKind::PermissionDenied => MountError::Refused(text.trim().to_owned()),
        // What is not there is the helper that mounts for users other than root.
        ErrorKind::NotFound => MountError::NoFuse("fusermount3 is missing"),
        ErrorKind::Other if text.contains("fusermount") => {
            MountError::Refused(text.trim().to_owned())
        }
        _ => MountError::Io { doing: "mount on", path: path.to_owned(), cause: error },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_folder_is_taken() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(path("full/below")).expect("made");
        assert_eq!(look(&path("full/below")).expect("empty"), {
            path("full/below").canonicalize().expect("there")
        });
        assert!(matches!(look(&path("full")), Err(MountError::NotEmpty(_))));
        assert!(matches!(look(&path("absent")), Err(MountError::Missing(_))));
        std::os::unix::net::UnixListener::bind(path("socket")).expect("made");
        assert!(matches!(look(&path("socket")), Err(MountError::NoFolder(_))));
        assert!(matches!(look(&path("socket/x")), Err(MountError::NoFolder(_))));
        assert!(matches!(look(Path::new("/proc")), Err(MountError::InUse(_))));
    }
}
