//! Start: what the log holds beyond what the manifest says.
//!
//! The result is a prefix of history: segments are accepted in the order of their chain, from the
//! last indexed one on, and the first batch that does not count ends it. Nothing is written here, so
//! recovering twice gives the same.
//!
//! A segment without a whole header was never flushed, or is damaged. Its batches cannot be verified, but
//! what they call durable is believed as far as a refusal goes: nobody loses flushed data in silence.

use crate::{
    keyring::Keyring,
    open::Mode,
    planted,
    scan::{Opened, Scanned, Scanner},
    state::LogState,
};
use seal::{Key, Tag};
use std::io;
use thiserror::Error;
use units::{Sequence, StoreId};
use world::Disk;

/// What was found.
#[derive(Debug)]
pub struct Recovered {
    /// The log's end, in order; the runs cover what is before.
    pub tail: Vec<Scanned>,
    /// The last sequence.
    pub last: Sequence,
    /// All up to here was flushed, as far as the log says.
    pub durable: Sequence,
    /// Names of all segment files.
    pub slots: Vec<u64>,
    /// Above every file id that was seen anywhere.
    pub next_file: u64,
}

/// Flushed data is not there: the log ends before a sequence that it calls durable elsewhere.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the log ends at sequence {last}, but all up to {durable} was flushed")]
pub struct MissingFlushed {
    /// The last sequence that can be had.
    pub last: Sequence,
    /// The last one that must be there.
    pub durable: Sequence,
}

impl Recovered {
    /// Whether flushed data is missing.
    pub fn missing(&self) -> Result<(), MissingFlushed> {
        if self.durable > self.last && !planted::is(26) {
            return Err(MissingFlushed { last: self.last, durable: self.durable });
        }
        Ok(())
    }
}

/// Scans the log behind the last indexed segment.
pub fn recover(
    disk: &dyn Disk,
    master: &Key,
    store: StoreId,
    state: &LogState,
    keyring: &Keyring,
    mode: Mode,
) -> io::Result<Recovered> {
    let scanner = Scanner { disk, master, keyring };
    let slots = numbered(disk, "log", ".seg")?;
    let mut found = Recovered {
        tail: Vec::new(),
        last: state.last,
        durable: state.last,
        slots: slots.clone(),
        next_file: state.next_file,
    };
    for (directory, suffix) in [("bulk", ".bulk"), ("pack", ".pack")] {
        let highest = numbered(disk, directory, suffix)?.into_iter().max();
        found.next_file = found.next_file.max(highest.map_or(0, |id| id.saturating_add(1)));
    }
    let mut candidates = Vec::new();
    for slot in slots {
        match scanner.open(slot) {
            Ok(Some(opened)) if opened.header.store == store => {
                found.next_file = found.next_file.max(opened.header.file.number() + 1);
                candidates.push(opened);
            }
            Ok(Some(_)) => {}
            // Indexed already: its cells are verified as they are read.
            Ok(None) | Err(_) if state.segments.values().any(|stays| stays.slot == slot) => {}
            Ok(None) => {
                if let Some(claim) = scanner.claim(slot, state.last)? {
                    found.durable = found.durable.max(claim);
                }
            }
            // It may be the log's end, unless what follows the header says that it is old.
            Err(error) => {
                let old = matches!(scanner.claim(slot, state.last), Ok(None));
                if !old && mode != Mode::AcceptLoss {
                    return Err(error);
                }
            }
        }
    }
    follow(&scanner, state, candidates, &mut found)?;
    Ok(found)
}

/// Accepts segment after segment as each follows the one before.
fn follow(
    scanner: &Scanner<'_>,
    state: &LogState,
    mut candidates: Vec<Opened>,
    found: &mut Recovered,
) -> io::Result<()> {
    let (Some(epoch), Some(mut chain)) = (state.epoch(), state.chain()) else { return Ok(()) };
    candidates.retain(|opened| {
        opened.header.epoch == epoch.epoch
            && state.tail.is_none_or(|tail| opened.header.file > tail)
    });
    candidates.sort_by_key(|opened| opened.header.file);
    let mut last = state.last;
    loop {
        // Of two that follow the same batch the younger one counts: what was logged again after an
        // error took the place of the other, and only it was gone on with.
        let follows = |opened: &Opened, chain: &Tag, last: Sequence| {
            opened.header.previous == *chain && opened.header.first == last.next()
        };
        let next = candidates.iter().rposition(|opened| follows(opened, &chain, last));
        let Some(next) = next else { break };
        let opened = candidates.remove(next);
        candidates.retain(|other| !follows(other, &chain, last));
        let younger = candidates.iter().filter(|other| other.header.file > opened.header.file);
        let scanned = scanner
            .scan(&opened, |tag, last| younger.clone().any(|other| follows(other, tag, last)))?;
        chain = scanned.last_tag;
        last = scanned.contents.last;
        found.durable = found.durable.max(scanned.durable);
        found.tail.push(scanned);
    }
    // A segment of this epoch that hangs in the air: what it calls durable must not be lost.
    for opened in &candidates {
        let scanned = scanner.scan(opened, |_, _| false)?;
        found.durable = found.durable.max(scanned.durable);
    }
    found.last = last;
    Ok(())
}

/// Numbers of the files `<number><suffix>` in a directory, ascending.
pub fn numbered(disk: &dyn Disk, directory: &str, suffix: &str) -> io::Result<Vec<u64>> {
    let names = disk.list(directory)?;
    let mut numbers: Vec<u64> = names
        .iter()
        .filter_map(|name| {
            let number: u64 = name.strip_suffix(suffix)?.parse().ok()?;
            (format!("{number}{suffix}") == *name).then_some(number)
        })
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}
