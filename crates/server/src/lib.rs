//! Sockets, threads, shutdown; joins sessions to devices.
