//! NTFS 3.x, read by its on-disk format as the Linux-NTFS project documents it.
//!
//! ```text
//! boot sector ─▶ record 0 (where the records are) ─▶ records ─▶ attributes ─▶ runs
//!                                                              directory index, links
//! ```
//!
//! What lies between a file's initialised and its full length reads as zero. Names of the DOS kind,
//! which only repeat others, and the file system's own files are left out; so are other streams than
//! the main one. The journal is not replayed; where the file system was not cleanly left, a note says
//! so. Not read: compressed, encrypted and offline contents.

mod attributes;
mod directory;
mod link;
mod record;

use std::cell::RefCell;

use crate::{
    Entry, Error, FileSystem, Kind, Node, NodeId, Piece, Place, Time,
    disk::Window,
    fields::{Fields, size},
    pieces::Pieces,
};
use attributes::{Attribute, kind};
use record::Record;

const MFT: u64 = 0;
const LOG_FILE: u64 = 2;
const ROOT: u64 = 5;

/// Records below this are the file system's own.
const FIRST_OF_USERS: u64 = 24;

/// The lower 48 bits of a reference are the record's number, the upper 16 count its uses.
const NUMBER_BITS: u32 = 48;

const ATTRIBUTE_REPARSE: u32 = 0x400;
const ATTRIBUTE_READ_ONLY: u32 = 0x1;

/// An NTFS file system.
pub(crate) struct Ntfs {
    window: Window,
    cluster_bytes: u64,
    record_bytes: usize,
    /// Where the records are.
    records: Vec<Piece>,
    notes: Vec<String>,
    /// The record that was read last: a caller asks for node, map and content one after the other.
    last: RefCell<Option<Record>>,
}

impl Ntfs {
    /// Whether its mark stands there.
    pub(crate) fn stands_on(window: &Window) -> Result<bool, Error> {
        Ok(window.length_bytes() >= 512 && window.bytes(3, 8)? == b"NTFS    ")
    }

    /// Reads the boot sector and where the records are.
    pub(crate) fn open(window: Window) -> Result<Self, Error> {
        let sector = window.bytes(0, 512)?;
        let fields = Fields::new(&sector, 0);
        let damaged = || Error::damaged("the boot sector's numbers cannot be", 0);
        let sector_bytes = u64::from(fields.le16(11)?);
        let in_cluster = match fields.u8(13)? {
            large @ 0xe0..=0xff => 1 << (256 - u32::from(large)),
            small => u64::from(small),
        };
        let cluster_bytes = sector_bytes * in_cluster;
        let possible = (256..=4096).contains(&sector_bytes)
            && sector_bytes.is_power_of_two()
            && in_cluster.is_power_of_two()
            && cluster_bytes <= 2 << 20;
        if !possible {
            return Err(damaged());
        }
        let record_bytes = match fields.u8(64)? {
            log @ 0xe0..=0xff => 1_u64 << (256 - u32::from(log)),
            clusters => u64::from(clusters) * cluster_bytes,
        };
        if !(512..=1 << 16).contains(&record_bytes) || !record_bytes.is_power_of_two() {
            return Err(damaged());
        }
        let start = fields.le64(48)?.checked_mul(cluster_bytes).ok_or_else(damaged)?;
        let first = Piece { offset: 0, length: record_bytes, place: Place::At(start) };
        let mut ntfs = Self {
            window,
            cluster_bytes,
            record_bytes: size(record_bytes)?,
            records: vec![first],
            notes: Vec::new(),
            last: RefCell::default(),
        };
        // The first record says where all are; its own list of attributes can need some of them.
        let table = ntfs.read_record(MFT)?;
        let own = ntfs.runs_of(&table, kind::DATA, &[], false)?;
        ntfs.records = own;
        if table.attributes()?.iter().any(|attribute| attribute.kind == kind::LIST) {
            ntfs.records = ntfs.runs_of(&table, kind::DATA, &[], true)?;
        }
        ntfs.last.replace(None);
        if !ntfs.is_clean()? {
            ntfs.notes.push("its journal was not replayed: what was changed shortly before this instant may be missing, older or torn".to_owned());
        }
        Ok(ntfs)
    }

    /// Whether the journal says that nothing is open: by its first page, or because it is blank.
    fn is_clean(&self) -> Result<bool, Error> {
        let log = self.read_record(LOG_FILE)?;
        let pieces = self.runs_of(&log, kind::DATA, &[], true)?;
        let Some(Piece { place: Place::At(place), length, .. }) = pieces.first() else {
            return Ok(false);
        };
        let bytes = self.window.bytes(*place, size((*length).min(4096))?)?;
        if bytes.iter().all(|byte| *byte == 0xff) {
            return Ok(true);
        }
        let page = Fields::new(&bytes, *place);
        if page.slice(0, 4)? != b"RSTR" {
            return Ok(false);
        }
        let area = page.from(usize::from(page.le16(24)?))?;
        Ok(area.le16(12)? == 0xffff || area.le16(14)? & 2 != 0)
    }

