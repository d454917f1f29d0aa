//! Image files to be written, as pure functions: any range of a file without the others.
//!
//! A format's `write` module turns a [`Plan`] into [`ImageFile`]s. All tables follow from the plan's
//! extents, so the length of each file is known before the first guest byte is read, a file can be
//! streamed from its head without a seek back, and the same plan gives the same bytes everywhere:
//! identifiers are derived from [`Plan::seed`], times are told.
//!
//! ```text
//! Plan ─▶ qcow2::write::layout ─▶ ImageFile ─▶ pieces(range) ─▶ table bytes | guest range | zeroes
//! ```

use std::ops::Range;

/// What is to be written: a disk, or what a child holds over its parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Bytes that the guest sees.
    pub virtual_size: u64,
    /// What the image holds, in order, without overlap, within the virtual size. What is left out
    /// reads as zero, or as the parent has it.
    pub held: Vec<Held>,
    /// What the image differs from.
    pub parent: Option<ParentPlan>,
    /// From which identifiers are derived: a digest of disk, instant and options.
    pub seed: [u8; 32],
    /// The time that the file shall carry, in seconds since 1970-01-01 UTC.
    pub made_s: u64,
}

/// A range that the image holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Guest offset in bytes.
    pub start: u64,
    /// Length in bytes, never 0.
    pub len: u64,
    /// Known to be all zero: kept as such where the format can.
    pub zero: bool,
}

/// The parent of an image to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentPlan {
    /// Its file name, relative to the child's folder.
    pub name: String,
    /// Its format.
    pub format: crate::Format,
    /// Its identity, as its own facts have it.
    pub identity: crate::Identity,
    /// Bytes that the guest saw of it.
    pub virtual_size: u64,
}

/// One file of an image.
pub struct ImageFile {
    /// What to add to the name that the user chose: empty for the file that is opened, `-flat` and
    /// the like for others.
    pub suffix: String,
    /// Its bytes.
    pub layout: Box<dyn Layout>,
}

/// The bytes of a file, by ranges.
pub trait Layout: Send + Sync {
    /// Length of the file in bytes.
    fn len(&self) -> u64;

    /// Whether the file has no byte.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What stands in `range`, in order and without gaps from its start on: a beginning of it, so
    /// that no answer holds more than [`PIECES_MAX`] pieces or [`TABLE_BYTES_MAX`] of tables. Empty
    /// only for a range that is empty or past the end.
    fn pieces(&self, range: Range<u64>) -> Vec<Piece>;
}

/// The disk itself as a file: every byte is the guest's.
pub struct Plain(pub u64);

impl Layout for Plain {
    fn len(&self) -> u64 {
        self.0
    }

    fn pieces(&self, range: Range<u64>) -> Vec<Piece> {
        let end = range.end.min(self.0);
        if range.start >= end {
            return Vec::new();
        }
        let len = end - range.start;
        vec![Piece { start: range.start, len, content: Content::Guest(range.start) }]
    }
}

/// Pieces in one answer.
pub const PIECES_MAX: usize = 4096;

/// Bytes of tables in one answer.
pub const TABLE_BYTES_MAX: usize = 1 << 20;

/// A run of bytes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Offset in the file.
    pub start: u64,
    /// Length in bytes, never 0.
    pub len: u64,
    /// What stands there.
    pub content: Content,
}

/// Where the bytes of a piece come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Made here; as many as the piece is long.
    Table(Vec<u8>),
    /// The guest's, from this offset on; may reach past the virtual size, where zeroes stand.
    Guest(u64),
    /// Zeroes; a hole where the file goes to a file system.
    Zero,
}

/// Why a plan cannot be written in a format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unwritable {
    /// The format has no room for so large a disk.
    #[error("{format} holds at most {most} bytes, the disk has {wanted}")]
    TooLarge {
        /// The format.
        format: crate::Format,
        /// Its bound in bytes.
        most: u64,
        /// The disk's size in bytes.
        wanted: u64,
    },
    /// An option that the format does not know, or not with this value.
    #[error("{format}: {text}")]
    Option {
        /// The format.
        format: crate::Format,
        /// What is wrong with it.
        text: String,
    },
    /// The plan breaks its own rules.
    #[error("the plan's range at byte {at} is empty, out of order or outside the disk")]
    Plan {
        /// Guest offset.
        at: u64,
    },
}

impl Plan {
    /// Whether the ranges keep their rules.
    pub fn check(&self) -> Result<(), Unwritable> {
        let mut end = 0;
        for held in &self.held {
            let at = held.start;
            let past = at.checked_add(held.len).filter(|past| *past <= self.virtual_size);
            match past {
                Some(past) if at >= end && held.len > 0 => end = past,
                _ => return Err(Unwritable::Plan { at }),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(held: &[(u64, u64)]) -> Result<(), Unwritable> {
        let held = held.iter().map(|&(start, len)| Held { start, len, zero: false }).collect();
        Plan { virtual_size: 8192, held, parent: None, seed: [0; 32], made_s: 0 }.check()
    }

    #[test]
    fn plan_is_in_order_and_within_the_disk() {
        assert_eq!(plan(&[(0, 512), (512, 512), (4096, 4096)]), Ok(()));
        for bad in
            [&[(0, 0)][..], &[(512, 512), (0, 512)], &[(0, 1024), (512, 512)], &[(8000, 512)]]
        {
            assert!(plan(bad).is_err(), "{bad:?}");
        }
    }
}
