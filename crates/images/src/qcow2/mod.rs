//! qcow2, versions 2 and 3: QEMU's `docs/interop/qcow2.rst`.
//!
//! ```text
//! header ─▶ L1 ─▶ L2 ─▶ cluster        guest offset = L1 index ‖ L2 index ‖ byte in cluster
//!        └▶ refcount table ─▶ blocks   only checked: reading needs no refcount
//!        └▶ snapshots ─▶ an L1 each
//! ```
//!
//! - The L1 table is read at opening up to 32 MiB, L2 tables are fetched as they are needed.
//! - A cluster that lies on the image's own tables, or that two entries each claim as theirs alone,
//!   is damaged; claims are taken as L2 tables are loaded ([`claims`]).
//! - Refcounts, snapshots and bitmaps that are damaged leave the disk readable: they become notes.
//! - Encryption is named and refused.

mod bitmaps;
mod check;
mod claims;
mod entry;
pub mod extend;
mod header;
pub mod pack;
pub(crate) mod relink;
mod snapshots;
pub mod write;

use std::ops::Range;

use self::{
    check::Walk,
    claims::Claims,
    entry::{Cluster, L1Entry, L2Entry},
    header::{AUTOCLEAR_RAW, COMPATIBLE_LAZY, Header, extension, incompatible},
};
use crate::{
    Algorithm, Class, Extent, Facts, Fault, FileId, Format, Identity, Image, Input, Kind,
    OtherFile, Packed, Parent, Part, Report, Request, Role, Stop,
    bytes::{be64, narrow, wide},
    cache::Cache,
    input::Opened,
    limits,
    map::push,
    names::{self, Style},
    table::Table,
};

/// An opened image, or one of its snapshots.
struct Qcow2 {
    header: Header,
    facts: Facts,
    /// Where guest clusters are: the data file or the image itself.
    data: FileId,
    l1: Table,
    /// L2 tables by the index of their L1 entry.
    tables: Cache,
    claims: Claims,
    /// Refcounts can be compared: their table is where it must be.
    has_refcounts: bool,
    walk: Option<Box<Walk>>,
}

/// Opens an image, or the snapshot that is asked for.
pub(crate) fn open(request: &Request<'_>, input: &Input) -> Result<Box<dyn Image>, Stop> {
    let header = Header::read(request.file, input)?;
    let mut facts = facts_of(&header);
    let data = data_file(&header, &mut facts, input)?;
    facts.parent = parent_of(&header, &mut facts);

    let snapshots = match snapshots::list(&header, input) {
        Err(Stop::Fault(fault)) if request.snapshot.is_none() => {
            facts.notes.push(fault);
            Vec::new()
        }
        listed => listed?,
    };
    facts.snapshots = snapshots.iter().map(|found| found.snapshot.clone()).collect();
    match bitmaps::list(&header, input) {
        Err(Stop::Fault(fault)) => facts.notes.push(fault),
        listed => facts.bitmaps = listed?.into_iter().map(|found| found.bitmap).collect(),
    }

    let mut view = View { l1: header.l1, l1_count: header.l1_count, part: Part::L1 };
    if let Some(wanted) = request.snapshot {
        let chosen = snapshots::choose(&snapshots, wanted, &header)?;
        facts.virtual_size = chosen.snapshot.virtual_size;
        view = View { l1: chosen.l1, l1_count: chosen.l1_count, part: Part::Snapshots };
    }
    let l1 = open_l1(&header, &view, facts.virtual_size, input)?;

    let mut claims = Claims::new(&header);
    claims.tables_of(&header, &snapshots, &view);
    let has_refcounts = match claims.refcounts(&header, input) {
        Ok(()) => true,
        Err(Stop::Fault(fault)) => {
            facts.read_only.get_or_insert(fault.class);
            facts.notes.push(fault);
            false
        }
        Err(stop) => return Err(stop),
    };
    claims.level_1(&l1);
    let tables = Cache::new(limits::CACHE_BYTES);
    Ok(Box::new(Qcow2 { header, facts, data, l1, tables, claims, has_refcounts, walk: None }))
}

