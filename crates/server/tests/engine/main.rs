//! The engine over the real world: a store in a temporary directory, clients on a unix socket.

#![expect(clippy::disallowed_methods, reason = "the checks look into the store's files themselves")]

mod client;
mod exporting;
mod house;
mod keys;
mod stopping;
mod travel;
mod volumes;
