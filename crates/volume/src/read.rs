//! A read on its way: what it waits for and where its bytes gather.
//!
//! The blocks asked for lie one behind the other in pages; each cell is read, verified and decrypted
//! straight into its block. Cells that lie close together in a file are read together.

use crate::{ViewId, base::Piece};
use block_device::BlockError;
use segment_log::CellFile;
use std::sync::Arc;
use units::{BLOCK, CELL, Extent, Lba, Place};
use world::{Bytes, File, Page, Pool};

/// Cells read by one operation at most, so that one part is decrypted while the next is read: as many
/// as a page of 256 KiB holds, however the window is aligned.
const CELLS_MAX: usize = 61;
/// Gaps up to this are read through.
const GAP_BYTES: u64 = 8 << 10;
/// Bytes of a page of results.
const PAGE_BYTES: usize = 2 << 20;

/// Why blocks are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A client asked for these bytes.
    Answer {
        /// Offset of the first byte in the first block.
        skip_bytes: usize,
        /// How many bytes.
        length_bytes: usize,
    },
    /// The edge of a write that covers only part of a block.
    Edge {
        /// The write.
        write: u64,
    },
}

/// See the module's head.
#[derive(Debug)]
pub struct Read {
    pub view: ViewId,
    pub ticket: u64,
    pub purpose: Purpose,
    pub extent: Extent,
    /// `None` until it is begun.
    pub sheet: Option<Sheet>,
    /// Operations under way.
    pub pending: usize,
    pub error: Option<BlockError>,
    /// Cells that no memory was left to fetch, or that could not be read together; their turn comes
    /// when those under way have ended.
    pub rest: Vec<Wanted>,
    /// What stands in a source and was not asked for yet.
    pub below: Vec<Piece>,
    /// Set when cells could not be read together: each is read by itself, for what lies between them
    /// may be all that is damaged.
    pub apart: bool,
    /// Set when a place turned out to be old: the whole read is done again.
    pub again: bool,
    pub tries: u32,
}

/// Where the blocks of a read gather.
#[derive(Debug)]
pub enum Sheet {
    /// All are zero.
    Zeros,
    /// In order, all full but the last.
    Pages(Vec<Page>),
}

impl Sheet {
    /// Pages for so many blocks; `None` while the pool is used up.
    pub fn take(pool: &Pool, blocks: u64) -> Option<Self> {
        let mut left = usize::try_from(blocks).ok()? * BLOCK;
        let mut pages = Vec::with_capacity(left.div_ceil(PAGE_BYTES));
        while left > 0 {
            let bytes = left.min(PAGE_BYTES);
            pages.push(pool.take(bytes)?);
            left -= bytes;
        }
        Some(Self::Pages(pages))
    }

    /// The block of that index.
    pub fn block(&mut self, index: usize) -> &mut [u8] {
        match self {
            Self::Zeros => &mut [],
            Self::Pages(pages) => {
                let at = index * BLOCK;
                &mut pages[at / PAGE_BYTES][at % PAGE_BYTES..][..BLOCK]
            }
        }
    }

    /// The bytes asked for.
    pub fn into_bytes(self, blocks: u64, skip_bytes: usize, length_bytes: usize) -> Vec<Bytes> {
        let all = usize::try_from(blocks).unwrap_or(usize::MAX).saturating_mul(BLOCK);
        let whole: Vec<Bytes> = match self {
            Self::Zeros => (0..all)
                .step_by(PAGE_BYTES)
                .map(|at| Bytes::zeros(PAGE_BYTES.min(all - at)))
                .collect(),
            Self::Pages(pages) => pages.into_iter().map(Page::freeze).collect(),
        };
        let (mut skip, mut left) = (skip_bytes, length_bytes);
        let mut parts = Vec::with_capacity(whole.len());
        for bytes in whole {
            if skip >= bytes.len() {
                skip -= bytes.len();
                continue;
            }
            let end = bytes.len().min(skip + left);
            left -= end - skip;
            parts.push(if skip == 0 && end == bytes.len() {
                bytes
            } else {
                bytes.slice(skip..end)
            });
            skip = 0;
            if left == 0 {
                break;
            }
        }
        parts
    }
}

/// A cell that a read wants.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    pub place: Place,
    pub lba: Lba,
    /// Of its block in the read.
    pub index: usize,
}

/// Cells that one operation reads.
#[derive(Debug)]
pub struct Fetch {
    pub read: u64,
    /// Kept so that the slot is not used again meanwhile.
    pub cells: Arc<CellFile>,
    pub file: File,
    pub offset_bytes: u64,
    pub length_bytes: usize,
    /// Bytes that must have come.
    pub needed_bytes: usize,
    pub wanted: Vec<Wanted>,
}

/// Groups cells (sorted here by place) that lie close together in one file, or takes each apart.
pub fn group(wanted: &mut [Wanted], apart: bool) -> Vec<&[Wanted]> {
    wanted.sort_unstable_by_key(|wanted| wanted.place);
    if apart {
        return wanted.chunks(1).collect();
    }
    let close = |a: &Wanted, b: &Wanted| {
        a.place.file() == b.place.file()
            && b.place.offset_bytes() <= a.place.offset_bytes() + CELL as u64 + GAP_BYTES
    };
    wanted.chunk_by(close).flat_map(|near| near.chunks(CELLS_MAX)).collect()
}

impl Fetch {
    /// The window of the file that holds the cells of a group.
    pub fn window(group: &[Wanted], alignment: usize) -> Option<(u64, usize, usize)> {
        let alignment = alignment as u64;
        let first = group.first()?.place.offset_bytes();
        let end = group.last()?.place.offset_bytes() + CELL as u64;
        let start = first / alignment * alignment;
        let length = end.next_multiple_of(alignment) - start;
        Some((start, usize::try_from(length).ok()?, usize::try_from(end - start).ok()?))
    }
}
