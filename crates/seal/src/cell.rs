//! Cells: blocks of 4 KiB, sealed so that they can be moved byte for byte.
//!
//! ```text
//! cell = ciphertext 4096 ‖ LBA 6 ‖ branch 4 ‖ sequence 6 ‖ tag 16
//! ```
//!
//! Nonce = LBA ‖ sequence; the name (first 16 bytes of the trailer) is associated data. Two things
//! keep nonces apart: a sequence is given once in an epoch and each of its cells has another LBA;
//! and each epoch has a key of its own, made of random bytes that were durable before its first
//! cell. Nothing depends on the place, so whoever opens a cell must judge its name.

use units::{BLOCK, BranchId, CELL, Lba, Sequence};

use crate::{Damaged, Key, Nonce, TAG, TRAILER, gcm::Gcm};

/// What a cell says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CellName {
    /// The line of history it belongs to.
    pub branch: BranchId,
    /// The block it is a version of.
    pub lba: Lba,
    /// The write that made it.
    pub sequence: Sequence,
}

/// Bytes of a name in a trailer.
const NAME: usize = 16;

impl CellName {
    /// The name in the cell's trailer, worth nothing before the cell is opened or its trailer is
    /// known to be as it was written. `cell` is a whole cell, or just its 32-byte trailer.
    pub fn of(cell: &[u8]) -> Self {
        let trailer = cell.last_chunk::<TRAILER>().expect("a cell has a trailer");
        Self {
            branch: BranchId(u32::from_le_bytes(part(trailer, 6))),
            lba: Lba::new(u48(part(trailer, 0))).expect("48 bits are in range"),
            sequence: Sequence::new(u48(part(trailer, 10))).expect("48 bits are in range"),
        }
    }

    /// The first 16 bytes of a trailer.
    pub fn to_trailer(self) -> [u8; NAME] {
        let mut name = [0; NAME];
        name[..6].copy_from_slice(&self.lba.number().to_le_bytes()[..6]);
        name[6..10].copy_from_slice(&self.branch.0.to_le_bytes());
        name[10..].copy_from_slice(&self.sequence.number().to_le_bytes()[..6]);
        name
    }
}

/// `N` bytes of a trailer, from the one numbered `start`.
fn part<const N: usize>(trailer: &[u8; TRAILER], start: usize) -> [u8; N] {
    std::array::from_fn(|index| trailer[start + index])
}

fn u48(bytes: [u8; 6]) -> u64 {
    bytes.iter().rev().fold(0, |number, &byte| (number << 8) | u64::from(byte))
}

/// LBA ‖ sequence, as both stand in the trailer.
fn nonce_of(name: &[u8; NAME]) -> Nonce {
    let mut nonce = [0; 12];
    nonce[..6].copy_from_slice(&name[..6]);
    nonce[6..].copy_from_slice(&name[10..]);
    nonce
}

/// Seals and opens the cells of one volume and one epoch.
#[derive(Debug)]
pub struct CellKey(Gcm);

impl CellKey {
    /// Of the volume's own key and the random bytes of the epoch's record.
    pub fn new(volume: &Key, epoch_random: &[u8; 32]) -> Self {
        Self(Gcm::new(&volume.derive("cells", epoch_random)))
    }

    /// Seals a block (4096 bytes) into a cell (4128 bytes). Nobody seals that name with this key
    /// again.
    pub fn seal(&self, name: CellName, plain: &[u8], cell: &mut [u8]) {
        assert!(plain.len() == BLOCK && cell.len() == CELL, "a block goes into a cell");
        let (sealed, trailer) = cell.split_at_mut(BLOCK);
        let (in_trailer, tag) = trailer.split_at_mut(NAME);
        let name = name.to_trailer();
        in_trailer.copy_from_slice(&name);
        let tag = tag.first_chunk_mut::<TAG>().expect("the rest of a trailer");
        self.0.seal(nonce_of(&name), &name, plain, sealed, tag);
    }

    /// Opens a cell (4128 bytes) into 4096 bytes, as what its trailer says it is; whether it is the
    /// one that was looked for, the caller judges ([`CellName::of`]). Zeros are left if it fails.
    pub fn open(&self, cell: &[u8], into: &mut [u8]) -> Result<(), Damaged> {
        assert!(cell.len() == CELL && into.len() == BLOCK, "a cell opens into a block");
        let (sealed, trailer) = cell.split_at(BLOCK);
        let (name, tag) = trailer.split_first_chunk::<NAME>().expect("a trailer has a name");
        self.0.open(nonce_of(name), name, sealed, tag, into)
    }

    /// Whether a cell would open. Costs as much.
    pub fn verify(&self, cell: &[u8]) -> Result<(), Damaged> {
        self.open(cell, &mut [0; BLOCK])
    }
}
