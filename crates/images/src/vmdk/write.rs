//! VMDK images to be written: a flat one in two files, a sparse one in one, and deltas.
//!
//! ```text
//! sparse: header │ descriptor │ second directory, its tables │ directory, tables │ grains
//! sectors:  1    │     20     │            tables are all there, held or not     │ in guest order
//! ```
//!
//! All follows from the runs of grains that are held: nothing is kept for each grain. Content ids are
//! derived from the plan's seed. A disk ends with a whole sector: the last one is filled with zeroes.
//! A stream for pipes and archives is in [`super::stream`].
//!
//! Source: VMware Virtual Disk Format 5.0.

use std::{fmt::Write, ops::Range};

use crate::{
    Format, Identity,
    bytes::{narrow, round_up, wide},
    layout::{
        Content, Held, ImageFile, Layout, PIECES_MAX, ParentPlan, Piece, Plan, TABLE_BYTES_MAX,
        Unwritable,
    },
    limits,
    names::{self, Style},
    vmdk::{
        descriptor::NO_PARENT,
        header::{HOSTED, NEWLINES, SECTOR, flag},
    },
};

/// What is chosen for an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmdkOptions {
    /// How its bytes are kept.
    pub kind: VmdkKind,
    /// Its file name without a folder; it stands in the descriptor. Other files take its stem, their
    /// suffix and its extension: `disk.vmdk` and `disk-flat.vmdk`.
    pub name: String,
    /// The controller that the descriptor names.
    pub adapter: Adapter,
}

/// How the bytes of an image are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmdkKind {
    /// `monolithicFlat`: a descriptor, and a file with the guest's bytes.
    Flat,
    /// `monolithicSparse`: one file with the grains that are held. With a parent: a delta.
    Sparse,
}

/// The controller that a disk is made for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Adapter {
    /// LSI Logic, what hypervisors take when in doubt.
    #[default]
    LsiLogic,
    /// IDE: its geometry ends at 8 GB, larger disks are addressed by sector.
    Ide,
}

/// Bytes of a grain.
pub(super) const GRAIN: u64 = 64 << 10;

/// Entries of a grain table.
pub(super) const ENTRIES: u64 = 512;

/// Sectors of the descriptor within an extent.
pub(super) const DESCRIPTOR_SECTORS: u64 = 20;

/// Sectors that an entry can name.
pub(super) const SECTORS_MAX: u64 = 1 << 32;

/// The files of an image.
pub fn layout(plan: &Plan, options: &VmdkOptions) -> Result<Vec<ImageFile>, Unwritable> {
    plan.check()?;
    let size = disk_bytes(plan.virtual_size)?;
    let text = Text::of(plan, &options.name, options.adapter)?;
    match options.kind {
        VmdkKind::Flat => flat(plan, size, &text),
        VmdkKind::Sparse => {
            let file = ImageFile {
                suffix: String::new(),
                layout: Box::new(Sparse::new(plan, size, &text)?),
            };
            Ok(vec![file])
        }
    }
}

/// The content id that an image of this plan gets: what a delta over it will state.
pub fn content_id(plan: &Plan) -> u32 {
    let [a, b, c, d, ..] = plan.seed;
    let id = u32::from_le_bytes([a, b, c, d]);
    let parent = plan.parent.as_ref().map(|parent| parent.identity);
    // All ones means "no parent", one less is what VMware gives to a disk never written.
    let is_taken = |id| id >= NO_PARENT - 1 || parent == Some(Identity::Vmdk { content: id });
    (0..4).map(|step| id.wrapping_add(step)).find(|id| !is_taken(*id)).unwrap_or(id)
}

/// Bytes of a disk in whole sectors.
pub(super) fn disk_bytes(virtual_size: u64) -> Result<u64, Unwritable> {
    let most = limits::VIRTUAL_BYTES_MAX / SECTOR * SECTOR;
    let size = round_up(virtual_size, SECTOR).filter(|size| *size <= most);
    size.ok_or(Unwritable::TooLarge { format: Format::Vmdk, most, wanted: virtual_size })
}

/// What all descriptors of a plan have in common.
pub(super) struct Text {
    content: u32,
    parent: Option<(u32, String)>,
    name: String,
    adapter: Adapter,
}

