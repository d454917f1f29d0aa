//! What each block of a view is now: a cell's place, zeros, in the source below, or not known yet.
//!
//! A tree of two levels: 512 blocks a leaf (2 MiB of disk), 512 leaves a branch (1 GiB). What was
//! never touched takes no memory, so opening, cloning and rewinding begin with an empty map whose
//! blocks are unknown and are asked of the index as they are read. A whole-disk trim costs by the
//! branches it covers.

use crate::Rest;
use history_index::{Content, LeafVersions};
use units::{Extent, LEAF_BLOCKS, Lba, Leaf, Place};

/// What a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// Ask the index.
    Unknown,
    /// Reads as zero.
    Zero,
    /// Neither branches nor base know it: it stands in the source.
    Source,
    /// Its cell lies there.
    At(Place),
}

const UNKNOWN: u64 = 0;
const ZERO: u64 = 1;
const SOURCE: u64 = 2;
/// Leaves of a branch.
const FANOUT: usize = 512;
const LEAF: usize = 512;

/// See the module's head.
#[derive(Debug)]
pub struct HeadMap {
    base: Fill,
    nodes: Vec<Node<Branch>>,
    leaves: usize,
}

/// What all blocks of a subtree are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fill {
    Unknown,
    Zero,
    Source,
}

#[derive(Debug)]
enum Node<T> {
    All(Fill),
    Some(Box<T>),
}

#[derive(Debug)]
struct Branch([Node<Entries>; FANOUT]);

/// Bits of a place (file ids begin at 1, so they are never as small as these), or [`UNKNOWN`],
/// [`ZERO`], [`SOURCE`].
#[derive(Debug)]
struct Entries([u64; LEAF]);

impl Fill {
    fn bits(self) -> u64 {
        match self {
            Self::Unknown => UNKNOWN,
            Self::Zero => ZERO,
            Self::Source => SOURCE,
        }
    }

    fn block(self) -> Block {
        match self {
            Self::Unknown => Block::Unknown,
            Self::Zero => Block::Zero,
            Self::Source => Block::Source,
        }
    }
}

impl HeadMap {
    /// Of a fresh volume: all zero.
    pub fn zero() -> Self {
        Self { base: Fill::Zero, nodes: Vec::new(), leaves: 0 }
    }

    /// Of a view whose blocks the index knows.
    pub fn unknown() -> Self {
        Self { base: Fill::Unknown, nodes: Vec::new(), leaves: 0 }
    }

    /// Bytes it takes.
    pub fn memory_bytes(&self) -> usize {
        let branches = self.nodes.iter().filter(|node| matches!(node, Node::Some(_))).count();
        self.leaves * size_of::<Entries>()
            + branches * size_of::<Branch>()
            + self.nodes.len() * size_of::<Node<Branch>>()
    }

    /// What a block is.
    pub fn get(&self, lba: Lba) -> Block {
        self.leaf(lba.leaf()).get(lba.index_in_leaf())
    }

