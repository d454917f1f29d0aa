//! Sets of numbers as runs: bytes of a disk, or nodes of a tree.
//!
//! Runs are never empty, never overlap and never touch: two sets are equal when their runs are.

use std::{collections::BTreeMap, ops::Range};

/// A set of numbers, kept as half-open runs in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    /// Start of a run → its end.
    runs: BTreeMap<u64, u64>,
}

impl Ranges {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds all numbers of `range`.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        // Runs that begin at or before its end: the last ones of them may meet or touch it.
        while let Some((&from, &to)) = self.runs.range(..=end).next_back() {
            if to < start {
                break;
            }
            (start, end) = (start.min(from), end.max(to));
            self.runs.remove(&from);
        }
        self.runs.insert(start, end);
    }

    /// Takes all numbers of `range` out.
    pub fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        while let Some((&from, &to)) = self.runs.range(..range.end).next_back() {
            if to <= range.start {
                break;
            }
            self.runs.remove(&from);
            if to > range.end {
                self.runs.insert(range.end, to);
            }
            if from < range.start {
                self.runs.insert(from, range.start);
            }
        }
    }

    /// The runs, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.runs.iter().map(|(&start, &end)| start..end)
    }

    /// The parts of it within `range`, ascending.
    pub fn within(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let before = self.runs.range(..range.start).next_back();
        let inside = self.runs.range(range.start..range.end.max(range.start));
        let clipped = move |(&start, &end): (&u64, &u64)| {
            let part = start.max(range.start)..end.min(range.end);
            (!part.is_empty()).then_some(part)
        };
        before.into_iter().chain(inside).filter_map(clipped)
    }

    /// The parts of `range` that it does not hold, ascending.
    pub fn gaps(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let (mut place, end) = (range.start, range.end);
        let mut held = self.within(range);
        std::iter::from_fn(move || {
            while place < end {
                let next = held.next().unwrap_or(end..end);
                let gap = place..next.start;
                place = next.end;
                if !gap.is_empty() {
                    return Some(gap);
                }
            }
            None
        })
    }

    /// Whether it holds all of `range`; an empty range it does.
    pub fn covers(&self, range: Range<u64>) -> bool {
        self.gaps(range).next().is_none()
    }

    /// Whether it holds any number of `range`.
    pub fn meets(&self, range: Range<u64>) -> bool {
        self.within(range).next().is_some()
    }

    /// What both hold.
    #[must_use]
    pub fn both(&self, other: &Self) -> Self {
        self.iter().flat_map(|run| other.within(run)).collect()
    }

    /// What it holds and `other` does not.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        self.iter().flat_map(|run| other.gaps(run)).collect()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// How many numbers it holds.
    pub fn total(&self) -> u64 {
        self.iter().map(|run| run.end - run.start).sum()
    }

    /// How many runs it has.
    pub fn runs(&self) -> usize {
        self.runs.len()
    }

    /// The smallest number of it.
    pub fn first(&self) -> Option<u64> {
        self.runs.first_key_value().map(|(&start, _)| start)
    }
}

impl FromIterator<Range<u64>> for Ranges {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(ranges: I) -> Self {
        let mut set = Self::new();
        set.extend(ranges);
        set
    }
}

impl Extend<Range<u64>> for Ranges {
    fn extend<I: IntoIterator<Item = Range<u64>>>(&mut self, ranges: I) {
        ranges.into_iter().for_each(|range| self.insert(range));
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[test]
    fn touching_runs_become_one() {
        let mut set: Ranges = [0..10, 20..30].into_iter().collect();
        set.insert(10..20);
        assert_eq!(set.iter().collect::<Vec<_>>(), vec![0..30; 1]);
        set.remove(5..6);
        assert_eq!(set.iter().collect::<Vec<_>>(), [0..5, 6..30]);
        assert_eq!(set.total(), 29);
        assert!(!set.covers(4..7) && set.covers(6..30) && set.covers(40..40));
    }

    #[test]
    fn the_largest_number_but_one_fits() {
        let mut set = Ranges::new();
        set.insert(7..u64::MAX);
        set.insert(u64::MAX - 1..u64::MAX);
        assert_eq!(set.total(), u64::MAX - 7);
        assert_eq!(set.gaps(0..u64::MAX).collect::<Vec<_>>(), vec![0..7; 1]);
    }

    proptest! {
        #[test]
        fn a_set_of_runs_is_a_set(
            ops in vec((any::<bool>(), 0..64_u64, 0..20_u64), 0..40),
            other in vec((0..64_u64, 0..20_u64), 0..6),
            window in (0..90_u64, 0..90_u64),
        ) {
            let mut set = Ranges::new();
            let mut plain = [false; 96];
            for (add, start, len) in ops {
                if add { set.insert(start..start + len) } else { set.remove(start..start + len) }
                for n in start..start + len {
                    plain[usize::try_from(n).unwrap()] = add;
                }
            }
            let second: Ranges = other.iter().map(|(start, len)| *start..start + len).collect();
            let holds = |set: &Ranges, n: u64| set.meets(n..n + 1);
            for n in 0..90 {
                let wanted = plain[usize::try_from(n).unwrap()];
                prop_assert_eq!(holds(&set, n), wanted);
                prop_assert_eq!(holds(&set.both(&second), n), wanted && holds(&second, n));
                prop_assert_eq!(holds(&set.minus(&second), n), wanted && !holds(&second, n));
            }
            let (start, end) = (window.0.min(window.1), window.0.max(window.1));
            let inside: u64 = set.within(start..end).map(|run| run.end - run.start).sum();
            let outside: u64 = set.gaps(start..end).map(|run| run.end - run.start).sum();
            prop_assert_eq!(inside + outside, end - start);
            prop_assert_eq!(set.covers(start..end), outside == 0);
            let runs: Vec<_> = set.iter().collect();
            prop_assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start));
        }
    }
}
