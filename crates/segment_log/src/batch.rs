//! Layout of segments: header, batches and records, byte for byte as in `docs/format.md` 6.
//!
//! Pure: bytes in, values out, and back. What is read was written by us or by nobody we trust, so
//! every field is checked before it is used.

use crate::planted;
use seal::{TRAILER, Tag, TagKey};
use units::{BranchId, CELL, ClientId, Epoch, Extent, FileId, Lba, Sequence, StoreId, Timestamp};

/// Bytes of a segment's header; the first batch follows it.
pub const HEADER: usize = 4096;
/// Bytes of a batch's header.
pub const BATCH_HEADER: usize = 96;
/// Bytes of a record.
pub const RECORD: usize = 64;
/// Batches are padded to one of these; a store may move from one kind of disk to the other.
pub const SECTORS: [usize; 2] = [512, 4096];
/// The longest batch: what a scan must be ready to hold.
pub const BATCH_MAX: usize = 2 << 20;

const SEGMENT_MAGIC: &[u8; 8] = b"SLSEGMT1";
const BATCH_MAGIC: &[u8; 4] = b"SLB1";
const FORMAT: u32 = 1;
/// Nonce of every file header's tag; no batch begins there.
pub const HEADER_NONCE: [u8; 12] = [0xff; 12];

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The opening of the store that wrote it.
    pub epoch: Epoch,
    /// This use of the file.
    pub file: FileId,
    /// Whose it is.
    pub store: StoreId,
    /// Salt of the segment key.
    pub salt: [u8; 32],
    /// Of its first request.
    pub first: Sequence,
    /// What it follows.
    pub previous: Tag,
    /// When it was begun.
    pub wall: Timestamp,
}

impl SegmentHeader {
    /// Fills the first [`HEADER`] bytes of a segment and gives their tag, where the chain begins.
    pub fn write(&self, key: &TagKey, out: &mut [u8]) -> Tag {
        out[..HEADER].fill(0);
        out[..8].copy_from_slice(SEGMENT_MAGIC);
        out[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        out[12..16].copy_from_slice(&self.epoch.0.to_le_bytes());
        out[16..24].copy_from_slice(&self.file.number().to_le_bytes());
        out[24..40].copy_from_slice(&self.store.0);
        out[40..72].copy_from_slice(&self.salt);
        out[72..80].copy_from_slice(&self.first.number().to_le_bytes());
        out[80..96].copy_from_slice(&self.previous);
        out[96..104].copy_from_slice(&self.wall.0.to_le_bytes());
        let tag = key.tag(HEADER_NONCE, &[&out[..104]]);
        out[104..120].copy_from_slice(&tag);
        tag
    }

    /// Reads it without judging; [`SegmentHeader::verify`] does, once the salt gave the key.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..120)?;
        if &bytes[..8] != SEGMENT_MAGIC || u32_at(bytes, 8) != FORMAT {
            return None;
        }
        Some(Self {
            epoch: Epoch(u32_at(bytes, 12)),
            file: FileId::new(u64_at(bytes, 16))?,
            store: StoreId(array_at(bytes, 24)),
            salt: array_at(bytes, 40),
            first: Sequence::new(u64_at(bytes, 72))?,
            previous: array_at(bytes, 80),
            wall: Timestamp(i64::from_le_bytes(array_at(bytes, 96))),
        })
    }

    /// The tag of a header that is whole.
    pub fn verify(bytes: &[u8], key: &TagKey) -> Option<Tag> {
        let tag: Tag = array_at(bytes.get(..120)?, 104);
        key.verify(HEADER_NONCE, &[&bytes[..104]], &tag).then_some(tag)
    }
}

/// What a batch says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// All of it, with padding.
    pub length_bytes: usize,
    /// Of its first request (where there is one).
    pub first: Sequence,
    /// Wall clock when it was cut.
    pub wall: Timestamp,
    /// All up to here was known to be flushed when it was cut.
    pub durable: Sequence,
    /// Number of sequences.
    pub requests: u32,
    /// Number of cells.
    pub cells: u32,
    /// Number of records.
    pub records: u32,
    /// Clock era of `wall`.
    pub era: u32,
    /// Tag of what it follows.
    pub previous: Tag,
}

