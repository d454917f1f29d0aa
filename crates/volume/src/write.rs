//! A write, trim or write-zeroes on its way into the log.
//!
//! Whatever its edges, it becomes whole blocks: an edge that covers part of a block is filled up with
//! what the block holds, and until that is read nobody else writes those blocks.

use crate::ViewId;
use block_device::Payload;
use units::{BLOCK, BLOCK_BYTES, ClientId, Extent, Lba};
use world::Page;

/// What a write brings.
#[derive(Debug)]
pub enum Content {
    /// New bytes.
    Data(Data),
    /// Zeros; the flags of the range record.
    Zeros(u8),
}

/// Bytes of a write that are ours.
#[derive(Debug)]
pub enum Data {
    /// In one piece.
    Vec(Vec<u8>),
    /// In pages, all full but the last; the write begins at a block.
    Pages(Vec<Page>),
}

impl Data {
    /// Takes the payload of a request that must wait, or that came in pages.
    pub fn own(payload: Payload<'_>, aligned: bool) -> Self {
        match payload {
            Payload::Borrowed(bytes) => Self::Vec(bytes.to_vec()),
            Payload::Pages { pages, .. } if aligned => Self::Pages(pages),
            Payload::Pages { pages, length_bytes } => {
                let mut bytes = Vec::with_capacity(length_bytes);
                for page in pages {
                    bytes.extend_from_slice(&page);
                }
                bytes.truncate(length_bytes);
                Self::Vec(bytes)
            }
        }
    }

    /// The bytes from `at`, within one piece.
    pub fn slice(&self, at: usize, length: usize) -> &[u8] {
        match self {
            Self::Vec(bytes) => &bytes[at..at + length],
            Self::Pages(pages) => {
                let page = pages.first().map_or(1, |page| page.len());
                &pages[at / page][at % page..][..length]
            }
        }
    }
}

/// See the module's head.
#[derive(Debug)]
pub struct Write {
    pub id: u64,
    pub view: ViewId,
    pub ticket: u64,
    pub client: ClientId,
    pub offset_bytes: u64,
    pub length_bytes: u64,
    pub content: Content,
    pub fua: bool,
    /// All blocks it touches.
    pub extent: Extent,
    /// What the first block holds, filled up, if the write covers only part of it.
    pub head: Option<Box<[u8]>>,
    /// The same for the last block, if it is another one.
    pub tail: Option<Box<[u8]>>,
    /// Edges still to be read.
    pub pending: usize,
    pub failed: bool,
}

/// The blocks that a range of bytes touches, and which of them only in part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edges {
    /// All blocks.
    pub extent: Extent,
    /// The first one is touched in part.
    pub head: Option<Lba>,
    /// The last one is touched in part and is not the first.
    pub tail: Option<Lba>,
}

impl Edges {
    /// Of a range that lies inside a device of that size; `None` if it is empty. A last part block of
    /// the device counts as whole when the range goes to the device's end.
    pub fn of(offset_bytes: u64, length_bytes: u64, size_bytes: u64) -> Option<Self> {
        if length_bytes == 0 {
            return None;
        }
        let end = offset_bytes.checked_add(length_bytes)?;
        let start = Lba::holding(offset_bytes)?;
        let blocks = end.div_ceil(BLOCK_BYTES) - start.number();
        let extent = Extent::new(start, blocks)?;
        let last = Lba::new(extent.end() - 1)?;
        let part_head = !offset_bytes.is_multiple_of(BLOCK_BYTES);
        let part_tail = !end.is_multiple_of(BLOCK_BYTES) && end != size_bytes;
        let head = (part_head || part_tail && last == start).then_some(start);
        let tail = (part_tail && last != start).then_some(last);
        Some(Self { extent, head, tail })
    }

    /// Whether every block is covered whole.
    pub fn is_aligned(&self) -> bool {
        self.head.is_none() && self.tail.is_none()
    }
}

impl Write {
    /// Puts what the write brings over what an edge block held.
    pub fn overlay(&self, lba: Lba, block: &mut [u8]) {
        let start = lba.offset_bytes();
        let from = self.offset_bytes.max(start);
        let to = (self.offset_bytes + self.length_bytes).min(start + BLOCK_BYTES);
        let at = |offset: u64| usize::try_from(offset).expect("within a request");
        let part = &mut block[at(from - start)..at(to - start)];
        match &self.content {
            Content::Zeros(_) => part.fill(0),
            Content::Data(data) => {
                let length = part.len();
                part.copy_from_slice(data.slice(at(from - self.offset_bytes), length));
            }
        }
    }

    /// The new text of one of its blocks. `spare` serves for a last part block of the device.
    pub fn block<'a>(&'a self, index: usize, spare: &'a [u8]) -> &'a [u8] {
        let last = usize::try_from(self.extent.blocks()).expect("within a request") - 1;
        if index == 0
            && let Some(head) = &self.head
        {
            return head;
        }
        if index == last
            && let Some(tail) = &self.tail
        {
            return tail;
        }
        let skew = usize::try_from(self.offset_bytes % BLOCK_BYTES).expect("below 4096");
        let at = index * BLOCK - skew;
        let length = usize::try_from(self.length_bytes).expect("within a request");
        match &self.content {
            Content::Data(data) if at + BLOCK <= length => data.slice(at, BLOCK),
            _ => spare,
        }
    }

    /// What `block` needs as `spare`: the device's last part block, filled up with zeros.
    pub fn spare(&self) -> Vec<u8> {
        let Content::Data(data) = &self.content else { return vec![0; BLOCK] };
        let length = usize::try_from(self.length_bytes).expect("within a request");
        let skew = usize::try_from(self.offset_bytes % BLOCK_BYTES).expect("below 4096");
        let rest = (length + skew) % BLOCK;
        let mut spare = Vec::new();
        if rest != 0 && self.tail.is_none() && length >= rest {
            spare.extend_from_slice(data.slice(length - rest, rest));
            spare.resize(BLOCK, 0);
        }
        spare
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lba(number: u64) -> Lba {
        Lba::new(number).expect("small")
    }

    #[test]
    fn edges_are_the_blocks_touched_in_part() {
        let edges = |offset, length| Edges::of(offset, length, 1 << 20).expect("not empty");
        assert!(edges(4096, 8192).is_aligned());
        let inside = edges(100, 10);
        assert_eq!((inside.head, inside.tail), (Some(lba(0)), None));
        let both = edges(4095, 4098);
        assert_eq!((both.head, both.tail, both.extent.blocks()), (Some(lba(0)), Some(lba(2)), 3));
        let tail = edges(4096, 10);
        assert_eq!((tail.head, tail.tail), (Some(lba(1)), None));
        assert_eq!(Edges::of(5, 0, 100), None);
    }

    #[test]
    fn a_range_to_the_end_of_the_device_covers_its_last_part_block() {
        let edges = Edges::of(4096, 512, 4608).expect("not empty");
        assert!(edges.is_aligned());
        assert!(!Edges::of(4096, 511, 4608).expect("not empty").is_aligned());
    }
}
