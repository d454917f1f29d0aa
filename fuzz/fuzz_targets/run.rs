//! A run file changed before it was sealed: `crates/history_index/tests/hostile/driver.rs`.

#![no_main]

#[path = "../../crates/history_index/tests/hostile/driver.rs"]
mod driver;
#[path = "../../crates/history_index/tests/memory_disk/mod.rs"]
mod memory_disk;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| driver::check(bytes));
