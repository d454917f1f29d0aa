//! A file of an image: its tables as the layout makes them, the guest's bytes from the disk.

use std::sync::Arc;

use images::layout::{Content, Layout, Piece};
use world::real::Stretch;

use crate::{Trouble, VirtualFile};

/// Bytes of a file that are looked at for one stretch.
const LOOK_BYTES: u64 = 1 << 30;

/// See the module's head.
pub(crate) struct Made {
    layout: Box<dyn Layout>,
    /// The disk as a file: past its end it reads as zero.
    guest: Arc<dyn VirtualFile>,
}

impl Made {
    pub(crate) fn new(layout: Box<dyn Layout>, guest: Arc<dyn VirtualFile>) -> Self {
        Self { layout, guest }
    }

    /// The beginning of a piece up to where the guest's data begins or ends.
    fn stretch_of(&self, piece: &Piece) -> Result<Stretch, Trouble> {
        Ok(match piece.content {
            Content::Table(_) => Stretch::Data(piece.len),
            Content::Zero => Stretch::Hole(piece.len),
            Content::Guest(start) if start >= self.guest.len() => Stretch::Hole(piece.len),
            Content::Guest(start) => match self.guest.stretch(start)? {
                Stretch::Data(length) => Stretch::Data(length.min(piece.len)),
                Stretch::Hole(length) => Stretch::Hole(length.min(piece.len)),
            },
        })
    }
}

impl VirtualFile for Made {
    fn len(&self) -> u64 {
        self.layout.len()
    }

    fn kept(&self) -> u64 {
        // Tables are small beside what they lead to.
        let tables = self.len().saturating_sub(self.guest.len());
        self.len().min(self.guest.kept().saturating_add(tables))
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), Trouble> {
        let end = offset.saturating_add(into.len() as u64).min(self.len());
        let mut rest = into;
        let mut place = offset;
        while place < end {
            for piece in self.layout.pieces(place..end) {
                assert!(piece.start == place && piece.len > 0, "a layout with a gap at {place}");
                let (now, later) = rest.split_at_mut(narrow(piece.len));
                match &piece.content {
                    Content::Table(bytes) => now.copy_from_slice(bytes),
                    Content::Zero => now.fill(0),
                    Content::Guest(start) => self.guest.read_at(*start, now)?,
                }
                rest = later;
                place += piece.len;
            }
        }
        rest.fill(0);
        Ok(())
    }

    fn stretch(&self, offset: u64) -> Result<Stretch, Trouble> {
        let end = offset.saturating_add(LOOK_BYTES).min(self.len());
        let mut found: Option<Stretch> = None;
        for piece in self.layout.pieces(offset..end) {
            let stretch = self.stretch_of(&piece)?;
            found = Some(match (found, stretch) {
                (None, first) => first,
                (Some(Stretch::Data(a)), Stretch::Data(b)) => Stretch::Data(a + b),
                (Some(Stretch::Hole(a)), Stretch::Hole(b)) => Stretch::Hole(a + b),
                (Some(found), _) => return Ok(found),
            });
            let (Stretch::Data(length) | Stretch::Hole(length)) = stretch;
            if length < piece.len {
                break;
            }
        }
        Ok(found.unwrap_or(Stretch::Data(self.len() - offset)))
    }
}

/// A length within a buffer.
fn narrow(len: u64) -> usize {
    usize::try_from(len).expect("a piece within what was asked")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::tests::Striped;
    use images::{
        layout::{Held, Plan},
        qcow2,
    };

    const SIZE: u64 = 8 << 20;

    fn disk() -> Arc<Striped> {
        Arc::new(Striped { len: SIZE, stripe: 1 << 20 })
    }

    fn made() -> Made {
        let held = (0..4).map(|n| Held { start: n << 21, len: 1 << 20, zero: false }).collect();
        let plan = Plan { virtual_size: SIZE, held, parent: None, seed: [3; 32], made_s: 1 };
        let files = qcow2::write::layout(&plan, &qcow2::write::Qcow2Options::default());
        let layout = files.expect("writable").remove(0).layout;
        Made::new(layout, disk())
    }

    #[test]
    fn windows_of_a_file_are_those_of_the_whole() {
        let file = made();
        let mut whole = vec![1; narrow(file.len())];
        file.read_at(0, &mut whole).expect("read");
        let mut guest = vec![0; narrow(SIZE)];
        disk().read_at(0, &mut guest).expect("read");
        let rendered = images::testing::render(&*made().layout, &guest, u64::MAX);
        assert!(whole == rendered, "another file than the layout's");
        let end = narrow(file.len());
        for (start, length) in [(0, 1), (65_535, 2), (100, 1 << 20), (end - 5, 5), (end - 5, 99)] {
            let mut part = vec![7; length];
            file.read_at(start as u64, &mut part).expect("read");
            let there = length.min(end - start);
            assert!(part[..there] == whole[start..start + there], "at {start}");
            assert!(part[there..].iter().all(|byte| *byte == 0), "past the end");
        }
    }

    #[test]
    fn every_byte_that_is_no_hole_is_data() {
        let file = made();
        let mut whole = vec![1; narrow(file.len())];
        file.read_at(0, &mut whole).expect("read");
        let mut place = 0;
        while place < file.len() {
            match file.stretch(place).expect("no trouble") {
                Stretch::Data(length) => place += length,
                Stretch::Hole(length) => {
                    let hole = &whole[narrow(place)..narrow(place + length)];
                    assert!(hole.iter().all(|byte| *byte == 0), "data in a hole at {place}");
                    place += length;
                }
            }
        }
        assert_eq!(place, file.len());
    }
}
