//! A run file, opened: fences and filter in memory, pages read when a question needs them.
//!
//! A damaged page fails the questions that need it and no others. A damaged filter is done without;
//! damaged fences, header or footer keep the file from being opened. In the index such a run stands as
//! lost ([`Run::lost`]): its interval is known, every question to it is refused, so that what newer runs
//! decide is still answered and older ones never stand in for it.

use crate::{
    Bound, ClientRun, ClockPoint, Contents, Entry, Error, FlushPoint, LeafSet, LeafVersions,
    Result, Span, Version, ZeroRange,
    coding::Coded,
    cursor::{Cursor, Items},
    filter::Filter,
    layout::{FILTER_ROW, Fences, Footer, Header, ROWS, Row, Sections, Stored},
    page::{Kind, PAGE, PAGE_BYTES, PageCache, Pages},
};
use seal::{Key, RecordKey};
use std::{ops::RangeInclusive, sync::Arc};
use units::{BranchId, Extent, Leaf, RunId, Sequence, Timestamp};
use world::{Access, Disk};

/// What is known of a run without asking it: for the manifest, for merging, for `status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunMeta {
    /// Its number.
    pub run: RunId,
    /// First sequence of its interval.
    pub first: Sequence,
    /// Last sequence of its interval.
    pub last: Sequence,
    /// Cells it knows.
    pub entries: u64,
    /// Ranges it knows.
    pub ranges: u64,
    /// Length of its file.
    pub bytes: u64,
    /// The clock of its first and of its last batch.
    pub clock: Option<(ClockPoint, ClockPoint)>,
}

/// A run file. Many may ask at once; each question reads for itself.
#[derive(Debug)]
pub struct Run {
    meta: RunMeta,
    path: String,
    /// What was read of it, or why that could not be done.
    contents: Result<Arc<Opened>, String>,
}

/// What is in memory of a file that could be opened.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) pages: Pages,
    pub(crate) sections: Sections,
    filter: Filter,
}

impl Run {
    /// Opens the file of that run and reads fences and filter.
    pub fn open(
        disk: &dyn Disk,
        path: &str,
        run: RunId,
        master: &Key,
        cache: &Arc<PageCache>,
    ) -> Result<Self> {
        let error = |at_bytes, source| Error::Io { path: path.to_owned(), at_bytes, source };
        let damaged = |at_bytes, what| Error::Damaged { path: path.to_owned(), at_bytes, what };
        let file = disk.open(path, Access::READ).map_err(|source| error(0, source))?;
        let bytes = file.length_bytes().map_err(|source| error(0, source))?;
        if bytes < 2 * PAGE_BYTES || !bytes.is_multiple_of(PAGE_BYTES) {
            return Err(damaged(bytes, "its length is not one of a run file"));
        }
        let mut page = [0; PAGE];
        file.read_at(0, &mut page).map_err(|source| error(0, source))?;
        let (header, key) = Header::parse(&page, master).map_err(|what| damaged(0, what))?;
        if header.run != run {
            return Err(Error::OtherRun { path: path.to_owned(), wanted: run, found: header.run });
        }
        let (path, key, cache) = (path.to_owned(), RecordKey::new(&key), cache.clone());
        let pages = Pages { path, run, file, key, cache };
        let last_page = bytes / PAGE_BYTES - 1;
        let footer = pages.read(last_page)?;
        let footer = match footer.kind() {
            Kind::FOOTER => Footer::parse(footer.payload(), last_page + 1),
            _ => Err("its last page is no footer"),
        };
        let footer = footer.map_err(|what| pages.damaged(last_page, what))?;
        if footer.run != run {
            return Err(pages.damaged(last_page, "its footer is of another run"));
        }
        let sections = Sections {
            entries: read_fences(&pages, &footer.rows)?,
            ranges: read_fences(&pages, &footer.rows)?,
            clock: read_fences(&pages, &footer.rows)?,
            clients: read_fences(&pages, &footer.rows)?,
            flushes: read_fences(&pages, &footer.rows)?,
        };
        let filter = read_filter(&pages, footer.rows[FILTER_ROW]).unwrap_or_default();
        let (meta, path) = (footer.meta(bytes), pages.path.clone());
        Ok(Self { meta, path, contents: Ok(Arc::new(Opened { pages, sections, filter })) })
    }

