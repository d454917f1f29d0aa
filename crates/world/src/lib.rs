//! The only door to the system: disk, ring, clock and chance.
//!
//! Everything above works on these traits, so that `sim_world` can put the same doors in its place
//! and crash, delay, tear and lose as its seed says. Two doors lead to a disk: [`Disk`] blocks and
//! serves jobs in bounded steps; [`Ring`] never blocks and serves the hot path of the log thread.
//! Their files are the same objects: what one wrote, the other reads.
//!
//! Real implementations: [`real`]. Memory that the kernel may touch while we go on: [`memory`].

pub mod clock;
pub mod disk;
pub mod memory;
pub mod real;
pub mod ring;

pub use clock::{Chance, Clock};
pub use disk::{Access, Disk, DiskFile, File, Space};
pub use memory::{Bytes, Image, Page, Pool};
pub use ring::{Done, Finished, Listener, Op, Ring, Socket, Token, Wait, Waker};
