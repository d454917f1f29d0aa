//! qcow2 to be written: version 3, tables first, guest clusters in guest order.
//!
//! ```text
//! header │ L1 │ refcount table │ refcount blocks │ L2 tables │ data clusters …
//! ```
//!
//! Every refcount is 1, every table's place follows from the plan: memory is a few words for each
//! range of the plan, whatever the disk's size. A cluster of which the plan holds a part is written
//! whole, as the guest sees it, so what a caller answers for [`Content::Guest`] is the merged disk.

use std::ops::Range;

use super::header::extension;
use crate::{
    Format,
    bytes::{narrow, wide},
    layout::{
        Content, Held, ImageFile, Layout, PIECES_MAX, Piece, Plan, TABLE_BYTES_MAX, Unwritable,
    },
    limits,
};

/// How an image is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qcow2Options {
    /// Bytes of a cluster as a power of two: 9 to 21.
    pub cluster_bits: u32,
    /// Header extensions of the caller's own: type and bytes.
    pub extensions: Vec<(u32, Vec<u8>)>,
    /// Feature bits that writers who do not know them clear; 0 and 1 are the format's own.
    pub autoclear: u64,
}

impl Default for Qcow2Options {
    fn default() -> Self {
        Self { cluster_bits: 16, extensions: Vec::new(), autoclear: 0 }
    }
}

/// The image of a plan, as one file.
pub fn layout(plan: &Plan, options: &Qcow2Options) -> Result<Vec<ImageFile>, Unwritable> {
    check(plan, options)?;
    let cluster = 1_u64 << options.cluster_bits;
    let l1_count = plan.virtual_size.div_ceil(cluster * (cluster / 8));
    let runs = runs(plan, cluster);
    let tables = tables(&runs, cluster / 8);
    let data = runs.iter().filter(|run| run.data).map(|run| run.count).sum::<u64>();
    let table_count = tables.iter().map(|run| run.count).sum::<u64>();
    let l1_clusters = (l1_count * 8).div_ceil(cluster);
    // Refcount blocks count themselves and their table: grow both until they suffice.
    let fixed = 1 + l1_clusters + table_count + data;
    let (mut blocks, mut refcounts) = (1, 1);
    loop {
        let wanted = (fixed + blocks + refcounts).div_ceil(cluster / 2);
        let table = (wanted * 8).div_ceil(cluster);
        if wanted <= blocks && table <= refcounts {
            break;
        }
        (blocks, refcounts) = (wanted.max(blocks), table.max(refcounts));
    }
    let mut image = Image {
        cluster,
        header: Vec::new(),
        l1: 1,
        refcounts: 1 + l1_clusters,
        blocks: 1 + l1_clusters + refcounts,
        tables_at: 1 + l1_clusters + refcounts + blocks,
        data_at: 1 + l1_clusters + refcounts + blocks + table_count,
        end: fixed + blocks + refcounts,
        tables,
        runs,
    };
    let places = Places {
        cluster,
        l1: image.l1 * cluster,
        l1_count,
        refcounts: image.refcounts * cluster,
        refcount_clusters: refcounts,
        incompatible: 0,
    };
    image.header = make_header(plan, options, &places)?;
    Ok(vec![ImageFile { suffix: String::new(), layout: Box::new(image) }])
}

/// Whether an image can be made of a plan.
pub(super) fn check(plan: &Plan, options: &Qcow2Options) -> Result<(), Unwritable> {
    plan.check()?;
    let refuse = |text: String| Err(Unwritable::Option { format: Format::Qcow2, text });
    if !(9..=21).contains(&options.cluster_bits) {
        return refuse(format!("clusters of 2^{} bytes", options.cluster_bits));
    }
    if options.autoclear & 3 != 0 {
        return refuse("autoclear bits 0 and 1 have a meaning of their own".to_owned());
    }
    let cluster = 1_u64 << options.cluster_bits;
    let reach = cluster * (cluster / 8);
    let l1_count = plan.virtual_size.div_ceil(reach);
    // QEMU follows L1 tables up to 32 MiB.
    let l1_max = limits::RESIDENT_BYTES / 8;
    if l1_count > l1_max || plan.virtual_size > limits::VIRTUAL_BYTES_MAX {
        let most = reach.saturating_mul(l1_max).min(limits::VIRTUAL_BYTES_MAX);
        let (format, wanted) = (Format::Qcow2, plan.virtual_size);
        return Err(Unwritable::TooLarge { format, most, wanted });
    }
    Ok(())
}

