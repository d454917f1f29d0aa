//! Images for tests, made byte by byte: independent of the writer.
//!
//! Log at 1 MiB, metadata at 2 MiB, block table at 3 MiB, blocks from 4 MiB on.

use crate::{
    bytes::{narrow, wide},
    vhdx::guid::{self, Guid},
};

pub(in crate::vhdx) const MIB: u64 = 1 << 20;
pub(in crate::vhdx) const LOG: u64 = MIB;
pub(in crate::vhdx) const METADATA: u64 = 2 * MIB;
pub(in crate::vhdx) const BAT: u64 = 3 * MIB;
pub(in crate::vhdx) const BLOCKS: u64 = 4 * MIB;

/// Identifiers of the images made here.
pub(in crate::vhdx) const DATA_WRITE: Guid = [0xd0; 16];
pub(in crate::vhdx) const LOG_GUID: Guid = [0x10; 16];

/// What an image is to hold.
pub(in crate::vhdx) struct Build {
    pub size: u64,
    pub block: u64,
    pub sector: u32,
    pub flags: u32,
    pub log_guid: Guid,
    pub data_write: Guid,
    /// Entries of the block table by index, and bytes of the file from [`BLOCKS`] on.
    pub entries: Vec<(u64, u64)>,
    pub blocks: Vec<u8>,
    pub locator: Option<Vec<(String, String)>>,
    pub more_items: Vec<(Guid, Vec<u8>, u32)>,
    pub more_regions: Vec<(Guid, u64, u32, u32)>,
}

impl Default for Build {
    /// A dynamic disk of 3 MiB in blocks of 1 MiB, that holds its first and last one.
    fn default() -> Self {
        let blocks = (0..2 * MIB).map(|n| (n / 3).to_le_bytes()[0] | 1).collect();
        Self {
            size: 3 * MIB,
            block: MIB,
            sector: 512,
            flags: 0,
            log_guid: guid::NONE,
            data_write: DATA_WRITE,
            entries: vec![(0, BLOCKS | 6), (2, (BLOCKS + MIB) | 6)],
            blocks,
            locator: None,
            more_items: Vec::new(),
            more_regions: Vec::new(),
        }
    }
}

impl Build {
    /// A child of the default disk: its first block is its own, of its second the sectors 1 and 2.
    pub fn child(name: &str) -> Self {
        let mut blocks = vec![0x11; 3 << 20];
        blocks[narrow(2 * MIB)..].fill(0);
        blocks[narrow(2 * MIB) + 256] = 0b110; // the second block's bits follow the first one's 2048
        Self {
            flags: 2,
            entries: vec![(0, BLOCKS | 6), (1, (BLOCKS + MIB) | 7), (4096, (BLOCKS + 2 * MIB) | 6)],
            blocks,
            locator: Some(vec![
                ("parent_linkage".to_owned(), guid::text(&DATA_WRITE)),
                ("relative_path".to_owned(), format!(".\\{name}")),
            ]),
            ..Self::default()
        }
    }

    /// What a guest reads of it, parents left out.
    pub fn guest(&self) -> Vec<u8> {
        let mut bytes = vec![0; narrow(self.size)];
        let mib = narrow(MIB);
        bytes[..mib].copy_from_slice(&self.blocks[..mib]);
        bytes[2 * mib..].copy_from_slice(&self.blocks[mib..2 * mib]);
        bytes
    }

