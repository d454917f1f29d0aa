//! Exhaustive crashes of a short script.

use super::{SimDisk, cut::CutPolicy, state::Moment};
use crate::rng::{Rng, Seed};

/// Runs a script once to count its operations, then once for each of them and each [`Moment`] of a
/// power cut there, and shows every [`CutPolicy`]'s image of each to `check`.
///
/// `script` gets a copy of `disk` each time and gives what it was promised (its model); it ends when
/// it meets the crash. `check` gets the image, that model, and words for the failure's first line.
/// To crash in a recovery too, call this again in `check`. Gives the number of images.
pub fn every_crash<T>(
    seed: Seed,
    disk: &SimDisk,
    script: impl FnMut(&SimDisk) -> T,
    mut check: impl FnMut(&SimDisk, &T, &str),
) -> u64 {
    sweep(seed, disk, script, |run, rng, model, words| {
        for policy in CutPolicy::EVERY {
            check(&run.power_cut(policy, rng), model, &format!("{words}, cut {policy:?}"));
        }
        CutPolicy::EVERY.len() as u64
    })
}

/// The same for kills of the process: what was answered must be there, synced or not.
pub fn every_kill<T>(
    seed: Seed,
    disk: &SimDisk,
    script: impl FnMut(&SimDisk) -> T,
    mut check: impl FnMut(&SimDisk, &T, &str),
) -> u64 {
    sweep(seed, disk, script, |run, rng, model, words| {
        check(&run.kill(rng), model, &format!("{words}, killed"));
        1
    })
}

fn sweep<T>(
    seed: Seed,
    disk: &SimDisk,
    mut script: impl FnMut(&SimDisk) -> T,
    mut images: impl FnMut(&SimDisk, &mut Rng, &T, &str) -> u64,
) -> u64 {
    let rehearsal = disk.copy();
    script(&rehearsal);
    assert!(!rehearsal.is_crashed(), "the script is to run whole when nothing crashes");
    let mut rng = seed.rng("every crash");
    let mut count = 0;
    for n in disk.operations()..rehearsal.operations() {
        for moment in Moment::EVERY {
            let run = disk.copy();
            run.crash_at_operation(n, moment);
            let model = script(&run);
            let words = format!("{seed:?}, crash {moment:?} operation {n}");
            count += images(&run, &mut rng, &model, &words);
        }
    }
    count
}
