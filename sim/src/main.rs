//! Runs seeds of the simulation.
//!
//! `sim [--seed FIRST] [--seeds COUNT] [--minutes MINUTES] [--steps STEPS]`: each seed is printed before
//! it runs. The first that fails ends it with the command that repeats it.
//!
//! `sim --crash [--seed FIRST] [--seeds COUNT] [--images COUNT] [--minutes MINUTES]`: power cuts at every
//! operation of the scripts of these seeds, until so many distinct images were checked. All violations
//! are counted; any fails.
//!
//! `sim --planted [--bug NUMBER] [--seconds SECONDS]`, in builds with the feature `planted`: plants each
//! bug of the list in turn and says how long it takes to find; one that is not found fails.

use std::{env, panic, process::ExitCode};
use world::{Clock as _, real::RealClock};

/// Steps of a seed unless told.
const STEPS: u64 = 2_000;
const MINUTE_NS: u64 = 60_000_000_000;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let Some((name, rest)) = arguments.split_first()
        && name == "--planted"
    {
        return planted(rest);
    }
    let crash = arguments.first().is_some_and(|first| first == "--crash");
    let Some(wanted) = Wanted::parse(&arguments[usize::from(crash)..]) else {
        eprintln!("usage: sim [--seed FIRST] [--seeds COUNT] [--minutes MINUTES] [--steps STEPS]");
        eprintln!(
            "       sim --crash [--seed FIRST] [--seeds COUNT] [--minutes MINUTES] [--images COUNT]"
        );
        return ExitCode::from(2);
    };
    if crash { wanted.crash() } else { wanted.run() }
}

struct Wanted {
    first: u64,
    count: u64,
    steps: u64,
    images: u64,
    ends_ns: Option<u64>,
}

impl Wanted {
    fn parse(arguments: &[String]) -> Option<Self> {
        let mut wanted = Self { first: 1, count: 0, steps: STEPS, images: 0, ends_ns: None };
        for pair in arguments.chunks(2) {
            let [name, number] = pair else { return None };
            let number = number.parse().ok()?;
            match name.as_str() {
                "--seed" => wanted.first = number,
                "--seeds" => wanted.count = number,
                "--steps" => wanted.steps = number,
                "--images" => wanted.images = number,
                "--minutes" => wanted.ends_ns = Some(RealClock.boot_ns() + number * MINUTE_NS),
                _ => return None,
            }
        }
        if wanted.count == 0 {
            let goes_on = wanted.ends_ns.is_some() || wanted.images > 0;
            wanted.count = if goes_on { u64::MAX } else { 1 };
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

    fn crash(&self) -> ExitCode {
        let (mut counts, mut violations) = (sim::crash::Counts::default(), 0_u64);
        for seed in self.first..self.first.saturating_add(self.count) {
            if let Ok(done) = panic::catch_unwind(|| sim::crash::sweep(seed)) {
                counts += done;
            } else {
                violations += 1;
                println!("FAILED; again: cargo xtask sim --crash --seed {seed}");
            }
            let enough = self.images > 0 && counts.images >= self.images;
            if enough || self.ends_ns.is_some_and(|end| RealClock.boot_ns() > end) {
                break;
            }
        }
        println!("{counts}; {violations} violations");
        if violations > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}

#[cfg(not(feature = "planted"))]
fn planted(_: &[String]) -> ExitCode {
    eprintln!("planted bugs are not in this build: cargo xtask planted");
    ExitCode::from(2)
}

#[cfg(feature = "planted")]
fn planted(arguments: &[String]) -> ExitCode {
    const SECOND_NS: u64 = 1_000_000_000;
    let (mut only, mut seconds) = (None, 10);
    for pair in arguments.chunks(2) {
        match pair {
            [name, number] if name == "--bug" => only = number.parse::<u32>().ok(),
            [name, number] if name == "--seconds" => seconds = number.parse().unwrap_or(10),
            _ => {
                eprintln!("usage: sim --planted [--bug NUMBER] [--seconds SECONDS]");
                return ExitCode::from(2);
            }
        }
    }
    let mut missed = 0;
    for &(bug, words, ring) in
        sim::planted::BUGS.iter().filter(|(bug, ..)| only.is_none_or(|it| it == *bug))
    {
        let found = sim::planted::hunt(bug, ring, STEPS, seconds * SECOND_NS);
        let Some(found) = found else {
            missed += 1;
            println!("{bug:>2} {words}: NOT FOUND");
            continue;
        };
        let tenths = found.ns / (SECOND_NS / 10);
        let (seed, seconds, tenth) = (found.seed, tenths / 10, tenths % 10);
        let check = found.words.lines().next().unwrap_or_default();
        println!("{bug:>2} {words}: seed {seed}, {seconds}.{tenth} s ({check})");
    }
    if missed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
