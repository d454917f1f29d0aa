//! Sorted runs: which version of a block is where, at any sequence.
//!
//! A log segment that is closed leaves its [`Contents`]: cells, ranges of zeros, the clock of its
//! batches, who wrote and who flushed. They become a [`MemoryRun`] at once, and a sealed file later.
//! Each run covers one closed interval of sequences; intervals are disjoint, so the newest run that
//! knows a block decides. Nothing here is ground state: a run can be rebuilt from the log's trailers.
//!
//! No threads: files are read through the blocking [`world::Disk`]. This crate does not know what a
//! volume is; a look-up names a *chain* ([`Bound`]): a branch, its parent up to the fork, and so on.

mod growing_run;
mod leaf_set;
mod leaf_versions;
mod memory_run;
mod ranges;
mod types;

pub use growing_run::GrowingRun;
pub use leaf_set::LeafSet;
pub use leaf_versions::LeafVersions;
pub use memory_run::MemoryRun;
pub use types::{
    Bound, ClientRun, ClockPoint, Content, Contents, Entry, FlushPoint, Span, Version, ZeroRange,
};
