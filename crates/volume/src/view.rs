//! A view: one branch, now or at an instant, as clients see it.

use crate::{Below, head_map::HeadMap, write::Write};
use history_index::Bound;
use std::collections::{BTreeMap, VecDeque};
use units::{BranchId, Extent, Leaf, Sequence};

/// An open view; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ViewId(pub u64);

/// See the module's head.
#[derive(Debug)]
pub struct View {
    pub(crate) branch: BranchId,
    /// `None`: the branch as it goes on.
    pub(crate) at: Option<Sequence>,
    /// Whose versions are visible, and up to where.
    pub(crate) chain: Vec<Bound>,
    /// What lies below all of these.
    pub(crate) below: Option<Below>,
    pub(crate) size_bytes: u64,
    pub(crate) read_only: bool,
    pub(crate) map: HeadMap,
    /// How many hold it.
    pub(crate) holders: usize,
    /// Leaves that are being asked of the index.
    pub(crate) loading: BTreeMap<Leaf, Loading>,
    /// Blocks of writes that still read their edges; who overlaps waits.
    pub(crate) locks: Vec<(u64, Extent)>,
    /// Writes that overlap a lock, in their order.
    pub(crate) blocked: VecDeque<Write>,
}

/// A leaf that is being asked of the index.
#[derive(Debug, Default)]
pub struct Loading {
    /// What waits for it.
    pub(crate) parked: Vec<Parked>,
    /// A block of the leaf was forgotten after the index was asked: it may have been overwritten since,
    /// so that what the index says is not its newest version.
    pub(crate) stale: bool,
}

/// What goes on once a leaf is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parked {
    /// A read.
    Read(u64),
    /// A question for extents.
    Extents(u64),
}

impl View {
    /// Number of blocks, the last one perhaps in part.
    pub fn blocks(&self) -> u64 {
        self.size_bytes.div_ceil(units::BLOCK_BYTES)
    }

    /// Whether a version of that branch and sequence is visible.
    pub fn sees(&self, branch: BranchId, sequence: Sequence) -> bool {
        self.below.is_some_and(|below| below.id == branch)
            || self.chain.iter().any(|bound| bound.branch == branch && sequence <= bound.up_to)
    }

    /// Whether blocks are locked, or wanted by a write that waits already.
    pub fn is_locked(&self, extent: Extent) -> bool {
        let overlaps = |other: Extent| other.overlap(extent).is_some();
        self.locks.iter().any(|(_, locked)| overlaps(*locked))
            || self.blocked.iter().any(|write| overlaps(write.extent))
    }
}
