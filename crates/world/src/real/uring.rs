//! The ring on io_uring: sockets and disk in one queue, one system call a turn.
//!
//! An operation lives in a slot from push to end: the slot owns its buffers and what points to them
//! (iovecs, message header), and keeps its descriptor open. Slots are used again with the room they
//! have, so in the steady state nothing is allocated here.
//!
//! Invariant of all `unsafe` here: what an entry in the kernel's queue points to lies on the heap
//! and belongs to a slot that is emptied only by the entry's completion. Dropping the ring cancels
//! and waits for all of them; if even that fails, the memory is given up, never freed.
//!
//! Needs Linux 5.11 (`EXT_ARG`); takes `SINGLE_ISSUER`, `DEFER_TASKRUN` (6.1) and `COOP_TASKRUN`
//! (5.19) where the kernel has them. The ring stays on the thread that made it.
#![expect(unsafe_code, reason = "hands memory to the kernel and takes descriptors from it")]

use std::{
    collections::VecDeque,
    fmt, io, mem,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    ptr,
    sync::Arc,
};

use io_uring::{EnterFlags, IoUring, opcode, squeue, types};
use rustix::event::EventfdFlags;

use super::{
    socket::{RealSocket, borrow_handle, set_blocking},
    wake::WakeCall,
};
use crate::{Bytes, Done, Finished, Op, Ring, Token, Wait, Waker, ring::MAX_PARTS};

/// Entries handed over with one call; more go in several calls.
const SUBMISSIONS: u32 = 1024;

/// Ends that fit before the kernel keeps them in a list of its own.
const COMPLETIONS: u32 = 4096;

/// `user_data` of the waker's read; slots count from 0.
const WAKE: u64 = u64::MAX;

/// `user_data` of cancellations.
const CANCEL: u64 = u64::MAX - 1;

/// Sends that end short only if the peer goes (Linux 5.19; before, they end short more often).
const SEND_FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;

/// A ring on io_uring.
pub struct UringRing {
    ring: IoUring,
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// Entries for which the kernel had no room.
    backlog: VecDeque<squeue::Entry>,
    /// Entries that the kernel has, or has in its queue, and will answer.
    outstanding: usize,
    in_flight: usize,
    wake: Arc<WakeCall>,
    wake_count: Box<u64>,
    wake_armed: bool,
}

/// Place of an operation between push and end.
struct Slot {
    held: Option<(Token, Op)>,
    iovecs: Vec<libc::iovec>,
    message: Box<libc::msghdr>,
}

impl UringRing {
    /// Makes a ring, with what this kernel has.
    pub fn new() -> io::Result<Self> {
        let ring = build()?;
        let has = ring.params();
        if !(has.is_feature_nodrop()
            && has.is_feature_ext_arg()
            && has.is_feature_submit_stable()
            && has.is_feature_fast_poll())
        {
            return Err(io::Error::from_raw_os_error(libc::ENOSYS));
        }
        Ok(Self {
            ring,
            slots: Vec::new(),
            free: Vec::new(),
            backlog: VecDeque::new(),
            outstanding: 0,
            in_flight: 0,
            wake: WakeCall::new(EventfdFlags::empty())?,
            wake_count: Box::new(0),
            wake_armed: false,
        })
    }

    fn arm_waker(&mut self) {
        if !mem::replace(&mut self.wake_armed, true) {
            let fd = types::Fd(self.wake.as_fd().as_raw_fd());
            let count = ptr::from_mut(&mut *self.wake_count).cast();
            self.queue(opcode::Read::new(fd, count, 8).build().user_data(WAKE));
        }
    }

