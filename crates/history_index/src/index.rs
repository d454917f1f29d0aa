//! All runs of a store in the order of time, and the questions that go over all of them.
//!
//! Runs cover disjoint intervals of sequences, ascending. So the newest run that knows a block
//! decides, a look-up at an instant starts at the newest run that begins before it, and one that
//! knows all blocks ends it.

use crate::{Bound, ClientRun, ClockPoint, LeafSet, LeafVersions, MemoryRun, Result, Run, Span};
use std::sync::Arc;
use units::{ClientId, Leaf, Sequence, Timestamp};

/// A run, wherever it is.
#[derive(Clone, Debug)]
pub enum Source {
    /// Of a segment whose run file is not written yet.
    Memory(Arc<MemoryRun>),
    /// A file.
    File(Arc<Run>),
}

impl Source {
    /// First sequence of its interval.
    pub fn first(&self) -> Sequence {
        match self {
            Self::Memory(run) => run.first(),
            Self::File(run) => run.meta().first,
        }
    }

    /// Last sequence of its interval.
    pub fn last(&self) -> Sequence {
        match self {
            Self::Memory(run) => run.last(),
            Self::File(run) => run.meta().last,
        }
    }

    /// Offers the newest visible version of each block of the leaf that it knows one of.
    pub fn load_leaf(
        &self,
        chain: &[Bound],
        leaf: Leaf,
        versions: &mut LeafVersions,
    ) -> Result<()> {
        match self {
            Self::Memory(run) => run.load_leaf(chain, leaf, versions),
            Self::File(run) => run.load_leaf(chain, leaf, versions)?,
        }
        Ok(())
    }

    /// Adds the leaves in which a version lies in one of the spans.
    pub fn leaves_changed(&self, spans: &[Span], leaves: &mut LeafSet) -> Result<()> {
        match self {
            Self::Memory(run) => run.leaves_changed(spans, leaves),
            Self::File(run) => run.leaves_changed(spans, leaves)?,
        }
        Ok(())
    }

    /// The clock of its first and of its last batch.
    pub fn clock_ends(&self) -> Option<(ClockPoint, ClockPoint)> {
        match self {
            Self::Memory(run) => run.clock().first().copied().zip(run.clock().last().copied()),
            Self::File(run) => run.meta().clock,
        }
    }

    /// The last batch of the era whose clock is at or before `wall`.
    pub fn clock_at(&self, wall: Timestamp, era: u32) -> Result<Option<ClockPoint>> {
        match self {
            Self::Memory(run) => Ok(run.clock_at(wall, era)),
            Self::File(run) => run.clock_at(wall, era),
        }
    }

    /// The batch that holds the sequence.
    pub fn clock_of(&self, sequence: Sequence) -> Result<Option<ClockPoint>> {
        match self {
            Self::Memory(run) => Ok(run.clock_of(sequence)),
            Self::File(run) => run.clock_of(sequence),
        }
    }

    /// Who wrote in the interval: the run that holds for its first sequence, and all that begin in it.
    pub fn clients_of(
        &self,
        interval: &std::ops::RangeInclusive<Sequence>,
    ) -> Result<Vec<ClientRun>> {
        match self {
            Self::Memory(run) => Ok(run.clients_of(interval)),
            Self::File(run) => run.clients_of(interval),
        }
    }
}

/// The runs of a store, owned by who changes them.
#[derive(Clone, Debug, Default)]
pub struct Index {
    snapshot: IndexSnapshot,
}

impl Index {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the newest run; one that covers no sequence is left out.
    pub fn push(&mut self, source: Source) {
        self.snapshot = self.snapshot.with([source]);
    }

    /// Puts `source` in the place of the runs that it was made of: those whose intervals lie in its
    /// own. Returns them; files of theirs may go once no snapshot holds them.
    pub fn replace(&mut self, source: Source) -> Vec<Source> {
        let mut sources = self.snapshot.sources.to_vec();
        let from = sources.partition_point(|old| old.last() < source.first());
        let to = sources.partition_point(|old| old.first() <= source.last());
        assert!(from < to, "a run takes the place of those it was made of");
        assert!(
            sources[from].first() >= source.first() && sources[to - 1].last() <= source.last(),
            "a run takes the place of whole runs"
        );
        let replaced = sources.splice(from..to, [source]).collect();
        self.snapshot = IndexSnapshot { sources: sources.into() };
        replaced
    }

    /// The runs as they are now; costs nothing.
    pub fn snapshot(&self) -> IndexSnapshot {
        self.snapshot.clone()
    }
}

/// Runs that do not change; cheap to clone, asked on any thread.
#[derive(Clone, Debug, Default)]
pub struct IndexSnapshot {
    sources: Arc<[Source]>, // ascending, intervals disjoint, none empty
}

/// A stretch of history in which the clock did not leap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EraSpan {
    /// Its first batch.
    pub first: ClockPoint,
    /// Its last batch.
    pub last: ClockPoint,
}

impl IndexSnapshot {
    /// The same and newer runs, ascending: the portions of the open segment, for example. Those
    /// that cover no sequence are left out.
    #[must_use]
    pub fn with(&self, newer: impl IntoIterator<Item = Source>) -> Self {
        let newer = newer.into_iter().filter(|source| source.first() <= source.last());
        let sources: Arc<[_]> = self.sources.iter().cloned().chain(newer).collect();
        let ordered = sources.windows(2).all(|pair| pair[0].last() < pair[1].first());
        assert!(ordered, "runs are in the order of time and disjoint");
        Self { sources }
    }