    /// The part of the map that knows a leaf, to ask for many blocks.
    pub fn leaf(&self, leaf: Leaf) -> LeafView<'_> {
        let (branch, index) = split(leaf);
        match self.nodes.get(branch) {
            None => LeafView(Seen::All(self.base)),
            Some(Node::All(fill)) => LeafView(Seen::All(*fill)),
            Some(Node::Some(branch)) => match &branch.0[index] {
                Node::All(fill) => LeafView(Seen::All(*fill)),
                Node::Some(entries) => LeafView(Seen::Each(&entries.0)),
            },
        }
    }

    /// Sets a block's place.
    pub fn set(&mut self, lba: Lba, place: Place) {
        self.entries(lba.leaf())[lba.index_in_leaf()] = place.bits();
    }

    /// Sets blocks that lie one behind the other from a place on.
    pub fn set_row(&mut self, extent: Extent, first: Place) {
        let mut cells = 0;
        for (leaf, part) in extent.leaves() {
            let entries = self.entries(leaf);
            for lba in part.lbas() {
                entries[lba.index_in_leaf()] = first.plus_cells(cells).bits();
                cells += 1;
            }
        }
    }

    /// Makes blocks zero.
    pub fn set_zero(&mut self, extent: Extent) {
        let (first, last) = (extent.start().number(), extent.end());
        let branch_blocks = LEAF_BLOCKS * FANOUT as u64;
        let mut at = first;
        while at < last {
            let leaf = Lba::new(at).expect("inside the extent").leaf();
            let (branch, index) = split(leaf);
            if at.is_multiple_of(branch_blocks) && last - at >= branch_blocks {
                self.grow(branch);
                self.leaves -= leaves_of(&self.nodes[branch]);
                self.nodes[branch] = Node::All(Fill::Zero);
                at += branch_blocks;
            } else if at.is_multiple_of(LEAF_BLOCKS) && last - at >= LEAF_BLOCKS {
                let node = &mut self.branch(branch).0[index];
                let had = matches!(node, Node::Some(_));
                *node = Node::All(Fill::Zero);
                self.leaves -= usize::from(had);
                at += LEAF_BLOCKS;
            } else {
                let end = last.min((at / LEAF_BLOCKS + 1) * LEAF_BLOCKS);
                let from = usize::try_from(at % LEAF_BLOCKS).expect("below 512");
                let count = usize::try_from(end - at).expect("below 512");
                self.entries(leaf)[from..from + count].fill(ZERO);
                at = end;
            }
        }
    }

    /// Takes what the index says of a leaf; what is known already is newer and stays.
    pub fn fill(&mut self, versions: &LeafVersions) {
        self.fill_over(versions, &Rest::Zero);
    }

    /// The same of a leaf that lies over something: `rest` says what blocks without a version are.
    pub fn fill_over(&mut self, versions: &LeafVersions, rest: &Rest) {
        self.fill_known(versions);
        let entries = self.entries(versions.leaf());
        for (index, entry) in entries.iter_mut().enumerate().filter(|(_, it)| **it == UNKNOWN) {
            *entry = match rest {
                Rest::Source(stands) if stands[index] => SOURCE,
                Rest::Source(_) | Rest::Zero => ZERO,
            };
        }
        for (bits, fill) in [(ZERO, Fill::Zero), (SOURCE, Fill::Source)] {
            if self.entries(versions.leaf()).iter().all(|entry| *entry == bits) {
                let (branch, index) = split(versions.leaf());
                self.branch(branch).0[index] = Node::All(fill);
                self.leaves -= 1;
                return;
            }
        }
    }

    /// Makes unknown what was said to stand in the source.
    pub fn forget_sources(&mut self) {
        let branches = self.nodes.iter_mut().filter_map(|node| match node {
            Node::Some(branch) => Some(branch),
            Node::All(_) => None,
        });
        for leaf in branches.flat_map(|branch| &mut branch.0) {
            match leaf {
                Node::All(fill) if *fill == Fill::Source => *fill = Fill::Unknown,
                Node::All(_) => {}
                Node::Some(entries) => {
                    for entry in entries.0.iter_mut().filter(|entry| **entry == SOURCE) {
                        *entry = UNKNOWN;
                    }
                }
            }
        }
    }

    /// The same of a leaf of which the index could not tell all: blocks without a version stay unknown.
    pub fn fill_known(&mut self, versions: &LeafVersions) {
        let entries = self.entries(versions.leaf());
        for (entry, version) in entries.iter_mut().zip(versions.versions()) {
            if let Some(version) = version
                && *entry == UNKNOWN
            {
                *entry = match version.content {
                    Content::Place(place) => place.bits(),
                    Content::Zero => ZERO,
                };
            }
        }
    }

    /// Forgets a block whose place turned out to be old, unless it was set anew.
    pub fn forget(&mut self, lba: Lba, place: Place) {
        self.exchange(lba, place.bits(), UNKNOWN);
    }

    /// Follows a cell that was moved, unless the block was overwritten meanwhile.
    pub fn moved(&mut self, lba: Lba, from: Place, to: Place) {
        self.exchange(lba, from.bits(), to.bits());
    }

    fn exchange(&mut self, lba: Lba, from: u64, to: u64) {
        let (branch, index) = split(lba.leaf());
        if let Some(Node::Some(branch)) = self.nodes.get_mut(branch)
            && let Node::Some(entries) = &mut branch.0[index]
        {
            let entry = &mut entries.0[lba.index_in_leaf()];
            if *entry == from {
                *entry = to;
            }
        }
    }

    fn grow(&mut self, branch: usize) {
        let base = self.base;
        if self.nodes.len() <= branch {
            self.nodes.resize_with(branch + 1, || Node::All(base));
        }
    }

    fn branch(&mut self, branch: usize) -> &mut Branch {
        self.grow(branch);
        let node = &mut self.nodes[branch];
        if let Node::All(fill) = *node {
            *node = Node::Some(Box::new(Branch(std::array::from_fn(|_| Node::All(fill)))));
        }
        match node {
            Node::Some(branch) => branch,
            Node::All(_) => unreachable!("just made"),
        }
    }

    fn entries(&mut self, leaf: Leaf) -> &mut [u64; LEAF] {
        let (branch, index) = split(leaf);
        if let Node::All(_) = self.branch(branch).0[index] {
            self.leaves += 1;
        }
        let node = &mut self.branch(branch).0[index];
        if let Node::All(fill) = *node {
            *node = Node::Some(Box::new(Entries([fill.bits(); LEAF])));
        }
        match node {
            Node::Some(entries) => &mut entries.0,
            Node::All(_) => unreachable!("just made"),
        }
    }
}

/// What a map says of one leaf.
#[derive(Clone, Copy, Debug)]
pub struct LeafView<'a>(Seen<'a>);

