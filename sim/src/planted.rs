//! Bugs on purpose, and the time it takes to find each: the checks have teeth.
//!
//! Only in builds with the feature `planted`. Numbers and words follow the design's list; what is not
//! here cannot come about in this store or needs what it does not have yet (remote objects, retention).

use crate::run;
use std::panic;
use world::{Clock as _, real::RealClock};

/// Number and words of each bug.
pub const BUGS: &[(u32, &str)] = &[
    (1, "a write is answered before it is on disk"),
    (2, "a flush is answered when one of its files is synced"),
    (3, "a flush skips files that were rolled meanwhile"),
    (4, "FUA is treated as a plain write"),
    (5, "a batch is answered before the one it follows"),
    (9, "a batch's tag covers its header only"),
    (10, "a cell of another block passes"),
    (11, "an epoch takes the key of the one before it"),
    (12, "a slot is used again before the manifest knows its pack"),
    (13, "the directory of the runs is not synced"),
    (14, "a pack is not synced before the manifest names it"),
    (15, "a failed sync is taken for a good one"),
    (16, "a short write is taken for a whole one"),
    (17, "a write that found no room is answered"),
    (18, "a cell of the open segment is read from disk"),
    (19, "a trim is forgotten by the index"),
    (20, "a clone sees one sequence too many"),
    (24, "a moved cell comes back over a newer one"),
    (25, "what recovery accepts is not made durable"),
    (27, "history's clock goes back with the wall"),
];

/// What it took to find a bug.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// The seed that fails.
    pub seed: u64,
    /// How long it took to get there.
    pub ns: u64,
}

/// Plants a bug and runs seeds until one fails; `None` if the time is up first.
pub fn hunt(bug: u32, steps: u64, ns_max: u64) -> Option<Found> {
    segment_log::planted::plant(bug);
    let silent = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let start = RealClock.boot_ns();
    let mut found = None;
    for seed in 1.. {
        let failed = panic::catch_unwind(|| run(seed, steps)).is_err();
        let ns = RealClock.boot_ns() - start;
        if failed {
            found = Some(Found { seed, ns });
        }
        if failed || ns > ns_max {
            break;
        }
    }
    panic::set_hook(silent);
    segment_log::planted::plant(0);
    found
}
