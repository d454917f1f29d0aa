//! Sorted runs: which version of a block is where, at any sequence.
//!
//! A log segment that is closed leaves its [`Contents`]: cells, ranges of zeros, the clock of its
//! batches, who wrote and who flushed. They become a [`MemoryRun`] at once, and a sealed file later.
//! Each run covers one closed interval of sequences; intervals are disjoint, so the newest run that
//! knows a block decides. Nothing here is ground state: a run can be rebuilt from the log's trailers.
//!
//! No threads: files are read through the blocking [`world::Disk`]. This crate does not know what a
//! volume is; a look-up names a *chain* ([`Bound`]): a branch, its parent up to the fork, and so on.

mod coding;
mod cursor;
mod error;
mod filter;
mod growing_run;
mod index;
mod layout;
mod leaf_set;
mod leaf_versions;
mod memory_run;
mod merge;
mod page;
pub mod planted;
mod ranges;
mod run;
mod run_writer;
mod types;

pub use error::{Error, Result};
pub use growing_run::GrowingRun;
pub use index::{EraSpan, Index, IndexSnapshot, Source};
pub use leaf_set::LeafSet;
pub use leaf_versions::LeafVersions;
pub use memory_run::MemoryRun;
pub use merge::{FAN_IN, MergeJob, Progress, pick_merge};
pub use page::PageCache;
pub use run::{Run, RunMeta};
pub use run_writer::{RunWriter, write_run};
pub use types::{
    Bound, ClientRun, ClockPoint, Content, Contents, Entry, FlushPoint, Span, Version, ZeroRange,
};
