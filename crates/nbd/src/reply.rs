//! Answers to requests, in the three forms that the handshake chooses from.
//!
//! A simple reply is 16 bytes, a structured chunk begins with 20, an extended one with 32. Each answer
//! is one message: with structured replies a success without data stays a simple reply, which is
//! allowed and shorter, except for reads.

use crate::wire::{self, length_u32};
use crate::{STATUS_EXTENTS_MAX, STRING_BYTES_MAX};

/// How replies look on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Simple,
    Structured,
    Extended,
}

/// The right to answer one request, once. The client's cookie may repeat: it is echoed, never looked up.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "each request is answered"]
pub struct ReplyTo {
    pub(crate) cookie: u64,
    pub(crate) offset_bytes: u64,
    pub(crate) length_bytes: u64,
    pub(crate) form: Form,
    pub(crate) kind: Kind,
}

/// What kind of answer the request may get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Status { one: bool },
    Other,
}

impl ReplyTo {
    /// The client's mark of the request, for traces; it need not be unique.
    pub fn cookie(&self) -> u64 {
        self.cookie
    }

    /// A read succeeded: exactly as many bytes of data as it asked for follow behind this header.
    pub fn data_header(self, output: &mut Vec<u8>) {
        assert_eq!(self.kind, Kind::Read, "data for a request that is no read");
        if self.length_bytes == 0 {
            return self.done(output);
        }
        if self.form == Form::Simple {
            return self.put_simple(0, output);
        }
        self.put_chunk(wire::REPLY_OFFSET_DATA, 8 + self.length_bytes, output);
        output.extend_from_slice(&self.offset_bytes.to_be_bytes());
    }

    /// Anything but a read or a block status succeeded.
    pub fn done(self, output: &mut Vec<u8>) {
        match (self.form, self.kind) {
            (Form::Simple, _) | (Form::Structured, Kind::Other) => self.put_simple(0, output),
            _ => self.put_chunk(wire::REPLY_NONE, 0, output),
        }
    }

    /// It failed. Clients with simple replies do not see the message.
    pub fn error(self, errno: Errno, message: &str, output: &mut Vec<u8>) {
        if self.form == Form::Simple {
            return self.put_simple(errno.simple_number(), output);
        }
        let message = &message[..message.floor_char_boundary(STRING_BYTES_MAX)];
        let length = u16::try_from(message.len()).expect("at most 4096");
        self.put_chunk(wire::REPLY_ERROR, 6 + u64::from(length), output);
        output.extend_from_slice(&errno.number().to_be_bytes());
        output.extend_from_slice(&length.to_be_bytes());
        output.extend_from_slice(message.as_bytes());
    }

    /// What lies where, from the beginning of the request on, in order and without gaps; at least one
    /// extent. Equal neighbours are joined, what passes the end of the request is cut.
    pub fn block_status(
        self,
        extents: impl IntoIterator<Item = StatusExtent>,
        output: &mut Vec<u8>,
    ) {
        let Kind::Status { one } = self.kind else {
            panic!("a block status for a request that is none: {self:?}");
        };
        let chunk = output.len();
        self.put_chunk(wire::REPLY_NONE, 0, output); // written again when the length is known
        let payload = output.len();
        output.extend_from_slice(&wire::ALLOCATION_ID.to_be_bytes());
        let count = output.len();
        let extended = self.form == Form::Extended;
        if extended {
            output.extend_from_slice(&[0; 4]);
        }
        let extents_max = if one { 1 } else { STATUS_EXTENTS_MAX };
        let mut extents_sent: u32 = 0;
        for extent in joined(extents, self.length_bytes).take(extents_max) {
            extent.put(extended, output);
            extents_sent += 1;
        }
        assert!(extents_sent > 0, "a block status without an extent");
        if extended {
            output[count..count + 4].copy_from_slice(&extents_sent.to_be_bytes());
        }
        let kind = if extended { wire::REPLY_BLOCK_STATUS_EXT } else { wire::REPLY_BLOCK_STATUS };
        let mut header = Vec::with_capacity(payload - chunk);
        self.put_chunk(kind, u64::from(length_u32(output.len() - payload)), &mut header);
        output[chunk..payload].copy_from_slice(&header);
    }

    fn put_simple(&self, error: u32, output: &mut Vec<u8>) {
        let mut header = [0; 16];
        header[..4].copy_from_slice(&wire::SIMPLE_REPLY_MAGIC.to_be_bytes());
        header[4..8].copy_from_slice(&error.to_be_bytes());
        header[8..].copy_from_slice(&self.cookie.to_be_bytes());
        output.extend_from_slice(&header);
    }

    /// The header of the only chunk of an answer.
    fn put_chunk(&self, kind: u16, payload_bytes: u64, output: &mut Vec<u8>) {
        let mut header = [0; 32];
        header[4..6].copy_from_slice(&wire::REPLY_FLAG_DONE.to_be_bytes());
        header[6..8].copy_from_slice(&kind.to_be_bytes());
        header[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        if self.form == Form::Extended {
            header[..4].copy_from_slice(&wire::EXTENDED_REPLY_MAGIC.to_be_bytes());
            header[16..24].copy_from_slice(&self.offset_bytes.to_be_bytes());
            header[24..].copy_from_slice(&payload_bytes.to_be_bytes());
            output.extend_from_slice(&header);
        } else {
            let payload_bytes = u32::try_from(payload_bytes).expect("compact lengths are 32 bits");
            header[..4].copy_from_slice(&wire::STRUCTURED_REPLY_MAGIC.to_be_bytes());
            header[16..20].copy_from_slice(&payload_bytes.to_be_bytes());
            output.extend_from_slice(&header[..20]);
        }
    }
}

/// A run of bytes of one kind, as a block status tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusExtent {
    /// How many.
    pub length_bytes: u64,
    /// Reads as zero and takes no room.
    pub hole: bool,
}

