//! What who drives the log gives it and hears from it.

use crate::{files::CellFile, keyring::Keyring};
use seal::Key;
use std::sync::Arc;
use thiserror::Error;
use units::{Sequence, StoreId};
use world::{Chance, Clock, Disk, File, Pool};

/// When a write is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AckPolicy {
    /// When its batch, and all earlier ones, are on the disk (perhaps in its cache).
    #[default]
    Disk,
    /// When they are in the page cache.
    Page,
    /// When it is sealed in memory: a killed server loses it.
    Memory,
}

/// How a log works.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// When a write is answered.
    pub ack: AckPolicy,
    /// Whether full segments become packs.
    pub pack: bool,
    /// Length of a segment.
    pub segment_bytes: u64,
    /// Segments and batches are aligned to it (512 or 4096).
    pub sector: usize,
    /// Full segments kept in memory for the packer.
    pub images: usize,
    /// Free slots kept for new segments.
    pub pool_files: usize,
    /// Full segments that may wait for the packer before writers do.
    pub backlog_segments: usize,
    /// Room left to the file system: below it the store is full.
    pub reserve_bytes: u64,
    /// The manifest is written anew once it is longer, and twice as long as it was then.
    pub manifest_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ack: AckPolicy::Disk,
            pack: true,
            segment_bytes: 64 << 20,
            sector: 4096,
            images: 2,
            pool_files: 16,
            backlog_segments: 64,
            reserve_bytes: 0,
            manifest_bytes: 256 << 10,
        }
    }
}

/// What the log shares with its jobs.
pub struct Environment {
    /// The store's directory.
    pub disk: Arc<dyn Disk>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Salts and ids.
    pub chance: Arc<dyn Chance>,
    /// I/O buffers.
    pub pool: Pool,
    /// The master key.
    pub master: Key,
    /// The store.
    pub store: StoreId,
    /// Keys of the cells.
    pub keyring: Arc<Keyring>,
}

/// Whether a request can be begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Now.
    Yes,
    /// Not before something that is under way has ended.
    Wait,
    /// The store is full.
    Full,
    /// The files that it needs cannot be made, and not for want of room.
    Failing,
    /// The log takes no writes any more.
    Poisoned,
}

/// What the caller hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A request's answer is due.
    Written {
        /// Of [`Log::end`].
        ticket: u64,
        /// Its place in history.
        sequence: Sequence,
    },
    /// A flush's answer is due.
    Flushed {
        /// Of [`Log::flush`].
        ticket: u64,
    },
    /// A request or flush failed.
    Failed {
        /// Its ticket.
        ticket: u64,
        /// Why, as far as a client is told.
        full: bool,
    },
    /// Records of [`Log::record`] are durable (or not).
    Recorded {
        /// Its ticket.
        ticket: u64,
        /// Whether they are.
        durable: bool,
    },
}

/// Why the log takes no writes.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{what} failed: {cause}")]
pub struct Poison {
    /// What was tried.
    pub what: &'static str,
    /// What the disk said.
    pub cause: String,
}

/// Where a cell is to be had.
#[derive(Debug)]
pub enum Located<'a> {
    /// Here.
    Memory(&'a [u8]),
    /// In this file, at the place's offset. Keep the first until the read has ended.
    Disk(Arc<CellFile>, File),
    /// Somewhere else by now: ask the index.
    Gone,
    /// The file does not open.
    Lost,
}
