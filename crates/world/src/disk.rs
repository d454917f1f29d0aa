//! Files under one directory, blocking: for jobs, start and stop.
//!
//! Paths are relative to the store's directory, made of our own names and numbers only, with `/`
//! between parts (`pack/17.pack`). Nothing is durable before [`DiskFile::sync_data`], and no name
//! (made, renamed, removed) before [`Disk::sync_dir`] of its directory.

use std::{fmt, io, sync::Arc};

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// May be written.
    pub write: bool,
    /// Is made if absent, and must be absent ([`io::ErrorKind::AlreadyExists`]).
    pub create_new: bool,
    /// Goes round the page cache where the file system can: then every offset, length and address
    /// must be a multiple of [`DiskFile::alignment`]. Where it cannot, the alignment is 1.
    pub direct: bool,
}

impl Access {
    /// Read, through the page cache.
    pub const READ: Self = Self { write: false, create_new: false, direct: false };
    /// Read round the page cache.
    pub const READ_DIRECT: Self = Self { direct: true, ..Self::READ };
    /// Read and write, through the page cache.
    pub const WRITE: Self = Self { write: true, ..Self::READ };
    /// Read and write, round the page cache.
    pub const WRITE_DIRECT: Self = Self { direct: true, ..Self::WRITE };

    /// The same for a file that must not exist yet.
    #[must_use]
    pub const fn new_file(self) -> Self {
        Self { create_new: true, ..self }
    }
}

/// Room of the file system that holds the store, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub total_bytes: u64,
    /// What we may still fill.
    pub free_bytes: u64,
}

/// The store's directory.
pub trait Disk: Send + Sync {
    /// Opens or makes a file.
    fn open(&self, path: &str, access: Access) -> io::Result<File>;
    /// Gives a file another name, replacing what had it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &str) -> io::Result<()>;
    /// Makes a directory; fine if it is there.
    fn make_dir(&self, path: &str) -> io::Result<()>;
    /// Makes names in the directory durable; `""` is the store's own.
    fn sync_dir(&self, path: &str) -> io::Result<()>;
    /// Names of the files (no directories) in a directory, sorted; empty if it is absent.
    fn list(&self, path: &str) -> io::Result<Vec<String>>;
    /// Room left.
    fn space(&self) -> io::Result<Space>;
}

/// An open file; closed when the last holder lets go, also one in flight in a [`crate::Ring`].
pub type File = Arc<dyn DiskFile>;

/// What can be done with an open file.
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Reads all of `into`; [`io::ErrorKind::UnexpectedEof`] if the file ends before.
    fn read_at(&self, offset_bytes: u64, into: &mut [u8]) -> io::Result<()>;
    /// Writes all of `from`; a short write is an error.
    fn write_at(&self, offset_bytes: u64, from: &[u8]) -> io::Result<()>;
    /// Makes all writes that were answered before durable (`fdatasync`).
    fn sync_data(&self) -> io::Result<()>;
    /// Length in bytes.
    fn length_bytes(&self) -> io::Result<u64>;
    /// Cuts or grows the file; what is new reads as zero.
    fn set_length(&self, length_bytes: u64) -> io::Result<()>;
    /// Reserves room for the first `length_bytes` and makes the file that long (`fallocate`).
    fn allocate(&self, length_bytes: u64) -> io::Result<()>;
    /// Bytes that offsets, lengths and addresses must be a multiple of (512, 4096, or 1).
    fn alignment(&self) -> usize;
    /// What a [`crate::Ring`] of the same world knows the file by (a descriptor).
    fn handle(&self) -> i32;
}
