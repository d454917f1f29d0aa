//! One NBD connection: its session, what it has received, what it still has to send.
//!
//! Small payloads are handed to the store where they lie in the receive buffer; long ones are received
//! straight into pages. A connection reads no further while it holds too much unanswered.

use block_device::{BlockError, Command, Payload};
use nbd::{Errno, Event, ExportInfo, Refusal, ReplyTo, Session};
use std::collections::VecDeque;
use units::{BranchId, ClientId, Sequence, VolumeId};
use volume::ViewId;
use world::{Bytes, Page, Pool, Socket, ring::Peer};

/// Bytes of a receive buffer: an option of the handshake, or many small writes.
pub(crate) const INPUT_BYTES: usize = 256 << 10;
/// Payloads of more than this are received into pages of their own.
const BORROWED_MAX: usize = 96 << 10;
/// Requests of one connection that may be unanswered.
const REQUESTS_MAX: usize = 256;
/// Bytes of unanswered requests and unsent answers at which a connection reads no further.
const HELD_BYTES_MAX: usize = 8 << 20;

/// What a name led to.
#[derive(Clone, Debug)]
pub struct Export {
    /// Of this volume.
    pub volume: VolumeId,
    /// This line of its history.
    pub branch: BranchId,
    /// At this instant; `None`: as it goes on.
    pub at: Option<Sequence>,
    /// Takes no writes, whoever asks.
    pub read_only: bool,
    /// Several connections by this name see the same.
    pub fixed: bool,
    /// Its name in full.
    pub name: String,
    /// For people.
    pub description: String,
}

/// Who knows what names mean and who may do what. Called on worker threads; may block.
pub trait Exports: Send + Sync {
    /// Names and descriptions of what the peer may open.
    fn list(&self, peer: &Peer) -> Vec<(String, String)>;
    /// What the name means to the peer.
    fn open(&self, peer: &Peer, name: &str) -> Result<Export, (Refusal, String)>;
    /// The peer is about to write for the first time: durable before its first answer.
    fn attach(&self, peer: &Peer, export: &Export) -> Result<ClientId, BlockError>;
    /// The peer ended cleanly, or (`lost`) its link broke.
    fn detach(&self, peer: &Peer, export: &Export, client: ClientId, lost: bool);
}

/// What `session ls` shows.
#[derive(Clone, Debug)]
pub struct SessionInfo {
    /// Its number.
    pub id: u64,
    /// Who.
    pub peer: Peer,
    /// What it has open.
    pub export: Option<Export>,
    /// Boot time of its beginning.
    pub since_boot_ns: u64,
    /// Requests it sent.
    pub requests: u64,
    /// Whether it has written, or is about to.
    pub attached: bool,
    /// Bytes that were read well.
    pub bytes_read: u64,
    /// Bytes that were written well.
    pub bytes_written: u64,
}

/// What it has open.
pub(crate) struct Open {
    pub view: ViewId,
    pub export: Export,
    pub attach: Attach,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attach {
    No,
    Asked,
    Yes(ClientId),
    Refused(BlockError),
}

/// Where bytes are to be received.
pub(crate) struct Wanted {
    pub page: Page,
    pub from: usize,
    pub length_bytes: usize,
    /// Nothing can be done with a part of them.
    pub whole: bool,
}

/// A write whose payload is still coming.
struct Incoming {
    offset_bytes: u64,
    length_bytes: usize,
    fua: bool,
    reply: ReplyTo,
    pages: Vec<Page>,
    have: usize,
}

/// What the server has to do for a connection.
pub(crate) enum Need {
    /// Find out what the name means; `serve` unless it is only looked at.
    Name { name: String, serve: bool },
    /// Find out what there is.
    List,
    /// Make the attachment durable.
    Attach,
}

#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own about the socket")]
pub(crate) struct Connection {
    pub socket: Socket,
    pub peer: Peer,
    pub open: Option<Open>,
    pub since_boot_ns: u64,
    pub requests: u64,
    pub bytes_read: u64,
    pub bytes_written: u64,
    /// Requests handed to the store, and their bytes.
    pub unanswered: usize,
    pub unanswered_bytes: usize,
    pub receiving: bool,
    pub sending: bool,
    /// Nothing more is read; it goes when all is answered and sent.
    pub ending: bool,
    /// It ended as the protocol says.
    pub clean: bool,
    /// The socket is gone.
    pub broken: bool,
    session: Session,
    input: Option<Page>,
    start: usize,
    end: usize,
    incoming: Option<Incoming>,
    held: Option<(nbd::Command, ReplyTo)>,
    waiting_for_pages: bool,
    /// The session waits for an answer of ours to its handshake.
    asking: bool,
    out: Vec<u8>,
    queue: VecDeque<Bytes>,
    queued_bytes: usize,
}

/// What a step of [`Connection::next`] gave.
pub(crate) enum Step<'a> {
    /// Nothing to do before more comes in, or answers go out.
    Rest,
    /// Something was answered at once: ask again.
    Handled,
    /// The server's turn.
    Need(Need),
    /// A request for the store.
    Request { command: Command<'a>, reply: ReplyTo, bytes: usize },
}

impl Connection {
    pub(crate) fn new(socket: Socket, input: Page, since_boot_ns: u64) -> Self {
        let peer = socket.0.peer();
        let mut out = Vec::new();
        let session = Session::start(&mut out);
        Self {
            socket,
            peer,
            open: None,
            since_boot_ns,
            requests: 0,
            bytes_read: 0,
            bytes_written: 0,
            unanswered: 0,
            unanswered_bytes: 0,
            receiving: false,
            sending: false,
            ending: false,
            clean: false,
            broken: false,
            session,
            input: Some(input),
            start: 0,
            end: 0,
            incoming: None,
            held: None,
            waiting_for_pages: false,
            asking: false,
            out,
            queue: VecDeque::new(),
            queued_bytes: 0,
        }
    }

