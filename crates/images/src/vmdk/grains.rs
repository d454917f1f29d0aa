//! From a place in a sparse extent to its grain: directory, tables, and the marker of a packed grain.
//!
//! A table is loaded once into a form of its own, a [`Slot`] of 8 bytes for each entry, and kept in
//! the image's cache. While it is loaded for the first time it and its grains claim their bytes
//! ([`super::claims`]), and it is compared with its redundant copy: an entry in which the two differ
//! is damaged, for nobody knows which of them is right. A copy whose directory entry leads nowhere
//! is done without.

use std::ops::Range;

use crate::{
    Algorithm, Class, Extent, Fault, Input, Kind, Packed, Part, Stop,
    bytes::{le32, le64, narrow, wide},
    cache::Cache,
    limits, map,
    packed::Unpacker,
    vmdk::{
        claims::{Claimant, Claims, Lie},
        header::{Packing, SECTOR, Sparse, SparseKind},
    },
};

/// What the extents of one image share: both are bounded for the image, not for each extent.
#[derive(Debug)]
pub(super) struct Shared {
    /// Directory pages and decoded tables.
    pub pieces: Cache,
    /// Who has which bytes.
    pub claims: Claims,
}

/// A sparse extent whose header has been read.
#[derive(Debug)]
pub(super) struct Grains {
    pub sparse: Sparse,
    lie: Lie,
    /// A copy of a table was lost, and the other used: where its entry is.
    pub lost_copy: Option<Fault>,
}

/// An entry of a table, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// Not held.
    Unheld,
    /// Zeroes, held.
    Zero,
    /// It leads past the end of the file.
    Outside,
    /// The two copies of the table differ.
    Differs,
    /// Its grain belongs to something else.
    Overlap,
    /// No entry looks like this.
    Bad,
    /// Offset of the grain in the file.
    At(u64),
}

/// A table, as far as it is there.
#[derive(Debug)]
pub(super) enum Table {
    /// Not held: neither is any of its grains.
    Absent,
    /// In the cache under this key; and the offset of its entries in the file.
    Loaded(u64, u64),
    /// It cannot be read.
    Bad(Fault),
}

/// Where one copy of a table is.
enum Copy {
    Absent,
    At(u64),
    Bad(Fault),
}

/// Bytes of a directory that are read at once.
const PAGE: u64 = 64 << 10;

/// Tables, and markers, that one answer looks at: what it needs must fit into the cache at once.
const TABLES_PER_ANSWER: u32 = 32;
const MARKERS_PER_ANSWER: u32 = 16;
const ABSENT_PER_ANSWER: u32 = 1 << 16;

/// Bytes of a marker's head: place in sectors, length of what follows.
const MARKER: u64 = 12;

impl Grains {
    /// The extent at place `extent` of its image; what is no grain claims its bytes.
    pub fn new(sparse: Sparse, extent: u32, claims: &mut Claims) -> Result<Self, Fault> {
        let lie = Lie { extent, grain: sparse.grain, phase: None };
        for (start, len) in &sparse.own {
            if !claims.range(&lie, *start, *len) {
                let text = "header, descriptor and directories lie upon each other";
                let class = Class::Overlap;
                return Err(Fault::at(class, Part::Header, sparse.file, *start, text));
            }
        }
        Ok(Self { sparse, lie, lost_copy: None })
    }

    /// The map of `range` of this extent, whose first byte is the guest's `base`: a beginning of it.
    /// `unheld` stands for what is not held.
    pub fn map(
        &mut self,
        shared: &mut Shared,
        (range, base): (Range<u64>, u64),
        unheld: &Kind,
        input: &Input,
    ) -> Result<Vec<Extent>, Stop> {
        let mut answer = Answer { base, place: range.start, extents: Vec::new(), markers: 0 };
        let (mut tables, mut absent) = (0, 0);
        while answer.has_room(range.end) && tables < TABLES_PER_ANSWER && absent < ABSENT_PER_ANSWER
        {
            let table = answer.place / self.sparse.span();
            let end = table.saturating_add(1).saturating_mul(self.sparse.span()).min(range.end);
            match self.table(shared, table, input)? {
                Table::Absent => {
                    absent += 1;
                    answer.push(end, unheld.clone());
                }
                Table::Bad(fault) => {
                    absent += 1;
                    answer.push(end, Kind::Corrupt(Box::new(fault)));
                }
                Table::Loaded(key, at) => {
                    tables += 1;
                    let slots = shared.pieces.get(key).expect("loaded here above");
                    self.map_table(&mut answer, (slots, at), end, unheld, input)?;
                }
            }
        }
        Ok(answer.extents)
    }

