//! The run of the open segment: grows batch by batch, can be asked at any moment.
//!
//! Entries are sorted in portions, so that neither a batch nor a question pays for the whole segment.
//! A portion ends with a batch, so portions cover disjoint intervals of sequences, as runs do.

use crate::{
    Bound, ClientRun, ClockPoint, Contents, Entry, FlushPoint, LeafVersions, MemoryRun, ZeroRange,
};
use std::sync::Arc;
use units::{Leaf, Sequence};

/// Entries, ranges and clock points after which the open portion is sorted and shared; sorting
/// that many takes some 50 µs.
const PORTION: usize = 1024;

/// Contents that still grow, owned by who appends.
#[derive(Debug)]
pub struct GrowingRun {
    first: Sequence,
    portions: Vec<Arc<MemoryRun>>,
    open: Contents,
}

impl GrowingRun {
    /// Of a segment whose first sequence will be `first`.
    pub fn new(first: Sequence) -> Self {
        Self { first, portions: Vec::new(), open: Contents::starting_at(first) }
    }

    /// First sequence of its interval.
    pub fn first(&self) -> Sequence {
        self.first
    }

    /// Last sequence of the last whole batch; `first().previous()` before it.
    pub fn last(&self) -> Sequence {
        self.open.last
    }

    /// Adds a cell of the batch that is being built.
    pub fn push_entry(&mut self, entry: Entry) {
        self.open.entries.push(entry);
    }

    /// Adds a range of the batch that is being built.
    pub fn push_range(&mut self, range: ZeroRange) {
        self.open.ranges.push(range);
    }

    /// Adds a client run.
    pub fn push_client(&mut self, run: ClientRun) {
        self.open.clients.push(run);
    }

    /// Adds a client's flush.
    pub fn push_flush(&mut self, flush: FlushPoint) {
        self.open.flushes.push(flush);
    }

    /// Ends the batch: all pushed so far has a sequence of at most the point's.
    pub fn end_batch(&mut self, point: ClockPoint) {
        assert!(point.sequence > self.open.last, "a batch without a request");
        self.open.last = point.sequence;
        self.open.clock.push(point);
        let size = self.open.entries.len() + self.open.ranges.len() + self.open.clock.len();
        if size >= PORTION {
            let next = Contents::starting_at(point.sequence.next());
            let full = std::mem::replace(&mut self.open, next);
            self.portions.push(Arc::new(MemoryRun::new(full)));
        }
    }

    /// Offers the newest visible version of each block of the leaf that it knows one of, the batch
    /// that is being built included.
    pub fn load_leaf(&self, chain: &[Bound], leaf: Leaf, versions: &mut LeafVersions) {
        let visible = |branch, sequence| {
            chain.iter().any(|bound| bound.branch == branch && sequence <= bound.up_to)
        };
        for entry in &self.open.entries {
            if entry.lba.leaf() == leaf && visible(entry.branch, entry.sequence) {
                versions.offer(entry.lba, crate::Version::of_entry(entry));
            }
        }
        for range in &self.open.ranges {
            if visible(range.branch, range.sequence) {
                versions.offer_range(range);
            }
        }
        for portion in self.portions.iter().rev() {
            if versions.is_complete() {
                return;
            }
            portion.load_leaf(chain, leaf, versions);
        }
    }

    /// What whole batches have added so far, oldest first, for other threads; copies one portion
    /// (at most some 40 KiB). What was pushed since `end_batch` is left out.
    pub fn snapshot(&self) -> Vec<Arc<MemoryRun>> {
        let mut portions = self.portions.clone();
        if !self.open.is_empty() {
            let mut whole = self.open.clone();
            whole.entries.retain(|entry| entry.sequence <= whole.last);
            whole.ranges.retain(|range| range.sequence <= whole.last);
            whole.clients.retain(|run| run.first <= whole.last);
            whole.flushes.retain(|flush| flush.sequence <= whole.last);
            portions.push(Arc::new(MemoryRun::new(whole)));
        }
        portions
    }

    /// All of it, once the segment is full; gives it to a worker, which makes a [`MemoryRun`] of it.
    pub fn finish(self) -> Contents {
        let mut all = Contents::starting_at(self.first);
        let portions = self.portions.iter().map(|portion| portion.contents());
        for part in portions.chain([&self.open]) {
            all.last = part.last;
            all.entries.extend_from_slice(&part.entries);
            all.ranges.extend_from_slice(&part.ranges);
            all.clock.extend_from_slice(&part.clock);
            all.clients.extend_from_slice(&part.clients);
            all.flushes.extend_from_slice(&part.flushes);
        }
        all
    }
}
