//! The chain guard's core: what a child knows of its parent, and what a change of the parent means.
//!
//! ```text
//! stat, images::Facts ─▶ Witness ┐            ┌▶ Notice (signs: trigger or proof) ┐
//!                                ├─▶ Seal ────┤                                   ├▶ Conclusion
//! guest bytes ─▶ Tree ─▶ Summary ┘            └▶ Difference ─▶ Changes ─▶ Judgement┘
//! ```
//!
//! - [`digest`]: one tree of hashes over guest bytes; parts of it may not be known yet.
//! - [`seal`]: what was true of a parent when its child was made, as bytes that can be kept.
//! - [`label`]: the record a layer of our own making carries about itself, also inside qcow2.
//! - [`native`]: what the identifiers of a format say, for chains that nobody sealed.
//! - [`link`]: all that is kept of a child and its parent outside of their files.
//! - [`notice`]: which signs of a change file and header give. Signs never decide.
//! - [`verdict`]: changed ranges against what the child holds: who sees the change.
//! - [`order`]: the order of writes by which an identifier never stays while bytes change.
//!
//! No file, clock, chance or thread: callers bring bytes and carry out steps. Bytes from outside
//! never panic, and nothing held here is larger than a fixed multiple of the bytes that were given.
//! File times, inodes and identifiers are signs only: digests of *guest* bytes decide.
//! The layouts stand in `docs/format.md`, section 12.

#![forbid(unsafe_code)]

pub mod digest;
pub mod label;
pub mod link;
pub mod native;
pub mod notice;
pub mod order;
pub mod ranges;
pub mod seal;
pub mod verdict;
mod wire;

pub use digest::{Difference, Digest, Found, Scope, Share, Summary, Tree};
pub use label::{Label, LabelState, ParentLabel};
pub use link::{ChildMark, FileMark, Link, Print};
pub use native::{Differing, Native};
pub use notice::{Level, Notice, Sign, Weight};
pub use order::{Dependants, Order, OrderError, Step};
pub use ranges::Ranges;
pub use seal::{Id, Seal, SealError, Stat, Witness};
pub use verdict::{Answer, Changes, Child, Conclusion, Judgement, Outcome, Use, Verdict};
pub use wire::Malformed;

/// The smallest piece that a child of any format holds or lets through, in bytes.
pub const SECTOR_BYTES: u64 = 512;
