//! The log: which of its entries count, and what they change (MS-VHDX 2.3).
//!
//! ```text
//! ring of 4 KiB sectors   … ┃loge desc…│data│data┃loge desc…│zero┃ torn …   ┃loge … (stale)
//!                            └ entry 41 ──────────┘└ entry 42 ───┘
//! ```
//!
//! An entry is valid if its header, descriptors and data sectors say the same number and its checksum
//! holds. Valid entries that follow each other in place and number are a sequence; it may pass the end
//! of the ring. A sequence is good if the tail that its last entry names is one of its entries. The
//! good one whose last number is highest is replayed from that tail on: into an [`Overlay`], never
//! into the file. A log that is named by the header and has no good sequence makes the whole file
//! doubtful, so it is refused.
//!
//! Limits: a log of [`LOG_BYTES_MAX`] bytes; an entry's targets may be neither the headers nor the log.

use crate::{
    Class, Fault, FileId, Part,
    bytes::{array, le32, le64, narrow, wide},
    limits,
};

use super::{
    bat::FILE_BYTES_MAX,
    head::{HEADERS_END, Header},
    overlay::{Overlay, PAGE},
};

/// Bytes of a log that is replayed; files with larger ones can be read while those are empty.
pub(super) const LOG_BYTES_MAX: u64 = limits::RESIDENT_BYTES;

/// Bytes of a sector, the unit of the log: as many as a page has.
const SECTOR: usize = 4096;

const ENTRY_HEADER: usize = 64;
const DESCRIPTOR: usize = 32;

/// Checksums that one replay computes, in bytes of the log: only nested entries, which no program
/// writes, need more than one pass.
const PASSES_MAX: usize = 8;

/// What a log leaves behind.
#[derive(Debug)]
pub(super) struct Replay {
    /// Its changes.
    pub overlay: Overlay,
    /// Bytes that the file has at least, once they are made.
    pub len: u64,
    /// Entries that were replayed.
    pub entries: usize,
    /// Number of the last one.
    pub sequence: u64,
    /// The highest number of an entry that is torn or belongs to no good sequence, where it is higher.
    pub lost: Option<u64>,
}

/// Replays the log of `header`, whose bytes are `log` in a file of `len` bytes.
pub(super) fn replay(file: FileId, len: u64, header: &Header, log: &[u8]) -> Result<Replay, Fault> {
    let fault = |class, at: u64, text: String| Fault::at(class, Part::Log, file, at, text);
    let ring = Ring { log, sectors: log.len() / SECTOR };
    let corrupt = |text: &str| fault(Class::LogCorrupt, header.log_at, text.to_owned());
    let Some((entries, torn)) = ring.entries(header) else {
        let text = "entries of the log stand within each other".to_owned();
        return Err(fault(Class::Limit, header.log_at, text));
    };
    let sequence = match newest(&ring, &entries) {
        Newest::One(sequence) => sequence,
        Newest::None => {
            return Err(corrupt(
                "the header names a log, and no whole sequence of entries is in it",
            ));
        }
        Newest::Two(number) => {
            let text = format!("two sequences of log entries end with the number {number}");
            return Err(fault(Class::LogCorrupt, header.log_at, text));
        }
        Newest::Limit => {
            return Err(fault(Class::Limit, header.log_at, "too many sequences".to_owned()));
        }
    };
    let head = *sequence.last().expect("a sequence has an entry");
    let whole = entries.iter().flatten().map(|entry| entry.sequence).max();
    let highest = torn.max(whole.unwrap_or(0));
    if head.flushed > len {
        let text = format!(
            "the file has {len} bytes, and had {} when log entry {} was written",
            head.flushed, head.sequence
        );
        return Err(fault(Class::Truncated, header.log_at, text));
    }
    if head.last > FILE_BYTES_MAX {
        let text = format!("log entry {} wants a file of {} bytes", head.sequence, head.last);
        return Err(fault(Class::LogCorrupt, header.log_at, text));
    }
    let mut replay = Replay {
        overlay: Overlay::default(),
        len: len.max(head.last),
        entries: sequence.len(),
        sequence: head.sequence,
        lost: Some(highest).filter(|highest| *highest > head.sequence),
    };
    for entry in &sequence {
        ring.apply(entry, header, &mut replay).map_err(|refused| {
            let (class, why) = match refused {
                Refused::Full => (Class::Limit, "the log changes too many places".to_owned()),
                Refused::Target { at, why } => (
                    Class::LogCorrupt,
                    format!("log entry {} changes byte {at}: {why}", entry.sequence),
                ),
            };
            fault(class, header.log_at + wide(entry.sector * SECTOR), why)
        })?;
    }
    Ok(replay)
}