impl BatchHeader {
    /// The last sequence after this batch.
    pub fn last(&self) -> Sequence {
        let end = self.first.number() + u64::from(self.requests);
        Sequence::new(end.saturating_sub(1)).unwrap_or(Sequence::MAX)
    }

    /// Fills the header of the batch in `batch`, which lies at `offset_bytes` of its segment and is
    /// complete but for it; gives its tag.
    pub fn write(
        &self,
        key: &TagKey,
        offset_bytes: u64,
        batch: &mut [u8],
        gather: &mut Vec<u8>,
    ) -> Tag {
        assert_eq!(batch.len(), self.length_bytes, "a batch is as long as it says");
        batch[..BATCH_HEADER].fill(0);
        batch[..4].copy_from_slice(BATCH_MAGIC);
        let length = u32::try_from(self.length_bytes).expect("a batch is below 2 MiB");
        batch[4..8].copy_from_slice(&length.to_le_bytes());
        batch[8..16].copy_from_slice(&self.first.number().to_le_bytes());
        batch[16..24].copy_from_slice(&self.wall.0.to_le_bytes());
        batch[24..32].copy_from_slice(&self.durable.number().to_le_bytes());
        batch[32..36].copy_from_slice(&self.requests.to_le_bytes());
        batch[36..40].copy_from_slice(&self.cells.to_le_bytes());
        batch[40..44].copy_from_slice(&self.records.to_le_bytes());
        batch[44..48].copy_from_slice(&self.era.to_le_bytes());
        batch[64..80].copy_from_slice(&self.previous);
        self.gather(batch, gather);
        let tag = key.tag(batch_nonce(offset_bytes), &[gather]);
        batch[80..96].copy_from_slice(&tag);
        tag
    }

    /// Reads the front of a batch without judging it; `None` if it cannot be one.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..BATCH_HEADER)?;
        if &bytes[..4] != BATCH_MAGIC || bytes[48..64].iter().any(|&b| b != 0) {
            return None;
        }
        let header = Self {
            length_bytes: u32_at(bytes, 4) as usize,
            first: Sequence::new(u64_at(bytes, 8))?,
            wall: Timestamp(i64::from_le_bytes(array_at(bytes, 16))),
            durable: Sequence::new(u64_at(bytes, 24))?,
            requests: u32_at(bytes, 32),
            cells: u32_at(bytes, 36),
            records: u32_at(bytes, 40),
            era: u32_at(bytes, 44),
            previous: array_at(bytes, 64),
        };
        let content = header.content_bytes()?;
        let sane = header.length_bytes <= BATCH_MAX
            && SECTORS
                .iter()
                .any(|&sector| header.length_bytes == content.next_multiple_of(sector))
            && header.first.number() + u64::from(header.requests) <= Sequence::MAX.number();
        sane.then_some(header)
    }

    /// Whether the whole batch is as it was tagged; its cells are judged by their own tags.
    pub fn verify(
        &self,
        key: &TagKey,
        offset_bytes: u64,
        batch: &[u8],
        gather: &mut Vec<u8>,
    ) -> Option<Tag> {
        let content = self.content_bytes()?;
        let padding = batch.get(content..self.length_bytes)?;
        let tag: Tag = array_at(batch, 80);
        self.gather(batch, gather);
        let whole = key.verify(batch_nonce(offset_bytes), &[gather], &tag)
            && padding.iter().all(|&b| b == 0);
        whole.then_some(tag)
    }

    /// Where the cell of that number lies in the batch.
    pub fn cell_at(index: usize) -> usize {
        BATCH_HEADER + index * CELL
    }

    fn content_bytes(&self) -> Option<usize> {
        let cells = (self.cells as usize).checked_mul(CELL)?;
        let records = (self.records as usize).checked_mul(RECORD)?;
        cells.checked_add(records)?.checked_add(BATCH_HEADER)
    }

    /// What the tag covers: the header but for the tag, each cell's trailer, all records.
    fn gather(&self, batch: &[u8], gather: &mut Vec<u8>) {
        gather.clear();
        gather.extend_from_slice(&batch[..80]);
        if planted::is(9) {
            return;
        }
        for cell in 0..self.cells as usize {
            let end = Self::cell_at(cell + 1);
            gather.extend_from_slice(&batch[end - TRAILER..end]);
        }
        let records = Self::cell_at(self.cells as usize);
        gather.extend_from_slice(&batch[records..records + self.records as usize * RECORD]);
    }
}