impl Text {
    pub fn of(plan: &Plan, name: &str, adapter: Adapter) -> Result<Self, Unwritable> {
        quotable(name)?;
        if name.contains(['/', '\\']) {
            return Err(unwritable(format!("the file name {name:?} has a folder in it")));
        }
        let parent = plan.parent.as_ref().map(|parent| parent_id(plan, parent)).transpose()?;
        Ok(Self { content: content_id(plan), parent, name: name.to_owned(), adapter })
    }

    /// The descriptor of a disk with one extent.
    pub fn text(&self, kind: &str, size: u64, extent: &str) -> String {
        let mut text = format!(
            "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID={:08x}\nparentCID={:08x}\n\
             createType=\"{kind}\"\n",
            self.content,
            self.parent.as_ref().map_or(NO_PARENT, |(content, _)| *content),
        );
        let mut line = |line: std::fmt::Arguments<'_>| {
            text.write_fmt(line).expect("text grows");
            text.push('\n');
        };
        if let Some((_, hint)) = &self.parent {
            line(format_args!("parentFileNameHint=\"{hint}\""));
        }
        line(format_args!("\n# Extent description\n{extent}\n"));
        let (adapter, [cylinders, heads, sectors]) = self.adapter.geometry(size);
        line(format_args!("# The Disk Data Base\n#DDB\n"));
        line(format_args!("ddb.adapterType = \"{adapter}\""));
        line(format_args!("ddb.geometry.cylinders = \"{cylinders}\""));
        line(format_args!("ddb.geometry.heads = \"{heads}\""));
        line(format_args!("ddb.geometry.sectors = \"{sectors}\""));
        line(format_args!("ddb.virtualHWVersion = \"4\""));
        text
    }

    /// The descriptor of a sparse extent in the sectors that it has within the extent.
    pub fn sectors(&self, kind: &str, size: u64) -> Vec<u8> {
        let extent = format!("RW {} SPARSE \"{}\"", size / SECTOR, self.name);
        let mut bytes = self.text(kind, size, &extent).into_bytes();
        assert!(wide(bytes.len()) < DESCRIPTOR_SECTORS * SECTOR, "names are short");
        bytes.resize(narrow(DESCRIPTOR_SECTORS * SECTOR), 0);
        bytes
    }

    /// The name of another file of the image.
    fn beside(&self, suffix: &str) -> String {
        match self.name.rsplit_once('.') {
            Some((stem, extension)) => format!("{stem}{suffix}.{extension}"),
            None => format!("{}{suffix}", self.name),
        }
    }
}

impl Adapter {
    /// Its name, and the cylinders, heads and sectors that VMware gives a disk of that size.
    fn geometry(self, size: u64) -> (&'static str, [u64; 3]) {
        let (name, heads, sectors, most) = match self {
            Self::Ide => ("ide", 16, 63, 16383),
            Self::LsiLogic if size < 1 << 30 => ("lsilogic", 64, 32, u64::MAX),
            Self::LsiLogic if size < 2 << 30 => ("lsilogic", 128, 32, u64::MAX),
            Self::LsiLogic => ("lsilogic", 255, 63, u64::MAX),
        };
        let cylinders = size / SECTOR / (heads * sectors);
        (name, [cylinders.clamp(1, most), heads, sectors])
    }
}

/// Whether a name can stand in a descriptor and be found again by a reader.
pub(super) fn quotable(name: &str) -> Result<(), Unwritable> {
    let is_plain = !name.contains(['"', '\n', '\r']);
    if is_plain && names::check(name, Style::Windows).is_ok() {
        return Ok(());
    }
    Err(unwritable(format!("a descriptor cannot hold the file name {name:?}")))
}

fn parent_id(plan: &Plan, parent: &ParentPlan) -> Result<(u32, String), Unwritable> {
    let Identity::Vmdk { content } = parent.identity else {
        return Err(unwritable(format!("a parent of format {} has no content id", parent.format)));
    };
    quotable(&parent.name)?;
    if disk_bytes(parent.virtual_size)? != disk_bytes(plan.virtual_size)? {
        let text = format!(
            "the parent has {} bytes, the child {}: they must be equal",
            parent.virtual_size, plan.virtual_size
        );
        return Err(unwritable(text));
    }
    Ok((content, parent.name.clone()))
}

