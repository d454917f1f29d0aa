//! Bugs on purpose, and the time it takes to find each: the checks have teeth.
//!
//! Only in builds with the feature `planted`. Numbers up to 30 are the design's; what is missing there
//! cannot do harm in this store or needs what it does not have yet (remote objects, retention). Those
//! from 31 on were real once: the simulation found them.

use crate::run::run_with;
use std::panic;
use world::{Clock as _, real::RealClock};

/// Number and words of each bug, and the fault that lays it bare (14: none).
pub const BUGS: &[(u32, &str, u64)] = &[
    (1, "a write is answered before it is on disk", 14),
    (2, "a flush is answered when one of its files is synced", 14),
    (3, "a flush skips files that were rolled meanwhile", 14),
    (4, "FUA is treated as a plain write", 14),
    (5, "a batch is answered before the one it follows", 14),
    (11, "an epoch takes the key of the one before it", 14),
    (12, "a slot is used again before the manifest knows its pack", 14),
    (13, "the directory of the runs is not synced", 14),
    (14, "a pack is not synced before the manifest names it", 14),
    (15, "a failed sync is taken for a good one", 2),
    (16, "a short write is taken for a whole one", 1),
    (17, "a write that found no room is answered", 9),
    (19, "a trim is forgotten by the index", 14),
    (20, "a clone sees one sequence too many", 14),
    (24, "a moved cell comes back over a newer one", 14),
    (25, "what recovery accepts is not made durable", 14),
    (27, "history's clock goes back with the wall", 7),
    (33, "a bulk file's first fact names its last sequence", 14),
    (35, "a closed view forgets its reads", 14),
];

/// What it took to find a bug.
#[derive(Clone, Debug)]
pub struct Found {
    /// The seed that fails.
    pub seed: u64,
    /// How long it took to get there.
    pub ns: u64,
    /// What the check says.
    pub words: String,
}

/// Plants a bug and runs seeds until one fails; `None` if the time is up first.
pub fn hunt(bug: u32, favourite: u64, steps: u64, ns_max: u64) -> Option<Found> {
    let favourite = Some(favourite);
    segment_log::planted::plant(bug);
    let silent = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let start = RealClock.boot_ns();
    let mut found = None;
    for seed in 1.. {
        let result = panic::catch_unwind(|| run_with(seed, steps, favourite));
        let ns = RealClock.boot_ns() - start;
        if let Err(panicked) = result {
            let words = panicked.downcast_ref::<String>().cloned().unwrap_or_default();
            found = Some(Found { seed, ns, words });
        }
        if found.is_some() || ns > ns_max {
            break;
        }
    }
    panic::set_hook(silent);
    segment_log::planted::plant(0);
    found
}
