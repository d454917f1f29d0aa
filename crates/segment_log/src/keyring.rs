//! Which key opens a cell: the volume's of its branch, in the epoch of its sequence.
//!
//! Shared by the log thread and the jobs; keys are derived once and kept.

use crate::state::EpochRecord;
use seal::{CellKey, CellName, Key};
use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};
use units::{BranchId, Sequence};

/// All keys of the store that are known, see the module's head.
#[derive(Default)]
pub struct Keyring(RwLock<Keys>);

#[derive(Default)]
struct Keys {
    volumes: HashMap<BranchId, Key>,
    epochs: Vec<(Sequence, [u8; 32])>,
    cells: HashMap<(BranchId, usize), Arc<CellKey>>,
}

impl Keyring {
    /// Cells of this branch are sealed with this volume's key.
    pub fn learn_branch(&self, branch: BranchId, volume: Key) {
        let mut keys = self.0.write().unwrap_or_else(PoisonError::into_inner);
        keys.volumes.insert(branch, volume);
    }

    /// The branch is gone: its cells can be opened no more.
    pub fn forget_branch(&self, branch: BranchId) {
        let mut keys = self.0.write().unwrap_or_else(PoisonError::into_inner);
        keys.volumes.remove(&branch);
        keys.cells.retain(|(of, _), _| *of != branch);
    }

    /// Sequences from the epoch's first on use its random bytes.
    pub fn learn_epoch(&self, epoch: &EpochRecord) {
        let mut keys = self.0.write().unwrap_or_else(PoisonError::into_inner);
        keys.epochs.push((epoch.first, epoch.random));
    }

    /// The key of a cell; `None` if its branch or epoch is unknown.
    pub fn cell_key(&self, branch: BranchId, sequence: Sequence) -> Option<Arc<CellKey>> {
        let keys = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let epoch = keys.epochs.partition_point(|(first, _)| *first <= sequence).checked_sub(1)?;
        if let Some(key) = keys.cells.get(&(branch, epoch)) {
            return Some(key.clone());
        }
        let key = CellKey::new(keys.volumes.get(&branch)?, &keys.epochs[epoch].1);
        drop(keys);
        let key = Arc::new(key);
        let mut keys = self.0.write().unwrap_or_else(PoisonError::into_inner);
        keys.cells.insert((branch, epoch), key.clone());
        Some(key)
    }

    /// Whether the cell is whole and ours.
    pub fn verify(&self, cell: &[u8]) -> bool {
        let name = CellName::of(cell);
        self.cell_key(name.branch, name.sequence).is_some_and(|key| key.verify(cell).is_ok())
    }
}
