//! The doors as this machine has them.
//!
//! [`open_ring`] chooses between io_uring and threads by trying; all else is one implementation per
//! trait, and the few things about processes that a server must know.

mod bar;
mod child;
mod clock;
mod disk;
mod edited;
mod foreign;
mod landing;
mod net;
mod process;
mod socket;
mod stop;
mod threads;
mod uring;
mod wake;

use std::io;

use rustix::{
    fs::{MemfdFlags, memfd_create},
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
};

pub use bar::BarError;
pub use child::{exit_code, run_to_end};
pub use clock::{RealChance, RealClock};
pub use disk::{FileSystem, FileSystemKind, LockError, LockKind, RealDisk, RealFile, StoreLock};
pub use edited::{EditError, EditedFile, remove_new};
pub use foreign::{
    FileStat, Folder, ForeignFile, Kinds, NewFile, Place, Refusal, Stretch, TargetDevice,
};
pub use landing::{Attributes, Landing, LandingFile};
pub use net::{ConnectError, ListenError, adopt_listener, connect_unix, listen_tcp, listen_unix};
pub use process::{
    ProcessId, forbid_dumps, group_id, group_name, groups_of, lock_memory, program_of,
    raise_descriptor_limit, user_id, user_name,
};
pub use socket::{ListenAddress, RealListener, RealSocket};
pub use stop::StopSignals;
pub use threads::ThreadRing;
pub use uring::UringRing;

use crate::{Bytes, Done, Finished, Op, Pool, Ring, Token, Wait};

/// Which ring to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RingChoice {
    /// io_uring where it works, else threads.
    #[default]
    Auto,
    /// io_uring or an error.
    Uring,
    /// Threads.
    Threads,
}

/// Opens a ring for this thread and tries it; the text says which it is and, where io_uring was
/// wanted and does not work, why.
pub fn open_ring(choice: RingChoice) -> io::Result<(Box<dyn Ring>, &'static str)> {
    let error = match choice {
        RingChoice::Threads => return Ok((open_threads()?, "threads")),
        RingChoice::Uring => return Ok((open_uring()?, "io_uring")),
        RingChoice::Auto => match open_uring() {
            Ok(ring) => return Ok((ring, "io_uring")),
            Err(error) => error,
        },
    };
    let why = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "threads (io_uring is forbidden: seccomp or kernel.io_uring_disabled)"
        }
        Some(libc::ENOSYS | libc::EINVAL) => "threads (this kernel's io_uring is missing or old)",
        Some(libc::ENOMEM) => "threads (io_uring found no memory: see ulimit -l)",
        Some(libc::EMFILE | libc::ENFILE) => return Err(error),
        _ => "threads (io_uring failed its self-test)",
    };
    Ok((open_threads()?, why))
}

fn open_uring() -> io::Result<Box<dyn Ring>> {
    let mut ring = UringRing::new()?;
    self_test(&mut ring)?;
    Ok(Box::new(ring))
}

fn open_threads() -> io::Result<Box<dyn Ring>> {
    let mut ring = ThreadRing::new()?;
    self_test(&mut ring)?;
    Ok(Box::new(ring))
}

/// One of each kind, on a file in memory and a pair of sockets: a filter may allow the calls that
/// set a ring up and forbid some of its operations.
fn self_test(ring: &mut dyn Ring) -> io::Result<()> {
    const TEXT: &[u8] = b"strandline";
    let wrong = || io::Error::other("the ring gave a wrong answer");
    let pool = Pool::new(1);
    let page = || pool.take(4096).ok_or(io::ErrorKind::OutOfMemory);
    let text = || vec![Bytes::from(TEXT[..6].to_vec()), Bytes::from(TEXT[6..].to_vec())];

    let file = RealFile::adopt(memfd_create("self-test", MemfdFlags::CLOEXEC)?);
    let write = Op::Write { file: file.clone(), offset_bytes: 1, parts: text() };
    if bytes(&one(ring, write)?)? != TEXT.len() {
        return Err(wrong());
    }
    one(ring, Op::Sync { file: file.clone() })?;
    let read = Op::Read { file, offset_bytes: 1, page: page()?, length_bytes: 4096 };
    let done = one(ring, read)?;
    if done.page.as_ref().and_then(|page| page.get(..bytes(&done).ok()?)) != Some(TEXT) {
        return Err(wrong());
    }

    let kind = SocketType::STREAM;
    let (here, there) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    let (here, there) = (RealSocket::adopt(here), RealSocket::adopt(there));
    if bytes(&one(ring, Op::Send { socket: here, parts: text() })?)? != TEXT.len() {
        return Err(wrong());
    }
    let receive = Op::Receive {
        socket: there,
        page: page()?,
        from: 0,
        length_bytes: TEXT.len(),
        whole: false,
    };
    let done = one(ring, receive)?;
    if done.page.as_ref().and_then(|page| page.get(..bytes(&done).ok()?)) != Some(TEXT) {
        return Err(wrong());
    }

    ring.waker().wake();
    ring.turn(Wait::Ns(10_000_000_000), &mut Vec::new())
}

/// Does one thing and waits for its end, at most 10 seconds.
fn one(ring: &mut dyn Ring, op: Op) -> io::Result<Done> {
    ring.push(Token(0), op);
    let mut done = Vec::new();
    ring.turn(Wait::Ns(10_000_000_000), &mut done)?;
    let done = done.pop().ok_or(io::ErrorKind::TimedOut)?;
    match done.result {
        Err(error) => Err(error),
        Ok(_) => Ok(done),
    }
}

fn bytes(done: &Done) -> io::Result<usize> {
    match done.result {
        Ok(Finished::Bytes(bytes)) => Ok(bytes),
        _ => Err(io::Error::other("no count of bytes")),
    }
}

#[cfg(test)]
mod tests;
