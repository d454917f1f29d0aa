//! Power cuts at every operation of a few scripts; the long form is `cargo xtask sim --crash`.

use sim::crash::{Counts, lie, sweep};

fn sweep_all(seeds: std::ops::Range<u64>) -> Counts {
    let mut counts = Counts::default();
    for seed in seeds {
        counts += sweep(seed);
    }
    println!("{counts}");
    assert!(counts.images > 40 * counts.scripts, "hardly any image: {counts}");
    assert!(counts.recoveries > 0 && counts.second_lives > 0, "left something out: {counts}");
    counts
}

#[test]
fn no_crash_of_the_first_scripts_breaks_a_promise() {
    sweep_all(1..6);
}

#[test]
fn no_crash_of_the_second_scripts_breaks_a_promise() {
    sweep_all(101..106);
}

#[test]
fn no_crash_of_the_third_scripts_breaks_a_promise() {
    sweep_all(201..206);
}

#[test]
fn a_script_swept_twice_gives_the_same_images() {
    assert_eq!(sweep(7), sweep(7));
    assert_ne!(sweep(7), sweep(8));
}

#[test]
fn what_a_lying_sync_lost_is_never_passed_over_in_silence() {
    let mut counts = Counts::default();
    for seed in [2, 5, 6, 8] {
        counts += lie(seed);
    }
    assert!(counts.images > 300, "hardly any image: {counts}");
}
