//! Images on this machine's files: opened, read, digested, converted, salvaged.
//!
//! `images` parses and never opens anything; this crate gives it files and does what it asks:
//!
//! ```text
//! path ─▶ Disk::open ─▶ images::Opening ─▶ Chain ─▶ Source ─▶ jobs ─▶ workers ─▶ in order ─▶ Sink
//!          Files: pread, names beneath       map, holes of     pread, unpack      digest, new
//!          the image's own folder            sparse files                         file, stream
//! ```
//!
//! - Names that stand in an image are opened beneath its folder only, or in folders that the user
//!   named; regular files, and block devices where the user allows them.
//! - What is damaged is an error for who needs it: never zeroes, except in a salvage, which lists
//!   each such range.
//! - An image of any size takes a bounded amount of memory: [`WINDOW`] jobs of about
//!   [`JOB_BYTES`] are in flight, besides the parsers' own caches.
//! - A new file appears under its name when it is whole; ended early, nothing is left.

mod convert;
mod digest;
mod disk;
mod edit;
mod fetch;
mod files;
mod order;
mod pack;
mod plan;
mod salvage;
mod scan;
mod shared;
mod sink;
mod source;
mod write;

pub use convert::{Converted, Prepared, Target, may_write, with_suffix, write_list};
pub use digest::{Algorithm, Digest};
pub use disk::{Disk, OpenDisk};
pub use edit::edit_error;
pub use files::Files;
pub use pack::{Batch, pack_clusters, pack_grains};
pub use salvage::{BadRange, Salvaged};
pub use scan::Scanned;
pub use shared::{Piece, SharedDisk};
pub use sink::{DeviceSink, FileSink, Sink, StreamSink};
pub use source::{JOB_BYTES, WINDOW};

use std::{io, path::PathBuf};

use images::{Fault, layout::Unwritable};

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An image is not good; the file in which that was seen.
    #[error("{}: {fault}", path.display())]
    Fault {
        /// What is wrong.
        fault: Box<Fault>,
        /// The file.
        path: PathBuf,
    },
    /// The file that the user named is not there.
    #[error("{} is not there", .0.display())]
    Missing(PathBuf),
    /// The file that the user named is nothing that can be an image.
    #[error("{}: {why}", path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
        /// What it is.
        why: &'static str,
    },
    /// The system refused something.
    #[error("cannot {doing} {}: {cause}", path.display())]
    Io {
        /// The verb.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Its answer.
        cause: io::Error,
    },
    /// There is a file of that name, and it was not said to write over it.
    #[error("{} exists", .0.display())]
    Exists(PathBuf),
    /// The device holds data, and it was not said to write over it.
    #[error("{} holds data", .0.display())]
    DeviceInUse(PathBuf),
    /// The device is too small.
    #[error("{} has {room} bytes, and {wanted} are to be written", path.display())]
    TooSmall {
        /// The device.
        path: PathBuf,
        /// Its length in bytes.
        room: u64,
        /// Bytes to be written.
        wanted: u64,
    },
    /// The output is one of the files that are read.
    #[error("{} is part of what is read", .0.display())]
    Itself(PathBuf),
    /// The disk cannot be written in that format, or not so.
    #[error(transparent)]
    Unwritable(#[from] Unwritable),
    /// Somebody uses it.
    #[error("{}: {why}", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
        /// How.
        why: &'static str,
    },
    /// A target of that kind takes no such output.
    #[error("{0}")]
    Unsuitable(&'static str),
    /// The caller wished to stop.
    #[error("interrupted")]
    Interrupted,
}

/// What the caller wants to know, and may wish, while bytes go by.
pub struct Watch<'w> {
    /// Called with numbers of bytes that were done.
    pub progress: &'w mut dyn FnMut(u64),
    /// Whether to stop.
    pub stopped: &'w dyn Fn() -> bool,
}

impl Watch<'_> {
    fn advance(&mut self, bytes: u64) -> Result<(), Error> {
        (self.progress)(bytes);
        if (self.stopped)() { Err(Error::Interrupted) } else { Ok(()) }
    }
}

/// A length that fits memory: every caller has bounded it before.
fn narrow(len: u64) -> usize {
    usize::try_from(len).expect("bounded by the job's length")
}
