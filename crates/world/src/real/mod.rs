//! The doors to this machine.
