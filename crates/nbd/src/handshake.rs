//! The handshake: options, until the client has chosen an export.
//!
//! An option is answered in full before the next one is looked at. Options that need the server
//! (opening, listing) leave a [`Pending`] here until it has answered; all others are answered at once.
//! A selected metadata context holds for the export name it was selected with, as the client wrote it.

use crate::reply::Form;
use crate::session::{Event, ExportInfo, Open, Purpose, Refusal, Violation};
use crate::transmission::{Served, Transmission};
use crate::wire::{self, Cursor, length_u32};
use crate::{
    HANDSHAKE_BYTES_MAX, OPTION_BYTES_MAX, OPTION_HEADER_BYTES, OPTIONS_MAX, PAYLOAD_BYTES_MAX,
    STRING_BYTES_MAX,
};

/// State of a handshake.
#[derive(Debug)]
pub struct Handshake {
    greeted: bool,
    no_zeroes: bool,
    form: Form,
    /// The export name for which `base:allocation` is selected.
    allocation_of: Option<String>,
    options: u32,
    option_bytes: usize,
    pending: Option<Pending>,
}

/// A question that the server has to answer.
#[derive(Debug)]
enum Pending {
    ExportName { allocation: bool },
    Export { option: u32, asked: Asked, allocation: bool },
    Contexts { option: u32, allocation: bool, name: String },
    List,
}

/// Which optional information an INFO or GO asked for.
#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    name: bool,
    description: bool,
    block_size: bool,
}

