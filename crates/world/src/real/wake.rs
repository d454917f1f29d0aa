//! A call from other threads to the one that owns a ring: an eventfd, written once per wait.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::event::{EventfdFlags, eventfd};

use crate::Waker;

/// Shared by a ring and its wakers.
#[derive(Debug)]
pub(crate) struct WakeCall {
    fd: OwnedFd,
    called: AtomicBool,
}

impl WakeCall {
    /// `flags`: whether reading it waits.
    pub(crate) fn new(flags: EventfdFlags) -> io::Result<Arc<Self>> {
        let fd = eventfd(0, flags | EventfdFlags::CLOEXEC)?;
        Ok(Arc::new(Self { fd, called: AtomicBool::new(false) }))
    }

    pub(crate) fn waker(self: &Arc<Self>) -> Waker {
        let call = Arc::clone(self);
        Waker(Arc::new(move || call.call()))
    }

    /// Makes the descriptor readable, unless it is already.
    pub(crate) fn call(&self) {
        if !self.called.swap(true, Ordering::SeqCst) {
            // Fails only when the counter is full, and then it is readable.
            let _ = rustix::io::write(&self.fd, &1_u64.to_ne_bytes());
        }
    }

    /// To be called after the descriptor was read and before anybody looks at what callers left:
    /// a call that found the mark is seen now, a later one writes again.
    pub(crate) fn answer(&self) {
        self.called.swap(false, Ordering::SeqCst);
    }
}

impl AsFd for WakeCall {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