/// The L1 table that is walked: that of the disk or of a snapshot.
#[derive(Clone, Copy, Debug)]
struct View {
    l1: u64,
    l1_count: u64,
    part: Part,
}

fn facts_of(header: &Header) -> Facts {
    let variant = if header.version == 2 { "v2" } else { "v3" };
    let mut facts = Facts::new(Format::Qcow2, variant, header.size, header.cluster());
    let mut feature = |on: bool, word: &str| {
        if on {
            facts.features.push(word.to_owned());
        }
    };
    feature(header.zstd, "zstd");
    feature(header.needs(incompatible::EXTENDED_L2), "extended L2");
    feature(header.needs(incompatible::DATA_FILE), "data file");
    feature(header.autoclear & AUTOCLEAR_RAW != 0, "raw data file");
    feature(header.compatible & COMPATIBLE_LAZY != 0, "lazy refcounts");
    feature(header.refcount_bits != 16, &format!("refcounts of {} bits", header.refcount_bits));
    let known = [
        extension::BACKING_FORMAT,
        extension::FEATURE_NAMES,
        extension::BITMAPS,
        extension::ENCRYPTION,
        extension::DATA_FILE,
    ];
    let foreign = header.extensions.iter().filter(|(kind, _)| !known.contains(kind));
    facts.extensions = foreign.cloned().collect();
    facts.autoclear = header.autoclear;
    if header.needs(incompatible::CORRUPT) {
        let text = "marked as corrupt by the program that found it so";
        facts.notes.push(Fault::at(Class::MarkedCorrupt, Part::Header, header.file, 72, text));
        facts.read_only = Some(Class::MarkedCorrupt);
    }
    if header.needs(incompatible::DIRTY) {
        let text = "not closed cleanly: refcounts may be old, the data is good";
        facts.notes.push(Fault::at(Class::Unclean, Part::Header, header.file, 72, text));
        facts.read_only.get_or_insert(Class::Unclean);
    }
    facts
}

/// The file that holds guest clusters.
fn data_file(header: &Header, facts: &mut Facts, input: &Input) -> Result<FileId, Stop> {
    if !header.needs(incompatible::DATA_FILE) {
        return Ok(header.file);
    }
    let role = Role::DataFile;
    let fault = |class, text: String| Stop::from(Fault::new(class, Part::Chain, header.file, text));
    let Some(name) = header.extension(extension::DATA_FILE) else {
        let text = "guest data is in a file that the image does not name".to_owned();
        return Err(fault(names::missing(role), text));
    };
    let name = names::check_bytes(name, Style::Unix, role, (header.file, 0))?;
    match input.file(header.file, role, &name)? {
        Opened::File(file) if file == header.file => {
            Err(fault(Class::Overlap, "the image is stated as its own data file".to_owned()))
        }
        Opened::File(file) => {
            facts.files.push(OtherFile { role, name: name.as_str().to_owned(), file });
            Ok(file)
        }
        Opened::Missing => {
            Err(fault(names::missing(role), format!("the data file {name} is not found")))
        }
        Opened::Refused(why) => Err(fault(names::forbidden(role), format!("{name}: {why}"))),
    }
}

/// What the image differs from. An empty name leads nowhere and is noted.
fn parent_of(header: &Header, facts: &mut Facts) -> Option<Parent> {
    let (at, name) = header.backing.as_ref()?;
    if name.is_empty() {
        let text = "a parent of an empty name: taken as none";
        facts.notes.push(Fault::at(Class::ParentMissing, Part::Chain, header.file, *at, text));
        return None;
    }
    let stated = String::from_utf8_lossy(name).into_owned();
    let mut checked = names::check_bytes(name, Style::Unix, Role::Parent, (header.file, *at));
    let format = match header.extension(extension::BACKING_FORMAT) {
        None | Some(b"") => None,
        Some(word) => {
            let known = std::str::from_utf8(word).ok().and_then(Format::of_word);
            if known.is_none() && checked.is_ok() {
                let text = format!("a parent of format {:?}", String::from_utf8_lossy(word));
                checked = Err(Fault::new(Class::ParentFormat, Part::Chain, header.file, text));
            }
            known
        }
    };
    let (names, identity) = (vec![checked], Identity::None);
    Some(Parent { stated, names, format, by_identity: None, identity })
}