/// An option that is answered with `REP_ERR_INVALID` and this text.
struct Malformed(&'static str);

impl Handshake {
    pub fn start(output: &mut Vec<u8>) -> Self {
        output.extend_from_slice(wire::GREETING_MAGIC);
        output.extend_from_slice(wire::OPTION_MAGIC);
        let flags = wire::FLAG_FIXED_NEWSTYLE | wire::FLAG_NO_ZEROES;
        output.extend_from_slice(&flags.to_be_bytes());
        Self {
            greeted: false,
            no_zeroes: false,
            form: Form::Simple,
            allocation_of: None,
            options: 0,
            option_bytes: 0,
            pending: None,
        }
    }

    pub fn poll<'a>(
        &mut self,
        input: &'a [u8],
        output: &mut Vec<u8>,
    ) -> Result<(usize, Event<'a>), Violation> {
        if self.pending.is_some() {
            return Ok((0, Event::Waiting));
        }
        if !self.greeted {
            return self.client_flags(input);
        }
        let mut header = Cursor(input);
        let (Some(magic), Some(option), Some(length_bytes)) =
            (header.array::<8>(), header.u32(), header.u32())
        else {
            return Ok((0, Event::NeedMore { at_least: OPTION_HEADER_BYTES }));
        };
        if magic != *wire::OPTION_MAGIC {
            return Err(Violation::OptionMagic(u64::from_be_bytes(magic)));
        }
        let end = match usize::try_from(length_bytes) {
            Ok(length) if length_bytes <= OPTION_BYTES_MAX => OPTION_HEADER_BYTES + length,
            _ => return Err(Violation::OptionTooLong { option, length_bytes }),
        };
        let Some(data) = input.get(OPTION_HEADER_BYTES..end) else {
            return Ok((0, Event::NeedMore { at_least: end }));
        };
        self.count(end)?;
        Ok((end, self.option(option, data, output)?))
    }

    fn client_flags(&mut self, input: &[u8]) -> Result<(usize, Event<'static>), Violation> {
        let Some(flags) = Cursor(input).u32() else {
            return Ok((0, Event::NeedMore { at_least: 4 }));
        };
        if flags & !(wire::CLIENT_FLAG_FIXED_NEWSTYLE | wire::CLIENT_FLAG_NO_ZEROES) != 0 {
            return Err(Violation::ClientFlags(flags));
        }
        self.greeted = true;
        self.no_zeroes = flags & wire::CLIENT_FLAG_NO_ZEROES != 0;
        Ok((4, Event::Handled))
    }

    /// Bounds what a client can make us do before it has chosen.
    fn count(&mut self, bytes: usize) -> Result<(), Violation> {
        if self.options == OPTIONS_MAX || self.option_bytes + bytes > HANDSHAKE_BYTES_MAX {
            return Err(Violation::HandshakeTooLong { options: self.options });
        }
        self.options += 1;
        self.option_bytes += bytes;
        Ok(())
    }

    fn option<'a>(
        &mut self,
        option: u32,
        data: &'a [u8],
        output: &mut Vec<u8>,
    ) -> Result<Event<'a>, Violation> {
        let event = match option {
            wire::OPT_EXPORT_NAME => self.export_name(data).ok_or(Violation::ExportName)?,
            wire::OPT_ABORT => {
                put_reply(output, option, wire::REP_ACK, &[]);
                Event::Disconnect
            }
            wire::OPT_LIST if data.is_empty() => {
                self.pending = Some(Pending::List);
                Event::List
            }
            wire::OPT_INFO | wire::OPT_GO => self.export(option, data, output),
            wire::OPT_LIST_META_CONTEXT | wire::OPT_SET_META_CONTEXT => {
                self.contexts(option, data, output)
            }
            wire::OPT_STRUCTURED_REPLY if self.form == Form::Extended => {
                let text = "extended headers are in use";
                put_reply(output, option, wire::REP_ERR_EXT_HEADER_REQD, text.as_bytes());
                Event::Handled
            }
            wire::OPT_STRUCTURED_REPLY if data.is_empty() => {
                self.form = Form::Structured;
                put_reply(output, option, wire::REP_ACK, &[]);
                Event::Handled
            }
            wire::OPT_EXTENDED_HEADERS if data.is_empty() => {
                self.form = Form::Extended;
                put_reply(output, option, wire::REP_ACK, &[]);
                Event::Handled
            }
            wire::OPT_LIST | wire::OPT_STRUCTURED_REPLY | wire::OPT_EXTENDED_HEADERS => {
                put_malformed(output, option, &Malformed("this option has no data"));
                Event::Handled
            }
            _ => {
                put_reply(output, option, wire::REP_ERR_UNSUP, b"option is not supported");
                Event::Handled
            }
        };
        Ok(event)
    }

    fn export_name<'a>(&mut self, data: &'a [u8]) -> Option<Event<'a>> {
        let name = parse_name(data).ok()?;
        self.pending = Some(Pending::ExportName { allocation: self.has_allocation(name) });
        Some(Event::Open(Open { name, purpose: Purpose::Serve }))
    }

    fn export<'a>(&mut self, option: u32, data: &'a [u8], output: &mut Vec<u8>) -> Event<'a> {
        match parse_export(data) {
            Ok((name, asked)) => {
                let allocation = self.has_allocation(name);
                self.pending = Some(Pending::Export { option, asked, allocation });
                let serve = option == wire::OPT_GO;
                let purpose = if serve { Purpose::Serve } else { Purpose::Look };
                Event::Open(Open { name, purpose })
            }
            Err(malformed) => {
                put_malformed(output, option, &malformed);
                Event::Handled
            }
        }
    }

    fn contexts<'a>(&mut self, option: u32, data: &'a [u8], output: &mut Vec<u8>) -> Event<'a> {
        let selects = option == wire::OPT_SET_META_CONTEXT;
        if selects {
            self.allocation_of = None; // a failed selection leaves none behind
        }
        let parsed = match self.form {
            Form::Simple => Err(Malformed("negotiate structured replies first")),
            Form::Structured | Form::Extended => parse_contexts(data, selects),
        };
        match parsed {
            Ok((name, allocation)) => {
                let of = name.to_owned();
                self.pending = Some(Pending::Contexts { option, allocation, name: of });
                Event::Open(Open { name, purpose: Purpose::Look })
            }
            Err(malformed) => {
                put_malformed(output, option, &malformed);
                Event::Handled
            }
        }
    }

    fn has_allocation(&self, name: &str) -> bool {
        self.allocation_of.as_deref() == Some(name)
    }

    /// The transmission that begins, if the client asked to be served.
    pub fn opened(
        &mut self,
        export: &ExportInfo<'_>,
        output: &mut Vec<u8>,
    ) -> Option<Transmission> {
        let served = |allocation| Served {
            size_bytes: export.size_bytes,
            read_only: export.read_only,
            form: self.form,
            allocation,
        };
        match self.pending.take() {
            Some(Pending::ExportName { allocation }) => {
                output.extend_from_slice(&export.size_bytes.to_be_bytes());
                output.extend_from_slice(&transmission_flags(export, self.form).to_be_bytes());
                if !self.no_zeroes {
                    output.extend_from_slice(&[0; wire::EXPORT_NAME_ZEROES]);
                }
                Some(Transmission::new(served(allocation)))
            }
            Some(Pending::Export { option, asked, allocation }) => {
                put_information(output, option, asked, export, self.form);
                (option == wire::OPT_GO).then(|| Transmission::new(served(allocation)))
            }
            Some(Pending::Contexts { option, allocation, name }) => {
                let selects = option == wire::OPT_SET_META_CONTEXT;
                if allocation {
                    let id = if selects { wire::ALLOCATION_ID } else { 0 };
                    let mut data = id.to_be_bytes().to_vec();
                    data.extend_from_slice(wire::ALLOCATION.as_bytes());
                    put_reply(output, option, wire::REP_META_CONTEXT, &data);
                }
                put_reply(output, option, wire::REP_ACK, &[]);
                if selects {
                    self.allocation_of = allocation.then_some(name);
                }
                None
            }
            pending => panic!("an export opened without being asked for: {pending:?}"),
        }
    }

    pub fn listed<'n>(
        &mut self,
        exports: impl IntoIterator<Item = (&'n str, &'n str)>,
        output: &mut Vec<u8>,
    ) {
        let pending = self.pending.take();
        assert!(matches!(pending, Some(Pending::List)), "a list without its question: {pending:?}");
        for (name, description) in exports {
            let mut data = length_u32(name.len()).to_be_bytes().to_vec();
            data.extend_from_slice(name.as_bytes());
            data.extend_from_slice(clipped(description).as_bytes());
            put_reply(output, wire::OPT_LIST, wire::REP_SERVER, &data);
        }
        put_reply(output, wire::OPT_LIST, wire::REP_ACK, &[]);
    }

    /// `None`: the client cannot be told, the session is over.
    pub fn refused(&mut self, why: Refusal, message: &str, output: &mut Vec<u8>) -> Option<()> {
        let option = match self.pending.take() {
            Some(Pending::ExportName { .. }) => return None,
            Some(Pending::Export { option, .. } | Pending::Contexts { option, .. }) => option,
            Some(Pending::List) => wire::OPT_LIST,
            None => panic!("a refusal without a question"),
        };
        let reply = match why {
            Refusal::Unknown => wire::REP_ERR_UNKNOWN,
            Refusal::Denied => wire::REP_ERR_POLICY,
            Refusal::TlsRequired => wire::REP_ERR_TLS_REQD,
            Refusal::Stopping => wire::REP_ERR_SHUTDOWN,
        };
        put_reply(output, option, reply, clipped(message).as_bytes());
        Some(())
    }
}

