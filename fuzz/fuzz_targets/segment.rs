//! Files of the log, changed: `crates/volume/tests/hostile/files.rs`.

#![no_main]
#![allow(dead_code)] // the driver serves other targets too

#[path = "../../crates/volume/tests/hostile/files.rs"]
mod files;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| files::check_segment(bytes));
