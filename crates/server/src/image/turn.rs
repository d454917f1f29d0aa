//! The loop that joins sockets, sessions and the device.

use super::{ImageDevice, Readers};
use crate::{
    data::connection::{Attach, Connection, Export, INPUT_BYTES, Need, Open, Step, Wanted},
    serving::Ended,
};
use block_device::{BlockDevice as _, Completion, Ticket};
use nbd::{ExportInfo, Refusal, ReplyTo};
use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};
use units::{BranchId, ClientId, Sequence, VolumeId};
use volume::ViewId;
use world::{Clock, Done, Finished, Listener, Op, Ring, Socket, Token, Wait};

const RECEIVE: u64 = 1 << 60;
const SEND: u64 = 2 << 60;
const ACCEPT: u64 = 3 << 60;
const KIND: u64 = 7 << 60;

/// The longest a turn waits: deadlines are looked at that often.
const TICK_NS: u64 = 1_000_000_000;
/// A handshake that takes longer ends.
const HANDSHAKE_NS: u64 = 10_000_000_000;
/// After the wish to stop, what takes longer is not answered.
const STOP_NS: u64 = 10_000_000_000;
/// A signal that comes so soon after the first is the same wish.
const SAME_WISH_NS: u64 = 300_000_000;
/// Connections in all.
const CONNECTIONS_MAX: usize = 128;

pub(super) struct Loop {
    device: ImageDevice,
    /// For clients, and for people.
    name: (String, String),
    readers: Readers,
    clock: Arc<dyn Clock>,
    connections: BTreeMap<u64, Connection>,
    listeners: BTreeMap<u64, Listener>,
    /// Who waits for which answer.
    asked: HashMap<Ticket, (u64, ReplyTo, usize)>,
    next_id: u64,
    ops: Vec<(Token, Op)>,
    stirred: Vec<u64>,
    stopping_since: Option<u64>,
}