    /// Stands for the run of that interval whose file cannot be opened: each question is refused with
    /// [`Error::Lost`].
    pub fn lost(path: &str, run: RunId, interval: RangeInclusive<Sequence>, why: String) -> Self {
        let (first, last) = interval.into_inner();
        let meta = RunMeta { run, first, last, entries: 0, ranges: 0, bytes: 0, clock: None };
        Self { meta, path: path.to_owned(), contents: Err(why) }
    }

    /// Whether it stands for a file that could not be opened. Such a run cannot be merged.
    pub fn is_lost(&self) -> bool {
        self.contents.is_err()
    }

    /// What there is to ask.
    pub(crate) fn opened(&self) -> Result<&Arc<Opened>> {
        self.contents
            .as_ref()
            .map_err(|why| Error::Lost { path: self.path.clone(), why: why.clone() })
    }

    /// What is known without asking.
    pub fn meta(&self) -> &RunMeta {
        &self.meta
    }

    /// Where the file is.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Offers the newest visible version of each block of the leaf that it knows one of. After an
    /// error `versions` holds a part and is worth nothing.
    pub fn load_leaf(
        &self,
        chain: &[Bound],
        leaf: Leaf,
        versions: &mut LeafVersions,
    ) -> Result<()> {
        let opened = self.opened()?;
        let mut cursor = Cursor::new(opened);
        for bound in chain.iter().filter(|bound| bound.up_to >= self.meta.first) {
            if opened.filter.may_hold(bound.branch, leaf) {
                load_entries(&mut cursor, bound, leaf.extent(), versions)?;
            }
            opened.load_ranges(bound, leaf.extent(), versions)?;
        }
        Ok(())
    }

    /// Entries of these branches (`None`: all) with a sequence in the interval, in order of key.
    /// Reads as it goes and keeps nothing in the cache; ends after the first error.
    pub fn entries_of(
        &self,
        branches: Option<&[BranchId]>,
        interval: &RangeInclusive<Sequence>,
    ) -> impl Iterator<Item = Result<Entry>> + use<> {
        let interval = interval.clone();
        let branches = branches.map(<[BranchId]>::to_vec);
        let first = branches.as_ref().map(|branches| branches.iter().min().copied());
        let last = branches.as_ref().map(|branches| branches.iter().max().copied());
        let mut items = Items::<Entry>::new(self);
        if let Some(first) = first.flatten() {
            items.skip_before(|fence| fence.branch < first);
        }
        items
            .take_while(move |item| match (item, last) {
                (Ok(entry), Some(last)) => Some(entry.branch) <= last,
                _ => true,
            })
            .filter(move |item| match item {
                Ok(entry) => {
                    interval.contains(&entry.sequence)
                        && branches.as_ref().is_none_or(|all| all.contains(&entry.branch))
                }
                Err(_) => true,
            })
    }

    /// Ranges with a sequence in the interval, in order of key.
    pub fn ranges_of(&self, interval: &RangeInclusive<Sequence>) -> Result<Vec<ZeroRange>> {
        let opened = self.opened()?;
        let mut found = Vec::new();
        for index in 0..opened.sections.ranges.fences.len() {
            let ranges = opened.items::<ZeroRange>(index)?;
            found.extend(ranges.into_iter().filter(|range| interval.contains(&range.sequence)));
        }
        Ok(found)
    }

    /// Who wrote in the interval: the run that holds for its first sequence, and all that begin in it.
    pub fn clients_of(&self, interval: &RangeInclusive<Sequence>) -> Result<Vec<ClientRun>> {
        let opened = self.opened()?;
        let fences = &opened.sections.clients.fences;
        let from = fences.partition_point(|fence| fence.first <= *interval.start());
        let to = fences.partition_point(|fence| fence.first <= *interval.end());
        let mut found = Vec::new();
        for index in from.saturating_sub(1)..to {
            found.append(&mut opened.items::<ClientRun>(index)?);
        }
        let before = found.partition_point(|run| run.first <= *interval.start());
        found.drain(..before.saturating_sub(1));
        found.truncate(found.partition_point(|run| run.first <= *interval.end()));
        Ok(found)
    }

