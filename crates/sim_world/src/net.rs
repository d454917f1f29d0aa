//! Streams in memory: clients of the test's own at one end, a [`crate::SimRing`] at the other.
//!
//! Bytes arrive in order and in cuts of random length; a window bounds what lies on the way. A
//! stream can be cut off for a while ([`SimStream::set_partitioned`]), reset, or ended.
//! Nothing here blocks: a client asks again after the server's next turn.

use crate::rng::{Rng, Seed};
use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use world::{
    Listener, Socket,
    ring::{ListenerHandle, Peer, SocketHandle},
};

/// Bytes on the way in one direction, at most.
const WINDOW_BYTES: usize = 256 << 10;

/// A network of one machine; clones are the same one.
#[derive(Clone, Debug)]
pub struct SimNet(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    rng: Rng,
    next_handle: i32,
    listeners: BTreeMap<i32, VecDeque<i32>>,
    ends: BTreeMap<i32, End>,
}

/// One end of a stream.
#[derive(Debug)]
struct End {
    other: i32,
    inbox: VecDeque<u8>,
    /// The other end sends no more.
    ended: bool,
    life: Life,
    partitioned: bool,
    peer: Peer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Open,
    /// This end was shut down or dropped.
    Closed,
    Reset,
}

/// What a client found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// So many bytes were appended.
    Bytes(usize),
    /// Nothing yet.
    Nothing,
    /// The server has ended.
    Ended,
}

impl SimNet {
    /// A network whose cuts follow from the seed.
    pub fn new(seed: Seed) -> Self {
        Self(Arc::new(Mutex::new(State {
            rng: seed.rng("net"),
            next_handle: 1 << 20,
            listeners: BTreeMap::new(),
            ends: BTreeMap::new(),
        })))
    }

    /// A place where clients knock.
    pub fn listener(&self) -> Listener {
        let mut state = self.lock();
        let handle = state.take_handle();
        state.listeners.insert(handle, VecDeque::new());
        Listener(Arc::new(SimListener { net: self.clone(), handle }))
    }

    /// Knocks, as a process of user 1000. Sending may begin at once.
    pub fn connect(&self, listener: &Listener) -> io::Result<SimStream> {
        self.connect_as(listener, Peer::Process { uid: 1000, gid: 1000, pid: 4242 })
    }

    /// Knocks; the server sees `peer` at the other end.
    pub fn connect_as(&self, listener: &Listener, peer: Peer) -> io::Result<SimStream> {
        let mut state = self.lock();
        if !state.listeners.contains_key(&listener.0.handle()) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (client, server) = (state.take_handle(), state.take_handle());
        state.ends.insert(client, End::new(server, Peer::Unknown));
        state.ends.insert(server, End::new(client, peer));
        state.listeners.entry(listener.0.handle()).or_default().push_back(server);
        Ok(SimStream { net: self.clone(), handle: client })
    }

    // For the ring.

    pub(crate) fn can_accept(&self, listener: i32) -> bool {
        self.lock().listeners.get(&listener).is_some_and(|waiting| !waiting.is_empty())
    }

    pub(crate) fn accept(&self, listener: i32) -> Option<Socket> {
        let handle = self.lock().listeners.get_mut(&listener)?.pop_front()?;
        Some(Socket(Arc::new(SimSocket { net: self.clone(), handle })))
    }

    pub(crate) fn can_receive(&self, socket: i32) -> bool {
        let state = self.lock();
        let end = state.end(socket);
        end.life != Life::Open || (!end.partitioned && (end.ended || !end.inbox.is_empty()))
    }

    pub(crate) fn can_send(&self, socket: i32) -> bool {
        let state = self.lock();
        let end = state.end(socket);
        end.life != Life::Open
            || state.ends.get(&end.other).is_none_or(|other| other.inbox.len() < WINDOW_BYTES)
    }

    /// Takes some of what is there, at least one byte; 0 at the end of the stream.
    pub(crate) fn receive(&self, socket: i32, into: &mut [u8]) -> io::Result<usize> {
        let mut state = self.lock();
        let State { rng, ends, .. } = &mut *state;
        let end = ends.get_mut(&socket).expect("a socket of this network");
        if end.life == Life::Reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if end.life == Life::Closed {
            return Ok(0);
        }
        let most = end.inbox.len().min(into.len());
        let taken = cut(most, rng);
        for (to, byte) in into.iter_mut().zip(end.inbox.drain(..taken)) {
            *to = byte;
        }
        Ok(taken)
    }

