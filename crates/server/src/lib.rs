//! Sockets, threads, shutdown; joins sessions to devices. The only crate with concurrency.
//!
//! [`data`] is the data plane: one thread with everything that serves blocks. [`control`] is the
//! control plane's door, HTTP over the store's unix socket; [`engine`] does what comes in there;
//! [`serving`] opens and closes the doors of both.

pub mod control;
pub mod data;
pub mod engine;
pub mod image;
pub mod serving;