/// INFO and GO: name, count of information requests, the requests.
fn parse_export(data: &[u8]) -> Result<(&str, Asked), Malformed> {
    const SHORT: Malformed = Malformed("option data ends too soon");
    let mut data = Cursor(data);
    let name = parse_name(data.counted().ok_or(SHORT)?)?;
    let mut asked = Asked::default();
    for _ in 0..data.u16().ok_or(SHORT)? {
        match data.u16().ok_or(SHORT)? {
            wire::INFO_NAME => asked.name = true,
            wire::INFO_DESCRIPTION => asked.description = true,
            wire::INFO_BLOCK_SIZE => asked.block_size = true,
            _ => {} // INFO_EXPORT comes anyway, what is unknown does not matter
        }
    }
    if data.0.is_empty() { Ok((name, asked)) } else { Err(Malformed("option data is too long")) }
}

/// LIST and SET_META_CONTEXT: name, count of queries, the queries. Whether `base:allocation` is among
/// what they mean: a listing knows wildcards, and without a query means all.
fn parse_contexts(data: &[u8], selects: bool) -> Result<(&str, bool), Malformed> {
    const SHORT: Malformed = Malformed("option data ends too soon");
    let mut data = Cursor(data);
    let name = parse_name(data.counted().ok_or(SHORT)?)?;
    let queries = data.u32().ok_or(SHORT)?;
    let mut allocation = !selects && queries == 0;
    for _ in 0..queries {
        let query = data.counted().ok_or(SHORT)?;
        allocation |= query == wire::ALLOCATION.as_bytes();
        allocation |= !selects && query == wire::BASE_NAMESPACE.as_bytes();
    }
    if data.0.is_empty() {
        Ok((name, allocation))
    } else {
        Err(Malformed("option data is too long"))
    }
}

fn parse_name(bytes: &[u8]) -> Result<&str, Malformed> {
    if bytes.len() > STRING_BYTES_MAX {
        return Err(Malformed("export name is longer than 4096 bytes"));
    }
    match str::from_utf8(bytes) {
        Ok(name) if !name.contains('\0') => Ok(name),
        _ => Err(Malformed("export name is not UTF-8 or has a NUL")),
    }
}

