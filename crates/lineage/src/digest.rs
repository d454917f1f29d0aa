//! One tree of hashes over guest bytes: sparse, built in any order, of which any part may be unknown.
//!
//! ```text
//! level 2    …─ parent ─…                 parent = BLAKE3 (key of its own) over 16 hashes
//! level 1   node 0   node 1   node 2 …    64 KiB of guest bytes each: what is stored, 32 bytes a node
//! level 0   16 leaves of 4 KiB each       leaf = BLAKE3 of its bytes; made again when needed
//! ```
//!
//! - What is all zero has the hash [`Digest::ZERO`] on every level, and is not stored: a hole costs
//!   one run in a list, however long it is.
//! - Bytes past the end of the disk count as zero, so growing by zeroes changes no node.
//! - A *masked* tree ([`Tree::needed`]) takes the bytes that a child holds itself as zero. It changes
//!   only when a byte changes that the child reads through.
//! - Memory: 32 bytes a known node that is not zero (1 TiB full: 512 MiB).

mod form;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::Range,
};

use crate::{
    Ranges,
    wire::{narrow, wide},
};

/// Bytes of the guest that a stored node stands for.
pub const NODE_BYTES: u64 = 64 << 10;

/// Bytes of a leaf.
pub const LEAF_BYTES: usize = 4 << 10;

/// Children of a node.
pub const FAN_OUT: usize = 16;

/// [`NODE_BYTES`] for lengths in memory.
const NODE: usize = 64 << 10;

/// Nodes whose hashes are kept together.
const GROUP: u64 = 256;

/// Sets the hashes of nodes apart from those of bytes.
const PARENT_CONTEXT: &str = "strandline/1 parent node of the digest tree";

static ZEROES: [u8; LEAF_BYTES] = [0; LEAF_BYTES];

/// Hash of a leaf, a node or a whole tree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

/// A tree of hashes over a disk's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    size: u64,
    /// Bytes that count as zero whatever they are. May reach past the size.
    mask: Ranges,
    /// Nodes that the mask hides wholly: always known, always zero.
    hidden: Ranges,
    /// Nodes whose hash is known.
    known: Ranges,
    /// Hashes of known nodes other than zero, by number / [`GROUP`]. No group is empty.
    groups: BTreeMap<u64, Group>,
}

/// What stands in a seal for a tree that is kept elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Which bytes it speaks of.
    pub scope: Scope,
    /// Bytes of the disk.
    pub size: u64,
    /// The tree's top; unknown nodes count as zero.
    pub root: Digest,
    /// Hash over which nodes are known and which bytes are masked.
    pub cover: Digest,
}

/// Which bytes of a parent a tree speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Those that the child needed when the tree was made (level 3).
    Needed,
    /// All (level 4).
    All,
}

/// Where two trees differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Bytes of the nodes that differ: in each node at least one byte does.
    pub differs: Ranges,
    /// Bytes of the nodes that one of the two does not know.
    pub unknown: Ranges,
}

/// What bytes are by the tree's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// As they were.
    Same,
    /// Others.
    Differs,
    /// The tree does not know this node.
    NotKnown,
}

/// How much of a disk a tree knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Bytes of known nodes.
    pub known: u64,
    /// Bytes of the disk.
    pub of: u64,
}

impl Tree {
    /// A tree over all of a disk of `size` bytes, of which nothing is known yet.
    pub fn new(size: u64) -> Self {
        Self::needed(size, Ranges::new())
    }

    /// A tree over what a child needs of its parent of `size` bytes: `mask` holds the bytes that the
    /// child holds itself, and those past its end. What the mask hides wholly is known at once.
    pub fn needed(size: u64, mask: Ranges) -> Self {
        let nodes = size.div_ceil(NODE_BYTES);
        let hide = |run: Range<u64>| {
            let end = if run.end == size { nodes } else { run.end / NODE_BYTES };
            run.start.div_ceil(NODE_BYTES)..end
        };
        let hidden: Ranges = mask.within(0..size).map(hide).collect();
        Self { size, mask, known: hidden.clone(), hidden, groups: BTreeMap::new() }
    }

    /// An empty tree with the same mask, for the disk as it is now.
    #[must_use]
    pub fn again(&self, size: u64) -> Self {
        Self::needed(size, self.mask.clone())
    }

