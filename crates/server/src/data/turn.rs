//! The loop of the log thread: turn after turn until it is told to stop.

use super::{
    connection::{
        Attach, Connection, Export, Exports, INPUT_BYTES, Need, Open, SessionInfo, Step, Wanted,
    },
    hub::{Hub, Visit},
    stopping::{StopReason, Stopping},
    tally::{Asked, Counts, Kind, Tally},
    workers::Workers,
};
use block_device::{Answer, BlockError, Command, Completion};
use crossbeam_channel::{Receiver, Sender, unbounded};
use nbd::{ExportInfo, Refusal, ReplyTo};
use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::Arc,
    thread,
};
use units::{BranchId, ClientId, Lba, VolumeId};
use volume::{Job, Store, ViewId};
use world::{
    Clock, Done, Finished, Listener, Op, Pool, Ring, Socket, Token, Wait, memory::HUGE_BYTES,
};

/// Tokens of the sockets; the store's have these bits clear.
pub(super) const NET: u64 = 1 << 63;
const RECEIVE: u64 = NET | 1 << 60;
const SEND: u64 = NET | 2 << 60;
const ACCEPT: u64 = NET | 3 << 60;
const KIND: u64 = NET | 7 << 60;

/// The longest a turn waits: deadlines are looked at that often.
const TICK_NS: u64 = 1_000_000_000;
/// A handshake that takes longer ends.
const HANDSHAKE_NS: u64 = 10_000_000_000;
/// Connections in all.
const CONNECTIONS_MAX: usize = 1024;

/// What the log thread owns.
pub struct Core {
    /// The store.
    pub store: Store,
    pub(super) waiting: HashMap<u64, Sender<bool>>,
    pub(super) connections: BTreeMap<u64, Connection>,
    pub(super) listeners: BTreeMap<u64, Listener>,
    next_id: u64,
    pub(super) tickets: Tickets,
    exports: Option<Arc<dyn Exports>>,
    hub: Hub,
    pub(super) workers: Option<Workers>,
    pub(super) clock: Arc<dyn Clock>,
    pool: Pool,
    pub(super) ops: Vec<(Token, Op)>,
    pub(super) stopping: Option<Stopping>,
    /// The store was asked something after this turn's look at it.
    pub(super) asked: bool,
    /// Connections that something happened to since they were last looked at.
    pub(super) stirred: Vec<u64>,
    tally: Tally,
    /// Boot time of this turn.
    turn_ns: u64,
}

/// Requests under way by ticket.
#[derive(Default)]
pub(super) struct Tickets {
    slots: Vec<Option<Asker>>,
    free: Vec<usize>,
}

enum Asker {
    Client { connection: u64, reply: ReplyTo, bytes: usize, asked: Asked },
    Thread(Sender<Result<Answer, BlockError>>),
}

impl Tickets {
    fn add(&mut self, asker: Asker) -> u64 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(asker);
        slot as u64
    }

    fn take(&mut self, ticket: u64) -> Option<Asker> {
        let slot = usize::try_from(ticket).ok()?;
        let asker = self.slots.get_mut(slot)?.take()?;
        self.free.push(slot);
        Some(asker)
    }
}

/// A log thread that runs.
pub struct Running {
    /// The way to it.
    pub hub: Hub,
    thread: thread::JoinHandle<io::Result<StopReason>>,
}

impl Running {
    /// Waits for its end.
    pub fn join(self) -> io::Result<StopReason> {
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the log thread panicked")))
    }
}

/// Starts the log thread over a store. `open_ring` is called there: a ring belongs to one thread.
pub fn start(
    store: Store,
    clock: Arc<dyn Clock>,
    open_ring: impl FnOnce() -> io::Result<Box<dyn Ring>> + Send + 'static,
) -> io::Result<Running> {
    let (visits, inbox) = unbounded::<Visit>();
    let (ready, told) = crossbeam_channel::bounded(1);
    let body = move || {
        let mut ring = match open_ring() {
            Ok(ring) => ring,
            Err(error) => {
                let _ = ready.send(Err(error));
                return Ok(StopReason::Asked);
            }
        };
        let hub = Hub { visits, waker: ring.waker() };
        let workers = match Workers::start() {
            Ok(workers) => workers,
            Err(error) => {
                let _ = ready.send(Err(error));
                return Ok(StopReason::Asked);
            }
        };
        let _ = ready.send(Ok(hub.clone()));
        let mut core = Core::new(store, clock, hub, workers);
        core.run(&mut *ring, &inbox)
    };
    let thread = thread::Builder::new().name("strand-log".to_owned()).spawn(body)?;
    match told.recv() {
        Ok(Ok(hub)) => Ok(Running { hub, thread }),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::Error::other("the log thread did not start")),
    }
}

