//! Files inside a disk: its partitions and file systems, read from its bytes in user space.
//!
//! ```text
//! Source (bytes of an instant) ─▶ Disk (cache) ─▶ volumes() ─▶ Volume { window, FileSystem }
//!                                                    lookup, list, node, pieces, link target
//! ```
//!
//! - Nothing is written, nothing is mounted, no kernel driver sees a guest's bytes.
//! - Bytes of a guest never panic and never take more than the bounds of [`limits`]. What cannot be
//!   so is [`Error::Damaged`], what is not read here is [`Error::Unsupported`], what goes beyond a bound
//!   is [`Error::Limit`]; all three are told apart from a source that cannot be read.
//! - An instant is what a machine leaves when its power is cut. A journal is therefore replayed, in
//!   memory, where that is known to be right; where it is not, [`FileSystem::notes`] says so.
//! - Names are bytes as the file system keeps them. None is `.`, `..`, empty, or holds `/` or NUL: such
//!   entries are damage. Links are data; only [`lookup`] follows them, and only inside the guest.
//!
//! Which reader is ours and which is a library: docs/decisions/0009.

#![forbid(unsafe_code)]

mod bytes;
mod compare;
mod disk;
mod error;
mod ext;
mod fat;
mod fields;
pub mod limits;
mod lookup;
mod ntfs;
mod partitions;
mod pieces;
mod tree;
mod volumes;
mod walk;
mod xfs;

pub use bytes::{ReadError, Source};
pub use compare::{Change, Changed, Comparison, Facets, compare};
pub use disk::{Disk, Window};
pub use error::Error;
pub use lookup::{Found, Missing, lookup};
pub use partitions::{Partition, Table};
pub use pieces::{Piece, Place};
pub use tree::{Entry, FileSystem, Kind, Node, NodeId, Time};
pub use volumes::{Volume, Volumes, volumes};
pub use walk::{Visitor, join, walk};
