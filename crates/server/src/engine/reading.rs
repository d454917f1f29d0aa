//! The bytes of an instant as a stream: holes as zeroes, the rest in pieces of a page.
//!
//! The stream holds a view of the instant, so that what it reads stays as it was; memory is a few
//! pieces, whatever the size of the disk.

use super::{
    failures::{block_failure, change_failure},
    running::Engine,
};
use crate::data::Hub;
use api::{Chunk, Chunks, Failure, codes, verbs::past::Read};
use std::collections::VecDeque;
use volume::ViewId;

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
        let (branch, at) = found.state();
        let view = self.visit(move |core| core.store.open_view(branch, Some(at)))?;
        let view = view.ok_or_else(|| {
            Failure::new(codes::NO_INSTANT, format!("{} is gone", found.reference))
        })?;
        Ok(Box::new(Stream {
            hub: self.hub.clone(),
            view,
            name: found.reference.to_string(),
            offset,
            end,
            extents: VecDeque::new(),
            chunks: VecDeque::new(),
        }))
    }
}

struct Stream {
    hub: Hub,
    view: ViewId,
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
    fn look(&mut self) -> Result<(), Failure> {
        let length = (self.end - self.offset).min(LOOK_BYTES);
        let extents = self.hub.extents(self.view, self.offset, length);
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
        let parts = self.hub.read(self.view, self.offset, length);
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

impl Drop for Stream {
    fn drop(&mut self) {
        let view = self.view;
        // A server that has stopped has let go of it.
        let closed = self.hub.visit(move |core| core.store.close_view(view));
        if let Err(error) = closed.map_err(change_failure) {
            tracing::debug!(%error, "a view was left to the end of the server");
        }
    }
}