impl Loop {
    pub(super) fn new(
        device: ImageDevice,
        name: (String, String),
        readers: Readers,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            device,
            name,
            readers,
            clock,
            connections: BTreeMap::new(),
            listeners: BTreeMap::new(),
            asked: HashMap::new(),
            next_id: 0,
            ops: Vec::new(),
            stirred: Vec::new(),
            stopping_since: None,
        }
    }

    pub(super) fn listen(&mut self, listener: Listener) {
        let id = self.new_id();
        self.ops.push((Token(ACCEPT | id), Op::Accept { listener: listener.clone() }));
        self.listeners.insert(id, listener);
    }

    /// Serves until somebody wishes otherwise and all who asked are answered.
    pub(super) fn run(mut self, ring: &mut dyn Ring, wishes: &AtomicU32) -> io::Result<Ended> {
        let mut done: Vec<Done> = Vec::new();
        let mut completions: Vec<Completion> = Vec::new();
        loop {
            for done in done.drain(..) {
                self.done(done);
            }
            self.serve_stirred();
            self.device.take_completions(&mut completions);
            for completion in completions.drain(..) {
                self.complete(completion);
            }
            self.serve_stirred();
            for (token, op) in self.ops.drain(..) {
                ring.push(token, op);
            }
            if let Some(ended) = self.stopped(wishes.load(Ordering::SeqCst)) {
                return Ok(ended);
            }
            let wait = if self.stirred.is_empty() { Wait::Ns(TICK_NS) } else { Wait::No };
            ring.turn(wait, &mut done)?;
            self.look_at_deadlines();
        }
    }

    /// Begins to stop when that is wished; tells when it is over.
    fn stopped(&mut self, wishes: u32) -> Option<Ended> {
        if wishes == 0 {
            return None;
        }
        let now = self.clock.boot_ns();
        let Some(since) = self.stopping_since else {
            self.stopping_since = Some(now);
            self.stirred.extend(self.connections.keys());
            return self.connections.is_empty().then_some(Ended::Whole);
        };
        let took = now.saturating_sub(since);
        if self.connections.is_empty() {
            return Some(Ended::Whole);
        }
        (took > STOP_NS || wishes > 1 && took > SAME_WISH_NS).then_some(Ended::Impatient)
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn done(&mut self, done: Done) {
        let id = done.token.0 & !KIND;
        let bytes = match &done.result {
            Ok(Finished::Bytes(bytes)) => Some(*bytes),
            Ok(Finished::Socket(_)) | Err(_) => None,
        };
        if done.token.0 & KIND == ACCEPT {
            return self.accepted(id, done);
        }
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if done.token.0 & KIND == RECEIVE {
            if let Some(page) = done.page {
                connection.received(page, bytes.unwrap_or(0));
            }
        } else if let Some(bytes) = bytes {
            connection.sent(bytes);
        } else {
            connection.sending = false;
            connection.break_off();
        }
        self.stirred.push(id);
    }

    fn accepted(&mut self, id: u64, done: Done) {
        let Some(listener) = self.listeners.get(&id).cloned() else { return };
        if self.stopping_since.is_some() {
            self.listeners.remove(&id);
            return;
        }
        self.ops.push((Token(ACCEPT | id), Op::Accept { listener }));
        let Ok(Finished::Socket(socket)) = done.result else { return };
        self.welcome(socket);
    }

    fn welcome(&mut self, socket: Socket) {
        let input = self.device.pool().take(INPUT_BYTES);
        let Some(input) = input.filter(|_| self.connections.len() < CONNECTIONS_MAX) else {
            tracing::warn!("no room for another connection");
            socket.0.shut_down();
            return;
        };
        let id = self.new_id();
        self.connections.insert(id, Connection::new(socket, input, self.clock.boot_ns()));
        self.stirred.push(id);
    }

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
        if self.stopping_since.is_some() && !connection.ending {
            connection.ending = true;
            if connection.receiving {
                // Wakes the receive; what is answered still goes out.
                connection.socket.0.stop_receiving();
            }
        }
        loop {
            let Some(connection) = self.connections.get_mut(&id) else { return };
            match connection.next(self.device.pool()) {
                Step::Rest => break,
                Step::Handled => {}
                Step::Need(need) => {
                    need_of(connection, need, &self.name, self.readers, &self.device);
                }
                Step::Request { command, reply, bytes } => {
                    self.next_id += 1;
                    let ticket = Ticket(self.next_id);
                    self.device.submit(ticket, ClientId(0), command);
                    connection.unanswered += 1;
                    connection.unanswered_bytes += bytes;
                    self.asked.insert(ticket, (id, reply, bytes));
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
            connection.socket.0.shut_down();
        }
    }

    fn complete(&mut self, completion: Completion) {
        let Some((id, reply, bytes)) = self.asked.remove(&completion.ticket) else { return };
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.unanswered -= 1;
        connection.unanswered_bytes -= bytes;
        connection.answer(reply, completion.result);
        self.stirred.push(id);
    }

    fn look_at_deadlines(&mut self) {
        let now = self.clock.boot_ns();
        for (id, connection) in &mut self.connections {
            let late = now.saturating_sub(connection.since_boot_ns) > HANDSHAKE_NS;
            if late && !connection.ending && connection.is_shaking_hands() {
                connection.break_off();
                self.stirred.push(*id);
            }
        }
    }
}

/// Answers what the session asks at the handshake. There is one export.
fn need_of(
    connection: &mut Connection,
    need: Need,
    (own, description): &(String, String),
    readers: Readers,
    device: &ImageDevice,
) {
    if !readers.admit(&connection.peer) {
        return connection.refused(Refusal::Unknown, "there is nothing for you");
    }
    match need {
        Need::List => connection.listed(&[(own.clone(), description.clone())]),
        // Asked before the first write of what is writable only.
        Need::Attach => {}
        Need::Name { name, serve } => {
            if !name.is_empty() && name != *own {
                return connection.refused(Refusal::Unknown, "this serves one image only");
            }
            connection.opened(&ExportInfo {
                size_bytes: device.info().size_bytes,
                read_only: true,
                multi_conn: true,
                name: own,
                description,
            });
            if serve {
                let export = Export {
                    volume: VolumeId(0),
                    branch: BranchId(0),
                    at: Some(Sequence::ZERO),
                    read_only: true,
                    fixed: true,
                    name: own.clone(),
                    description: description.clone(),
                };
                connection.open = Some(Open { view: ViewId(0), export, attach: Attach::No });
            }
        }
    }
}
