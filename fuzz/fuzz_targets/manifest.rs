//! The manifest, damaged or sealed with nonsense: `crates/volume/tests/hostile/records.rs`.

#![no_main]
#![allow(dead_code)] // the driver serves other targets too

#[path = "../../crates/volume/tests/hostile/records.rs"]
mod records;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| records::check_manifest(bytes));
