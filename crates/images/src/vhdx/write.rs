//! VHDX files to be written: fixed, dynamic and differencing.
//!
//! ```text
//! 0        1 MiB  2 MiB     3 MiB                                        blocks in guest order
//! │ header │ log  │ metadata │ block table │ sector bitmaps (children) │ block │ block │ …
//! ```
//!
//! Everything before the blocks follows from the plan's ranges: no seek back, and the same plan gives
//! the same bytes. Memory is that of the plan's ranges, whatever the disk's size.
//!
//! - Dynamic: a block with a range of data is in the file, one that is all known zero is marked so, the
//!   rest is absent.
//! - Differencing: a block that is held in part has bits for its held sectors. Ranges must be whole
//!   sectors, and the sector that of the parent.
//! - The log is empty; both headers are whole.

use std::ops::Range;

use crate::{
    Format, Identity,
    bytes::{narrow, wide},
    layout::{
        Content, Held, ImageFile, Layout, PIECES_MAX, ParentPlan, Piece, Plan, TABLE_BYTES_MAX,
        Unwritable,
    },
    limits,
};

use super::{
    bat::{BITMAP_BYTES, ENTRY, Geometry, Owner},
    guid::{self, Guid},
    head::{self, HEADERS},
    metadata::{
        self, BLOCK_BYTES, HAS_PARENT, IS_DISK, IS_REQUIRED, LEAVE_ALLOCATED, VIRTUAL_BYTES_MAX,
    },
    regions::{TABLES, UNIT},
};

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VhdxOptions {
    /// Whether all blocks have their place from the start.
    pub allocation: Allocation,
    /// Bytes of a block: a power of two from 1 MiB to 256 MiB. `None` takes the smallest whose block
    /// table is at most 32 MiB: 1 MiB up to a disk of 4 TiB, so that scattered data stays small.
    pub block_bytes: Option<u32>,
    /// Bytes of a logical sector: 512 or 4096. The disk must be a multiple of it.
    pub sector_bytes: u32,
}

/// Which blocks are in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocation {
    /// Those that hold data. The only way for a disk with a parent.
    Dynamic,
    /// All of them.
    Fixed,
}

impl Default for VhdxOptions {
    fn default() -> Self {
        Self { allocation: Allocation::Dynamic, block_bytes: None, sector_bytes: 512 }
    }
}

/// The identity of the file that is written from a plan with that seed: what a child made over it has
/// to state.
pub fn identity(seed: &[u8; 32]) -> Identity {
    Identity::Vhdx { file_write: derived(seed, 1), data_write: derived(seed, 2) }
}

/// The one file of a plan.
pub fn layout(plan: &Plan, options: &VhdxOptions) -> Result<Vec<ImageFile>, Unwritable> {
    plan.check()?;
    let geometry = geometry(plan, options)?;
    let locator = plan.parent.as_ref().map(locator).transpose()?;
    let fixed = options.allocation == Allocation::Fixed;
    let (runs, blocks) = runs(plan, &geometry, fixed);
    let chunks = partial_chunks(&runs, &geometry);

    let bat_len = (geometry.entries * ENTRY).next_multiple_of(UNIT);
    let bitmaps_at = BAT_AT + bat_len;
    let data_at = bitmaps_at + wide(chunks.len()) * BITMAP_BYTES;
    let structures = structures(plan, options, &geometry, bat_len, locator.as_deref());
    let file = File {
        geometry,
        held: plan.held.clone(),
        runs,
        chunks,
        structures,
        bitmaps_at,
        data_at,
        len: data_at + blocks * geometry.block,
    };
    Ok(vec![ImageFile { suffix: String::new(), layout: Box::new(file) }])
}

const LOG_AT: u64 = UNIT;
const METADATA_AT: u64 = 2 * UNIT;
const BAT_AT: u64 = 3 * UNIT;

