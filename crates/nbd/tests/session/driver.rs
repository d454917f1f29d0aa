//! A server around a session, small and strict: it answers every event at once and asserts what
//! [`nbd::Session`] promises its caller. The fuzz target `nbd_session` is this and nothing else.
//!
//! Exports: `vol` (also under the empty name), `past` (read-only), `secret` (denied). Requests with
//! an odd cookie fail. Only headers of read data are written, never the data.

use nbd::{
    Command, Errno, Event, ExportInfo, OPTION_BYTES_MAX, OPTION_HEADER_BYTES, Open,
    PAYLOAD_BYTES_MAX, Phase, Purpose, Refusal, Request, Session, StatusExtent, Violation,
};

/// Length of every export.
pub const SIZE_BYTES: u64 = 64 << 20;

/// All that came of a client's bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Transcript {
    /// What the session said, without its wishes for more.
    pub events: Vec<String>,
    /// What the client gets.
    pub output: Vec<u8>,
    /// Payload of all writes, as far as it came.
    pub payload: Vec<u8>,
    /// How it ended, if it was not well.
    pub violation: Option<Violation>,
}

/// Checks that it does not matter where the bytes are cut.
pub fn check(bytes: &[u8]) {
    let whole = run([bytes]);
    assert_eq!(run(bytes.chunks(1)), whole, "cut after each byte");
    let length = 1 + usize::from(bytes.last().copied().unwrap_or(0));
    assert_eq!(run(bytes.chunks(length)), whole, "cut after {length} bytes each");
}

/// Serves a client who sends these pieces, one after the other, and then nothing.
pub fn run<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> Transcript {
    let mut output = Vec::new();
    let session = Session::start(&mut output);
    let transcript = Transcript { events: vec![], output, payload: vec![], violation: None };
    let mut server = Server { session, input: vec![], payload_left: 0, transcript };
    for piece in pieces {
        server.input.extend_from_slice(piece);
        if server.turn().is_none() {
            break;
        }
    }
    server.transcript
}

struct Server {
    session: Session,
    input: Vec<u8>,
    payload_left: usize,
    transcript: Transcript,
}

/// More than the longest error message with its header.
const ANSWER_BYTES_MAX: usize = 4096 + 64;

impl Server {
    /// Deals with all that has arrived; `None` when the session is over.
    fn turn(&mut self) -> Option<()> {
        loop {
            self.take_payload();
            if self.payload_left > 0 {
                return Some(());
            }
            let before = self.transcript.output.len();
            let input = std::mem::take(&mut self.input);
            let polled = self.session.poll(&input, &mut self.transcript.output);
            assert!(self.transcript.output.len() <= before + ANSWER_BYTES_MAX);
            let (consumed, event) = match polled {
                Ok(polled) => polled,
                Err(violation) => return self.broken(violation),
            };
            self.input = input[consumed..].to_vec();
            match event {
                Event::NeedMore { at_least } => {
                    let bytes_max = OPTION_HEADER_BYTES + OPTION_BYTES_MAX as usize;
                    assert!(at_least > self.input.len(), "wants what it has");
                    assert!(at_least <= bytes_max, "wants {at_least} bytes");
                    return Some(());
                }
                Event::Waiting => panic!("waits although nothing was asked"),
                Event::Disconnect => return self.over(),
                Event::Handled => self.note(&"handled"),
                Event::List => self.list(),
                Event::Open(open) => self.open(open),
                Event::Request(request) => self.answer(request),
            }
        }
    }

    fn take_payload(&mut self) {
        let taken = self.payload_left.min(self.input.len());
        self.transcript.payload.extend(self.input.drain(..taken));
        self.payload_left -= taken;
    }

    fn broken(&mut self, violation: Violation) -> Option<()> {
        self.transcript.violation = Some(violation);
        assert_eq!(self.session.phase(), Phase::Over);
        let output = &mut self.transcript.output;
        assert_eq!(self.session.poll(b"IHAVEOPT", output), Err(violation), "it stays broken");
        None
    }

    fn over(&mut self) -> Option<()> {
        self.note(&"over");
        assert_eq!(self.session.phase(), Phase::Over);
        let output = &mut self.transcript.output;
        assert_eq!(self.session.poll(b"IHAVEOPT", output), Ok((0, Event::Disconnect)));
        None
    }

    fn note(&mut self, event: &dyn std::fmt::Debug) {
        self.transcript.events.push(format!("{event:?}"));
    }

    fn waits(&mut self) {
        let polled = self.session.poll(b"IHAVEOPT", &mut self.transcript.output);
        assert_eq!(polled, Ok((0, Event::Waiting)));
    }

    fn list(&mut self) {
        self.note(&"list");
        self.waits();
        let names = [("vol", "a volume"), ("past", "")];
        self.session.listed(names, &mut self.transcript.output);
    }

    fn open(&mut self, open: Open<'_>) {
        self.note(&open);
        self.waits();
        let output = &mut self.transcript.output;
        let vol = ExportInfo {
            size_bytes: SIZE_BYTES,
            read_only: false,
            multi_conn: true,
            name: "vol",
            description: "a volume",
        };
        let past = ExportInfo { read_only: true, multi_conn: false, name: "past@1", ..vol };
        let found = match open.name {
            "" | "vol" => Ok(vol),
            "past" => Ok(past),
            "secret" => Err(Refusal::Denied),
            _ => Err(Refusal::Unknown),
        };
        match found {
            Ok(export) => {
                self.session.opened(&export, output);
                let serves = self.session.phase() == Phase::Transmission;
                assert_eq!(serves, open.purpose == Purpose::Serve);
            }
            Err(why) => {
                self.session.refused(why, "no", output);
                assert_ne!(self.session.phase(), Phase::Transmission);
            }
        }
    }

    fn answer(&mut self, Request { command, reply }: Request) {
        self.note(&command);
        assert_inside(command);
        if let Command::Write { length_bytes, .. } = command {
            self.payload_left = length_bytes as usize;
        }
        let output = &mut self.transcript.output;
        if reply.cookie() % 2 == 1 {
            return reply.error(Errno::Io, "odd", output);
        }
        match command {
            Command::Read { .. } => reply.data_header(output),
            Command::BlockStatus { length_bytes, extents_max, .. } => {
                assert!(extents_max > 0);
                let halves = [length_bytes / 2, length_bytes.div_ceil(2), u64::MAX];
                let extents = halves
                    .iter()
                    .enumerate()
                    .map(|(at, &length_bytes)| StatusExtent { length_bytes, hole: at % 2 == 1 });
                reply.block_status(extents, output);
            }
            _ => reply.done(output),
        }
    }
}

fn assert_inside(command: Command) {
    let (offset_bytes, length_bytes) = match command {
        Command::Flush => return,
        Command::Read { offset_bytes, length_bytes }
        | Command::Write { offset_bytes, length_bytes, .. } => {
            assert!(length_bytes <= PAYLOAD_BYTES_MAX);
            (offset_bytes, length_bytes.into())
        }
        Command::Trim { offset_bytes, length_bytes, .. }
        | Command::WriteZeroes { offset_bytes, length_bytes, .. }
        | Command::Cache { offset_bytes, length_bytes }
        | Command::BlockStatus { offset_bytes, length_bytes, .. } => (offset_bytes, length_bytes),
    };
    assert!(length_bytes > 0, "an empty {command:?}");
    let end_bytes = offset_bytes.checked_add(length_bytes).expect("no overflow");
    assert!(end_bytes <= SIZE_BYTES, "{command:?} passes the end");
}
