//! Units and identities: the numbers of the block world as types that cannot be mixed up.
//!
//! No I/O, no dependency. A value that exists is in range: who receives one does not check again.
//! Every number that is written to disk is little-endian; the layouts stand in `docs/format.md`.

use std::fmt;

/// Bytes in a block, the smallest thing a volume maps and keeps versions of.
pub const BLOCK_BYTES: u64 = 4096;

/// [`BLOCK_BYTES`] for lengths in memory.
pub const BLOCK: usize = 4096;

/// Bytes of a sealed block: ciphertext and trailer.
pub const CELL_BYTES: u64 = 4128;

/// [`CELL_BYTES`] for lengths in memory.
pub const CELL: usize = 4128;

/// Unit of a [`Place`] within its file, in bytes; every cell begins at a multiple of it.
pub const GRANULE_BYTES: u64 = 32;

/// Granules from one cell to the next where cells lie in a row.
pub const CELL_GRANULES: u64 = CELL_BYTES / GRANULE_BYTES;

/// Blocks whose newest versions are looked up together: 2 MiB of a disk.
pub const LEAF_BLOCKS: u64 = 512;

/// Address of a block: 0-based, at most [`Lba::MAX`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lba(u64);

impl Lba {
    /// The last block of the largest volume (1 EiB): addresses fit 48 bits.
    pub const MAX: Self = Self((1 << 48) - 1);

    /// The block of that number; `None` past [`Lba::MAX`].
    pub const fn new(number: u64) -> Option<Self> {
        if number <= Self::MAX.0 { Some(Self(number)) } else { None }
    }

    /// The block that holds the byte at `offset_bytes`; `None` past [`Lba::MAX`].
    pub const fn holding(offset_bytes: u64) -> Option<Self> {
        Self::new(offset_bytes / BLOCK_BYTES)
    }

    /// The number, counted from 0.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// Where the block begins. Cannot overflow: `self <= MAX`.
    pub const fn offset_bytes(self) -> u64 {
        self.0 * BLOCK_BYTES
    }

    /// The leaf (run of [`LEAF_BLOCKS`] blocks) that holds this block.
    pub const fn leaf(self) -> Leaf {
        Leaf(self.0 / LEAF_BLOCKS)
    }

    /// Place of this block within its leaf, below [`LEAF_BLOCKS`].
    pub const fn index_in_leaf(self) -> usize {
        let [low, high, ..] = self.0.to_le_bytes();
        low as usize | ((high as usize & 1) << 8)
    }

    /// The block `blocks` further on; `None` past [`Lba::MAX`].
    pub const fn plus(self, blocks: u64) -> Option<Self> {
        match self.0.checked_add(blocks) {
            Some(number) => Self::new(number),
            None => None,
        }
    }
}

/// Number of a run of [`LEAF_BLOCKS`] blocks, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Leaf(u64);

impl Leaf {
    /// The number, counted from 0.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// Its first block.
    pub const fn start(self) -> Lba {
        Lba(self.0 * LEAF_BLOCKS)
    }

    /// The leaf as an extent of [`LEAF_BLOCKS`] blocks.
    pub const fn extent(self) -> Extent {
        Extent { start: self.start(), blocks: LEAF_BLOCKS }
    }
}

/// A run of blocks: never empty, never past [`Lba::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extent {
    start: Lba,
    blocks: u64,
}

impl Extent {
    /// `None` when empty or when it would pass [`Lba::MAX`].
    pub const fn new(start: Lba, blocks: u64) -> Option<Self> {
        if blocks == 0 || blocks > Lba::MAX.0 - start.0 + 1 {
            return None;
        }
        Some(Self { start, blocks })
    }

    /// First block.
    pub const fn start(self) -> Lba {
        self.start
    }

    /// Number of blocks, at least 1.
    pub const fn blocks(self) -> u64 {
        self.blocks
    }

    /// Number of the block after the last one (one past [`Lba::MAX`] at most).
    pub const fn end(self) -> u64 {
        self.start.0 + self.blocks
    }

    /// Length in bytes.
    pub const fn bytes(self) -> u64 {
        self.blocks * BLOCK_BYTES
    }

    /// Whether the block lies inside.
    pub const fn holds(self, lba: Lba) -> bool {
        lba.0 >= self.start.0 && lba.0 < self.end()
    }

    /// The part that both have.
    pub fn overlap(self, other: Self) -> Option<Self> {
        let start = self.start.max(other.start);
        let end = self.end().min(other.end());
        Self::new(start, end.checked_sub(start.0)?)
    }

    /// The leaves it touches, in order, each with the part inside it.
    pub fn leaves(self) -> impl Iterator<Item = (Leaf, Self)> {
        (self.start.leaf().0..=(self.end() - 1) / LEAF_BLOCKS).filter_map(move |number| {
            let leaf = Leaf(number);
            self.overlap(leaf.extent()).map(|part| (leaf, part))
        })
    }

