//! The ring where io_uring is missing or forbidden: epoll for sockets, a few threads for files.
//!
//! Sockets are tried at once and watched only if they would block (one shot each, both directions
//! in one entry). Per socket and direction operations are served in the order they were pushed.
//! Files never block the ring's thread: [`FILE_THREADS`] threads take operations from one queue and
//! leave the ends in another. Dropping the ring forgets what has not begun and waits for the rest.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    io::{self, IoSlice},
    mem::{self, MaybeUninit},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{Builder, JoinHandle},
};

use rustix::{
    event::{EventfdFlags, Timespec, epoll},
    io::Errno,
    net::{self, RecvFlags, SendAncillaryBuffer, SendFlags, SocketFlags},
};

use super::{
    socket::{RealSocket, borrow_handle, set_blocking},
    wake::WakeCall,
};
use crate::{Bytes, Done, Finished, Op, Ring, Token, Wait, Waker, ring::MAX_PARTS};

/// Files in work at once; the hot path has one or two writes in flight, reads profit from more.
const FILE_THREADS: usize = 4;

/// Sockets that one wait tells about.
const EVENTS: usize = 256;

/// A ring on epoll and threads.
pub struct ThreadRing {
    epoll: OwnedFd,
    wake: Arc<WakeCall>,
    /// Pushed, not yet tried.
    fresh: Vec<(Token, Op)>,
    watched: HashMap<i32, Watched>,
    files: Arc<Files>,
    threads: Vec<JoinHandle<()>>,
    in_flight: usize,
}

/// Operations that wait until a descriptor is ready.
#[derive(Default)]
struct Watched {
    inward: VecDeque<(Token, Op)>,
    outward: VecDeque<(Token, Op)>,
}

impl ThreadRing {
    /// Makes a ring and its threads.
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = WakeCall::new(EventfdFlags::NONBLOCK)?;
        let handle = wake.as_fd().as_raw_fd();
        let data = epoll::EventData::new_u64(u64::from(handle.unsigned_abs()));
        epoll::add(&epoll, &*wake, data, epoll::EventFlags::IN)?;
        let files = Arc::new(Files {
            state: Mutex::default(),
            work: Condvar::new(),
            wake: Arc::clone(&wake),
        });
        let mut ring = Self {
            epoll,
            wake,
            fresh: Vec::new(),
            watched: HashMap::new(),
            files,
            threads: Vec::new(),
            in_flight: 0,
        };
        for number in 0..FILE_THREADS {
            let files = Arc::clone(&ring.files);
            let builder = Builder::new().name(format!("disk-{number}"));
            ring.threads.push(builder.spawn(move || files.serve())?);
        }
        Ok(ring)
    }

    /// Begins what was pushed since the last turn.
    fn begin(&mut self, done: &mut Vec<Done>) {
        let mut to_files = Vec::new();
        for (token, op) in mem::take(&mut self.fresh) {
            let Some(handle) = op_socket(&op) else {
                to_files.push((token, op));
                continue;
            };
            let outward = matches!(op, Op::Send { .. });
            let earlier = self.watched.get_mut(&handle).map(|it| it.queue(outward));
            if let Some(queue) = earlier.filter(|queue| !queue.is_empty()) {
                queue.push_back((token, op));
                continue;
            }
            match attempt(token, op) {
                Ok(end) => done.push(end),
                Err(again) => {
                    self.watched.entry(handle).or_default().queue(outward).push_back(again);
                    self.watch(handle, done);
                }
            }
        }
        self.files.hand_over(to_files);
    }

    /// Serves a descriptor that is ready.
    fn ready(&mut self, handle: i32, done: &mut Vec<Done>) {
        if handle == self.wake.as_fd().as_raw_fd() {
            let _ = rustix::io::read(&*self.wake, &mut [0; 8]);
            self.wake.answer();
            self.files.collect(done);
            return;
        }
        let Some(watched) = self.watched.get_mut(&handle) else { return };
        for queue in [&mut watched.inward, &mut watched.outward] {
            while let Some((token, op)) = queue.pop_front() {
                match attempt(token, op) {
                    Ok(end) => done.push(end),
                    Err(again) => {
                        queue.push_front(again);
                        break;
                    }
                }
            }
        }
        self.watch(handle, done);
    }

    /// Asks to be told once when what waits at the descriptor can go on. Where epoll refuses, all
    /// that waits there ends with its error.
    fn watch(&mut self, handle: i32, done: &mut Vec<Done>) {
        let Some(watched) = self.watched.get(&handle) else { return };
        if watched.inward.is_empty() && watched.outward.is_empty() {
            self.watched.remove(&handle); // epoll keeps it silent: one shot
            return;
        }
        let mut flags = epoll::EventFlags::ONESHOT;
        flags.set(epoll::EventFlags::IN, !watched.inward.is_empty());
        flags.set(epoll::EventFlags::OUT, !watched.outward.is_empty());
        let fd = borrow_handle(watched, handle);
        let data = epoll::EventData::new_u64(u64::from(handle.unsigned_abs()));
        // Known to epoll if it waited before; a number used again is not.
        let result = match epoll::modify(&self.epoll, fd, data, flags) {
            Err(Errno::NOENT) => epoll::add(&self.epoll, fd, data, flags),
            other => other,
        };
        if let Err(error) = result {
            let watched = self.watched.remove(&handle).unwrap_or_default();
            let all = watched.inward.into_iter().chain(watched.outward);
            done.extend(all.map(|(token, op)| end(token, op, Err(error.into()))));
        }
    }
}

