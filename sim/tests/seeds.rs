//! The simulation itself, and seeds that once failed.

#[test]
fn one_seed_run_twice_is_the_same_run() {
    let (one, other) = (sim::run(77, 600), sim::run(77, 600));
    assert_eq!(one.to_string(), other.to_string());
    assert_ne!(one.fingerprint, sim::run(78, 600).fingerprint);
}

/// A bulk file's first fact took the last sequence of its segment for the first in the file, so that
/// after a restart the cells before it were taken for strangers.
#[test]
fn bulk_cells_are_read_after_a_restart() {
    sim::run(3, 2_000);
}
