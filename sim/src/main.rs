//! Runs seeds of the simulation.
//!
//! `sim [--seed FIRST] [--seeds COUNT] [--minutes MINUTES] [--steps STEPS]`: each seed is printed before
//! it runs. The first that fails ends it with the command that repeats it.

use std::{env, panic, process::ExitCode};
use world::{Clock as _, real::RealClock};

/// Steps of a seed unless told.
const STEPS: u64 = 2_000;
const MINUTE_NS: u64 = 60_000_000_000;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let Some(wanted) = Wanted::parse(&arguments) else {
        eprintln!("usage: sim [--seed FIRST] [--seeds COUNT] [--minutes MINUTES] [--steps STEPS]");
        return ExitCode::from(2);
    };
    wanted.run()
}

struct Wanted {
    first: u64,
    count: u64,
    steps: u64,
    ends_ns: Option<u64>,
}

impl Wanted {
    fn parse(arguments: &[String]) -> Option<Self> {
        let mut wanted = Self { first: 1, count: 0, steps: STEPS, ends_ns: None };
        for pair in arguments.chunks(2) {
            let [name, number] = pair else { return None };
            let number = number.parse().ok()?;
            match name.as_str() {
                "--seed" => wanted.first = number,
                "--seeds" => wanted.count = number,
                "--steps" => wanted.steps = number,
                "--minutes" => wanted.ends_ns = Some(RealClock.boot_ns() + number * MINUTE_NS),
                _ => return None,
            }
        }
        if wanted.count == 0 {
            wanted.count = if wanted.ends_ns.is_some() { u64::MAX } else { 1 };
        }
        Some(wanted)
    }

    fn run(&self) -> ExitCode {
        for seed in self.first..self.first.saturating_add(self.count) {
            eprintln!("seed {seed}");
            let Ok(report) = panic::catch_unwind(|| sim::run(seed, self.steps)) else {
                let steps = self.steps;
                println!("FAILED; again: cargo xtask sim --seed {seed} --steps {steps}");
                return ExitCode::FAILURE;
            };
            println!("{report}");
            if self.ends_ns.is_some_and(|end| RealClock.boot_ns() > end) {
                break;
            }
        }
        ExitCode::SUCCESS
    }
}
