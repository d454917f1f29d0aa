//! The bytes of a file of an export: tables as they are, the guest's from the store, zeroes as counts.
//!
//! A few reads are under way at a time, so that small pieces do not wait for each other; memory is
//! [`AHEAD_MAX`] reads, whatever the length of the file.

use super::{failures::block_failure, lens::Lens, lens::OpenView};
use crate::data::Reading;
use api::{Chunk, Chunks, Failure};
use export::Walk;
use images::layout::{Content, Piece};
use std::{collections::VecDeque, sync::Arc};

/// Bytes of the guest that are asked for at a time.
const READ_BYTES: u64 = 1 << 20;
/// Reads under way.
const AHEAD_MAX: usize = 4;

/// A range of a file.
pub(super) struct FileStream {
    lens: Arc<Lens>,
    name: String,
    size: u64,
    walk: Walk,
    /// What is left of a piece of guest bytes: where it begins, and how long it is.
    rest: Option<(u64, u64)>,
    ahead: VecDeque<Ahead>,
    chunks: VecDeque<Chunk>,
}

/// What comes next.
enum Ahead {
    Made(Chunk),
    /// So many bytes from an offset on; the view lives as long as they need it.
    Guest(Reading, Arc<OpenView>, u64),
}

impl FileStream {
    /// Of a walk over a file whose guest has `size` bytes; `name` is for who is told of damage.
    pub(super) fn new(lens: Arc<Lens>, name: String, size: u64, walk: Walk) -> Self {
        let (ahead, chunks) = (VecDeque::new(), VecDeque::new());
        Self { lens, name, size, walk, rest: None, ahead, chunks }
    }

    /// Begins the next step; `false` at the end.
    fn begin(&mut self) -> Result<bool, Failure> {
        if let Some((start, len)) = self.rest.take() {
            self.begin_guest(start, len)?;
            return Ok(true);
        }
        let Some(Piece { len, content, .. }) = self.walk.next() else { return Ok(false) };
        match content {
            Content::Table(bytes) => {
                for part in bytes.chunks(Chunk::DATA_MAX) {
                    self.ahead.push_back(Ahead::Made(Chunk::Data(part.to_vec())));
                }
            }
            Content::Zero => self.ahead.push_back(Ahead::Made(Chunk::Zeroes(len))),
            Content::Guest(start) => self.begin_guest(start, len)?,
        }
        Ok(true)
    }

    /// Asks for a beginning of guest bytes; what lies past the disk's end is zero.
    fn begin_guest(&mut self, start: u64, len: u64) -> Result<(), Failure> {
        let there = self.size.saturating_sub(start).min(len).min(READ_BYTES);
        if there == 0 {
            self.ahead.push_back(Ahead::Made(Chunk::Zeroes(len)));
            return Ok(());
        }
        let view = self.lens.view(there)?;
        let reading = self.lens.hub().begin_read(view.id(), start, there);
        let reading = reading.map_err(|error| self.failure(error, start))?;
        self.ahead.push_back(Ahead::Guest(reading, view, start));
        self.rest = Some((start + there, len - there)).filter(|(_, left)| *left > 0);
        Ok(())
    }

    fn failure(&self, error: block_device::BlockError, at: u64) -> Failure {
        block_failure(error, &format!("{} from byte {at} on", self.name))
    }
}

impl Chunks for FileStream {
    fn next(&mut self) -> Result<Option<Chunk>, Failure> {
        loop {
            if let Some(chunk) = self.chunks.pop_front() {
                return Ok(Some(chunk));
            }
            while self.ahead.len() < AHEAD_MAX && self.begin()? {}
            match self.ahead.pop_front() {
                None => return Ok(None),
                Some(Ahead::Made(chunk)) => return Ok(Some(chunk)),
                Some(Ahead::Guest(reading, view, at)) => {
                    let parts = reading.wait().map_err(|error| self.failure(error, at))?;
                    drop(view);
                    for part in parts {
                        let pieces = part.chunks(Chunk::DATA_MAX);
                        self.chunks.extend(pieces.map(|piece| Chunk::Data(piece.to_vec())));
                    }
                }
            }
        }
    }
}