/// The L1 table, if it is where it can be and as long as the disk needs it.
fn open_l1(header: &Header, view: &View, size: u64, input: &Input) -> Result<Table, Stop> {
    let View { l1, l1_count, part } = *view;
    let fault = |class, text: String| Stop::from(Fault::at(class, part, header.file, l1, text));
    let len = l1_count * 8;
    if len > limits::RESIDENT_BYTES && !input.holds(header.file, l1, len) {
        let text = format!("an L1 table of {len} bytes in a file of {}", input.len(header.file));
        return Err(fault(Class::Limit, text));
    }
    let needed = size.div_ceil(header.l2_reach());
    if l1_count < needed {
        let text = format!("an L1 table of {l1_count} entries, the disk needs {needed}");
        return Err(fault(Class::TableTooSmall, text));
    }
    if l1_count > 0 {
        if !l1.is_multiple_of(header.cluster()) {
            let text = "the L1 table does not begin with a cluster".to_owned();
            return Err(fault(Class::PointerMisaligned, text));
        }
        if l1 < header.cluster() {
            return Err(fault(Class::Overlap, "the L1 table lies on the header".to_owned()));
        }
        // One pointer gone astray is that; both at once is a file whose end is gone.
        let refcounts = header.refcount_clusters.saturating_mul(header.cluster());
        let is_cut = !input.holds(header.file, l1, len)
            && !input.holds(header.file, header.refcount_table, refcounts);
        if is_cut && part == Part::L1 {
            let text = format!("the file ends at {}, before its tables", input.len(header.file));
            return Err(fault(Class::Truncated, text));
        }
    }
    Table::open(input, (header.file, l1), (8, l1_count), part)
}

impl Image for Qcow2 {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn map(&mut self, range: Range<u64>, input: &Input) -> Result<Vec<Extent>, Stop> {
        let mut extents = Vec::new();
        let mut place = range.start;
        while place < range.end && extents.len() < limits::EXTENTS_MAX - 64 {
            match self.map_table(place..range.end, input, &mut extents) {
                Ok(reached) => place = reached,
                Err(Stop::Need(_)) if !extents.is_empty() => break,
                Err(stop) => return Err(stop),
            }
        }
        Ok(extents)
    }

    fn check(&mut self, input: &Input, report: &mut Report) -> Result<bool, Stop> {
        let mut walk = self.walk.take().unwrap_or_default();
        let result = walk.step(self, input, report);
        if result != Ok(true) {
            self.walk = Some(walk);
        }
        result
    }
}

/// What an L1 entry leads to.
enum Level2 {
    /// No table: nothing of its range is held.
    Absent,
    /// A table that is in the cache now.
    Loaded,
    /// No table can be had.
    Damaged(Fault),
}

impl Qcow2 {
    /// Maps what one L2 table says of the beginning of `range`; where the next one begins, or
    /// where the answer is long enough.
    fn map_table(
        &mut self,
        range: Range<u64>,
        input: &Input,
        extents: &mut Vec<Extent>,
    ) -> Result<u64, Stop> {
        let reach = self.header.l2_reach();
        let index = range.start / reach;
        let end = (index + 1).saturating_mul(reach).min(range.end);
        let whole = |kind| Extent { start: range.start, len: end - range.start, kind };
        match self.load(index, input)? {
            Level2::Absent => push(extents, whole(self.unheld())),
            Level2::Damaged(fault) => push(extents, whole(Kind::Corrupt(Box::new(fault)))),
            Level2::Loaded => {
                let mut place = range.start;
                while place < end && extents.len() < limits::EXTENTS_MAX - 64 {
                    let next = (place / self.header.cluster() + 1) * self.header.cluster();
                    self.map_cluster(index, place..next.min(end), input, extents);
                    place = next.min(end);
                }
                return Ok(place);
            }
        }
        Ok(end)
    }

