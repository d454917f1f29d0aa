//! A run in memory: what a segment holds until its run file is there, and always the truth about it.

use crate::{
    Bound, ClientRun, ClockPoint, Contents, Entry, FlushPoint, LeafSet, LeafVersions, Span,
    Version, ZeroRange, ranges::RangeTable,
};
use std::ops::RangeInclusive;
use units::{BranchId, Extent, Leaf, Sequence, Timestamp};

/// [`Contents`], sorted, never changing again; answers the same questions as a run file.
#[derive(Clone, Debug)]
pub struct MemoryRun {
    contents: Contents,
    ranges: RangeTable,
}

impl MemoryRun {
    /// Sorts the contents: about 2 ms for a full segment, so not on the log thread.
    pub fn new(mut contents: Contents) -> Self {
        contents.sort();
        let ranges = RangeTable::new(&contents.ranges);
        Self { contents, ranges }
    }

    /// All it holds, sorted; what a run file is written of.
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// First sequence of its interval.
    pub fn first(&self) -> Sequence {
        self.contents.first
    }

    /// Last sequence of its interval.
    pub fn last(&self) -> Sequence {
        self.contents.last
    }

    /// Offers the newest visible version of each block of the leaf that it knows one of.
    pub fn load_leaf(&self, chain: &[Bound], leaf: Leaf, versions: &mut LeafVersions) {
        for bound in chain.iter().filter(|bound| bound.up_to >= self.contents.first) {
            self.load_entries(bound, leaf.extent(), versions);
            for range in self.ranges.overlapping(&self.contents.ranges, bound.branch, leaf.extent())
            {
                if range.sequence <= bound.up_to {
                    versions.offer_range(range);
                }
            }
        }
    }

    fn load_entries(&self, bound: &Bound, extent: Extent, versions: &mut LeafVersions) {
        let mut rest = self.within(bound.branch, extent);
        while let [entry, ..] = rest {
            // A hot block has thousands of versions: skip them by bisection.
            let (block, after) =
                rest.split_at(rest.partition_point(|other| other.lba == entry.lba));
            let visible = block.partition_point(|other| other.sequence <= bound.up_to);
            if let Some(newest) = block[..visible].last() {
                versions.offer(newest.lba, Version::of_entry(newest));
            }
            rest = after;
        }
    }

    /// Entries of the branch in the extent.
    fn within(&self, branch: BranchId, extent: Extent) -> &[Entry] {
        let entries = &self.contents.entries;
        let at =
            |number| entries.partition_point(|e| (e.branch, e.lba.number()) < (branch, number));
        &entries[at(extent.start().number())..at(extent.end())]
    }

    /// Entries of these branches (`None`: all) with a sequence in the interval, in order of key.
    pub fn entries_of<'a>(
        &'a self,
        branches: Option<&'a [BranchId]>,
        interval: &RangeInclusive<Sequence>,
    ) -> impl Iterator<Item = Entry> + 'a {
        let interval = interval.clone();
        let wanted = move |entry: &&Entry| {
            interval.contains(&entry.sequence)
                && branches.is_none_or(|branches| branches.contains(&entry.branch))
        };
        self.contents.entries.iter().filter(wanted).copied()
    }

    /// Ranges with a sequence in the interval, in order of key.
    pub fn ranges_of(&self, interval: &RangeInclusive<Sequence>) -> Vec<ZeroRange> {
        let ranges = self.contents.ranges.iter();
        ranges.filter(|range| interval.contains(&range.sequence)).copied().collect()
    }

    /// Who wrote in the interval: the run that holds for its first sequence, and all that begin in it.
    pub fn clients_of(&self, interval: &RangeInclusive<Sequence>) -> Vec<ClientRun> {
        let clients = &self.contents.clients;
        let from = clients.partition_point(|run| run.first <= *interval.start()).saturating_sub(1);
        let within = clients[from..].iter().take_while(|run| run.first <= *interval.end());
        within.copied().collect()
    }

    /// Flushes in the interval, ascending.
    pub fn flushes_of(&self, interval: &RangeInclusive<Sequence>) -> Vec<FlushPoint> {
        let flushes = self.contents.flushes.iter();
        flushes.filter(|flush| interval.contains(&flush.sequence)).copied().collect()
    }

    /// The clock of its batches, ascending.
    pub fn clock(&self) -> &[ClockPoint] {
        &self.contents.clock
    }

    /// The last batch of the era whose clock is at or before `wall`.
    pub fn clock_at(&self, wall: Timestamp, era: u32) -> Option<ClockPoint> {
        let clock = &self.contents.clock;
        let after = clock.partition_point(|point| (point.era, point.wall) <= (era, wall));
        clock[..after].last().filter(|point| point.era == era).copied()
    }

    /// The batch that holds the sequence.
    pub fn clock_of(&self, sequence: Sequence) -> Option<ClockPoint> {
        let clock = &self.contents.clock;
        clock.get(clock.partition_point(|point| point.sequence < sequence)).copied()
    }

    /// Adds the leaves in which a version lies in one of the spans.
    pub fn leaves_changed(&self, spans: &[Span], leaves: &mut LeafSet) {
        for span in spans {
            let entries = &self.contents.entries;
            let from = entries.partition_point(|entry| entry.branch < span.branch);
            let to = entries.partition_point(|entry| entry.branch <= span.branch);
            for entry in &entries[from..to] {
                if span.holds(entry.branch, entry.sequence) {
                    leaves.insert(entry.lba.leaf().extent());
                }
            }
            for range in &self.contents.ranges {
                if span.holds(range.branch, range.sequence) {
                    leaves.insert(range.extent);
                }
            }
        }
    }
}