/// Clusters in a row, or L2 tables in a row: `count` from `first` on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub first: u64,
    pub count: u64,
    /// How many of its sort come before it.
    before: u64,
    /// Held as data; else as zeroes.
    pub data: bool,
}

/// What a header says of the rest of the file: places in bytes.
pub(super) struct Places {
    pub cluster: u64,
    pub l1: u64,
    pub l1_count: u64,
    pub refcounts: u64,
    pub refcount_clusters: u64,
    pub incompatible: u64,
}

/// A qcow2 file; places are in clusters.
struct Image {
    cluster: u64,
    header: Vec<u8>,
    l1: u64,
    refcounts: u64,
    blocks: u64,
    tables_at: u64,
    data_at: u64,
    end: u64,
    tables: Vec<Run>,
    runs: Vec<Run>,
}

/// Clusters that the image holds, in order.
pub(super) fn runs(plan: &Plan, cluster: u64) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut add = |first: u64, end: u64, data: bool| {
        let reached = runs.last().map_or(0, |run| run.first + run.count);
        let first = first.max(reached);
        if first >= end {
            return;
        }
        match runs.last_mut() {
            Some(run) if run.data == data && reached == first => run.count += end - first,
            _ => runs.push(Run { first, count: end - first, before: 0, data }),
        }
    };
    for held in joined(plan) {
        let (start, end) = (held.start, held.start + held.len);
        if !held.zero {
            add(start / cluster, end.div_ceil(cluster), true);
        } else if plan.parent.is_some() {
            // Whole clusters are marked; the parent shows through the rest of those at the edges.
            let first = start.div_ceil(cluster);
            let last = if end == plan.virtual_size { end.div_ceil(cluster) } else { end / cluster };
            if first > last {
                add(start / cluster, end.div_ceil(cluster), true);
                continue;
            }
            add(start / cluster, first, true);
            add(first, last, false);
            add(last, end.div_ceil(cluster), true);
        }
    }
    number(runs)
}

/// The plan's ranges, those of zeroes that touch made one.
fn joined(plan: &Plan) -> Vec<Held> {
    let mut list: Vec<Held> = Vec::new();
    for held in &plan.held {
        match list.last_mut() {
            Some(last) if last.zero == held.zero && last.start + last.len == held.start => {
                last.len += held.len;
            }
            _ => list.push(*held),
        }
    }
    list
}

/// L2 tables that the runs need.
fn tables(runs: &[Run], entries: u64) -> Vec<Run> {
    let mut tables: Vec<Run> = Vec::new();
    for run in runs {
        let (first, end) = (run.first / entries, (run.first + run.count).div_ceil(entries));
        match tables.last_mut() {
            Some(last) if first <= last.first + last.count => {
                last.count = last.count.max(end - last.first);
            }
            _ => tables.push(Run { first, count: end - first, before: 0, data: true }),
        }
    }
    number(tables)
}

/// Counts what comes before each run of data.
fn number(mut runs: Vec<Run>) -> Vec<Run> {
    let mut before = 0;
    for run in &mut runs {
        run.before = before;
        before += if run.data { run.count } else { 0 };
    }
    runs
}

/// The run that holds a cluster.
fn holding(runs: &[Run], cluster: u64) -> Option<&Run> {
    let after = runs.partition_point(|run| run.first <= cluster);
    runs[..after].last().filter(|run| cluster - run.first < run.count)
}