impl Core {
    fn new(store: Store, clock: Arc<dyn Clock>, hub: Hub, workers: Workers) -> Self {
        let pool = store.log().environment().pool.clone();
        Self {
            store,
            waiting: HashMap::new(),
            connections: BTreeMap::new(),
            listeners: BTreeMap::new(),
            next_id: 0,
            tickets: Tickets::default(),
            exports: None,
            hub,
            workers: Some(workers),
            clock,
            pool,
            ops: Vec::new(),
            stopping: None,
            asked: false,
            stirred: Vec::new(),
            tally: Tally::default(),
            turn_ns: 0,
        }
    }

    /// Who is asked what names mean; needed before the first listener.
    pub fn set_exports(&mut self, exports: Arc<dyn Exports>) {
        self.exports = Some(exports);
    }

    /// Serves NBD to who knocks there.
    pub fn listen(&mut self, listener: Listener) {
        self.next_id += 1;
        let id = self.next_id;
        self.ops.push((Token(ACCEPT | id), Op::Accept { listener: listener.clone() }));
        self.listeners.insert(id, listener);
    }

    /// The connections as they are.
    pub fn sessions(&self) -> Vec<SessionInfo> {
        let info = |(id, connection): (&u64, &Connection)| SessionInfo {
            id: *id,
            peer: connection.peer.clone(),
            export: connection.open.as_ref().map(|open| open.export.clone()),
            since_boot_ns: connection.since_boot_ns,
            requests: connection.requests,
            // Who is about to be attached counts: its first write waits for nothing else.
            attached: connection
                .open
                .as_ref()
                .is_some_and(|open| matches!(open.attach, Attach::Asked | Attach::Yes(_))),
            bytes_read: connection.bytes_read,
            bytes_written: connection.bytes_written,
        };
        self.connections.iter().map(info).collect()
    }

    /// What clients asked for since the start, by volume.
    pub fn counts(&self) -> Vec<(VolumeId, Counts)> {
        self.tally.counts()
    }

    /// Ends the connections that are meant; gives how many.
    pub fn kick(&mut self, meant: impl Fn(&SessionInfo) -> bool) -> usize {
        let ids: Vec<u64> =
            self.sessions().iter().filter(|info| meant(info)).map(|info| info.id).collect();
        for id in &ids {
            if let Some(connection) = self.connections.get_mut(id) {
                connection.break_off();
                self.stirred.push(*id);
            }
        }
        ids.len()
    }

    /// Hands in a request of a thread that waits for the answer.
    pub(super) fn submit_for(
        &mut self,
        view: ViewId,
        client: ClientId,
        command: Command<'_>,
        sender: Sender<Result<Answer, BlockError>>,
    ) {
        let ticket = self.tickets.add(Asker::Thread(sender));
        self.store.submit(view, ticket, client, command);
    }

    /// Hands in blocks of a foreign image; none any more once the end has begun.
    pub(super) fn fill_for(
        &mut self,
        base: BranchId,
        start: Lba,
        bytes: Vec<u8>,
        sender: Sender<Result<Answer, BlockError>>,
    ) {
        if self.stopping.is_some() {
            let _ = sender.send(Err(BlockError::Stopping)); // who asked may have gone
            return;
        }
        let ticket = self.tickets.add(Asker::Thread(sender));
        self.store.fill(base, ticket, ClientId(0), start, bytes);
    }

    fn run(&mut self, ring: &mut dyn Ring, inbox: &Receiver<Visit>) -> io::Result<StopReason> {
        let mut done: Vec<Done> = Vec::new();
        let mut completions: Vec<Completion> = Vec::new();
        let mut jobs: Vec<Job> = Vec::new();
        loop {
            while let Ok(visit) = inbox.try_recv() {
                visit(self);
            }
            for done in done.drain(..) {
                self.done(done);
            }
            let starved = self.connections.iter().filter(|(_, it)| it.waits_for_pages());
            self.stirred.extend(starved.map(|(id, _)| *id));
            self.serve_stirred();
            self.store.advance();
            self.store.take_completions(&mut completions);
            for completion in completions.drain(..) {
                self.complete(completion);
            }
            self.serve_stirred();
            for (id, ok) in self.store.take_changed() {
                self.changed(id, ok);
            }
            self.store.take_ops(&mut self.ops);
            for (token, op) in self.ops.drain(..) {
                ring.push(token, op);
            }
            self.store.take_jobs(&mut jobs);
            for job in jobs.drain(..) {
                if let Some(workers) = &self.workers {
                    workers.run(&self.hub, job);
                }
            }
            if let Some(reason) = self.stopped() {
                self.end(ring, inbox, &mut done)?;
                return Ok(reason);
            }
            let asked = std::mem::take(&mut self.asked);
            let busy =
                asked || self.store.has_more() || !self.stirred.is_empty() || !inbox.is_empty();
            let wait = if busy { Wait::No } else { Wait::Ns(TICK_NS) };
            ring.turn(wait, &mut done)?;
            self.look_at_deadlines();
        }
    }