    fn record(&self, id: NodeId) -> Result<Record, Error> {
        let (number, uses) = (id.0 & ((1 << NUMBER_BITS) - 1), id.0 >> NUMBER_BITS);
        if let Some(last) = &*self.last.borrow()
            && last.number == number
        {
            return last.clone().used(uses);
        }
        let record = self.read_record(number)?;
        self.last.replace(Some(record.clone()));
        record.used(uses)
    }

    fn read_record(&self, number: u64) -> Result<Record, Error> {
        let place = number
            .checked_mul(self.record_bytes as u64)
            .ok_or(Error::damaged("a record's number is out of range", number))?;
        let mut bytes = vec![0; self.record_bytes];
        self.read_pieces(&self.records, place, &mut bytes)?;
        Record::parse(number, bytes, place)
    }

    /// Reads from a stream; what no piece covers is damage, for no structure lies in a hole.
    fn read_pieces(&self, pieces: &[Piece], offset: u64, into: &mut [u8]) -> Result<(), Error> {
        let (mut at, mut rest) = (offset, into);
        while !rest.is_empty() {
            let after = pieces.partition_point(|piece| piece.offset <= at);
            let piece = after.checked_sub(1).and_then(|last| pieces.get(last));
            let piece = piece.filter(|piece| at < piece.end());
            let piece =
                piece.ok_or(Error::damaged("a structure lies outside its stream", offset))?;
            let now = size(piece.end() - at)?.min(rest.len());
            let (first, later) = rest.split_at_mut(now);
            piece.read(self, at - piece.offset, first)?;
            at += now as u64;
            rest = later;
        }
        Ok(())
    }

    /// The pieces of a stream, up to what of it was ever written. With `all`, from all the records
    /// that the attribute list names; else from this one only.
    fn runs_of(
        &self,
        record: &Record,
        wanted: u32,
        name: &[u16],
        all: bool,
    ) -> Result<Vec<Piece>, Error> {
        let mut found: Option<Pieces> = None;
        let mut inline = None;
        self.each_attribute(record, wanted, name, all, &mut |attribute| {
            if let Some(bytes) = attribute.resident()? {
                inline = Some(bytes.to_vec());
                return Ok(());
            }
            attribute.must_be_plain()?;
            let pieces =
                found.get_or_insert_with(|| Pieces::new(attribute.initialised().unwrap_or(0)));
            attribute.runs(self.cluster_bytes, self.window.length_bytes(), pieces)
        })?;
        if let Some(bytes) = inline.filter(|bytes| !bytes.is_empty()) {
            let length = bytes.len() as u64;
            return Ok(vec![Piece { offset: 0, length, place: Place::Inline(bytes) }]);
        }
        Ok(found.map(Pieces::into_vec).unwrap_or_default())
    }

    /// Calls `each` for the parts of an attribute, in the order of the stream.
    fn each_attribute(
        &self,
        record: &Record,
        wanted: u32,
        name: &[u16],
        all: bool,
        each: &mut dyn FnMut(&Attribute<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let own = record.attributes()?;
        let list = own.iter().find(|attribute| attribute.kind == kind::LIST).filter(|_| all);
        let Some(list) = list else {
            let fitting = |a: &&Attribute<'_>| a.kind == wanted && a.name == name;
            return own.iter().filter(fitting).try_for_each(each);
        };
        let bytes = if let Some(bytes) = list.resident()? {
            bytes.to_vec()
        } else {
            let mut pieces = Pieces::new(list.initialised()?);
            list.runs(self.cluster_bytes, self.window.length_bytes(), &mut pieces)?;
            let length = list.length()?.min(attributes::LIST_BYTES);
            let mut bytes = vec![0; size(length)?];
            self.read_pieces(&pieces.into_vec(), 0, &mut bytes)?;
            bytes
        };
        for part in attributes::parts(&bytes, wanted, name)? {
            let number = part.record & ((1 << NUMBER_BITS) - 1);
            let other;
            let holder = if number == record.number {
                record
            } else {
                other = self.read_record(number)?;
                if other.base & ((1 << NUMBER_BITS) - 1) != record.number {
                    return Err(Error::damaged("a record belongs to another file", other.place));
                }
                &other
            };
            let attributes = holder.attributes()?;
            let fits = |a: &&Attribute<'_>| {
                a.kind == wanted && a.name == name && a.instance == part.instance
            };
            let attribute = attributes.iter().find(fits);
            each(
                attribute.ok_or(Error::damaged(
                    "an attribute is not where its list says",
                    holder.place,
                ))?,
            )?;
        }
        Ok(())
    }

    /// The value of an attribute that is short by nature.
    fn short_value(
        &self,
        record: &Record,
        wanted: u32,
        most: u64,
    ) -> Result<Option<Vec<u8>>, Error> {
        let pieces = self.runs_of(record, wanted, &[], true)?;
        let length = pieces.last().map_or(0, Piece::end);
        if length == 0 {
            return Ok(None);
        }
        if length > most {
            return Err(Error::damaged("an attribute is too long", record.place));
        }
        let mut bytes = vec![0; size(length)?];
        self.read_pieces(&pieces, 0, &mut bytes)?;
        Ok(Some(bytes))
    }

