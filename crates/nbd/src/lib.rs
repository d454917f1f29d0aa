//! NBD protocol sessions without I/O.
