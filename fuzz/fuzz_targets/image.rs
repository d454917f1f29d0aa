//! An image of any format, changed at a few places: `crates/images/tests/hostile/driver.rs`.

#![no_main]

#[path = "../../crates/images/tests/hostile/driver.rs"]
mod driver;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| driver::check(bytes));
