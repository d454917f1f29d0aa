//! What is read of a chain: what children hold, and trees of hashes over what parents show.
//!
//! A whole tree of one image is made from that of the image below it where that is known: only what
//! the image holds itself is read, so a chain is read once however many links it has.

use std::{collections::BTreeMap, ops::Range};

use image_files::{Disk, Scanned, Watch};
use images::Extent;
use lineage::{Child, Digest, Print, Ranges, Tree, digest::NODE_BYTES, link::PRINT_BYTES};

use crate::{Error, View};

/// Reads a chain as it is asked to, and keeps what was made of it.
pub(crate) struct Reading {
    pub(crate) view: View,
    children: BTreeMap<usize, Child>,
    /// Of what each image shows: a tree of all.
    whole: BTreeMap<usize, Tree>,
    /// What could not be read of each image.
    damage: BTreeMap<usize, Vec<(Range<u64>, image_files::Error)>>,
    /// Files were written while they were read.
    unsteady: bool,
}

impl Reading {
    pub(crate) fn new(view: View) -> Self {
        let (children, whole) = (BTreeMap::new(), BTreeMap::new());
        Self { view, children, whole, damage: BTreeMap::new(), unsteady: false }
    }

    /// Whether something was written while it was read.
    pub(crate) fn is_unsteady(&self) -> bool {
        self.unsteady
    }

    /// Bytes of the disk that an image shows.
    pub(crate) fn size(&self, layer: usize) -> u64 {
        self.view.layers()[layer].facts.virtual_size
    }

    /// What an image itself holds.
    pub(crate) fn child(&mut self, layer: usize) -> Result<Child, Error> {
        if !self.children.contains_key(&layer) {
            let mut disk = self.view.disk(layer)?;
            let (size, mut place, mut held) = (disk.virtual_size(), 0, Ranges::new());
            while place < size {
                let part = disk.layer_map(0, place..size)?;
                place = part.last().map_or(size, Extent::end);
                // Damage falls through: whether the child holds it nobody knows.
                held.extend(Child::of_map(size, &part).held().iter());
            }
            self.children.insert(layer, Child::new(size, &held));
        }
        Ok(self.children[&layer].clone())
    }

    /// By what an image is known again where its file is another one. What it holds and cannot be
    /// read counts as nothing.
    pub(crate) fn print(&mut self, layer: usize) -> Result<Print, Error> {
        let child = self.child(layer)?;
        let mut disk = self.view.disk(layer)?;
        let (mut left, mut bytes) = (PRINT_BYTES, Vec::new());
        for run in child.held().iter() {
            let end = run.end.min(run.start.saturating_add(left));
            let mut piece = vec![0; narrow(end - run.start)];
            match disk.read(run.start, &mut piece) {
                Ok(()) => bytes.extend_from_slice(&piece),
                Err(image_files::Error::Fault { .. }) => break,
                Err(error) => return Err(error.into()),
            }
            left -= end - run.start;
            if left == 0 {
                break;
            }
        }
        let format = self.view.layers()[layer].facts.format;
        Ok(Print::new(format, child.size(), child.held(), &bytes))
    }

    /// A tree over all that an image shows.
    pub(crate) fn whole(&mut self, layer: usize, watch: &mut Watch<'_>) -> Result<Tree, Error> {
        if !self.whole.contains_key(&layer) {
            let mut tree = Tree::new(self.size(layer));
            if self.whole.contains_key(&(layer + 1)) && !self.damage.contains_key(&(layer + 1)) {
                let held = self.child(layer)?.held().clone();
                take_over(&mut tree, &self.whole[&(layer + 1)], &held);
            }
            let wanted = nodes_to_bytes(&tree, &unknown(&tree));
            self.fill(layer, &mut tree, &wanted, watch)?;
            self.whole.insert(layer, tree);
        }
        Ok(self.whole[&layer].clone())
    }

    /// Fills what a tree does not know yet.
    pub(crate) fn masked(
        &mut self,
        layer: usize,
        mut tree: Tree,
        watch: &mut Watch<'_>,
    ) -> Result<Tree, Error> {
        let wanted = nodes_to_bytes(&tree, &unknown(&tree));
        self.fill(layer, &mut tree, &wanted, watch)?;
        Ok(tree)
    }