/// Bytes of a table that are made at once.
const PAGE: u64 = 64 << 10;

/// The states that are written (2.5.1.1).
const ZERO: u64 = 2;
const PRESENT: u64 = 6;
const PARTIAL: u64 = 7;

fn option(text: String) -> Unwritable {
    Unwritable::Option { format: Format::Vhdx, text }
}

fn geometry(plan: &Plan, options: &VhdxOptions) -> Result<Geometry, Unwritable> {
    let size = plan.virtual_size;
    if size > VIRTUAL_BYTES_MAX {
        return Err(Unwritable::TooLarge {
            format: Format::Vhdx,
            most: VIRTUAL_BYTES_MAX,
            wanted: size,
        });
    }
    let sector = options.sector_bytes;
    if !matches!(sector, 512 | 4096) {
        return Err(option(format!("sectors of {sector} bytes, not 512 or 4096")));
    }
    let is_whole = |bytes: u64| bytes.is_multiple_of(u64::from(sector));
    if size == 0 || !is_whole(size) {
        return Err(option(format!(
            "a disk of {size} bytes is no multiple of its sector, {sector}"
        )));
    }
    let block = match options.block_bytes {
        Some(bytes) => u64::from(bytes),
        None => smallest_block(size, sector, plan.parent.is_some()),
    };
    if !block.is_power_of_two() || !(BLOCK_BYTES.0..=BLOCK_BYTES.1).contains(&block) {
        let text = format!("blocks of {block} bytes, not a power of two from 1 MiB to 256 MiB");
        return Err(option(text));
    }
    let differs = plan.parent.is_some();
    if differs && options.allocation == Allocation::Fixed {
        return Err(option("a fixed disk has no parent".to_owned()));
    }
    let whole_sectors = |held: &Held| is_whole(held.start) && is_whole(held.len);
    if let Some(held) = plan.held.iter().find(|held| differs && !whole_sectors(held)) {
        let text = format!("the range at byte {} is not of whole sectors of {sector}", held.start);
        return Err(option(text));
    }
    Ok(Geometry::new(size, block, sector, differs))
}

/// The smallest block whose table a reader holds whole.
fn smallest_block(size: u64, sector: u32, differs: bool) -> u64 {
    let fits = |block: &u64| {
        Geometry::new(size, *block, sector, differs).entries * ENTRY <= limits::RESIDENT_BYTES
    };
    let sizes = std::iter::successors(Some(BLOCK_BYTES.0), |block| Some(block * 2));
    sizes.take_while(|block| *block <= BLOCK_BYTES.1).find(fits).unwrap_or(BLOCK_BYTES.1)
}

/// Blocks that follow each other in one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    first: u64,
    count: u64,
    state: u64,
    /// Blocks of the file before the first one of these.
    before: u64,
}

/// The runs of blocks that have a state, and the number of blocks in the file.
fn runs(plan: &Plan, geometry: &Geometry, fixed: bool) -> (Vec<Run>, u64) {
    let mut blocks = Blocks { geometry, runs: Vec::new(), allocated: 0, open: None };
    if fixed {
        blocks.push(0, geometry.blocks, PRESENT);
    } else {
        for held in &plan.held {
            blocks.take(held);
        }
        blocks.close();
    }
    (blocks.runs, blocks.allocated)
}

/// Runs under way: ranges come in order.
struct Blocks<'a> {
    geometry: &'a Geometry,
    runs: Vec<Run>,
    allocated: u64,
    /// A block that is covered in part so far: its number, bytes, and whether some are data.
    open: Option<(u64, u64, bool)>,
}

