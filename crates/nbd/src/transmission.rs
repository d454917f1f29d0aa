//! The transmission phase: requests, parsed and judged against the export.
//!
//! What the server gets lies within the export and is allowed on it. All else is answered here; a
//! payload that comes with it is skipped as it arrives.

use crate::reply::{Errno, Form, Kind, ReplyTo};
use crate::session::{Command, Event, Request, Violation};
use crate::wire::{self, Cursor};
use crate::{PAYLOAD_BYTES_MAX, SKIPPED_BYTES_MAX, STATUS_EXTENTS_MAX};

/// State of the transmission phase.
#[derive(Debug)]
pub struct Transmission {
    served: Served,
    /// Payload of a refused request that is still to be dropped.
    skip_bytes: u64,
}

/// What the handshake settled.
#[derive(Clone, Copy, Debug)]
pub struct Served {
    pub size_bytes: u64,
    pub read_only: bool,
    pub form: Form,
    /// `base:allocation` is selected.
    pub allocation: bool,
}

/// A request that is answered with an error.
struct Refused(Errno, &'static str);

impl Transmission {
    pub fn new(served: Served) -> Self {
        Self { served, skip_bytes: 0 }
    }

    #[inline]
    pub fn poll(
        &mut self,
        input: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<(usize, Event<'static>), Violation> {
        if self.skip_bytes > 0 {
            return Ok(self.skip(input));
        }
        let header_bytes = self.served.form.header_bytes();
        let Some(header) = Header::parse(input, self.served.form)? else {
            return Ok((0, Event::NeedMore { at_least: header_bytes }));
        };
        if header.command == wire::CMD_DISC {
            return Ok((header_bytes, Event::Disconnect));
        }
        if header.is_filtered_status(self.served.form) {
            return self.filtered_status(&header, &input[header_bytes..], output);
        }
        let event = match self.served.judge(&header) {
            Ok(command) => self.hand_on(&header, command, output),
            Err(refused) => {
                let payload_bytes = header.payload_bytes(self.served.form);
                self.refuse(&header, &refused, payload_bytes, output)?
            }
        };
        Ok((header_bytes, event))
    }

    fn skip(&mut self, input: &[u8]) -> (usize, Event<'static>) {
        let skipped =
            usize::try_from(self.skip_bytes).map_or(input.len(), |left| left.min(input.len()));
        self.skip_bytes -= skipped as u64;
        if self.skip_bytes > 0 {
            return (skipped, Event::NeedMore { at_least: 1 });
        }
        (skipped, Event::Handled)
    }

    /// The server's turn, unless there is nothing to do.
    #[inline]
    fn hand_on(&self, header: &Header, command: Command, output: &mut Vec<u8>) -> Event<'static> {
        let reply = header.reply_to(self.served.form);
        if header.length_bytes == 0 && command != Command::Flush {
            reply.done(output);
            return Event::Handled;
        }
        Event::Request(Request { command, reply })
    }

    #[cold]
    fn refuse(
        &mut self,
        header: &Header,
        &Refused(errno, message): &Refused,
        payload_bytes: u64,
        output: &mut Vec<u8>,
    ) -> Result<Event<'static>, Violation> {
        if payload_bytes > SKIPPED_BYTES_MAX {
            return Err(Violation::PayloadTooLong {
                command: header.command,
                length_bytes: payload_bytes,
            });
        }
        self.skip_bytes = payload_bytes;
        header.reply_to(self.served.form).error(errno, message, output);
        Ok(Event::Handled)
    }

    /// A block status whose payload says how far, and of which contexts: there is one to name.
    fn filtered_status(
        &mut self,
        header: &Header,
        payload: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<(usize, Event<'static>), Violation> {
        let header_bytes = self.served.form.header_bytes();
        if header.length_bytes != FILTER_BYTES {
            let refused = Refused(Errno::Invalid, "name the one context once");
            let event = self.refuse(header, &refused, header.length_bytes, output)?;
            return Ok((header_bytes, event));
        }
        let mut payload = Cursor(payload);
        let (Some(length_bytes), Some(context)) = (payload.u64(), payload.u32()) else {
            return Ok((0, Event::NeedMore { at_least: header_bytes + FILTER_LENGTH }));
        };
        let flags = header.flags & !wire::CMD_FLAG_PAYLOAD_LEN;
        let plain = Header { flags, length_bytes, ..*header };
        let judged = if context == wire::ALLOCATION_ID {
            self.served.judge(&plain)
        } else {
            Err(Refused(Errno::Invalid, "context is not selected"))
        };
        let event = match judged {
            Ok(command) => self.hand_on(&plain, command, output),
            Err(refused) => self.refuse(&plain, &refused, 0, output)?,
        };
        Ok((header_bytes + FILTER_LENGTH, event))
    }
}

/// Payload of a block status that names one context: length in 64 bits, its number in 32.
const FILTER_LENGTH: usize = 12;
const FILTER_BYTES: u64 = FILTER_LENGTH as u64;

impl Served {
    /// Whether the request can be served: known, with flags meant for it, allowed, inside, not too long.
    #[inline]
    fn judge(&self, header: &Header) -> Result<Command, Refused> {
        let &Header { flags, command, offset_bytes, length_bytes, .. } = header;
        let meant = self.flags_meant_for(command).ok_or(UNKNOWN_COMMAND)?;
        if flags & !meant != 0 {
            return Err(Refused(Errno::Invalid, "flag is not meant for this command"));
        }
        let fua = flags & wire::CMD_FLAG_FUA != 0;
        Ok(match command {
            wire::CMD_READ => {
                self.check_inside(header, Errno::Invalid)?;
                Command::Read { offset_bytes, length_bytes: header.length_of_data()? }
            }
            wire::CMD_WRITE => {
                self.check_writable()?;
                self.check_inside(header, Errno::NoSpace)?;
                Command::Write { offset_bytes, length_bytes: header.length_of_data()?, fua }
            }
            wire::CMD_FLUSH => Command::Flush,
            wire::CMD_TRIM => {
                self.check_writable()?;
                self.check_inside(header, Errno::Invalid)?;
                Command::Trim { offset_bytes, length_bytes, fua }
            }
            wire::CMD_WRITE_ZEROES => {
                self.check_writable()?;
                self.check_inside(header, Errno::NoSpace)?;
                let no_hole = flags & wire::CMD_FLAG_NO_HOLE != 0;
                Command::WriteZeroes { offset_bytes, length_bytes, no_hole, fua }
            }
            wire::CMD_CACHE => {
                self.check_inside(header, Errno::Invalid)?;
                Command::Cache { offset_bytes, length_bytes }
            }
            wire::CMD_BLOCK_STATUS => {
                if !self.allocation {
                    return Err(Refused(Errno::Invalid, "no metadata context is selected"));
                }
                if length_bytes == 0 {
                    return Err(Refused(Errno::Invalid, "block status of no bytes"));
                }
                self.check_inside(header, Errno::Invalid)?;
                let extents_max = if header.wants_one_extent() { 1 } else { STATUS_EXTENTS_MAX };
                Command::BlockStatus { offset_bytes, length_bytes, extents_max }
            }
            _ => return Err(UNKNOWN_COMMAND),
        })
    }

    /// `None` for an unknown command. FUA may come with all of them, as with `SEND_FUA` it must.
    fn flags_meant_for(&self, command: u16) -> Option<u16> {
        let structured = self.form != Form::Simple;
        let own = match command {
            wire::CMD_READ if structured => wire::CMD_FLAG_DF,
            wire::CMD_WRITE if self.form == Form::Extended => wire::CMD_FLAG_PAYLOAD_LEN,
            wire::CMD_WRITE_ZEROES => wire::CMD_FLAG_NO_HOLE | wire::CMD_FLAG_FAST_ZERO,
            wire::CMD_BLOCK_STATUS => wire::CMD_FLAG_REQ_ONE,
            wire::CMD_READ
            | wire::CMD_WRITE
            | wire::CMD_FLUSH
            | wire::CMD_TRIM
            | wire::CMD_CACHE => 0,
            _ => return None,
        };
        Some(wire::CMD_FLAG_FUA | own)
    }

    fn check_writable(&self) -> Result<(), Refused> {
        if self.read_only {
            return Err(Refused(Errno::NotPermitted, "export is read-only"));
        }
        Ok(())
    }

    fn check_inside(&self, header: &Header, otherwise: Errno) -> Result<(), Refused> {
        match header.offset_bytes.checked_add(header.length_bytes) {
            Some(end_bytes) if end_bytes <= self.size_bytes => Ok(()),
            _ => Err(Refused(otherwise, "request passes the end of the export")),
        }
    }
}

const UNKNOWN_COMMAND: Refused = Refused(Errno::Invalid, "command is not known");

/// A request before it is judged.
struct Header {
    flags: u16,
    command: u16,
    cookie: u64,
    offset_bytes: u64,
    length_bytes: u64,
}

impl Form {
    const fn header_bytes(self) -> usize {
        match self {
            Self::Simple | Self::Structured => 28,
            Self::Extended => 32,
        }
    }

    const fn request_magic(self) -> u32 {
        match self {
            Self::Simple | Self::Structured => wire::REQUEST_MAGIC,
            Self::Extended => wire::EXTENDED_REQUEST_MAGIC,
        }
    }
}

impl Header {
    /// `None` when it is not all there.
    #[inline]
    fn parse(input: &[u8], form: Form) -> Result<Option<Self>, Violation> {
        match Self::fields(Cursor(input), form) {
            Some((magic, header)) if magic == form.request_magic() => Ok(Some(header)),
            Some((magic, _)) => Err(Violation::RequestMagic(magic)),
            None => Ok(None),
        }
    }

    #[inline]
    fn fields(mut input: Cursor<'_>, form: Form) -> Option<(u32, Self)> {
        let magic = input.u32()?;
        let (flags, command) = (input.u16()?, input.u16()?);
        let (cookie, offset_bytes) = (input.u64()?, input.u64()?);
        let length_bytes = match form {
            Form::Simple | Form::Structured => input.u32()?.into(),
            Form::Extended => input.u64()?,
        };
        Some((magic, Self { flags, command, cookie, offset_bytes, length_bytes }))
    }

    /// What follows the header. With extended headers a flag says so, which QEMU (10.0) forgets on
    /// writes: those always have their payload, as QEMU's own server takes them.
    fn payload_bytes(&self, form: Form) -> u64 {
        let marked = form == Form::Extended && self.flags & wire::CMD_FLAG_PAYLOAD_LEN != 0;
        if marked || self.command == wire::CMD_WRITE { self.length_bytes } else { 0 }
    }

    fn is_filtered_status(&self, form: Form) -> bool {
        form == Form::Extended
            && self.command == wire::CMD_BLOCK_STATUS
            && self.flags & wire::CMD_FLAG_PAYLOAD_LEN != 0
    }

    fn wants_one_extent(&self) -> bool {
        self.flags & wire::CMD_FLAG_REQ_ONE != 0
    }

    fn length_of_data(&self) -> Result<u32, Refused> {
        match u32::try_from(self.length_bytes) {
            Ok(length) if length <= PAYLOAD_BYTES_MAX => Ok(length),
            _ => Err(Refused(Errno::Invalid, "longer than 32 MiB")),
        }
    }

    fn reply_to(&self, form: Form) -> ReplyTo {
        let kind = match self.command {
            wire::CMD_READ => Kind::Read,
            wire::CMD_BLOCK_STATUS => Kind::Status { one: self.wants_one_extent() },
            _ => Kind::Other,
        };
        let &Self { cookie, offset_bytes, length_bytes, .. } = self;
        ReplyTo { cookie, offset_bytes, length_bytes, form, kind }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Form::{Extended, Simple, Structured};

    const SIZE_BYTES: u64 = 1 << 30;

    fn judge(form: Form, command: u16, flags: u16, at: u64, length: u64) -> Result<Command, u32> {
        let served = Served { size_bytes: SIZE_BYTES, read_only: false, form, allocation: true };
        let header = Header { flags, command, cookie: 0, offset_bytes: at, length_bytes: length };
        served.judge(&header).map_err(|Refused(errno, _)| errno.number())
    }

    #[test]
    fn flags_are_taken_only_where_they_mean_something() {
        use wire::*;
        let reads = Ok(Command::Read { offset_bytes: 0, length_bytes: 512 });
        assert_eq!(judge(Structured, CMD_READ, CMD_FLAG_DF | CMD_FLAG_FUA, 0, 512), reads);
        let zeroes = CMD_FLAG_NO_HOLE | CMD_FLAG_FAST_ZERO | CMD_FLAG_FUA;
        let zeroed =
            Command::WriteZeroes { offset_bytes: 0, length_bytes: 512, no_hole: true, fua: true };
        assert_eq!(judge(Simple, CMD_WRITE_ZEROES, zeroes, 0, 512), Ok(zeroed));
        let one = Command::BlockStatus { offset_bytes: 0, length_bytes: 512, extents_max: 1 };
        assert_eq!(judge(Structured, CMD_BLOCK_STATUS, CMD_FLAG_REQ_ONE, 0, 512), Ok(one));
        for (form, command, flag) in [
            (Simple, CMD_READ, CMD_FLAG_DF),
            (Structured, CMD_READ, CMD_FLAG_NO_HOLE),
            (Extended, CMD_READ, CMD_FLAG_PAYLOAD_LEN),
            (Structured, CMD_WRITE, CMD_FLAG_PAYLOAD_LEN),
            (Structured, CMD_WRITE, CMD_FLAG_DF),
            (Structured, CMD_TRIM, CMD_FLAG_NO_HOLE),
            (Structured, CMD_FLUSH, 1 << 14),
            (Structured, CMD_WRITE_ZEROES, CMD_FLAG_REQ_ONE),
        ] {
            assert_eq!(judge(form, command, flag, 0, 512), Err(22), "{command} {flag:#x}");
        }
    }

    #[test]
    fn nothing_passes_the_end() {
        use wire::*;
        for (command, errno) in [
            (CMD_READ, 22),
            (CMD_WRITE, 28),
            (CMD_TRIM, 22),
            (CMD_WRITE_ZEROES, 28),
            (CMD_CACHE, 22),
            (CMD_BLOCK_STATUS, 22),
        ] {
            assert!(judge(Extended, command, 0, SIZE_BYTES - 1, 1).is_ok(), "{command}");
            for (at, length) in [
                (SIZE_BYTES, 1),
                (SIZE_BYTES - 1, 2),
                (0, SIZE_BYTES + 1),
                (1 << 63, 1 << 63),
                (u64::MAX, u64::MAX),
            ] {
                let judged = judge(Extended, command, 0, at, length);
                assert_eq!(judged, Err(errno), "{command} at {at}+{length}");
            }
        }
    }

    #[test]
    fn data_is_at_most_32_mib() {
        let longest = u64::from(PAYLOAD_BYTES_MAX);
        for command in [wire::CMD_READ, wire::CMD_WRITE] {
            assert!(judge(Simple, command, 0, 0, longest).is_ok());
            assert_eq!(judge(Simple, command, 0, 0, longest + 1), Err(22));
        }
        assert!(judge(Simple, wire::CMD_WRITE_ZEROES, 0, 0, SIZE_BYTES).is_ok());
    }

    fn write(length: u32) -> Vec<u8> {
        let header = b"\x25\x60\x95\x13\0\0\0\x0112345678\xff\xff\xff\xff\xff\xff\xff\xff";
        [&header[..], &length.to_be_bytes()].concat()
    }

    fn transmission() -> Transmission {
        let (size_bytes, read_only, form, allocation) = (SIZE_BYTES, false, Simple, false);
        Transmission::new(Served { size_bytes, read_only, form, allocation })
    }

    #[test]
    fn the_payload_of_a_refused_write_is_skipped() {
        let (mut transmission, mut output) = (transmission(), Vec::new());
        assert_eq!(transmission.poll(&write(10), &mut output), Ok((28, Event::Handled)));
        assert_eq!(output.len(), 16, "answered at once");
        let more = Event::NeedMore { at_least: 1 };
        assert_eq!(transmission.poll(&[1; 4], &mut output), Ok((4, more)));
        assert_eq!(transmission.poll(&[1; 40], &mut output), Ok((6, Event::Handled)));
        assert_eq!(output.len(), 16, "answered once");
    }

    #[test]
    fn a_payload_that_takes_too_long_ends_the_session() {
        let skipped = u32::try_from(SKIPPED_BYTES_MAX).expect("64 MiB");
        let polled = transmission().poll(&write(skipped), &mut Vec::new());
        assert_eq!(polled, Ok((28, Event::Handled)));
        let length_bytes = SKIPPED_BYTES_MAX + 1;
        let polled = transmission().poll(&write(skipped + 1), &mut Vec::new());
        assert_eq!(polled, Err(Violation::PayloadTooLong { command: 1, length_bytes }));
    }

    #[test]
    fn a_request_of_another_form_ends_the_session() {
        let mut bytes = write(10);
        bytes[..4].copy_from_slice(&wire::EXTENDED_REQUEST_MAGIC.to_be_bytes());
        let polled = transmission().poll(&bytes, &mut Vec::new());
        assert_eq!(polled, Err(Violation::RequestMagic(wire::EXTENDED_REQUEST_MAGIC)));
    }
}
