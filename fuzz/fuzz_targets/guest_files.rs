//! A disk with partitions and file systems, changed at a few places:
//! `crates/guest_files/tests/hostile/driver.rs`.

#![no_main]

#[path = "../../crates/guest_files/tests/hostile/driver.rs"]
mod driver;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| driver::check(bytes));
