//! What clients asked for, counted: by volume and kind, and by connection. For `/metrics` and `session ls`.
//!
//! Times are those of turns: a request is as old as the turn that took it, and answered in the turn that
//! met its completion. Memory: a few hundred bytes for each volume that was ever asked for something.

use block_device::Command;
use std::collections::BTreeMap;
use units::VolumeId;

/// Upper ends of the buckets of times, in nanoseconds; one more holds all that took longer.
pub const BUCKETS_NS: [u64; 10] = [
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    5_000_000,
    20_000_000,
    100_000_000,
    500_000_000,
    2_000_000_000,
];

/// Kinds of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Bytes were read.
    Read,
    /// Bytes were written.
    Write,
    /// All was to become durable.
    Flush,
    /// Contents went.
    Trim,
    /// Contents became zeros.
    Zero,
    /// What lies where.
    Extents,
}

impl Kind {
    /// All of them, each at the place of its number.
    pub const ALL: [Self; 6] =
        [Self::Read, Self::Write, Self::Flush, Self::Trim, Self::Zero, Self::Extents];

    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::Trim => "trim",
            Self::Zero => "zero",
            Self::Extents => "extents",
        }
    }
}

/// Requests of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// How many were answered.
    pub requests: u64,
    /// How many of them with an error.
    pub errors: u64,
    /// Bytes they covered.
    pub bytes: u64,
    /// Time until their answers, in all.
    pub total_ns: u64,
    /// How many took up to each of [`BUCKETS_NS`], and how many longer.
    pub buckets: [u64; BUCKETS_NS.len() + 1],
}

/// Counts of one volume, by kind.
pub type Counts = [Count; Kind::ALL.len()];

/// A request that waits for its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    volume: VolumeId,
    pub kind: Kind,
    pub bytes: u64,
    at_ns: u64,
}

impl Asked {
    pub(super) fn of(command: &Command<'_>, volume: VolumeId, at_ns: u64) -> Self {
        let (kind, bytes) = match command {
            Command::Read { length_bytes, .. } => (Kind::Read, *length_bytes),
            Command::Write { data, .. } => (Kind::Write, data.length_bytes()),
            Command::Flush => (Kind::Flush, 0),
            Command::Trim { length_bytes, .. } => (Kind::Trim, *length_bytes),
            Command::WriteZeroes { length_bytes, .. } => (Kind::Zero, *length_bytes),
            Command::Extents { length_bytes, .. } => (Kind::Extents, *length_bytes),
        };
        Self { volume, kind, bytes, at_ns }
    }
}

/// See the module's head.
#[derive(Default)]
pub(super) struct Tally(BTreeMap<VolumeId, Counts>);

impl Tally {
    /// A request was answered.
    pub(super) fn add(&mut self, asked: Asked, now_ns: u64, well: bool) {
        let count = &mut self.0.entry(asked.volume).or_default()[asked.kind as usize];
        let took_ns = now_ns.saturating_sub(asked.at_ns);
        count.requests += 1;
        count.errors += u64::from(!well);
        count.bytes += if well { asked.bytes } else { 0 };
        count.total_ns = count.total_ns.saturating_add(took_ns);
        count.buckets[BUCKETS_NS.partition_point(|end| *end < took_ns)] += 1;
    }

    pub(super) fn counts(&self) -> Vec<(VolumeId, Counts)> {
        self.0.iter().map(|(volume, counts)| (*volume, *counts)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_own_place() {
        for (place, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, place, "{kind:?}");
        }
    }

    #[test]
    fn errors_cover_no_bytes_and_times_fall_into_buckets() {
        let mut tally = Tally::default();
        let read = Command::Read { offset_bytes: 0, length_bytes: 4096 };
        let asked = Asked::of(&read, VolumeId(3), 1_000);
        tally.add(asked, 51_000, true);
        tally.add(asked, 51_001, true);
        tally.add(asked, u64::MAX, false);
        let [(VolumeId(3), counts)] = tally.counts()[..] else { panic!("one volume") };
        let read = counts[Kind::Read as usize];
        assert_eq!((read.requests, read.errors, read.bytes), (3, 1, 8192));
        assert_eq!((read.buckets[0], read.buckets[1], read.buckets[10]), (1, 1, 1));
        assert_eq!(counts[Kind::Write as usize], Count::default());
    }
}
