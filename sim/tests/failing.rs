//! Every write of a script fails in turn: what was answered is there, in its order, whatever failed.

use block_device::{Answer, BlockError, Command, Payload};
use segment_log::Config;
use sim::{
    Machine, Place,
    crash::{Counts, Failing, fail},
};
use sim_world::{Fault, Seed};
use units::ClientId;
use world::Disk as _;

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

/// A disk that has no room for a long bulk file has some for a short one, and while it has none for any,
/// short writes go on.
#[test]
fn a_small_disk_takes_long_writes_as_far_as_it_has_room() {
    let place = Place::new(Seed(3));
    place.make_store().expect("an empty disk");
    let config = Config { segment_bytes: 4 << 20, ..Config::default() };
    let reserve_bytes = config.reserve_bytes;
    let mut machine = Machine::start(&place, config).expect("a new store");
    let (_, branch) = machine.create("disk", 64 << 20).expect("no crash");
    place.disk.set_capacity_bytes(Some(80 << 20));
    let view = machine.view(branch, None);
    let mut write = |offset_bytes: u64, length: usize| {
        let bytes = vec![7; length];
        let data = Payload::Borrowed(&bytes);
        let command = Command::Write { offset_bytes, data, fua: false };
        let done = machine.ask(view, ClientId(1), command);
        machine.settle();
        done
    };
    let mut fits = |length: u64| {
        let done = write(0, usize::try_from(length).expect("short"));
        assert!(matches!(done, Ok(Answer::Written(_)) | Err(BlockError::NoSpace)), "{done:?}");
        done.is_ok()
    };
    let long = (0..5).take_while(|_| fits(16 << 20)).count();
    assert!((3..5).contains(&long), "{long} of 16 MiB on a disk of 80");
    let short = (0..200).take_while(|_| fits(512 << 10)).count();
    assert!(short > 0, "what is too long for the disk is no word on what is shorter: {short}");
    let free_bytes = place.disk.space().expect("a disk").free_bytes;
    assert!(
        free_bytes < reserve_bytes + (3 << 20),
        "refused while there is room: {free_bytes} bytes are free"
    );
    assert!(fits(4096), "one block finds room in the log");
    assert_eq!(machine.store.log().trouble(), Some("No space left on device"));
    place.disk.set_capacity_bytes(None);
    place.clock.advance(2_000_000_000);
    let view = machine.view(branch, None);
    let bytes = vec![7; 16 << 20];
    let command = Command::Write { offset_bytes: 0, data: Payload::Borrowed(&bytes), fua: false };
    assert!(matches!(machine.ask(view, ClientId(1), command), Ok(Answer::Written(_))));
    assert_eq!(machine.store.log().trouble(), None, "there is room again");
}
