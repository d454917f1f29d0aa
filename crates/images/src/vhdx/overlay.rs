//! What a log changes in a file, kept beside it: runs of zeroes, and pages of bytes.

use std::{collections::BTreeMap, sync::Arc};

use crate::bytes::wide;

/// Bytes of a page: the unit of a log's changes.
pub(super) const PAGE: u64 = 4096;

/// Runs that an overlay keeps: about 16 MiB, their bytes left out. A log of 1 MiB, as programs make
/// them, has room for an eighth of that.
const RUNS_MAX: usize = 1 << 18;

/// Changes of a file, the last of each byte. Starts and lengths are multiples of [`PAGE`].
#[derive(Debug, Default)]
pub(super) struct Overlay {
    runs: BTreeMap<u64, Run>,
}

#[derive(Debug)]
struct Run {
    len: u64,
    /// `None` for zeroes. A page of bytes is never longer than itself, so it is never cut.
    bytes: Option<Arc<[u8]>>,
}

/// There are more runs than an overlay keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

/// Who has a byte, and how far that goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Over<'a> {
    /// The file.
    File,
    /// Zeroes.
    Zero,
    /// A page's bytes, from its `skip`th on.
    Bytes { bytes: &'a Arc<[u8]>, skip: u64 },
}

impl Overlay {
    /// Sets a page.
    pub fn write(&mut self, at: u64, page: Arc<[u8]>) -> Result<(), Full> {
        assert!(wide(page.len()) == PAGE && at.is_multiple_of(PAGE), "a page is whole");
        self.put(at, Run { len: PAGE, bytes: Some(page) })
    }

    /// Sets `len` bytes to zero; the range does not pass 64 bits.
    pub fn zero(&mut self, at: u64, len: u64) -> Result<(), Full> {
        assert!(at.is_multiple_of(PAGE) && len.is_multiple_of(PAGE), "zeroes are whole pages");
        if len == 0 { Ok(()) } else { self.put(at, Run { len, bytes: None }) }
    }

    /// Who has the byte at `at`, and the length of the run from there on, at most `most`.
    pub fn at(&self, at: u64, most: u64) -> (Over<'_>, u64) {
        if let Some((start, run)) = self.runs.range(..=at).next_back()
            && at - start < run.len
        {
            let skip = at - start;
            let over = match &run.bytes {
                Some(bytes) => Over::Bytes { bytes, skip },
                None => Over::Zero,
            };
            return (over, most.min(run.len - skip));
        }
        let next = self.runs.range(at..).next().map_or(most, |(start, _)| start - at);
        (Over::File, most.min(next))
    }

    /// Lays the changes over `bytes`, which stand at `at` in the file.
    pub fn patch(&self, at: u64, bytes: &mut [u8]) {
        let mut place = 0;
        while place < bytes.len() {
            let rest = bytes.len() - place;
            let (over, len) = self.at(at + wide(place), wide(rest));
            let len = usize::try_from(len).unwrap_or(rest);
            match over {
                Over::File => {}
                Over::Zero => bytes[place..place + len].fill(0),
                Over::Bytes { bytes: page, skip } => {
                    let skip = usize::try_from(skip).unwrap_or_default();
                    bytes[place..place + len].copy_from_slice(&page[skip..skip + len]);
                }
            }
            place += len;
        }
    }

    fn put(&mut self, at: u64, run: Run) -> Result<(), Full> {
        let end = at + run.len;
        self.clear(at, end);
        self.runs.insert(at, run);
        if self.runs.len() > RUNS_MAX { Err(Full) } else { Ok(()) }
    }

    /// Takes out what stands in `at..end`. What is cut is zeroes: pages lie inside or outside.
    fn clear(&mut self, at: u64, end: u64) {
        if let Some((start, run)) = self.runs.range_mut(..at).next_back() {
            let past = start + run.len;
            if past > at {
                run.len = at - start;
                if past > end {
                    self.runs.insert(end, Run { len: past - end, bytes: None });
                    return;
                }
            }
        }
        let within: Vec<u64> = self.runs.range(at..end).map(|(start, _)| *start).collect();
        for start in within {
            if let Some(run) = self.runs.remove(&start)
                && start + run.len > end
            {
                self.runs.insert(end, Run { len: start + run.len - end, bytes: None });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[test]
    fn overlay_is_bounded() {
        let mut overlay = Overlay::default();
        for run in 0..wide(RUNS_MAX) {
            assert_eq!(overlay.zero(run * 2 * PAGE, PAGE), Ok(()));
        }
        assert_eq!(overlay.zero(0, PAGE), Ok(()));
        assert_eq!(overlay.zero(wide(RUNS_MAX) * 2 * PAGE, PAGE), Err(Full));
    }

    proptest! {
        #[test]
        fn last_change_of_a_byte_counts(
            changes in vec((0..12_u64, 0..6_u64, any::<u8>()), 0..40),
            window in (0..50_000_usize, 0..9000_usize),
        ) {
            let mut overlay = Overlay::default();
            let mut model: Vec<u8> = (0..60_000_u32).map(|n| n.to_le_bytes()[1]).collect();
            let file = model.clone();
            for (page, pages, fill) in changes {
                let at = usize::try_from(page * PAGE).unwrap();
                if pages == 0 {
                    overlay.write(page * PAGE, vec![fill; 4096].into()).unwrap();
                    model[at..at + 4096].fill(fill);
                } else {
                    let len = pages.min(14 - page) * PAGE;
                    overlay.zero(page * PAGE, len).unwrap();
                    model[at..at + usize::try_from(len).unwrap()].fill(0);
                }
            }
            let (start, len) = window;
            let mut bytes = file[start..start + len].to_vec();
            overlay.patch(wide(start), &mut bytes);
            prop_assert_eq!(&bytes, &model[start..start + len]);
        }
    }
}