    /// Puts an entry into the kernel's queue, or behind those that found no room.
    ///
    /// Only called with entries whose memory belongs to a slot (or is the waker's).
    fn queue(&mut self, entry: squeue::Entry) {
        if self.backlog.is_empty() {
            // SAFETY: the module's invariant.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                self.outstanding += 1;
                return;
            }
            // Full: start these early. An error shows again in the next turn.
            let _ = self.enter(0, Wait::No);
        }
        self.backlog.push_back(entry);
        self.fill();
    }

    /// Moves what waits into the kernel's queue as far as it has room.
    fn fill(&mut self) {
        let mut submission = self.ring.submission();
        while let Some(entry) = self.backlog.front() {
            // SAFETY: the module's invariant.
            if unsafe { submission.push(entry) }.is_err() {
                break;
            }
            self.outstanding += 1;
            self.backlog.pop_front();
        }
    }

    /// Hands the queue over and waits for `want` ends.
    fn enter(&mut self, want: u32, wait: Wait) -> io::Result<()> {
        let submission = self.ring.submission();
        let entries = u32::try_from(submission.len()).expect("as many as the queue has");
        let work = submission.taskrun() || submission.cq_overflow();
        drop(submission);
        if entries == 0 && want == 0 && !work {
            return Ok(()); // what has ended lies in memory already
        }
        let flags = EnterFlags::GETEVENTS; // without it deferred work is not done
        let submitter = self.ring.submitter();
        // SAFETY: no signal mask is given; the time lives until the call returns; the entries keep
        // the module's invariant.
        unsafe {
            match wait {
                Wait::Ns(ns) if want > 0 => {
                    let time = types::Timespec::new()
                        .sec(ns / 1_000_000_000)
                        .nsec((ns % 1_000_000_000) as u32);
                    let args = types::SubmitArgs::new().timespec(&time);
                    let flags = flags | EnterFlags::EXT_ARG;
                    submitter.enter(entries, want, flags.bits(), Some(&args))?;
                }
                _ => {
                    submitter.enter::<libc::sigset_t>(entries, want, flags.bits(), None)?;
                }
            }
        }
        Ok(())
    }

    /// Takes what has ended; whether the waker called.
    fn reap(&mut self, done: &mut Vec<Done>) -> bool {
        let mut woken = false;
        for entry in self.ring.completion() {
            self.outstanding -= 1;
            match entry.user_data() {
                WAKE => {
                    self.wake_armed = false;
                    self.wake.answer();
                    woken = true;
                }
                CANCEL => (),
                index => {
                    let index = usize::try_from(index).expect("a slot's number");
                    let slot = &mut self.slots[index];
                    if entry.result() == -libc::EINTR {
                        self.backlog.push_back(slot.entry(index)); // nothing has happened yet
                        continue;
                    }
                    let (token, op) = slot.held.take().expect("a slot ends once");
                    self.free.push(index);
                    self.in_flight -= 1;
                    done.push(finish(token, op, entry.result()));
                }
            }
        }
        woken
    }

    /// Cancels all and waits until the kernel has let go of our memory.
    fn drain(&mut self) -> io::Result<()> {
        for entry in mem::take(&mut self.backlog) {
            match usize::try_from(entry.get_user_data()) {
                Ok(index) if index < self.slots.len() => self.slots[index].held = None,
                _ => (), // the waker's: never handed over
            }
        }
        let held = |(index, slot): (usize, &Slot)| slot.held.is_some().then_some(index as u64);
        let mut targets: Vec<u64> = self.slots.iter().enumerate().filter_map(held).collect();
        targets.push(WAKE);
        for target in targets {
            self.queue(opcode::AsyncCancel::new(target).build().user_data(CANCEL));
        }
        let mut done = Vec::new();
        while self.outstanding > 0 || !self.backlog.is_empty() {
            self.fill();
            match self.enter(u32::from(self.outstanding > 0), Wait::Forever) {
                Err(error) if !passes(&error) => return Err(error),
                _ => self.reap(&mut done),
            };
            done.clear(); // lets go of pages and of sockets accepted at the last moment
        }
        Ok(())
    }
}

impl Ring for UringRing {
    fn push(&mut self, token: Token, op: Op) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::new());
            self.slots.len() - 1
        });
        if let Op::Accept { listener } = &op {
            // An error comes again as the accept's own.
            let _ = set_blocking(borrow_handle(listener, listener.0.handle()), true);
        }
        let slot = &mut self.slots[index];
        slot.held = Some((token, op));
        let entry = slot.entry(index);
        self.in_flight += 1;
        self.queue(entry);
    }

    fn turn(&mut self, wait: Wait, done: &mut Vec<Done>) -> io::Result<()> {
        let before = done.len();
        self.arm_waker();
        let mut woken = self.reap(done);
        loop {
            self.fill();
            let idle = done.len() == before && !woken && self.backlog.is_empty();
            let want = u32::from(idle && !matches!(wait, Wait::No | Wait::Ns(0)));
            let entered = self.enter(want, wait);
            woken |= self.reap(done);
            match entered {
                Err(error) if !passes(&error) => return Err(error),
                Err(_) => return Ok(()), // time is up, a signal, or no memory: the next turn goes on
                Ok(()) if self.backlog.is_empty() && self.ring.submission().is_empty() => {
                    return Ok(());
                }
                Ok(()) => (),
            }
        }
    }

    fn waker(&self) -> Waker {
        self.wake.waker()
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }
}

impl Drop for UringRing {
    fn drop(&mut self) {
        if self.drain().is_err() {
            // The kernel may still write: this memory must never be used for anything else.
            mem::forget(mem::take(&mut self.slots));
            mem::forget(mem::take(&mut self.wake_count));
        }
    }
}

impl fmt::Debug for UringRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UringRing({} in flight)", self.in_flight)
    }
}

