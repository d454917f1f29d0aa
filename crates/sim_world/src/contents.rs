//! A sparse file's bytes: pages shared between images, copied when one of them is written.
//!
//! Pages of 4 KiB hang in chunks of 64 pages, so that a copy of an 8 MiB file costs 32 counts and the
//! first write into a copy at most one chunk of counts and one page. A page that is absent is zero.

use std::{collections::BTreeMap, sync::Arc};

/// What a disk writes whole or not at all.
pub const SECTOR_BYTES: u64 = 512;

const PAGE: usize = 4096;
const PAGE_BYTES: u64 = 4096;
const CHUNK_PAGES: u64 = 64;

/// Bytes, length and reserved room of one file.
#[derive(Clone, Default)]
pub(crate) struct Contents {
    pub length_bytes: u64,
    /// Room at the front that is ours even where nothing is written.
    pub reserved_bytes: u64,
    chunks: BTreeMap<u64, Arc<Chunk>>,
}

#[derive(Clone)]
struct Chunk([Option<Arc<[u8; PAGE]>>; 64]);

impl Contents {
    /// Fills `into` from `offset`; what was never written reads as zero, also past the end.
    pub fn read(&self, offset: u64, into: &mut [u8]) {
        for (page, at, part) in pieces(offset, into.len()) {
            let into = &mut into[part];
            match self.page(page) {
                Some(bytes) => into.copy_from_slice(&bytes[at..at + into.len()]),
                None => into.fill(0),
            }
        }
    }

    /// Puts `from` at `offset` and grows the file if need be.
    pub fn write(&mut self, offset: u64, from: &[u8]) {
        for (page, at, part) in pieces(offset, from.len()) {
            let from = &from[part];
            let slot = self.slot(page);
            match slot {
                _ if from.len() == PAGE => {
                    *slot = Some(Arc::new(from.try_into().expect("a whole page")));
                }
                Some(bytes) => {
                    Arc::make_mut(bytes)[at..at + from.len()].copy_from_slice(from);
                }
                None => {
                    let mut bytes = [0; PAGE];
                    bytes[at..at + from.len()].copy_from_slice(from);
                    *slot = Some(Arc::new(bytes));
                }
            }
        }
        self.length_bytes = self.length_bytes.max(offset + from.len() as u64);
    }

    /// As [`Contents::write`], but only the sectors that `keep` wants; grows to the last of them.
    pub fn write_sectors(&mut self, offset: u64, from: &[u8], mut keep: impl FnMut(u64) -> bool) {
        let end = offset + from.len() as u64;
        let mut run = offset..offset; // wanted, not yet written
        let mut at = offset;
        while at < end {
            let sector = at / SECTOR_BYTES;
            let next = ((sector + 1) * SECTOR_BYTES).min(end);
            if !keep(sector) {
                self.write_part(offset, from, &run);
                run.start = next;
            }
            run.end = next;
            at = next;
        }
        self.write_part(offset, from, &run);
    }

    fn write_part(&mut self, offset: u64, from: &[u8], run: &std::ops::Range<u64>) {
        if !run.is_empty() {
            self.write(run.start, &from[to_usize(run.start - offset)..to_usize(run.end - offset)]);
        }
    }

    /// Cuts or grows; what is cut off is gone, also when the file grows again.
    pub fn set_length(&mut self, length_bytes: u64) {
        if length_bytes < self.length_bytes {
            self.reserved_bytes = self.reserved_bytes.min(length_bytes);
            let first_gone = length_bytes.div_ceil(PAGE_BYTES);
            self.chunks.split_off(&first_gone.div_ceil(CHUNK_PAGES));
            let chunk = first_gone / CHUNK_PAGES;
            if let Some(chunk) = self.chunks.get_mut(&chunk) {
                let pages = &mut Arc::make_mut(chunk).0;
                pages[to_usize(first_gone % CHUNK_PAGES)..].fill(None);
            }
            let rest = to_usize(length_bytes % PAGE_BYTES);
            if rest > 0 && self.page(length_bytes / PAGE_BYTES).is_some() {
                let slot = self.slot(length_bytes / PAGE_BYTES);
                Arc::make_mut(slot.as_mut().expect("seen above"))[rest..].fill(0);
            }
        }
        self.length_bytes = length_bytes;
    }

