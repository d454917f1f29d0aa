//! `store check|repair|gc`: reading what the store holds against its seals.
//!
//! A check goes run by run through every cell that the index names; it looks at what was durable when
//! it began. What moved meanwhile is looked for anew. A merged run names cells of many packs in an
//! order of its own, so a batch of them is put into the order in which they lie, and neighbours are
//! read together. Memory: the batch, and a window for each file that is open.

use super::{
    failures::index_failure,
    naming::api_volume,
    past::Past,
    running::{Engine, lock},
};
use api::{
    Failure, codes,
    verbs::{
        Damage,
        store::{StoreCheck, StoreChecked, StoreCollected, StoreGc, StoreRepair, StoreRepaired},
    },
};
use history_index::{Bound, Content, Entry, Source};
use seal::CellName;
use segment_log::CellFile;
use std::{collections::BTreeMap, sync::Arc};
use units::{BLOCK_BYTES, CELL, FileId, Place, Sequence};
use world::{Access, File};

/// Bytes that are read at a time.
const WINDOW_BYTES: usize = 1 << 20;
/// Cells that are sorted together: 4 MiB of entries.
const BATCH_CELLS: usize = 1 << 17;
/// Between two cells no more than this is read in vain.
const GAP_BYTES: u64 = 32 << 10;
/// Files that are kept open.
const FILES_MAX: usize = 64;
/// Places of damage that are told; the rest is only known to be there.
const DAMAGE_MAX: usize = 1000;
/// Parts of a sample.
const MILLION: u32 = 1_000_000;

impl Engine {
    pub(super) fn store_check(&self, request: &StoreCheck) -> Result<StoreChecked, Failure> {
        let begun = self.held.clock.boot_ns();
        let past = self.settled()?;
        let mut check = Check {
            engine: self,
            sample_ppm: request.sample_ppm.unwrap_or(MILLION),
            files: BTreeMap::new(),
            batch: Vec::new(),
            checked: StoreChecked { cells: 0, bytes: 0, took_ms: 0, damage: Vec::new() },
        };
        for copy in lock(&self.held.secrets).stale() {
            check.damaged(file_damage(copy, "differs from its copy"));
        }
        for source in past.snapshot.index.sources() {
            check.source(&past, source)?;
        }
        check.batch_full(&past)?;
        let mut checked = check.checked;
        checked.took_ms = self.held.clock.boot_ns().saturating_sub(begun) / 1_000_000;
        Ok(checked)
    }

    /// What is derived and was wrong has been written anew when the store was opened; this says what,
    /// and what is beyond that.
    pub(super) fn store_repair(&self, request: StoreRepair) -> Result<StoreRepaired, Failure> {
        if request.new_id {
            return Err(Failure::new(
                codes::NO_SUCH_CALL,
                "this version cannot give a store another identity",
            )
            .doing("make a new store and copy the volumes with nbdcopy"));
        }
        let checked = self.store_check(&StoreCheck::default())?;
        let mut rebuilt = self.held.healed.clone();
        if !request.dry_run && !self.held.read_only {
            let held = &self.held;
            let healed = lock(&held.secrets).heal(&*held.disk, &held.master);
            let healed =
                healed.map_err(|error| super::failures::secrets_failure(&held.path, error))?;
            rebuilt
                .extend(healed.iter().map(|path| format!("{path}: written again from its copy")));
        }
        Ok(StoreRepaired {
            id: self.held.facts.store.to_string(),
            rebuilt,
            lost: checked.damage,
            done: !request.dry_run,
        })
    }

    /// Every instant is kept, so only what is beyond its time in the trash can go; its cells stay.
    pub(super) fn store_gc(&self, request: StoreGc) -> Result<StoreCollected, Failure> {
        if !request.dry_run {
            drop(self.planning()?);
        }
        Ok(StoreCollected { freed: 0, files: 0, done: !request.dry_run })
    }
}

struct Check<'a> {
    engine: &'a Engine,
    sample_ppm: u32,
    files: BTreeMap<FileId, Option<Open>>,
    batch: Vec<Entry>,
    checked: StoreChecked,
}

/// A file with cells, and the window that was read last.
struct Open {
    path: String,
    file: File,
    /// A segment's slot is not used again while this is held.
    _held: Option<Arc<CellFile>>,
    window: Vec<u8>,
    from: u64,
}