pub(super) fn unwritable(text: String) -> Unwritable {
    Unwritable::Option { format: Format::Vmdk, text }
}

/// Descriptor and data.
fn flat(plan: &Plan, size: u64, text: &Text) -> Result<Vec<ImageFile>, Unwritable> {
    const SUFFIX: &str = "-flat";
    if plan.parent.is_some() {
        return Err(unwritable("a flat image has no parent: take a sparse one".to_owned()));
    }
    let extent = format!("RW {} FLAT \"{}\" 0", size / SECTOR, text.beside(SUFFIX));
    let descriptor = Bytes(text.text("monolithicFlat", size, &extent).into_bytes());
    let held = plan.held.iter().filter(|held| !held.zero).copied().collect();
    Ok(vec![
        ImageFile { suffix: String::new(), layout: Box::new(descriptor) },
        ImageFile { suffix: SUFFIX.to_owned(), layout: Box::new(Flat { size, held }) },
    ])
}

/// A small file.
struct Bytes(Vec<u8>);

impl Layout for Bytes {
    fn len(&self) -> u64 {
        wide(self.0.len())
    }

    fn pieces(&self, range: Range<u64>) -> Vec<Piece> {
        let end = range.end.min(self.len());
        if range.start >= end {
            return Vec::new();
        }
        let bytes = self.0[narrow(range.start)..narrow(end)].to_vec();
        vec![Piece { start: range.start, len: end - range.start, content: Content::Table(bytes) }]
    }
}

/// The guest's bytes as they are.
struct Flat {
    size: u64,
    /// Ranges that are not zero.
    held: Vec<Held>,
}

impl Layout for Flat {
    fn len(&self) -> u64 {
        self.size
    }

    fn pieces(&self, range: Range<u64>) -> Vec<Piece> {
        let end = range.end.min(self.size);
        let mut pieces = Pieces::new(range.start);
        let first = self.held.partition_point(|held| held.start + held.len <= range.start);
        for held in &self.held[first..] {
            if held.start >= end || pieces.is_full() {
                break;
            }
            pieces.push(held.start, Content::Zero);
            let place = pieces.place;
            pieces.push((held.start + held.len).min(end), Content::Guest(place));
        }
        if !pieces.is_full() {
            pieces.push(end, Content::Zero);
        }
        pieces.list
    }
}

/// Pieces in the making.
struct Pieces {
    place: u64,
    list: Vec<Piece>,
    table_bytes: usize,
}

impl Pieces {
    fn new(place: u64) -> Self {
        Self { place, list: Vec::new(), table_bytes: 0 }
    }

    /// Whether two more pieces might be too many.
    fn is_full(&self) -> bool {
        self.list.len() + 2 > PIECES_MAX || self.table_bytes >= TABLE_BYTES_MAX
    }

    /// The next piece, up to `end`: nothing where that is behind already.
    fn push(&mut self, end: u64, content: Content) {
        let (start, len) = (self.place, end.saturating_sub(self.place));
        if len == 0 {
            return;
        }
        self.place = end;
        if let Content::Table(bytes) = &content {
            assert_eq!(wide(bytes.len()), len, "a piece has the bytes of its length");
            self.table_bytes += bytes.len();
        }
        if let (Content::Zero, Some(last)) = (&content, self.list.last_mut())
            && last.content == Content::Zero
        {
            last.len += len;
            return;
        }
        self.list.push(Piece { start, len, content });
    }
}

/// A run of grains that are kept in the same way.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// Number of the first one, and the number behind the last.
    first: u64,
    past: u64,
    /// How many data grains of the file stand before the first.
    place: u64,
}

/// One hosted sparse extent with its descriptor within.
struct Sparse {
    head: Vec<u8>,
    /// Tables of each directory.
    tables: u64,
    /// Grains with bytes, in order.
    data: Vec<Run>,
    /// Grains of zeroes that hide the parent's, in order.
    zeroed: Vec<Run>,
    /// Where the first grain is.
    grains_at: u64,
    len: u64,
}

