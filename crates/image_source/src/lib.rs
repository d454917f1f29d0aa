//! A foreign image as something a volume stands on: found again, and still what it was.
//!
//! ```text
//! Origin (path, how to read it) ─┐
//!                                ├─▶ Source: guest bytes, while nothing says that the files changed
//! seal of all files of the chain ┘
//! ```
//!
//! - A source is *adopted* once: its chain is opened twice with the files' states taken between and
//!   after, so that what was parsed and what was sealed are one state.
//! - It is *found* again by its origin, and refused unless headers and files are as they were sealed.
//! - After each read the files are looked at once more, by their paths: bytes are given only while each
//!   is the same file, of the same length and times. Signs of a change do not prove one; but what was
//!   never read cannot be compared, so they are enough to stop. [`Source::adopt`] anew, on the user's
//!   word, goes on.
//!
//! Only read; nothing here writes to an image. Limits: those of `image_files`, and a look at each file of
//! the chain for each read.

#![forbid(unsafe_code)]

mod origin;

pub use image_files::Error;
pub use origin::Origin;

use image_files::{Disk, SharedDisk};
use images::FileId;
use lineage::{Notice, Seal, SealError, Stat, Witness};
use std::{fmt, ops::Range, path::PathBuf};
use world::real::FileStat;

/// Why a source does not serve.
#[derive(Debug, thiserror::Error)]
pub enum SourceFault {
    /// These bytes cannot be read; others can.
    #[error(transparent)]
    Damaged(Error),
    /// It cannot be opened, or not read as it was.
    #[error(transparent)]
    Gone(Error),
    /// It is not as it was sealed.
    #[error("{}: it is not as it was adopted: {signs} differs", path.display())]
    Changed {
        /// Which file, or the image's own.
        path: PathBuf,
        /// What differs.
        signs: String,
    },
    /// A program has it open for writing, by its own label.
    #[error("{}: {cause}", path.display())]
    Open {
        /// The image.
        path: PathBuf,
        /// What is said.
        cause: SealError,
    },
    /// What the store kept of it says nonsense.
    #[error("what was kept of the image {path} cannot be read", path = .0.display())]
    Malformed(PathBuf),
}

/// See the crate's head.
pub struct Source {
    origin: Origin,
    disk: SharedDisk,
    seal: Seal,
    /// Each file, in the order of the seal.
    files: Vec<(PathBuf, Stat)>,
    description: String,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({})", self.origin.path)
    }
}

impl Source {
    /// Opens an image that was not adopted before and seals it; `now_ns` is the time since 1970-01-01
    /// UTC.
    pub fn adopt(origin: Origin, now_ns: i64) -> Result<Self, SourceFault> {
        let first = open(&origin)?;
        let before = stats(&first)?;
        let disk = open(&origin)?;
        let after = stats(&disk)?;
        let path = origin.path();
        let files: Vec<Stat> = before.iter().map(|(_, stat)| *stat).collect();
        let witness = witness(&disk, files);
        if before != after {
            let signs = "the state of its files".to_owned();
            return Err(SourceFault::Changed { path, signs });
        }
        let seal = Seal::new(now_ns, witness, None);
        let seal = seal.map_err(|cause| SourceFault::Open { path, cause })?;
        Ok(Self::of(origin, disk, seal, after))
    }

    /// Opens an image that was adopted before, if it is still as it was sealed.
    pub fn find(origin: Origin, seal: &[u8]) -> Result<Self, SourceFault> {
        let seal = Seal::parse(seal).map_err(|_| SourceFault::Malformed(origin.path()))?;
        let disk = open(&origin)?;
        let files = stats(&disk)?;
        let now = witness(&disk, files.iter().map(|(_, stat)| *stat).collect());
        let notice = Notice::between(&seal, &now);
        if !notice.is_quiet() {
            let (path, signs) = (origin.path(), notice.to_string());
            return Err(SourceFault::Changed { path, signs });
        }
        Ok(Self::of(origin, disk, seal, files))
    }

