//! Does trimming a whole disk of 1 TiB cost what is on it, and nothing of what was there before?
//!
//! Times are only printed: this machine may be busy. `cargo xtask soak` holds them to their bounds.

use e2e::{program, python, succeed};

#[test]
fn a_whole_disk_is_trimmed_at_once_and_its_past_stays() {
    let mut check = python("whole_disk.py");
    check.arg("--program").arg(program()).args(["--blocks", "5000"]);
    println!("{}", succeed(check.args(["--seconds-max", "10", "--stall-max", "0"])));
}
