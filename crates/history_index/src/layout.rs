//! Header and footer of a run file, byte by byte (`docs/format.md` 9).

use crate::{
    ClientRun, ClockPoint, Entry, FlushPoint, ZeroRange,
    coding::Coded,
    page::{PAGE, PAYLOAD},
    run::RunMeta,
};
use seal::{Key, TagKey};
use std::ops::RangeInclusive;
use units::{RunId, Sequence, Timestamp};

const HEADER_MAGIC: &[u8; 8] = b"SLRUNS01";
const FOOTER_MAGIC: &[u8; 8] = b"SLRUNEND";
const FORMAT: u32 = 1;
const SALT_AT: usize = 24;
const TAG_AT: usize = 56;
const TAG_END: usize = 72;

/// Rows of the footer: sections, their fences, the filter.
pub(crate) const ROWS: usize = 11;
/// The row of the filter.
pub(crate) const FILTER_ROW: usize = 10;
const ROWS_AT: usize = 32;
const ROW: usize = 16;
const CLOCK_AT: usize = ROWS_AT + ROWS * ROW;
const CLOCK: usize = 20;

/// Page 0: readable, so that the key can be made.
pub(crate) struct Header {
    pub(crate) run: RunId,
    pub(crate) salt: [u8; 32],
}

impl Header {
    pub(crate) fn to_page(&self, key: &Key) -> Vec<u8> {
        let mut page = vec![0; PAGE];
        page[..8].copy_from_slice(HEADER_MAGIC);
        page[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        page[16..24].copy_from_slice(&self.run.0.to_le_bytes());
        page[SALT_AT..TAG_AT].copy_from_slice(&self.salt);
        let tag = TagKey::new(key).tag([0xff; 12], &[&page[..TAG_AT]]);
        page[TAG_AT..TAG_END].copy_from_slice(&tag);
        page
    }

    /// The header and the run's key; or what is wrong.
    pub(crate) fn parse(page: &[u8; PAGE], master: &Key) -> Result<(Self, Key), &'static str> {
        if !page.starts_with(HEADER_MAGIC) {
            return Err("it does not begin as a run file");
        }
        if u32_at(page, 8) != FORMAT {
            return Err("its format version is not 1");
        }
        let salt = page[SALT_AT..TAG_AT].first_chunk().copied().ok_or("no salt")?;
        let tag = page[TAG_AT..TAG_END].first_chunk().ok_or("no tag")?;
        let key = master.derive("run", &salt);
        if !TagKey::new(&key).verify([0xff; 12], &[&page[..TAG_AT]], tag) {
            return Err("its header's tag does not fit");
        }
        if page[TAG_END..].iter().any(|byte| *byte != 0) {
            return Err("its header is not padded with zeros");
        }
        Ok((Self { run: RunId(u64_at(page, 16)), salt }, key))
    }
}

/// Where pages of one sort lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) first_page: u64,
    pub(crate) pages: u64,
    pub(crate) items: u64,
}

/// The payload of the last page.
pub(crate) struct Footer {
    pub(crate) run: RunId,
    pub(crate) interval: RangeInclusive<Sequence>,
    pub(crate) rows: [Row; ROWS],
    pub(crate) clock_ends: Option<(ClockPoint, ClockPoint)>,
}

impl Footer {
    pub(crate) fn to_payload(&self) -> Vec<u8> {
        let mut out = FOOTER_MAGIC.to_vec();
        out.extend_from_slice(&self.run.0.to_le_bytes());
        out.extend_from_slice(&self.interval.start().number().to_le_bytes());
        out.extend_from_slice(&self.interval.end().number().to_le_bytes());
        for row in &self.rows {
            for number in [row.first_page, row.pages] {
                let number = u32::try_from(number).expect("a run file is below 16 TiB");
                out.extend_from_slice(&number.to_le_bytes());
            }
            out.extend_from_slice(&row.items.to_le_bytes());
        }
        if let Some((first, last)) = self.clock_ends {
            for point in [first, last] {
                out.extend_from_slice(&point.sequence.number().to_le_bytes());
                out.extend_from_slice(&point.wall.0.to_le_bytes());
                out.extend_from_slice(&point.era.to_le_bytes());
            }
        }
        out
    }

    /// The footer of a file of so many pages; or what is wrong.
    pub(crate) fn parse(payload: &[u8], file_pages: u64) -> Result<Self, &'static str> {
        if payload.len() != PAYLOAD || !payload.starts_with(FOOTER_MAGIC) {
            return Err("its last page is no footer");
        }
        let sequence = |at| Sequence::new(u64_at(payload, at)).ok_or("a sequence past 2^48");
        let interval = sequence(16)?..=sequence(24)?;
        if interval.is_empty() {
            return Err("its interval is empty");
        }
        let mut rows = [Row::default(); ROWS];
        let mut next_page = 1;
        for (index, row) in rows.iter_mut().enumerate() {
            let at = ROWS_AT + index * ROW;
            let (first_page, pages) = (u32_at(payload, at).into(), u32_at(payload, at + 4).into());
            *row = Row { first_page, pages, items: u64_at(payload, at + 8) };
            if pages > 0 && first_page != next_page {
                return Err("its sections do not follow each other");
            }
            next_page += pages;
        }
        if next_page + 1 != file_pages {
            return Err("its sections do not fill it");
        }
        let clock = |at| -> Result<ClockPoint, &'static str> {
            let wall = Timestamp(u64_at(payload, at + 8).cast_signed());
            Ok(ClockPoint { sequence: sequence(at)?, wall, era: u32_at(payload, at + 16) })
        };
        let clock_ends = match rows[ClockPoint::SECTION].items {
            0 => None,
            _ => Some((clock(CLOCK_AT)?, clock(CLOCK_AT + CLOCK)?)),
        };
        Ok(Self { run: RunId(u64_at(payload, 8)), interval, rows, clock_ends })
    }

    pub(crate) fn meta(&self, bytes: u64) -> RunMeta {
        RunMeta {
            run: self.run,
            first: *self.interval.start(),
            last: *self.interval.end(),
            entries: self.rows[Entry::SECTION].items,
            ranges: self.rows[ZeroRange::SECTION].items,
            bytes,
            clock: self.clock_ends,
        }
    }
}

/// Items of one sort: the fence of each of their pages, the first of which is `first_page`.
#[derive(Debug)]
pub(crate) struct Fences<T> {
    pub(crate) first_page: u64,
    pub(crate) fences: Vec<T>,
}

/// The fences of all sections.
#[derive(Debug)]
pub(crate) struct Sections {
    pub(crate) entries: Fences<Entry>,
    pub(crate) ranges: Fences<ZeroRange>,
    pub(crate) clock: Fences<ClockPoint>,
    pub(crate) clients: Fences<ClientRun>,
    pub(crate) flushes: Fences<FlushPoint>,
}

/// An item that knows its section.
pub(crate) trait Stored: Coded {
    /// The fences of its section.
    fn fences(sections: &Sections) -> &Fences<Self>;
}

macro_rules! stored {
    ($($item:ty: $field:ident),*) => {$(
        impl Stored for $item {
            fn fences(sections: &Sections) -> &Fences<Self> {
                &sections.$field
            }
        }
    )*};
}

stored!(Entry: entries, ZeroRange: ranges, ClockPoint: clock, ClientRun: clients, FlushPoint: flushes);

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
