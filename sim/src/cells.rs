//! K1: no (key, nonce) seals two texts. Every cell that lies in a segment is remembered by epoch and
//! name; seen again under the same ones it must be the same cell, byte for byte.
//!
//! Reads segments by a few facts of `docs/format.md` 6. Only cells that open count: what a power cut
//! tore was never sealed so.

use crate::place::{Place, STORE, master};
use manifest::{Manifest, Mode};
use seal::{CellKey, CellName, Key};
use segment_log::state::Fact;
use sim_world::SimDisk;
use std::collections::BTreeMap;
use units::BranchId;

const HEADER: usize = 4096;
const BATCH_HEADER: usize = 96;
const CELL: usize = 4128;

/// What was sealed so far.
#[derive(Debug, Default)]
pub struct SealedCells {
    tags: BTreeMap<([u8; 32], [u8; 16]), [u8; 16]>,
}

impl SealedCells {
    /// Looks through all segments of a disk.
    pub fn look(&mut self, disk: &SimDisk) {
        let Ok((_, records)) = Manifest::open(disk, &master(), STORE, Mode::Read) else { return };
        let Ok(catalogue) = Place::catalogue(&records) else { return };
        let epochs = records.iter().filter_map(|record| match Fact::decode(record) {
            Ok(Fact::Epoch(epoch)) => Some((epoch.epoch.0, epoch.random)),
            _ => None,
        });
        let epochs: BTreeMap<u32, [u8; 32]> = epochs.collect();
        for path in disk.files().iter().filter(|path| path.starts_with("log/")) {
            let bytes = disk.bytes(path).expect("listed");
            if bytes.starts_with(b"SLSEGMT1")
                && let Some(random) = epochs.get(&number(&bytes, 12))
            {
                let mut keys = BTreeMap::new();
                self.look_into(path, &bytes, *random, |branch, cell| {
                    let key = keys.entry(branch).or_insert_with(|| {
                        let volume = catalogue.key_of(branch)?;
                        Some(CellKey::new(&Key::from_bytes(volume.0), random))
                    });
                    key.as_ref().is_some_and(|key| key.verify(cell).is_ok())
                });
            }
        }
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.tags.len() as u64
    }

    fn look_into(
        &mut self,
        path: &str,
        bytes: &[u8],
        random: [u8; 32],
        mut opens: impl FnMut(BranchId, &[u8]) -> bool,
    ) {
        let mut at = HEADER;
        while let Some(batch) = bytes.get(at..at + BATCH_HEADER)
            && batch.starts_with(b"SLB1")
        {
            let (length, cells) = (number(batch, 4) as usize, number(batch, 36) as usize);
            for index in 0..cells {
                let start = at + BATCH_HEADER + index * CELL;
                let Some(cell) = bytes.get(start..start + CELL) else { return };
                let name: [u8; 16] = cell[4096..4112].try_into().expect("16 bytes");
                let tag: [u8; 16] = cell[4112..].try_into().expect("16 bytes");
                let known = self.tags.get(&(random, name));
                if known == Some(&tag) || !opens(CellName::of(cell).branch, cell) {
                    continue;
                }
                let CellName { branch, lba, sequence } = CellName::of(cell);
                assert!(
                    known.is_none(),
                    "K1: two texts sealed as {branch:?} {lba:?} {sequence:?}, the second in {path}"
                );
                self.tags.insert((random, name), tag);
            }
            at += length.max(512);
        }
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}
