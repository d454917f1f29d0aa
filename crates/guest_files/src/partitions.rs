//! Where a disk's partitions are: MBR with logical ones, and GPT from either of its two copies.
//!
//! A table is believed as far as it lies on the disk; what reaches past the end is cut, what begins
//! there is left out. GPT wins over the MBR that protects it. Sectors are 512 bytes, or 4096 where
//! a GPT is found only so.

use crate::{
    Error,
    disk::{Disk, Window},
    fields::Fields,
    limits::PARTITIONS,
};

const SECTOR: u64 = 512;

/// How a disk is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// Not at all.
    None,
    /// By the table of the PC's first sector.
    Mbr,
    /// By GUID partition table.
    Gpt,
}

/// A range of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its number as Linux counts: logical ones from 5, GPT's by its place in the table.
    pub number: u32,
    /// First byte.
    pub start: u64,
    /// How many bytes.
    pub length: u64,
}

/// The partitions of a disk.
pub(crate) fn partitions(disk: &Disk) -> Result<(Table, Vec<Partition>), Error> {
    let whole = disk.whole();
    let mut found = Vec::new();
    if whole.length_bytes() < SECTOR {
        return Ok((Table::None, found));
    }
    for sector in [SECTOR, 4096] {
        if let Some(table) = gpt(&whole, sector)? {
            found = table;
            return Ok((Table::Gpt, found));
        }
    }
    let sector = whole.bytes(0, 512)?;
    let Some(entries) = mbr(&sector) else { return Ok((Table::None, found)) };
    for (number, entry) in (1..).zip(entries) {
        if entry.is_extended() {
            logical(&whole, entry.start, &mut found)?;
        } else {
            push(&whole, number, entry.start, entry.sectors, &mut found);
        }
    }
    found.sort_by_key(|partition| partition.number);
    Ok((if found.is_empty() { Table::None } else { Table::Mbr }, found))
}

#[derive(Clone, Copy, Debug)]
struct MbrEntry {
    kind: u8,
    start: u64,
    sectors: u64,
}

impl MbrEntry {
    const fn is_extended(self) -> bool {
        matches!(self.kind, 0x05 | 0x0f | 0x85)
    }
}

/// The four entries, or `None` where the sector is no table: a boot sector ends in the same two bytes.
fn mbr(sector: &[u8]) -> Option<[MbrEntry; 4]> {
    let fields = Fields::new(sector, 0);
    if fields.le16(510).ok()? != 0xaa55 {
        return None;
    }
    let mut entries = [MbrEntry { kind: 0, start: 0, sectors: 0 }; 4];
    for (index, entry) in entries.iter_mut().enumerate() {
        let at = 446 + index * 16;
        if !matches!(fields.u8(at).ok()?, 0 | 0x80) {
            return None;
        }
        *entry = MbrEntry {
            kind: fields.u8(at + 4).ok()?,
            start: u64::from(fields.le32(at + 8).ok()?),
            sectors: u64::from(fields.le32(at + 12).ok()?),
        };
    }
    Some(entries)
}

/// Follows the chain of tables inside an extended partition: the first entry of each is a logical
/// partition, counted from that table; the second leads to the next table, counted from the first.
fn logical(whole: &Window, base: u64, found: &mut Vec<Partition>) -> Result<(), Error> {
    let (mut table, mut number) = (base, 5);
    // A chain that comes back to itself ends with the bound.
    while found.len() < PARTITIONS && number < 5 + 256 {
        let at = table * SECTOR;
        if table == 0 || at + SECTOR > whole.length_bytes() {
            break;
        }
        let sector = whole.bytes(at, 512)?;
        let Some([first, next, ..]) = mbr(&sector) else { break };
        if first.kind != 0 {
            push(whole, number, table + first.start, first.sectors, found);
            number += 1;
        }
        if !next.is_extended() || next.start == 0 {
            break;
        }
        table = base + next.start;
    }
    Ok(())
}

