//! Whether the log holds anything that was not written back.
//!
//! A clean unmount ends the log with a record of its own, and nothing after it. Anything else may
//! hold changes, so it is called not empty; replaying them is not done here.

use crate::{Error, disk::Window, fields::Fields};

/// The log is written in blocks of this many bytes, whose first word is the lap of the ring, or the
/// mark of a record with the lap behind it.
const BLOCK: u64 = 512;

const RECORD_MAGIC: u32 = 0xfeed_babe;

const UNMOUNT: u8 = 0x20;

/// A record takes at most this many blocks: 256 KiB and its headers.
const RECORD_BLOCKS: u64 = 512 + 8;

/// Whether the last record of the log is that of a clean unmount.
pub(super) fn ends_clean(window: &Window, start: u64, length: u64) -> Result<bool, Error> {
    let log = Log { window, start, blocks: length / BLOCK };
    if log.blocks < 2 {
        return Err(Error::damaged("the log is too short", start));
    }
    let head = log.head()?;
    // The record before the head, looked for backwards round the ring.
    for back in 1..=RECORD_BLOCKS.min(log.blocks) {
        let at = (head + log.blocks - back) % log.blocks;
        let header = log.block(at)?;
        let fields = Fields::new(&header, start + at * BLOCK);
        if fields.be32(0)? != RECORD_MAGIC {
            continue;
        }
        let size = u64::from(fields.be32(320)?);
        let headers =
            if fields.be32(8)? & 2 != 0 { size.div_ceil(32 << 10).clamp(1, 8) } else { 1 };
        let first = log.block((at + headers) % log.blocks)?;
        let ends_here = headers + 1 == back;
        return Ok(ends_here
            && fields.be32(40)? == 1
            && Fields::new(&first, 0).u8(9)? & UNMOUNT != 0);
    }
    Ok(false)
}

struct Log<'w> {
    window: &'w Window,
    start: u64,
    blocks: u64,
}

impl Log<'_> {
    fn block(&self, at: u64) -> Result<Vec<u8>, Error> {
        self.window.bytes(self.start + at * BLOCK, 512)
    }

    fn lap(&self, at: u64) -> Result<u32, Error> {
        let bytes = self.block(at)?;
        let fields = Fields::new(&bytes, self.start + at * BLOCK);
        match fields.be32(0)? {
            RECORD_MAGIC => fields.be32(4),
            lap => Ok(lap),
        }
    }

    /// The block that is written next: the first that is still of the lap before.
    fn head(&self) -> Result<u64, Error> {
        let (first, last) = (self.lap(0)?, self.lap(self.blocks - 1)?);
        if first == last {
            return Ok(0);
        }
        let (mut written, mut old) = (0, self.blocks - 1);
        while written + 1 < old {
            let middle = written.midpoint(old);
            if self.lap(middle)? == first {
                written = middle;
            } else {
                old = middle;
            }
        }
        Ok(old)
    }
}
