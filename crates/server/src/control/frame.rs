//! A stream of [`Chunk`]s on the wire: framed for our client, plain bytes for everybody else.
//!
//! A frame is a byte of kind (0 data, 1 zeroes, 2 failure, 3 end), eight bytes of length,
//! little-endian, then for data the bytes and for a failure its JSON. Zeroes travel as a count and
//! a failure in mid-stream keeps its code. A stream without an end frame was cut.

use api::{Chunk, Failure, codes, failure::ErrorDocument};
use hyper::body::{Body, Bytes, Frame};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::sync::mpsc;

/// What a client accepts to get frames.
pub(super) const MEDIA_TYPE: &str = "application/x-strandline-chunks";

/// Pieces that wait for a slow reader.
pub(super) const QUEUE: usize = 2;

const HEADER_BYTES: usize = 9;
const DATA: u8 = 0;
const ZEROES: u8 = 1;
const FAILURE: u8 = 2;
const END: u8 = 3;

fn header(kind: u8, length: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES);
    bytes.push(kind);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes
}

/// The pieces of the wire for a step of a stream, framed.
pub(super) fn framed(step: Result<Option<Chunk>, Failure>) -> Vec<Bytes> {
    match step {
        Ok(Some(Chunk::Data(data))) => {
            vec![header(DATA, data.len() as u64).into(), data.into()]
        }
        Ok(Some(Chunk::Zeroes(length))) => vec![header(ZEROES, length).into()],
        Ok(None) => vec![header(END, 0).into()],
        Err(failure) => {
            let json = serde_json::to_vec(&failure.to_json()).expect("plain data");
            vec![header(FAILURE, json.len() as u64).into(), json.into()]
        }
    }
}

/// Zeroes for plain streams, a slice at a time.
pub(super) static ZERO_SLICE: [u8; 64 << 10] = [0; 64 << 10];

/// Reads frames from bytes that come cut anywhere.
#[derive(Debug, Default)]
pub(super) struct Reader {
    input: Vec<u8>,
    ended: bool,
}

impl Reader {
    /// Takes bytes as they came off the wire.
    pub(super) fn receive(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// Whether the end or a failure was read: nothing more is to come.
    pub(super) const fn ended(&self) -> bool {
        self.ended
    }

    /// The next whole piece; `None` until more bytes arrive, and at the end.
    pub(super) fn poll(&mut self) -> Result<Option<Chunk>, Failure> {
        let Some((kind, length)) = self.header() else { return Ok(None) };
        let body = match kind {
            DATA if (1..=Chunk::DATA_MAX as u64).contains(&length) => length,
            FAILURE if length <= super::BODY_MAX_BYTES as u64 => length,
            ZEROES if length > 0 => 0,
            END if length == 0 => 0,
            _ => {
                self.ended = true;
                return Err(unexpected(&format!("a frame of kind {kind} and length {length}")));
            }
        };
        let end = usize::try_from(body).expect("bounded above") + HEADER_BYTES;
        let Some(payload) = self.input.get(HEADER_BYTES..end) else { return Ok(None) };
        let payload = payload.to_vec();
        self.input.drain(..end);
        match kind {
            DATA => Ok(Some(Chunk::Data(payload))),
            ZEROES => Ok(Some(Chunk::Zeroes(length))),
            END => {
                self.ended = true;
                Ok(None)
            }
            _ => {
                self.ended = true;
                let document: Result<ErrorDocument, _> = serde_json::from_slice(&payload);
                Err(document
                    .map_or_else(|error| unexpected(&error.to_string()), Failure::from_json))
            }
        }
    }

    fn header(&self) -> Option<(u8, u64)> {
        if self.ended {
            return None;
        }
        let header: &[u8; HEADER_BYTES] = self.input.first_chunk()?;
        let [kind, length @ ..] = *header;
        Some((kind, u64::from_le_bytes(length)))
    }
}

fn unexpected(what: &str) -> Failure {
    Failure::new(codes::UNEXPECTED_ANSWER, format!("the stream of bytes holds {what}"))
}

/// A body that is fed from a blocking thread; an error cuts the connection.
pub(super) struct Fed(pub(super) mpsc::Receiver<io::Result<Bytes>>);

impl Body for Fed {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|bytes| bytes.map(Frame::data)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_however_they_were_cut() {
        let failure = Failure::new(codes::DAMAGED, "a cell").doing("strandline store check");
        let steps = [
            Ok(Some(Chunk::Data(vec![7; 300]))),
            Ok(Some(Chunk::Zeroes(1 << 40))),
            Err(failure.clone()),
        ];
        let wire: Vec<u8> = steps.iter().cloned().flat_map(framed).flatten().collect();
        for step in [1, 2, 9, 10, wire.len()] {
            let (mut reader, mut seen) = (Reader::default(), Vec::new());
            for bytes in wire.chunks(step) {
                reader.receive(bytes);
                loop {
                    match reader.poll() {
                        Ok(None) => break,
                        other => seen.push(other),
                    }
                }
            }
            assert_eq!(seen, steps, "cut every {step} bytes");
            assert!(reader.ended());
        }
    }

    #[test]
    fn a_hostile_frame_ends_the_stream() {
        for wire in [header(DATA, u64::MAX), header(9, 0), header(ZEROES, 0), header(END, 1)] {
            let mut reader = Reader::default();
            reader.receive(&wire);
            assert!(reader.poll().is_err());
            assert!(reader.ended());
        }
    }
}