    pub fn image(&self) -> Image {
        let mut image = Image(vec![0; narrow(BLOCKS)]);
        image.0.extend(&self.blocks);
        image.put(0, b"vhdxfilet\0e\0s\0t\0");
        for (at, sequence) in [(64 << 10, 7_u64), (128 << 10, 8)] {
            image.put(at, b"head");
            image.put(at + 8, &sequence.to_le_bytes());
            image.put(at + 16, &[0xf0; 16]);
            image.put(at + 32, &self.data_write);
            image.put(at + 48, &self.log_guid);
            image.put(at + 66, &[1, 0]);
            image.put(at + 68, &low(MIB));
            image.put(at + 72, &LOG.to_le_bytes());
        }
        let mut regions =
            vec![(guid::BAT, BAT, 1 << 20, 1_u32), (guid::METADATA, METADATA, 1 << 20, 1)];
        regions.extend(&self.more_regions);
        for table in [192 << 10, 256 << 10] {
            image.put(table, b"regi");
            image.put(table + 8, &low(wide(regions.len())));
            for (number, (guid, at, len, required)) in regions.iter().enumerate() {
                let entry = table + 16 + 32 * wide(number);
                image.put(entry, guid);
                image.put(entry + 16, &at.to_le_bytes());
                image.put(entry + 24, &len.to_le_bytes());
                image.put(entry + 28, &required.to_le_bytes());
            }
        }
        self.metadata(&mut image);
        for (index, raw) in &self.entries {
            image.put(BAT + index * 8, &raw.to_le_bytes());
        }
        image.seal();
        image
    }

    fn metadata(&self, image: &mut Image) {
        let mut parameters = low(self.block).to_vec();
        parameters.extend(self.flags.to_le_bytes());
        let mut items = vec![
            (guid::FILE_PARAMETERS, parameters, 4),
            (guid::VIRTUAL_SIZE, self.size.to_le_bytes().to_vec(), 6),
            (guid::DISK_ID, vec![0x83; 16], 6),
            (guid::LOGICAL_SECTOR, self.sector.to_le_bytes().to_vec(), 6),
            (guid::PHYSICAL_SECTOR, 4096_u32.to_le_bytes().to_vec(), 6),
        ];
        items.extend(self.locator.as_ref().map(|pairs| (guid::PARENT_LOCATOR, locator(pairs), 4)));
        items.extend(self.more_items.iter().cloned());
        image.put(METADATA, b"metadata");
        image.put(METADATA + 10, &low(wide(items.len()))[..2]);
        let mut at = 64 << 10;
        for (number, (guid, bytes, flags)) in items.iter().enumerate() {
            let entry = METADATA + 32 + 32 * wide(number);
            image.put(entry, guid);
            image.put(entry + 16, &low(at));
            image.put(entry + 20, &low(wide(bytes.len())));
            image.put(entry + 24, &flags.to_le_bytes());
            image.put(METADATA + at, bytes);
            at += wide(bytes.len());
        }
    }
}

/// Bytes of an image.
#[derive(Clone)]
pub(in crate::vhdx) struct Image(pub Vec<u8>);

