//! How much of history belongs to whom: cells by branch, counted once for each run that does not
//! change any more.
//!
//! The first question after a start reads every run's entries; later ones only what is new. What is
//! counted are cells, so bytes before packs are compressed.

use super::{
    past::Past,
    running::{Engine, lock},
};
use history_index::{Run, Source};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};
use units::{BranchId, CELL_BYTES, RunId, Sequence, Timestamp, VolumeId};

type Cells = BTreeMap<BranchId, u64>;

/// See the module's head.
#[derive(Default)]
pub(super) struct Census {
    counted: Mutex<BTreeMap<RunId, Arc<Cells>>>,
}

impl Census {
    /// Cells of each branch.
    fn count(&self, past: &Past) -> Cells {
        let mut all = Cells::new();
        let mut add = |cells: &Cells| {
            for (branch, count) in cells {
                *all.entry(*branch).or_default() += count;
            }
        };
        let mut runs = Vec::new();
        for source in past.snapshot.index.sources() {
            match source {
                Source::Memory(run) => {
                    let mut cells = Cells::new();
                    for entry in &run.contents().entries {
                        *cells.entry(entry.branch).or_default() += 1;
                    }
                    add(&cells);
                }
                Source::File(run) => {
                    runs.push(run.meta().run);
                    match self.of_run(run) {
                        Ok(cells) => add(&cells),
                        // A figure that is too low is better than no list of volumes.
                        Err(error) => {
                            tracing::warn!(%error, "cells of a damaged run are not counted");
                        }
                    }
                }
            }
        }
        lock(&self.counted).retain(|run, _| runs.contains(run));
        all
    }

    fn of_run(&self, run: &Arc<Run>) -> history_index::Result<Arc<Cells>> {
        let id = run.meta().run;
        if let Some(cells) = lock(&self.counted).get(&id) {
            return Ok(cells.clone());
        }
        let mut cells = Cells::new();
        for entry in run.entries_of(None, &(Sequence::ZERO..=Sequence::MAX)) {
            *cells.entry(entry?.branch).or_default() += 1;
        }
        let cells = Arc::new(cells);
        lock(&self.counted).insert(id, cells.clone());
        Ok(cells)
    }
}

impl Engine {
    /// Bytes that a volume's history takes.
    pub(super) fn history_bytes(&self, past: &Past, volume: VolumeId) -> u64 {
        let cells = self.census.count(past);
        let branches = past.catalogue().branches(volume);
        let count: u64 = branches.filter_map(|branch| cells.get(&branch.id)).sum();
        count * CELL_BYTES
    }

    /// Bytes that history of volumes in the trash takes.
    pub(super) fn trash_bytes(&self, past: &Past) -> u64 {
        let cells = self.census.count(past);
        let catalogue = past.catalogue();
        let trashed = |branch: &BranchId| {
            let volume = catalogue.branch(*branch).and_then(|it| catalogue.volume(it.volume));
            volume.is_some_and(|volume| volume.presence != catalogue::Presence::Live)
        };
        let count: u64 = cells.iter().filter(|(branch, _)| trashed(branch)).map(|it| it.1).sum();
        count * CELL_BYTES
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
    fn a_disk_lasts_by_the_pace_of_the_last_day() {
        let hours = |count: i64| Timestamp(count * 3_600_000_000_000);
        assert_eq!(days_left(0, hours(0), hours(24), 1 << 40), None);
        assert_eq!(days_left(1 << 30, hours(0), hours(24), 10 << 30), Some(10.0));
        assert_eq!(days_left(1 << 30, hours(0), hours(12), 10 << 30), Some(5.0));
        assert_eq!(days_left(1 << 30, hours(0), Timestamp(1), 24 << 30), Some(1.0));
    }
}
