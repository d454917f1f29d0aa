//! Images of one format, changed at a few places: `crates/images/tests/hostile/driver/mod.rs`.

#![no_main]

#[path = "../../crates/images/tests/hostile/driver/mod.rs"]
mod driver;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    driver::check(images::Format::Vdi, bytes);
});