impl Blocks<'_> {
    fn take(&mut self, held: &Held) {
        let (mut start, end) = (held.start, held.start + held.len);
        while start < end {
            let block = start / self.geometry.block;
            let block_start = block * self.geometry.block;
            let block_end = block_start + self.geometry.visible(block);
            if start == block_start && end >= block_end {
                self.close();
                let whole = end / self.geometry.block - block;
                let count = if end == self.geometry.virtual_size {
                    self.geometry.blocks - block
                } else {
                    whole
                };
                self.push(block, count, if held.zero { ZERO } else { PRESENT });
                start = (block_start + count * self.geometry.block).min(end);
                continue;
            }
            let piece = end.min(block_end) - start;
            if self.open.is_some_and(|(open, ..)| open != block) {
                self.close();
            }
            let (_, covered, data) = self.open.unwrap_or((block, 0, false));
            self.open = Some((block, covered + piece, data || !held.zero));
            start += piece;
        }
    }

    fn close(&mut self) {
        let Some((block, covered, data)) = self.open.take() else { return };
        let is_whole = covered == self.geometry.visible(block);
        let state = match (is_whole, data) {
            (true, false) => ZERO,
            (false, _) if self.geometry.differs => PARTIAL,
            (_, true) => PRESENT,
            (false, false) => return,
        };
        self.push(block, 1, state);
    }

    fn push(&mut self, first: u64, count: u64, state: u64) {
        let before = self.allocated;
        self.allocated += if state == ZERO { 0 } else { count };
        match self.runs.last_mut() {
            Some(last) if last.state == state && last.first + last.count == first => {
                last.count += count;
            }
            _ => self.runs.push(Run { first, count, state, before }),
        }
    }
}

/// The chunks that need a sector bitmap, in order.
fn partial_chunks(runs: &[Run], geometry: &Geometry) -> Vec<u64> {
    let mut chunks: Vec<u64> = Vec::new();
    for run in runs.iter().filter(|run| run.state == PARTIAL) {
        let last = (run.first + run.count - 1) / geometry.ratio;
        let next = chunks.last().map_or(0, |chunk| chunk + 1);
        chunks.extend((run.first / geometry.ratio).max(next)..=last);
    }
    chunks
}

/// The file of a plan.
struct File {
    geometry: Geometry,
    held: Vec<Held>,
    runs: Vec<Run>,
    chunks: Vec<u64>,
    /// What stands before the block table, by its place; zeroes between.
    structures: Vec<(u64, Vec<u8>)>,
    bitmaps_at: u64,
    data_at: u64,
    len: u64,
}

impl Layout for File {
    fn len(&self) -> u64 {
        self.len
    }

    fn pieces(&self, range: Range<u64>) -> Vec<Piece> {
        let end = range.end.min(self.len);
        let (mut pieces, mut made) = (Vec::new(), 0);
        let mut at = range.start;
        while at < end && pieces.len() < PIECES_MAX && made + narrow(PAGE) <= TABLE_BYTES_MAX {
            let (len, content) = self.piece(at, end);
            if (BAT_AT..self.data_at).contains(&at) {
                made += narrow(len); // made, even where it came out as zeroes
            } else if let Content::Table(bytes) = &content {
                made += bytes.len();
            }
            push(&mut pieces, Piece { start: at, len, content });
            at += len;
        }
        pieces
    }
}

/// Adds a piece, joined with the last one where it goes on.
fn push(pieces: &mut Vec<Piece>, next: Piece) {
    if let Some(last) = pieces.last_mut() {
        let goes_on = match (&last.content, &next.content) {
            (Content::Zero, Content::Zero) => true,
            (Content::Guest(from), Content::Guest(to)) => from + last.len == *to,
            _ => false,
        };
        if goes_on {
            last.len += next.len;
            return;
        }
    }
    pieces.push(next);
}

