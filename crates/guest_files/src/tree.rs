//! What every file system can be asked.

use std::fmt;

use crate::{Error, Piece};

/// What a file system calls a file: an inode, a record of the MFT, a place of a directory entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// What is never made from a disk's bytes; the name of its kind: `socket`, `block device`.
    Special(&'static str),
}

/// A time of a file system, whose zone is UTC (FAT has none: its times are taken as UTC).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// Seconds since 1970, whole, rounded down.
    pub seconds: i64,
    /// Nanoseconds of the second, below 10^9.
    pub nanoseconds: u32,
}

/// What a file system says of one of its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// Which it is.
    pub id: NodeId,
    /// What it is.
    pub kind: Kind,
    /// Bytes of its content; of a link: of its target.
    pub size: u64,
    /// Permissions (12 bits: with setuid, setgid, sticky), where the file system has them.
    pub mode: Option<u16>,
    /// User and group, where the file system has them.
    pub owner: Option<(u32, u32)>,
    /// When the content was last changed.
    pub modified: Time,
    /// Names that lead to it; 1 where the file system cannot have more.
    pub names: u32,
}

/// A name in a directory.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name as the file system keeps it; see the crate's head for what it cannot be.
    pub name: Vec<u8>,
    /// What it leads to.
    pub id: NodeId,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} -> {}", String::from_utf8_lossy(&self.name), self.id.0)
    }
}

/// A file system that is only read.
pub trait FileSystem {
    /// `ext4`, `xfs`, `FAT32`, `NTFS`.
    fn name(&self) -> &'static str;

    /// What a person should know of how it was read: a journal that was replayed, or was not.
    fn notes(&self) -> &[String];

    /// Its top directory.
    fn root(&self) -> NodeId;

    /// What it says of a file.
    fn node(&self, id: NodeId) -> Result<Node, Error>;

    /// Calls `each` for every name in a directory, `.` and `..` left out, in the order of the disk;
    /// ends early when `each` fails.
    fn list(
        &self,
        directory: NodeId,
        each: &mut dyn FnMut(Entry) -> Result<(), Error>,
    ) -> Result<(), Error>;

    /// Whether two names are one for this file system.
    fn same_name(&self, one: &[u8], other: &[u8]) -> bool {
        one == other
    }

    /// Where a file's content is: ascending, without overlap; what no piece covers reads as zero.
    fn pieces(&self, file: NodeId) -> Result<Vec<Piece>, Error>;

    /// Where a link leads.
    fn target(&self, link: NodeId) -> Result<Vec<u8>, Error>;

    /// Reads bytes of the file system itself, as its journal left them.
    fn read(&self, place: u64, into: &mut [u8]) -> Result<(), Error>;

    /// Whether the journal, and not the place itself, holds any byte of a range.
    fn replayed(&self, place: u64, length: u64) -> bool;
}

/// Whether a name can be one of a directory entry.
pub(crate) fn is_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name != b"."
        && name != b".."
        && name.iter().all(|byte| *byte != b'/' && *byte != 0)
}
