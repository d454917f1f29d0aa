//! The same doors from one seed: torn writes, lost caches, bit rot, delays, wrong clocks.
//!
//! Implements `world`'s traits without threads, real time or real files, so that one [`Seed`] is one
//! run: the same completions in the same order, the same bytes. A failing seed is a bug report.
//!
//! ```
//! use sim_world::{CutPolicy, Rng, Seed, SimDisk, every_crash};
//! use world::{Access, Disk};
//!
//! // A script: what it was promised is its model. It stops where it crashes.
//! fn script(disk: &SimDisk) -> Option<&'static [u8]> {
//!     let file = disk.open("a.new", Access::WRITE.new_file()).ok()?;
//!     file.write_at(0, b"hello").ok()?;
//!     file.sync_data().ok()?;
//!     disk.rename("a.new", "a").ok()?;
//!     disk.sync_dir("").ok()?;
//!     Some(b"hello")
//! }
//!
//! // Each operation, crashed before, amid and after it, each policy on what was not yet durable.
//! let images = every_crash(Seed(1), &SimDisk::new(Seed(1)), script, |image, model, words| {
//!     match image.bytes("a") {
//!         Some(bytes) => assert_eq!(bytes, b"hello", "{words}"),
//!         None => assert_eq!(*model, None, "{words}"),
//!     }
//! });
//! assert_eq!(images, 5 * 3 * 5);
//!
//! // Or by hand: one crash, as many images of it as you like.
//! let disk = SimDisk::new(Seed(2));
//! disk.crash_at_operation(3, sim_world::Moment::After);
//! script(&disk);
//! let image = disk.power_cut(CutPolicy::Torn, &mut Seed(2).rng("cut"));
//! assert!(image.files().len() <= 1, "{}", disk.trace());
//! ```
//!
//! - [`SimDisk`]: cache, crash points, faults ([`Rule`], [`Fault`]), power cuts and kills.
//! - [`SimRing`]: the hot path's door over a disk and a [`SimNet`], on a [`SimClock`].
//! - [`SimClock`], [`SimChance`]: time and chance.
//!
//! What it cannot see: whether real file systems do what the real doors ask of them; `lab power-cut`
//! sees that.

mod clock;
mod contents;
mod disk;
mod net;
mod ring;
mod rng;

pub use clock::{ClockFault, SimClock};
pub use contents::SECTOR_BYTES;
pub use disk::{
    SimDisk,
    cut::CutPolicy,
    error::is_crash,
    fault::{DirtyPages, Fault, Kind, Rule, RuleId},
    state::Moment,
    sweep::{every_crash, every_kill},
    trace::{Event, Trace},
};
pub use net::{Received, SimNet, SimStream};
pub use ring::{Pace, SimRing};
pub use rng::{Rng, Seed, SimChance};
