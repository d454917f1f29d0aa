//! The contract between everything that serves blocks and everything that stores them.
//!
//! A request is submitted and answered later, once, in any order. Offsets and lengths are bytes, as
//! clients say them; the device cares for what is not aligned to blocks.

use thiserror::Error;
use units::{ClientId, Sequence};
use world::{Bytes, Page};

pub mod contract;

/// Who waits for an answer: given with the request, comes back with the completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Length; requests past it are refused with [`BlockError::OutOfRange`].
    pub size_bytes: u64,
    /// Writes, trims and zeroes are refused with [`BlockError::ReadOnly`].
    pub read_only: bool,
    /// What never changes may be read over several connections without a flush between them.
    pub frozen: bool,
}

/// The longest read or write.
pub const MAX_REQUEST_BYTES: u64 = 32 << 20;

/// One thing asked of a device.
#[derive(Debug)]
pub enum Command<'a> {
    /// Bytes, at most [`MAX_REQUEST_BYTES`].
    Read {
        /// First byte.
        offset_bytes: u64,
        /// How many.
        length_bytes: u64,
    },
    /// New contents. Answered when the ack policy says so; with `fua` when durable.
    Write {
        /// First byte.
        offset_bytes: u64,
        /// What to write, at most [`MAX_REQUEST_BYTES`].
        data: Payload<'a>,
        /// Durable before the answer.
        fua: bool,
    },
    /// All writes answered before it was submitted become durable, whoever sent them.
    Flush,
    /// Contents may go; they read as zero from now on.
    Trim {
        /// First byte.
        offset_bytes: u64,
        /// How many; any length.
        length_bytes: u64,
        /// Durable before the answer.
        fua: bool,
    },
    /// Contents must read as zero.
    WriteZeroes {
        /// First byte.
        offset_bytes: u64,
        /// How many; any length.
        length_bytes: u64,
        /// The room must stay reserved; recorded, of no effect in a log.
        no_hole: bool,
        /// Durable before the answer.
        fua: bool,
    },
    /// What lies where: answered with [`Answer::Extents`] that begin at `offset_bytes`.
    Extents {
        /// First byte.
        offset_bytes: u64,
        /// How many.
        length_bytes: u64,
        /// Stop after so many extents, at least 1.
        count_max: usize,
    },
}

impl Command<'_> {
    /// Whether it changes contents.
    pub fn writes(&self) -> bool {
        matches!(self, Self::Write { .. } | Self::Trim { .. } | Self::WriteZeroes { .. })
    }
}

/// The bytes of a write: borrowed where they lie in a receive buffer (copied only if the request must
/// wait), or owned.
#[derive(Debug)]
pub enum Payload<'a> {
    /// In the caller's buffer.
    Borrowed(&'a [u8]),
    /// The first `length_bytes` of pages, all full but the last.
    Pages {
        /// In order.
        pages: Vec<Page>,
        /// Of all together.
        length_bytes: usize,
    },
}

impl Payload<'_> {
    /// How many bytes there are to write.
    pub fn length_bytes(&self) -> u64 {
        match self {
            Self::Borrowed(bytes) => bytes.len() as u64,
            Self::Pages { length_bytes, .. } => *length_bytes as u64,
        }
    }
}

/// The end of a request.
#[derive(Debug)]
pub struct Completion {
    /// As given.
    pub ticket: Ticket,
    /// What came of it.
    pub result: Result<Answer, BlockError>,
}

/// What a request gave.
#[derive(Debug)]
pub enum Answer {
    /// Of a read: the parts one after the other are exactly the bytes asked for.
    Data(Vec<Bytes>),
    /// Of a write, trim or zeroes: its place in history.
    Written(Sequence),
    /// Of a flush.
    Flushed,
    /// Of [`Command::Extents`]: in order, without gaps, neighbours differ in kind.
    Extents(Vec<BlockExtent>),
}

/// A run of bytes of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockExtent {
    /// How many bytes, at least 1.
    pub length_bytes: u64,
    /// Never written or trimmed: reads as zero.
    pub hole: bool,
}

/// Why a request failed, in the few kinds that protocols can say.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum BlockError {
    /// Past the end of the device, or empty where that is not allowed.
    #[error("request lies outside the device")]
    OutOfRange,
    /// The device takes no writes.
    #[error("device is read-only")]
    ReadOnly,
    /// The caller may not do that (any more).
    #[error("not permitted")]
    Denied,
    /// The store has no room.
    #[error("no space left in the store")]
    NoSpace,
    /// The bytes are damaged or the disk does not give them.
    #[error("block cannot be read or written")]
    Io,
    /// Would need more than we hold for it.
    #[error("request is larger than the limit")]
    TooLarge,
    /// The server stops.
    #[error("server is stopping")]
    Stopping,
}

/// Anything that serves blocks.
pub trait BlockDevice {
    /// What it is now; the size can grow.
    fn info(&self) -> DeviceInfo;

    /// Takes a request; `client` is who asks, as the catalogue names it.
    fn submit(&mut self, ticket: Ticket, client: ClientId, command: Command<'_>);

    /// Appends what is done since the last call.
    fn take_completions(&mut self, completions: &mut Vec<Completion>);
}
