//! Sealed pages of a run file, and the memory that keeps some of them opened.
//!
//! ```text
//! page 4096 = sealed { kind 1 ‖ zero 1 ‖ count 2 ‖ payload 4076 } ‖ tag 16
//! ```
//! Nonce = number of the page in its file; each page is written once. Page 0 is the header.

use crate::{
    Error, Result,
    coding::{Coded, Input},
};
use seal::{RecordKey, TAG};
use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex, PoisonError},
};
use units::RunId;
use world::File;

/// Bytes of a page in the file.
pub(crate) const PAGE: usize = 4096;
/// The same for offsets.
pub(crate) const PAGE_BYTES: u64 = 4096;
/// Bytes before the payload.
const HEAD: usize = 4;
/// Bytes of a page opened.
const OPENED: usize = PAGE - TAG;
/// Bytes of items in a page.
pub(crate) const PAYLOAD: usize = OPENED - HEAD;

/// What a page holds; its number in the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Kind(u8);

impl Kind {
    /// Bits of the filter.
    pub(crate) const FILTER: Self = Self(0x20);
    /// The last page.
    pub(crate) const FOOTER: Self = Self(0x21);

    /// Items of a section.
    pub(crate) const fn items<T: Coded>() -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "below 5")]
        Self(T::SECTION as u8 + 1)
    }

    /// Fences of a section.
    pub(crate) const fn fences<T: Coded>() -> Self {
        Self(Self::items::<T>().0 + 0x10)
    }
}

fn nonce(number: u64) -> seal::Nonce {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&number.to_le_bytes());
    nonce
}

/// Seals a page and appends it.
pub(crate) fn seal_page(
    key: &RecordKey,
    run: RunId,
    number: u64,
    (kind, count): (Kind, u16),
    payload: &[u8],
    out: &mut Vec<u8>,
) {
    let mut opened = [0; OPENED];
    opened[0] = kind.0;
    opened[2..HEAD].copy_from_slice(&count.to_le_bytes());
    opened[HEAD..HEAD + payload.len()].copy_from_slice(payload);
    let start = out.len();
    out.resize(start + PAGE, 0);
    key.seal_into(nonce(number), &run.0.to_le_bytes(), &opened, &mut out[start..]);
}

/// A page of which the seal held.
pub(crate) struct Page(Box<[u8; OPENED]>);

impl Page {
    pub(crate) fn kind(&self) -> Kind {
        Kind(self.0[0])
    }

    pub(crate) fn payload(&self) -> &[u8] {
        &self.0[HEAD..]
    }

    /// Its items, appended; what is wrong otherwise.
    pub(crate) fn items<T: Coded>(
        &self,
        kind: Kind,
        items: &mut Vec<T>,
    ) -> Result<(), &'static str> {
        if self.kind() != kind {
            return Err("a page of another kind");
        }
        let count = u16::from_le_bytes([self.0[2], self.0[3]]);
        let mut input = Input(self.payload());
        let mut previous = T::ORIGIN;
        for index in 0..count {
            let item = T::take(&previous, &mut input).ok_or("an item that cannot be")?;
            if index > 0 && !item.follows(&previous) {
                return Err("items out of order");
            }
            items.push(item);
            previous = item;
        }
        Ok(())
    }
}

/// The pages of one file, read on demand.
pub(crate) struct Pages {
    pub(crate) path: String,
    pub(crate) run: RunId,
    pub(crate) file: File,
    pub(crate) key: RecordKey,
    pub(crate) cache: Arc<PageCache>,
}

impl Pages {
    /// A page, from memory or from the file.
    pub(crate) fn page(&self, number: u64) -> Result<Arc<Page>> {
        if let Some(page) = self.cache.get(self.run, number) {
            return Ok(page);
        }
        let page = Arc::new(self.read(number)?);
        self.cache.put(self.run, number, &page);
        Ok(page)
    }

    /// A page from the file.
    pub(crate) fn read(&self, number: u64) -> Result<Page> {
        let mut sealed = [0; PAGE];
        self.file.read_at(number * PAGE_BYTES, &mut sealed).map_err(|source| Error::Io {
            path: self.path.clone(),
            at_bytes: number * PAGE_BYTES,
            source,
        })?;
        let mut page = Page(Box::new([0; OPENED]));
        self.key
            .open_into(nonce(number), &self.run.0.to_le_bytes(), &sealed, &mut *page.0)
            .map_err(|_| self.damaged(number, "its seal does not fit"))?;
        Ok(page)
    }

    pub(crate) fn damaged(&self, number: u64, what: &'static str) -> Error {
        Error::Damaged { path: self.path.clone(), at_bytes: number * PAGE_BYTES, what }
    }
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pages({})", self.path)
    }
}

/// Opened pages of many runs, the least recently used of which goes first.
pub struct PageCache {
    pages_max: usize,
    state: Mutex<CacheState>,
}

#[derive(Default)]
struct CacheState {
    pages: HashMap<(RunId, u64), (Arc<Page>, u64)>,
    by_use: BTreeMap<u64, (RunId, u64)>,
    uses: u64,
}

impl PageCache {
    /// Keeps at most `limit_bytes`, some 200 bytes a page of its own included; 0 keeps nothing.
    pub fn new(limit_bytes: usize) -> Arc<Self> {
        let pages_max = limit_bytes / (PAGE + 200);
        Arc::new(Self { pages_max, state: Mutex::default() })
    }

    fn get(&self, run: RunId, number: u64) -> Option<Arc<Page>> {
        let mut guard = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *guard;
        let (page, used) = state.pages.get_mut(&(run, number))?;
        state.by_use.remove(used);
        state.uses += 1;
        *used = state.uses;
        state.by_use.insert(state.uses, (run, number));
        Some(page.clone())
    }

    fn put(&self, run: RunId, number: u64, page: &Arc<Page>) {
        if self.pages_max == 0 {
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.uses += 1;
        let used = state.uses;
        if let Some((_, before)) = state.pages.insert((run, number), (page.clone(), used)) {
            state.by_use.remove(&before);
        }
        state.by_use.insert(used, (run, number));
        if state.pages.len() > self.pages_max
            && let Some((_, oldest)) = state.by_use.pop_first()
        {
            state.pages.remove(&oldest);
        }
    }
}

impl fmt::Debug for PageCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageCache(at most {} pages)", self.pages_max)
    }
}