impl File {
    /// What stands at `at`, and how far that goes on before `end`.
    fn piece(&self, at: u64, end: u64) -> (u64, Content) {
        if at < BAT_AT {
            return self.structure(at, end.min(BAT_AT));
        }
        if at < self.data_at {
            let page_end = (at / PAGE + 1) * PAGE; // all parts begin at multiples of 1 MiB
            let (len, page) = if at < self.bitmaps_at {
                (page_end.min(end) - at, self.table(at - BAT_AT, page_end.min(end) - BAT_AT))
            } else {
                let end = page_end.min(end) - self.bitmaps_at;
                (end + self.bitmaps_at - at, self.bitmap(at - self.bitmaps_at, end))
            };
            let is_zero = page.iter().all(|byte| *byte == 0);
            return (len, if is_zero { Content::Zero } else { Content::Table(page) });
        }
        self.payload(at - self.data_at, end - self.data_at)
    }

    fn structure(&self, at: u64, end: u64) -> (u64, Content) {
        let next = self.structures.partition_point(|(start, _)| *start <= at);
        if let Some((start, bytes)) = next.checked_sub(1).map(|last| &self.structures[last])
            && at - start < wide(bytes.len())
        {
            let bytes = &bytes[narrow(at - start)..];
            let len = narrow((end - at).min(PAGE)).min(bytes.len());
            return (wide(len), Content::Table(bytes[..len].to_vec()));
        }
        let next = self.structures.get(next).map_or(end, |(start, _)| *start);
        (next.min(end) - at, Content::Zero)
    }

    /// Bytes `start..end` of the block table.
    fn table(&self, start: u64, end: u64) -> Vec<u8> {
        let first = start / ENTRY;
        let entries =
            (first..end.div_ceil(ENTRY)).flat_map(|index| self.entry(index).to_le_bytes());
        entries.skip(narrow(start % ENTRY)).take(narrow(end - start)).collect()
    }

    fn entry(&self, index: u64) -> u64 {
        if index >= self.geometry.entries {
            return 0;
        }
        match self.geometry.owner(index) {
            Owner::Bitmap(chunk) => match self.chunks.binary_search(&chunk) {
                Ok(place) => (self.bitmaps_at + wide(place) * BITMAP_BYTES) | PRESENT,
                Err(_) => 0,
            },
            Owner::Payload(block) => {
                let after = self.runs.partition_point(|run| run.first <= block);
                let run = after.checked_sub(1).map(|last| &self.runs[last]);
                match run.filter(|run| block - run.first < run.count) {
                    Some(run) if run.state == ZERO => ZERO,
                    Some(run) => {
                        let place = run.before + block - run.first;
                        (self.data_at + place * self.geometry.block) | run.state
                    }
                    None => 0,
                }
            }
        }
    }

    /// Bytes `start..end` of the sector bitmaps, within one of them.
    fn bitmap(&self, start: u64, end: u64) -> Vec<u8> {
        let chunk = self.chunks[narrow(start / BITMAP_BYTES)];
        let chunk_sectors = BITMAP_BYTES * 8;
        let first = chunk * chunk_sectors + start % BITMAP_BYTES * 8;
        let last = first + (end - start) * 8;
        let sector = self.geometry.sector;
        let mut bytes = vec![0; narrow(end - start)];
        let from = self.held.partition_point(|held| held.start + held.len <= first * sector);
        for held in &self.held[from..] {
            let begin = (held.start / sector).max(first);
            let past = ((held.start + held.len) / sector).min(last);
            if begin >= last {
                break;
            }
            set(&mut bytes, begin - first, past - first);
        }
        bytes
    }

    /// What stands at byte `at` of the blocks.
    fn payload(&self, at: u64, end: u64) -> (u64, Content) {
        let block = self.geometry.block;
        let after = self.runs.partition_point(|run| run.before <= at / block);
        let run = self.runs[after - 1]; // the first run stands before all others
        let skip = at - run.before * block;
        let guest = run.first * block + skip;
        let len = (run.count * block - skip).min(end - at);
        let next = self.held.partition_point(|held| held.start + held.len <= guest);
        match self.held.get(next) {
            Some(held) if held.start <= guest => {
                let len = len.min(held.start + held.len - guest);
                (len, if held.zero { Content::Zero } else { Content::Guest(guest) })
            }
            Some(held) => (len.min(held.start - guest), Content::Zero),
            None => (len, Content::Zero),
        }
    }
}

