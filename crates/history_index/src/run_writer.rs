//! Writes a run file from front to back; nothing but fences and hashes of leaves stays in memory.
//!
//! ```text
//! header │ entries │ ranges │ clock │ clients │ flushes │ fences of each of these │ filter │ footer
//! ```

use crate::{
    ClientRun, ClockPoint, Entry, Error, FlushPoint, MemoryRun, Result, ZeroRange,
    coding::Coded,
    filter::FilterBuilder,
    layout::{Footer, Header, Row},
    page::{Kind, PAGE_BYTES, PAYLOAD, seal_page},
    run::RunMeta,
};
use seal::{Key, RecordKey};
use std::ops::RangeInclusive;
use units::{RunId, Sequence};
use world::{Access, Chance, Disk, File};

/// Bytes collected before they are written.
const PIECE: usize = 256 << 10;

/// Writes `contents` as a run file and syncs its data; the caller syncs the directory, and removes
/// the file if this fails. The path must be free.
pub fn write_run(
    disk: &dyn Disk,
    path: &str,
    run: RunId,
    master: &Key,
    chance: &dyn Chance,
    contents: &MemoryRun,
) -> Result<RunMeta> {
    let interval = contents.first()..=contents.last();
    let mut writer = RunWriter::create(disk, path, run, master, chance, interval)?;
    let contents = contents.contents();
    contents.entries.iter().try_for_each(|entry| writer.push_entry(*entry))?;
    contents.ranges.iter().try_for_each(|range| writer.push_range(*range))?;
    contents.clock.iter().try_for_each(|point| writer.push_clock(*point))?;
    contents.clients.iter().try_for_each(|client| writer.push_client(*client))?;
    contents.flushes.iter().try_for_each(|flush| writer.push_flush(*flush))?;
    writer.finish()
}

/// A run file that is being written: all entries in order, then all ranges, clock points, client
/// runs and flushes. Going back is a bug, as is any item out of order.
#[derive(Debug)]
pub struct RunWriter {
    out: PageWriter,
    interval: RangeInclusive<Sequence>,
    section: usize, // the one that is being written
    entries: SectionWriter<Entry>,
    ranges: SectionWriter<ZeroRange>,
    clock: SectionWriter<ClockPoint>,
    clients: SectionWriter<ClientRun>,
    flushes: SectionWriter<FlushPoint>,
    filter: FilterBuilder,
    clock_ends: Option<(ClockPoint, ClockPoint)>,
}

impl RunWriter {
    /// Begins a file that must not exist yet, for a run of this interval, which is not empty.
    pub fn create(
        disk: &dyn Disk,
        path: &str,
        run: RunId,
        master: &Key,
        chance: &dyn Chance,
        interval: RangeInclusive<Sequence>,
    ) -> Result<Self> {
        assert!(!interval.is_empty(), "a run covers at least one sequence");
        let mut salt = [0; 32];
        chance.fill(&mut salt);
        let header = Header { run, salt };
        let key = master.derive("run", &salt);
        let file = disk.open(path, Access::WRITE.new_file()).map_err(|source| Error::Io {
            path: path.to_owned(),
            at_bytes: 0,
            source,
        })?;
        let out = PageWriter {
            path: path.to_owned(),
            file,
            run,
            buffer: header.to_page(&key),
            written_bytes: 0,
            key: RecordKey::new(&key),
        };
        Ok(Self {
            out,
            interval,
            section: Entry::SECTION,
            entries: SectionWriter::new(Kind::items::<Entry>()),
            ranges: SectionWriter::new(Kind::items::<ZeroRange>()),
            clock: SectionWriter::new(Kind::items::<ClockPoint>()),
            clients: SectionWriter::new(Kind::items::<ClientRun>()),
            flushes: SectionWriter::new(Kind::items::<FlushPoint>()),
            filter: FilterBuilder::default(),
            clock_ends: None,
        })
    }

    /// The next entry by (branch, block, sequence).
    pub fn push_entry(&mut self, entry: Entry) -> Result<()> {
        assert!(self.interval.contains(&entry.sequence), "outside the run's interval");
        self.enter(Entry::SECTION)?;
        self.filter.add(entry.branch, entry.lba.leaf());
        self.entries.push(&mut self.out, entry)
    }

    /// The next range by (branch, start, sequence).
    pub fn push_range(&mut self, range: ZeroRange) -> Result<()> {
        assert!(self.interval.contains(&range.sequence), "outside the run's interval");
        self.enter(ZeroRange::SECTION)?;
        self.ranges.push(&mut self.out, range)
    }

    /// The next clock point.
    pub fn push_clock(&mut self, point: ClockPoint) -> Result<()> {
        assert!(self.interval.contains(&point.sequence), "outside the run's interval");
        self.enter(ClockPoint::SECTION)?;
        self.clock_ends = Some((self.clock_ends.map_or(point, |(first, _)| first), point));
        self.clock.push(&mut self.out, point)
    }

    /// The next client run.
    pub fn push_client(&mut self, client: ClientRun) -> Result<()> {
        self.enter(ClientRun::SECTION)?;
        self.clients.push(&mut self.out, client)
    }

    /// The next flush.
    pub fn push_flush(&mut self, flush: FlushPoint) -> Result<()> {
        self.enter(FlushPoint::SECTION)?;
        self.flushes.push(&mut self.out, flush)
    }

