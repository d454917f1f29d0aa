//! What a run holds and what is asked of it.

use units::{BranchId, ClientId, Extent, Lba, Place, Sequence, Timestamp};

/// One cell: this version of this block lies there. Ordered as runs are: branch, block, sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entry {
    /// Whose block.
    pub branch: BranchId,
    /// Which block.
    pub lba: Lba,
    /// The request that wrote it; no request writes a block twice.
    pub sequence: Sequence,
    /// Where the cell lies.
    pub place: Place,
}

impl Entry {
    /// What entries are sorted by.
    pub(crate) fn key(&self) -> (BranchId, Lba, Sequence) {
        (self.branch, self.lba, self.sequence)
    }
}

/// Blocks that read as zero from a sequence on. Ordered as runs are: branch, start, sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZeroRange {
    /// Whose blocks.
    pub branch: BranchId,
    /// The request that zeroed them; it wrote no cell inside the extent.
    pub sequence: Sequence,
    /// Which blocks.
    pub extent: Extent,
    /// The record's flags: 1 trim, 2 write zeroes, 4 no hole (`docs/format.md` 6).
    pub kind: u8,
}

impl ZeroRange {
    /// What ranges are sorted by.
    pub(crate) fn key(&self) -> (BranchId, Lba, Sequence) {
        (self.branch, self.extent.start(), self.sequence)
    }
}

/// The clock of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockPoint {
    /// The batch's last sequence.
    pub sequence: Sequence,
    /// Taken when it was cut; never goes back within an era.
    pub wall: Timestamp,
    /// Counts leaps of the clock; never goes back.
    pub era: u32,
}

/// Requests from `first` on were sent by `client`, up to the next client run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientRun {
    /// The first request.
    pub first: Sequence,
    /// Who.
    pub client: ClientId,
}

/// A client's flush that covered new writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushPoint {
    /// Of which branch.
    pub branch: BranchId,
    /// The last request covered.
    pub sequence: Sequence,
}

/// All that a segment holds, in the order it was logged, or what a run is to be made of.
///
/// Sequences of `entries`, `ranges` and `clock` lie in `first..=last`. The first client run may begin
/// earlier (who was writing when the segment began), and a flush may cover a request of an earlier
/// segment only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// First sequence of the interval.
    pub first: Sequence,
    /// Last sequence of the interval; `first.previous()` while there is none.
    pub last: Sequence,
    /// Cells.
    pub entries: Vec<Entry>,
    /// Trims and write zeroes.
    pub ranges: Vec<ZeroRange>,
    /// One for each batch that holds a request, ascending; era and wall never go back, see
    /// [`ClockPoint`].
    pub clock: Vec<ClockPoint>,
    /// Who wrote, ascending.
    pub clients: Vec<ClientRun>,
    /// Flushes, ascending.
    pub flushes: Vec<FlushPoint>,
}

impl Contents {
    /// Nothing yet, for an interval that begins at `first`.
    pub fn starting_at(first: Sequence) -> Self {
        Self { first, last: first.previous(), ..Self::default() }
    }

    /// Whether it covers no sequence.
    pub fn is_empty(&self) -> bool {
        self.last < self.first
    }

    /// Sorts each list as runs have it; of what was logged twice, once.
    pub(crate) fn sort(&mut self) {
        self.entries.sort_unstable();
        self.entries.dedup_by_key(|entry| entry.key());
        self.ranges.sort_unstable_by_key(ZeroRange::key);
        self.clock.sort_by_key(|point| point.sequence);
        self.clock.dedup_by_key(|point| point.sequence);
        self.clients.sort_by_key(|run| run.first);
        self.flushes.sort_by_key(|flush| (flush.sequence, flush.branch));
    }
}

/// One link of a chain: versions of `branch` up to and with `up_to` are visible.
///
/// A chain is a branch, its parent up to the fork, and so on; each branch stands in it once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The branch.
    pub branch: BranchId,
    /// The last sequence that is visible.
    pub up_to: Sequence,
}

/// Versions of `branch` after `after`, up to and with `up_to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The branch.
    pub branch: BranchId,
    /// The last sequence before the span.
    pub after: Sequence,
    /// The last sequence of the span.
    pub up_to: Sequence,
}

impl Span {
    pub(crate) fn holds(&self, branch: BranchId, sequence: Sequence) -> bool {
        branch == self.branch && self.after < sequence && sequence <= self.up_to
    }
}

/// What a version of a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// The cell there.
    Place(Place),
    /// Zeros.
    Zero,
}

/// A version of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// The branch it was written on.
    pub branch: BranchId,
    /// The request that wrote it.
    pub sequence: Sequence,
    /// What it is.
    pub content: Content,
}

impl Version {
    /// A cell as a version.
    pub(crate) fn of_entry(entry: &Entry) -> Self {
        let content = Content::Place(entry.place);
        Self { branch: entry.branch, sequence: entry.sequence, content }
    }

    /// A range as the version of each of its blocks.
    pub(crate) fn of_range(range: &ZeroRange) -> Self {
        Self { branch: range.branch, sequence: range.sequence, content: Content::Zero }
    }
}
