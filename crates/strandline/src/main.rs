//! The binary: arguments, one call below, text or JSON, and an exit code.
fn main() {}
