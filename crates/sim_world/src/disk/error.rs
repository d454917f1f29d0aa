//! What operations fail with, and what must never be asked.

use super::{
    fault::Fault,
    state::{Handle, Moment},
};
use std::{fmt, io};

const EIO: i32 = 5;
pub(crate) const EBADF: i32 = 9;
const ENOSPC: i32 = 28;

pub(crate) fn eio() -> io::Error {
    io::Error::from_raw_os_error(EIO)
}

pub(crate) fn no_space() -> io::Error {
    io::Error::from_raw_os_error(ENOSPC)
}

/// The error of every operation from the crash point on.
#[derive(Debug)]
struct Crash;

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the simulated machine has crashed")
    }
}

impl std::error::Error for Crash {}

pub(crate) fn crash() -> io::Error {
    io::Error::other(Crash)
}

/// Whether an operation failed because the crash point was reached, not by a fault of the disk.
pub fn is_crash(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.downcast_ref::<Crash>().is_some())
}

pub(crate) fn outcome(crash: Option<Moment>, fault: Option<Fault>) -> &'static str {
    match (crash, fault) {
        (Some(Moment::Before), _) => "crash before",
        (Some(Moment::Partly), _) => "crash amid",
        (Some(Moment::After), _) => "crash after",
        (None, None | Some(Fault::Slow(_))) => "ok",
        (None, Some(Fault::ReadError | Fault::WriteError | Fault::NameError)) => "EIO",
        (None, Some(Fault::SyncError(_))) => "EIO, dirty pages dropped",
        (None, Some(Fault::MisdirectedRead | Fault::MisdirectedWrite)) => "misdirected",
        (None, Some(Fault::LostWrite)) => "lost",
        (None, Some(Fault::LyingSync)) => "lied",
        (None, Some(Fault::BitRot)) => "rotten",
        (None, Some(Fault::ShortWrite)) => "short",
        (None, Some(Fault::NoSpace)) => "ENOSPC",
    }
}

/// What the kernel would refuse with EINVAL is our bug.
pub(crate) fn check_alignment(file: &Handle, what: &str, offset: u64, bytes: &[u8]) {
    let alignment = file.alignment;
    let fits = offset.is_multiple_of(alignment as u64)
        && bytes.len().is_multiple_of(alignment)
        && (bytes.is_empty() || bytes.as_ptr().addr().is_multiple_of(alignment));
    assert!(
        fits,
        "{what} of {} at {offset} + {} (address {:p}) is not aligned to {alignment} bytes",
        file.path,
        bytes.len(),
        bytes.as_ptr(),
    );
}

/// Paths are our own: relative, without empty or dotted parts.
pub(crate) fn assert_plain(path: &str) {
    let plain = path.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    assert!(plain, "{path:?} is not a path of a store");
}
