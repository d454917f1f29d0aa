//! The pieces of a range of a file, one after the other.

use images::layout::{Layout, Piece};
use std::{collections::VecDeque, sync::Arc};

/// Walks over a range of a file; holds one answer of its layout at a time.
pub struct Walk {
    layout: Arc<dyn Layout>,
    at: u64,
    end: u64,
    pieces: VecDeque<Piece>,
}

impl Walk {
    /// Over `start..end`, both within the file.
    pub fn new(layout: Arc<dyn Layout>, start: u64, end: u64) -> Self {
        assert!(start <= end && end <= layout.len(), "a range outside the file");
        Self { layout, at: start, end, pieces: VecDeque::new() }
    }
}

impl Iterator for Walk {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        if self.pieces.is_empty() && self.at < self.end {
            self.pieces = self.layout.pieces(self.at..self.end).into();
            assert!(!self.pieces.is_empty(), "a layout without pieces before its end");
        }
        let piece = self.pieces.pop_front()?;
        let past = piece.start + piece.len;
        assert!(piece.start == self.at && piece.len > 0 && past <= self.end, "a layout with a gap");
        self.at = past;
        Some(piece)
    }
}