    /// Whether the handshake is still going on.
    pub(crate) fn is_shaking_hands(&self) -> bool {
        self.session.phase() == nbd::Phase::Handshake
    }

    /// Where the next bytes are to be received, if any are wanted.
    pub(crate) fn wants(&mut self) -> Option<Wanted> {
        let asked = self.open.as_ref().is_some_and(|open| open.attach == Attach::Asked);
        let waits = asked || self.asking;
        if self.receiving || self.ending || self.broken || waits || self.is_full() {
            return None;
        }
        if let Some(incoming) = &mut self.incoming {
            let at = incoming.have;
            let page_bytes = world::memory::HUGE_BYTES;
            let index = at / page_bytes;
            if index >= incoming.pages.len() {
                return None;
            }
            let page = incoming.pages.remove(index);
            let from = at % page_bytes;
            let length_bytes = page.len() - from;
            return Some(Wanted { page, from, length_bytes, whole: true });
        }
        let mut input = self.input.take()?;
        if self.start > 0 {
            input.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let (from, length) = (self.end, input.len() - self.end);
        if length == 0 {
            self.input = Some(input);
            return None;
        }
        Some(Wanted { page: input, from, length_bytes: length, whole: false })
    }

    /// Bytes have come in (0: the peer has ended).
    pub(crate) fn received(&mut self, page: Page, bytes: usize) {
        self.receiving = false;
        if bytes == 0 {
            // Before a stop of ours it is the peer who has gone; after one its answers still go out.
            self.broken |= !self.ending;
            self.ending = true;
        }
        if self.broken {
            self.break_off();
        }
        match &mut self.incoming {
            Some(incoming) if self.input.is_some() => {
                let index = incoming.have / world::memory::HUGE_BYTES;
                incoming.pages.insert(index, page);
                incoming.have += bytes;
            }
            _ => {
                self.input = Some(page);
                self.end += bytes;
            }
        }
    }

    /// The next thing to do with what has come in.
    pub(crate) fn next<'a>(&'a mut self, pool: &Pool) -> Step<'a> {
        if self.broken {
            return Step::Rest;
        }
        if self.incoming.is_some() {
            return self.next_incoming(pool);
        }
        if self.held.is_some() {
            return self.next_held(pool);
        }
        loop {
            if self.receiving || self.ending || self.is_full() {
                return Step::Rest;
            }
            let Some(input) = &self.input else { return Step::Rest };
            let (consumed, event) =
                match self.session.poll(&input[self.start..self.end], &mut self.out) {
                    Ok(polled) => polled,
                    Err(_violation) => {
                        self.ending = true;
                        return Step::Rest;
                    }
                };
            match event {
                Event::NeedMore { .. } | Event::Waiting => {
                    self.start += consumed;
                    return Step::Rest;
                }
                Event::Handled => self.start += consumed,
                Event::Open(open) => {
                    let serve = open.purpose == nbd::Purpose::Serve;
                    let name = open.name.to_owned();
                    self.start += consumed;
                    self.asking = true;
                    return Step::Need(Need::Name { name, serve });
                }
                Event::List => {
                    self.start += consumed;
                    self.asking = true;
                    return Step::Need(Need::List);
                }
                Event::Disconnect => {
                    self.start += consumed;
                    self.ending = true;
                    self.clean = true;
                    return Step::Rest;
                }
                Event::Request(request) => {
                    self.start += consumed;
                    self.requests += 1;
                    self.held = Some((request.command, request.reply));
                    return self.next_held(pool);
                }
            }
        }
    }

