//! Tables in memory, the least recently used going first.

use std::collections::HashMap;

/// Pieces of tables by a number, within a budget of bytes.
#[derive(Debug)]
pub(crate) struct Cache {
    pieces: HashMap<u64, (u64, Vec<u8>)>,
    bytes: usize,
    budget: usize,
    tick: u64,
}

impl Cache {
    /// An empty cache that holds `budget` bytes at most, and one piece however large.
    pub fn new(budget: usize) -> Self {
        Self { pieces: HashMap::new(), bytes: 0, budget, tick: 0 }
    }

    /// The piece, if it is here.
    pub fn get(&mut self, key: u64) -> Option<&[u8]> {
        self.tick += 1;
        let (used, piece) = self.pieces.get_mut(&key)?;
        *used = self.tick;
        Some(piece)
    }

    /// Whether the piece is here.
    pub fn has(&self, key: u64) -> bool {
        self.pieces.contains_key(&key)
    }

    /// Keeps a piece, and drops others to make room.
    pub fn put(&mut self, key: u64, piece: Vec<u8>) {
        while !self.pieces.is_empty() && self.bytes + piece.len() > self.budget {
            let oldest = self.pieces.iter().min_by_key(|(_, (used, _))| *used).map(|(key, _)| *key);
            let dropped = oldest.and_then(|key| self.pieces.remove(&key));
            self.bytes -= dropped.map_or(0, |(_, piece)| piece.len());
        }
        self.tick += 1;
        self.bytes += piece.len();
        if let Some((_, old)) = self.pieces.insert(key, (self.tick, piece)) {
            self.bytes -= old.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn least_recently_used_goes_first() {
        let mut cache = Cache::new(20);
        cache.put(1, vec![1; 10]);
        cache.put(2, vec![2; 10]);
        assert!(cache.get(1).is_some());
        cache.put(3, vec![3; 10]);
        assert!(cache.has(1) && !cache.has(2) && cache.has(3));
        cache.put(3, vec![4; 20]);
        assert_eq!(cache.get(3).map(<[u8]>::len), Some(20));
        assert_eq!(cache.bytes, 20);
    }
}
