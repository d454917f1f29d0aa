//! Which unit of a base is taken over next, and which may be called taken.
//!
//! Pure: who drives it (the server, a simulation) reads units of the source, hands them to
//! [`Store::fill`](crate::Store::fill), says what came of it, and has what was written recorded by
//! [`Store::take_over`](crate::Store::take_over), which flushes first. What readers asked for goes
//! before the rest, which goes in the order of the disk. A unit that could not be read is tried again
//! after all others.

use catalogue::{Base, Units};
use std::collections::{BTreeSet, VecDeque};
use units::BranchId;

/// See the module's head.
#[derive(Clone, Debug)]
pub struct Filler {
    base: BranchId,
    units: u64,
    /// In the log, and recorded as such.
    taken: Units,
    /// In the log, and not recorded yet.
    written: Units,
    /// On their way.
    begun: BTreeSet<u64>,
    failed: BTreeSet<u64>,
    wanted: VecDeque<u64>,
    place: u64,
}

impl Filler {
    /// Goes on with a base; `taken` is what the catalogue knows.
    pub fn new(base: &Base, taken: &Units) -> Self {
        Self {
            base: base.id,
            units: base.units(),
            taken: taken.clone(),
            written: Units::new(),
            begun: BTreeSet::new(),
            failed: BTreeSet::new(),
            wanted: VecDeque::new(),
            place: 0,
        }
    }

    /// The base.
    pub fn base(&self) -> BranchId {
        self.base
    }

    /// Readers asked for these units.
    pub fn want(&mut self, units: impl IntoIterator<Item = u64>) {
        self.wanted.extend(units);
    }

    /// The unit to be read now; `None` while all are taken, written, on their way or failed.
    pub fn begin(&mut self) -> Option<u64> {
        while let Some(unit) = self.wanted.pop_front() {
            if self.is_missing(unit) {
                self.begun.insert(unit);
                return Some(unit);
            }
        }
        while self.place < self.units {
            let unit = self.place;
            self.place = self.taken.next_missing(unit + 1);
            if self.is_missing(unit) {
                self.begun.insert(unit);
                return Some(unit);
            }
        }
        None
    }

    fn is_missing(&self, unit: u64) -> bool {
        let known = self.taken.has(unit) || self.written.has(unit);
        unit < self.units && !known && !self.begun.contains(&unit) && !self.failed.contains(&unit)
    }

    /// All writes of a unit were answered, or it needed none.
    pub fn wrote(&mut self, unit: u64) {
        self.begun.remove(&unit);
        self.written.insert(unit, unit + 1);
    }

    /// A unit could not be read or written.
    pub fn failed(&mut self, unit: u64) {
        self.begun.remove(&unit);
        self.failed.insert(unit);
    }

    /// Units that cannot be had until [`Filler::try_again`].
    pub fn failures(&self) -> u64 {
        self.failed.len() as u64
    }

    /// Failed units are missing again.
    pub fn try_again(&mut self) {
        if let Some(first) = self.failed.first() {
            self.place = self.place.min(*first);
        }
        self.failed.clear();
    }

    /// What was written and is not recorded yet.
    pub fn written(&self) -> Vec<(u64, u64)> {
        self.written.runs().to_vec()
    }

    /// Those runs were recorded.
    pub fn recorded(&mut self, runs: &[(u64, u64)]) {
        for (first, end) in runs {
            self.taken.insert(*first, *end);
        }
        let mut written = Units::new();
        for unit in self.written.runs().iter().flat_map(|(first, end)| *first..*end) {
            if !self.taken.has(unit) {
                written.insert(unit, unit + 1);
            }
        }
        self.written = written;
    }

    /// Every unit is taken and recorded.
    pub fn is_done(&self) -> bool {
        self.taken.count() == self.units
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use catalogue::When;
    use proptest::{collection::vec, prelude::*};
    use units::{Sequence, Timestamp};

    fn base(units: u64) -> Base {
        let made = When { sequence: Sequence::ZERO, time: Timestamp(0) };
        Base {
            id: BranchId(2),
            root: BranchId(1),
            size_bytes: units * catalogue::UNIT_BYTES - 5,
            made,
            fill: true,
            rate_bytes: 0,
            detached: false,
            origin: Vec::new(),
            seal: Vec::new(),
        }
    }

    proptest! {
        #[test]
        fn every_unit_is_taken_once_whatever_is_wanted_and_fails(
            wanted in vec(0..40_u64, 0..60),
            fails in vec(0..30_u64, 0..10),
            recorded_every in 1..9_usize,
        ) {
            let base = base(30);
            let mut filler = Filler::new(&base, &Units::new());
            let mut wanted = wanted.into_iter();
            let mut fails: BTreeSet<u64> = fails.into_iter().collect();
            let mut wrote: Vec<u64> = Vec::new();
            for step in 0..1000 {
                filler.want(wanted.next());
                match filler.begin() {
                    Some(unit) if fails.remove(&unit) => filler.failed(unit),
                    Some(unit) => {
                        prop_assert!(!wrote.contains(&unit));
                        wrote.push(unit);
                        filler.wrote(unit);
                    }
                    None => filler.try_again(),
                }
                if step % recorded_every == 0 {
                    let runs = filler.written();
                    filler.recorded(&runs);
                }
            }
            prop_assert!(filler.is_done(), "{:?}", filler);
            wrote.sort_unstable();
            prop_assert_eq!(wrote, (0..30).collect::<Vec<_>>());
        }
    }
}