    /// Flushes in the interval, ascending.
    pub fn flushes_of(&self, interval: &RangeInclusive<Sequence>) -> Result<Vec<FlushPoint>> {
        let opened = self.opened()?;
        let fences = &opened.sections.flushes.fences;
        let from = fences.partition_point(|fence| fence.sequence < *interval.start());
        let to = fences.partition_point(|fence| fence.sequence <= *interval.end());
        let mut found = Vec::new();
        for index in from.saturating_sub(1)..to {
            let flushes = opened.items::<FlushPoint>(index)?.into_iter();
            found.extend(flushes.filter(|flush| interval.contains(&flush.sequence)));
        }
        Ok(found)
    }

    /// All it holds. Reads as it goes and keeps nothing in the cache, like [`Run::entries_of`].
    pub fn contents(&self) -> Result<Contents> {
        let all = self.meta.first..=self.meta.last;
        let clock: Result<Vec<ClockPoint>> = Items::new(self).collect();
        Ok(Contents {
            first: self.meta.first,
            last: self.meta.last,
            entries: self.entries_of(None, &all).collect::<Result<_>>()?,
            ranges: self.ranges_of(&all)?,
            clock: clock?,
            clients: Items::new(self).collect::<Result<_>>()?,
            flushes: Items::new(self).collect::<Result<_>>()?,
        })
    }

    /// The last batch of the era whose clock is at or before `wall`.
    pub fn clock_at(&self, wall: Timestamp, era: u32) -> Result<Option<ClockPoint>> {
        let wanted = (era, wall);
        let opened = self.opened()?;
        let fences = &opened.sections.clock.fences;
        let after = fences.partition_point(|fence| (fence.era, fence.wall) <= wanted);
        let Some(index) = after.checked_sub(1) else { return Ok(None) };
        let points = opened.items::<ClockPoint>(index)?;
        let after = points.partition_point(|point| (point.era, point.wall) <= wanted);
        Ok(points[..after].last().filter(|point| point.era == era).copied())
    }

    /// The batch that holds the sequence.
    pub fn clock_of(&self, sequence: Sequence) -> Result<Option<ClockPoint>> {
        let opened = self.opened()?;
        let fences = &opened.sections.clock.fences;
        let after = fences.partition_point(|fence| fence.sequence < sequence);
        if let Some(index) = after.checked_sub(1) {
            let points = opened.items::<ClockPoint>(index)?;
            if let Some(point) = points.iter().find(|point| point.sequence >= sequence) {
                return Ok(Some(*point));
            }
        }
        Ok(fences.get(after).copied()) // a fence is the first point of its page
    }

    /// Adds the leaves in which a version lies in one of the spans.
    pub fn leaves_changed(&self, spans: &[Span], leaves: &mut LeafSet) -> Result<()> {
        let holds = |branch, sequence| spans.iter().any(|span| span.holds(branch, sequence));
        let all = self.meta.first..=self.meta.last;
        let reaches = |span: &&Span| span.after < self.meta.last && span.up_to >= self.meta.first;
        let branches: Vec<_> = spans.iter().filter(reaches).map(|span| span.branch).collect();
        if branches.is_empty() {
            return Ok(());
        }
        for entry in self.entries_of(Some(&branches), &all) {
            let entry = entry?;
            if holds(entry.branch, entry.sequence) {
                leaves.insert(entry.lba.leaf().extent());
            }
        }
        for range in self.ranges_of(&all)? {
            if holds(range.branch, range.sequence) {
                leaves.insert(range.extent);
            }
        }
        Ok(())
    }
}