    /// The grains of one table, up to `end` of the extent or until the answer is full.
    fn map_table(
        &self,
        answer: &mut Answer,
        (slots, at): (&[u8], u64),
        end: u64,
        unheld: &Kind,
        input: &Input,
    ) -> Result<(), Stop> {
        while answer.has_room(end) {
            let grain = answer.place / self.sparse.grain;
            let start = grain * self.sparse.grain;
            let grain_end = (start + self.sparse.grain).min(end);
            let entry = grain % self.sparse.entries;
            match Slot::get(slots, entry) {
                Slot::Unheld => answer.push(grain_end, unheld.clone()),
                Slot::Zero => answer.push(grain_end, Kind::Zero),
                Slot::At(offset) => match self.packing() {
                    Packing::Plain => {
                        let offset = offset + (answer.place - start);
                        self.push_plain(answer, offset, grain_end, input);
                    }
                    packing => {
                        answer.markers += 1;
                        let skip = answer.place - start;
                        let kind = match self.packed(packing, grain, offset, input)? {
                            Ok(packed) => {
                                let skip = u32::try_from(skip).unwrap_or(u32::MAX);
                                Kind::Packed(Packed { skip, ..packed })
                            }
                            Err(fault) => Kind::Corrupt(Box::new(fault)),
                        };
                        answer.push(grain_end, kind);
                    }
                },
                slot => {
                    let fault = self.fault(slot, grain, at + entry * self.sparse.entry());
                    answer.push(grain_end, Kind::Corrupt(Box::new(fault)));
                }
            }
        }
        Ok(())
    }

    /// Bytes as they are, as far as the file has them.
    fn push_plain(&self, answer: &mut Answer, offset: u64, end: u64, input: &Input) {
        let file = self.sparse.file;
        let there = input.len(file).saturating_sub(offset).min(end - answer.place);
        if there > 0 {
            answer.push(answer.place + there, Kind::Data { file, offset });
        }
        if answer.place < end {
            let fault = self.truncated(offset + there, input);
            answer.push(end, Kind::Corrupt(Box::new(fault)));
        }
    }

    fn truncated(&self, at: u64, input: &Input) -> Fault {
        let len = input.len(self.sparse.file);
        let text = format!("a grain goes on at byte {at}, the file ends at {len}");
        Fault::at(Class::Truncated, Part::Data, self.sparse.file, at, text)
    }

    /// Whether all of a plain grain that the disk needs is in the file; its fault if not.
    pub fn whole(&self, grain: u64, offset: u64, input: &Input) -> Result<(), Fault> {
        let start = grain * self.sparse.grain;
        let len = self.sparse.grain.min(self.sparse.capacity - start);
        if self.packing() != Packing::Plain || input.holds(self.sparse.file, offset, len) {
            return Ok(());
        }
        Err(self.truncated(offset, input))
    }

    /// How the grains are kept.
    pub fn packing(&self) -> Packing {
        match self.sparse.kind {
            SparseKind::Hosted { packed, .. } => packed,
            _ => Packing::Plain,
        }
    }

