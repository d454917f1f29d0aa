//! A file whose bytes are made as they are read, and how a read of it can fail.

use world::real::Stretch;

/// The bytes of a file. They never change, so whoever reads may keep them.
pub trait VirtualFile: Send + Sync {
    /// Its length in bytes.
    fn len(&self) -> u64;

    /// Whether it has no byte.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that a copy with holes would take, about.
    fn kept(&self) -> u64 {
        self.len()
    }

    /// The bytes from `offset` on; what lies past its end is zero. Damage among them fails all.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), Trouble>;

    /// What stands at `offset`, for a number of bytes that is not 0: a hole reads as zero. What is
    /// not known to be a hole is data. `offset` lies within the file.
    fn stretch(&self, offset: u64) -> Result<Stretch, Trouble> {
        Ok(Stretch::Data(self.len() - offset))
    }
}

/// Why something was not given. The text is for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// It is not there.
    #[error("{0}")]
    Absent(String),
    /// Whoever mounted it may not have it.
    #[error("{0}")]
    Denied(String),
    /// It is damaged, or where it comes from does not answer.
    #[error("{0}")]
    Failed(String),
}

/// What a seek looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The next byte that is no hole.
    Data,
    /// The next hole; the end of the file is one.
    Hole,
}

/// Stretches that one seek looks at.
const STEPS_MAX: usize = 1 << 16;

/// The first place from `offset` on where there is what is wanted; `None` if there is none up to the
/// end. A file in so many stretches that looking would take long is called data from there on.
pub fn seek(file: &dyn VirtualFile, offset: u64, wanted: Wanted) -> Result<Option<u64>, Trouble> {
    let end = file.len();
    let mut place = offset;
    for _ in 0..STEPS_MAX {
        if place >= end {
            return Ok(match wanted {
                Wanted::Hole if offset < end => Some(end),
                _ => None,
            });
        }
        match (file.stretch(place)?, wanted) {
            (Stretch::Data(_), Wanted::Data) | (Stretch::Hole(_), Wanted::Hole) => {
                return Ok(Some(place));
            }
            (Stretch::Data(length) | Stretch::Hole(length), _) => {
                place = place.saturating_add(length.max(1));
            }
        }
    }
    Ok(Some(match wanted {
        Wanted::Data => place,
        Wanted::Hole => end,
    }))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Data and holes in turns of that length, data first; the byte at a place is its number.
    pub(crate) struct Striped {
        pub(crate) len: u64,
        pub(crate) stripe: u64,
    }

    impl VirtualFile for Striped {
        fn len(&self) -> u64 {
            self.len
        }

        fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), Trouble> {
            for (place, byte) in (offset..).zip(into) {
                let data = place < self.len && (place / self.stripe).is_multiple_of(2);
                *byte = if data { place.to_le_bytes()[0] | 1 } else { 0 };
            }
            Ok(())
        }

        fn stretch(&self, offset: u64) -> Result<Stretch, Trouble> {
            let left = (self.stripe - offset % self.stripe).min(self.len - offset);
            let data = (offset / self.stripe).is_multiple_of(2);
            Ok(if data { Stretch::Data(left) } else { Stretch::Hole(left) })
        }
    }

    #[test]
    fn seeks_go_from_data_to_holes_and_back() {
        let file = Striped { len: 350, stripe: 100 };
        let from = |offset, wanted| seek(&file, offset, wanted).expect("no trouble");
        assert_eq!(from(0, Wanted::Data), Some(0));
        assert_eq!(from(0, Wanted::Hole), Some(100));
        assert_eq!(from(150, Wanted::Data), Some(200));
        assert_eq!(from(250, Wanted::Hole), Some(300));
        assert_eq!(from(340, Wanted::Data), None, "nothing but a hole up to the end");
        assert_eq!(from(350, Wanted::Hole), None, "past the end");
        let whole = Striped { len: 50, stripe: 100 };
        assert_eq!(seek(&whole, 10, Wanted::Hole), Ok(Some(50)), "the end is a hole");
    }

    /// Data in stretches of one byte.
    struct Crumbs;

    impl VirtualFile for Crumbs {
        fn len(&self) -> u64 {
            1 << 40
        }

        fn read_at(&self, _: u64, into: &mut [u8]) -> Result<(), Trouble> {
            into.fill(1);
            Ok(())
        }

        fn stretch(&self, _: u64) -> Result<Stretch, Trouble> {
            Ok(Stretch::Data(1))
        }
    }

    #[test]
    fn a_seek_that_gives_up_says_data() {
        assert_eq!(seek(&Crumbs, 0, Wanted::Hole), Ok(Some(1 << 40)));
    }
}