fn push(whole: &Window, number: u32, start: u64, sectors: u64, found: &mut Vec<Partition>) {
    let start = start * SECTOR; // both are below 2^33
    if start == 0 || sectors == 0 || start >= whole.length_bytes() || found.len() == PARTITIONS {
        return;
    }
    let length = (sectors * SECTOR).min(whole.length_bytes() - start);
    found.push(Partition { number, start, length });
}

/// The GPT's partitions, by its first copy or, where that is not whole, its second at the disk's end.
fn gpt(whole: &Window, sector: u64) -> Result<Option<Vec<Partition>>, Error> {
    let last = (whole.length_bytes() / sector).saturating_sub(1);
    for at in [1, last] {
        let place = at * sector;
        if place == 0 || place + sector > whole.length_bytes() {
            continue;
        }
        let header = whole.bytes(place, 512)?;
        match gpt_copy(whole, sector, at, &header) {
            Ok(Some(found)) => return Ok(Some(found)),
            Ok(None) | Err(Error::Damaged { .. }) => {}
            Err(other) => return Err(other),
        }
    }
    Ok(None)
}

fn gpt_copy(
    whole: &Window,
    sector: u64,
    at: u64,
    header: &[u8],
) -> Result<Option<Vec<Partition>>, Error> {
    let fields = Fields::new(header, at * sector);
    let length = fields.le32(12)? as usize;
    if fields.slice(0, 8)? != b"EFI PART" || !(92..=512).contains(&length) {
        return Ok(None);
    }
    let mut summed = fields.slice(0, length)?.to_vec();
    summed[16..20].fill(0);
    if crc32(&summed) != fields.le32(16)? || fields.le64(24)? != at {
        return Ok(None);
    }
    let (table, count, bytes) = (fields.le64(72)?, fields.le32(80)?, fields.le32(84)?);
    if !(128..=4096).contains(&bytes) || u64::from(count) * u64::from(bytes) > 1 << 20 {
        return Err(Error::damaged("the partition table has an odd form", at * sector));
    }
    let place = table.checked_mul(sector).ok_or(Error::damaged("a table lies nowhere", 0))?;
    let entries = whole.bytes(place, count as usize * bytes as usize)?;
    if crc32(&entries) != fields.le32(88)? {
        return Err(Error::damaged("the partition table's checksum differs", place));
    }
    let mut found = Vec::new();
    for (number, entry) in (1..).zip(entries.chunks_exact(bytes as usize)) {
        let fields = Fields::new(entry, place);
        let (first, last) = (fields.le64(32)?, fields.le64(40)?);
        let start = first.checked_mul(sector);
        let used = fields.slice(0, 16)?.iter().any(|byte| *byte != 0);
        let Some(start) = start.filter(|start| used && *start < whole.length_bytes()) else {
            continue;
        };
        if last < first || found.len() == PARTITIONS {
            continue;
        }
        let length = (last - first).saturating_add(1).saturating_mul(sector);
        let length = length.min(whole.length_bytes() - start);
        found.push(Partition { number, start, length });
    }
    Ok(Some(found))
}

