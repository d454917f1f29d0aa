//! Ways through the pages of a run: by search, and one after the other.

use crate::{Entry, Error, Result, Run, layout::Stored, run::Opened};
use std::sync::Arc;
use units::{BranchId, Lba, Sequence};

/// What entries are sorted by.
pub(crate) type EntryKey = (BranchId, Lba, Sequence);

/// Searches entries and keeps the page it is in: neighbours cost no second read.
pub(crate) struct Cursor<'a> {
    run: &'a Opened,
    page: Option<usize>, // `entries` are those of this page
    entries: Vec<Entry>,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(run: &'a Opened) -> Self {
        Self { run, page: None, entries: Vec::new() }
    }

    /// The first entry whose key is not smaller.
    pub(crate) fn at_or_after(&mut self, key: EntryKey) -> Result<Option<Entry>> {
        let fences = &self.run.sections.entries.fences;
        let Some(index) = self.page_of(key) else { return Ok(fences.first().copied()) };
        self.load(index)?;
        let at = self.entries.partition_point(|entry| entry.key() < key);
        // Past the page's end it is the next page's first entry, which its fence is.
        Ok(self.entries.get(at).or_else(|| fences.get(index + 1)).copied())
    }

    /// The last entry whose key is not greater.
    pub(crate) fn at_or_before(&mut self, key: EntryKey) -> Result<Option<Entry>> {
        let Some(index) = self.page_of(key) else { return Ok(None) };
        self.load(index)?;
        let after = self.entries.partition_point(|entry| entry.key() <= key);
        Ok(self.entries[..after].last().copied())
    }

    /// The page that begins at or before the key, nearest to it.
    fn page_of(&self, key: EntryKey) -> Option<usize> {
        let fences = &self.run.sections.entries.fences;
        if let Some(page) = self.page
            && fences[page].key() <= key
            && fences.get(page + 1).is_none_or(|next| key < next.key())
        {
            return Some(page);
        }
        fences.partition_point(|fence| fence.key() <= key).checked_sub(1)
    }

    fn load(&mut self, index: usize) -> Result<()> {
        if self.page != Some(index) {
            self.page = None;
            self.run.items_into(index, true, &mut self.entries)?;
            self.page = Some(index);
        }
        Ok(())
    }
}

/// All items of a section in order, read past the cache. Ends after the first error.
#[derive(Debug)]
pub(crate) struct Items<T> {
    run: Option<Arc<Opened>>,
    /// Why there are none, until it was said.
    refused: Option<Error>,
    next_page: usize,
    page: Vec<T>, // items of the page before it
    at: usize,
}

impl<T: Stored> Items<T> {
    /// Of a lost run there is an error and nothing else.
    pub(crate) fn new(run: &Run) -> Self {
        let (run, refused) = match run.opened() {
            Ok(opened) => (Some(opened.clone()), None),
            Err(lost) => (None, Some(lost)),
        };
        Self { run, refused, next_page: 0, page: Vec::new(), at: 0 }
    }

    /// Skips pages of which all items are `before`, seen by the fence behind them.
    pub(crate) fn skip_before(&mut self, before: impl Fn(&T) -> bool) {
        let Some(run) = &self.run else { return };
        let fences = &T::fences(&run.sections).fences;
        self.next_page = fences.partition_point(before).saturating_sub(1);
    }

    /// The item that comes next, without taking it.
    pub(crate) fn peek(&mut self) -> Result<Option<T>> {
        if let Some(lost) = self.refused.take() {
            return Err(lost);
        }
        let Some(run) = &self.run else { return Ok(None) };
        let pages = T::fences(&run.sections).fences.len();
        while self.at == self.page.len() && self.next_page < pages {
            let index = self.next_page;
            self.next_page = pages; // unless the page is whole
            self.at = 0;
            let read = run.items_into(index, false, &mut self.page);
            if let Err(error) = read {
                self.page.clear();
                return Err(error);
            }
            self.next_page = index + 1;
        }
        Ok(self.page.get(self.at).copied())
    }
}

impl<T: Stored> Iterator for Items<T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.peek().transpose()?;
        self.at += usize::from(item.is_ok());
        Some(item)
    }
}
