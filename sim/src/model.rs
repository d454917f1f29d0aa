//! History as plainly as it can be kept: a list of what was done, painted anew for every question.
//!
//! Knows nothing of cells, segments or indexes. A request that got no answer is doubtful: it may be
//! part of history or not, and the store is asked which once it has been opened again.

use crate::bases::{Below, paint_image};
use std::{collections::BTreeMap, ops::Range};
use units::{BranchId, Timestamp};

/// What a request brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Bytes that follow from this number.
    Data(u64),
    /// Zeros.
    Zeros,
}

/// A write, trim or zeroes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where to.
    pub branch: BranchId,
    /// First byte.
    pub start: u64,
    /// Byte behind the last one.
    pub end: u64,
    /// What.
    pub content: Content,
    /// Length of the device then.
    pub size: u64,
    /// Wall clock when it was sent.
    pub sent: Timestamp,
    /// Wall clock when it was answered.
    pub answered: Option<Timestamp>,
}

/// A line of history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What it goes on from, and the last sequence it has of that.
    pub parent: Option<(BranchId, u64)>,
    /// Nothing in it is later.
    pub ended: Option<u64>,
}

/// See the module's head.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// By sequence.
    pub history: BTreeMap<u64, Change>,
    /// All branches.
    pub lines: BTreeMap<BranchId, Line>,
    /// What first branches stand on.
    pub belows: BTreeMap<BranchId, Below>,
}

fn word(data: u64, index: u64) -> u64 {
    let mixed =
        (data.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ index).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ (mixed >> 29)
}

/// Paints a content's bytes; `at` is the device's offset of the first.
pub fn paint(content: Content, at: u64, bytes: &mut [u8]) {
    let Content::Data(data) = content else { return bytes.fill(0) };
    let mut at = at;
    let mut rest = bytes;
    while !rest.is_empty() {
        let skip = usize::try_from(at % 8).expect("below 8");
        let count = (8 - skip).min(rest.len());
        let (head, tail) = rest.split_at_mut(count);
        head.copy_from_slice(&word(data, at / 8).to_le_bytes()[skip..skip + count]);
        (at, rest) = (at + count as u64, tail);
    }
}

impl Change {
    /// Paints what of it lies in the range that begins at `at`.
    pub fn paint_into(&self, at: u64, bytes: &mut [u8]) {
        let (start, end) = (self.start.max(at), self.end.min(at + bytes.len() as u64));
        if start < end {
            paint(self.content, start, &mut bytes[index(start - at)..index(end - at)]);
        }
    }

    /// Whether it touches the range.
    pub fn touches(&self, range: &Range<u64>) -> bool {
        self.start < range.end && range.start < self.end
    }
}

impl Model {
    /// Whose changes a branch shows as of a sequence, and up to where.
    pub fn chain(&self, branch: BranchId, at: u64) -> BTreeMap<BranchId, u64> {
        let mut chain = BTreeMap::new();
        let (mut branch, mut at) = (branch, at);
        loop {
            let line = &self.lines[&branch];
            at = line.ended.map_or(at, |ended| at.min(ended));
            chain.insert(branch, at);
            let Some((parent, fork)) = line.parent else { return chain };
            (branch, at) = (parent, at.min(fork));
        }
    }

    /// What a branch stands on.
    pub fn below(&self, branch: BranchId) -> Option<Below> {
        let mut root = branch;
        while let Some((parent, _)) = self.lines[&root].parent {
            root = parent;
        }
        self.belows.get(&root).copied()
    }

    /// The bytes of a range as of a sequence.
    pub fn read(&self, branch: BranchId, at: u64, range: Range<u64>) -> Vec<u8> {
        let chain = self.chain(branch, at);
        let mut bytes = vec![0; index(range.end - range.start)];
        if let Some(below) = self.below(branch) {
            paint_image(below, range.start, &mut bytes);
        }
        for (sequence, change) in self.history.range(..=at) {
            let seen = chain.get(&change.branch).is_some_and(|up_to| sequence <= up_to);
            if seen && change.touches(&range) {
                change.paint_into(range.start, &mut bytes);
            }
        }
        bytes
    }

    /// For each block of a device the sequence that gave it its data; `None` where it reads as zero.
    /// A block that a trim touches only in part is data of that trim.
    pub fn writers(&self, branch: BranchId, at: u64, size: u64) -> Vec<Option<u64>> {
        let chain = self.chain(branch, at);
        let mut writers = vec![None; index(size.div_ceil(4096))];
        if let Some(below) = self.below(branch) {
            let shown = below.size.div_ceil(4096).min(size.div_ceil(4096));
            writers[..index(shown)].fill(Some(u64::MAX - u64::from(below.id.0)));
        }
        for (sequence, change) in self.history.range(..=at) {
            if chain.get(&change.branch).is_none_or(|up_to| sequence > up_to) {
                continue;
            }
            for block in change.start / 4096..change.end.div_ceil(4096) {
                let whole = change.start <= block * 4096 && (block + 1) * 4096 <= change.end;
                let Some(writer) = writers.get_mut(index(block)) else { continue };
                let to_end = change.start <= block * 4096 && change.end == change.size;
                let zero = change.content == Content::Zeros && (whole || to_end);
                *writer = (!zero).then_some(*sequence);
            }
        }
        writers
    }
}

/// An offset as an index in memory.
pub fn index(bytes: u64) -> usize {
    usize::try_from(bytes).expect("simulated devices fit memory")
}
