//! Which requests wrote along a line of history: counting, grouping, and looking for pauses.
//!
//! A line is a list of [`Span`]s: of each branch the sequences that belong to it. Memory: one bit for
//! each sequence of the run that is looked at (128 KiB for a million), never a list of all writes.

use history_index::{Entry, IndexSnapshot, Result, Source, Span, ZeroRange};
use std::ops::RangeInclusive;
use units::{BranchId, Sequence, Timestamp};

/// The spans of a chain after a sequence.
pub(super) fn spans_of(chain: &[(BranchId, Sequence)], after: Sequence) -> Vec<Span> {
    let span = |&(branch, up_to): &(BranchId, Sequence)| Span { branch, after, up_to };
    chain.iter().map(span).filter(|span| span.after < span.up_to).collect()
}

/// What `all` shows and `part` does not.
pub(super) fn spans_without(
    all: &[(BranchId, Sequence)],
    part: &[(BranchId, Sequence)],
) -> Vec<Span> {
    let shown =
        |branch| part.iter().find(|bound| bound.0 == branch).map_or(Sequence::ZERO, |it| it.1);
    let span =
        |&(branch, up_to): &(BranchId, Sequence)| Span { branch, after: shown(branch), up_to };
    all.iter().map(span).filter(|span| span.after < span.up_to).collect()
}

/// Sequences from the first to the last of all spans.
pub(super) fn reach(spans: &[Span]) -> Option<RangeInclusive<Sequence>> {
    let first = spans.iter().map(|span| span.after.next()).min()?;
    let last = spans.iter().map(|span| span.up_to).max()?;
    (first <= last).then_some(first..=last)
}

fn holds(spans: &[Span], branch: BranchId, sequence: Sequence) -> bool {
    spans
        .iter()
        .any(|span| span.branch == branch && span.after < sequence && sequence <= span.up_to)
}

/// The part of a source that the spans reach.
pub(super) fn overlap(source: &Source, spans: &[Span]) -> Option<RangeInclusive<Sequence>> {
    let reach = reach(spans)?;
    let (first, last) = (source.first().max(*reach.start()), source.last().min(*reach.end()));
    (first <= last).then_some(first..=last)
}

/// Calls `found` for each cell of the source that lies in a span, in the order of blocks.
pub(super) fn each_cell(
    source: &Source,
    spans: &[Span],
    interval: &RangeInclusive<Sequence>,
    mut found: impl FnMut(&Entry),
) -> Result<()> {
    let branches: Vec<BranchId> = spans.iter().map(|span| span.branch).collect();
    let mut take = |entry: &Entry| {
        if holds(spans, entry.branch, entry.sequence) {
            found(entry);
        }
    };
    match source {
        Source::Memory(run) => {
            run.entries_of(Some(&branches), interval).for_each(|entry| take(&entry));
        }
        Source::File(run) => {
            for entry in run.entries_of(Some(&branches), interval) {
                take(&entry?);
            }
        }
    }
    Ok(())
}

/// The trims and zeroes of the source that lie in a span.
pub(super) fn ranges(
    source: &Source,
    spans: &[Span],
    interval: &RangeInclusive<Sequence>,
) -> Result<Vec<ZeroRange>> {
    let mut found = match source {
        Source::Memory(run) => run.ranges_of(interval),
        Source::File(run) => run.ranges_of(interval)?,
    };
    found.retain(|range| holds(spans, range.branch, range.sequence));
    Ok(found)
}

/// A set of sequences within an interval.
pub(super) struct Sequences {
    first: u64,
    bits: Vec<u64>,
}

impl Sequences {
    fn new(interval: &RangeInclusive<Sequence>) -> Self {
        let first = interval.start().number();
        let words = (interval.end().number() - first) / 64 + 1;
        Self { first, bits: vec![0; usize::try_from(words).unwrap_or(0)] }
    }

    fn insert(&mut self, sequence: Sequence) {
        let at = sequence.number() - self.first;
        let word = usize::try_from(at / 64).ok().and_then(|word| self.bits.get_mut(word));
        if let Some(word) = word {
            *word |= 1 << (at % 64);
        }
    }

    /// How many.
    pub(super) fn count(&self) -> u64 {
        self.bits.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// All, ascending.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = Sequence> + '_ {
        let first = self.first;
        self.bits.iter().enumerate().flat_map(move |(index, &word)| {
            let set = (0..64_u64).filter(move |bit| word >> bit & 1 == 1);
            set.filter_map(move |bit| Sequence::new(first + index as u64 * 64 + bit))
        })
    }
}

/// The requests of the source that lie in a span.
pub(super) fn written(
    source: &Source,
    spans: &[Span],
    interval: &RangeInclusive<Sequence>,
) -> Result<Sequences> {
    let mut sequences = Sequences::new(interval);
    each_cell(source, spans, interval, |entry| sequences.insert(entry.sequence))?;
    for range in ranges(source, spans, interval)? {
        sequences.insert(range.sequence);
    }
    Ok(sequences)
}

/// How many requests lie in the spans.
pub(super) fn count(index: &IndexSnapshot, spans: &[Span]) -> Result<u64> {
    let mut count = 0;
    for source in index.sources() {
        if let Some(interval) = overlap(source, spans) {
            count += written(source, spans, &interval)?.count();
        }
    }
    Ok(count)
}

/// The last request after which nothing was written for so long; after the last one of all, up to
/// `now`.
pub(super) fn last_pause(
    index: &IndexSnapshot,
    spans: &[Span],
    now: Timestamp,
    quiet_ns: i64,
) -> Result<Option<Sequence>> {
    let mut next = now;
    for source in index.sources().iter().rev() {
        let Some(interval) = overlap(source, spans) else { continue };
        let written = written(source, spans, &interval)?;
        for sequence in written.iter().rev() {
            let Some(point) = source.clock_of(sequence)? else { continue };
            if next.since_ns(point.wall) >= quiet_ns {
                return Ok(Some(sequence));
            }
            next = point.wall;
        }
    }
    Ok(None)
}
