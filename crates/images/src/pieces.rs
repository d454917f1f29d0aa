//! What layouts of VHD and VDI are made of: which units have a place, and pieces of a file in order.

use std::ops::Range;

use crate::{
    bytes::{narrow, wide},
    layout::{Content, Held, PIECES_MAX, Piece, TABLE_BYTES_MAX},
};

/// Units (blocks) that a file holds, as runs by unit number.
#[derive(Debug, Default)]
pub(crate) struct Units {
    runs: Vec<Run>,
    placed: u64,
}

#[derive(Debug)]
struct Run {
    first: u64,
    count: u64,
    /// The units have a place; else they are known to be zero.
    is_placed: bool,
    /// Units with a place before this run.
    before: u64,
}

/// How a file holds a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// By its bytes, in the place of this index.
    Placed(u64),
    /// As zero.
    Zero,
    /// Not at all.
    Free,
}

impl Units {
    /// All of `count` units, in order.
    pub fn all(count: u64) -> Self {
        let mut units = Self::default();
        units.add(0, count, true);
        units
    }

    /// Adds units behind those that are there.
    pub fn add(&mut self, first: u64, count: u64, is_placed: bool) {
        let before = self.placed;
        self.placed += if is_placed { count } else { 0 };
        match self.runs.last_mut() {
            Some(last) if last.first + last.count == first && last.is_placed == is_placed => {
                last.count += count;
            }
            last => {
                assert!(last.is_none_or(|last| last.first + last.count <= first), "out of order");
                self.runs.push(Run { first, count, is_placed, before });
            }
        }
    }

    /// Units with a place.
    pub fn placed(&self) -> u64 {
        self.placed
    }

    /// How a unit is held.
    pub fn unit(&self, unit: u64) -> Unit {
        let run = self.runs.partition_point(|run| run.first <= unit);
        match run.checked_sub(1).map(|run| &self.runs[run]) {
            Some(run) if unit - run.first >= run.count => Unit::Free,
            Some(run) if run.is_placed => Unit::Placed(run.before + (unit - run.first)),
            Some(_) => Unit::Zero,
            None => Unit::Free,
        }
    }

    /// The unit in the place of an index below [`Units::placed`].
    pub fn at(&self, index: u64) -> u64 {
        let run = self.runs.partition_point(|run| run.before <= index);
        let run = &self.runs[run.checked_sub(1).expect("the index is that of a place")];
        run.first + (index - run.before)
    }
}

/// The pieces of a range of a file, in the making.
pub(crate) struct Pieces {
    made: Vec<Piece>,
    at: u64,
    end: u64,
    table_bytes: usize,
}

impl Pieces {
    /// Nothing yet of a range that lies within the file.
    pub fn new(range: Range<u64>) -> Self {
        Self { made: Vec::new(), at: range.start, end: range.end, table_bytes: 0 }
    }

    /// Where the next piece begins, if there is room for one.
    pub fn next(&self) -> Option<u64> {
        let room = self.made.len() < PIECES_MAX && self.table_bytes < TABLE_BYTES_MAX;
        (self.at < self.end && room).then_some(self.at)
    }

    /// Bytes of the range and of tables that the answer has room for.
    pub fn table_room(&self) -> usize {
        let bytes = wide(TABLE_BYTES_MAX - self.table_bytes);
        narrow(bytes.min(self.end - self.at))
    }

    /// Adds bytes of a table; what has no room is left out.
    pub fn table(&mut self, bytes: &[u8]) {
        let bytes = &bytes[..bytes.len().min(self.table_room())];
        self.table_bytes += bytes.len();
        self.add(wide(bytes.len()), Content::Table(bytes.to_vec()));
    }

    /// Adds zeroes.
    pub fn zero(&mut self, len: u64) {
        self.add(len, Content::Zero);
    }

    /// Adds a guest range: what `held` has as data is the guest's, all else zeroes.
    pub fn guest(&mut self, held: &[Held], mut range: Range<u64>) {
        range.end = range.end.min(range.start.saturating_add(self.end - self.at));
        let first = held.partition_point(|held| held.start + held.len <= range.start);
        for held in held[first..].iter().filter(|held| !held.zero) {
            if held.start >= range.end || self.next().is_none() {
                break;
            }
            let start = held.start.max(range.start);
            self.zero(start - range.start);
            if self.next().is_none() {
                return;
            }
            let end = (held.start + held.len).min(range.end);
            self.add(end - start, Content::Guest(start));
            range.start = end;
        }
        if self.next().is_some() {
            self.zero(range.end - range.start);
        }
    }

    /// Adds a guest range that is the guest's throughout.
    pub fn all_guest(&mut self, range: Range<u64>) {
        self.add(range.end - range.start, Content::Guest(range.start));
    }

    /// The pieces.
    pub fn into_vec(self) -> Vec<Piece> {
        self.made
    }

    fn add(&mut self, len: u64, content: Content) {
        let len = len.min(self.end - self.at);
        if len == 0 {
            return;
        }
        match (self.made.last_mut(), &content) {
            (Some(last), Content::Zero) if last.content == Content::Zero => last.len += len,
            _ => self.made.push(Piece { start: self.at, len, content }),
        }
        self.at += len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_found_both_ways() {
        let mut units = Units::default();
        units.add(2, 3, true);
        units.add(5, 1, false);
        units.add(6, 1, true);
        units.add(9, 2, false);
        let found: Vec<Unit> = (0..11).map(|unit| units.unit(unit)).collect();
        let (free, zero, at) = (Unit::Free, Unit::Zero, Unit::Placed);
        assert_eq!(found, [free, free, at(0), at(1), at(2), zero, at(3), free, free, zero, zero]);
        assert_eq!((0..units.placed()).map(|at| units.at(at)).collect::<Vec<_>>(), [2, 3, 4, 6]);
    }

    #[test]
    fn guest_range_is_data_where_it_is_held() {
        let held = [(512, 512, false), (1024, 512, true), (4096, 4096, false)]
            .map(|(start, len, zero)| Held { start, len, zero });
        let mut pieces = Pieces::new(100..100 + 5000);
        pieces.guest(&held, 0..8192);
        let found: Vec<_> =
            pieces.into_vec().into_iter().map(|p| (p.start, p.len, p.content)).collect();
        assert_eq!(
            found,
            [
                (100, 512, Content::Zero),
                (612, 512, Content::Guest(512)),
                (1124, 3072, Content::Zero),
                (4196, 904, Content::Guest(4096)),
            ]
        );
    }

    #[test]
    fn answer_ends_where_its_bounds_are() {
        let held: Vec<Held> =
            (0..5000).map(|n| Held { start: n * 1024, len: 512, zero: false }).collect();
        let mut pieces = Pieces::new(0..5000 * 1024);
        pieces.guest(&held, 0..5000 * 1024);
        assert_eq!(pieces.next(), None);
        assert_eq!(pieces.into_vec().len(), PIECES_MAX);
        let mut pieces = Pieces::new(0..u64::MAX);
        pieces.table(&vec![1; TABLE_BYTES_MAX + 1]);
        assert_eq!(pieces.next(), None);
        assert_eq!(pieces.into_vec()[0].len, wide(TABLE_BYTES_MAX));
    }
}
