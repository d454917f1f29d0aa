//! FAT12, FAT16 and FAT32 with long names (Microsoft, FAT32 File System Specification 1.03).
//!
//! A node is named by the place of its entry: FAT has no other identity. Chains are followed through
//! the first table, each no longer than the disk has clusters, so that one which bites its tail ends as
//! damage. Times have no zone and are taken as UTC. There is no journal; where the file system says
//! that it was not cleanly left, a note tells it.

use std::cell::RefCell;

use crate::{
    Entry, Error, FileSystem, Kind, Node, NodeId, Piece, Time,
    disk::Window,
    fields::{Fields, size},
    limits::{DIRECTORY_BYTES, ENTRIES},
    pieces::Pieces,
    tree::is_name,
};

const ENTRY_BYTES: usize = 32;

/// The node of the top directory, which has no entry.
const ROOT: NodeId = NodeId(0);

mod attribute {
    pub(super) const READ_ONLY: u8 = 0x01;
    pub(super) const LABEL: u8 = 0x08;
    pub(super) const DIRECTORY: u8 = 0x10;
    pub(super) const LONG_NAME: u8 = 0x0f;
}

/// Bits of a table's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Width {
    Bits12,
    Bits16,
    Bits32,
}

/// A FAT file system.
pub(crate) struct Fat {
    window: Window,
    width: Width,
    cluster_bytes: u64,
    /// First byte of the first table.
    table: u64,
    /// First byte and length of FAT12's and FAT16's top directory.
    root_area: (u64, u64),
    /// First cluster of FAT32's top directory.
    root_cluster: u32,
    /// First byte of cluster 2.
    data: u64,
    /// Cluster numbers are below this.
    clusters_end: u32,
    notes: Vec<String>,
    /// The entry that was read last: a caller asks for node and pieces one after the other.
    last: RefCell<Option<(NodeId, Found)>>,
}

/// What an entry says.
#[derive(Clone, Copy, Debug)]
struct Found {
    attributes: u8,
    cluster: u32,
    size: u32,
    modified: Time,
}

impl Fat {
    /// The file system, or `None` where the first sector is not that of one. Damage shows only later:
    /// a sector that makes no sense is no FAT's.
    pub(crate) fn find(window: &Window) -> Result<Option<Self>, Error> {
        if window.length_bytes() < 512 {
            return Ok(None);
        }
        let sector = window.bytes(0, 512)?;
        let fields = Fields::new(&sector, 0);
        let sector_bytes = u64::from(fields.le16(11)?);
        let (in_cluster, tables) = (u64::from(fields.u8(13)?), u64::from(fields.u8(16)?));
        let reserved = u64::from(fields.le16(14)?);
        let root_entries = u64::from(fields.le16(17)?);
        let begins = fields.u8(0)? == 0xeb || fields.u8(0)? == 0xe9;
        let possible = begins
            && fields.le16(510)? == 0xaa55
            && (512..=4096).contains(&sector_bytes)
            && sector_bytes.is_power_of_two()
            && in_cluster.is_power_of_two()
            && reserved > 0
            && (1..=2).contains(&tables)
            && fields.u8(21)? >= 0xf0
            && fields.slice(3, 8)? != b"NTFS    "
            && fields.slice(3, 8)? != b"EXFAT   ";
        if !possible {
            return Ok(None);
        }
        let either = |short: u16, long: u32| if short == 0 { long } else { u32::from(short) };
        let sectors = u64::from(either(fields.le16(19)?, fields.le32(32)?));
        let table_sectors = u64::from(either(fields.le16(22)?, fields.le32(36)?));
        let root_sectors = (root_entries * ENTRY_BYTES as u64).div_ceil(sector_bytes);
        let before = reserved + tables * table_sectors + root_sectors;
        let Some(clusters) = sectors.checked_sub(before).map(|left| left / in_cluster) else {
            return Ok(None);
        };
        let Ok(clusters) = u32::try_from(clusters) else { return Ok(None) };
        // The number of clusters decides, and nothing else: so says the specification.
        let width = match clusters {
            0..4085 => Width::Bits12,
            4085..65_525 => Width::Bits16,
            _ => Width::Bits32,
        };
        if table_sectors == 0 || clusters == 0 || (width == Width::Bits32) != (root_entries == 0) {
            return Ok(None);
        }
        let root_area = (reserved + tables * table_sectors) * sector_bytes;
        let mut fat = Self {
            window: window.clone(),
            width,
            cluster_bytes: in_cluster * sector_bytes,
            table: reserved * sector_bytes,
            root_area: (root_area, root_entries * ENTRY_BYTES as u64),
            root_cluster: if width == Width::Bits32 { fields.le32(44)? } else { 0 },
            data: before * sector_bytes,
            clusters_end: clusters.saturating_add(2).min(0x0fff_fff7),
            notes: Vec::new(),
            last: RefCell::default(),
        };
        let clean = match width {
            Width::Bits12 => true,
            Width::Bits16 => fat.entry(1)? & 0x8000 != 0,
            Width::Bits32 => fat.entry(1)? & 0x0800_0000 != 0,
        };
        if !clean {
            fat.notes.push(
                "it was in use at this instant: what was being changed may be torn".to_owned(),
            );
        }
        Ok(Some(fat))
    }