    /// A request whose header has come, as far as it may go on.
    fn next_held<'a>(&'a mut self, pool: &Pool) -> Step<'a> {
        let Some((command, reply)) = self.held.take() else { return Step::Rest };
        let writes = matches!(
            command,
            nbd::Command::Write { .. }
                | nbd::Command::Trim { .. }
                | nbd::Command::WriteZeroes { .. }
        );
        if writes {
            match self.open.as_mut().map(|open| (&mut open.attach, open.export.at)) {
                Some((attach, None)) if *attach == Attach::No => {
                    *attach = Attach::Asked;
                    self.held = Some((command, reply));
                    return Step::Need(Need::Attach);
                }
                Some((Attach::Asked, None)) => {
                    self.held = Some((command, reply));
                    return Step::Rest;
                }
                _ => {}
            }
        }
        match command {
            nbd::Command::Write { offset_bytes, length_bytes, fua } => {
                let length = length_bytes as usize;
                if length <= BORROWED_MAX {
                    return self.next_borrowed(command, reply, offset_bytes, length, fua);
                }
                self.incoming = Some(Incoming {
                    offset_bytes,
                    length_bytes: length,
                    fua,
                    reply,
                    pages: Vec::new(),
                    have: 0,
                });
                self.next_incoming(pool)
            }
            nbd::Command::Read { offset_bytes, length_bytes } => {
                let length_bytes = u64::from(length_bytes);
                let bytes = usize::try_from(length_bytes).unwrap_or(usize::MAX);
                let command = Command::Read { offset_bytes, length_bytes };
                Step::Request { command, reply, bytes }
            }
            nbd::Command::Flush => Step::Request { command: Command::Flush, reply, bytes: 0 },
            nbd::Command::Trim { offset_bytes, length_bytes, fua } => {
                let command = Command::Trim { offset_bytes, length_bytes, fua };
                Step::Request { command, reply, bytes: 0 }
            }
            nbd::Command::WriteZeroes { offset_bytes, length_bytes, no_hole, fua } => {
                let command = Command::WriteZeroes { offset_bytes, length_bytes, no_hole, fua };
                Step::Request { command, reply, bytes: 0 }
            }
            nbd::Command::Cache { .. } => {
                reply.done(&mut self.out);
                Step::Handled
            }
            nbd::Command::BlockStatus { offset_bytes, length_bytes, extents_max } => {
                let command =
                    Command::Extents { offset_bytes, length_bytes, count_max: extents_max };
                Step::Request { command, reply, bytes: 0 }
            }
        }
    }

    /// A write whose payload is handed over where it lies, once it is all there.
    fn next_borrowed(
        &mut self,
        command: nbd::Command,
        reply: ReplyTo,
        offset_bytes: u64,
        length: usize,
        fua: bool,
    ) -> Step<'_> {
        if self.end - self.start < length {
            self.held = Some((command, reply));
            return Step::Rest;
        }
        let at = self.start;
        self.start += length;
        let Some(input) = &self.input else { return Step::Rest };
        let data = Payload::Borrowed(&input[at..at + length]);
        Step::Request { command: Command::Write { offset_bytes, data, fua }, reply, bytes: length }
    }

    /// A write whose payload comes into pages.
    fn next_incoming<'a>(&'a mut self, pool: &Pool) -> Step<'a> {
        let page_bytes = world::memory::HUGE_BYTES;
        let Some(incoming) = &mut self.incoming else { return Step::Rest };
        if self.receiving {
            return Step::Rest; // a page is with the ring
        }
        if incoming.pages.is_empty() {
            // All pages at once or none: two that hold half of what they need wait for ever.
            let mut left = incoming.length_bytes;
            while left > 0 {
                let Some(page) = pool.take(left.min(page_bytes)) else {
                    incoming.pages.clear();
                    self.waiting_for_pages = true;
                    return Step::Rest;
                };
                left -= page.len();
                incoming.pages.push(page);
            }
        }
        self.waiting_for_pages = false;
        if let Some(input) = &self.input {
            while self.start < self.end && incoming.have < incoming.length_bytes {
                let (index, from) = (incoming.have / page_bytes, incoming.have % page_bytes);
                let page = &mut incoming.pages[index];
                let bytes = (page.len() - from).min(self.end - self.start);
                page[from..from + bytes].copy_from_slice(&input[self.start..self.start + bytes]);
                self.start += bytes;
                incoming.have += bytes;
            }
        }
        if incoming.have < incoming.length_bytes {
            return Step::Rest;
        }
        let Some(incoming) = self.incoming.take() else { return Step::Rest };
        let (offset_bytes, length_bytes) = (incoming.offset_bytes, incoming.length_bytes);
        let data = Payload::Pages { pages: incoming.pages, length_bytes };
        let command = Command::Write { offset_bytes, data, fua: incoming.fua };
        Step::Request { command, reply: incoming.reply, bytes: length_bytes }
    }

    /// Whether it waits for memory.
    pub(crate) fn waits_for_pages(&self) -> bool {
        self.waiting_for_pages
    }

    /// Answers the question what a name means.
    pub(crate) fn opened(&mut self, info: &ExportInfo<'_>) {
        self.asking = false;
        self.session.opened(info, &mut self.out);
    }

    pub(crate) fn refused(&mut self, refusal: Refusal, message: &str) {
        self.asking = false;
        self.session.refused(refusal, message, &mut self.out);
    }

    pub(crate) fn listed(&mut self, names: &[(String, String)]) {
        let names = names.iter().map(|(name, text)| (name.as_str(), text.as_str()));
        self.asking = false;
        self.session.listed(names, &mut self.out);
    }

    /// Answers a request.
    pub(crate) fn answer(
        &mut self,
        reply: ReplyTo,
        result: Result<block_device::Answer, BlockError>,
    ) {
        use block_device::Answer;
        if self.broken {
            return; // nobody hears it
        }
        match result {
            Err(error) => reply.error(errno(error), &error.to_string(), &mut self.out),
            Ok(Answer::Data(parts)) => {
                reply.data_header(&mut self.out);
                self.flush_out();
                for part in parts {
                    self.queued_bytes += part.len();
                    self.queue.push_back(part);
                }
            }
            Ok(Answer::Extents(extents)) => {
                let extents = extents.into_iter().map(|extent| nbd::StatusExtent {
                    length_bytes: extent.length_bytes,
                    hole: extent.hole,
                });
                reply.block_status(extents, &mut self.out);
            }
            Ok(Answer::Written(_) | Answer::Flushed) => reply.done(&mut self.out),
        }
    }

    /// What is to be sent now, if nothing is on its way.
    pub(crate) fn next_send(&mut self) -> Option<Vec<Bytes>> {
        if self.sending || self.broken {
            return None;
        }
        self.flush_out();
        if self.queue.is_empty() {
            return None;
        }
        let count = self.queue.len().min(world::ring::MAX_PARTS);
        Some(self.queue.iter().take(count).cloned().collect())
    }

    /// So many bytes of it have gone.
    pub(crate) fn sent(&mut self, mut bytes: usize) {
        self.sending = false;
        self.queued_bytes -= bytes.min(self.queued_bytes);
        while bytes > 0
            && let Some(front) = self.queue.front_mut()
        {
            if bytes < front.len() {
                *front = front.slice(bytes..front.len());
                return;
            }
            bytes -= front.len();
            self.queue.pop_front();
        }
    }

    /// Gives the connection up: nothing more is taken or sent, and what it held is free.
    pub(crate) fn break_off(&mut self) {
        self.broken = true;
        self.ending = true;
        self.held = None;
        self.waiting_for_pages = false;
        self.queue.clear();
        self.queued_bytes = 0;
        self.out.clear();
        self.socket.0.shut_down();
    }

    /// Whether nothing is on its way any more.
    pub(crate) fn is_over(&self) -> bool {
        let done = self.unanswered == 0 && !self.sending && !self.receiving;
        self.ending && done && (self.broken || self.queue.is_empty() && self.out.is_empty())
    }

    fn is_full(&self) -> bool {
        self.unanswered >= REQUESTS_MAX
            || self.unanswered_bytes + self.queued_bytes >= HELD_BYTES_MAX
    }

    fn flush_out(&mut self) {
        if !self.out.is_empty() {
            self.queued_bytes += self.out.len();
            self.queue.push_back(Bytes::from(std::mem::take(&mut self.out)));
        }
    }
}

/// The one table from what went wrong to what NBD says.
fn errno(error: BlockError) -> Errno {
    match error {
        BlockError::OutOfRange => Errno::Invalid,
        BlockError::ReadOnly | BlockError::Denied => Errno::NotPermitted,
        BlockError::NoSpace => Errno::NoSpace,
        BlockError::Io => Errno::Io,
        BlockError::TooLarge => Errno::TooLarge,
        BlockError::Stopping => Errno::Stopping,
    }
}
