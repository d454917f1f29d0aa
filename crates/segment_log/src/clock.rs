//! History's clock: wall time that never goes back within an era.
//!
//! Small steps back are clamped (time stands still until the wall catches up). A correction of more
//! than an hour, either way within one run, starts a new era, so that one boot in 2099 does not spoil
//! every time after it. Across a restart only a step back can be told from time that passed.

use crate::planted;
use units::Timestamp;
use world::Clock;

/// A wall clock that leaps further than this starts an era.
const LEAP_NS: i64 = 3_600_000_000_000;

/// See the module's head.
#[derive(Clone, Copy, Debug)]
pub struct HistoryClock {
    last: Timestamp,
    era: u32,
    /// Wall minus boot time at the last reading of this run.
    offset_ns: Option<i64>,
}

impl HistoryClock {
    /// Goes on after the last batch of history, if there is one.
    pub fn after(last: Option<(Timestamp, u32)>) -> Self {
        let (last, era) = last.unwrap_or((Timestamp(i64::MIN), 0));
        Self { last, era, offset_ns: None }
    }

    /// Time and era of a batch that is cut now.
    pub fn now(&mut self, clock: &dyn Clock) -> (Timestamp, u32) {
        let wall = clock.wall();
        let boot_ns = i64::try_from(clock.boot_ns()).unwrap_or(i64::MAX);
        let offset_ns = wall.0.saturating_sub(boot_ns);
        let leapt = self
            .offset_ns
            .is_some_and(|before| offset_ns.saturating_sub(before).saturating_abs() > LEAP_NS);
        let went_back = self.last.since_ns(wall) > LEAP_NS && self.last.0 != i64::MIN;
        self.offset_ns = Some(offset_ns);
        if leapt || went_back {
            self.era += 1;
            self.last = wall;
        }
        self.last = if planted::is(27) { wall } else { self.last.max(wall) };
        (self.last, self.era)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

    struct Hands {
        wall: AtomicI64,
        boot: AtomicU64,
    }

    impl Clock for Hands {
        fn wall(&self) -> Timestamp {
            Timestamp(self.wall.load(Ordering::Relaxed))
        }
        fn boot_ns(&self) -> u64 {
            self.boot.load(Ordering::Relaxed)
        }
        fn synchronised(&self) -> bool {
            true
        }
    }

    #[test]
    fn small_steps_back_stand_still_and_leaps_start_an_era() {
        let hands = Hands { wall: AtomicI64::new(5 * LEAP_NS), boot: AtomicU64::new(0) };
        let mut clock = HistoryClock::after(None);
        let first = clock.now(&hands);
        assert_eq!(first, (Timestamp(5 * LEAP_NS), 0));
        hands.wall.store(5 * LEAP_NS - 1_000, Ordering::Relaxed);
        assert_eq!(clock.now(&hands), first);
        hands.wall.store(2 * LEAP_NS, Ordering::Relaxed);
        assert_eq!(clock.now(&hands), (Timestamp(2 * LEAP_NS), 1));
        hands.wall.store(900 * LEAP_NS, Ordering::Relaxed);
        assert_eq!(clock.now(&hands), (Timestamp(900 * LEAP_NS), 2));
    }

    #[test]
    fn a_restart_in_the_past_starts_an_era() {
        let hands = Hands { wall: AtomicI64::new(0), boot: AtomicU64::new(0) };
        let mut clock = HistoryClock::after(Some((Timestamp(70 * LEAP_NS), 4)));
        assert_eq!(clock.now(&hands), (Timestamp(0), 5));
    }
}