    /// All runs, oldest first.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// The newest visible version of each block of the leaf; what is missing was never written. An
    /// error means that a page is needed that cannot be had.
    pub fn load_leaf(&self, chain: &[Bound], leaf: Leaf) -> Result<LeafVersions> {
        let mut versions = LeafVersions::new(leaf);
        self.complete_leaf(chain, &mut versions)?;
        Ok(versions)
    }

    /// The same for versions of which the newest are known, from the open segment for example. After an
    /// error each version in `versions` is right; what has none there cannot be had.
    pub fn complete_leaf(&self, chain: &[Bound], versions: &mut LeafVersions) -> Result<()> {
        let newest = chain.iter().map(|bound| bound.up_to).max().unwrap_or_default();
        let begun = self.sources.partition_point(|source| source.first() <= newest);
        for source in self.sources[..begun].iter().rev() {
            if versions.is_complete() {
                break;
            }
            match source {
                Source::Memory(run) => run.load_leaf(chain, versions.leaf(), versions),
                Source::File(run) => {
                    let loaded = run.load_leaf(chain, versions.leaf(), versions);
                    if loaded.is_err() {
                        // It may have offered an old version of which the newer lies in a damaged page:
                        // of a run that did not answer in full nothing is taken.
                        versions.forget_up_to(run.meta().last);
                    }
                    loaded?;
                }
            }
        }
        Ok(())
    }

    /// Leaves in which the two chains may differ: those with a version that one shows and the other
    /// does not. Reads only runs that hold such versions.
    pub fn changed_leaves(&self, one: &[Bound], other: &[Bound]) -> Result<LeafSet> {
        let bound_in = |chain: &[Bound], branch| {
            chain.iter().find(|bound| bound.branch == branch).map_or(Sequence::ZERO, |b| b.up_to)
        };
        let mut spans: Vec<Span> = Vec::new();
        for branch in one.iter().chain(other).map(|bound| bound.branch) {
            let (a, b) = (bound_in(one, branch), bound_in(other, branch));
            if a != b && spans.iter().all(|span| span.branch != branch) {
                spans.push(Span { branch, after: a.min(b), up_to: a.max(b) });
            }
        }
        self.leaves_changed(&spans)
    }

    /// Leaves in which a version lies in one of the spans.
    pub fn leaves_changed(&self, spans: &[Span]) -> Result<LeafSet> {
        let mut leaves = LeafSet::default();
        for source in &*self.sources {
            let reached = |span: &&Span| span.after < source.last() && source.first() <= span.up_to;
            let spans: Vec<Span> = spans.iter().filter(reached).copied().collect();
            if !spans.is_empty() {
                source.leaves_changed(&spans, &mut leaves)?;
            }
        }
        Ok(leaves)
    }

    /// The last batch of the era whose clock is at or before `wall`: its sequence is the instant. An
    /// error if it may lie in a lost run.
    pub fn sequence_at(&self, wall: Timestamp, era: u32) -> Result<Option<ClockPoint>> {
        let mut lost = None;
        for source in self.sources.iter().rev() {
            if let Source::File(run) = source
                && run.is_lost()
            {
                lost = Some(run);
            }
            let Some((first, last)) = source.clock_ends() else { continue };
            if (last.era, last.wall) > (era, wall) {
                lost = None; // the lost run is newer still
            }
            if (first.era, first.wall) <= (era, wall) {
                return match lost {
                    Some(lost) => lost.clock_at(wall, era),
                    None => source.clock_at(wall, era),
                };
            }
        }
        lost.map_or(Ok(None), |lost| lost.clock_at(wall, era))
    }

    /// The batch that holds the sequence, so the time at which it was written.
    pub fn time_of(&self, sequence: Sequence) -> Result<Option<ClockPoint>> {
        match self.source_of(sequence) {
            Some(source) => source.clock_of(sequence),
            None => Ok(None),
        }
    }

    /// Who sent the request.
    pub fn client_of(&self, sequence: Sequence) -> Result<Option<ClientId>> {
        let begun = self.sources.partition_point(|source| source.first() <= sequence);
        for source in self.sources[..begun].iter().rev() {
            let clients = source.clients_of(&(sequence..=sequence))?;
            if let Some(run) = clients.iter().rev().find(|run| run.first <= sequence) {
                return Ok(Some(run.client));
            }
        }
        Ok(None)
    }

    /// The eras, ascending, each from its first to its last batch as far as runs that are not lost know
    /// them.
    pub fn eras(&self) -> Result<Vec<EraSpan>> {
        let mut eras: Vec<EraSpan> = Vec::new();
        for source in &*self.sources {
            let Some((mut first, end)) = source.clock_ends() else { continue };
            loop {
                let last = if first.era == end.era {
                    end
                } else {
                    source.clock_at(Timestamp(i64::MAX), first.era)?.unwrap_or(first)
                };
                match eras.last_mut() {
                    Some(era) if era.last.era == first.era => era.last = last,
                    _ => eras.push(EraSpan { first, last }),
                }
                if last.sequence >= end.sequence {
                    break;
                }
                match source.clock_of(last.sequence.next())? {
                    Some(next) if next.sequence > first.sequence => first = next,
                    _ => break,
                }
            }
        }
        Ok(eras)
    }

    /// The first and the last batch of all.
    pub fn clock_ends(&self) -> Option<(ClockPoint, ClockPoint)> {
        let first = self.sources.iter().find_map(Source::clock_ends)?.0;
        let last = self.sources.iter().rev().find_map(Source::clock_ends)?.1;
        Some((first, last))
    }

    /// The run whose interval holds the sequence.
    fn source_of(&self, sequence: Sequence) -> Option<&Source> {
        let at = self.sources.partition_point(|source| source.last() < sequence);
        self.sources.get(at).filter(|source| source.first() <= sequence)
    }
}
