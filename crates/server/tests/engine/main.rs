//! The engine over the real world: a store in a temporary directory, clients on a unix socket.

mod client;
mod house;
mod keys;
mod travel;
mod volumes;
