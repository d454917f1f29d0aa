//! The bytes of an instant as a stream: holes as zeroes, the rest in pieces of a page.
//!
//! The stream looks at the instant through a lens, so that what it reads stays as it was; memory is a
//! few pieces, whatever the size of the disk.

use super::{failures::block_failure, lens::Lens, running::Engine};
use api::{Chunk, Chunks, Failure, codes, verbs::past::Read};
use std::{collections::VecDeque, sync::Arc};

/// Bytes that are asked for at a time.
const READ_BYTES: u64 = 4 << 20;
/// Bytes whose holes are asked for at a time.
const LOOK_BYTES: u64 = 1 << 30;

impl Engine {
    pub(super) fn read_past(&self, request: &Read) -> Result<Box<dyn Chunks>, Failure> {
        let found = self.settled()?.find(&request.reference, request.exact)?;
        let Read { offset, length, .. } = *request;
        let end = match length {
            None => Some(found.size).filter(|end| *end >= offset),
            Some(length) => offset.checked_add(length).filter(|end| *end <= found.size),
        };
        let end = end.ok_or_else(|| {
            let text = format!("{} has {} bytes", found.reference, found.size);
            Failure::new(codes::USAGE, text).doing("ask for a range inside the disk")
        })?;
        let lens = Arc::new(Lens::new(self.hub.clone(), found.state()));
        lens.view(0)?; // refuses what cannot be opened before the answer begins
        Ok(Box::new(Stream::new(lens, found.reference.to_string(), offset, end)))
    }
}

/// The bytes of a disk from an offset on.
pub(super) struct Stream {
    lens: Arc<Lens>,
    name: String,
    /// What was read so far ends here.
    offset: u64,
    end: u64,
    /// What lies from there on, as far as it is known: how many bytes, and whether they are a hole.
    extents: VecDeque<(u64, bool)>,
    chunks: VecDeque<Chunk>,
}

impl Chunks for Stream {
    fn next(&mut self) -> Result<Option<Chunk>, Failure> {
        loop {
            if let Some(chunk) = self.chunks.pop_front() {
                return Ok(Some(chunk));
            }
            if self.offset >= self.end {
                return Ok(None);
            }
            match self.extents.pop_front() {
                None => self.look()?,
                Some((length, true)) => {
                    self.offset += length;
                    self.chunks.push_back(Chunk::Zeroes(length));
                }
                Some((length, false)) => {
                    let now = length.min(READ_BYTES);
                    if now < length {
                        self.extents.push_front((length - now, false));
                    }
                    self.read(now)?;
                }
            }
        }
    }
}

impl Stream {
    /// Of a range within the disk; `name` is for who is told of damage.
    pub(super) fn new(lens: Arc<Lens>, name: String, offset: u64, end: u64) -> Self {
        Self { lens, name, offset, end, extents: VecDeque::new(), chunks: VecDeque::new() }
    }

    fn look(&mut self) -> Result<(), Failure> {
        let length = (self.end - self.offset).min(LOOK_BYTES);
        let view = self.lens.view(0)?;
        let extents = self.lens.hub().extents(view.id(), self.offset, length);
        let extents = extents.map_err(|error| block_failure(error, &self.name))?;
        let mut left = length;
        for extent in extents {
            let length = extent.length_bytes.min(left);
            left -= length;
            match self.extents.back_mut() {
                Some((last, hole)) if *hole == extent.hole => *last += length,
                _ if length > 0 => self.extents.push_back((length, extent.hole)),
                _ => {}
            }
        }
        if self.extents.is_empty() {
            return Err(Failure::bug(format!(
                "nothing is known of {} at {}",
                self.name, self.offset
            )));
        }
        Ok(())
    }

    fn read(&mut self, length: u64) -> Result<(), Failure> {
        let view = self.lens.view(length)?;
        let parts = self.lens.hub().read(view.id(), self.offset, length);
        let parts = parts.map_err(|error| {
            let place = format!("{} from byte {} on", self.name, self.offset);
            block_failure(error, &place)
        })?;
        for part in parts {
            let pieces = part.chunks(Chunk::DATA_MAX).map(|piece| Chunk::Data(piece.to_vec()));
            self.chunks.extend(pieces);
        }
        self.offset += length;
        Ok(())
    }
}
