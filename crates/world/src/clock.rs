//! Time and chance as the system gives them.

use units::Timestamp;

/// Two clocks: the one on the wall, which people set, and the one that only goes on.
pub trait Clock: Send + Sync {
    /// Wall time; may step either way.
    fn wall(&self) -> Timestamp;

    /// Nanoseconds since the machine started (`CLOCK_BOOTTIME`); never goes back.
    fn boot_ns(&self) -> u64;

    /// Whether the kernel calls the wall clock synchronised.
    fn synchronised(&self) -> bool;
}

/// Random bytes, fit for keys.
pub trait Chance: Send + Sync {
    /// Fills all of `bytes`.
    fn fill(&self, bytes: &mut [u8]);

    /// An array of random bytes.
    fn bytes<const N: usize>(&self) -> [u8; N]
    where
        Self: Sized,
    {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        bytes
    }
}