impl Opened {
    fn load_ranges(
        &self,
        bound: &Bound,
        extent: Extent,
        versions: &mut LeafVersions,
    ) -> Result<()> {
        let fences = &self.sections.ranges.fences;
        for (index, fence) in fences.iter().enumerate() {
            if (fence.branch, fence.extent.start().number()) >= (bound.branch, extent.end()) {
                break;
            }
            let next_branch = fences.get(index + 1).map_or(bound.branch, |next| next.branch);
            if next_branch < bound.branch || fence.extent.end() <= extent.start().number() {
                continue;
            }
            for range in self.items::<ZeroRange>(index)? {
                if range.branch == bound.branch && range.sequence <= bound.up_to {
                    versions.offer_range(&range);
                }
            }
        }
        Ok(())
    }

    /// The items of one page of a section, through the cache.
    pub(crate) fn items<T: Stored>(&self, index: usize) -> Result<Vec<T>> {
        let mut items = Vec::new();
        self.items_into(index, true, &mut items)?;
        Ok(items)
    }

    /// Replaces `items` by those of one page of a section.
    pub(crate) fn items_into<T: Stored>(
        &self,
        index: usize,
        cached: bool,
        items: &mut Vec<T>,
    ) -> Result<()> {
        let section = T::fences(&self.sections);
        let number = section.first_page + index as u64;
        items.clear();
        let kind = Kind::items::<T>();
        let decoded = if cached {
            self.pages.page(number)?.items(kind, items)
        } else {
            self.pages.read(number)?.items(kind, items)
        };
        decoded.map_err(|what| self.pages.damaged(number, what))?;
        // So a search by fences finds what lies in the page.
        let mut fence = items.first().copied();
        if let Some(fence) = &mut fence {
            for item in &*items {
                T::widen(fence, item);
            }
        }
        let before_next = match (items.last(), section.fences.get(index + 1)) {
            (Some(last), Some(next)) => next.follows(last),
            _ => true,
        };
        if fence != section.fences.get(index).copied() || !before_next {
            return Err(self.pages.damaged(number, "items not within their fences"));
        }
        Ok(())
    }
}

/// Offers, of each block of the extent, the newest version that the bound shows. A block with more
/// versions than a page holds costs two pages, not all of its.
fn load_entries(
    cursor: &mut Cursor<'_>,
    bound: &Bound,
    extent: Extent,
    versions: &mut LeafVersions,
) -> Result<()> {
    let mut next = Some(extent.start());
    while let Some(start) = next {
        let Some(entry) = cursor.at_or_after((bound.branch, start, Sequence::ZERO))? else { break };
        if entry.branch != bound.branch || !extent.holds(entry.lba) {
            break;
        }
        if entry.sequence <= bound.up_to {
            let newest = cursor.at_or_before((bound.branch, entry.lba, bound.up_to))?;
            let newest = newest.filter(|newest| newest.lba == entry.lba).unwrap_or(entry);
            versions.offer(newest.lba, Version::of_entry(&newest));
        }
        next = entry.lba.plus(1);
    }
    Ok(())
}

/// The fences of a section, which stand in the row five below its own.
fn read_fences<T: Coded>(pages: &Pages, rows: &[Row; ROWS]) -> Result<Fences<T>> {
    let (section, row) = (rows[T::SECTION], rows[T::SECTION + 5]);
    let mut fences: Vec<T> = Vec::new();
    for number in row.first_page..row.first_page + row.pages {
        let before = fences.last().copied();
        let page = pages.read(number)?;
        let mut more: Vec<T> = Vec::new();
        page.items(Kind::fences::<T>(), &mut more).map_err(|what| pages.damaged(number, what))?;
        if let (Some(before), Some(first)) = (before, more.first())
            && !first.follows(&before)
        {
            return Err(pages.damaged(number, "fences out of order"));
        }
        fences.append(&mut more);
    }
    if fences.len() as u64 != section.pages {
        return Err(pages.damaged(row.first_page, "not a fence for each page"));
    }
    Ok(Fences { first_page: section.first_page, fences })
}

fn read_filter(pages: &Pages, row: Row) -> Result<Filter> {
    let mut bytes = Vec::new();
    for number in row.first_page..row.first_page + row.pages {
        let page = pages.read(number)?;
        if page.kind() != Kind::FILTER {
            return Err(pages.damaged(number, "a page of another kind"));
        }
        bytes.extend_from_slice(page.payload());
    }
    Ok(Filter::from_bytes(bytes))
}