/// Sets bits `from..to`, the lowest bit of a byte first.
fn set(bytes: &mut [u8], from: u64, to: u64) {
    let mut bit = from;
    while bit < to {
        if bit.is_multiple_of(8) && to - bit >= 8 {
            let whole = to / 8;
            bytes[narrow(bit / 8)..narrow(whole)].fill(0xff);
            bit = whole * 8;
        } else {
            bytes[narrow(bit / 8)] |= 1 << (bit % 8);
            bit += 1;
        }
    }
}

/// What stands before the block table.
fn structures(
    plan: &Plan,
    options: &VhdxOptions,
    geometry: &Geometry,
    bat_len: u64,
    locator: Option<&[u8]>,
) -> Vec<(u64, Vec<u8>)> {
    let mut identifier = b"vhdxfile".to_vec();
    identifier.extend("Strandline".encode_utf16().flat_map(u16::to_le_bytes));
    let [first, second] = HEADERS;
    let regions = regions(bat_len);
    let (table, items) = metadata(plan, options, geometry, locator);
    vec![
        (0, identifier),
        (first, header(&plan.seed, 1)),
        (second, header(&plan.seed, 2)),
        (TABLES[0], regions.clone()),
        (TABLES[1], regions),
        (METADATA_AT, table),
        (METADATA_AT + metadata::TABLE_BYTES, items),
    ]
}

fn header(seed: &[u8; 32], sequence: u64) -> Vec<u8> {
    let mut bytes = b"head\0\0\0\0".to_vec();
    bytes.extend(sequence.to_le_bytes());
    bytes.extend(derived(seed, 1));
    bytes.extend(derived(seed, 2));
    bytes.extend(guid::NONE);
    bytes.extend(0_u16.to_le_bytes()); // version of the log
    bytes.extend(1_u16.to_le_bytes()); // version of the file
    bytes.extend(low(UNIT).to_le_bytes());
    bytes.extend(LOG_AT.to_le_bytes());
    bytes.resize(narrow(head::HEADER_BYTES), 0);
    sealed(bytes)
}

fn regions(bat_len: u64) -> Vec<u8> {
    let mut bytes = b"regi\0\0\0\0".to_vec();
    bytes.extend(2_u32.to_le_bytes());
    bytes.extend([0; 4]);
    for (guid, at, len) in [(guid::BAT, BAT_AT, bat_len), (guid::METADATA, METADATA_AT, UNIT)] {
        bytes.extend(guid);
        bytes.extend(at.to_le_bytes());
        bytes.extend(low(len).to_le_bytes());
        bytes.extend(1_u32.to_le_bytes()); // required
    }
    bytes.resize(narrow(super::regions::TABLE_BYTES), 0);
    sealed(bytes)
}