    /// Kind of what is not held here.
    fn unheld(&self) -> Kind {
        if self.facts.parent.is_some() { Kind::Parent } else { Kind::Hole }
    }

    /// Brings the L2 table of an L1 entry into the cache, and takes its claims the first time.
    fn load(&mut self, index: u64, input: &Input) -> Result<Level2, Stop> {
        if self.tables.has(index) {
            return Ok(Level2::Loaded);
        }
        let at = self.l1.at(index);
        let entry = L1Entry::of(be64(self.l1.entry(index, input)?, 0));
        if entry.offset == 0 {
            return Ok(Level2::Absent);
        }
        if let Some(fault) = self.flaw_of_table(index, entry, at, input) {
            return Ok(Level2::Damaged(fault));
        }
        let (file, cluster) = (self.header.file, self.header.cluster());
        let table = input.read(file, entry.offset, cluster, Part::L1Entry)?.to_vec();
        let size = wide(table.len()) / self.header.l2_entry();
        if self.claims.is_new_table(index) {
            for slot in 0..size {
                let entry = decode(&self.header, &table, slot);
                self.claims.level_2(index * size + slot, &entry, self.data == file)?;
            }
        }
        self.tables.put(index, table);
        Ok(Level2::Loaded)
    }

    /// Why an L2 table cannot be where its L1 entry says.
    fn flaw_of_table(
        &mut self,
        index: u64,
        entry: L1Entry,
        at: u64,
        input: &Input,
    ) -> Option<Fault> {
        let (file, offset) = (self.header.file, entry.offset);
        let fault = |class, text: &str| {
            Some(Fault::at(class, Part::L1Entry, file, at, format!("L2 table at {offset}: {text}")))
        };
        if !offset.is_multiple_of(self.header.cluster()) {
            return fault(Class::PointerMisaligned, "inside a cluster");
        }
        if let Err(fault) = input.inside(file, offset, self.header.cluster(), Part::L1Entry) {
            return Some(Fault { at: Some(at), ..fault });
        }
        if !self.claims.take_table(index, entry) {
            return fault(Class::Overlap, "on another table of the image");
        }
        None
    }

    /// Extents of `range`, which lies in one cluster of a loaded table.
    fn map_cluster(
        &mut self,
        index: u64,
        range: Range<u64>,
        input: &Input,
        extents: &mut Vec<Extent>,
    ) {
        let guest = range.start / self.header.cluster();
        let slot = guest % self.header.l2_count();
        let table = self.tables.get(index).expect("loaded by the caller");
        let entry = decode(&self.header, table, slot);
        let at = self.offset_of_entry(index, slot);
        let corrupt = |class, text: String| {
            let fault = Fault { at, ..Fault::new(class, Part::L2Entry, self.header.file, text) };
            Kind::Corrupt(Box::new(fault))
        };
        let len = range.end - range.start;
        let mut whole = |kind| push(extents, Extent { start: range.start, len, kind });
        if self.claims.is_damaged(guest) {
            // A stream that the file cuts off lies at its end, where tables may be: that is the fault.
            let size = input.len(self.header.file);
            let reaches_end = |offset: u64, len: u64| len >= size - offset.min(size);
            let is_cut = matches!(entry.cluster, Cluster::Packed { offset, len } if reaches_end(offset, len));
            let class = if is_cut { Class::Truncated } else { Class::Overlap };
            let text = format!("cluster {guest} lies where something else does");
            return whole(corrupt(class, text));
        }
        match (entry.cluster, entry.bitmap) {
            (Cluster::Packed { offset, len: packed }, _) => {
                whole(
                    self.packed(offset, packed, range.start, input)
                        .unwrap_or_else(|(class, text)| corrupt(class, text)),
                );
            }
            (_, Some((held, zero))) if held & zero != 0 => {
                let text = format!("subclusters {:#x} are both held and zero", held & zero);
                whole(corrupt(Class::ReservedBits, text));
            }
            (Cluster::Absent, Some((held @ 1.., _))) => {
                let text = format!("subclusters {held:#x} are held in no cluster");
                whole(corrupt(Class::BadField, text));
            }
            (cluster, Some((held, zero))) => {
                let unit = self.header.cluster() / 32;
                let mut start = range.start;
                while start < range.end {
                    let end = ((start / unit + 1) * unit).min(range.end);
                    let bit = 1_u32 << (start / unit % 32);
                    match cluster {
                        Cluster::Plain { host } if held & bit != 0 => {
                            self.plain(host, start..end, input, extents, &corrupt);
                        }
                        _ => {
                            let kind = if zero & bit != 0 { Kind::Zero } else { self.unheld() };
                            push(extents, Extent { start, len: end - start, kind });
                        }
                    }
                    start = end;
                }
            }
            (Cluster::Absent, None) => whole(self.unheld()),
            (Cluster::Zero { .. }, None) => whole(Kind::Zero),
            (Cluster::Plain { host }, None) => self.plain(host, range, input, extents, &corrupt),
        }
    }

