//! Any bytes of a client against a session, cut in three ways: `crates/nbd/tests/session/driver.rs`.

#![no_main]

#[path = "../../crates/nbd/tests/session/driver.rs"]
mod driver;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| driver::check(bytes));