    /// The compressed grain at `offset`: its marker is read and must name that very grain.
    pub fn packed(
        &self,
        packing: Packing,
        grain: u64,
        offset: u64,
        input: &Input,
    ) -> Result<Result<Packed, Fault>, Stop> {
        let (file, unit) = (self.sparse.file, self.sparse.grain);
        let len_max = unit + limits::PACKED_SLACK;
        let fault = |class, text| Ok(Err(Fault::at(class, Part::GrainMarker, file, offset, text)));
        let (offset, len) = if packing == Packing::Marked {
            if !input.holds(file, offset, MARKER) {
                return Ok(Err(self.truncated(offset, input)));
            }
            let head = input.read(file, offset, MARKER, Part::GrainMarker)?;
            let (sector, len) = (le64(head, 0), u64::from(le32(head, 8)));
            let wanted = grain * (unit / SECTOR);
            if sector != wanted {
                let text = format!("the grain of sector {wanted} is marked as that of {sector}");
                return fault(Class::BadField, text);
            }
            if len == 0 || len > len_max {
                let class = if len == 0 { Class::BadField } else { Class::Limit };
                return fault(class, format!("a grain is packed in {len} bytes"));
            }
            (offset + MARKER, len)
        } else {
            (offset, len_max)
        };
        let there = input.len(file).saturating_sub(offset).min(len);
        let mut packed = Packed {
            file,
            offset,
            len: there,
            algorithm: Algorithm::Zlib,
            unit: u32::try_from(unit).expect("packed grains have 16 MiB at most"),
            skip: 0,
            cut: there < len,
        };
        let left = self.sparse.capacity - grain * unit;
        if left < unit {
            packed.unit = last_unit(&packed, left, input)?;
        }
        Ok(Ok(packed))
    }

    /// A table, loaded if it is there.
    pub fn table(&mut self, shared: &mut Shared, table: u64, input: &Input) -> Result<Table, Stop> {
        let extent = self.lie.extent;
        if shared.claims.is_damaged(extent, Claimant::Table(table)) {
            let text = format!("grain table {table} lies upon something else");
            let file = self.sparse.file;
            return Ok(Table::Bad(Fault::new(Class::Overlap, Part::GrainTable, file, text)));
        }
        let first = self.copy(shared, (self.sparse.directory, 0), table, input)?;
        let second = match self.sparse.redundant {
            Some(directory) => Some(self.copy(shared, (directory, 1), table, input)?),
            None => None,
        };
        let (one, other) = match (first, second) {
            (Copy::Absent, None | Some(Copy::Absent)) => return Ok(Table::Absent),
            (Copy::Bad(fault), None | Some(Copy::Absent | Copy::Bad(_))) => {
                return Ok(Table::Bad(fault));
            }
            (Copy::Bad(fault), Some(Copy::At(at))) | (Copy::At(at), Some(Copy::Bad(fault))) => {
                self.lost_copy.get_or_insert(fault);
                (Some(at), None)
            }
            (Copy::Absent, Some(Copy::Bad(fault))) => {
                self.lost_copy.get_or_insert(fault);
                return Ok(Table::Absent);
            }
            (Copy::At(at), None) => (Some(at), None),
            (Copy::At(one), Some(Copy::At(other))) if one == other => (Some(one), None),
            (Copy::At(one), Some(Copy::At(other))) => (Some(one), Some(Some(other))),
            (Copy::At(one), Some(Copy::Absent)) => (Some(one), Some(None)),
            (Copy::Absent, Some(Copy::At(other))) => (None, Some(Some(other))),
        };
        let at = one.or(other.flatten()).expect("one copy is there");
        let key = piece_key(extent, 2, table);
        if !shared.pieces.has(key) {
            let mut slots = self.slots(one, input)?;
            if let Some(other) = other {
                let other = self.slots(other, input)?;
                for (slot, other) in slots.iter_mut().zip(other) {
                    if *slot != other {
                        *slot = Slot::Differs;
                    }
                }
            }
            if !self.claim(shared, table, [one, other.flatten()], &slots) {
                return self.table(shared, table, input); // it is damaged now
            }
            self.apply_damage(shared, table, &mut slots);
            shared.pieces.put(key, slots.into_iter().flat_map(Slot::to_bytes).collect());
        }
        Ok(Table::Loaded(key, at))
    }

