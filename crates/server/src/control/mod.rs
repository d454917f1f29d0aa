//! Control plane over the store's unix socket: HTTP/1.1 and JSON, at both ends.
//!
//! [`Server`] answers on a listener that is already bound, in one named thread of its own; what is
//! asked goes to an [`api::Control`] on a few blocking threads. [`Client`] is an [`api::Control`]
//! that asks such a server. Who asks is what the kernel says about the socket's other end, on both
//! sides: the server takes its [`api::Caller`] from it, the client sends nothing to a stranger.
//!
//! Bounds: [`BODY_MAX_BYTES`] for a request, [`ANSWER_MAX_BYTES`] for an answer, [`CALLS_MAX`]
//! calls at work at a time; a stream of bytes holds [`frame::QUEUE`] pieces.

mod client;
mod frame;
mod range;
mod serve;

pub use client::Client;
pub use serve::{Hooks, Server};

/// The most bytes in a request.
pub const BODY_MAX_BYTES: usize = 64 << 10;

/// The most bytes in an answer that a client takes.
pub const ANSWER_MAX_BYTES: usize = 64 << 20;

/// Calls and streams that are at work at a time; more wait.
pub const CALLS_MAX: usize = 16;

#[cfg(test)]
mod tests;
