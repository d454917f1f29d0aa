//! One client's connection: which phase it is in, and the words in which it speaks to the server.

use thiserror::Error;

use crate::handshake::Handshake;
use crate::reply::ReplyTo;
use crate::transmission::Transmission;

/// Protocol state of one connection.
#[derive(Debug)]
pub struct Session {
    state: State,
}

/// A phase that forbids a command has no code for it.
#[derive(Debug)]
enum State {
    Handshake(Handshake),
    Transmission(Transmission),
    Over,
    Broken(Violation),
}

impl Session {
    /// A client has connected: the greeting goes to `output`.
    pub fn start(output: &mut Vec<u8>) -> Self {
        Self { state: State::Handshake(Handshake::start(output)) }
    }

    /// Looks at the bytes received and not yet consumed; tells how many to drop, and what they were.
    /// Deals with one message, so call it again until it wants more or waits for an answer. What it
    /// answers by itself goes to `output`.
    pub fn poll<'a>(
        &mut self,
        input: &'a [u8],
        output: &mut Vec<u8>,
    ) -> Result<(usize, Event<'a>), Violation> {
        let polled = match &mut self.state {
            State::Transmission(transmission) => transmission.poll(input, output),
            State::Handshake(handshake) => handshake.poll(input, output),
            State::Over => Ok((0, Event::Disconnect)),
            State::Broken(violation) => Err(*violation),
        };
        match &polled {
            Ok((_, Event::Disconnect)) => self.state = State::Over,
            Ok(_) => {}
            Err(violation) => self.state = State::Broken(*violation),
        }
        polled
    }

    /// Answers [`Event::Open`]: the export is there. If it was to be served, transmission begins.
    pub fn opened(&mut self, export: &ExportInfo<'_>, output: &mut Vec<u8>) {
        let handshake = self.handshake();
        if let Some(transmission) = handshake.opened(export, output) {
            self.state = State::Transmission(transmission);
        }
    }

    /// Answers [`Event::List`] with names and descriptions, those only that the client may open.
    pub fn listed<'n>(
        &mut self,
        exports: impl IntoIterator<Item = (&'n str, &'n str)>,
        output: &mut Vec<u8>,
    ) {
        self.handshake().listed(exports, output);
    }

    /// Answers [`Event::Open`] or [`Event::List`]: no. A client of the old way (`EXPORT_NAME`) cannot
    /// be told, so its session is over.
    pub fn refused(&mut self, why: Refusal, message: &str, output: &mut Vec<u8>) {
        if self.handshake().refused(why, message, output).is_none() {
            self.state = State::Over;
        }
    }

    /// Where the session stands; a handshake has a deadline, which the caller keeps.
    pub fn phase(&self) -> Phase {
        match self.state {
            State::Handshake(_) => Phase::Handshake,
            State::Transmission(_) => Phase::Transmission,
            State::Over | State::Broken(_) => Phase::Over,
        }
    }

    fn handshake(&mut self) -> &mut Handshake {
        match &mut self.state {
            State::Handshake(handshake) => handshake,
            state => panic!("an answer to a handshake without its question: {state:?}"),
        }
    }
}

/// What the bytes meant.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// Call again when `at_least` bytes lie in the input, counted from what is not consumed.
    NeedMore {
        /// At least 1 more than there are; at most `OPTION_HEADER_BYTES + OPTION_BYTES_MAX`.
        at_least: usize,
    },
    /// [`Event::Open`] or [`Event::List`] is still to be answered; nothing was consumed.
    Waiting,
    /// The session dealt with it by itself; call again.
    Handled,
    /// The client asks for an export: answer with [`Session::opened`] or [`Session::refused`].
    Open(Open<'a>),
    /// The client asks what there is: answer with [`Session::listed`] or [`Session::refused`].
    List,
    /// A request to be served, answered by its [`ReplyTo`], in any order. After a
    /// [`Command::Write`] exactly its `length_bytes` of payload follow: the caller takes them from
    /// the input or the socket, and never shows them to [`Session::poll`].
    Request(Request),
    /// The session has ended well: answer what is in flight, send the output, then close.
    Disconnect,
}

