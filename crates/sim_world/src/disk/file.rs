//! One file: what is durable, what is only answered, and what readers see.
//!
//! Invariant: `current` is `durable` with all of `pending` applied in order, unless a failed sync
//! dropped changes that stay visible (`diverged`).

use crate::contents::{Contents, SECTOR_BYTES};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// A file without its names.
#[derive(Clone, Default)]
pub(crate) struct Inode {
    pub durable: Contents,
    pub current: Contents,
    pub pending: Vec<Change>,
    /// Sectors made durable by a change that an older, still pending one must not undo.
    pub floor: BTreeMap<u64, u64>,
    /// `current` shows what no crash can bring back.
    pub diverged: bool,
    /// Bits that read wrongly: (byte, bit).
    pub rot: BTreeSet<(u64, u8)>,
}

/// Something done to a file and not yet durable.
#[derive(Clone)]
pub(crate) struct Change {
    /// Its place in the disk's order of changes.
    pub id: u64,
    /// Its place in the order of answers; `None` while nobody was told.
    pub answered: Option<u64>,
    pub what: What,
}

#[derive(Clone)]
pub(crate) enum What {
    Write { offset: u64, data: Arc<[u8]> },
    Length(u64),
    Allocate(u64),
}

impl What {
    pub fn apply(&self, contents: &mut Contents) {
        match self {
            Self::Write { offset, data } => contents.write(*offset, data),
            Self::Length(length_bytes) => contents.set_length(*length_bytes),
            Self::Allocate(length_bytes) => contents.allocate(*length_bytes),
        }
    }

    /// The sectors a write touches, none for other changes.
    pub fn sectors(&self) -> std::ops::Range<u64> {
        match self {
            Self::Write { offset, data } => {
                let end = offset + data.len() as u64;
                offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES)
            }
            _ => 0..0,
        }
    }
}

impl Inode {
    /// Takes a change into the volatile layer.
    pub fn change(&mut self, change: Change) {
        change.what.apply(&mut self.current);
        if !self.rot.is_empty() {
            let sectors = change.what.sectors();
            self.rot.retain(|(byte, _)| !sectors.contains(&(byte / SECTOR_BYTES)));
        }
        self.pending.push(change);
    }

    /// Makes the changes that `which` wants durable. A change of length takes all before it along.
    pub fn make_durable(&mut self, which: impl Fn(&Change) -> bool) {
        if !self.diverged && self.pending.iter().all(&which) {
            self.durable = self.current.clone();
            self.pending.clear();
            self.floor.clear();
            return;
        }
        let barrier = self
            .pending
            .iter()
            .rposition(|change| !matches!(change.what, What::Write { .. }) && which(change));
        let mut passed = false; // whether an older change stays pending
        let mut rest = Vec::new();
        for (index, change) in std::mem::take(&mut self.pending).into_iter().enumerate() {
            if barrier.is_some_and(|barrier| index <= barrier) || which(&change) {
                self.apply_above_floor(&change);
                if passed {
                    self.floor.extend(change.what.sectors().map(|sector| (sector, change.id)));
                }
            } else {
                passed = true;
                rest.push(change);
            }
        }
        self.pending = rest;
        if self.pending.is_empty() {
            self.floor.clear();
        }
    }

    /// Forgets the changes that `which` wants without making them durable.
    pub fn drop_pending(&mut self, which: impl Fn(&Change) -> bool, stay_visible: bool) {
        let before = self.pending.len();
        self.pending.retain(|change| !which(change));
        if self.pending.len() == before {
            return;
        }
        if stay_visible {
            self.diverged = true;
        } else {
            self.current = self.durable.clone();
            self.diverged = false;
            for change in &self.pending {
                let floor = &self.floor;
                apply_filtered(&mut self.current, change, floor, |_| true);
            }
        }
    }

    fn apply_above_floor(&mut self, change: &Change) {
        apply_filtered(&mut self.durable, change, &self.floor, |_| true);
    }
}

/// Applies a change to `contents`, but only those sectors that `keep` wants and that no newer
/// durable change holds. A write of which nothing is kept does not make the file longer.
pub(crate) fn apply_filtered(
    contents: &mut Contents,
    change: &Change,
    floor: &BTreeMap<u64, u64>,
    mut keep: impl FnMut(u64) -> bool,
) {
    let What::Write { offset, data } = &change.what else {
        change.what.apply(contents);
        return;
    };
    contents.write_sectors(*offset, data, |sector| {
        keep(sector) && floor.get(&sector).is_none_or(|id| *id < change.id)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(id: u64, answered: Option<u64>, fill: u8) -> Change {
        Change { id, answered, what: What::Write { offset: 0, data: vec![fill; 1024].into() } }
    }

    fn first_byte(contents: &Contents) -> u8 {
        let mut byte = [0];
        contents.read(0, &mut byte);
        byte[0]
    }

    #[test]
    fn an_older_change_never_undoes_a_durable_one() {
        let mut inode = Inode::default();
        inode.change(write(1, None, 1));
        inode.change(write(2, Some(1), 2));
        inode.make_durable(|change| change.answered.is_some());
        assert_eq!((first_byte(&inode.durable), inode.pending.len()), (2, 1));
        let mut after = inode.durable.clone();
        apply_filtered(&mut after, &inode.pending[0], &inode.floor, |_| true);
        assert_eq!(first_byte(&after), 2);
        inode.make_durable(|_| true);
        assert_eq!((first_byte(&inode.durable), inode.floor.len()), (2, 0));
    }

    #[test]
    fn a_durable_length_takes_what_was_before_it() {
        let mut inode = Inode::default();
        inode.change(write(1, None, 1));
        inode.change(Change { id: 2, answered: Some(1), what: What::Length(100) });
        inode.make_durable(|change| change.answered.is_some());
        assert_eq!((inode.durable.length_bytes, inode.pending.len()), (100, 0));
        assert_eq!(first_byte(&inode.durable), 1);
    }
}
