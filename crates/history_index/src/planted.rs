//! Bugs on purpose: so that it can be shown that the simulation would find them.
//!
//! In a build without the feature `planted` (every build that ships) [`is`] is a constant `false` and
//! nothing of this is left. Numbers are those of the list in `sim::planted`.

#[cfg(feature = "planted")]
mod switch {
    use std::sync::atomic::{AtomicU32, Ordering};

    static BUG: AtomicU32 = AtomicU32::new(0);

    /// Plants a bug; 0 is none.
    pub fn plant(number: u32) {
        BUG.store(number, Ordering::Relaxed);
    }

    /// Whether that bug is planted.
    pub fn is(number: u32) -> bool {
        BUG.load(Ordering::Relaxed) == number
    }
}

#[cfg(feature = "planted")]
pub use switch::{is, plant};

/// Whether that bug is planted.
#[cfg(not(feature = "planted"))]
pub const fn is(_: u32) -> bool {
    false
}