/// The CRC-32 of GPT (that of zip files), bit by bit: it is taken of a few KiB once for each disk.
fn crc32(bytes: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = (sum >> 1) ^ if sum & 1 == 1 { 0xedb8_8320 } else { 0 };
        }
    }
    !sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(disk: &mut [u8], table: usize, index: usize, kind: u8, start: u32, sectors: u32) {
        let at = table * 512 + 446 + index * 16;
        disk[at + 4] = kind;
        disk[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
        disk[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
        disk[table * 512 + 510..table * 512 + 512].copy_from_slice(&[0x55, 0xaa]);
    }

    fn found(disk: Vec<u8>) -> (Table, Vec<(u32, u64, u64)>) {
        let (table, list) = partitions(&Disk::new(Box::new(disk))).expect("readable");
        let list = list.iter().map(|p| (p.number, p.start / 512, p.length / 512));
        (table, list.collect())
    }

    #[test]
    fn crc_is_that_of_zip_files() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn logical_partitions_are_counted_from_five() {
        let mut disk = vec![0; 1000 * 512];
        entry(&mut disk, 0, 0, 0x83, 10, 90);
        entry(&mut disk, 0, 1, 0x0f, 100, 900);
        entry(&mut disk, 100, 0, 0x83, 10, 40);
        entry(&mut disk, 100, 1, 0x05, 200, 100);
        entry(&mut disk, 300, 0, 0x83, 5, 5000);
        let expected = vec![(1, 10, 90), (5, 110, 40), (6, 305, 695)];
        assert_eq!(found(disk), (Table::Mbr, expected));
    }

    #[test]
    fn a_chain_of_tables_that_bites_its_tail_ends() {
        let mut disk = vec![0; 1000 * 512];
        entry(&mut disk, 0, 0, 0x05, 100, 900);
        entry(&mut disk, 100, 0, 0x83, 10, 40);
        entry(&mut disk, 100, 1, 0x05, 200, 100);
        entry(&mut disk, 300, 0, 0x83, 5, 5);
        entry(&mut disk, 300, 1, 0x05, 200, 100);
        assert_eq!(found(disk).1.len(), PARTITIONS);
    }

    #[test]
    fn a_boot_sector_is_no_table() {
        let mut disk = vec![0x41; 1000 * 512];
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(found(disk), (Table::None, Vec::new()));
        assert_eq!(found(vec![0; 100]), (Table::None, Vec::new()));
    }

    /// A GPT with one partition, and its copy at the end.
    fn gpt_disk(sector: usize) -> Vec<u8> {
        let (sectors, bytes) = (2000, 128);
        let mut disk = vec![0; sectors * sector];
        let mut entries = vec![0; 128 * bytes];
        entries[2 * bytes..2 * bytes + 16].fill(0xaf);
        entries[2 * bytes + 32..2 * bytes + 40].copy_from_slice(&40_u64.to_le_bytes());
        entries[2 * bytes + 40..2 * bytes + 48].copy_from_slice(&139_u64.to_le_bytes());
        let table_sectors = entries.len().div_ceil(sector);
        for (at, table) in [(1, 2), (sectors - 1, sectors - 1 - table_sectors)] {
            let mut header = vec![0; 92];
            header[..8].copy_from_slice(b"EFI PART");
            header[12..16].copy_from_slice(&92_u32.to_le_bytes());
            header[24..32].copy_from_slice(&(at as u64).to_le_bytes());
            header[72..80].copy_from_slice(&(table as u64).to_le_bytes());
            header[80..84].copy_from_slice(&128_u32.to_le_bytes());
            header[84..88].copy_from_slice(&128_u32.to_le_bytes());
            header[88..92].copy_from_slice(&crc32(&entries).to_le_bytes());
            let sum = crc32(&header);
            header[16..20].copy_from_slice(&sum.to_le_bytes());
            disk[at * sector..at * sector + 92].copy_from_slice(&header);
            disk[table * sector..table * sector + entries.len()].copy_from_slice(&entries);
        }
        disk
    }

    #[test]
    fn gpt_is_read_from_either_copy_and_with_large_sectors() {
        for sector in [512, 4096] {
            let unit = sector as u64 / 512;
            let expected = (Table::Gpt, vec![(3, 40 * unit, 100 * unit)]);
            let mut disk = gpt_disk(sector);
            assert_eq!(found(disk.clone()), expected, "{sector}");
            disk[2 * sector + 300] ^= 1; // in the first table
            assert_eq!(found(disk.clone()), expected, "{sector}");
            disk[sector + 9] ^= 1; // in the first header
            assert_eq!(found(disk.clone()), expected, "{sector}");
            let end = disk.len();
            disk[end - sector + 80] ^= 1;
            assert_eq!(found(disk), (Table::None, Vec::new()), "{sector}");
        }
    }
}