    /// Lets a table and its grains claim their bytes; whether the table has them to itself.
    fn claim(
        &mut self,
        shared: &mut Shared,
        table: u64,
        copies: [Option<u64>; 2],
        slots: &[Slot],
    ) -> bool {
        let claims = &mut shared.claims;
        let extent = self.lie.extent;
        if !claims.is_first(extent, table) {
            return true;
        }
        let len = self.sparse.entries * self.sparse.entry();
        for at in copies.into_iter().flatten() {
            if !claims.range(&self.lie, at, len) {
                claims.damage(extent, Claimant::Table(table));
                return false;
            }
        }
        // Behind a marker a grain says itself whose it is.
        if self.packing() != Packing::Marked {
            for (entry, slot) in (0_u64..).zip(slots) {
                if let Slot::At(offset) = slot
                    && !claims.grain(&mut self.lie, *offset)
                {
                    claims.damage(extent, Claimant::Grain(table * self.sparse.entries + entry));
                }
            }
        }
        true
    }

    fn apply_damage(&self, shared: &Shared, table: u64, slots: &mut [Slot]) {
        for (entry, slot) in (0_u64..).zip(slots) {
            let grain = Claimant::Grain(table * self.sparse.entries + entry);
            if matches!(slot, Slot::At(_)) && shared.claims.is_damaged(self.lie.extent, grain) {
                *slot = Slot::Overlap;
            }
        }
    }

    /// Where a table is, by one of the directories.
    fn copy(
        &self,
        shared: &mut Shared,
        (directory, number): (u64, u64),
        table: u64,
        input: &Input,
    ) -> Result<Copy, Stop> {
        let (file, width) = (self.sparse.file, self.sparse.entry());
        let (page, skip) = (table * width / PAGE, table * width % PAGE);
        let key = piece_key(self.lie.extent, number, page);
        if !shared.pieces.has(key) {
            let len = (self.sparse.tables * width - page * PAGE).min(PAGE);
            let part = Part::GrainDirectory;
            let bytes = input.read(file, directory + page * PAGE, len, part)?.to_vec();
            shared.pieces.put(key, bytes);
        }
        let bytes = shared.pieces.get(key).expect("put here above");
        let skip = narrow(skip);
        let entry = if width == 8 { le64(bytes, skip) } else { u64::from(le32(bytes, skip)) };
        if entry == 0 {
            return Ok(Copy::Absent);
        }
        let fault = |class, text| {
            let at = directory + table * width;
            Copy::Bad(Fault::at(class, Part::GrainDirectory, file, at, text))
        };
        let len = self.sparse.entries * width;
        let at = match self.sparse.kind {
            SparseKind::Se { tables_at, tables_room, .. } => {
                let number = entry & 0xffff_ffff;
                if entry >> 32 != 0x1000_0000 {
                    let text = format!("the entry of table {table} is {entry:#x}");
                    return Ok(fault(Class::BadField, text));
                }
                if number >= tables_room {
                    let text = format!("table {table} is in place {number} of {tables_room}");
                    return Ok(fault(Class::PointerOutsideFile, text));
                }
                tables_at.saturating_add(number.saturating_mul(len))
            }
            _ => entry * SECTOR,
        };
        if !input.holds(file, at, len) {
            let text = format!(
                "table {table} of {len} bytes is at byte {at} of a file of {}",
                input.len(file)
            );
            return Ok(fault(Class::PointerOutsideFile, text));
        }
        Ok(Copy::At(at))
    }

    /// The entries of a table at an offset of the file; of none, that nothing is held.
    fn slots(&self, at: Option<u64>, input: &Input) -> Result<Vec<Slot>, Stop> {
        let (file, width) = (self.sparse.file, self.sparse.entry());
        let Some(at) = at else {
            return Ok(vec![Slot::Unheld; narrow(self.sparse.entries)]);
        };
        let bytes = input.read(file, at, self.sparse.entries * width, Part::GrainTable)?;
        let len = input.len(file);
        let slot = |bytes: &[u8]| {
            let entry = if width == 8 { le64(bytes, 0) } else { u64::from(le32(bytes, 0)) };
            match self.slot(entry) {
                Slot::At(offset) if offset >= len => Slot::Outside,
                slot => slot,
            }
        };
        Ok(bytes.chunks_exact(narrow(width)).map(slot).collect())
    }

