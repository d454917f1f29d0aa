//! Bugs on purpose: so that it can be shown that the simulation would find them.
//!
//! The switch is the index's, for it lies below; see there. Numbers are those of the list in
//! `sim::planted`.

pub use history_index::planted::is;
#[cfg(feature = "planted")]
pub use history_index::planted::plant;
