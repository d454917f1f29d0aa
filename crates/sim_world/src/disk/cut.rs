//! Crashes: what is left of a disk when the power goes, or only the process.

use super::{SimDisk, state::State};
use crate::{
    contents::Contents,
    disk::{
        file::{Change, Inode, What, apply_filtered},
        names::keep_without_gaps,
    },
    rng::Rng,
};
use std::sync::Arc;

/// What a power cut leaves of all that was not yet durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutPolicy {
    /// Nothing.
    None,
    /// All of it, with what was in flight.
    All,
    /// All before some moment, nothing after it.
    Prefix,
    /// Any subset of writes, changes of length and name operations, each whole.
    Random,
    /// The same, and writes may be torn: any subset of a write's sectors.
    Torn,
}

impl CutPolicy {
    /// All policies.
    pub const EVERY: [Self; 5] = [Self::None, Self::All, Self::Prefix, Self::Random, Self::Torn];
}

impl SimDisk {
    /// The disk as the next boot finds it. This one stays as it is, so that many cuts can be made
    /// of one crash. Operations count from 0 again; fault rules stay in force, crash points do not.
    #[must_use]
    pub fn power_cut(&self, policy: CutPolicy, rng: &mut Rng) -> Self {
        let mut state = self.lock().copy();
        state.power_cut(policy, rng);
        Self::from_state(state)
    }

    /// The disk as the next process finds it after a kill: what was answered is there, what was in
    /// flight is there in part (by `rng`), and nothing became durable by that.
    #[must_use]
    pub fn kill(&self, rng: &mut Rng) -> Self {
        let mut state = self.lock().copy();
        state.kill(rng);
        Self::from_state(state)
    }
}

/// Decides about one change after the other.
struct Fate {
    policy: CutPolicy,
    /// First change that [`CutPolicy::Prefix`] loses.
    end: u64,
    /// Of a million, by [`CutPolicy::Random`] and [`CutPolicy::Torn`].
    kept_per_million: u32,
}

impl Fate {
    fn draw(policy: CutPolicy, ids: &[u64], rng: &mut Rng) -> Self {
        let kept = rng.index(ids.len() + 1);
        let end = ids.get(kept).copied().unwrap_or(u64::MAX);
        let kept_per_million = *rng.pick(&[100_000, 500_000, 900_000]);
        Self { policy, end, kept_per_million }
    }

    fn keeps(&self, id: u64, rng: &mut Rng) -> bool {
        match self.policy {
            CutPolicy::None => false,
            CutPolicy::All => true,
            CutPolicy::Prefix => id < self.end,
            CutPolicy::Random | CutPolicy::Torn => rng.chance(self.kept_per_million),
        }
    }

    /// Applies what the cut leaves of a change.
    fn apply(&self, contents: &mut Contents, inode: &Inode, change: &Change, rng: &mut Rng) {
        let torn = self.policy == CutPolicy::Torn
            && matches!(change.what, What::Write { .. })
            && rng.coin();
        if torn {
            let mask = Mask::draw(&change.what, rng);
            apply_filtered(contents, change, &inode.floor, |sector| mask.holds(sector));
            if let What::Write { offset, data } = &change.what
                && rng.coin()
            {
                let end = offset + data.len() as u64; // longer, though the bytes are not there
                contents.length_bytes = contents.length_bytes.max(end);
            }
        } else if self.keeps(change.id, rng) {
            apply_filtered(contents, change, &inode.floor, |_| true);
        }
    }
}

/// A subset of a write's sectors: the shapes that parsers get wrong, and plain chance.
pub(crate) enum Mask {
    Range(std::ops::Range<u64>),
    AllBut(u64),
    Salted(u64),
}

impl Mask {
    pub fn draw(what: &What, rng: &mut Rng) -> Self {
        let sectors = what.sectors();
        if sectors.is_empty() {
            return Self::Range(0..0);
        }
        let at = rng.between(sectors.start, sectors.end);
        match rng.below(4) {
            0 => Self::Range(sectors.start..at),
            1 => Self::Range(at..sectors.end),
            2 => Self::AllBut(at),
            _ => Self::Salted(rng.next_u64()),
        }
    }

    pub fn holds(&self, sector: u64) -> bool {
        match self {
            Self::Range(range) => range.contains(&sector),
            Self::AllBut(lost) => sector != *lost,
            Self::Salted(salt) => crate::rng::mix(salt ^ sector) & 1 == 1,
        }
    }
}

impl State {
    fn power_cut(&mut self, policy: CutPolicy, rng: &mut Rng) {
        let mut ids: Vec<u64> = self.name_ops.iter().map(|op| op.id).collect();
        ids.extend(self.inodes.values().flat_map(|inode| inode.pending.iter().map(|c| c.id)));
        ids.sort_unstable();
        ids.extend(self.in_flight.keys().map(|ticket| self.next_change + ticket));
        let fate = Fate::draw(policy, &ids, rng);

        let mut names = (*self.durable).clone();
        for op in keep_without_gaps(&self.name_ops, |op| fate.keeps(op.id, rng)) {
            names.apply(&op.what);
        }
        names.drop_orphans();

        for (id, inode) in &mut self.inodes {
            let in_flight = self.in_flight.iter().filter(|(_, write)| write.inode == *id);
            let mut changes = inode.pending.clone();
            changes.extend(in_flight.map(|(ticket, write)| Change {
                id: self.next_change + ticket,
                answered: None,
                what: write.what.clone(),
            }));
            if changes.is_empty() && !inode.diverged {
                continue;
            }
            let mut contents = inode.durable.clone();
            for change in &changes {
                fate.apply(&mut contents, inode, change, rng);
            }
            let rot = inode.rot.clone();
            let current = contents.clone();
            *inode = Arc::new(Inode { durable: contents, current, rot, ..Inode::default() });
        }
        self.durable = Arc::new(names);
        self.current = self.durable.clone();
        self.name_ops.clear();
        self.begin_anew(rng);
    }

    fn kill(&mut self, rng: &mut Rng) {
        self.answers += 1;
        for write in std::mem::take(&mut self.in_flight).into_values() {
            let mask = match rng.below(3) {
                0 => continue,
                1 => Mask::Range(write.what.sectors()),
                _ => Mask::draw(&write.what, rng),
            };
            self.change_sectors(write.inode, &write.what, &mask);
        }
        for inode in self.inodes.values_mut() {
            if inode.pending.iter().any(|change| change.answered.is_none()) {
                for change in &mut Arc::make_mut(inode).pending {
                    change.answered = change.answered.or(Some(self.answers));
                }
            }
        }
        self.begin_anew(rng);
    }

    fn begin_anew(&mut self, rng: &mut Rng) {
        self.in_flight.clear();
        self.handles.clear();
        self.operations = 0;
        self.crash_point = None;
        self.crashed = false;
        self.rng = rng.split();
        self.faults.rng = rng.split();
        self.collect_all();
    }
}
