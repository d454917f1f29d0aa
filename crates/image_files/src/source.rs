//! The guest's bytes in order, cut into pieces of work.
//!
//! A map's extents are split where a sparse file has holes, then gathered up to [`JOB_BYTES`]. A run
//! of zeroes is no work, however long.

use std::collections::VecDeque;

use images::{Chain, Extent, Kind};
use world::real::Stretch;

use crate::{Error, Files};

/// Guest bytes of one piece of work, about: a packed unit is never cut, so it may be longer by one.
pub const JOB_BYTES: u64 = 1 << 20;

/// Pieces of work in flight for each thread.
pub const WINDOW: usize = 3;

/// The shortest run of a file that is asked for holes.
const STRETCH_MIN: u64 = 4096;

/// A place in the map of a chain that moves on.
pub(crate) struct Source<'d> {
    chain: &'d mut Chain,
    pub(crate) files: &'d Files,
    known: VecDeque<Extent>,
    /// Nothing behind it will be asked for.
    until: u64,
}

impl<'d> Source<'d> {
    pub(crate) fn new(chain: &'d mut Chain, files: &'d Files) -> Self {
        Self::within(chain, files, u64::MAX)
    }

    /// One of which nothing behind `until` will be asked for.
    pub(crate) fn within(chain: &'d mut Chain, files: &'d Files, until: u64) -> Self {
        Self { chain, files, known: VecDeque::new(), until }
    }

    /// Bytes of the disk.
    pub(crate) fn size(&self) -> u64 {
        self.chain.virtual_size()
    }

    /// Extents that cover a beginning of `start..end`, in order and without gaps: either one that
    /// reads as zero ([`is_zero`]) or is damaged, of any length, or such that hold bytes, of [`JOB_BYTES`] about. What lies past
    /// the end of the disk reads as zero.
    pub(crate) fn extents(&mut self, start: u64, end: u64) -> Result<Vec<Extent>, Error> {
        let mut gathered: Vec<Extent> = Vec::new();
        let mut place = start;
        while place < end && place - start < JOB_BYTES {
            let extent = self.extent(place, end)?;
            if is_zero(&extent.kind) {
                if gathered.is_empty() {
                    return Ok(vec![self.zeroes(extent, end)?]);
                }
                break;
            }
            if matches!(extent.kind, Kind::Corrupt(_)) {
                if gathered.is_empty() {
                    return Ok(vec![extent]);
                }
                break;
            }
            let room = JOB_BYTES - (place - start);
            let cut = match extent.kind {
                // A unit cut in two would be unpacked twice.
                Kind::Packed(_) => extent,
                _ => extent.cut(place, place.saturating_add(room)),
            };
            place = cut.end();
            gathered.push(cut);
        }
        Ok(gathered)
    }

    /// Joins runs of zeroes that follow each other.
    fn zeroes(&mut self, mut first: Extent, end: u64) -> Result<Extent, Error> {
        while first.end() < end {
            let next = self.extent(first.end(), end)?;
            if !is_zero(&next.kind) {
                break;
            }
            first.len += next.len;
        }
        first.kind = Kind::Zero;
        Ok(first)
    }

    /// The extent at `place`, cut to `end` and to where its file has data or has none.
    pub(crate) fn extent(&mut self, place: u64, end: u64) -> Result<Extent, Error> {
        while self.known.front().is_some_and(|extent| extent.end() <= place) {
            self.known.pop_front();
        }
        if self.known.front().is_none_or(|extent| extent.start > place) {
            // Ask beyond `end`: the rest answers the questions that come next.
            let mapped = self.files.read_for(self.chain.map(place..self.until))?;
            self.known = mapped.into_iter().map(|mapped| mapped.extent).collect();
        }
        let Some(extent) = self.known.front() else {
            return Ok(Extent { start: place, len: end - place, kind: Kind::Hole });
        };
        let extent = extent.cut(place, end);
        let Kind::Data { file, offset } = extent.kind else { return Ok(extent) };
        if extent.len < STRETCH_MIN {
            return Ok(extent);
        }
        Ok(match self.files.stretch(file, offset, extent.len) {
            Stretch::Data(len) => extent.cut(place, place + len),
            Stretch::Hole(len) => Extent { start: place, len, kind: Kind::Zero },
        })
    }
}

/// Whether an extent reads as zero by its map alone.
pub(crate) fn is_zero(kind: &Kind) -> bool {
    matches!(kind, Kind::Zero | Kind::Hole | Kind::Parent)
}