    /// A cluster's entry in the table, as it stands there.
    fn entry(&self, cluster: u32) -> Result<u32, Error> {
        let cluster = u64::from(cluster);
        let mut bytes = [0; 4];
        match self.width {
            Width::Bits12 => {
                self.window.read(self.table + cluster + cluster / 2, &mut bytes[..2])?;
                let pair = u32::from_le_bytes(bytes);
                Ok(if cluster.is_multiple_of(2) { pair & 0xfff } else { pair >> 4 })
            }
            Width::Bits16 => {
                self.window.read(self.table + cluster * 2, &mut bytes[..2])?;
                Ok(u32::from_le_bytes(bytes))
            }
            Width::Bits32 => {
                self.window.read(self.table + cluster * 4, &mut bytes)?;
                Ok(u32::from_le_bytes(bytes) & 0x0fff_ffff)
            }
        }
    }

    /// The clusters of a chain, at most `most`, as pieces of a file of `length` bytes.
    fn chain(&self, first: u32, length: u64, most: u64) -> Result<Vec<Piece>, Error> {
        let end_mark = match self.width {
            Width::Bits12 => 0xff8,
            Width::Bits16 => 0xfff8,
            Width::Bits32 => 0x0fff_fff8,
        };
        let mut pieces = Pieces::new(length);
        let (mut cluster, mut count) = (first, 0_u64);
        while count < most {
            if !(2..self.clusters_end).contains(&cluster) {
                let place = self.table + u64::from(cluster);
                return Err(Error::damaged("a chain of clusters breaks off", place));
            }
            if count >= u64::from(self.clusters_end) {
                return Err(Error::damaged("a chain of clusters has no end", self.table));
            }
            let place = self.data + u64::from(cluster - 2) * self.cluster_bytes;
            pieces.add(count * self.cluster_bytes, self.cluster_bytes, place)?;
            count += 1;
            cluster = self.entry(cluster)?;
            if cluster >= end_mark {
                break;
            }
        }
        if most != u64::MAX && count < most {
            return Err(Error::damaged("a file's chain of clusters is too short", self.table));
        }
        Ok(pieces.into_vec())
    }

    fn found(&self, id: NodeId) -> Result<Found, Error> {
        if let Some((last, found)) = *self.last.borrow()
            && last == id
        {
            return Ok(found);
        }
        let bytes = self.window.bytes(id.0, ENTRY_BYTES)?;
        let found = Found::parse(&Fields::new(&bytes, id.0), self.width)?;
        self.last.replace(Some((id, found)));
        Ok(found)
    }

    /// The stretches of the file system that hold a directory's entries.
    fn area(&self, directory: NodeId) -> Result<Vec<(u64, u64)>, Error> {
        let cluster = if directory == ROOT {
            if self.width != Width::Bits32 {
                return Ok(vec![self.root_area]);
            }
            self.root_cluster
        } else {
            let found = self.found(directory)?;
            if found.attributes & attribute::DIRECTORY == 0 {
                return Err(Error::damaged("a directory is none", directory.0));
            }
            found.cluster
        };
        let pieces = self.chain(cluster, DIRECTORY_BYTES, u64::MAX)?;
        let places = pieces.into_iter().filter_map(|piece| match piece.place {
            crate::Place::At(place) => Some((place, piece.length)),
            crate::Place::Inline(_) => None,
        });
        Ok(places.collect())
    }
}

