//! A folder of files that are made as they are read, mounted by FUSE: read-only, nothing is stored.
//!
//! ```text
//! kernel ─▶ answers ─▶ inodes ─▶ Folder::find, list       tree: what there is, by name
//!                         └────▶ VirtualFile::read_at     made: layout of an image over a disk
//! ```
//!
//! - [`DiskFolder`] shows one image in every format, [`Store`] the instants of volumes.
//! - The bytes of an inode never change: the kernel keeps them, and the names that are fixed, for as
//!   long as it likes. A name that moves is a link, looked up each time.
//! - Damage is an I/O error where it is, never zeroes. An answer that takes longer than
//!   [`Options::limit`] is one, too: at most two limits after it was asked for, however long the
//!   queue. No reader hangs because something else does.
//! - Names that are looked up lead to entries of a [`Folder`], never to a path of the host.
//! - Memory: a read of at most 1 MiB for each of eight threads, what the kernel knows of inodes, the
//!   tables of the layouts, and 32 MiB that were read ahead from a store.
//!
//! This is the only crate that knows FUSE, and one of the few with threads: the kernel's readers wait
//! for nobody but what they read.

mod answers;
mod file;
mod image;
mod inodes;
mod made;
mod mounting;
mod store;
mod tree;
mod windows;

pub use file::{Trouble, VirtualFile, Wanted, seek};
pub use image::DiskFolder;
pub use mounting::{Ended, MountError, News, Options, look, serve, unmount_command};
pub use store::Store;
pub use tree::{Entry, Folder, Kind, Listed, Node};
