//! Does damage stay local and loud: the old bytes or an error, never other bytes, and a server that lives?
//!
//! A failure prints its seed.

use e2e::{program, python, succeed};

#[test]
fn flipped_bits_never_read_as_other_bytes() {
    let mut check = python("bitflips.py");
    check.arg("--program").arg(program()).args(["--count", "24"]);
    println!("{}", succeed(&mut check));
}