impl FileSystem for Fat {
    fn name(&self) -> &'static str {
        match self.width {
            Width::Bits12 => "FAT12",
            Width::Bits16 => "FAT16",
            Width::Bits32 => "FAT32",
        }
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn root(&self) -> NodeId {
        ROOT
    }

    fn node(&self, id: NodeId) -> Result<Node, Error> {
        let directory = |modified| Node {
            id,
            kind: Kind::Directory,
            size: 0,
            mode: None,
            owner: None,
            modified,
            names: 1,
        };
        if id == ROOT {
            return Ok(directory(Time::default()));
        }
        let found = self.found(id)?;
        if found.attributes & attribute::DIRECTORY != 0 {
            return Ok(directory(found.modified));
        }
        let read_only = found.attributes & attribute::READ_ONLY != 0;
        Ok(Node {
            kind: Kind::File,
            size: u64::from(found.size),
            mode: read_only.then_some(0o444),
            ..directory(found.modified)
        })
    }

    fn list(
        &self,
        directory: NodeId,
        each: &mut dyn FnMut(Entry) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (mut long, mut count) = (LongName::default(), 0);
        for (start, length) in self.area(directory)? {
            let mut at = start;
            while at < start + length {
                // A cluster at most, so that a large directory is not held whole.
                let now = self.cluster_bytes.min(start + length - at);
                let bytes = self.window.bytes(at, size(now)?)?;
                for (index, entry) in (0_u64..).zip(bytes.chunks_exact(ENTRY_BYTES)) {
                    let place = at + index * ENTRY_BYTES as u64;
                    let fields = Fields::new(entry, place);
                    match fields.u8(0)? {
                        0 => return Ok(()),
                        0xe5 => long = LongName::default(),
                        _ if fields.u8(11)? & 0x3f == attribute::LONG_NAME => long.add(&fields)?,
                        _ if fields.u8(11)? & attribute::LABEL != 0 => long = LongName::default(),
                        _ => {
                            let name = std::mem::take(&mut long).name(&fields)?;
                            if name == b"." || name == b".." {
                                continue;
                            }
                            count += 1;
                            if count > ENTRIES {
                                return Err(Error::Limit("a directory's number of names"));
                            }
                            if !is_name(&name) {
                                return Err(Error::damaged("a name that cannot be", place));
                            }
                            each(Entry { name, id: NodeId(place) })?;
                        }
                    }
                }
                at += now;
            }
        }
        Ok(())
    }

    /// FAT keeps the case of names and does not tell them apart by it.
    fn same_name(&self, one: &[u8], other: &[u8]) -> bool {
        let (Ok(one), Ok(other)) = (str::from_utf8(one), str::from_utf8(other)) else {
            return one.eq_ignore_ascii_case(other);
        };
        one.chars().flat_map(char::to_uppercase).eq(other.chars().flat_map(char::to_uppercase))
    }

    fn pieces(&self, file: NodeId) -> Result<Vec<Piece>, Error> {
        let found = self.found(file)?;
        if found.size == 0 {
            return Ok(Vec::new());
        }
        let length = u64::from(found.size);
        self.chain(found.cluster, length, length.div_ceil(self.cluster_bytes))
    }

    fn target(&self, link: NodeId) -> Result<Vec<u8>, Error> {
        Err(Error::damaged("FAT has no links", link.0))
    }

    fn read(&self, place: u64, into: &mut [u8]) -> Result<(), Error> {
        self.window.read(place, into)
    }

    fn replayed(&self, _place: u64, _length: u64) -> bool {
        false
    }
}

impl Found {
    fn parse(fields: &Fields<'_>, width: Width) -> Result<Self, Error> {
        let high = if width == Width::Bits32 { fields.le16(20)? } else { 0 };
        Ok(Self {
            attributes: fields.u8(11)?,
            cluster: u32::from(high) << 16 | u32::from(fields.le16(26)?),
            size: fields.le32(28)?,
            modified: time(fields.le16(24)?, fields.le16(22)?),
        })
    }
}

/// A date and a time of day as a time. What cannot be (month 0) counts as the month's or day's first.
fn time(date: u16, time: u16) -> Time {
    let (year, month, day) = (
        1980 + i64::from(date >> 9),
        i64::from(date >> 5 & 15).max(1),
        i64::from(date & 31).max(1),
    );
    // Days since 1970-03-01 of the year that begins in March, as calendars are counted most easily.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    let days = year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1 - 719_468;
    let (hours, minutes, pairs) = (i64::from(time >> 11), i64::from(time >> 5 & 63), time & 31);
    Time {
        seconds: days * 86_400 + hours * 3600 + minutes * 60 + i64::from(pairs) * 2,
        nanoseconds: 0,
    }
}

