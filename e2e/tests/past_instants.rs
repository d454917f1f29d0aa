//! Does every past instant read as it was? By a client and a model that share no code with us.
//!
//! Short forms; `cargo xtask soak` runs the long ones. A failure prints its seed.

use e2e::{program, python, succeed};

fn instants(arguments: &[&str]) {
    let mut check = python("instants.py");
    println!("{}", succeed(check.arg("--program").arg(program()).args(arguments)));
}

#[test]
fn instants_under_load_and_kills_are_exact() {
    instants(&["--ops", "2000", "--instants", "40", "--kill", "2", "--beside", "15"]);
}

#[test]
fn instants_of_left_stretches_stay() {
    instants(&["--rewind", "--ops", "1000", "--instants", "50", "--size", "8M"]);
}

#[test]
fn clones_of_clones_are_independent() {
    instants(&["--clones", "16", "--size", "4M", "--stages", "live,kill"]);
}

#[test]
fn the_check_itself_finds_every_planted_bug() {
    println!("{}", succeed(&mut python("selftest.py")));
}