fn put_information(
    output: &mut Vec<u8>,
    option: u32,
    asked: Asked,
    export: &ExportInfo<'_>,
    form: Form,
) {
    let mut put = |kind: u16, parts: &[&[u8]]| {
        let data = [&kind.to_be_bytes()[..], &parts.concat()].concat();
        put_reply(output, option, wire::REP_INFO, &data);
    };
    let flags = transmission_flags(export, form);
    put(wire::INFO_EXPORT, &[&export.size_bytes.to_be_bytes(), &flags.to_be_bytes()]);
    if asked.name {
        put(wire::INFO_NAME, &[clipped(export.name).as_bytes()]);
    }
    if asked.description && !export.description.is_empty() {
        put(wire::INFO_DESCRIPTION, &[clipped(export.description).as_bytes()]);
    }
    if asked.block_size {
        let sizes = [BLOCK_BYTES_MIN, BLOCK_BYTES_PREFERRED, PAYLOAD_BYTES_MAX];
        put(wire::INFO_BLOCK_SIZE, &[sizes.map(u32::to_be_bytes).as_flattened()]);
    }
    put_reply(output, option, wire::REP_ACK, &[]);
}

/// More than 1 breaks clients; what is not aligned is the device's care.
const BLOCK_BYTES_MIN: u32 = 1;
const BLOCK_BYTES_PREFERRED: u32 = 4096;

fn transmission_flags(export: &ExportInfo<'_>, form: Form) -> u16 {
    let mut flags =
        wire::FLAG_HAS_FLAGS | wire::FLAG_SEND_FLUSH | wire::FLAG_SEND_FUA | wire::FLAG_SEND_CACHE;
    flags |= if export.read_only {
        wire::FLAG_READ_ONLY
    } else {
        wire::FLAG_SEND_TRIM | wire::FLAG_SEND_WRITE_ZEROES | wire::FLAG_SEND_FAST_ZERO
    };
    if export.multi_conn {
        flags |= wire::FLAG_CAN_MULTI_CONN;
    }
    flags
        | match form {
            Form::Simple => 0,
            Form::Structured => wire::FLAG_SEND_DF,
            Form::Extended => wire::FLAG_SEND_DF | wire::FLAG_BLOCK_STATUS_PAYLOAD,
        }
}

fn put_malformed(output: &mut Vec<u8>, option: u32, malformed: &Malformed) {
    put_reply(output, option, wire::REP_ERR_INVALID, malformed.0.as_bytes());
}

fn put_reply(output: &mut Vec<u8>, option: u32, reply: u32, data: &[u8]) {
    output.extend_from_slice(&wire::OPTION_REPLY_MAGIC.to_be_bytes());
    output.extend_from_slice(&option.to_be_bytes());
    output.extend_from_slice(&reply.to_be_bytes());
    output.extend_from_slice(&length_u32(data.len()).to_be_bytes());
    output.extend_from_slice(data);
}