/// A long name in the making: its parts stand before its entry, the last one first.
#[derive(Default)]
struct LongName {
    units: Vec<u16>,
    /// The number that the next part must have; 0 when all are there.
    next: u8,
    checksum: u8,
}

impl LongName {
    fn add(&mut self, fields: &Fields<'_>) -> Result<(), Error> {
        let order = fields.u8(0)?;
        let (number, checksum) = (order & 0x1f, fields.u8(13)?);
        if order & 0x40 != 0 {
            *self = Self { units: Vec::new(), next: number, checksum };
        }
        if number == 0 || number != self.next || number > 20 || checksum != self.checksum {
            *self = Self::default();
            return Ok(());
        }
        let mut part = Vec::with_capacity(13);
        for (at, count) in [(1, 5), (14, 6), (28, 2)] {
            for index in 0..count {
                part.push(fields.le16(at + index * 2)?);
            }
        }
        part.append(&mut self.units);
        self.units = part;
        self.next -= 1;
        Ok(())
    }

    /// The name of the entry that follows: the long one if it is whole and belongs to it.
    fn name(self, fields: &Fields<'_>) -> Result<Vec<u8>, Error> {
        let short = fields.slice(0, 11)?;
        let sum = short.iter().fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
        if self.units.is_empty() || self.next != 0 || sum != self.checksum {
            return Ok(short_name(short, fields.u8(12)?));
        }
        let end = self.units.iter().position(|unit| *unit == 0).unwrap_or(self.units.len());
        Ok(String::from_utf16_lossy(&self.units[..end]).into_bytes())
    }
}

/// Letters of the upper half of code page 437. The disk does not name its page; this is what the PC
/// began with and what Linux takes.
const PAGE_437: &str = "\
    ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐\
    └┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";

/// `NAME    TXT` as `NAME.TXT`; two bits of Windows NT say which part is in small letters.
fn short_name(bytes: &[u8], case: u8) -> Vec<u8> {
    let (base, extension) = bytes.split_at(8);
    let mut base = base.to_vec();
    if base.first() == Some(&0x05) {
        base[0] = 0xe5;
    }
    let mut name = short_part(&base, case & 0x08 != 0);
    let extension = short_part(extension, case & 0x10 != 0);
    if !extension.is_empty() {
        name.push('.');
        name.push_str(&extension);
    }
    name.into_bytes()
}

fn short_part(bytes: &[u8], small: bool) -> String {
    let letters = bytes.trim_ascii_end().iter().map(|byte| match byte {
        0x80.. => PAGE_437.chars().nth(usize::from(byte & 0x7f)).unwrap_or('\u{fffd}'),
        ascii => char::from(*ascii),
    });
    if small { letters.flat_map(char::to_lowercase).collect() } else { letters.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_counted_from_the_calendar() {
        let seconds = |date, of_day| time(date, of_day).seconds;
        assert_eq!(seconds(0x0021, 0), 315_532_800); // 1980-01-01
        let date = |year: u16, month: u16, day: u16| (year - 1980) << 9 | month << 5 | day;
        let of_day = |hour: u16, minute: u16, pair: u16| hour << 11 | minute << 5 | pair;
        assert_eq!(seconds(date(2020, 2, 29), 0), 1_582_934_400);
        assert_eq!(seconds(date(2026, 11, 20), of_day(10, 3, 1)), 1_795_168_982);
        assert_eq!(seconds(0, 0), seconds(0x0021, 0));
    }

    #[test]
    fn short_names_are_joined_and_cased() {
        assert_eq!(short_name(b"README  TXT", 0), b"README.TXT");
        assert_eq!(short_name(b"README  TXT", 0x18), b"readme.txt");
        assert_eq!(short_name(b"A          ", 0x10), b"A");
        assert_eq!(short_name(b"GR\x9aN       ", 0), "GRÜN".as_bytes());
        assert_eq!(short_name(b"GR\x9aN       ", 0x08), "grün".as_bytes());
        assert_eq!(short_name(b"\x05BC        ", 0), "σBC".as_bytes());
        assert_eq!((PAGE_437.chars().count(), PAGE_437.chars().next()), (128, Some('Ç')));
    }
}