/// A name that a client wants to see or use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open<'a> {
    /// As the client wrote it, at most [`STRING_BYTES_MAX`](crate::STRING_BYTES_MAX), without NUL;
    /// empty for the default export.
    pub name: &'a str,
    /// What for.
    pub purpose: Purpose,
}

/// Why a client asks for an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To be told about it; it may ask for another one afterwards.
    Look,
    /// To be served: after [`Session::opened`] its requests come.
    Serve,
}

/// An export as the client shall see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportInfo<'a> {
    /// Length; requests past it are refused here. Stays for the whole session.
    pub size_bytes: u64,
    /// Writes, trims and zeroes are refused here.
    pub read_only: bool,
    /// What one connection flushed, all others of that name see.
    pub multi_conn: bool,
    /// The fixed name of what was opened.
    pub name: &'a str,
    /// For people; left out when empty.
    pub description: &'a str,
}

/// Why an export is not opened, or none are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is none of that name, or none that this client may know of.
    Unknown,
    /// The client may know of it and not have it.
    Denied,
    /// Only over TLS.
    TlsRequired,
    /// The server stops.
    Stopping,
}

/// A request, and the right to answer it.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// What to do.
    pub command: Command,
    /// Answers it.
    pub reply: ReplyTo,
}

/// What a client may ask of an export. Lies within it and is never empty (the session answers what is
/// empty or outside), writes come for writable exports only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Answered by [`ReplyTo::data_header`].
    Read {
        /// First byte.
        offset_bytes: u64,
        /// How many, at most [`PAYLOAD_BYTES_MAX`](crate::PAYLOAD_BYTES_MAX).
        length_bytes: u32,
    },
    /// New contents, which follow.
    Write {
        /// First byte.
        offset_bytes: u64,
        /// How many, at most [`PAYLOAD_BYTES_MAX`](crate::PAYLOAD_BYTES_MAX).
        length_bytes: u32,
        /// Durable before the answer.
        fua: bool,
    },
    /// All writes answered before it become durable.
    Flush,
    /// Contents may go.
    Trim {
        /// First byte.
        offset_bytes: u64,
        /// How many.
        length_bytes: u64,
        /// Durable before the answer.
        fua: bool,
    },
    /// Contents must read as zero. Clients are told that it is always quicker than writing zeroes.
    WriteZeroes {
        /// First byte.
        offset_bytes: u64,
        /// How many.
        length_bytes: u64,
        /// The room must stay reserved.
        no_hole: bool,
        /// Durable before the answer.
        fua: bool,
    },
    /// A read of this is likely to come: a hint, which may be answered at once.
    Cache {
        /// First byte.
        offset_bytes: u64,
        /// How many.
        length_bytes: u64,
    },
    /// What lies where, from `offset_bytes` on: answered by [`ReplyTo::block_status`].
    BlockStatus {
        /// First byte.
        offset_bytes: u64,
        /// How many; the answer may stop short.
        length_bytes: u64,
        /// More extents than this are of no use.
        extents_max: usize,
    },
}

/// The parts of a connection's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Options are exchanged.
    Handshake,
    /// An export is served.
    Transmission,
    /// Nothing more will be read.
    Over,
}

/// The client broke the framing or a limit: nothing after this can be trusted, so the connection ends.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Violation {
    /// The answer to the greeting has bits that we did not offer.
    #[error("client flags {0:#x} were not offered")]
    ClientFlags(u32),
    /// No option where one should begin.
    #[error("option begins with {0:#018x}")]
    OptionMagic(u64),
    /// More data than an option may have.
    #[error("option {option} has {length_bytes} bytes of data")]
    OptionTooLong {
        /// Its number.
        option: u32,
        /// As it says.
        length_bytes: u32,
    },
    /// The handshake never comes to an end.
    #[error("handshake does not end after {options} options")]
    HandshakeTooLong {
        /// How many there were.
        options: u32,
    },
    /// `EXPORT_NAME` with what is no name; it has no error reply.
    #[error("export name is not a name")]
    ExportName,
    /// No request where one should begin.
    #[error("request begins with {0:#010x}")]
    RequestMagic(u32),
    /// A refused payload that is too long to be read and dropped.
    #[error("command {command} has a payload of {length_bytes} bytes")]
    PayloadTooLong {
        /// Its number.
        command: u16,
        /// As it says.
        length_bytes: u64,
    },
}
