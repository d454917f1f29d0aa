//! The hot path's door: submit, go on, take what is done. One thread owns a ring.
//!
//! Buffers move in with the operation and come back with its end, so no copy is made and nobody can
//! touch memory that the kernel works on.

use crate::{Bytes, File, Page};
use std::{fmt, io, sync::Arc};

/// Who asked: given with the operation, comes back with its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// One thing to do.
#[derive(Debug)]
pub enum Op {
    /// Reads `length_bytes` into the front of the page. Short at the end of the file.
    Read {
        /// Opened through the same world's disk.
        file: File,
        /// Where to read.
        offset_bytes: u64,
        /// Where to; comes back as [`Done::page`].
        page: Page,
        /// At most the page's length.
        length_bytes: usize,
    },
    /// Writes all parts one after the other. May end short, as any write may.
    Write {
        /// Opened through the same world's disk.
        file: File,
        /// Where to write the first byte.
        offset_bytes: u64,
        /// At most [`MAX_PARTS`].
        parts: Vec<Bytes>,
    },
    /// Makes durable what was answered before it was pushed (`fdatasync`).
    Sync {
        /// Opened through the same world's disk.
        file: File,
    },
    /// Waits for one connection; the answer holds the socket.
    Accept {
        /// Where clients knock.
        listener: Listener,
    },
    /// Receives what is there, at least one byte, 0 = the peer has ended.
    Receive {
        /// From whom.
        socket: Socket,
        /// Comes back as [`Done::page`].
        page: Page,
        /// First byte of the page to fill; fills at most to its end.
        from: usize,
        /// At most so many bytes.
        length_bytes: usize,
        /// Better all of them at once than some at a time; it may end short all the same.
        whole: bool,
    },
    /// Sends the parts; may end short, the caller pushes the rest.
    Send {
        /// To whom.
        socket: Socket,
        /// At most [`MAX_PARTS`].
        parts: Vec<Bytes>,
    },
}

/// Parts that one write or send may have.
pub const MAX_PARTS: usize = 1024;

/// The end of an operation.
#[derive(Debug)]
pub struct Done {
    /// As given.
    pub token: Token,
    /// Bytes moved, or the new socket, or the error.
    pub result: io::Result<Finished>,
    /// The page of a read or receive, also after an error.
    pub page: Option<Page>,
}

/// What an operation gave.
#[derive(Debug)]
pub enum Finished {
    /// Bytes read, written, received, sent; 0 for a sync.
    Bytes(usize),
    /// Of an accept.
    Socket(Socket),
}

/// How long a turn may wait for something to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    No,
    /// Until an operation ends or the waker calls.
    Forever,
    /// The same, but at most so long.
    Ns(u64),
}

/// A queue of operations to the kernel and back.
pub trait Ring {
    /// Takes an operation; it starts with the next [`Ring::turn`] at the latest.
    fn push(&mut self, token: Token, op: Op);

    /// Starts what was pushed, waits as told while nothing is done, and appends what is done.
    fn turn(&mut self, wait: Wait, done: &mut Vec<Done>) -> io::Result<()>;

    /// Ends a wait from another thread.
    fn waker(&self) -> Waker;

    /// Operations pushed and not yet given back.
    fn in_flight(&self) -> usize;
}

/// Ends a [`Ring::turn`]'s wait; calls between two turns are not lost.
#[derive(Clone)]
pub struct Waker(pub Arc<dyn Fn() + Send + Sync>);

impl Waker {
    /// Wakes the ring's thread.
    pub fn wake(&self) {
        (self.0)();
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waker")
    }
}

/// A connected stream; closed when the last holder lets go. Real ones hold a descriptor.
#[derive(Clone, Debug)]
pub struct Socket(pub Arc<dyn SocketHandle>);

/// What a ring needs of a socket.
pub trait SocketHandle: Send + Sync + fmt::Debug {
    /// The descriptor, or a simulated one.
    fn handle(&self) -> i32;
    /// Ends both directions at once; receives in flight end with 0 bytes or an error.
    fn shut_down(&self);
    /// Takes nothing more in; what is queued to be sent still goes. A receive in flight ends with 0
    /// bytes.
    fn stop_receiving(&self) {
        self.shut_down();
    }
    /// Who is at the other end.
    fn peer(&self) -> Peer;
}

/// Who is at the other end of a socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// A process of this machine (`SO_PEERCRED`).
    Process {
        /// User.
        uid: u32,
        /// Main group.
        gid: u32,
        /// Process.
        pid: i32,
    },
    /// A TCP address.
    Address(std::net::SocketAddr),
    /// The system would not say.
    Unknown,
}

/// Where clients knock.
#[derive(Clone, Debug)]
pub struct Listener(pub Arc<dyn ListenerHandle>);

/// What a ring needs of a listener.
pub trait ListenerHandle: Send + Sync + fmt::Debug {
    /// The descriptor, or a simulated one.
    fn handle(&self) -> i32;
}