impl Watched {
    fn queue(&mut self, outward: bool) -> &mut VecDeque<(Token, Op)> {
        if outward { &mut self.outward } else { &mut self.inward }
    }
}

impl Ring for ThreadRing {
    fn push(&mut self, token: Token, op: Op) {
        match &op {
            Op::Accept { listener } => {
                // An error comes again as the accept's own.
                let _ = set_blocking(borrow_handle(listener, listener.0.handle()), false);
            }
            Op::Receive { page, from, length_bytes, .. } => {
                let room = page.len().saturating_sub(*from).min(*length_bytes);
                assert!(room > 0, "no room to receive: 0 bytes would mean the end");
            }
            Op::Read { page, length_bytes, .. } => {
                assert!(*length_bytes <= page.len(), "longer than the page");
            }
            Op::Write { parts, .. } | Op::Send { parts, .. } => {
                assert!(parts.len() <= MAX_PARTS, "more parts than the kernel takes");
            }
            Op::Sync { .. } => (),
        }
        self.in_flight += 1;
        self.fresh.push((token, op));
    }

    fn turn(&mut self, wait: Wait, done: &mut Vec<Done>) -> io::Result<()> {
        let before = done.len();
        self.begin(done);
        self.files.collect(done);
        let timeout = match wait {
            _ if done.len() > before => Some(0),
            Wait::No => Some(0),
            Wait::Forever => None,
            Wait::Ns(ns) => Some(ns),
        };
        let timeout = timeout.map(|ns| Timespec {
            tv_sec: i64::try_from(ns / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(ns % 1_000_000_000).unwrap_or(0),
        });
        let mut events = [MaybeUninit::uninit(); EVENTS];
        let result = match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
            Ok((events, _)) => {
                for event in events {
                    let data = event.data; // the descriptor: `event` is packed
                    self.ready(i32::try_from(data.u64()).expect("as we gave it"), done);
                }
                Ok(())
            }
            Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        };
        self.in_flight -= done.len() - before;
        result
    }

    fn waker(&self) -> Waker {
        self.wake.waker()
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }
}

impl Drop for ThreadRing {
    fn drop(&mut self) {
        let mut state = self.files.lock();
        state.queue.clear();
        state.closed = true;
        drop(state);
        self.files.work.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for ThreadRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ThreadRing({} in flight)", self.in_flight)
    }
}

/// The descriptor if it is one for epoll.
fn op_socket(op: &Op) -> Option<i32> {
    match op {
        Op::Accept { listener } => Some(listener.0.handle()),
        Op::Receive { socket, .. } | Op::Send { socket, .. } => Some(socket.0.handle()),
        Op::Read { .. } | Op::Write { .. } | Op::Sync { .. } => None,
    }
}