    /// Where an L2 entry stands in the file, if the L1 table is at hand.
    fn offset_of_entry(&self, index: u64, slot: u64) -> Option<u64> {
        let table = L1Entry::of(be64(self.l1.whole()?, narrow(index * 8))).offset;
        Some(table + slot * self.header.l2_entry())
    }

    /// Data in a host cluster: as far as the file has it.
    fn plain(
        &self,
        host: u64,
        range: Range<u64>,
        input: &Input,
        extents: &mut Vec<Extent>,
        corrupt: &dyn Fn(Class, String) -> Kind,
    ) {
        let (cluster, size) = (self.header.cluster(), input.len(self.data));
        let Range { start, end } = range;
        let mut add = |start, end, kind| {
            if start < end {
                push(extents, Extent { start, len: end - start, kind });
            }
        };
        if !host.is_multiple_of(cluster) {
            let text = format!("data at {host}, inside a cluster");
            return add(start, end, corrupt(Class::PointerMisaligned, text));
        }
        if host >= size {
            let class = if self.data == self.header.file {
                Class::PointerOutsideFile
            } else {
                Class::Truncated
            };
            let text = format!("data at {host}, the file ends at {size}");
            return add(start, end, corrupt(class, text));
        }
        let offset = host + start % cluster;
        let there = size.saturating_sub(offset) / 512 * 512;
        let there = if offset + (end - start) <= size { end - start } else { there };
        add(start, start + there, Kind::Data { file: self.data, offset });
        if there < end - start {
            let text = format!("a cluster at {host}, the file ends within it at {size}");
            add(start + there, end, corrupt(Class::Truncated, text));
        }
    }

    /// A compressed cluster from the guest offset `start` on.
    fn packed(
        &self,
        offset: u64,
        len: u64,
        start: u64,
        input: &Input,
    ) -> Result<Kind, (Class, String)> {
        let (file, cluster) = (self.header.file, self.header.cluster());
        if self.data != file {
            let text = "a compressed cluster in an image with a data file".to_owned();
            return Err((Class::BadField, text));
        }
        let size = input.len(file);
        if offset >= size {
            let text = format!("a compressed cluster at {offset}, the file ends at {size}");
            return Err((Class::PointerOutsideFile, text));
        }
        let short = |value| u32::try_from(value).expect("clusters have 2 MiB at most");
        Ok(Kind::Packed(Packed {
            file,
            offset,
            len: len.min(size - offset).min(cluster + limits::PACKED_SLACK),
            algorithm: if self.header.zstd { Algorithm::Zstd } else { Algorithm::Deflate12 },
            unit: short(cluster),
            skip: short(start % cluster),
            cut: len >= size - offset,
        }))
    }
}

/// The entry of a slot of an L2 table.
fn decode(header: &Header, table: &[u8], slot: u64) -> L2Entry {
    let at = narrow(slot * header.l2_entry());
    let bitmap = (header.l2_entry() == 16).then(|| be64(table, at + 8));
    L2Entry::of(be64(table, at), bitmap, header)
}