fn clipped(text: &str) -> &str {
    &text[..text.floor_char_boundary(STRING_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{Command, Session};

    fn option(number: u32, data: &[u8]) -> Vec<u8> {
        let length = length_u32(data.len()).to_be_bytes();
        [wire::OPTION_MAGIC, &number.to_be_bytes()[..], &length, data].concat()
    }

    fn greeted() -> Handshake {
        let mut handshake = Handshake::start(&mut Vec::new());
        assert_eq!(handshake.poll(&[0, 0, 0, 3], &mut Vec::new()), Ok((4, Event::Handled)));
        handshake
    }

    #[test]
    fn client_flags_must_be_offered() {
        let polled = Handshake::start(&mut Vec::new()).poll(&[0x80, 0, 0, 3], &mut Vec::new());
        assert_eq!(polled, Err(Violation::ClientFlags(0x8000_0003)));
    }

    #[test]
    fn an_option_may_not_be_too_long() {
        let header = |length: u32| [&b"IHAVEOPT\0\0\0\x07"[..], &length.to_be_bytes()].concat();
        let longest = header(OPTION_BYTES_MAX);
        let at_least = OPTION_HEADER_BYTES + OPTION_BYTES_MAX as usize;
        let polled = greeted().poll(&longest, &mut Vec::new());
        assert_eq!(polled, Ok((0, Event::NeedMore { at_least })));
        let length_bytes = OPTION_BYTES_MAX + 1;
        let longer = header(length_bytes);
        let polled = greeted().poll(&longer, &mut Vec::new());
        assert_eq!(polled, Err(Violation::OptionTooLong { option: 7, length_bytes }));
    }

    #[test]
    fn a_handshake_ends_after_so_many_options() {
        let (mut handshake, option) = (greeted(), option(99, b""));
        for _ in 0..OPTIONS_MAX {
            let polled = handshake.poll(&option, &mut Vec::new());
            assert_eq!(polled, Ok((option.len(), Event::Handled)));
        }
        let polled = handshake.poll(&option, &mut Vec::new());
        assert_eq!(polled, Err(Violation::HandshakeTooLong { options: OPTIONS_MAX }));
    }

    #[test]
    fn a_handshake_ends_after_so_many_bytes() {
        let option = option(99, &vec![0; OPTION_BYTES_MAX as usize]);
        let mut handshake = greeted();
        let fits = HANDSHAKE_BYTES_MAX / option.len();
        for _ in 0..fits {
            handshake.poll(&option, &mut Vec::new()).expect("within the limit");
        }
        let options = u32::try_from(fits).expect("few");
        let polled = handshake.poll(&option, &mut Vec::new());
        assert_eq!(polled, Err(Violation::HandshakeTooLong { options }));
    }

    /// Whether a block status is served after these options; all exports there are exist.
    fn selects(options: &[Vec<u8>]) -> bool {
        let mut output = Vec::new();
        let mut session = Session::start(&mut output);
        let status = b"\x25\x60\x95\x13\0\0\0\x0712345678\0\0\0\0\0\0\0\0\0\0\x10\0";
        let bytes = [&[0, 0, 0, 3], &options.concat()[..], status].concat();
        let mut input = &bytes[..];
        loop {
            let (consumed, event) = session.poll(input, &mut output).expect("well framed");
            input = &input[consumed..];
            match event {
                Event::Open(Open { name, .. }) => {
                    let (size_bytes, read_only, multi_conn) = (1 << 20, false, false);
                    let description = "";
                    let export =
                        ExportInfo { size_bytes, read_only, multi_conn, name, description };
                    session.opened(&export, &mut output);
                }
                Event::Handled => {}
                Event::Request(request) => {
                    return matches!(request.command, Command::BlockStatus { .. });
                }
                Event::NeedMore { .. } => return false,
                event => panic!("{event:?}"),
            }
        }
    }

    #[test]
    fn a_context_holds_for_the_export_it_was_selected_with() {
        let structured = || option(wire::OPT_STRUCTURED_REPLY, b"");
        let go = || option(wire::OPT_GO, b"\0\0\0\x01a\0\0");
        let set = |data: &[u8]| option(wire::OPT_SET_META_CONTEXT, data);
        let of_a = b"\0\0\0\x01a\0\0\0\x01\0\0\0\x0fbase:allocation";
        let of_b = b"\0\0\0\x01b\0\0\0\x01\0\0\0\x0fbase:allocation";
        let none = b"\0\0\0\x01a\0\0\0\0";
        let list = option(wire::OPT_LIST_META_CONTEXT, none);
        assert!(selects(&[structured(), set(of_a), go()]));
        assert!(selects(&[structured(), set(of_a), list, go()]), "a listing changes nothing");
        assert!(!selects(&[structured(), go()]), "never selected");
        assert!(!selects(&[structured(), set(of_b), go()]), "of another export");
        assert!(!selects(&[structured(), set(of_a), set(of_b), go()]), "the last one counts");
        assert!(!selects(&[structured(), set(of_a), set(none), go()]), "deselected");
        assert!(!selects(&[structured(), set(of_a), set(b"x"), go()]), "a failure deselects");
    }

    #[test]
    fn names_are_utf8_without_nul_and_not_too_long() {
        let longest = "n".repeat(STRING_BYTES_MAX);
        assert_eq!(parse_name(longest.as_bytes()).ok(), Some(&*longest));
        assert_eq!(parse_name(b"").ok(), Some(""));
        assert!(parse_name(format!("{longest}n").as_bytes()).is_err());
        assert!(parse_name(b"a\0b").is_err());
        assert!(parse_name(b"\xff\xfe").is_err());
        assert_eq!(greeted().option(1, b"\xff", &mut Vec::new()), Err(Violation::ExportName));
    }
}
