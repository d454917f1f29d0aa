//! Where guest bytes are: extents of one file, and of a chain.

use std::sync::Arc;

use crate::{Fault, FileId};

/// A run of guest bytes that are all found in the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Guest offset in bytes.
    pub start: u64,
    /// Length in bytes, never 0.
    pub len: u64,
    /// Where its bytes are.
    pub kind: Kind,
}

/// How the bytes of an extent are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As they are, in a file from an offset on.
    Data {
        /// The file.
        file: FileId,
        /// Offset of the first byte.
        offset: u64,
    },
    /// Zeroes, held by this image: no parent shows through.
    Zero,
    /// Not held by this image, which has no parent: zeroes.
    Hole,
    /// Not held by this image: what its parent has, zeroes past the parent's end. Maps of a chain
    /// never say this.
    Parent,
    /// Part of a compressed unit.
    Packed(Packed),
    /// Bytes that the parser itself holds (a log that was replayed in memory), from `skip` on.
    Inline {
        /// The bytes.
        bytes: Arc<[u8]>,
        /// Where the extent's first byte is among them.
        skip: usize,
    },
    /// Damaged: reading it must fail, with this. Other extents are good.
    Corrupt(Box<Fault>),
}

/// A compressed unit (cluster or grain) and the place of an extent within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed {
    /// The file that holds it.
    pub file: FileId,
    /// Offset of its first byte.
    pub offset: u64,
    /// Bytes to read: an upper bound, the stream may end before.
    pub len: u64,
    /// How it is packed.
    pub algorithm: Algorithm,
    /// Bytes that it unpacks to: exactly.
    pub unit: u32,
    /// Where the extent's first byte is among those.
    pub skip: u32,
    /// The file ends with these bytes: input that runs out is the file's fault, not the stream's.
    pub cut: bool,
}

/// How a unit is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Deflate without a header, window of 4 KiB (qcow2).
    Deflate12,
    /// Deflate in a zlib envelope (VMDK).
    Zlib,
    /// Zstandard frames (qcow2).
    Zstd,
}

/// An extent of a chain and the image of it that decides there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Place of the image in the chain; 0 is the top. Of a hole: the deepest image that was asked.
    pub layer: usize,
    /// The extent; its kind is never [`Kind::Parent`].
    pub extent: Extent,
}

impl Extent {
    /// Guest offset just after it.
    pub fn end(&self) -> u64 {
        self.start + self.len
    }

    /// The part of it within `start..end`, which it must meet.
    #[must_use]
    pub fn cut(&self, start: u64, end: u64) -> Self {
        let (start, end) = (start.max(self.start), end.min(self.end()));
        assert!(start < end, "a cut that misses its extent");
        Self { start, len: end - start, kind: self.kind.from(start - self.start) }
    }

    /// Takes `next` in where it goes on just as this one ends.
    pub(crate) fn join(&mut self, next: &Self) -> bool {
        let goes_on = self.end() == next.start
            && match (&self.kind, &next.kind) {
                (Kind::Data { .. }, Kind::Data { .. })
                | (Kind::Packed(_), Kind::Packed(_))
                | (Kind::Inline { .. }, Kind::Inline { .. })
                | (Kind::Corrupt(_), Kind::Corrupt(_)) => self.kind.from(self.len) == next.kind,
                (mine, other) => mine == other,
            };
        if goes_on {
            self.len += next.len;
        }
        goes_on
    }
}

impl Kind {
    /// The kind of the same extent from `skipped` bytes on.
    fn from(&self, skipped: u64) -> Self {
        match self {
            Self::Data { file, offset } => Self::Data { file: *file, offset: offset + skipped },
            Self::Packed(packed) => Self::Packed(Packed {
                // An extent of a packed unit is no longer than the unit, so neither passes 32 bits.
                skip: packed.skip.saturating_add(u32::try_from(skipped).unwrap_or(u32::MAX)),
                ..*packed
            }),
            Self::Inline { bytes, skip } => Self::Inline {
                bytes: Arc::clone(bytes),
                skip: skip.saturating_add(usize::try_from(skipped).unwrap_or(usize::MAX)),
            },
            other => other.clone(),
        }
    }
}

/// Adds an extent to a list, joined with the last one where it goes on.
pub(crate) fn push(extents: &mut Vec<Extent>, next: Extent) {
    if !extents.last_mut().is_some_and(|last| last.join(&next)) {
        extents.push(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(start: u64, len: u64, offset: u64) -> Extent {
        Extent { start, len, kind: Kind::Data { file: FileId(0), offset } }
    }

    #[test]
    fn cut_moves_the_place_along() {
        assert_eq!(data(1024, 4096, 65536).cut(1536, 9999), data(1536, 3584, 66048));
    }

    #[test]
    fn only_what_goes_on_is_joined() {
        let mut list = Vec::new();
        push(&mut list, data(0, 512, 4096));
        push(&mut list, data(512, 512, 4608));
        push(&mut list, data(1024, 512, 9216));
        push(&mut list, Extent { start: 1536, len: 512, kind: Kind::Zero });
        push(&mut list, Extent { start: 2048, len: 512, kind: Kind::Zero });
        assert_eq!(
            list,
            [
                data(0, 1024, 4096),
                data(1024, 512, 9216),
                Extent { start: 1536, len: 1024, kind: Kind::Zero }
            ]
        );
    }
}
