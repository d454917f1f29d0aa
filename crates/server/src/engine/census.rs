//! How much of history belongs to whom: cells by branch, counted once for each run that does not
//! change any more.
//!
//! A run's entries are read a little at each question, so that the first one after a start takes no longer
//! than the others; what is not counted yet is shared out as what is. So figures of a large store begin
//! as estimates and end exact. What is counted are cells, so bytes before packs are compressed.

use super::{
    past::Past,
    running::{Engine, lock},
};
use history_index::{Entry, Run, Source};
use std::{collections::BTreeMap, sync::Mutex};
use units::{BranchId, CELL_BYTES, RunId, Sequence, Timestamp, VolumeId};
use world::Clock;

type Cells = BTreeMap<BranchId, u64>;
type Entries = Box<dyn Iterator<Item = history_index::Result<Entry>> + Send>;

/// Time that one question spends on counting.
const PATIENCE_NS: u64 = 20_000_000;
/// Entries between two looks at the clock.
const STRIDE: usize = 4096;

/// See the module's head.
#[derive(Default)]
pub(super) struct Census {
    counting: Mutex<BTreeMap<RunId, Counting>>,
}

/// How far the counting of a run has come.
struct Counting {
    cells: Cells,
    counted: u64,
    rest: Option<Entries>,
}

impl Counting {
    fn begin(run: &Run) -> Self {
        let rest: Entries = Box::new(run.entries_of(None, &(Sequence::ZERO..=Sequence::MAX)));
        Self { cells: Cells::new(), counted: 0, rest: Some(rest) }
    }

    /// Counts some more; whether all is counted.
    fn step(&mut self) -> bool {
        let Some(rest) = &mut self.rest else { return true };
        let before = self.counted;
        for entry in rest.take(STRIDE) {
            match entry {
                Ok(entry) => *self.cells.entry(entry.branch).or_default() += 1,
                // A figure that is too low is better than no list of volumes.
                Err(error) => {
                    tracing::warn!(%error, "cells of a damaged run are not counted");
                    self.rest = None;
                    return true;
                }
            }
            self.counted += 1;
        }
        if self.counted - before < STRIDE as u64 {
            self.rest = None;
        }
        self.rest.is_none()
    }
}

/// Cells by branch.
pub(super) struct Shares(Cells);

impl Shares {
    /// Bytes that a volume's history takes.
    pub(super) fn of_volume(&self, past: &Past, volume: VolumeId) -> u64 {
        let own = |branch: &BranchId| past.catalogue().volume_of_cells(*branch) == Some(volume);
        let count: u64 = self.0.iter().filter(|(branch, _)| own(branch)).map(|it| it.1).sum();
        count * CELL_BYTES
    }

    /// Bytes that history of volumes in the trash takes.
    pub(super) fn of_trash(&self, past: &Past) -> u64 {
        let catalogue = past.catalogue();
        let trashed = |branch: &BranchId| {
            let volume = catalogue.volume_of_cells(*branch).and_then(|it| catalogue.volume(it));
            volume.is_some_and(|volume| volume.presence != catalogue::Presence::Live)
        };
        let count: u64 = self.0.iter().filter(|(branch, _)| trashed(branch)).map(|it| it.1).sum();
        count * CELL_BYTES
    }
}

impl Census {
    /// Cells of each branch, as far as they can be counted in a moment.
    fn count(&self, past: &Past, clock: &dyn Clock) -> Shares {
        let until_ns = clock.boot_ns().saturating_add(PATIENCE_NS);
        let mut counting = lock(&self.counting);
        let (mut cells, mut unknown, mut runs) = (Cells::new(), 0_u64, Vec::new());
        let mut add = |more: &Cells| {
            for (branch, count) in more {
                *cells.entry(*branch).or_default() += count;
            }
        };
        for source in past.snapshot.index.sources() {
            match source {
                Source::Memory(run) => {
                    let mut here = Cells::new();
                    for entry in &run.contents().entries {
                        *here.entry(entry.branch).or_default() += 1;
                    }
                    add(&here);
                }
                Source::File(run) => {
                    let meta = run.meta();
                    runs.push(meta.run);
                    let it = counting.entry(meta.run).or_insert_with(|| Counting::begin(run));
                    while clock.boot_ns() < until_ns && !it.step() {}
                    add(&it.cells);
                    if it.rest.is_some() {
                        unknown += meta.entries.saturating_sub(it.counted);
                    }
                }
            }
        }
        counting.retain(|run, _| runs.contains(run));
        let known: u64 = cells.values().sum();
        for count in cells.values_mut() {
            let more = u128::from(unknown) * u128::from(*count) / u128::from(known.max(1));
            *count += u64::try_from(more).unwrap_or(u64::MAX);
        }
        Shares(cells)
    }
}