/// The run of data with the `number`th cluster; there is one.
fn numbered(runs: &[Run], number: u64) -> &Run {
    let after = runs.partition_point(|run| run.before <= number);
    let data = runs[..after].iter().rev().find(|run| run.data);
    data.expect("the number is below the count of data clusters")
}

impl Image {
    /// An entry of the L1 table.
    fn l1_word(&self, index: u64) -> u64 {
        let found = holding(&self.tables, index);
        found.map_or(0, |run| {
            let place = self.tables_at + run.before + (index - run.first);
            (place * self.cluster) | COPIED
        })
    }

    /// The `index`th entry of all L2 tables in a row.
    fn l2_word(&self, index: u64) -> u64 {
        let entries = self.cluster / 8;
        let table = numbered(&self.tables, index / entries);
        let guest = (table.first + (index / entries - table.before)) * entries + index % entries;
        match holding(&self.runs, guest) {
            None => 0,
            Some(run) if run.data => {
                let place = self.data_at + run.before + (guest - run.first);
                (place * self.cluster) | COPIED
            }
            Some(_) => ZERO,
        }
    }

    /// An entry of the refcount table.
    fn refcount_word(&self, index: u64) -> u64 {
        if index < self.tables_at - self.blocks { (self.blocks + index) * self.cluster } else { 0 }
    }

    /// Four refcounts.
    fn block_word(&self, index: u64) -> u64 {
        (0..4).fold(0, |word, n| (word << 16) | u64::from(index * 4 + n < self.end))
    }

    /// The piece at `range.start`, up to the end of its region.
    fn piece(&self, range: &Range<u64>) -> Piece {
        let start = range.start;
        let bytes = |clusters: u64| clusters * self.cluster;
        let region = |first: u64, end: u64| bytes(first)..bytes(end).min(range.end);
        let table = |at: Range<u64>, word: &dyn Fn(u64) -> u64| {
            let len = (at.end - start).min(wide(TABLE_BYTES_MAX) / 4);
            Piece { start, len, content: Content::Table(words(start - at.start, len, word)) }
        };
        let place = start / self.cluster;
        if place < self.l1 {
            let from = narrow(start).min(self.header.len());
            let to = narrow(bytes(1).min(range.end));
            if from == self.header.len() {
                return Piece { start, len: wide(to) - start, content: Content::Zero };
            }
            let made = self.header[from..to.min(self.header.len())].to_vec();
            return Piece { start, len: wide(made.len()), content: Content::Table(made) };
        }
        if place < self.refcounts {
            table(region(self.l1, self.refcounts), &|index| self.l1_word(index))
        } else if place < self.blocks {
            table(region(self.refcounts, self.blocks), &|index| self.refcount_word(index))
        } else if place < self.tables_at {
            table(region(self.blocks, self.tables_at), &|index| self.block_word(index))
        } else if place < self.data_at {
            table(region(self.tables_at, self.data_at), &|index| self.l2_word(index))
        } else {
            let number = place - self.data_at;
            let run = numbered(&self.runs, number);
            let end = bytes(self.data_at + run.before + run.count).min(range.end);
            let guest = bytes(run.first + (number - run.before)) + start % self.cluster;
            Piece { start, len: end - start, content: Content::Guest(guest) }
        }
    }
}

