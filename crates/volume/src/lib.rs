//! The versioned block map on the log: any instant, clone, rewind, diff.
//!
//! Owns meaning: which branch a block belongs to, what a view sees, in which order writes take effect.
//! Knows no file and no thread: [`Store`] is a state machine that the server's loop or a simulation
//! drives. What is asked without changing anything works on a [`Snapshot`], on any thread.

mod base;
mod device;
mod filler;
mod head_map;
mod read;
mod reading;
mod snapshot;
mod store;
mod view;
mod write;
mod writing;

pub use base::{Below, Rest, Source, SourceDone, SourceError, SourceRead};
pub use device::Device;
pub use filler::Filler;
pub use head_map::{Block, HeadMap};
pub use reading::Extents;
pub use snapshot::{Changed, ChangedKind, Snapshot};
pub use store::{Job, JobDone, Lane, Load, Store};
pub use view::{View, ViewId};

use catalogue::Catalogue;
use seal::Key;
use segment_log::Keyring;

/// Tells the keyring which key each branch's cells are sealed with.
pub fn learn_keys(catalogue: &Catalogue, keyring: &Keyring) {
    for volume in catalogue.volumes() {
        for branch in catalogue.branches(volume.id) {
            keyring.learn_branch(branch.id, Key::from_bytes(volume.key.0));
        }
    }
    for base in catalogue.bases() {
        if let Some(key) = catalogue.key_of(base.root) {
            keyring.learn_branch(base.id, Key::from_bytes(key.0));
        }
    }
}