impl Sparse {
    fn new(plan: &Plan, size: u64, text: &Text) -> Result<Self, Unwritable> {
        let (data, zeroed) = runs(plan, size);
        let tables = size.div_ceil(GRAIN).div_ceil(ENTRIES);
        let mut extent = Self { head: Vec::new(), tables, data, zeroed, grains_at: 0, len: 0 };
        let grains = extent.data.last().map_or(0, |run| run.place + run.past - run.first);
        let end = extent.area(1).end;
        extent.grains_at = end.next_multiple_of(GRAIN);
        extent.len = extent.grains_at.saturating_add(grains.saturating_mul(GRAIN));
        if extent.len > SECTORS_MAX * SECTOR {
            let most = SECTORS_MAX * SECTOR;
            let wanted = plan.virtual_size;
            return Err(Unwritable::TooLarge { format: Format::Vmdk, most, wanted });
        }
        let zeroes = !extent.zeroed.is_empty();
        let head = Head {
            version: if zeroes { 2 } else { 1 },
            flags: flag::NEWLINES | flag::REDUNDANT | if zeroes { flag::ZEROED } else { 0 },
            capacity: size / SECTOR,
            directories: [extent.area(0).start / SECTOR, extent.area(1).start / SECTOR],
            overhead: extent.grains_at / SECTOR,
            algorithm: 0,
        };
        extent.head = head.bytes();
        extent.head.extend(text.sectors("monolithicSparse", size));
        Ok(extent)
    }

    /// Where a copy of directory and tables is: 0 the second one, which stands first.
    fn area(&self, copy: u64) -> Range<u64> {
        let start = (1 + DESCRIPTOR_SECTORS) * SECTOR;
        let len = self.directory_bytes() + self.tables * ENTRIES * 4;
        start + copy * len..start + (copy + 1) * len
    }

    fn directory_bytes(&self) -> u64 {
        (self.tables * 4).next_multiple_of(SECTOR)
    }

    /// Bytes of a copy of directory and tables, `range` counting from its start.
    fn push_area(&self, pieces: &mut Pieces, area: &Range<u64>, end: u64) {
        let tables_at = area.start + self.directory_bytes();
        if pieces.place < tables_at {
            let end = end.min(tables_at).min(pieces.place.saturating_add(wide(TABLE_BYTES_MAX)));
            let sector = |table: u64| {
                let at = (tables_at + table * ENTRIES * 4) / SECTOR;
                if table < self.tables { at } else { 0 }
            };
            let bytes = entries(pieces.place - area.start..end - area.start, sector);
            pieces.push(end, Content::Table(bytes));
            return;
        }
        let table = (pieces.place - tables_at) / (ENTRIES * 4);
        let end = end.min(tables_at + (table + 1) * ENTRIES * 4);
        let grains = table * ENTRIES..(table + 1) * ENTRIES;
        let content = if meets(&self.data, &grains) || meets(&self.zeroed, &grains) {
            let within = pieces.place - tables_at..end - tables_at;
            Content::Table(entries(within, |grain| self.entry(grain)))
        } else {
            Content::Zero
        };
        pieces.push(end, content);
    }

    /// The table entry of a grain.
    fn entry(&self, grain: u64) -> u64 {
        match run_of(&self.data, grain) {
            Some(run) => (self.grains_at + (run.place + grain - run.first) * GRAIN) / SECTOR,
            None => u64::from(run_of(&self.zeroed, grain).is_some()),
        }
    }

    /// The grains from the present place on, up to the end of their run.
    fn push_grains(&self, pieces: &mut Pieces, end: u64) {
        let place = pieces.place - self.grains_at;
        let count = place / GRAIN;
        let index = self.data.partition_point(|run| run.place + run.past - run.first <= count);
        let run = self.data[index];
        let run_end = self.grains_at + (run.place + run.past - run.first) * GRAIN;
        let guest = (run.first + count - run.place) * GRAIN + place % GRAIN;
        pieces.push(end.min(run_end), Content::Guest(guest));
    }
}

impl Layout for Sparse {
    fn len(&self) -> u64 {
        self.len
    }