    /// What an entry means, whatever the file's length.
    fn slot(&self, entry: u64) -> Slot {
        match self.sparse.kind {
            _ if entry == 0 => Slot::Unheld,
            SparseKind::Hosted { zeroed: true, .. } if entry == 1 => Slot::Zero,
            SparseKind::Hosted { .. } | SparseKind::Cowd => Slot::At(entry * SECTOR),
            SparseKind::Se { grains_at, .. } => match entry >> 60 {
                // Unmapped by the guest, or written as zeroes.
                1 | 2 => Slot::Zero,
                3 => {
                    let number = (entry >> 48 & 0xfff) | (entry & 0xffff_ffff_ffff) << 12;
                    let offset = number.checked_mul(self.sparse.grain);
                    offset
                        .and_then(|offset| offset.checked_add(grains_at))
                        .map_or(Slot::Outside, Slot::At)
                }
                _ => Slot::Bad,
            },
        }
    }

    /// The fault of a slot that gives no bytes; `at` is where its entry stands.
    pub fn fault(&self, slot: Slot, grain: u64, at: u64) -> Fault {
        let (class, part, text) = match slot {
            Slot::Outside => {
                (Class::PointerOutsideFile, Part::GrainTableEntry, "leads past the end of the file")
            }
            Slot::Differs => {
                (Class::CopiesDiffer, Part::GrainTable, "differs between the two tables")
            }
            Slot::Overlap => {
                (Class::Overlap, Part::GrainTableEntry, "leads to bytes that belong to another")
            }
            _ => (Class::BadField, Part::GrainTableEntry, "is of no known kind"),
        };
        Fault::at(class, part, self.sparse.file, at, format!("the entry of grain {grain} {text}"))
    }
}

/// Bytes that the last grain of a disk unpacks to, where the disk ends within it: QEMU packs only
/// what the disk has, VMware the whole grain. Only unpacking tells.
fn last_unit(packed: &Packed, left: u64, input: &Input) -> Result<u32, Stop> {
    let bytes = input.read(packed.file, packed.offset, packed.len, Part::Data)?;
    let short = Packed { unit: u32::try_from(left).unwrap_or(packed.unit), ..*packed };
    let is_short = Unpacker::default().unpack(&short, bytes).is_ok();
    Ok(if is_short { short.unit } else { packed.unit })
}

/// Extents in the making.
struct Answer {
    /// Guest offset of the extent's first byte.
    base: u64,
    /// Where the next one begins, within the extent.
    place: u64,
    extents: Vec<Extent>,
    markers: u32,
}

impl Answer {
    fn has_room(&self, end: u64) -> bool {
        self.place < end
            && self.extents.len() + 1 < limits::EXTENTS_MAX
            && self.markers < MARKERS_PER_ANSWER
    }

    fn push(&mut self, end: u64, kind: Kind) {
        let (start, len) = (self.base + self.place, end - self.place);
        map::push(&mut self.extents, Extent { start, len, kind });
        self.place = end;
    }
}

impl Slot {
    /// Slots below the first sector are no offsets.
    const WORDS: [Self; 6] =
        [Self::Unheld, Self::Zero, Self::Outside, Self::Differs, Self::Overlap, Self::Bad];

    fn to_bytes(self) -> [u8; 8] {
        let word = match self {
            Self::At(offset) => offset,
            slot => wide(Self::WORDS.iter().position(|word| *word == slot).unwrap_or(5)),
        };
        word.to_le_bytes()
    }

    /// The slot of an entry, from a table in the cache.
    pub fn get(slots: &[u8], entry: u64) -> Self {
        let word = le64(slots, narrow(entry * 8));
        let known = usize::try_from(word).ok().and_then(|word| Self::WORDS.get(word));
        known.copied().unwrap_or(Self::At(word))
    }
}

/// The key of a page of the first or second directory (kind 0, 1), or of a table (2).
fn piece_key(extent: u32, kind: u64, number: u64) -> u64 {
    u64::from(extent) << 46 | kind << 44 | number
}