/// The metadata table and, 64 KiB behind its start, its items.
fn metadata(
    plan: &Plan,
    options: &VhdxOptions,
    geometry: &Geometry,
    locator: Option<&[u8]>,
) -> (Vec<u8>, Vec<u8>) {
    let fixed = if options.allocation == Allocation::Fixed { LEAVE_ALLOCATED } else { 0 };
    let flags = fixed | if locator.is_some() { HAS_PARENT } else { 0 };
    let mut parameters = low(geometry.block).to_le_bytes().to_vec();
    parameters.extend(flags.to_le_bytes());
    let of_disk = IS_DISK | IS_REQUIRED;
    let mut items = vec![
        (guid::FILE_PARAMETERS, parameters, IS_REQUIRED),
        (guid::VIRTUAL_SIZE, geometry.virtual_size.to_le_bytes().to_vec(), of_disk),
        (guid::DISK_ID, derived(&plan.seed, 3).to_vec(), of_disk),
        (guid::LOGICAL_SECTOR, options.sector_bytes.to_le_bytes().to_vec(), of_disk),
        (guid::PHYSICAL_SECTOR, 4096_u32.to_le_bytes().to_vec(), of_disk),
    ];
    items.extend(locator.map(|bytes| (guid::PARENT_LOCATOR, bytes.to_vec(), IS_REQUIRED)));

    let mut table = b"metadata\0\0".to_vec();
    table.extend(u16::try_from(items.len()).expect("six at most").to_le_bytes());
    table.resize(32, 0);
    let mut held: Vec<u8> = Vec::new();
    for (guid, bytes, flags) in items {
        table.extend(guid);
        table.extend(low(metadata::TABLE_BYTES + wide(held.len())).to_le_bytes());
        table.extend(low(wide(bytes.len())).to_le_bytes());
        table.extend(flags.to_le_bytes());
        table.extend([0; 4]);
        held.extend(bytes);
        held.resize(held.len().next_multiple_of(16), 0);
    }
    (table, held)
}

/// The parent locator's item.
pub(super) fn locator(parent: &ParentPlan) -> Result<Vec<u8>, Unwritable> {
    let Identity::Vhdx { data_write, .. } = parent.identity else {
        let text = format!("the parent of a VHDX image must be one too, not {}", parent.format);
        return Err(option(text));
    };
    let path = format!(".\\{}", parent.name.replace('/', "\\"));
    let pairs = [("parent_linkage", guid::text(&data_write)), ("relative_path", path)];
    let mut bytes = guid::LOCATOR_TYPE.to_vec();
    bytes.extend(0_u16.to_le_bytes());
    bytes.extend(u16::try_from(pairs.len()).expect("two").to_le_bytes());
    let texts_at = bytes.len() + pairs.len() * 12;
    let mut texts: Vec<u8> = Vec::new();
    for (key, value) in pairs {
        let key_at = low(wide(texts_at + texts.len()));
        let key: Vec<u8> = key.encode_utf16().flat_map(u16::to_le_bytes).collect();
        texts.extend(&key);
        let value_at = low(wide(texts_at + texts.len()));
        let value: Vec<u8> = value.encode_utf16().flat_map(u16::to_le_bytes).collect();
        texts.extend(&value);
        let Ok(value_len) = u16::try_from(value.len()) else {
            return Err(option("the parent's name is too long".to_owned()));
        };
        bytes.extend(key_at.to_le_bytes());
        bytes.extend(value_at.to_le_bytes());
        bytes.extend(u16::try_from(key.len()).expect("short words").to_le_bytes());
        bytes.extend(value_len.to_le_bytes());
    }
    bytes.extend(texts);
    Ok(bytes)
}

/// The structure with its checksum in its place.
pub(super) fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = head::checksum(&bytes);
    bytes[4..8].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// A length of the format's own that has 32 bits.
pub(super) fn low(len: u64) -> u32 {
    u32::try_from(len).expect("bounded by the format")
}

/// A GUID of version 4 that follows from a seed: the seed is a digest, this only spreads it.
fn derived(seed: &[u8; 32], purpose: u64) -> Guid {
    let mut lanes = [purpose, !purpose];
    for word in seed.chunks_exact(8) {
        let word = u64::from_le_bytes(word.try_into().expect("eight bytes"));
        for (lane, turn) in lanes.iter_mut().zip([17, 41]) {
            *lane = spread(*lane ^ word).rotate_left(turn);
        }
    }
    let mut guid = [0; 16];
    guid[..8].copy_from_slice(&spread(lanes[0]).to_le_bytes());
    guid[8..].copy_from_slice(&spread(lanes[1]).to_le_bytes());
    guid[7] = (guid[7] & 0x0f) | 0x40;
    guid[8] = (guid[8] & 0x3f) | 0x80;
    guid
}

/// SplitMix64's step.
fn spread(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