    fn done(&mut self, done: Done) {
        let id = done.token.0 & !KIND;
        match done.token.0 & KIND {
            ACCEPT => self.accepted(id, done),
            RECEIVE => {
                let Some(connection) = self.connections.get_mut(&id) else { return };
                let bytes = match done.result {
                    Ok(Finished::Bytes(bytes)) => bytes,
                    Ok(Finished::Socket(_)) | Err(_) => 0,
                };
                if let Some(page) = done.page {
                    connection.received(page, bytes);
                }
                self.stirred.push(id);
            }
            SEND => {
                let Some(connection) = self.connections.get_mut(&id) else { return };
                match done.result {
                    Ok(Finished::Bytes(bytes)) => connection.sent(bytes),
                    Ok(Finished::Socket(_)) | Err(_) => {
                        connection.sending = false;
                        connection.break_off();
                    }
                }
                self.stirred.push(id);
            }
            _ => self.store.done(done),
        }
    }

    fn accepted(&mut self, id: u64, done: Done) {
        let Some(listener) = self.listeners.get(&id).cloned() else { return };
        if self.stopping.is_some() {
            self.listeners.remove(&id);
            return;
        }
        self.ops.push((Token(ACCEPT | id), Op::Accept { listener }));
        let Ok(Finished::Socket(socket)) = done.result else { return };
        self.welcome(socket);
    }

    fn welcome(&mut self, socket: Socket) {
        if self.connections.len() >= CONNECTIONS_MAX {
            socket.0.shut_down();
            return;
        }
        let Some(input) = self.pool.take(INPUT_BYTES.min(HUGE_BYTES)) else {
            tracing::warn!("no memory for another connection");
            socket.0.shut_down();
            return;
        };
        self.next_id += 1;
        let id = self.next_id;
        self.connections.insert(id, Connection::new(socket, input, self.clock.boot_ns()));
        self.stirred.push(id);
    }

    /// Goes on with every connection that something happened to.
    fn serve_stirred(&mut self) {
        let mut stirred = std::mem::take(&mut self.stirred);
        stirred.sort_unstable();
        stirred.dedup();
        for id in stirred {
            self.serve(id);
        }
    }

    fn serve(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if self.stopping.is_some() && !connection.ending {
            connection.ending = true;
            if connection.receiving {
                // Wakes the receive; what is answered still goes out.
                connection.socket.0.stop_receiving();
            }
        }
        loop {
            let Some(connection) = self.connections.get_mut(&id) else { return };
            let open = connection.open.as_ref();
            let target = open.map(|open| (open.view, open.attach, open.export.volume));
            match connection.next(&self.pool) {
                Step::Rest => break,
                Step::Handled => {}
                Step::Need(need) => self.need(id, need),
                Step::Request { command, reply, bytes } => {
                    let Some((view, attach, volume)) = target else { break };
                    let client = match attach {
                        Attach::Refused(error) if command.writes() => {
                            drop(command);
                            connection.answer(reply, Err(error));
                            continue;
                        }
                        Attach::Yes(client) => client,
                        Attach::No | Attach::Asked | Attach::Refused(_) => ClientId(0),
                    };
                    let asked = Asked::of(&command, volume, self.turn_ns);
                    let asker = Asker::Client { connection: id, reply, bytes, asked };
                    let ticket = self.tickets.add(asker);
                    self.store.submit(view, ticket, client, command);
                    connection.unanswered += 1;
                    connection.unanswered_bytes += bytes;
                }
            }
        }
        self.pump(id);
    }

    /// Starts what the connection's socket can do now; lets it go when it is over.
    fn pump(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if let Some(parts) = connection.next_send() {
            connection.sending = true;
            let socket = connection.socket.clone();
            self.ops.push((Token(SEND | id), Op::Send { socket, parts }));
        }
        if let Some(wanted) = connection.wants() {
            connection.receiving = true;
            let (socket, Wanted { page, from, length_bytes, whole }) =
                (connection.socket.clone(), wanted);
            let receive = Op::Receive { socket, page, from, length_bytes, whole };
            self.ops.push((Token(RECEIVE | id), receive));
        }
        if connection.is_over()
            && let Some(connection) = self.connections.remove(&id)
        {
            self.goodbye(connection);
        }
    }