/// A valid entry; places and lengths are in sectors of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    sector: usize,
    sectors: usize,
    tail: usize,
    sequence: u64,
    descriptors: usize,
    flushed: u64,
    last: u64,
}

/// What a sector begins with.
enum Found {
    /// A valid entry.
    Entry(Entry),
    /// An entry of this log that is not whole, with the number that it states.
    Torn(u64),
    /// Anything else.
    Other,
    /// The bound of checksums is used up.
    Limit,
}

/// Why a change is not made.
enum Refused {
    Target { at: u64, why: &'static str },
    Full,
}

/// The log's bytes, the first following the last.
struct Ring<'a> {
    log: &'a [u8],
    sectors: usize,
}

impl Ring<'_> {
    /// Valid entries by their sector, and the highest number that a torn one states. `None` if they
    /// stand within each other so often that the bound of checksums is used up.
    fn entries(&self, header: &Header) -> Option<(Vec<Option<Entry>>, u64)> {
        let (mut entries, mut highest) = (Vec::with_capacity(self.sectors), 0);
        let mut budget = self.log.len().saturating_mul(PASSES_MAX);
        for sector in 0..self.sectors {
            entries.push(match self.find(sector, header, &mut budget) {
                Found::Entry(entry) => Some(entry),
                Found::Torn(sequence) => {
                    highest = highest.max(sequence);
                    None
                }
                Found::Other => None,
                Found::Limit => return None,
            });
        }
        Some((entries, highest))
    }

    fn find(&self, sector: usize, header: &Header, budget: &mut usize) -> Found {
        let bytes = self.sector(sector);
        if !bytes.starts_with(b"loge") || array::<16>(bytes, 32) != header.log_guid {
            return Found::Other;
        }
        let len = narrow(u64::from(le32(bytes, 8)));
        let tail = narrow(u64::from(le32(bytes, 12)));
        let entry = Entry {
            sector,
            sectors: len / SECTOR,
            tail: tail / SECTOR,
            sequence: le64(bytes, 16),
            descriptors: narrow(u64::from(le32(bytes, 24))),
            flushed: le64(bytes, 48),
            last: le64(bytes, 56),
        };
        let aligned = len.is_multiple_of(SECTOR) && tail.is_multiple_of(SECTOR);
        let fits = (1..=self.sectors).contains(&entry.sectors) && entry.tail < self.sectors;
        if !aligned || !fits || entry.sequence == 0 || !self.agrees(&entry) {
            return Found::Torn(entry.sequence);
        }
        let Some(left) = budget.checked_sub(len) else { return Found::Limit };
        *budget = left;
        if self.checksum(sector, len) == le32(bytes, 4) {
            Found::Entry(entry)
        } else {
            Found::Torn(entry.sequence)
        }
    }

    /// Whether descriptors and data sectors fill no more than the entry, and all state its number.
    /// A sector that begins an entry is neither, so entries that agree stand within each other only
    /// where one is longer than it has to be.
    fn agrees(&self, entry: &Entry) -> bool {
        let Some(head) = entry.descriptor_sectors().filter(|head| *head <= entry.sectors) else {
            return false;
        };
        let room = entry.sectors - head;
        let mut data = 0;
        for number in 0..entry.descriptors {
            let descriptor = self.descriptor(entry, number);
            let is_data = descriptor.starts_with(b"desc");
            let known = is_data || descriptor.starts_with(b"zero");
            data += usize::from(is_data);
            if !known || le64(descriptor, 24) != entry.sequence || data > room {
                return false;
            }
        }
        (0..data).all(|number| {
            let sector = self.sector(entry.sector + head + number);
            let stated = (u64::from(le32(sector, 4)) << 32) | u64::from(le32(sector, SECTOR - 4));
            sector.starts_with(b"data") && stated == entry.sequence
        })
    }

    /// Makes the changes of an entry.
    fn apply(&self, entry: &Entry, header: &Header, replay: &mut Replay) -> Result<(), Refused> {
        let mut data = entry.sector + entry.descriptor_sectors().unwrap_or(1);
        for number in 0..entry.descriptors {
            let descriptor = self.descriptor(entry, number);
            let at = le64(descriptor, 16);
            let is_data = descriptor.starts_with(b"desc");
            let len = if is_data { PAGE } else { le64(descriptor, 8) };
            may_change(at, len, header, replay.len).map_err(|why| Refused::Target { at, why })?;
            let done = if is_data {
                let mut page = self.sector(data).to_vec();
                page[..8].copy_from_slice(&descriptor[8..16]);
                page[SECTOR - 4..].copy_from_slice(&descriptor[4..8]);
                data += 1;
                replay.overlay.write(at, page.into())
            } else {
                replay.overlay.zero(at, len)
            };
            done.map_err(|_| Refused::Full)?;
        }
        Ok(())
    }

    fn sector(&self, number: usize) -> &[u8] {
        let at = number % self.sectors * SECTOR;
        &self.log[at..at + SECTOR]
    }

    /// The bytes of a descriptor; none crosses a sector.
    fn descriptor(&self, entry: &Entry, number: usize) -> &[u8] {
        let at = ENTRY_HEADER + number * DESCRIPTOR;
        let sector = self.sector(entry.sector + at / SECTOR);
        &sector[at % SECTOR..at % SECTOR + DESCRIPTOR]
    }

    /// CRC-32C of `len` bytes from a sector on, with the field at byte 4 as zero.
    fn checksum(&self, sector: usize, len: usize) -> u32 {
        let start = sector * SECTOR;
        let first = &self.log[start..(start + len).min(self.log.len())];
        crc32c::crc32c_append(super::head::checksum(first), &self.log[..len - first.len()])
    }
}

