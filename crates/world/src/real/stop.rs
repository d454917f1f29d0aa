//! SIGINT and SIGTERM as a count and a call to the loop, so that a server ends at a boundary.
//!
//! The handler does what a handler may: it counts and writes to an eventfd. A thread of its own,
//! which does nothing else, passes that on to the waker.
#![expect(unsafe_code, reason = "sets signal handlers")]

use std::{
    fmt, io, mem,
    os::fd::{AsRawFd, OwnedFd},
    ptr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering},
    },
    thread::{Builder, JoinHandle},
};

use rustix::event::{EventfdFlags, eventfd};

use crate::Waker;

/// Signals since [`StopSignals::install`].
static COUNT: AtomicU32 = AtomicU32::new(0);

/// Where the handler writes; -1 while nobody listens.
static CALL: AtomicI32 = AtomicI32::new(-1);

/// Whether a [`StopSignals`] lives.
static INSTALLED: AtomicBool = AtomicBool::new(false);

/// What asks a server to stop.
const SIGNALS: [libc::c_int; 2] = [libc::SIGINT, libc::SIGTERM];

/// Catches SIGINT and SIGTERM while it lives; then they do what they did before.
pub struct StopSignals {
    before: [libc::sigaction; 2],
    call: Arc<OwnedFd>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl StopSignals {
    /// From now on each such signal is counted and calls the waker. One at a time in a process.
    pub fn install(waker: Waker) -> io::Result<Self> {
        if INSTALLED.swap(true, Ordering::SeqCst) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "signals are caught already"));
        }
        Self::start(waker).inspect_err(|_| {
            CALL.store(-1, Ordering::SeqCst);
            INSTALLED.store(false, Ordering::SeqCst);
        })
    }

    fn start(waker: Waker) -> io::Result<Self> {
        let call = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let ends = Arc::new(AtomicBool::new(false));
        let thread = {
            let (call, ends) = (Arc::clone(&call), Arc::clone(&ends));
            Builder::new().name("signals".to_owned()).spawn(move || {
                while rustix::io::retry_on_intr(|| rustix::io::read(&*call, &mut [0; 8])).is_ok()
                    && !ends.load(Ordering::SeqCst)
                {
                    waker.wake();
                }
            })?
        };
        COUNT.store(0, Ordering::SeqCst);
        CALL.store(call.as_raw_fd(), Ordering::SeqCst);
        // SAFETY: an action without handler, mask and flags is all zeros.
        let before = unsafe { [mem::zeroed(), mem::zeroed()] };
        let mut signals = Self { before, call, ends, thread: Some(thread) };
        for (signal, before) in SIGNALS.into_iter().zip(&mut signals.before) {
            // SAFETY: as above; the handler does only what handlers may do, `before` is ours.
            unsafe {
                let mut action: libc::sigaction = mem::zeroed();
                action.sa_sigaction = (on_signal as extern "C" fn(libc::c_int)) as usize;
                action.sa_flags = libc::SA_RESTART;
                libc::sigaction(signal, &raw const action, &raw mut *before);
            }
        }
        Ok(signals)
    }

    /// How often we were asked to stop: once is a wish, twice is impatience.
    pub fn count(&self) -> u32 {
        COUNT.load(Ordering::SeqCst)
    }
}

impl Drop for StopSignals {
    fn drop(&mut self) {
        for (signal, before) in SIGNALS.into_iter().zip(&self.before) {
            // SAFETY: an action that the system gave us.
            unsafe { libc::sigaction(signal, &raw const *before, ptr::null_mut()) };
        }
        // A handler that runs at this moment on another thread has at most the old number, which
        // stays open until the thread is joined below.
        CALL.store(-1, Ordering::SeqCst);
        self.ends.store(true, Ordering::SeqCst);
        let _ = rustix::io::write(&*self.call, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        INSTALLED.store(false, Ordering::SeqCst);
    }
}

impl fmt::Debug for StopSignals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StopSignals({})", self.count())
    }
}

extern "C" fn on_signal(_signal: libc::c_int) {
    COUNT.fetch_add(1, Ordering::SeqCst);
    let call = CALL.load(Ordering::SeqCst);
    if call >= 0 {
        let one = 1_u64.to_ne_bytes();
        // SAFETY: `write` may be called in handlers, the bytes live, and what it does to `errno` is
        // undone before the interrupted code can see it.
        unsafe {
            let errno = libc::__errno_location();
            let before = *errno;
            libc::write(call, one.as_ptr().cast(), one.len());
            *errno = before;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Signal, getpid, kill_process};
    use std::sync::mpsc;

    #[test]
    fn signals_are_counted_and_wake() {
        let (told, heard) = mpsc::channel();
        let waker = Waker(Arc::new(move || told.send(()).expect("the test listens")));
        let signals = StopSignals::install(waker.clone()).expect("installed");
        let error = StopSignals::install(waker).expect_err("one at a time");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        for (count, signal) in [(1, Signal::TERM), (2, Signal::INT)] {
            kill_process(getpid(), signal).expect("sent");
            heard.recv().expect("woken");
            assert_eq!(signals.count(), count);
        }
        drop(signals);
        assert!(heard.try_recv().is_err(), "the waker is gone");
    }
}