/// With the newest way of running completions that the kernel has.
fn build() -> io::Result<IoUring> {
    let mut last = None;
    for step in 0..3 {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(COMPLETIONS).setup_clamp();
        if step < 2 {
            builder.setup_coop_taskrun().setup_taskrun_flag().setup_submit_all();
        }
        if step < 1 {
            builder.setup_single_issuer().setup_defer_taskrun();
        }
        match builder.build(SUBMISSIONS) {
            Ok(ring) => return Ok(ring),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => last = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(last.expect("three refusals"))
}

/// Errors of a call that mean "not now".
fn passes(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY))
}

fn finish(token: Token, op: Op, result: i32) -> Done {
    let result = match (usize::try_from(result), &op) {
        (Err(_), _) => Err(io::Error::from_raw_os_error(-result)),
        (Ok(_), Op::Accept { .. }) => {
            // SAFETY: an accept that went well gives a descriptor that nobody else knows.
            let fd = unsafe { OwnedFd::from_raw_fd(result) };
            Ok(Finished::Socket(RealSocket::adopt(fd)))
        }
        (Ok(bytes), _) => Ok(Finished::Bytes(bytes)),
    };
    let page = match op {
        Op::Read { page, .. } | Op::Receive { page, .. } => Some(page),
        Op::Write { .. } | Op::Sync { .. } | Op::Accept { .. } | Op::Send { .. } => None,
    };
    Done { token, result, page }
}

impl Slot {
    fn new() -> Self {
        // SAFETY: a message header without name, parts and control data is all zeros.
        let message = Box::new(unsafe { mem::zeroed() });
        Self { held: None, iovecs: Vec::new(), message }
    }

    /// The kernel's form of the operation, pointing into what the slot holds.
    fn entry(&mut self, index: usize) -> squeue::Entry {
        let (_, op) = self.held.as_mut().expect("an operation");
        let entry = match op {
            Op::Read { file, offset_bytes, page, length_bytes } => {
                let part = &mut page[..*length_bytes];
                opcode::Read::new(types::Fd(file.handle()), part.as_mut_ptr(), length(part))
                    .offset(*offset_bytes)
                    .build()
            }
            Op::Write { file, offset_bytes, parts } => match &parts[..] {
                [part] => opcode::Write::new(types::Fd(file.handle()), part.as_ptr(), length(part))
                    .offset(*offset_bytes)
                    .build(),
                parts => {
                    let count = list_parts(&mut self.iovecs, parts);
                    opcode::Writev::new(types::Fd(file.handle()), self.iovecs.as_ptr(), count)
                        .offset(*offset_bytes)
                        .build()
                }
            },
            Op::Sync { file } => opcode::Fsync::new(types::Fd(file.handle()))
                .flags(types::FsyncFlags::DATASYNC)
                .build(),
            Op::Accept { listener } => {
                let fd = types::Fd(listener.0.handle());
                opcode::Accept::new(fd, ptr::null_mut(), ptr::null_mut())
                    .flags(libc::SOCK_CLOEXEC)
                    .build()
            }
            Op::Receive { socket, page, from, length_bytes, whole } => {
                let end = page.len().min(from.saturating_add(*length_bytes));
                let part = &mut page[*from..end];
                assert!(!part.is_empty(), "no room to receive: 0 bytes would mean the end");
                let flags = if *whole { libc::MSG_WAITALL } else { 0 };
                opcode::Recv::new(types::Fd(socket.0.handle()), part.as_mut_ptr(), length(part))
                    .flags(flags)
                    .build()
            }
            Op::Send { socket, parts } => match &parts[..] {
                [part] => {
                    opcode::Send::new(types::Fd(socket.0.handle()), part.as_ptr(), length(part))
                        .flags(SEND_FLAGS)
                        .build()
                }
                parts => {
                    list_parts(&mut self.iovecs, parts);
                    self.message.msg_iov = self.iovecs.as_mut_ptr();
                    self.message.msg_iovlen = parts.len();
                    opcode::SendMsg::new(types::Fd(socket.0.handle()), &raw const *self.message)
                        .flags(SEND_FLAGS.unsigned_abs())
                        .build()
                }
            },
        };
        entry.user_data(index as u64)
    }
}

fn list_parts(iovecs: &mut Vec<libc::iovec>, parts: &[Bytes]) -> u32 {
    assert!(parts.len() <= MAX_PARTS, "more parts than the kernel takes");
    iovecs.clear();
    iovecs.extend(parts.iter().map(|part| libc::iovec {
        iov_base: part.as_ptr().cast_mut().cast(), // only read from
        iov_len: part.len(),
    }));
    length(iovecs)
}

fn length<T>(part: &[T]) -> u32 {
    u32::try_from(part.len()).expect("pages are far smaller than 4 GiB")
}