    /// Bytes of the disk.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Number of nodes.
    pub fn nodes(&self) -> u64 {
        self.size.div_ceil(NODE_BYTES)
    }

    /// The guest bytes of a node, which is below [`Tree::nodes`].
    pub fn node_range(&self, node: u64) -> Range<u64> {
        assert!(node < self.nodes(), "a node past the end of its disk");
        let start = node * NODE_BYTES;
        start..self.size.min(start.saturating_add(NODE_BYTES))
    }

    /// Bytes that count as zero.
    pub fn mask(&self) -> &Ranges {
        &self.mask
    }

    /// Takes in a node; `bytes` are all of it ([`Tree::node_range`]).
    pub fn put(&mut self, node: u64, bytes: &[u8]) {
        let digest = self.digest_of(node, bytes);
        self.put_digest(node, digest);
    }

    /// The hash that [`Tree::put`] would take in: workers make it without holding the tree for long.
    pub fn digest_of(&self, node: u64, bytes: &[u8]) -> Digest {
        let range = self.node_range(node);
        assert!(wide(bytes.len()) == range.end - range.start, "a node goes in whole");
        if !self.mask.meets(range.clone()) {
            return Digest::of_node(bytes);
        }
        let mut seen = bytes.to_vec();
        for hidden in self.mask.within(range.clone()) {
            seen[narrow(hidden.start - range.start)..narrow(hidden.end - range.start)].fill(0);
        }
        Digest::of_node(&seen)
    }

    /// Takes in a node whose hash was made by [`Tree::digest_of`].
    pub fn put_digest(&mut self, node: u64, digest: Digest) {
        assert!(node < self.nodes(), "a node past the end of its disk");
        self.known.insert(node..node + 1);
        if digest != Digest::ZERO {
            self.groups.entry(node / GROUP).or_default().set(node % GROUP, digest);
        } else if let Some(group) = self.groups.get_mut(&(node / GROUP)) {
            group.clear(node % GROUP);
            if group.hashes.is_empty() {
                self.groups.remove(&(node / GROUP));
            }
        }
    }

    /// Takes in that the nodes from `nodes.start` on are all zero: a hole, without reading it.
    pub fn put_zero(&mut self, nodes: Range<u64>) {
        assert!(nodes.end <= self.nodes(), "a node past the end of its disk");
        self.drop_hashes(nodes.clone());
        self.known.insert(nodes);
    }

    /// Takes in what another tree without a mask knows of these nodes, which both disks have whole.
    pub fn take_from(&mut self, other: &Self, nodes: Range<u64>) {
        assert!(self.mask.is_empty() && other.mask.is_empty(), "hashes of other bytes");
        assert!(nodes.end <= self.nodes().min(other.nodes()), "a node past the end of its disk");
        let known: Vec<_> = other.known.within(nodes.clone()).collect();
        for run in known {
            self.drop_hashes(run.clone());
            self.known.insert(run);
        }
        let groups = nodes.start / GROUP..nodes.end.div_ceil(GROUP);
        for (number, group) in other.groups.range(groups) {
            let places = (0..GROUP).filter(|place| group.holds(*place));
            for (place, digest) in places.zip(&group.hashes) {
                if nodes.contains(&(number * GROUP + place)) {
                    self.groups.entry(*number).or_default().set(place, *digest);
                }
            }
        }
    }

    /// Bytes of `range` were written: what is known of their nodes is void.
    pub fn forget(&mut self, range: Range<u64>) {
        let nodes = range.start / NODE_BYTES..range.end.min(self.size).div_ceil(NODE_BYTES);
        if range.is_empty() || nodes.is_empty() {
            return;
        }
        self.drop_hashes(nodes.clone());
        self.known.remove(nodes.clone());
        let hidden: Vec<_> = self.hidden.within(nodes).collect();
        self.known.extend(hidden);
    }

    /// What the bytes of a node are by this tree; asked at each read through the guard.
    pub fn check(&self, node: u64, bytes: &[u8]) -> Found {
        match self.get(node) {
            None => Found::NotKnown,
            Some(known) if known == self.digest_of(node, bytes) => Found::Same,
            Some(_) => Found::Differs,
        }
    }

