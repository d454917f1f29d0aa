//! A file's layout to a sink: tables as they are, the guest's bytes from the image that is read.

use std::collections::VecDeque;

use images::{
    Chain, Extent,
    layout::{Content, Layout, Piece},
};

use crate::{
    Error, Files, Watch,
    fetch::Fetcher,
    order,
    sink::Sink,
    source::{Source, is_zero},
};

/// A piece of work.
enum Job {
    Table { at: u64, bytes: Vec<u8> },
    Zeroes { at: u64, len: u64 },
    Guest { at: u64, extents: Vec<Extent> },
}

/// A piece of work that is done.
enum Made {
    Bytes { at: u64, bytes: Vec<u8> },
    Zeroes { at: u64, len: u64 },
}

/// Writes all of a file to a sink.
pub(crate) fn write(
    chain: &mut Chain,
    files: &Files,
    layout: &dyn Layout,
    sink: &mut dyn Sink,
    watch: &mut Watch<'_>,
) -> Result<(), Error> {
    let mut jobs = Jobs::new(layout, Source::new(chain, files));
    let work = |fetcher: &mut Fetcher, job| match job {
        Job::Table { at, bytes } => Ok(Made::Bytes { at, bytes }),
        Job::Zeroes { at, len } => Ok(Made::Zeroes { at, len }),
        Job::Guest { at, extents } => {
            let mut bytes = Vec::new();
            for extent in &extents {
                fetcher.fetch(files, extent, &mut bytes)?;
            }
            Ok(Made::Bytes { at, bytes })
        }
    };
    order::in_order(
        order::threads(),
        || jobs.next(),
        work,
        |made| {
            let done = match made {
                Made::Bytes { at, bytes } => {
                    sink.bytes(at, &bytes)?;
                    bytes.len() as u64
                }
                Made::Zeroes { at, len } => {
                    sink.zeroes(at, len)?;
                    len
                }
            };
            watch.advance(done)
        },
    )
}

/// The work of a layout, in order.
struct Jobs<'l, 'd> {
    layout: &'l dyn Layout,
    source: Source<'d>,
    place: u64,
    pieces: VecDeque<Piece>,
}

impl<'l, 'd> Jobs<'l, 'd> {
    fn new(layout: &'l dyn Layout, source: Source<'d>) -> Self {
        Self { layout, source, place: 0, pieces: VecDeque::new() }
    }

    fn next(&mut self) -> Result<Option<Job>, Error> {
        if self.pieces.is_empty() && self.place < self.layout.len() {
            self.pieces = self.layout.pieces(self.place..self.layout.len()).into();
        }
        let Some(piece) = self.pieces.pop_front() else {
            assert_eq!(self.place, self.layout.len(), "a layout without pieces before its end");
            return Ok(None);
        };
        assert!(piece.start == self.place && piece.len > 0, "a layout with a gap");
        let at = piece.start;
        let (job, len) = match piece.content {
            Content::Table(bytes) => {
                assert_eq!(bytes.len() as u64, piece.len, "a table of another length");
                (Job::Table { at, bytes }, piece.len)
            }
            Content::Zero => (Job::Zeroes { at, len: piece.len }, piece.len),
            Content::Guest(start) => {
                let extents = self.source.extents(start, start.saturating_add(piece.len))?;
                let len = extents.last().map_or(piece.len, |last| last.end() - start);
                if len < piece.len {
                    self.pieces.push_front(Piece {
                        start: at + len,
                        len: piece.len - len,
                        content: Content::Guest(start + len),
                    });
                }
                let job = match extents.as_slice() {
                    [] => Job::Zeroes { at, len },
                    [only] if is_zero(&only.kind) => Job::Zeroes { at, len },
                    _ => Job::Guest { at, extents },
                };
                (job, len)
            }
        };
        self.place = at + len;
        Ok(Some(job))
    }
}