impl StatusExtent {
    fn put(self, extended: bool, output: &mut Vec<u8>) {
        let state = if self.hole { wire::STATE_HOLE | wire::STATE_ZERO } else { 0 };
        if extended {
            output.extend_from_slice(&self.length_bytes.to_be_bytes());
            output.extend_from_slice(&u64::from(state).to_be_bytes());
        } else {
            let length = u32::try_from(self.length_bytes).expect("within a compact request");
            output.extend_from_slice(&length.to_be_bytes());
            output.extend_from_slice(&state.to_be_bytes());
        }
    }
}

/// Neighbours of one kind as one, none empty, together at most `length_bytes`.
fn joined(
    extents: impl IntoIterator<Item = StatusExtent>,
    length_bytes: u64,
) -> impl Iterator<Item = StatusExtent> {
    let mut left_bytes = length_bytes;
    let mut extents = extents
        .into_iter()
        .map(move |extent| {
            let length_bytes = extent.length_bytes.min(left_bytes);
            left_bytes -= length_bytes;
            StatusExtent { length_bytes, ..extent }
        })
        .filter(|extent| extent.length_bytes > 0)
        .peekable();
    std::iter::from_fn(move || {
        let mut extent = extents.next()?;
        while let Some(next) = extents.next_if(|next| next.hole == extent.hole) {
            extent.length_bytes += next.length_bytes;
        }
        Some(extent)
    })
}

/// Why a request failed, in the words of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errno {
    /// `EPERM`: the client may not, or the export is read-only.
    NotPermitted,
    /// `EIO`: the bytes are damaged or the disk does not give them.
    Io,
    /// `ENOMEM`: no memory for it now.
    NoMemory,
    /// `EINVAL`: the request makes no sense.
    Invalid,
    /// `ENOSPC`: no room, or a write past the end.
    NoSpace,
    /// `EOVERFLOW`: longer than can be answered; said as `EINVAL` with simple replies, which do not have it.
    TooLarge,
    /// `ENOTSUP`: not without being slow.
    NotSupported,
    /// `ESHUTDOWN`: the server stops.
    Stopping,
}

impl Errno {
    /// As the wire has it.
    pub const fn number(self) -> u32 {
        match self {
            Self::NotPermitted => 1,
            Self::Io => 5,
            Self::NoMemory => 12,
            Self::Invalid => 22,
            Self::NoSpace => 28,
            Self::TooLarge => 75,
            Self::NotSupported => 95,
            Self::Stopping => 108,
        }
    }

    const fn simple_number(self) -> u32 {
        match self {
            Self::TooLarge => Self::Invalid.number(),
            other => other.number(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(form: Form, kind: Kind) -> ReplyTo {
        ReplyTo { cookie: 7, offset_bytes: 4096, length_bytes: 1000, form, kind }
    }

    fn extent(length_bytes: u64, hole: bool) -> StatusExtent {
        StatusExtent { length_bytes, hole }
    }

    #[test]
    fn equal_neighbours_are_joined_and_the_end_is_cut() {
        let extents = [extent(100, false), extent(0, true), extent(200, false), extent(900, true)];
        let joined: Vec<_> = joined(extents, 1000).collect();
        assert_eq!(joined, [extent(300, false), extent(700, true)]);
    }

    #[test]
    fn a_block_status_of_one_has_one() {
        let extents = [extent(10, false), extent(20, false), extent(30, true)];
        let mut output = Vec::new();
        reply(Form::Structured, Kind::Status { one: true }).block_status(extents, &mut output);
        assert_eq!(output[20..], [0, 0, 0, 1, 0, 0, 0, 30, 0, 0, 0, 0]);
    }

    #[test]
    fn a_block_status_is_bounded() {
        let extents = (0..u64::MAX).map(|at| extent(1, at % 2 == 0));
        let mut output = Vec::new();
        let mut reply = reply(Form::Extended, Kind::Status { one: false });
        reply.length_bytes = u64::MAX;
        reply.block_status(extents, &mut output);
        assert_eq!(output.len(), 32 + 8 + 16 * STATUS_EXTENTS_MAX);
        let payload_bytes = 8 + 16 * STATUS_EXTENTS_MAX as u64;
        assert_eq!(output[24..32], payload_bytes.to_be_bytes());
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let message = "é".repeat(3000).replacen('é', "e", 1);
        let mut output = Vec::new();
        reply(Form::Structured, Kind::Other).error(Errno::Io, &message, &mut output);
        assert_eq!(str::from_utf8(&output[26..]).map(str::len), Ok(STRING_BYTES_MAX - 1));
    }

    #[test]
    fn simple_replies_have_no_overflow() {
        let error = |form| {
            let mut output = Vec::new();
            reply(form, Kind::Read).error(Errno::TooLarge, "", &mut output);
            output
        };
        assert_eq!(error(Form::Simple)[4..8], 22_u32.to_be_bytes());
        assert_eq!(error(Form::Structured)[20..24], 75_u32.to_be_bytes());
    }

    #[test]
    #[should_panic(expected = "data for a request that is no read")]
    fn only_reads_get_data() {
        reply(Form::Simple, Kind::Other).data_header(&mut Vec::new());
    }
}