impl Open {
    /// The cell at an offset; `None` if the file ends before or does not read. What is read goes on
    /// to `reach_bytes`, where the next cells lie.
    fn cell(&mut self, offset_bytes: u64, reach_bytes: u64) -> Option<&[u8]> {
        let end = offset_bytes + CELL as u64;
        if offset_bytes < self.from || end > self.from + self.window.len() as u64 {
            let file_end = self.file.length_bytes().ok()?;
            let length = reach_bytes.min(file_end).saturating_sub(offset_bytes);
            let length = usize::try_from(length).unwrap_or(WINDOW_BYTES).min(WINDOW_BYTES);
            self.window.clear();
            self.window.resize(length, 0);
            self.from = offset_bytes;
            if self.file.read_at(offset_bytes, &mut self.window).is_err() {
                // Something in the window does not read: this cell alone may.
                self.window.truncate(CELL.min(length));
                if self.file.read_at(offset_bytes, &mut self.window).is_err() {
                    self.window.clear();
                    return None;
                }
            }
        }
        let at = usize::try_from(offset_bytes - self.from).ok()?;
        self.window.get(at..at + CELL)
    }
}

impl Check<'_> {
    fn source(&mut self, past: &Past, source: &Source) -> Result<(), Failure> {
        let all = Sequence::ZERO..=past.now.sequence;
        match source {
            Source::Memory(run) => {
                for entry in run.entries_of(None, &all) {
                    self.entry(past, &entry)?;
                }
            }
            Source::File(run) => {
                for entry in run.entries_of(None, &all) {
                    match entry {
                        Ok(entry) => self.entry(past, &entry)?,
                        Err(error) => {
                            let what = index_failure(&error).message;
                            self.damaged(file_damage(run.path(), &what));
                            break;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn entry(&mut self, past: &Past, entry: &Entry) -> Result<(), Failure> {
        if is_sampled(entry, self.sample_ppm) {
            self.batch.push(*entry);
        }
        if self.batch.len() < BATCH_CELLS { Ok(()) } else { self.batch_full(past) }
    }

    /// Reads the cells of the batch.
    fn batch_full(&mut self, past: &Past) -> Result<(), Failure> {
        let mut batch = std::mem::take(&mut self.batch);
        batch.sort_unstable_by_key(|entry| entry.place);
        for (at, entry) in batch.iter().enumerate() {
            self.cell(past, entry, reach_bytes(&batch[at..]))?;
        }
        batch.clear();
        self.batch = batch;
        Ok(())
    }

    fn cell(&mut self, past: &Past, entry: &Entry, reach_bytes: u64) -> Result<(), Failure> {
        self.checked.cells += 1;
        self.checked.bytes += CELL as u64;
        let name = CellName { branch: entry.branch, lba: entry.lba, sequence: entry.sequence };
        if self.is_whole(entry.place, name, reach_bytes)? {
            return Ok(());
        }
        // It may have moved since the check began.
        let now = self.engine.look()?;
        let chain = [Bound { branch: entry.branch, up_to: entry.sequence }];
        let versions = now.snapshot.index.load_leaf(&chain, entry.lba.leaf());
        let moved = versions.ok().and_then(|versions| versions.get(entry.lba));
        let place = moved.and_then(|version| match version.content {
            Content::Place(place) if version.sequence == entry.sequence => Some(place),
            _ => None,
        });
        if let Some(place) = place.filter(|place| *place != entry.place)
            && self.is_whole(place, name, end_bytes(place))?
        {
            return Ok(());
        }
        let volume = past.catalogue().volume_of_cells(entry.branch);
        let Some(volume) = volume else { return Ok(()) }; // nobody can ask for it any more
        let volume = past.catalogue().volume(volume);
        let file = self.files.get(&entry.place.file()).and_then(Option::as_ref);
        let file =
            file.map_or_else(|| format!("file {}", entry.place.file()), |it| it.path.clone());
        self.damaged(Damage {
            volume: volume.map(|volume| api_volume(&volume.name)).transpose()?,
            offset: Some(entry.lba.offset_bytes()),
            length: Some(BLOCK_BYTES),
            seq: Some(entry.sequence.number()),
            what: format!("the cell at byte {} differs from its seal", entry.place.offset_bytes()),
            file,
        });
        Ok(())
    }

    fn is_whole(
        &mut self,
        place: Place,
        name: CellName,
        reach_bytes: u64,
    ) -> Result<bool, Failure> {
        let keyring = self.engine.held.keyring.clone();
        let Some(open) = self.open(place.file())? else { return Ok(false) };
        let Some(cell) = open.cell(place.offset_bytes(), reach_bytes) else { return Ok(false) };
        Ok(CellName::of(cell) == name && keyring.verify(cell))
    }

    fn open(&mut self, id: FileId) -> Result<Option<&mut Open>, Failure> {
        if self.files.len() >= FILES_MAX && !self.files.contains_key(&id) {
            self.files.clear();
        }
        if !self.files.contains_key(&id) {
            let held = self.engine.visit(move |core| core.store.log().cell_file(id))?;
            let opened = held.and_then(|held| {
                let path = held.home.path();
                let file = self.engine.held.disk.open(&path, Access::READ).ok()?;
                Some(Open { path, file, _held: Some(held), window: Vec::new(), from: 0 })
            });
            self.files.insert(id, opened);
        }
        Ok(self.files.get_mut(&id).and_then(Option::as_mut))
    }

    fn damaged(&mut self, damage: Damage) {
        if self.checked.damage.len() < DAMAGE_MAX {
            self.checked.damage.push(damage);
        }
    }
}

fn end_bytes(place: Place) -> u64 {
    place.offset_bytes() + CELL as u64
}

/// How far to read for the first of these cells, which are in the order in which they lie: to the
/// end of the last one before a gap, the window's end or the file's.
fn reach_bytes(cells: &[Entry]) -> u64 {
    let Some(first) = cells.first().map(|entry| entry.place) else { return 0 };
    let window_end = first.offset_bytes() + WINDOW_BYTES as u64;
    let mut reach = end_bytes(first);
    for place in cells.iter().map(|entry| entry.place) {
        let near = place.file() == first.file() && place.offset_bytes() <= reach + GAP_BYTES;
        if !near || end_bytes(place) > window_end {
            break;
        }
        reach = end_bytes(place);
    }
    reach
}

fn file_damage(file: &str, what: &str) -> Damage {
    let (file, what) = (file.to_owned(), what.to_owned());
    Damage { volume: None, offset: None, length: None, seq: None, file, what }
}

/// Whether a cell belongs to a sample: the same ones at every check of that size.
fn is_sampled(entry: &Entry, sample_ppm: u32) -> bool {
    let mixed = (entry.lba.number() ^ entry.sequence.number().rotate_left(32))
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 20) % u64::from(MILLION) < u64::from(sample_ppm)
}

#[cfg(test)]
mod tests {
    use super::*;
    use units::{BranchId, Lba};

    const CELL_BYTES: u64 = CELL as u64;

    fn cells(places: &[(u64, u64)]) -> Vec<Entry> {
        let entry = |&(file, offset_bytes): &(u64, u64)| Entry {
            branch: BranchId(1),
            lba: Lba::new(0).expect("the first"),
            sequence: Sequence::ZERO.next(),
            place: Place::new(FileId::new(file).expect("small"), offset_bytes).expect("aligned"),
        };
        places.iter().map(entry).collect()
    }

    #[test]
    fn cells_far_apart_are_read_alone() {
        let far = CELL_BYTES + (1 << 20);
        assert_eq!(reach_bytes(&cells(&[(1, 0), (1, far), (1, 2 * far)])), CELL_BYTES);
        assert_eq!(reach_bytes(&cells(&[(1, 64)])), 64 + CELL_BYTES);
    }

    #[test]
    fn neighbours_are_read_together_up_to_the_window() {
        let pack: Vec<_> = (0..1000).map(|index| (1, index * CELL_BYTES)).collect();
        let whole = WINDOW_BYTES as u64 / CELL_BYTES * CELL_BYTES;
        assert_eq!(reach_bytes(&cells(&pack)), whole);
        assert_eq!(reach_bytes(&cells(&pack[990..])), 1000 * CELL_BYTES);
        let gap = CELL_BYTES + (16 << 10);
        assert_eq!(reach_bytes(&cells(&[(1, 0), (1, gap)])), gap + CELL_BYTES);
    }

    #[test]
    fn another_file_is_another_read() {
        assert_eq!(reach_bytes(&cells(&[(1, 0), (2, CELL_BYTES)])), CELL_BYTES);
    }
}