/// The header, its extensions and the parent's name.
pub(super) fn make_header(
    plan: &Plan,
    options: &Qcow2Options,
    places: &Places,
) -> Result<Vec<u8>, Unwritable> {
    let mut extensions = options.extensions.clone();
    if let Some(parent) = &plan.parent {
        let word = match parent.format {
            Format::Vhd => "vpc", // QEMU's word
            format => format.word(),
        };
        extensions.insert(0, (extension::BACKING_FORMAT, word.as_bytes().to_vec()));
    }
    let mut area = Vec::new();
    for (kind, bytes) in &extensions {
        area.extend_from_slice(&kind.to_be_bytes());
        area.extend_from_slice(&short(wide(bytes.len())).to_be_bytes());
        area.extend_from_slice(bytes);
        area.resize(area.len().next_multiple_of(8), 0);
    }
    area.extend_from_slice(&[0; 8]);
    let name = plan.parent.as_ref().map_or("", |parent| parent.name.as_str()).as_bytes();
    let name_at = if name.is_empty() { 0 } else { wide(HEADER_BYTES + area.len()) };
    let room = HEADER_BYTES + area.len() + name.len();
    if wide(room) > places.cluster || name.len() > limits::NAME_BYTES_MAX {
        let text = format!("a header of {room} bytes in clusters of {}", places.cluster);
        return Err(Unwritable::Option { format: Format::Qcow2, text });
    }
    let mut head = Vec::with_capacity(narrow(places.cluster));
    head.extend_from_slice(b"QFI\xfb");
    head.extend_from_slice(&3_u32.to_be_bytes());
    head.extend_from_slice(&name_at.to_be_bytes());
    head.extend_from_slice(&short(wide(name.len())).to_be_bytes());
    head.extend_from_slice(&options.cluster_bits.to_be_bytes());
    head.extend_from_slice(&plan.virtual_size.to_be_bytes());
    head.extend_from_slice(&[0; 4]); // no encryption
    head.extend_from_slice(&short(places.l1_count).to_be_bytes());
    head.extend_from_slice(&places.l1.to_be_bytes());
    head.extend_from_slice(&places.refcounts.to_be_bytes());
    head.extend_from_slice(&short(places.refcount_clusters).to_be_bytes());
    head.extend_from_slice(&[0; 12]); // no snapshots
    head.extend_from_slice(&places.incompatible.to_be_bytes());
    head.extend_from_slice(&[0; 8]); // no compatible features
    head.extend_from_slice(&options.autoclear.to_be_bytes());
    head.extend_from_slice(&4_u32.to_be_bytes()); // refcounts of 2^4 bits
    head.extend_from_slice(&short(wide(HEADER_BYTES)).to_be_bytes());
    head.push(u8::from(places.incompatible != 0)); // zlib or zstd
    head.extend_from_slice(&[0; 7]);
    assert_eq!(head.len(), HEADER_BYTES, "the header as its table of fields has it");
    head.extend_from_slice(&area);
    head.extend_from_slice(name);
    Ok(head)
}

/// Bytes of a table of big-endian words, `len` of them from `skip` on.
fn words(skip: u64, len: u64, word: &dyn Fn(u64) -> u64) -> Vec<u8> {
    let first = skip / 8;
    let end = (skip + len).div_ceil(8);
    let mut bytes: Vec<u8> = (first..end).flat_map(|index| word(index).to_be_bytes()).collect();
    bytes.drain(..narrow(skip % 8));
    bytes.truncate(narrow(len));
    bytes
}

impl Layout for Image {
    fn len(&self) -> u64 {
        self.end * self.cluster
    }

    fn pieces(&self, range: Range<u64>) -> Vec<Piece> {
        let mut range = range.start..range.end.min(self.len());
        let (mut pieces, mut tables) = (Vec::new(), 0);
        while range.start < range.end && pieces.len() < PIECES_MAX && tables < TABLE_BYTES_MAX {
            let piece = self.piece(&range);
            range.start += piece.len;
            tables += if let Content::Table(bytes) = &piece.content { bytes.len() } else { 0 };
            pieces.push(piece);
        }
        pieces
    }
}

/// A number that the checks above keep within 32 bits.
fn short(value: u64) -> u32 {
    u32::try_from(value).expect("bounded by the checks of the layout")
}

/// Bytes of the header with the compression type.
const HEADER_BYTES: usize = 112;
pub(super) const COPIED: u64 = 1 << 63;
pub(super) const ZERO: u64 = 1;
