//! Numbers of entries, for as long as the kernel knows them.
//!
//! A number follows from an entry's key, so it is the same in lists, in look-ups and at the next
//! mount. The kernel counts its look-ups and gives them back; an entry without any is dropped, so
//! memory is bounded by what the kernel itself holds.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use crate::Entry;

/// The number of the folder that is mounted.
pub(crate) const ROOT: u64 = 1;

/// See the module's head.
pub(crate) struct Inodes {
    slots: HashMap<u64, Slot>,
}

struct Slot {
    entry: Arc<Entry>,
    /// Look-ups that the kernel has not given back.
    lookups: u64,
}

impl Inodes {
    /// Only the root is known, and stays.
    pub(crate) fn new(root: Entry) -> Self {
        let root = Slot { entry: Arc::new(root), lookups: 1 };
        Self { slots: HashMap::from([(ROOT, root)]) }
    }

    /// Counts a look-up of an entry. The one that is known under its key is kept: it is the same
    /// thing, and what it has learned stays.
    pub(crate) fn enter(&mut self, entry: Entry) -> (u64, Arc<Entry>) {
        let mut number = number_of(&entry.key);
        // Two keys of one number are unlikely, not impossible.
        while self.slots.get(&number).is_some_and(|slot| slot.entry.key != entry.key) {
            number = number.wrapping_add(1).max(ROOT + 1);
        }
        let slot =
            self.slots.entry(number).or_insert_with(|| Slot { entry: Arc::new(entry), lookups: 0 });
        slot.lookups += 1;
        (number, Arc::clone(&slot.entry))
    }

    /// The entry of a number that the kernel knows.
    pub(crate) fn get(&self, number: u64) -> Option<Arc<Entry>> {
        self.slots.get(&number).map(|slot| Arc::clone(&slot.entry))
    }

    /// Takes look-ups back.
    pub(crate) fn forget(&mut self, number: u64, lookups: u64) {
        let Some(slot) = self.slots.get_mut(&number) else { return };
        slot.lookups = slot.lookups.saturating_sub(lookups);
        if slot.lookups == 0 && number != ROOT {
            self.slots.remove(&number);
        }
    }
}

/// The number that a key gets, unless another key has it.
pub(crate) fn number_of(key: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    // 63 bits: some programs take a number for signed.
    (hasher.finish() >> 1).max(ROOT + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Node;
    use units::Timestamp;

    fn link(key: &str, to: &str) -> Entry {
        let (key, node) = (key.to_owned(), Node::Link(to.to_owned()));
        Entry { key, node, modified: Timestamp(0), fixed: true }
    }

    #[test]
    fn an_entry_lives_for_as_long_as_the_kernel_knows_it() {
        let mut inodes = Inodes::new(link("", "/"));
        let (first, _) = inodes.enter(link("a", "1"));
        let (again, known) = inodes.enter(link("a", "2"));
        assert_eq!(first, again);
        assert!(matches!(&known.node, Node::Link(to) if to == "1"), "the known one is kept");
        let (other, _) = inodes.enter(link("b", "3"));
        assert_ne!(other, first);
        inodes.forget(first, 1);
        assert!(inodes.get(first).is_some());
        inodes.forget(first, 1);
        assert!(inodes.get(first).is_none());
        inodes.forget(ROOT, u64::MAX);
        assert!(inodes.get(ROOT).is_some() && inodes.get(other).is_some());
    }

    #[test]
    fn keys_of_one_number_do_not_meet() {
        let mut inodes = Inodes::new(link("", "/"));
        let (taken, _) = inodes.enter(link("a", "1"));
        let slot = inodes.slots.remove(&taken).expect("known");
        let wanted = number_of("b");
        inodes.slots.insert(wanted, slot);
        let (number, entry) = inodes.enter(link("b", "2"));
        assert_eq!((number, entry.key.as_str()), (wanted + 1, "b"));
        assert_eq!(inodes.enter(link("b", "2")).0, number);
    }
}