    /// Pages so far.
    pub fn pages(&self) -> u64 {
        self.out.next_page()
    }

    /// Writes fences, filter and footer, and syncs the file's data.
    pub fn finish(mut self) -> Result<RunMeta> {
        self.enter(FlushPoint::SECTION + 1)?;
        let mut rows = vec![
            self.entries.row(),
            self.ranges.row(),
            self.clock.row(),
            self.clients.row(),
            self.flushes.row(),
        ];
        rows.push(write_fences(&mut self.out, &self.entries.fences)?);
        rows.push(write_fences(&mut self.out, &self.ranges.fences)?);
        rows.push(write_fences(&mut self.out, &self.clock.fences)?);
        rows.push(write_fences(&mut self.out, &self.clients.fences)?);
        rows.push(write_fences(&mut self.out, &self.flushes.fences)?);
        let mut filter = Row { first_page: self.out.next_page(), pages: 0, items: 0 };
        for payload in self.filter.finish().pages() {
            self.out.page((Kind::FILTER, 0), payload)?;
            filter.pages += 1;
        }
        rows.push(filter);
        let footer = Footer {
            run: self.out.run,
            interval: self.interval,
            rows: rows.try_into().expect("eleven rows"),
            clock_ends: self.clock_ends,
        };
        self.out.page((Kind::FOOTER, 0), &footer.to_payload())?;
        self.out.write_out()?;
        self.out.file.sync_data().map_err(|source| self.out.error(source))?;
        Ok(footer.meta(self.out.written_bytes))
    }

    /// Ends the sections before this one.
    fn enter(&mut self, section: usize) -> Result<()> {
        assert!(section >= self.section, "sections are written in order");
        while self.section < section {
            match self.section {
                Entry::SECTION => self.entries.end(&mut self.out)?,
                ZeroRange::SECTION => self.ranges.end(&mut self.out)?,
                ClockPoint::SECTION => self.clock.end(&mut self.out)?,
                ClientRun::SECTION => self.clients.end(&mut self.out)?,
                _ => self.flushes.end(&mut self.out)?,
            }
            self.section += 1;
        }
        Ok(())
    }
}

fn write_fences<T: Coded>(out: &mut PageWriter, fences: &[T]) -> Result<Row> {
    let mut section = SectionWriter::new(Kind::fences::<T>());
    fences.iter().try_for_each(|fence| section.push(out, *fence))?;
    section.end(out)?;
    Ok(section.row())
}

/// One section: the page that is being filled, and what is known of those before.
#[derive(Debug)]
struct SectionWriter<T> {
    kind: Kind,
    first_page: u64,
    items: u64,
    fences: Vec<T>,
    previous: Option<T>,
    count: u16, // items of the open page; the last fence is its fence
    payload: Vec<u8>,
}

impl<T: Coded> SectionWriter<T> {
    fn new(kind: Kind) -> Self {
        let (fences, payload) = (Vec::new(), Vec::with_capacity(PAYLOAD + 64));
        Self { kind, first_page: 0, items: 0, fences, previous: None, count: 0, payload }
    }

    fn push(&mut self, out: &mut PageWriter, item: T) -> Result<()> {
        assert!(self.previous.is_none_or(|before| item.follows(&before)), "items out of order");
        let length = self.payload.len();
        if self.count > 0 {
            item.put(&self.previous.unwrap_or(T::ORIGIN), &mut self.payload);
        }
        if self.payload.len() > PAYLOAD {
            self.payload.truncate(length);
            self.end(out)?;
        }
        if self.count == 0 {
            item.put(&T::ORIGIN, &mut self.payload);
            self.fences.push(item);
        } else if let Some(fence) = self.fences.last_mut() {
            T::widen(fence, &item);
        }
        (self.count, self.items) = (self.count + 1, self.items + 1);
        self.previous = Some(item);
        Ok(())
    }

    /// Writes the open page.
    fn end(&mut self, out: &mut PageWriter) -> Result<()> {
        if self.fences.len() <= 1 {
            self.first_page = out.next_page();
        }
        if self.count > 0 {
            out.page((self.kind, self.count), &self.payload)?;
            self.payload.clear();
            self.count = 0;
        }
        Ok(())
    }

    fn row(&self) -> Row {
        Row { first_page: self.first_page, pages: self.fences.len() as u64, items: self.items }
    }
}

/// The file, page by page.
#[derive(Debug)]
struct PageWriter {
    path: String,
    file: File,
    run: RunId,
    key: RecordKey,
    buffer: Vec<u8>,
    written_bytes: u64,
}

impl PageWriter {
    fn next_page(&self) -> u64 {
        (self.written_bytes + self.buffer.len() as u64) / PAGE_BYTES
    }

    fn page(&mut self, head: (Kind, u16), payload: &[u8]) -> Result<()> {
        let number = self.next_page();
        seal_page(&self.key, self.run, number, head, payload, &mut self.buffer);
        if self.buffer.len() >= PIECE { self.write_out() } else { Ok(()) }
    }

    fn write_out(&mut self) -> Result<()> {
        let written = self.file.write_at(self.written_bytes, &self.buffer);
        written.map_err(|source| self.error(source))?;
        self.written_bytes += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn error(&self, source: std::io::Error) -> Error {
        Error::Io { path: self.path.clone(), at_bytes: self.written_bytes, source }
    }
}
