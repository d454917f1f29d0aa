//! Entries of L1 and L2 tables.

use super::header::{Header, incompatible};
use crate::bytes::be32;

/// Bits 9 to 55: the offset in an entry.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Bit 63: the refcount is 1, so a writer may write in place.
const COPIED: u64 = 1 << 63;
/// Bit 62 of an L2 entry.
const COMPRESSED: u64 = 1 << 62;
/// Bit 0 of an L2 entry of version 3 without subclusters.
const ZERO: u64 = 1;

/// An entry of the L1 table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct L1Entry {
    /// Where the L2 table is; 0 if there is none.
    pub offset: u64,
    pub copied: bool,
    /// Bits that must be zero and are not.
    pub reserved: u64,
}

impl L1Entry {
    pub fn of(word: u64) -> Self {
        let reserved = word & !(OFFSET | COPIED);
        Self { offset: word & OFFSET, copied: word & COPIED != 0, reserved }
    }
}

/// An entry of an L2 table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct L2Entry {
    pub cluster: Cluster,
    pub copied: bool,
    /// Bits that must be zero and are not.
    pub reserved: u64,
    /// Of extended entries: subclusters that are held, and those that are zero.
    pub bitmap: Option<(u32, u32)>,
}

/// What an L2 entry says of its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cluster {
    /// Not held here.
    Absent,
    /// Zero; a host cluster may be kept for it (else 0).
    Zero { host: u64 },
    /// At a host offset.
    Plain { host: u64 },
    /// Compressed, `len` bytes at most.
    Packed { offset: u64, len: u64 },
}

impl L2Entry {
    /// The entry in `bytes`, of 8 or 16 bytes.
    pub fn of(word: u64, bitmap: Option<u64>, header: &Header) -> Self {
        let bitmap = bitmap.map(halves);
        if word & COMPRESSED != 0 {
            return Self::packed(word, bitmap, header.cluster_bits);
        }
        let has_zero_flag = header.version == 3 && bitmap.is_none();
        let flags = if has_zero_flag { ZERO } else { 0 };
        let host = word & OFFSET;
        let copied = word & COPIED != 0;
        // In a data file offset 0 is as good as any: the copied bit tells that it is meant.
        let absent = host == 0 && !(copied && header.needs(incompatible::DATA_FILE));
        let cluster = if word & flags != 0 {
            Cluster::Zero { host }
        } else if absent {
            Cluster::Absent
        } else {
            Cluster::Plain { host }
        };
        Self { cluster, copied, reserved: word & !(OFFSET | COPIED | flags), bitmap }
    }

    /// Bits 0 to x - 1 are the offset, the rest below bit 62 counts further sectors; x = 70 - bits.
    fn packed(word: u64, bitmap: Option<(u32, u32)>, cluster_bits: u32) -> Self {
        let shift = 62 - (cluster_bits - 8);
        let offset = word & ((1 << shift) - 1);
        let sectors = (word & !(COPIED | COMPRESSED)) >> shift;
        let len = (sectors + 1) * 512 - offset % 512;
        let copied = word & COPIED != 0;
        Self {
            cluster: Cluster::Packed { offset, len },
            copied,
            reserved: if copied { COPIED } else { 0 },
            bitmap,
        }
    }
}

/// Low half: held subclusters; high half: zero ones.
fn halves(word: u64) -> (u32, u32) {
    let bytes = word.to_be_bytes();
    (be32(&bytes, 4), be32(&bytes, 0))
}
