//! The control plane's meaning: what can be asked of a store, done over the running data plane.
//!
//! ```text
//! api::Control ─▶ Engine ─▶ plan (catalogue, on a snapshot) ─▶ Hub::change ─▶ manifest ─▶ answer
//! names of exports ─▶ Exports ─┘
//! ```
//! [`init`] makes a store, [`open`] opens one, [`Engine::start`] runs it. Invariants: changes are
//! planned one at a time, on the catalogue that they are applied to; a sequence is told only when all
//! up to it is durable; who may not know of a name learns nothing of it. Questions work on a
//! snapshot, so they see one moment; a change sees all that was accepted before it was asked.

mod adopting;
mod branching;
mod census;
mod checking;
mod control;
mod doctor;
mod exporting;
mod exports;
mod failures;
mod filling;
mod init;
mod keys;
mod lens;
mod marks;
mod metrics;
mod naming;
mod open;
mod opening;
mod packing;
mod past;
mod reading;
mod rendering;
mod rights;
mod running;
mod sessions;
mod shelf;
mod slots;
mod status;
mod timeline;
mod trash;
mod volumes;
mod writes;

pub use init::{InitKey, InitOptions, init};
pub use keys::{KeySource, key_dirs, slot_kinds};
pub use naming::uri_of;
pub use open::{Held, OpenOptions, Opened, open};
pub use rights::Anyone;
pub use running::{Engine, Listening, Settings};
