//! The kernel's clocks and its source of random bytes.
#![expect(unsafe_code, reason = "asks the kernel whether its clock is synchronised (adjtimex)")]

use rustix::{
    io::Errno,
    rand::{GetRandomFlags, getrandom},
    time::{ClockId, Timespec, clock_gettime},
};
use units::Timestamp;

use crate::{Chance, Clock};

/// The machine's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealClock;

impl Clock for RealClock {
    fn wall(&self) -> Timestamp {
        Timestamp(nanoseconds(clock_gettime(ClockId::Realtime)))
    }

    fn boot_ns(&self) -> u64 {
        u64::try_from(nanoseconds(clock_gettime(ClockId::Boottime))).unwrap_or(0)
    }

    fn synchronised(&self) -> bool {
        // SAFETY: all zeros is a valid `timex`; `modes` 0 changes nothing and fills the rest.
        let (state, status) = unsafe {
            let mut times: libc::timex = std::mem::zeroed();
            let state = libc::adjtimex(&raw mut times);
            (state, times.status)
        };
        // -1: not allowed here (a container), so we do not know.
        state >= 0 && state != libc::TIME_ERROR && status & libc::STA_UNSYNC == 0
    }
}

/// 292 years either way; stays at the ends of the scale.
fn nanoseconds(time: Timespec) -> i64 {
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec)
}

/// The kernel's random bytes; waits once after the machine's start until there are any.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealChance;

impl Chance for RealChance {
    fn fill(&self, bytes: &mut [u8]) {
        let mut done = 0;
        while done < bytes.len() {
            match getrandom(&mut bytes[done..], GetRandomFlags::empty()) {
                Ok(filled) => done += filled,
                Err(Errno::INTR) => (),
                Err(error) => panic!("the kernel gives no random bytes: {error}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_time_only_goes_on() {
        let clock = RealClock;
        let first = clock.boot_ns();
        assert!(first > 0 && clock.boot_ns() >= first);
        assert!(clock.wall() > Timestamp(1_500_000_000_000_000_000), "after 2017");
    }

    #[test]
    fn long_stretches_are_filled_to_the_end() {
        let mut bytes = vec![0; 1 << 20];
        RealChance.fill(&mut bytes);
        assert!(bytes.rchunks(16).take(4).all(|chunk| chunk.iter().any(|&byte| byte != 0)));
        assert_ne!(RealChance.bytes::<32>(), RealChance.bytes::<32>());
    }
}
