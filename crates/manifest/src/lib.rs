//! Super block, key slots and the chained, sealed log of records that says what is valid.
//!
//! ```text
//! secret (key file, passphrase, recovery key) ─▶ super.a super.b ─▶ master key ─▶ manifest/N.a N.b
//! ```
//!
//! [`Secrets`] owns the two super blocks: what store this is, and the slots that wrap its master
//! key. [`Manifest`] owns the record log, whose kinds and contents are its callers' own. Both keep
//! two copies of all they know: one damaged file heals from the other, and bytes that neither copy
//! holds any more are a typed error, never a shorter or another answer. The layouts stand in
//! `docs/format.md`, sections 3 and 4.
//!
//! Not noticed here: both copies put back to an older state together. One writer at a time is the
//! caller's duty (a lock on the store).

mod copies;
mod entry;
mod log;
mod merge;
mod recovery_key;
mod secrets;
mod super_block;

pub use entry::Record;
pub use log::{Manifest, Mode, Repair};
pub use merge::{ManifestError, read_copies};
pub use recovery_key::{RecoveryKey, RecoveryKeyError};
pub use secrets::{Facts, KeyFile, NewSlot, Secret, Secrets, SecretsError, SlotInfo};
pub use super_block::{SLOTS_MAX, SUPER_BYTES, SlotKind};