    /// Fills these nodes of a tree, of those that it does not know yet.
    pub(crate) fn some(
        &mut self,
        layer: usize,
        mut tree: Tree,
        nodes: &Ranges,
        watch: &mut Watch<'_>,
    ) -> Result<Tree, Error> {
        let wanted = nodes_to_bytes(&tree, &nodes.both(&unknown(&tree)));
        self.fill(layer, &mut tree, &wanted, watch)?;
        Ok(tree)
    }

    /// The first damage of an image that meets one of these ranges.
    pub(crate) fn damage_in(
        &mut self,
        layer: usize,
        ranges: &Ranges,
    ) -> Option<image_files::Error> {
        let known = self.damage.get_mut(&layer)?;
        let place = known.iter().position(|(range, _)| ranges.meets(range.clone()))?;
        Some(known.swap_remove(place).1)
    }

    /// Any damage of an image that was met.
    pub(crate) fn any_damage(&mut self, layer: usize) -> Option<image_files::Error> {
        self.damage.get_mut(&layer).and_then(Vec::pop).map(|(_, error)| error)
    }

    fn fill(
        &mut self,
        layer: usize,
        tree: &mut Tree,
        wanted: &[Range<u64>],
        watch: &mut Watch<'_>,
    ) -> Result<(), Error> {
        if wanted.is_empty() {
            return Ok(());
        }
        let mut disk: Disk = self.view.disk(layer)?;
        let blank = tree.again(tree.size());
        let hash = |at: u64, bytes: &[u8]| -> Digest { blank.digest_of(at / NODE_BYTES, bytes) };
        let mut damage = Vec::new();
        let mut take = |found: Scanned<Digest>| match found {
            Scanned::Unit(at, digest) => tree.put_digest(at / NODE_BYTES, digest),
            Scanned::Zeroes(range) => {
                tree.put_zero(range.start / NODE_BYTES..range.end.div_ceil(NODE_BYTES));
            }
            Scanned::Damaged(range, error) => damage.push((range, error)),
        };
        disk.scan(wanted, NODE_BYTES, &hash, &mut take, watch)?;
        if !damage.is_empty() {
            self.damage.entry(layer).or_default().extend(damage);
        }
        self.unsteady |= !self.view.is_still(layer, &disk)?;
        Ok(())
    }
}

/// Nodes that a tree does not know.
fn unknown(tree: &Tree) -> Ranges {
    tree.known().gaps(0..tree.nodes()).collect()
}

fn nodes_to_bytes(tree: &Tree, nodes: &Ranges) -> Vec<Range<u64>> {
    let bytes = |run: Range<u64>| run.start * NODE_BYTES..tree.size().min(run.end * NODE_BYTES);
    nodes.iter().map(bytes).collect()
}

/// Takes from the tree of the image below what the image above does not hold.
fn take_over(tree: &mut Tree, below: &Tree, held: &Ranges) {
    // A node in which one of the disks ends shows more of one than of the other.
    let both = tree.size().min(below.size()) / NODE_BYTES;
    let all = if tree.size() == below.size() { tree.nodes() } else { both };
    let own: Ranges =
        held.iter().map(|run| run.start / NODE_BYTES..run.end.div_ceil(NODE_BYTES)).collect();
    own.gaps(0..all).for_each(|run| tree.take_from(below, run));
}

/// Nodes of which a mask hides a part.
pub(crate) fn edges(size: u64, mask: &Ranges) -> Ranges {
    let mut nodes = Ranges::new();
    for run in mask.within(0..size) {
        let mut add = |at: u64| {
            let node = at / NODE_BYTES;
            nodes.insert(node..node + 1);
        };
        if !run.start.is_multiple_of(NODE_BYTES) {
            add(run.start);
        }
        if !run.end.is_multiple_of(NODE_BYTES) && run.end != size {
            add(run.end);
        }
    }
    nodes
}

fn narrow(len: u64) -> usize {
    usize::try_from(len).expect("bounded by PRINT_BYTES")
}
