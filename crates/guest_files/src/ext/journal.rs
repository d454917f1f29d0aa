//! The journal (jbd2), replayed in memory: what the kernel would write back at its next mount.
//!
//! Committed transactions are taken in order, until the first block that is not the next of its kind.
//! A block that a later transaction revoked is not replayed: it was freed and may hold other bytes
//! since. The log is a ring; where the file system uses fast commits, the end of its area is theirs,
//! and they are not replayed (a note says so).

use std::collections::{BTreeMap, HashMap};

use super::{Ext, map, raw_crc};
use crate::{
    Error, Piece, Place,
    fields::{Fields, size, wide},
    limits::JOURNAL_BLOCKS,
};

pub(super) const MAGIC: u32 = 0xc03b_3998;

const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const REVOKE: u32 = 5;

mod incompat {
    pub(super) const REVOKE: u32 = 0x1;
    pub(super) const BITS_64: u32 = 0x2;
    pub(super) const ASYNC_COMMIT: u32 = 0x4;
    pub(super) const CSUM_V2: u32 = 0x8;
    pub(super) const CSUM_V3: u32 = 0x10;
    pub(super) const FAST_COMMIT: u32 = 0x20;
}

mod tag {
    pub(super) const ESCAPED: u32 = 1;
    pub(super) const SAME_UUID: u32 = 2;
    pub(super) const LAST: u32 = 8;
}

/// Where the newest version of a block stands in the journal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Copy {
    /// Its first byte.
    pub(super) place: u64,
    /// Its first four bytes were blanked, for they would have been taken for a header.
    pub(super) escaped: bool,
}

/// What replaying gave.
pub(super) struct Replayed {
    pub(super) overlay: BTreeMap<u64, Copy>,
    pub(super) notes: Vec<String>,
}

/// A block that a transaction holds.
struct Tagged {
    sequence: u32,
    block: u64,
    copy: Copy,
}

struct Log<'e> {
    ext: &'e Ext,
    pieces: Vec<Piece>,
    /// The ring: first block of the log, and the one after its last.
    first: u64,
    end: u64,
    incompat: u32,
    /// Seed of its checksums; `None` where it has none.
    seed: Option<u32>,
}

/// Reads the journal of a file system that was not cleanly left.
pub(super) fn replay(ext: &Ext) -> Result<Replayed, Error> {
    let inode = ext.inode(ext.facts.journal_inode)?;
    let pieces = map::pieces(ext, &inode)?;
    let blocks = inode.size / ext.facts.block_bytes;
    let mut log = Log { ext, pieces, first: 1, end: blocks, incompat: 0, seed: None };
    let bytes = log.block(0)?;
    let fields = Fields::new(&bytes, inode.place);
    let damaged = |what| Error::damaged(what, inode.place);
    let kind = fields.be32(4)?;
    if fields.be32(0)? != MAGIC || !(3..=4).contains(&kind) {
        return Err(damaged("the journal has no super block"));
    }
    if u64::from(fields.be32(0xc)?) != ext.facts.block_bytes {
        return Err(damaged("the journal's block size differs"));
    }
    log.end = u64::from(fields.be32(0x10)?).min(blocks);
    log.first = u64::from(fields.be32(0x14)?);
    let mut notes = Vec::new();
    if kind == 4 {
        log.incompat = fields.be32(0x28)?;
        let known = incompat::REVOKE
            | incompat::BITS_64
            | incompat::ASYNC_COMMIT
            | incompat::CSUM_V2
            | incompat::CSUM_V3
            | incompat::FAST_COMMIT;
        if log.incompat & !known != 0 {
            return Err(Error::unsupported("its journal has features that are not known"));
        }
        if log.incompat & (incompat::CSUM_V2 | incompat::CSUM_V3) != 0 {
            log.seed = Some(raw_crc(u32::MAX, fields.slice(0x30, 16)?));
            let mut summed = fields.slice(0, 1024)?.to_vec();
            summed[0xfc..0x100].fill(0);
            if raw_crc(u32::MAX, &summed) != fields.be32(0xfc)? {
                return Err(damaged("the checksum of the journal's super block differs"));
            }
        }
        if log.incompat & incompat::FAST_COMMIT != 0 {
            let theirs = match fields.be32(0x54)? {
                0 => 256,
                some => u64::from(some),
            };
            log.end = log.end.saturating_sub(theirs);
            notes.push("fast commits of its journal were not replayed: the last changes before this instant may be missing".to_owned());
        }
    }
    let (start, sequence) = (u64::from(fields.be32(0x1c)?), fields.be32(0x18)?);
    if start == 0 {
        return Ok(Replayed { overlay: BTreeMap::new(), notes }); // written back, and not yet said so
    }
    if log.first == 0 || log.first >= log.end || !(log.first..log.end).contains(&start) {
        return Err(damaged("the journal's bounds cannot be"));
    }
    let found = log.scan(start, sequence)?;
    let overlay = found.overlay();
    if !overlay.is_empty() {
        let count = overlay.len();
        let form = if count == 1 { "block" } else { "blocks" };
        notes.push(format!("its journal was replayed in memory ({count} {form})"));
    }
    Ok(Replayed { overlay, notes })
}