    fn of(origin: Origin, disk: Disk, seal: Seal, files: Vec<(PathBuf, Stat)>) -> Self {
        let layers = disk.chain().layers();
        let facts = layers[0].facts();
        let kind = if facts.variant == facts.format.word() {
            facts.variant.to_owned()
        } else {
            format!("{}, {}", facts.format, facts.variant)
        };
        let description = match layers.len() {
            1 => kind,
            count => format!("{kind}; {count} images"),
        };
        Self { origin, disk: disk.into(), seal, files, description }
    }

    /// Where it is and how it is read.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// What was true of it, as bytes that can be kept.
    pub fn seal(&self) -> Vec<u8> {
        self.seal.encode()
    }

    /// Bytes that the guest sees.
    pub fn virtual_size(&self) -> u64 {
        self.disk.virtual_size()
    }

    /// Its format, for people.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Whether its files are still those that were sealed.
    pub fn look(&self) -> Result<(), SourceFault> {
        for (path, was) in &self.files {
            let now = FileStat::at(path).map_err(|cause| gone(path, cause))?;
            let now = stat(now, was.len);
            if now != *was {
                let seal = |stat| Witness { files: vec![stat], ..self.seal.witness.clone() };
                let was = Seal { witness: seal(*was), ..self.seal.clone() };
                let signs = Notice::between(&was, &seal(now)).to_string();
                return Err(SourceFault::Changed { path: path.clone(), signs });
            }
        }
        Ok(())
    }

    /// Guest bytes from `offset` on; what lies past the end of the disk is zero.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), SourceFault> {
        let read = self.disk.read(offset, into);
        // Whatever was read before a change was noticed is not given.
        self.look()?;
        read.map_err(SourceFault::Damaged)
    }

    /// Ranges within `range` that its map calls zero, ascending.
    pub fn zeros(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, SourceFault> {
        const PIECES_MAX: usize = 1024;
        let mut zeros = Vec::new();
        let end = range.end.min(self.virtual_size());
        let mut place = range.start;
        while place < end {
            let pieces = self.disk.pieces(place..end, PIECES_MAX);
            let pieces = pieces.map_err(SourceFault::Damaged)?;
            let Some(last) = pieces.last() else { break };
            place = last.range.end;
            zeros.extend(pieces.into_iter().filter(|piece| piece.is_zero).map(|piece| piece.range));
        }
        self.look()?;
        Ok(zeros)
    }
}

fn open(origin: &Origin) -> Result<Disk, SourceFault> {
    let how = origin.how().ok_or_else(|| SourceFault::Malformed(origin.path()))?;
    Disk::open(&origin.path(), &how).map_err(SourceFault::Gone)
}

/// All files of the chain with their paths, the image's own first.
fn stats(disk: &Disk) -> Result<Vec<(PathBuf, Stat)>, SourceFault> {
    let of = |file: FileId| {
        let found = disk.files().stat(file).map_err(SourceFault::Gone)?;
        Ok((disk.files().path(file).to_owned(), stat(found, disk.files().length_bytes(file))))
    };
    disk.chain().files().into_iter().map(of).collect()
}

/// The length of a device is that of its opening.
fn stat(found: FileStat, opened_bytes: u64) -> Stat {
    let is_device = found.device == u64::MAX;
    Stat {
        len: if is_device { opened_bytes } else { found.length_bytes },
        modified_ns: found.modified_ns,
        changed_ns: found.changed_ns,
        inode: found.inode,
        device: found.device,
        born_ns: found.born_ns,
    }
}

fn witness(disk: &Disk, files: Vec<Stat>) -> Witness {
    Witness::of(disk.chain().layers()[0].facts(), files)
}

fn gone(path: &std::path::Path, cause: std::io::Error) -> SourceFault {
    if cause.kind() == std::io::ErrorKind::NotFound {
        return SourceFault::Gone(Error::Missing(path.to_owned()));
    }
    SourceFault::Gone(Error::Io { doing: "look at", path: path.to_owned(), cause })
}
