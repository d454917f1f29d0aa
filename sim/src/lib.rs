//! A whole store, its clients and its faults in one thread, from one seed.
//!
//! [`run`] is a seed's run; it panics with the name of the check that fails (`D1` and the others are
//! explained where they are made). [`Machine`] and [`Place`] serve tests that want a store in a
//! simulated machine for a script of their own. What it cannot see: real disks, threads, sockets.

mod bases;
mod cells;
mod clients;
mod compare;
pub mod crash;
mod machine;
mod menu;
mod model;
mod place;
mod plans;
#[cfg(feature = "planted")]
pub mod planted;
mod run;

pub use bases::{Below, paint_image};
pub use machine::{Machine, new_volume};
pub use menu::{End, Menu};
pub use model::{Change, Content, Line, Model, paint};
pub use place::{Place, STORE, StartError, master};
pub use run::{Report, run};