/// One try that does not wait; the operation comes back if it would have to.
fn attempt(token: Token, mut op: Op) -> Result<Done, (Token, Op)> {
    let result = loop {
        let result = match &mut op {
            Op::Accept { listener } => {
                let fd = borrow_handle(listener, listener.0.handle());
                net::accept_with(fd, SocketFlags::CLOEXEC)
                    .map(|fd| Finished::Socket(RealSocket::adopt(fd)))
            }
            Op::Receive { socket, page, from, length_bytes, whole: _ } => {
                let end = page.len().min(from.saturating_add(*length_bytes));
                let fd = borrow_handle(socket, socket.0.handle());
                net::recv(fd, &mut page[*from..end], RecvFlags::DONTWAIT)
                    .map(|(bytes, _)| Finished::Bytes(bytes))
            }
            Op::Send { socket, parts } => {
                let fd = borrow_handle(socket, socket.0.handle());
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                let parts = slices(parts);
                net::sendmsg(fd, &parts, &mut SendAncillaryBuffer::default(), flags)
                    .map(Finished::Bytes)
            }
            Op::Read { .. } | Op::Write { .. } | Op::Sync { .. } => {
                unreachable!("files go to the threads")
            }
        };
        if !matches!(result, Err(Errno::INTR)) {
            break result;
        }
    };
    if matches!(result, Err(Errno::AGAIN)) {
        return Err((token, op));
    }
    Ok(end(token, op, result.map_err(io::Error::from)))
}

fn slices(parts: &[Bytes]) -> Vec<IoSlice<'_>> {
    parts.iter().map(|part| IoSlice::new(part)).collect()
}

fn end(token: Token, op: Op, result: io::Result<Finished>) -> Done {
    let page = match op {
        Op::Read { page, .. } | Op::Receive { page, .. } => Some(page),
        Op::Write { .. } | Op::Sync { .. } | Op::Accept { .. } | Op::Send { .. } => None,
    };
    Done { token, result, page }
}

/// What the ring shares with its threads.
struct Files {
    state: Mutex<FilesState>,
    work: Condvar,
    wake: Arc<WakeCall>,
}

#[derive(Default)]
struct FilesState {
    queue: VecDeque<(Token, Op)>,
    done: Vec<Done>,
    closed: bool,
}

impl Files {
    fn lock(&self) -> MutexGuard<'_, FilesState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hand_over(&self, ops: Vec<(Token, Op)>) {
        let count = ops.len();
        if count == 0 {
            return;
        }
        self.lock().queue.extend(ops);
        for _ in 0..count.min(FILE_THREADS) {
            self.work.notify_one();
        }
    }

    fn collect(&self, done: &mut Vec<Done>) {
        done.append(&mut self.lock().done);
    }

    /// A thread's life.
    fn serve(&self) {
        let mut state = self.lock();
        while !state.closed {
            let Some((token, op)) = state.queue.pop_front() else {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(state);
            let end = perform(token, op);
            state = self.lock();
            state.done.push(end);
            self.wake.call();
        }
    }
}

/// A file's operation, from begin to end.
fn perform(token: Token, mut op: Op) -> Done {
    let result = rustix::io::retry_on_intr(|| match &mut op {
        Op::Read { file, offset_bytes, page, length_bytes } => {
            let fd = borrow_handle(file, file.handle());
            rustix::io::pread(fd, &mut page[..*length_bytes], *offset_bytes)
        }
        Op::Write { file, offset_bytes, parts } => {
            let fd = borrow_handle(file, file.handle());
            rustix::io::pwritev(fd, &slices(parts), *offset_bytes)
        }
        Op::Sync { file } => rustix::fs::fdatasync(borrow_handle(file, file.handle())).map(|()| 0),
        Op::Accept { .. } | Op::Receive { .. } | Op::Send { .. } => {
            unreachable!("sockets go to epoll")
        }
    });
    end(token, op, result.map(Finished::Bytes).map_err(io::Error::from))
}