    /// The hash of a node, if it is known. Past the end of the disk all is zero.
    pub fn get(&self, node: u64) -> Option<Digest> {
        let is_known = node >= self.nodes() || self.known.meets(node..node + 1);
        is_known.then(|| self.hash(node))
    }

    /// The nodes whose hash is known.
    pub fn known(&self) -> &Ranges {
        &self.known
    }

    /// Whether every node is known.
    pub fn is_whole(&self) -> bool {
        self.known.covers(0..self.nodes())
    }

    /// How much of the disk is known.
    pub fn share(&self) -> Share {
        let bytes = |run: Range<u64>| {
            self.size.min(run.end.saturating_mul(NODE_BYTES)) - run.start * NODE_BYTES
        };
        Share { known: self.known.iter().map(bytes).sum(), of: self.size }
    }

    /// The top of the tree. Unknown nodes count as zero: [`Summary::cover`] says which those are.
    pub fn root(&self) -> Digest {
        let mut level: Vec<(u64, Digest)> = self.stored().collect();
        let mut nodes = self.nodes();
        while nodes > 1 {
            level = fold(&level);
            nodes = nodes.div_ceil(wide(FAN_OUT));
        }
        level.first().map_or(Digest::ZERO, |(_, digest)| *digest)
    }

    /// What a seal keeps of it.
    pub fn summary(&self) -> Summary {
        let scope = if self.mask.is_empty() { Scope::All } else { Scope::Needed };
        Summary { scope, size: self.size, root: self.root(), cover: self.cover() }
    }

    /// Where the two disks differ, the shorter one read as zero past its end. Nodes that one of the
    /// two does not know, or masks otherwise, are unknown.
    pub fn compare(&self, other: &Self) -> Difference {
        let size = self.size.max(other.size);
        let nodes = size.div_ceil(NODE_BYTES);
        let mut known = self.known_to(nodes).both(&other.known_to(nodes));
        for (one, two) in [(&self.mask, &other.mask), (other.mask(), self.mask())] {
            for odd in one.minus(two).within(0..size) {
                known.remove(odd.start / NODE_BYTES..odd.end.div_ceil(NODE_BYTES));
            }
        }
        let bytes = |nodes: Range<u64>| {
            nodes.start * NODE_BYTES..size.min(nodes.end.saturating_mul(NODE_BYTES))
        };
        let mut differs = Ranges::new();
        let groups: BTreeSet<u64> =
            self.groups.keys().chain(other.groups.keys()).copied().collect();
        for group in groups {
            for run in known.within(group * GROUP..(group + 1) * GROUP) {
                let odd = run.filter(|node| self.hash(*node) != other.hash(*node));
                differs.extend(odd.map(|node| bytes(node..node + 1)));
            }
        }
        Difference { differs, unknown: known.gaps(0..nodes).map(bytes).collect() }
    }

    /// Known nodes of a disk of at least as many: past its own end all is zero, and known.
    fn known_to(&self, nodes: u64) -> Ranges {
        let mut known = self.known.clone();
        known.insert(self.nodes()..nodes);
        known
    }

    fn hash(&self, node: u64) -> Digest {
        let group = self.groups.get(&(node / GROUP));
        group.and_then(|group| group.get(node % GROUP)).unwrap_or(Digest::ZERO)
    }

    /// Nodes that are not zero, ascending.
    fn stored(&self) -> impl Iterator<Item = (u64, Digest)> + '_ {
        self.groups.iter().flat_map(|(number, group)| {
            let places = (0..GROUP).filter(|place| group.holds(*place));
            places.map(move |place| number * GROUP + place).zip(group.hashes.iter().copied())
        })
    }

    fn drop_hashes(&mut self, nodes: Range<u64>) {
        if nodes.is_empty() {
            return;
        }
        let touched: Vec<u64> = self
            .groups
            .range(nodes.start / GROUP..nodes.end.div_ceil(GROUP))
            .map(|(number, _)| *number)
            .collect();
        for number in touched {
            let first = number * GROUP;
            let group = self.groups.get_mut(&number).expect("listed just now");
            for place in 0..GROUP {
                if nodes.contains(&(first + place)) {
                    group.clear(place);
                }
            }
            if group.hashes.is_empty() {
                self.groups.remove(&number);
            }
        }
    }

    /// Hash over the known nodes and the mask, each as in the stored form.
    fn cover(&self) -> Digest {
        let mut form = crate::wire::Writer(Vec::new());
        form.ranges(&self.known);
        form.ranges(&self.mask);
        Digest(*blake3::hash(&form.0).as_bytes())
    }
}

