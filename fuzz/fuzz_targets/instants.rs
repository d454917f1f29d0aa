//! References, instants and amounts as typed: `crates/api/tests/hostile/driver.rs`.

#![no_main]
#![allow(dead_code)] // the driver serves other targets too

#[path = "../../crates/api/tests/hostile/driver.rs"]
mod driver;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| driver::check(bytes));