/// What the committed transactions hold.
#[derive(Default)]
struct Found {
    tagged: Vec<Tagged>,
    /// The last transaction that revoked a block.
    revoked: HashMap<u64, u32>,
}

impl Found {
    fn overlay(self) -> BTreeMap<u64, Copy> {
        let Self { tagged, revoked } = self;
        let stays = |tagged: &Tagged| {
            // As sequences go round, later is what lies less than half of them ahead.
            revoked
                .get(&tagged.block)
                .is_none_or(|revoked| tagged.sequence.wrapping_sub(*revoked).cast_signed() > 0)
        };
        tagged.iter().filter(|tagged| stays(tagged)).map(|t| (t.block, t.copy)).collect()
    }
}

impl Log<'_> {
    /// Where a block of the journal lies.
    fn place(&self, index: u64) -> Result<u64, Error> {
        let offset = index * self.ext.facts.block_bytes;
        let after = self.pieces.partition_point(|piece| piece.offset <= offset);
        let piece = after.checked_sub(1).and_then(|last| self.pieces.get(last));
        match piece {
            Some(Piece { offset: begin, place: Place::At(place), length })
                if offset - begin < *length =>
            {
                Ok(place + (offset - begin))
            }
            _ => Err(Error::damaged("the journal has a hole", offset)),
        }
    }

    fn block(&self, index: u64) -> Result<Vec<u8>, Error> {
        self.ext.window.bytes(self.place(index)?, size(self.ext.facts.block_bytes)?)
    }

    fn after(&self, index: u64) -> u64 {
        if index + 1 >= self.end { self.first } else { index + 1 }
    }

    /// Goes along the log from the oldest transaction that may not be written back.
    fn scan(&self, start: u64, sequence: u32) -> Result<Found, Error> {
        let (mut at, mut sequence) = (start, sequence);
        let mut committed = Found::default();
        let mut open = Found::default();
        let mut steps = self.end - self.first; // once round the ring, not more
        while let Some(left) = steps.checked_sub(1) {
            steps = left;
            let bytes = self.block(at)?;
            let fields = Fields::new(&bytes, self.place(at)?);
            if fields.be32(0)? != MAGIC || fields.be32(8)? != sequence {
                break;
            }
            match fields.be32(4)? {
                DESCRIPTOR => {
                    if !self.tail_is_right(&fields)? {
                        break;
                    }
                    let Some(next) =
                        self.descriptor(&fields, at, sequence, &mut steps, &mut open)?
                    else {
                        break;
                    };
                    at = next;
                    continue;
                }
                REVOKE => {
                    if !self.tail_is_right(&fields)? {
                        break;
                    }
                    self.revocations(&fields, sequence, &mut open)?;
                }
                COMMIT => {
                    if !self.commit_is_right(&bytes)? {
                        break;
                    }
                    committed.tagged.append(&mut open.tagged);
                    committed.revoked.extend(open.revoked.drain());
                    sequence = sequence.wrapping_add(1);
                }
                _ => break,
            }
            at = self.after(at);
        }
        Ok(committed)
    }

    /// The blocks that a descriptor names follow it. Gives the block after them; `None` where their
    /// bytes are not those that were committed, so that the log ends before.
    fn descriptor(
        &self,
        fields: &Fields<'_>,
        at: u64,
        sequence: u32,
        steps: &mut u64,
        open: &mut Found,
    ) -> Result<Option<u64>, Error> {
        let v3 = self.incompat & incompat::CSUM_V3 != 0;
        let wide_tags = self.incompat & incompat::BITS_64 != 0;
        let tag_bytes = match (v3, wide_tags) {
            (true, _) => 16,
            (false, wide_tags) => 8 + usize::from(wide_tags) * 4 + usize::from(self.has_v2()) * 2,
        };
        let end = fields.length() - if self.seed.is_some() { 4 } else { 0 };
        let (mut tag, mut data) = (12, at);
        while tag + tag_bytes <= end {
            let (flags, sum) = if v3 {
                (fields.be32(tag + 4)?, fields.be32(tag + 12)?)
            } else {
                (u32::from(fields.be16(tag + 6)?), u32::from(fields.be16(tag + 4)?))
            };
            let high = if wide_tags { fields.be32(tag + 8)? } else { 0 };
            let block = wide(high, fields.be32(tag)?);
            data = self.after(data);
            let Some(left) = steps.checked_sub(1) else { return Ok(None) };
            *steps = left;
            let copy = Copy { place: self.place(data)?, escaped: flags & tag::ESCAPED != 0 };
            if let Some(seed) = self.seed {
                let found = raw_crc(raw_crc(seed, &sequence.to_be_bytes()), &self.block(data)?);
                let found = if v3 { found } else { found & 0xffff };
                if found != sum {
                    return Ok(None);
                }
            }
            if open.tagged.len() >= JOURNAL_BLOCKS {
                return Err(Error::Limit("a journal's number of blocks"));
            }
            if block >= self.ext.facts.blocks {
                return Err(Error::damaged("the journal names a block past the end", copy.place));
            }
            open.tagged.push(Tagged { sequence, block, copy });
            tag += tag_bytes + if flags & tag::SAME_UUID == 0 { 16 } else { 0 };
            if flags & tag::LAST != 0 {
                break;
            }
        }
        Ok(Some(self.after(data)))
    }

    const fn has_v2(&self) -> bool {
        self.incompat & incompat::CSUM_V2 != 0
    }

    fn revocations(
        &self,
        fields: &Fields<'_>,
        sequence: u32,
        open: &mut Found,
    ) -> Result<(), Error> {
        let wide_entries = self.incompat & incompat::BITS_64 != 0;
        let entry = if wide_entries { 8 } else { 4 };
        let end = (fields.be32(12)? as usize).min(fields.length());
        let mut at = 16;
        while at + entry <= end {
            let block = if wide_entries { fields.be64(at)? } else { u64::from(fields.be32(at)?) };
            open.revoked.insert(block, sequence);
            at += entry;
        }
        if open.revoked.len() > JOURNAL_BLOCKS {
            return Err(Error::Limit("a journal's number of blocks"));
        }
        Ok(())
    }

    /// Descriptors and revocations end in their checksum.
    fn tail_is_right(&self, fields: &Fields<'_>) -> Result<bool, Error> {
        let Some(seed) = self.seed else { return Ok(true) };
        let tail = fields.length() - 4;
        let sum = raw_crc(raw_crc(seed, fields.slice(0, tail)?), &[0; 4]);
        Ok(sum == fields.be32(tail)?)
    }

    /// A commit has its checksum inside.
    fn commit_is_right(&self, bytes: &[u8]) -> Result<bool, Error> {
        let Some(seed) = self.seed else { return Ok(true) };
        let fields = Fields::new(bytes, 0);
        let mut sum = raw_crc(seed, fields.slice(0, 16)?);
        sum = raw_crc(sum, &[0; 4]);
        sum = raw_crc(sum, fields.slice(20, fields.length() - 20)?);
        Ok(sum == fields.be32(16)?)
    }
}