    /// Full length of the main stream.
    fn length_of(&self, record: &Record) -> Result<u64, Error> {
        let mut length = None;
        self.each_attribute(record, kind::DATA, &[], true, &mut |attribute| {
            if length.is_none() {
                length = Some(attribute.length()?);
            }
            Ok(())
        })?;
        Ok(length.unwrap_or(0))
    }
}

impl FileSystem for Ntfs {
    fn name(&self) -> &'static str {
        "NTFS"
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn root(&self) -> NodeId {
        NodeId(ROOT)
    }

    fn node(&self, id: NodeId) -> Result<Node, Error> {
        let record = self.record(id)?;
        let own = record.attributes()?;
        let standard = own.iter().find(|attribute| attribute.kind == kind::STANDARD);
        let damaged = || Error::damaged("a record has no information", record.place);
        let value = standard.ok_or_else(damaged)?.resident()?.ok_or_else(damaged)?;
        let fields = Fields::new(value, record.place);
        let (modified, flags) = (time(fields.le64(8)?), fields.le32(32)?);
        let target =
            if flags & ATTRIBUTE_REPARSE == 0 { None } else { link::target(self, &record)? };
        let (kind, size) = match target {
            Some(target) => (Kind::Link, target.len() as u64),
            None if record.is_directory => (Kind::Directory, 0),
            None => (Kind::File, self.length_of(&record)?),
        };
        let read_only = kind == Kind::File && flags & ATTRIBUTE_READ_ONLY != 0;
        Ok(Node {
            id,
            kind,
            size,
            mode: read_only.then_some(0o444),
            owner: None,
            modified,
            names: u32::from(record.links),
        })
    }

    fn list(
        &self,
        directory: NodeId,
        each: &mut dyn FnMut(Entry) -> Result<(), Error>,
    ) -> Result<(), Error> {
        directory::list(self, &self.record(directory)?, each)
    }

    /// NTFS keeps the case of names and mostly does not tell them apart by it.
    fn same_name(&self, one: &[u8], other: &[u8]) -> bool {
        let (Ok(one), Ok(other)) = (str::from_utf8(one), str::from_utf8(other)) else {
            return one.eq_ignore_ascii_case(other);
        };
        one.chars().flat_map(char::to_uppercase).eq(other.chars().flat_map(char::to_uppercase))
    }

    fn pieces(&self, file: NodeId) -> Result<Vec<Piece>, Error> {
        let record = self.record(file)?;
        link::refuse_content_elsewhere(self, &record)?;
        let length = self.length_of(&record)?;
        let mut pieces = self.runs_of(&record, kind::DATA, &[], true)?;
        pieces.retain(|piece| piece.offset < length);
        if let Some(last) = pieces.last_mut() {
            last.length = last.length.min(length - last.offset);
        }
        Ok(pieces)
    }

    fn target(&self, link: NodeId) -> Result<Vec<u8>, Error> {
        let record = self.record(link)?;
        let target = link::target(self, &record)?;
        target.ok_or(Error::damaged("a link has no target that can be", record.place))
    }

    fn read(&self, place: u64, into: &mut [u8]) -> Result<(), Error> {
        self.window.read(place, into)
    }

    fn replayed(&self, _place: u64, _length: u64) -> bool {
        false
    }
}

/// A time in steps of 100 ns since 1601.
fn time(steps: u64) -> Time {
    let seconds = i64::try_from(steps / 10_000_000).unwrap_or(0) - 11_644_473_600;
    let nanoseconds = u32::try_from(steps % 10_000_000).unwrap_or(0) * 100;
    Time { seconds, nanoseconds }
}

/// UTF-16 as UTF-8; half a surrogate pair, which is no text, as the three bytes it would be.
fn utf8(units: &[u16]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(units.len());
    for decoded in char::decode_utf16(units.iter().copied()) {
        match decoded {
            Ok(letter) => bytes.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes()),
            Err(half) => {
                let [high, low] = half.unpaired_surrogate().to_be_bytes();
                let six = high << 2 & 0x3c | low >> 6;
                bytes.extend_from_slice(&[0xe0 | high >> 4, 0x80 | six, 0x80 | low & 0x3f]);
            }
        }
    }
    bytes
}

/// Two bytes a unit.
fn units(bytes: &[u8]) -> Vec<u16> {
    let pairs = bytes.chunks_exact(2).filter_map(|pair| pair.first_chunk());
    pairs.map(|pair| u16::from_le_bytes(*pair)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_count_from_1601() {
        assert_eq!(time(0).seconds, -11_644_473_600);
        let known = time(132_223_104_000_000_001); // 2020-01-01
        assert_eq!((known.seconds, known.nanoseconds), (1_577_836_800, 100));
    }

    #[test]
    fn names_become_utf8_and_half_pairs_stay_apart() {
        let text: Vec<u16> = "grün 𝄞".encode_utf16().collect();
        assert_eq!(utf8(&text), "grün 𝄞".as_bytes());
        assert_eq!(utf8(&[0xd834, 0x41]), b"\xed\xa0\xb4A");
        assert_ne!(utf8(&[0xd834]), utf8(&[0xd835]));
    }
}
