//! A tree as bytes: `docs/format.md`, section 12.1.

use super::{Digest, Tree};
use crate::{
    Malformed, Ranges, Summary,
    wire::{Reader, Writer, narrow, wide},
};

const WHAT: &str = "digest tree";
const MAGIC: [u8; 8] = *b"SLDIGEST";
const VERSION: u16 = 1;

/// Bytes of one hash.
const HASH: u64 = 32;

impl Tree {
    /// The bytes that [`Tree::parse`] takes: 32 a known node that is not zero, 16 a run, and a few.
    pub fn encode(&self) -> Vec<u8> {
        let stored = self.stored_nodes();
        let mut form = Writer::new(MAGIC, VERSION);
        form.put(&self.size.to_le_bytes());
        form.ranges(&self.mask);
        form.ranges(&self.known);
        form.ranges(&stored);
        form.0.reserve(narrow(stored.total() * HASH));
        for (_, digest) in self.stored() {
            form.put(&digest.0);
        }
        form.seal()
    }

    /// The tree of these bytes. Takes no more memory than a few times their length; each tree has
    /// one form, and any other is refused.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut form = Reader::open(WHAT, MAGIC, VERSION, bytes)?;
        let size = form.u64()?;
        let mut tree = Self::needed(size, form.ranges("mask")?);
        let known = form.ranges("known nodes")?;
        let stored = form.ranges("stored nodes")?;
        let nodes = tree.nodes();
        if known.iter().any(|run| run.end > nodes) || !tree.hidden.minus(&known).is_empty() {
            return Err(form.wrong("known nodes"));
        }
        if !stored.minus(&known).is_empty() || !stored.both(&tree.hidden).is_empty() {
            return Err(form.wrong("stored nodes"));
        }
        tree.known = known;
        // A run may promise more hashes than there are bytes: each is taken before it is believed.
        for node in stored.iter().flatten() {
            let digest = Digest(form.take()?);
            if digest == Digest::ZERO {
                return Err(form.wrong("hash"));
            }
            tree.put_digest(node, digest);
        }
        form.end()?;
        Ok(tree)
    }

    /// Whether it is the tree that a seal was made with.
    pub fn is_of(&self, summary: &Summary) -> bool {
        self.summary() == *summary
    }

    fn stored_nodes(&self) -> Ranges {
        let runs = self.stored().map(|(node, _)| node..node + 1);
        let stored: Ranges = runs.collect();
        debug_assert_eq!(
            stored.total(),
            self.groups.values().map(|group| wide(group.hashes.len())).sum::<u64>()
        );
        stored
    }
}