    fn goodbye(&mut self, connection: Connection) {
        connection.socket.0.shut_down();
        let Some(open) = connection.open else { return };
        self.store.close_view(open.view);
        if let (Attach::Yes(client), Some(exports), Some(workers)) =
            (open.attach, self.exports.clone(), &self.workers)
        {
            let (peer, export, lost) = (connection.peer, open.export, !connection.clean);
            workers.ask(move || exports.detach(&peer, &export, client, lost));
        }
    }

    /// Asks what only others know.
    fn need(&mut self, id: u64, need: Need) {
        let (Some(connection), Some(exports), Some(workers)) =
            (self.connections.get(&id), self.exports.clone(), &self.workers)
        else {
            return;
        };
        let (hub, peer) = (self.hub.clone(), connection.peer.clone());
        match need {
            Need::List => workers.ask(move || {
                let names = exports.list(&peer);
                let _ = hub.send(Box::new(move |core| {
                    if let Some(connection) = core.connections.get_mut(&id) {
                        connection.listed(&names);
                        core.stirred.push(id);
                    }
                }));
            }),
            Need::Name { name, serve } => workers.ask(move || {
                let export = exports.open(&peer, &name);
                let _ = hub.send(Box::new(move |core| core.named(id, serve, export)));
            }),
            Need::Attach => {
                let Some(export) = connection.open.as_ref().map(|open| open.export.clone()) else {
                    return;
                };
                workers.ask(move || {
                    let result = exports.attach(&peer, &export);
                    let _ = hub.send(Box::new(move |core| core.attached(id, result)));
                });
            }
        }
    }

    fn named(&mut self, id: u64, serve: bool, export: Result<Export, (Refusal, String)>) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        self.stirred.push(id);
        let export = match export {
            Ok(export) => export,
            Err((refusal, message)) => return connection.refused(refusal, &message),
        };
        let Some(view) = self.store.open_view(export.branch, export.at) else {
            return connection.refused(Refusal::Unknown, "this instant is gone");
        };
        let Some(info) = self.store.info(view) else {
            return connection.refused(Refusal::Unknown, "this instant is gone");
        };
        connection.opened(&ExportInfo {
            size_bytes: info.size_bytes,
            read_only: info.read_only || export.read_only,
            multi_conn: export.fixed,
            name: &export.name,
            description: &export.description,
        });
        if serve {
            connection.open = Some(Open { view, export, attach: Attach::No });
        } else {
            self.store.close_view(view);
        }
    }

    fn attached(&mut self, id: u64, result: Result<ClientId, BlockError>) {
        let connection = self.connections.get_mut(&id);
        if let Some(open) = connection.and_then(|connection| connection.open.as_mut()) {
            open.attach = match result {
                Ok(client) => Attach::Yes(client),
                Err(error) => Attach::Refused(error),
            };
            self.stirred.push(id);
        }
    }

    fn complete(&mut self, completion: Completion) {
        match self.tickets.take(completion.ticket.0) {
            Some(Asker::Client { connection: id, reply, bytes, asked }) => {
                let well = completion.result.is_ok();
                self.tally.add(asked, self.turn_ns, well);
                let Some(connection) = self.connections.get_mut(&id) else { return };
                connection.unanswered -= 1;
                connection.unanswered_bytes -= bytes;
                match asked.kind {
                    Kind::Read if well => connection.bytes_read += asked.bytes,
                    Kind::Write if well => connection.bytes_written += asked.bytes,
                    _ => {}
                }
                connection.answer(reply, completion.result);
                self.stirred.push(id);
            }
            Some(Asker::Thread(sender)) => {
                let _ = sender.send(completion.result); // who asked may have gone
            }
            None => {}
        }
    }

    fn changed(&mut self, id: u64, ok: bool) {
        if let Some(sender) = self.waiting.remove(&id) {
            let _ = sender.send(ok); // who asked may have gone
        }
        self.stop_goes_on(id, ok);
    }

    fn look_at_deadlines(&mut self) {
        let now = self.clock.boot_ns();
        self.turn_ns = now;
        for (id, connection) in &mut self.connections {
            let late = now.saturating_sub(connection.since_boot_ns) > HANDSHAKE_NS;
            if late && !connection.ending && connection.is_shaking_hands() {
                connection.break_off();
                self.stirred.push(*id);
            }
        }
    }
}