impl Engine {
    /// How much of history belongs to whom.
    pub(super) fn history(&self, past: &Past) -> Shares {
        self.census.count(past, &*self.held.clock)
    }
}

/// Bytes of cells after a sequence; of a run that begins before it, in proportion.
pub(super) fn bytes_after(past: &Past, after: Sequence) -> u64 {
    let mut cells = 0;
    for source in past.snapshot.index.sources() {
        let (first, last) = (source.first().number(), source.last().number());
        if last <= after.number() {
            continue;
        }
        let count = match source {
            Source::Memory(run) => run.contents().entries.len() as u64,
            Source::File(run) => run.meta().entries,
        };
        let (all, part) = (last - first + 1, last - after.number().max(first - 1));
        let share = u128::from(count) * u128::from(part) / u128::from(all);
        cells += u64::try_from(share).unwrap_or(u64::MAX);
    }
    cells * CELL_BYTES
}

/// Days until `free` bytes are written, at the pace since a time; `None` while nothing is written.
pub(super) fn days_left(bytes: u64, since: Timestamp, now: Timestamp, free: u64) -> Option<f64> {
    const DAY_NS: i64 = 86_400_000_000_000;
    const HOUR_NS: i64 = 3_600_000_000_000;
    if bytes == 0 {
        return None;
    }
    // A pace of less than an hour says little of a day.
    let elapsed = now.since_ns(since).clamp(HOUR_NS, DAY_NS);
    let per_day =
        u128::from(bytes) * u128::from(DAY_NS.unsigned_abs()) / u128::from(elapsed.unsigned_abs());
    let hundredths = u128::from(free) * 100 / per_day.max(1);
    let hundredths = u32::try_from(hundredths).unwrap_or(u32::MAX);
    Some(f64::from(hundredths) / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_run_is_counted_in_steps() {
        let entry = |number: usize| Entry {
            branch: BranchId(u32::from(number >= STRIDE) + 1),
            lba: units::Lba::new(number as u64).expect("small"),
            sequence: Sequence::ZERO,
            place: units::Place::new(units::FileId::new(1).expect("small"), 0).expect("aligned"),
        };
        let rest: Entries = Box::new((0..STRIDE + 7).map(move |number| Ok(entry(number))));
        let mut counting = Counting { cells: Cells::new(), counted: 0, rest: Some(rest) };
        assert!(!counting.step());
        assert_eq!(counting.cells, Cells::from([(BranchId(1), STRIDE as u64)]));
        assert!(counting.step());
        assert_eq!(counting.cells[&BranchId(2)], 7);
        assert!(counting.step(), "what is counted stays counted");
        assert_eq!(counting.counted, STRIDE as u64 + 7);
    }

    #[test]
    fn a_disk_lasts_by_the_pace_of_the_last_day() {
        let hours = |count: i64| Timestamp(count * 3_600_000_000_000);
        assert_eq!(days_left(0, hours(0), hours(24), 1 << 40), None);
        assert_eq!(days_left(1 << 30, hours(0), hours(24), 10 << 30), Some(10.0));
        assert_eq!(days_left(1 << 30, hours(0), hours(12), 10 << 30), Some(5.0));
        assert_eq!(days_left(1 << 30, hours(0), Timestamp(1), 24 << 30), Some(1.0));
    }
}