/// What a batch carries besides cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// Blocks that read as zero from `sequence` on.
    Range {
        /// Whose.
        branch: BranchId,
        /// Since when.
        sequence: Sequence,
        /// Which blocks.
        extent: Extent,
        /// 1 trim, 2 write zeroes, 4 no hole.
        flags: u8,
    },
    /// Cells that lie in a bulk file.
    Bulk {
        /// Whose.
        branch: BranchId,
        /// Their request.
        sequence: Sequence,
        /// Their blocks, in order.
        extent: Extent,
        /// The bulk file.
        file: FileId,
        /// Of the first cell.
        offset_bytes: u64,
        /// Over their trailers.
        tag: Tag,
    },
    /// A client's flush that covered new writes.
    Flush {
        /// Of the volume it asked for.
        branch: BranchId,
        /// The last request it covered.
        sequence: Sequence,
    },
    /// From that request on this client wrote.
    Client {
        /// Its first request.
        first: Sequence,
        /// Who.
        client: ClientId,
    },
}

impl Record {
    /// Its [`RECORD`] bytes.
    pub fn write(&self, out: &mut [u8]) {
        out[..RECORD].fill(0);
        match *self {
            Self::Range { branch, sequence, extent, flags } => {
                (out[0], out[1]) = (1, flags);
                write_subject(out, branch, sequence, extent);
            }
            Self::Bulk { branch, sequence, extent, file, offset_bytes, tag } => {
                out[0] = 2;
                write_subject(out, branch, sequence, extent);
                out[32..40].copy_from_slice(&file.number().to_le_bytes());
                out[40..48].copy_from_slice(&offset_bytes.to_le_bytes());
                out[48..64].copy_from_slice(&tag);
            }
            Self::Flush { branch, sequence } => {
                out[0] = 3;
                out[4..8].copy_from_slice(&branch.0.to_le_bytes());
                out[8..16].copy_from_slice(&sequence.number().to_le_bytes());
            }
            Self::Client { first, client } => {
                out[0] = 4;
                out[8..16].copy_from_slice(&first.number().to_le_bytes());
                out[32..40].copy_from_slice(&client.0.to_le_bytes());
            }
        }
    }

    /// Reads [`RECORD`] bytes; `None` if they are none of ours.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..RECORD)?;
        let branch = BranchId(u32_at(bytes, 4));
        let sequence = Sequence::new(u64_at(bytes, 8))?;
        let extent = || Extent::new(Lba::new(u64_at(bytes, 16))?, u64_at(bytes, 24));
        Some(match bytes[0] {
            1 => Self::Range { branch, sequence, extent: extent()?, flags: bytes[1] },
            2 => Self::Bulk {
                branch,
                sequence,
                extent: extent()?,
                file: FileId::new(u64_at(bytes, 32))?,
                offset_bytes: u64_at(bytes, 40),
                tag: array_at(bytes, 48),
            },
            3 => Self::Flush { branch, sequence },
            4 => Self::Client { first: sequence, client: ClientId(u64_at(bytes, 32)) },
            _ => return None,
        })
    }
}

/// Nonce of the tag of a batch at that offset.
fn batch_nonce(offset_bytes: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&offset_bytes.to_le_bytes());
    nonce
}

fn write_subject(out: &mut [u8], branch: BranchId, sequence: Sequence, extent: Extent) {
    out[4..8].copy_from_slice(&branch.0.to_le_bytes());
    out[8..16].copy_from_slice(&sequence.number().to_le_bytes());
    out[16..24].copy_from_slice(&extent.start().number().to_le_bytes());
    out[24..32].copy_from_slice(&extent.blocks().to_le_bytes());
}

/// The array at `at`; the caller has checked the length.
pub fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("a slice of N bytes")
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}