    /// Its blocks, in order.
    pub fn lbas(self) -> impl Iterator<Item = Lba> {
        (self.start.0..self.end()).map(Lba)
    }
}

/// Place in a store's history: each accepted write takes the next one; 0 is before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(u64);

impl Sequence {
    /// Before the first write.
    pub const ZERO: Self = Self(0);
    /// The last one: sequences fit 48 bits.
    pub const MAX: Self = Self((1 << 48) - 1);

    /// `None` past [`Sequence::MAX`].
    pub const fn new(number: u64) -> Option<Self> {
        if number <= Self::MAX.0 { Some(Self(number)) } else { None }
    }

    /// The number.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The one after it. Panics past [`Sequence::MAX`]: 2^48 writes take a century.
    #[must_use]
    pub const fn next(self) -> Self {
        assert!(self.0 < Self::MAX.0, "the store has used up its sequences");
        Self(self.0 + 1)
    }

    /// The one before it; stays at 0.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Nanoseconds since 1970-01-01T00:00:00Z, may be negative (a clock set before 1970).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Later by so many nanoseconds; stays at the ends of the scale.
    #[must_use]
    pub const fn plus_ns(self, ns: i64) -> Self {
        Self(self.0.saturating_add(ns))
    }

    /// Nanoseconds from `earlier` to here; stays at the ends of the scale.
    pub const fn since_ns(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Where a cell lies: a file (36 bits) and a granule of 32 bytes in it (28 bits, so 8 GiB a file).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(u64);

impl Place {
    /// `None` unless the offset is a multiple of [`GRANULE_BYTES`] below 8 GiB.
    pub const fn new(file: FileId, offset_bytes: u64) -> Option<Self> {
        if offset_bytes >= GRANULE_BYTES << 28 || !offset_bytes.is_multiple_of(GRANULE_BYTES) {
            return None;
        }
        Some(Self((file.0 << 28) | (offset_bytes / GRANULE_BYTES)))
    }

    /// From its 64 bits as stored.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Its 64 bits: file above, granule in the lower 28.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The file.
    pub const fn file(self) -> FileId {
        FileId(self.0 >> 28)
    }

    /// Offset in the file.
    pub const fn offset_bytes(self) -> u64 {
        (self.0 & ((1 << 28) - 1)) * GRANULE_BYTES
    }

    /// The place of the cell `cells` further on in the same file; the caller knows that it is there.
    #[must_use]
    pub const fn plus_cells(self, cells: u64) -> Self {
        Self(self.0 + cells * CELL_GRANULES)
    }
}

/// A file that holds cells (use of a segment, pack, bulk file): below 2^36, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(u64);

impl FileId {
    /// The largest.
    pub const MAX: Self = Self((1 << 36) - 1);

    /// `None` past [`FileId::MAX`].
    pub const fn new(number: u64) -> Option<Self> {
        if number <= Self::MAX.0 { Some(Self(number)) } else { None }
    }

    /// The number.
    pub const fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// A volume; grows, never used again.
    VolumeId(u32)
);
id!(
    /// One line of a volume's history; grows, never used again in the store.
    BranchId(u32)
);
id!(
    /// An index run; grows, never used again.
    RunId(u64)
);
id!(
    /// Count of the store's openings for writing; the first is 1.
    Epoch(u32)
);
id!(
    /// Who wrote: the catalogue names it. 0 = the server itself.
    ClientId(u64)
);

/// Identity of a store: 128 random bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreId(pub [u8; 16]);

impl fmt::Display for StoreId {
    /// The first four bytes: `7f3a-19c2`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second, third, fourth, ..] = self.0;
        write!(f, "{first:02x}{second:02x}-{third:02x}{fourth:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn empty_and_overlong_extents_are_refused() {
        assert_eq!(Extent::new(Lba::default(), 0), None);
        assert_eq!(Extent::new(Lba::MAX, 2), None);
        assert!(Extent::new(Lba::MAX, 1).is_some());
    }

    proptest! {
        #[test]
        fn a_place_keeps_file_and_offset(file in 0..=FileId::MAX.number(), granule in 0..(1_u64 << 28)) {
            let file = FileId::new(file).expect("in range");
            let place = Place::new(file, granule * GRANULE_BYTES).expect("in range");
            prop_assert_eq!((place.file(), place.offset_bytes()), (file, granule * GRANULE_BYTES));
            prop_assert_eq!(Place::from_bits(place.bits()), place);
        }

        #[test]
        fn leaves_cover_an_extent_exactly(start in 0..5_000_u64, blocks in 1..5_000_u64) {
            let extent = Extent::new(Lba::new(start).expect("small"), blocks).expect("not empty");
            let parts: Vec<u64> =
                extent.leaves().flat_map(|(_, part)| part.lbas()).map(Lba::number).collect();
            prop_assert_eq!(parts, (start..start + blocks).collect::<Vec<_>>());
        }
    }
}