    /// Sends some of it, at least one byte.
    pub(crate) fn send(&self, socket: i32, parts: &[&[u8]]) -> io::Result<usize> {
        let mut state = self.lock();
        let State { rng, ends, .. } = &mut *state;
        let end = &ends[&socket];
        if end.life == Life::Reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let (open, other) = (end.life == Life::Open, end.other);
        let Some(other) = ends.get_mut(&other).filter(|other| open && other.life == Life::Open)
        else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let sent = cut(length.min(WINDOW_BYTES.saturating_sub(other.inbox.len())), rng);
        other.inbox.extend(parts.iter().flat_map(|part| part.iter()).take(sent));
        Ok(sent)
    }

    /// Ends what this end sends, and takes no more.
    fn shut_down(&self, handle: i32) {
        let mut state = self.lock();
        let Some(end) = state.ends.get_mut(&handle) else { return };
        if end.life == Life::Open {
            end.life = Life::Closed;
        }
        end.inbox.clear();
        let other = end.other;
        if let Some(other) = state.ends.get_mut(&other) {
            other.ended = true;
        }
    }

    fn forget(&self, handle: i32) {
        self.shut_down(handle);
        let mut state = self.lock();
        if let Some(end) = state.ends.remove(&handle) {
            for waiting in state.listeners.values_mut() {
                waiting.retain(|server| *server != handle);
            }
            debug_assert!(end.life != Life::Open, "shut down above");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take_handle(&mut self) -> i32 {
        self.next_handle += 1;
        self.next_handle
    }

    fn end(&self, handle: i32) -> &End {
        self.ends.get(&handle).expect("a socket of this network")
    }
}

impl End {
    fn new(other: i32, peer: Peer) -> Self {
        let inbox = VecDeque::new();
        Self { other, inbox, ended: false, life: Life::Open, partitioned: false, peer }
    }
}

/// Some of `most`: often all, often little, at least one.
fn cut(most: usize, rng: &mut Rng) -> usize {
    match (most, rng.below(4)) {
        (0, _) => 0,
        (_, 0) => 1 + rng.index(most.min(64)),
        (_, 1) => 1 + rng.index(most),
        _ => most,
    }
}

/// A client's end of a stream; ends when dropped.
#[derive(Debug)]
pub struct SimStream {
    net: SimNet,
    handle: i32,
}

impl SimStream {
    /// Sends what the window takes and says how much that was (0 = full, ask again later).
    pub fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() || !self.net.can_send(self.handle) {
            return Ok(0);
        }
        self.net.send(self.handle, &[bytes])
    }

    /// Appends some of what has arrived.
    pub fn receive(&self, into: &mut Vec<u8>) -> io::Result<Received> {
        if !self.net.can_receive(self.handle) {
            return Ok(Received::Nothing);
        }
        let start = into.len();
        into.resize(start + WINDOW_BYTES, 0);
        let received = self.net.receive(self.handle, &mut into[start..]);
        into.truncate(start + received.as_ref().map_or(0, |taken| *taken));
        match received? {
            0 => Ok(Received::Ended),
            taken => Ok(Received::Bytes(taken)),
        }
    }

    /// Ends the stream; the server still gets what was sent.
    pub fn shut_down(&self) {
        self.net.shut_down(self.handle);
    }

    /// Ends the stream hard: what is on the way is lost, both ends get an error.
    pub fn reset(&self) {
        let mut state = self.net.lock();
        let other = state.end(self.handle).other;
        for handle in [self.handle, other] {
            if let Some(end) = state.ends.get_mut(&handle) {
                end.life = Life::Reset;
                end.inbox.clear();
            }
        }
    }

    /// Holds everything on the way, in both directions, until it is healed.
    pub fn set_partitioned(&self, partitioned: bool) {
        let mut state = self.net.lock();
        let other = state.end(self.handle).other;
        for handle in [self.handle, other] {
            if let Some(end) = state.ends.get_mut(&handle) {
                end.partitioned = partitioned;
            }
        }
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        self.net.forget(self.handle);
    }
}

#[derive(Debug)]
struct SimSocket {
    net: SimNet,
    handle: i32,
}

impl SocketHandle for SimSocket {
    fn handle(&self) -> i32 {
        self.handle
    }

    fn shut_down(&self) {
        self.net.shut_down(self.handle);
    }

    fn peer(&self) -> Peer {
        self.net.lock().end(self.handle).peer.clone()
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        self.net.forget(self.handle);
    }
}

#[derive(Debug)]
struct SimListener {
    net: SimNet,
    handle: i32,
}

impl ListenerHandle for SimListener {
    fn handle(&self) -> i32 {
        self.handle
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        let mut state = self.net.lock();
        for server in state.listeners.remove(&self.handle).unwrap_or_default() {
            // Nobody will take it: the client sees the end.
            if let Some(end) = state.ends.remove(&server)
                && let Some(client) = state.ends.get_mut(&end.other)
            {
                client.ended = true;
            }
        }
    }
}