#[derive(Clone, Copy, Debug)]
enum Seen<'a> {
    All(Fill),
    Each(&'a [u64; LEAF]),
}

impl LeafView<'_> {
    /// What the block of that index is.
    pub fn get(self, index: usize) -> Block {
        match self.0 {
            Seen::All(fill) => fill.block(),
            Seen::Each(entries) => match entries[index] {
                UNKNOWN => Block::Unknown,
                ZERO => Block::Zero,
                SOURCE => Block::Source,
                bits => Block::At(Place::from_bits(bits)),
            },
        }
    }

    /// Whether it is known at once that all its blocks are zero.
    pub fn all_zero(self) -> bool {
        matches!(self.0, Seen::All(Fill::Zero))
    }
}

fn split(leaf: Leaf) -> (usize, usize) {
    let number = usize::try_from(leaf.number()).expect("a 64-bit machine");
    (number / FANOUT, number % FANOUT)
}

fn leaves_of(node: &Node<Branch>) -> usize {
    match node {
        Node::All(_) => 0,
        Node::Some(branch) => branch.0.iter().filter(|leaf| matches!(leaf, Node::Some(_))).count(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};
    use std::collections::BTreeMap;
    use units::FileId;

    const BLOCKS: u64 = 3 * 512 * 512;

    fn place(number: u64) -> Place {
        Place::new(FileId::new(7).expect("small"), number * 32).expect("small")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_map_is_what_was_set_last(
            steps in vec((0..BLOCKS, 1..BLOCKS, 0..1_000_u64, any::<bool>()), 1..40)
        ) {
            let mut map = HeadMap::unknown();
            let mut model: BTreeMap<u64, Block> = BTreeMap::new();
            for (start, blocks, number, zero) in steps {
                let lba = Lba::new(start).expect("small");
                if zero {
                    let blocks = blocks.min(BLOCKS - start);
                    map.set_zero(Extent::new(lba, blocks).expect("not empty"));
                    let inside: Vec<u64> =
                        model.range(start..start + blocks).map(|(lba, _)| *lba).collect();
                    for lba in inside {
                        model.insert(lba, Block::Zero);
                    }
                    for edge in [start, start + blocks / 2, start + blocks - 1] {
                        model.insert(edge, Block::Zero);
                    }
                } else {
                    map.set(lba, place(number));
                    model.insert(start, Block::At(place(number)));
                }
            }
            for (lba, block) in model {
                prop_assert_eq!(map.get(Lba::new(lba).expect("small")), block);
            }
        }
    }

    #[test]
    fn a_whole_disk_of_zeros_takes_little_memory() {
        let mut map = HeadMap::unknown();
        for gib in 0..1024 {
            map.set(Lba::new(gib * 262_144 + 5).expect("small"), place(1));
        }
        let tebibyte = Extent::new(Lba::default(), 1 << 28).expect("not empty");
        map.set_zero(tebibyte);
        assert!(map.memory_bytes() < 1 << 16, "{}", map.memory_bytes());
        assert_eq!(map.get(Lba::new(5).expect("small")), Block::Zero);
        assert_eq!(map.get(Lba::new(1 << 28).expect("small")), Block::Unknown);
    }

    #[test]
    fn what_the_index_could_not_tell_stays_unknown() {
        let lba = |number: u64| Lba::new(512 + number).expect("small");
        let version = |sequence, content| {
            let sequence = units::Sequence::new(sequence).expect("small");
            history_index::Version { branch: units::BranchId(1), sequence, content }
        };
        let mut versions = LeafVersions::new(lba(0).leaf());
        versions.offer(lba(1), version(5, Content::Place(place(5))));
        versions.offer(lba(2), version(6, Content::Zero));
        versions.offer(lba(3), version(7, Content::Place(place(7))));
        let mut map = HeadMap::unknown();
        map.set(lba(3), place(9));
        map.fill_known(&versions);
        let blocks = |map: &HeadMap| [0, 1, 2, 3].map(|number| map.get(lba(number)));
        let known = [Block::At(place(5)), Block::Zero, Block::At(place(9))];
        assert_eq!(blocks(&map), [Block::Unknown, known[0], known[1], known[2]]);
        map.fill(&versions);
        assert_eq!(blocks(&map), [Block::Zero, known[0], known[1], known[2]]);
    }

    #[test]
    fn a_moved_cell_does_not_come_back_over_a_newer_one() {
        let mut map = HeadMap::zero();
        let lba = Lba::new(9).expect("small");
        map.set(lba, place(1));
        map.set(lba, place(2));
        map.moved(lba, place(1), place(3));
        assert_eq!(map.get(lba), Block::At(place(2)));
        map.moved(lba, place(2), place(4));
        assert_eq!(map.get(lba), Block::At(place(4)));
        map.forget(lba, place(4));
        assert_eq!(map.get(lba), Block::Unknown);
    }
}