/// One level up: sixteen neighbours become one; what is zero is left out.
fn fold(level: &[(u64, Digest)]) -> Vec<(u64, Digest)> {
    let parent_of = |node: u64| node / wide(FAN_OUT);
    level
        .chunk_by(|one, two| parent_of(one.0) == parent_of(two.0))
        .map(|family| {
            let mut children = [Digest::ZERO; FAN_OUT];
            for (node, digest) in family {
                children[narrow(node % wide(FAN_OUT))] = *digest;
            }
            (parent_of(family[0].0), Digest::of_children(&children))
        })
        .collect()
}

/// Hashes of up to [`GROUP`] nodes, close together in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Group {
    /// A bit for each node that has a hash here.
    held: [u64; 4],
    /// The hashes, in the order of the bits.
    hashes: Vec<Digest>,
}

impl Group {
    fn holds(&self, place: u64) -> bool {
        self.held[narrow(place / 64)] >> (place % 64) & 1 == 1
    }

    /// How many of the places before this one have a hash: its index.
    fn rank(&self, place: u64) -> usize {
        let word = narrow(place / 64);
        let below = self.held[word] & ((1 << (place % 64)) - 1);
        let ones = self.held[..word].iter().map(|bits| bits.count_ones()).sum::<u32>();
        narrow(u64::from(ones + below.count_ones()))
    }

    fn get(&self, place: u64) -> Option<Digest> {
        self.holds(place).then(|| self.hashes[self.rank(place)])
    }

    fn set(&mut self, place: u64, digest: Digest) {
        let rank = self.rank(place);
        if self.holds(place) {
            self.hashes[rank] = digest;
        } else {
            self.held[narrow(place / 64)] |= 1 << (place % 64);
            self.hashes.insert(rank, digest);
        }
    }

    fn clear(&mut self, place: u64) {
        if self.holds(place) {
            self.hashes.remove(self.rank(place));
            self.held[narrow(place / 64)] &= !(1 << (place % 64));
        }
    }
}

impl Digest {
    /// Of what is all zero, on every level.
    pub const ZERO: Self = Self([0; 32]);

    /// Of a node's bytes, at most [`NODE_BYTES`]; fewer are followed by zeroes.
    pub fn of_node(bytes: &[u8]) -> Self {
        assert!(bytes.len() <= NODE, "more bytes than a node has");
        let mut leaves = [Self::ZERO; FAN_OUT];
        for (leaf, bytes) in leaves.iter_mut().zip(bytes.chunks(LEAF_BYTES)) {
            *leaf = Self::of_leaf(bytes);
        }
        Self::of_children(&leaves)
    }

    /// Of a leaf's bytes, at most [`LEAF_BYTES`]; fewer are followed by zeroes.
    pub fn of_leaf(bytes: &[u8]) -> Self {
        let missing = &ZEROES[bytes.len()..];
        if bytes == &ZEROES[missing.len()..] {
            return Self::ZERO;
        }
        if missing.is_empty() {
            return Self(*blake3::hash(bytes).as_bytes());
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(bytes).update(missing);
        Self(*hasher.finalize().as_bytes())
    }

    /// Of a node from the hashes of what is below it.
    pub fn of_children(children: &[Self; FAN_OUT]) -> Self {
        if children.iter().all(|child| *child == Self::ZERO) {
            return Self::ZERO;
        }
        let mut hasher = blake3::Hasher::new_derive_key(PARENT_CONTEXT);
        for child in children {
            hasher.update(&child.0);
        }
        Self(*hasher.finalize().as_bytes())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Share {
    /// Whole percent, rounded down: 100 only if all is known.
    pub fn percent(&self) -> u64 {
        let (known, of) = (u128::from(self.known), u128::from(self.of));
        let percent = (known * 100).checked_div(of).unwrap_or(100);
        u64::try_from(percent).expect("a part of the whole")
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "verified {} %", self.percent())
    }
}

#[cfg(test)]
mod tests;