    fn pieces(&self, range: Range<u64>) -> Vec<Piece> {
        let end = range.end.min(self.len);
        let mut pieces = Pieces::new(range.start);
        let head = wide(self.head.len());
        while pieces.place < end && !pieces.is_full() {
            let place = pieces.place;
            let area = [self.area(0), self.area(1)].into_iter().find(|area| area.contains(&place));
            if place < head {
                let end = end.min(head);
                let bytes = self.head[narrow(place)..narrow(end)].to_vec();
                pieces.push(end, Content::Table(bytes));
            } else if let Some(area) = area {
                self.push_area(&mut pieces, &area, end.min(area.end));
            } else if place < self.grains_at {
                pieces.push(end.min(self.grains_at), Content::Zero);
            } else {
                self.push_grains(&mut pieces, end);
            }
        }
        pieces.list
    }
}

/// Bytes `range` of a table of 32-bit entries.
fn entries(range: Range<u64>, entry: impl Fn(u64) -> u64) -> Vec<u8> {
    let numbers = range.start / 4..range.end.div_ceil(4);
    let skip = narrow(range.start % 4);
    let word = |number| u32::try_from(entry(number)).expect("the file's length was checked");
    let bytes = numbers.flat_map(|number| word(number).to_le_bytes());
    bytes.skip(skip).take(narrow(range.end - range.start)).collect()
}

fn run_of(runs: &[Run], grain: u64) -> Option<&Run> {
    let index = runs.partition_point(|run| run.past <= grain);
    runs.get(index).filter(|run| run.first <= grain)
}

fn meets(runs: &[Run], grains: &Range<u64>) -> bool {
    let index = runs.partition_point(|run| run.past <= grains.start);
    runs.get(index).is_some_and(|run| run.first < grains.end)
}

/// Grains with bytes, and grains that are all zero over a parent. A grain that is held in part is
/// written whole, with what the guest sees there.
fn runs(plan: &Plan, size: u64) -> (Vec<Run>, Vec<Run>) {
    let (mut data, mut zeroed) = (Vec::new(), Vec::new());
    let mut held = plan.held.iter().peekable();
    while let Some(first) = held.next() {
        let mut end = first.start + first.len;
        while let Some(next) = held.next_if(|next| next.zero == first.zero && next.start == end) {
            end = next.start + next.len;
        }
        let is_last = end >= plan.virtual_size;
        let (start, end) = (first.start, if is_last { size } else { end });
        let past = end.div_ceil(GRAIN);
        if !first.zero {
            add(&mut data, start / GRAIN, past);
        } else if plan.parent.is_some() {
            let (inner, inner_past) =
                (start.div_ceil(GRAIN), if is_last { past } else { end / GRAIN });
            if inner < inner_past {
                add(&mut data, start / GRAIN, inner);
                add(&mut zeroed, inner, inner_past);
                add(&mut data, inner_past, past);
            } else {
                add(&mut data, start / GRAIN, past);
            }
        }
    }
    (data, zeroed)
}

/// Adds grains `first..past` to runs that reach no further than there, joined where they meet.
fn add(runs: &mut Vec<Run>, first: u64, past: u64) {
    let (reach, place) =
        runs.last().map_or((0, 0), |last| (last.past, last.place + last.past - last.first));
    let first = first.max(reach);
    if first >= past {
        return;
    }
    match runs.last_mut() {
        Some(last) if last.past == first => last.past = past,
        _ => runs.push(Run { first, past, place }),
    }
}

/// Numbers of a hosted header.
pub(super) struct Head {
    pub version: u32,
    pub flags: u32,
    /// In sectors, as the two below.
    pub capacity: u64,
    /// The second directory, and the first.
    pub directories: [u64; 2],
    /// Where grains begin.
    pub overhead: u64,
    pub algorithm: u16,
}

impl Head {
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = HOSTED.to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(self.flags.to_le_bytes());
        for field in [self.capacity, GRAIN / SECTOR, 1, DESCRIPTOR_SECTORS] {
            bytes.extend(field.to_le_bytes());
        }
        bytes.extend(&ENTRIES.to_le_bytes()[..4]);
        for field in [self.directories[0], self.directories[1], self.overhead] {
            bytes.extend(field.to_le_bytes());
        }
        bytes.push(0);
        bytes.extend(NEWLINES);
        bytes.extend(self.algorithm.to_le_bytes());
        bytes.resize(narrow(SECTOR), 0);
        bytes
    }
}
