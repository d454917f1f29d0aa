//! Where the content of a file is, and reading it.

use crate::{Error, FileSystem, limits::PIECES};

/// A range of a file's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// First byte of the file.
    pub offset: u64,
    /// How many bytes; never 0.
    pub length: u64,
    /// Where they are.
    pub place: Place,
}

/// Where bytes of a file are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// At this byte of the file system, one after the other.
    At(u64),
    /// In the file's own record.
    Inline(Vec<u8>),
}

impl Piece {
    /// The byte after its last.
    pub const fn end(&self) -> u64 {
        self.offset.saturating_add(self.length)
    }

    /// Reads `into.len()` bytes from `skip` bytes after its begin.
    pub fn read(
        &self,
        file_system: &dyn FileSystem,
        skip: u64,
        into: &mut [u8],
    ) -> Result<(), Error> {
        match &self.place {
            Place::At(place) => file_system.read(place.saturating_add(skip), into),
            Place::Inline(bytes) => {
                let skip = usize::try_from(skip).unwrap_or(usize::MAX);
                let found = bytes.get(skip..).and_then(|rest| rest.get(..into.len()));
                into.copy_from_slice(found.ok_or(Error::damaged("content is cut short", 0))?);
                Ok(())
            }
        }
    }
}

/// Pieces in the making: ascending, joined where they touch, cut at the file's end.
#[derive(Debug)]
pub(crate) struct Pieces {
    found: Vec<Piece>,
    end: u64,
    size: u64,
}

impl Pieces {
    /// None yet, of a file of `size` bytes.
    pub(crate) const fn new(size: u64) -> Self {
        Self { found: Vec::new(), end: 0, size }
    }

    /// Adds `length` bytes of the file at `offset`, which lie at `place`. What lies past the file's end
    /// is left out, what goes back is damage.
    pub(crate) fn add(&mut self, offset: u64, length: u64, place: u64) -> Result<(), Error> {
        let damaged = Error::damaged("a file's pieces are out of order", place);
        let end = offset.checked_add(length).ok_or(Error::damaged("a piece is too long", place))?;
        if offset < self.end || place.checked_add(length).is_none() {
            return Err(damaged);
        }
        self.end = end;
        let end = end.min(self.size);
        if offset >= end {
            return Ok(());
        }
        if let Some(last) = self.found.last_mut()
            && last.end() == offset
            && last.place == Place::At(place.wrapping_sub(last.length))
        {
            last.length += end - offset;
            return Ok(());
        }
        if self.found.len() == PIECES {
            return Err(Error::Limit("a file's number of pieces"));
        }
        self.found.push(Piece { offset, length: end - offset, place: Place::At(place) });
        Ok(())
    }

    pub(crate) fn into_vec(self) -> Vec<Piece> {
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_that_touch_are_one_and_end_with_the_file() {
        let mut pieces = Pieces::new(10_000);
        pieces.add(0, 4096, 8192).expect("in order");
        pieces.add(4096, 4096, 12_288).expect("in order");
        pieces.add(8192, 4096, 40_960).expect("in order");
        pieces.add(20_480, 4096, 0).expect("past the end");
        let at = |offset, length, place| Piece { offset, length, place: Place::At(place) };
        assert_eq!(pieces.into_vec(), [at(0, 8192, 8192), at(8192, 1808, 40_960)]);
    }

    #[test]
    fn pieces_that_overlap_are_damage() {
        let mut pieces = Pieces::new(u64::MAX);
        pieces.add(0, 4096, 0).expect("in order");
        assert!(matches!(pieces.add(4095, 1, 0), Err(Error::Damaged { .. })));
        assert!(matches!(pieces.add(u64::MAX, 2, 0), Err(Error::Damaged { .. })));
        assert!(matches!(pieces.add(8192, 2, u64::MAX), Err(Error::Damaged { .. })));
    }
}
