//! Bugs on purpose, and the time it takes to find each: the checks have teeth.
//!
//! Only in builds with the feature `planted`. Numbers up to 30 are the design's; what is missing there
//! cannot do harm in this store or needs what it does not have yet (remote objects, retention): a ghost
//! of another epoch (7, 8) is kept out by its epoch, its chain and its cells' keys, any of which is
//! enough; of two writers (30) the lock keeps one away, which no simulated disk has. Those from 31 on were real once: the simulation found them.

use crate::{crash, run::run_with};
use std::panic;
use world::{Clock as _, real::RealClock};

/// Where a bug is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ring {
    /// Whole stores; half of their lives meet the fault of that number (14: none).
    Lives(u64),
    /// The same, only seeds with volumes on images.
    Adopted(u64),
    /// Whole stores, behind the one of that seed: for what is rare.
    Runs(u64),
    /// Power cuts at every operation of scripts, behind the one of that seed.
    Crash(u64),
    /// Syncs that lie.
    Lie,
}

use Ring::{Adopted, Crash, Lie, Lives, Runs};

/// Number and words of each bug, and where it is looked for.
pub const BUGS: &[(u32, &str, Ring)] = &[
    (1, "a write is answered before it is on disk", Lives(14)),
    (2, "a flush is answered when one of its files is synced", Lives(14)),
    (3, "a flush skips files that were rolled meanwhile", Lives(14)),
    (4, "FUA is treated as a plain write", Lives(14)),
    (5, "a batch is answered before the one it follows", Crash(0)),
    (6, "a start goes on in the epoch that a crash ended", Crash(0)),
    (9, "a batch's tag covers its header only", Crash(7)),
    (10, "a cell of another block is taken for the one asked for", Lives(20)),
    (11, "an epoch takes the key of the one before it", Crash(6)),
    (12, "a slot is used again before the manifest knows its pack", Lives(14)),
    (13, "the directory of the runs is not synced", Lives(14)),
    (14, "a pack is not synced before the manifest names it", Lives(14)),
    (15, "a failed sync is taken for a good one", Lives(2)),
    (16, "a short write is taken for a whole one", Lives(1)),
    (17, "a write that found no room is answered", Lives(9)),
    (18, "a cell in flight is read from disk", Lives(14)),
    (19, "a trim is forgotten by the index", Lives(14)),
    (20, "a clone sees one sequence too many", Lives(14)),
    (21, "runs are taken out of the order of time", Lives(14)),
    (22, "a filter forgets a leaf", Lives(14)),
    (24, "a moved cell comes back over a newer one", Lives(14)),
    (25, "what recovery accepts is not made durable", Lives(14)),
    (26, "what batches call durable is ignored", Lie),
    (27, "history's clock goes back with the wall", Lives(7)),
    (33, "a bulk file's first fact names its last sequence", Crash(6)),
    (35, "a closed view forgets its reads", Lives(14)),
    (36, "what the index said before a block was forgotten is taken for its newest", Runs(800_813)),
    (37, "what was taken over of an image hides an older write", Adopted(14)),
    (38, "what is taken over of an image goes over the volume's own writes", Adopted(14)),
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
pub fn hunt(bug: u32, ring: Ring, steps: u64, ns_max: u64) -> Option<Found> {
    segment_log::planted::plant(bug);
    let silent = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let start = RealClock.boot_ns();
    let mut found = None;
    for seed in 1.. {
        let result = panic::catch_unwind(|| match ring {
            Lives(favourite) => drop(run_with(seed, steps, Some(favourite))),
            Adopted(favourite) => drop(run_with(2 * seed - 1, steps, Some(favourite))),
            Runs(before) => drop(run_with(before + seed, steps, None)),
            Crash(before) => drop(crash::sweep(before + seed)),
            Lie => drop(crash::lie(seed)),
        });
        let ns = RealClock.boot_ns() - start;
        if let Err(panicked) = result {
            let words = panicked.downcast_ref::<String>().cloned();
            let plain = panicked.downcast_ref::<&str>().map(|words| (*words).to_owned());
            let words = words.or(plain).unwrap_or_default();
            let seed = match ring {
                Crash(before) | Runs(before) => before + seed,
                Adopted(_) => 2 * seed - 1,
                Lives(_) | Lie => seed,
            };
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
