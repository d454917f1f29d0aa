//! Every write of a script fails in turn: what was answered is there, in its order, whatever failed.

use sim::crash::{Counts, Failing, fail};
use sim_world::Fault;

/// Scripts with long writes, which go to bulk files, and without.
const BULK: u64 = 6;
const SMALL: u64 = 3;

fn fail_each(seeds: &[u64], failing: Failing<'_>) -> Counts {
    let mut counts = Counts::default();
    for seed in seeds {
        counts += fail(*seed, failing);
    }
    println!("{failing:?}: {counts}");
    assert!(counts.scripts >= seeds.len() as u64, "hardly anything failed: {counts}");
    counts
}

fn unnoticed(fault: Fault, prefix: &str) -> Failing<'_> {
    Failing { fault, prefix, again: None, for_ever: false, told: false }
}

#[test]
fn a_write_to_the_log_that_fails_is_done_elsewhere() {
    for fault in [Fault::WriteError, Fault::ShortWrite] {
        fail_each(&[SMALL, BULK], unnoticed(fault, "log/"));
    }
}

#[test]
fn a_write_to_the_log_that_fails_again_while_it_is_done_elsewhere_is_done_once_more() {
    for again in 0..3 {
        let failing = unnoticed(Fault::WriteError, "log/");
        fail_each(&[SMALL], Failing { again: Some(again), ..failing });
    }
}

#[test]
fn a_long_write_that_fails_is_done_elsewhere() {
    for fault in [Fault::WriteError, Fault::ShortWrite] {
        for again in [None, Some(0), Some(1)] {
            fail_each(&[BULK], Failing { again, ..unnoticed(fault, "bulk/") });
        }
    }
}

#[test]
fn packs_and_runs_that_fail_are_made_again() {
    for prefix in ["pack/", "run/"] {
        fail_each(&[1, 2, 4, 5, 8], unnoticed(Fault::WriteError, prefix));
    }
}

#[test]
fn want_of_room_and_a_lost_manifest_are_told_and_lose_nothing() {
    for (fault, prefix) in
        [(Fault::NoSpace, "log/"), (Fault::NoSpace, "bulk/"), (Fault::WriteError, "manifest/")]
    {
        fail_each(&[BULK], Failing { told: true, ..unnoticed(fault, prefix) });
    }
}

#[test]
fn a_disk_that_fails_for_ever_is_told_and_loses_nothing_answered() {
    for prefix in ["log/", "bulk/", ""] {
        let failing = unnoticed(Fault::WriteError, prefix);
        fail_each(&[BULK], Failing { for_ever: true, told: true, ..failing });
    }
}