impl Image {
    pub fn put(&mut self, at: u64, bytes: &[u8]) {
        let at = narrow(at);
        if self.0.len() < at + bytes.len() {
            self.0.resize(at + bytes.len(), 0);
        }
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// The same bytes in both headers.
    pub fn put_header(&mut self, at: u64, bytes: &[u8]) {
        self.put((64 << 10) + at, bytes);
        self.put((128 << 10) + at, bytes);
        self.seal();
    }

    /// The same bytes in both region tables.
    pub fn put_regions(&mut self, at: u64, bytes: &[u8]) {
        self.put((192 << 10) + at, bytes);
        self.put((256 << 10) + at, bytes);
        self.seal();
    }

    /// Where the entry of a metadata item stands, and the item.
    pub fn item(&self, guid: &Guid) -> (u64, u64) {
        let entries = (0..).map(|number| METADATA + 32 + 32 * number);
        let mut entries = entries.take(16);
        let entry = entries.find(|at| self.0[narrow(*at)..].starts_with(guid)).expect("an item");
        (entry, METADATA + u64::from(crate::bytes::le32(&self.0, narrow(entry) + 16)))
    }

    /// Makes the checksums of headers and region tables right.
    pub fn seal(&mut self) {
        for (at, len) in
            [(64 << 10, 4096), (128 << 10, 4096), (192 << 10, 65536), (256 << 10, 65536)]
        {
            seal(&mut self.0[at..at + len]);
        }
    }
}

/// Makes the checksum of a structure right.
pub(in crate::vhdx) fn seal(bytes: &mut [u8]) {
    bytes[4..8].fill(0);
    let sum = crc32c::crc32c(bytes);
    bytes[4..8].copy_from_slice(&sum.to_le_bytes());
}

/// A parent locator of these pairs.
pub(in crate::vhdx) fn locator(pairs: &[(String, String)]) -> Vec<u8> {
    let mut bytes = guid::LOCATOR_TYPE.to_vec();
    bytes.extend([0, 0]);
    bytes.extend(u16::try_from(pairs.len()).unwrap().to_le_bytes());
    let (mut texts, start): (Vec<u8>, usize) = (Vec::new(), 20 + 12 * pairs.len());
    for (key, value) in pairs {
        let [key, value] = [key, value]
            .map(|text| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>());
        bytes.extend(low(wide(start + texts.len())));
        texts.extend(&key);
        bytes.extend(low(wide(start + texts.len())));
        texts.extend(&value);
        for text in [key, value] {
            bytes.extend(u16::try_from(text.len()).unwrap().to_le_bytes());
        }
    }
    bytes.extend(texts);
    bytes
}

/// A change that a log entry makes.
#[derive(Clone, Debug)]
pub(in crate::vhdx) enum Change {
    Page(u64, Vec<u8>),
    Zero(u64, u64),
}

/// Header fields of a log entry.
#[derive(Clone, Copy)]
pub(in crate::vhdx) struct Stamp {
    pub guid: Guid,
    pub sequence: u64,
    pub tail: u64,
    pub flushed: u64,
    pub last: u64,
}

/// A log entry.
pub(in crate::vhdx) fn log_entry(stamp: Stamp, changes: &[Change]) -> Vec<u8> {
    let head = (64 + 32 * changes.len()).next_multiple_of(4096);
    let mut bytes = vec![0; head];
    let number = stamp.sequence.to_le_bytes();
    for (place, change) in changes.iter().enumerate() {
        let (signature, at) = match change {
            Change::Page(at, _) => (b"desc", *at),
            Change::Zero(at, _) => (b"zero", *at),
        };
        let mut descriptor = signature.to_vec();
        match change {
            Change::Page(_, page) => {
                descriptor.extend(&page[4092..]);
                descriptor.extend(&page[..8]);
                let mut sector = b"data".to_vec();
                sector.extend(&number[4..]);
                sector.extend(&page[8..4092]);
                sector.extend(&number[..4]);
                bytes.extend(sector);
            }
            Change::Zero(_, len) => {
                descriptor.extend([0; 4]);
                descriptor.extend(len.to_le_bytes());
            }
        }
        descriptor.extend(at.to_le_bytes());
        descriptor.extend(number);
        bytes[64 + 32 * place..96 + 32 * place].copy_from_slice(&descriptor);
    }
    bytes[..4].copy_from_slice(b"loge");
    let len = low(wide(bytes.len()));
    bytes[8..12].copy_from_slice(&len);
    bytes[12..16].copy_from_slice(&low(stamp.tail));
    bytes[16..24].copy_from_slice(&number);
    bytes[24..28].copy_from_slice(&low(wide(changes.len())));
    bytes[32..48].copy_from_slice(&stamp.guid);
    bytes[48..56].copy_from_slice(&stamp.flushed.to_le_bytes());
    bytes[56..64].copy_from_slice(&stamp.last.to_le_bytes());
    seal(&mut bytes);
    bytes
}

/// Writes bytes into a ring, past its end to its start.
pub(in crate::vhdx) fn put_ring(ring: &mut [u8], at: usize, bytes: &[u8]) {
    let len = ring.len();
    for (place, byte) in bytes.iter().enumerate() {
        ring[(at + place) % len] = *byte;
    }
}

pub(in crate::vhdx) fn low(value: u64) -> [u8; 4] {
    u32::try_from(value).unwrap().to_le_bytes()
}
