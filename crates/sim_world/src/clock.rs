//! Time that goes on only when the simulation says so.
//!
//! Under both readings lies one count of nanoseconds that never goes back ([`SimClock::elapsed_ns`]);
//! the wall may be stepped, stalled and declared unsynchronised, the boot clock begins anew with a
//! reboot. Clones are the same clock.

use crate::rng::Rng;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use units::Timestamp;
use world::Clock;

const SECOND_NS: i64 = 1_000_000_000;
const HOUR_NS: i64 = 3_600 * SECOND_NS;

/// A wall clock and a boot clock.
#[derive(Clone, Debug)]
pub struct SimClock(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    elapsed_ns: u64,
    booted_at_ns: u64,
    wall: Timestamp, // as of `elapsed_ns`
    stalled: bool,
    synchronised: bool,
}

/// What may happen to a wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockFault {
    /// Set by so much, either way.
    Step(i64),
    /// Stands still until [`SimClock::resume`].
    Stall,
    /// Set to a few minutes after 1970 began, as boards without a battery boot.
    Year1970,
    /// Set to 2099.
    Year2099,
    /// The kernel no longer vouches for it.
    Unsynchronised,
}

impl Default for SimClock {
    /// Starts in November 2026, synchronised, an hour after boot.
    fn default() -> Self {
        Self::starting_at(Timestamp(1_795_000_000 * SECOND_NS))
    }
}

impl SimClock {
    /// Starts at that wall time, synchronised, an hour after boot.
    pub fn starting_at(wall: Timestamp) -> Self {
        let elapsed_ns = HOUR_NS.unsigned_abs();
        let state = State { elapsed_ns, booted_at_ns: 0, wall, stalled: false, synchronised: true };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Lets time pass.
    pub fn advance(&self, ns: u64) {
        let mut state = self.lock();
        state.elapsed_ns += ns;
        if !state.stalled {
            state.wall = state.wall.plus_ns(i64::try_from(ns).unwrap_or(i64::MAX));
        }
    }

    /// Lets time pass until [`SimClock::elapsed_ns`] says so; does nothing if it is later already.
    pub fn advance_to(&self, elapsed_ns: u64) {
        let ns = elapsed_ns.saturating_sub(self.elapsed_ns());
        self.advance(ns);
    }

    /// Nanoseconds of simulated time, over all reboots.
    pub fn elapsed_ns(&self) -> u64 {
        self.lock().elapsed_ns
    }

    /// Does to the wall clock what the menu says.
    pub fn strike(&self, fault: ClockFault) {
        let mut state = self.lock();
        match fault {
            ClockFault::Step(ns) => state.wall = state.wall.plus_ns(ns),
            ClockFault::Stall => state.stalled = true,
            ClockFault::Year1970 => state.wall = Timestamp(300 * SECOND_NS),
            ClockFault::Year2099 => state.wall = Timestamp(4_070_908_800 * SECOND_NS),
            ClockFault::Unsynchronised => state.synchronised = false,
        }
    }

    /// One fault off the menu: small steps, leaps over an hour or a day, stalls, lost years.
    pub fn strike_at_random(&self, rng: &mut Rng) -> ClockFault {
        let unit = *rng.pick(&[SECOND_NS / 1_000, SECOND_NS, HOUR_NS, 25 * HOUR_NS]);
        let ns = unit + i64::try_from(rng.below(unit.unsigned_abs())).unwrap_or(0);
        let fault = match rng.below(8) {
            0 | 1 => ClockFault::Step(ns),
            2 | 3 => ClockFault::Step(-ns),
            4 => ClockFault::Stall,
            5 => ClockFault::Year1970,
            6 => ClockFault::Year2099,
            _ => ClockFault::Unsynchronised,
        };
        self.strike(fault);
        fault
    }

    /// Ends a stall; the wall clock is as late as the stall was long.
    pub fn resume(&self) {
        self.lock().stalled = false;
    }

    /// Sets the wall clock and vouches for it, as a time server would.
    pub fn synchronise(&self, wall: Timestamp) {
        let mut state = self.lock();
        (state.wall, state.stalled, state.synchronised) = (wall, false, true);
    }

    /// Whether the kernel vouches for the wall clock.
    pub fn set_synchronised(&self, synchronised: bool) {
        self.lock().synchronised = synchronised;
    }

    /// The machine was off for so long; the boot clock begins at 0.
    pub fn reboot(&self, off_ns: u64) {
        self.advance(off_ns);
        let mut state = self.lock();
        state.booted_at_ns = state.elapsed_ns;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for SimClock {
    fn wall(&self) -> Timestamp {
        self.lock().wall
    }

    fn boot_ns(&self) -> u64 {
        let state = self.lock();
        state.elapsed_ns - state.booted_at_ns
    }

    fn synchronised(&self) -> bool {
        self.lock().synchronised
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_simulation_moves_time() {
        let clock = SimClock::default();
        let (wall, boot_ns) = (clock.wall(), clock.boot_ns());
        assert_eq!((clock.wall(), clock.boot_ns()), (wall, boot_ns));
        clock.advance(5);
        assert_eq!((clock.wall(), clock.boot_ns()), (wall.plus_ns(5), boot_ns + 5));
    }

    #[test]
    fn steps_and_stalls_leave_boot_time_alone() {
        let clock = SimClock::default();
        let (wall, boot_ns) = (clock.wall(), clock.boot_ns());
        clock.strike(ClockFault::Step(-2 * HOUR_NS));
        clock.strike(ClockFault::Stall);
        clock.advance(100);
        assert_eq!(clock.wall(), wall.plus_ns(-2 * HOUR_NS));
        assert_eq!(clock.boot_ns(), boot_ns + 100);
        clock.resume();
        clock.advance(1);
        assert_eq!(clock.wall(), wall.plus_ns(1 - 2 * HOUR_NS));
    }

    #[test]
    fn reboot_begins_boot_time_anew() {
        let clock = SimClock::default();
        let (wall, elapsed_ns) = (clock.wall(), clock.elapsed_ns());
        clock.strike(ClockFault::Unsynchronised);
        clock.reboot(7);
        assert_eq!((clock.boot_ns(), clock.elapsed_ns()), (0, elapsed_ns + 7));
        assert_eq!(clock.wall(), wall.plus_ns(7));
        assert!(!clock.synchronised());
        clock.synchronise(wall);
        assert!(clock.synchronised());
    }
}