impl Entry {
    /// Sectors of header and descriptors.
    fn descriptor_sectors(&self) -> Option<usize> {
        let bytes = self.descriptors.checked_mul(DESCRIPTOR)?.checked_add(ENTRY_HEADER)?;
        Some(bytes.div_ceil(SECTOR))
    }
}

/// Whether an entry may change `len` bytes from `at` on in a file of `end` bytes.
fn may_change(at: u64, len: u64, header: &Header, end: u64) -> Result<(), &'static str> {
    if !at.is_multiple_of(PAGE) || !len.is_multiple_of(PAGE) {
        return Err("that is no multiple of 4096");
    }
    let Some(past) = at.checked_add(len).filter(|past| *past <= end) else {
        return Err("that is past the end of the file");
    };
    if at < HEADERS_END {
        return Err("that is in the headers");
    }
    if at < header.log_at + header.log_len && past > header.log_at {
        return Err("that is in the log");
    }
    Ok(())
}

enum Newest {
    /// The sequence to replay, from its tail on.
    One(Vec<Entry>),
    None,
    /// Two that end with the same number.
    Two(u64),
    Limit,
}

/// The good sequence whose last number is highest.
fn newest(ring: &Ring<'_>, entries: &[Option<Entry>]) -> Newest {
    let next = |entry: &Entry| {
        let place = (entry.sector + entry.sectors) % ring.sectors;
        entries[place].filter(|next| {
            Some(next.sequence) == entry.sequence.checked_add(1) && next.sector != entry.sector
        })
    };
    let mut follows = vec![false; entries.len()];
    for entry in entries.iter().flatten() {
        if let Some(next) = next(entry) {
            follows[next.sector] = true;
        }
    }
    let mut best = Newest::None;
    let mut steps = entries.len().saturating_mul(PASSES_MAX);
    for first in entries.iter().flatten().filter(|entry| !follows[entry.sector]) {
        let (mut sequence, mut sectors) = (vec![*first], first.sectors);
        while let Some(entry) = sequence.last().and_then(next) {
            sectors += entry.sectors;
            if sectors > ring.sectors {
                break;
            }
            sequence.push(entry);
            let Some(left) = steps.checked_sub(1) else { return Newest::Limit };
            steps = left;
        }
        let head = sequence[sequence.len() - 1];
        let Some(tail) = sequence.iter().position(|entry| entry.sector == head.tail) else {
            continue;
        };
        let number = match &best {
            Newest::One(best) => best[best.len() - 1].sequence,
            Newest::Two(number) => *number,
            Newest::None | Newest::Limit => 0,
        };
        if head.sequence > number {
            best = Newest::One(sequence.split_off(tail));
        } else if head.sequence == number {
            best = Newest::Two(number);
        }
    }
    best
}
