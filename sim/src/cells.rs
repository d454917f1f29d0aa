//! K1: no (key, nonce) seals two texts. Every cell that lies in a segment is remembered by epoch and
//! name; seen again under the same ones it must be the same cell, byte for byte.
//!
//! Reads segments by a few facts of `docs/format.md` 6, with no code of the log.

use sim_world::SimDisk;
use std::collections::{BTreeMap, hash_map::DefaultHasher};
use std::hash::{Hash as _, Hasher as _};

const HEADER: usize = 4096;
const BATCH_HEADER: usize = 96;
const CELL: usize = 4128;

/// What was sealed so far.
#[derive(Debug, Default)]
pub struct SealedCells {
    by_name: BTreeMap<(u32, [u8; 16]), u64>,
}

impl SealedCells {
    /// Looks through all segments of a disk.
    pub fn look(&mut self, disk: &SimDisk) {
        for path in disk.files().iter().filter(|path| path.starts_with("log/")) {
            let bytes = disk.bytes(path).expect("listed");
            if bytes.starts_with(b"SLSEGMT1") {
                self.look_into(path, &bytes);
            }
        }
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.by_name.len() as u64
    }

    fn look_into(&mut self, path: &str, bytes: &[u8]) {
        let epoch = number(bytes, 12);
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
                // A torn cell shows an old tag or none; only whole ones were surely sealed.
                if tag == [0; 16] || name[10..] == [0; 6] {
                    continue;
                }
                let mut hasher = DefaultHasher::new();
                tag.hash(&mut hasher);
                let sealed = hasher.finish();
                let before = *self.by_name.entry((epoch, name)).or_insert(sealed);
                assert_eq!(
                    before, sealed,
                    "K1: epoch {epoch} sealed two texts under {name:02x?}, the second in {path}"
                );
            }
            at += length.max(512);
        }
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}