    /// Reserves the front and makes the file at least that long.
    pub fn allocate(&mut self, length_bytes: u64) {
        self.reserved_bytes = self.reserved_bytes.max(length_bytes);
        self.length_bytes = self.length_bytes.max(length_bytes);
    }

    /// Bytes of the file system it takes.
    pub fn room_bytes(&self) -> u64 {
        let reserved = self.reserved_bytes.div_ceil(PAGE_BYTES);
        let beyond = self.pages().filter(|(page, _)| *page >= reserved).count() as u64;
        (reserved + beyond) * PAGE_BYTES
    }

    /// Bytes of the file system a write would take besides.
    pub fn room_needed_bytes(&self, offset: u64, length: usize) -> u64 {
        let reserved = self.reserved_bytes.div_ceil(PAGE_BYTES);
        let new = pieces(offset, length)
            .filter(|(page, ..)| *page >= reserved && self.page(*page).is_none())
            .count() as u64;
        new * PAGE_BYTES
    }

    /// All pages that were written, in order.
    pub fn pages(&self) -> impl Iterator<Item = (u64, &[u8; PAGE])> {
        self.chunks.iter().flat_map(|(chunk, pages)| {
            (chunk * CHUNK_PAGES..)
                .zip(&pages.0)
                .filter_map(|(number, page)| Some((number, page.as_deref()?)))
        })
    }

    fn page(&self, page: u64) -> Option<&[u8; PAGE]> {
        self.chunks.get(&(page / CHUNK_PAGES))?.0[to_usize(page % CHUNK_PAGES)].as_deref()
    }

    fn slot(&mut self, page: u64) -> &mut Option<Arc<[u8; PAGE]>> {
        let chunk = self
            .chunks
            .entry(page / CHUNK_PAGES)
            .or_insert_with(|| Arc::new(Chunk([const { None }; 64])));
        &mut Arc::make_mut(chunk).0[to_usize(page % CHUNK_PAGES)]
    }
}

/// Cuts a range at pages: (page, offset in it, part of the buffer).
fn pieces(
    offset: u64,
    length: usize,
) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == length {
            return None;
        }
        let at = offset + done as u64;
        let in_page = to_usize(at % PAGE_BYTES);
        let part = done..length.min(done + PAGE - in_page);
        done = part.end;
        Some((at / PAGE_BYTES, in_page, part))
    })
}

/// For offsets inside something that lies in memory.
pub(crate) fn to_usize(number: u64) -> usize {
    usize::try_from(number).expect("lies in memory")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    proptest! {
        #[test]
        fn behaves_as_a_plain_vector(
            steps in vec((0..700_000_u64, 0..9_000_usize, any::<u8>(), 0..4_u8), 1..30),
        ) {
            let mut contents = Contents::default();
            let mut model: Vec<u8> = Vec::new();
            for (offset, length, fill, kind) in steps {
                let before = contents.clone();
                let old = model.clone();
                if kind == 0 {
                    contents.set_length(offset);
                    model.resize(to_usize(offset), 0);
                } else if length > 0 {
                    contents.write(offset, &vec![fill; length]);
                    let at = to_usize(offset);
                    model.resize(model.len().max(at + length), 0);
                    model[at..at + length].fill(fill);
                }
                for (contents, model) in [(&contents, &model), (&before, &old)] {
                    prop_assert_eq!(contents.length_bytes, model.len() as u64);
                    let mut bytes = vec![1; model.len()];
                    contents.read(0, &mut bytes);
                    prop_assert!(&bytes == model);
                }
            }
        }
    }

    #[test]
    fn reserved_room_is_counted_once() {
        let mut contents = Contents::default();
        contents.allocate(10_000);
        assert_eq!((contents.room_bytes(), contents.length_bytes), (12_288, 10_000));
        assert_eq!(contents.room_needed_bytes(0, 12_288), 0);
        assert_eq!(contents.room_needed_bytes(8_192, 8_192), 4_096);
        contents.write(8_192, &[1; 8_192]);
        assert_eq!(contents.room_bytes(), 16_384);
    }
}
