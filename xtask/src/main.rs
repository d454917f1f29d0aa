//! Everything that is not the product: checks, long runs, benchmarks, manual pages.
//!
//! A verb answers with what was found; any finding ends with exit 1.
//! Nothing here is linked into the product, so files, clocks and processes are used directly.
//!
//! Scripts that other repositories use too (the *shared* ones) lie beside this checkout or at
//! `$STRANDLINE_SHARED`. Where they are absent the checks that need them are counted and named as not
//! run; `--strict`, which CI passes, makes that a failure.

#![expect(
    clippy::disallowed_methods,
    reason = "a developer's tool outside the product: it has no `world` to go through"
)]

mod bench;
mod images;
mod machine;
mod report;
mod shell;
mod soak;
mod sustained;
mod test;

use shell::{Failure, cargo, run};
use std::{env, process::ExitCode};

const USAGE: &str = "\
cargo xtask VERB

  test [--strict]       every test, short forms; --strict: nothing may be left out
  lint                  format and clippy, warnings are errors
  ci                    what CI runs: .ci/run
  sim [--seed N] [--seeds N] [--minutes N] [--steps N]   the simulator
  sim --crash [--seed N] [--images N]   power cuts at every operation; counts distinct crash images
  planted [ARGS]        every planted bug until the simulator finds it
  bench nbd [--dir D]   speed beside qemu-nbd and nbdkit; writes docs/measurements.md
  bench images [--dir D]   conversions beside qemu-img; writes docs/measurements-images.md
  soak [--only NAME]    the long forms: hours
  man                   manual pages into docs/man
";

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["test", rest @ ..] => test::test(rest),
        ["lint"] => lint(),
        ["ci"] => run(shell::command(shell::root().join(".ci/run"), &[""; 0])),
        ["sim", rest @ ..] => simulator(false, rest),
        ["planted", rest @ ..] => simulator(true, rest),
        ["bench", "nbd", rest @ ..] => bench::nbd(rest),
        ["bench", "images", rest @ ..] => images::images(rest),
        ["soak", rest @ ..] => soak::soak(rest),
        ["man"] => manual_pages(),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Format and lints, over all targets.
fn lint() -> Result<(), Failure> {
    run(cargo(&["fmt", "--all", "--check"]))?;
    run(cargo(&["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"]))
}

/// The simulator's own program; planted bugs are a feature that never ships.
fn simulator(planted: bool, rest: &[&str]) -> Result<(), Failure> {
    let mut command = cargo(&["run", "--quiet", "--package", "strandline-sim"]);
    if planted {
        command.args(["--features", "planted", "--", "--planted"]).args(rest);
    } else {
        command.arg("--").args(rest);
    }
    run(command)
}

fn manual_pages() -> Result<(), Failure> {
    run(cargo(&["run", "--quiet", "--package", "strandline", "--", "man", "docs/man"]))
}
