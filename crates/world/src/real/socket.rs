//! Connected streams and listeners as descriptors: who is at the other end, and how they end.
//!
//! Both kinds of ring use the same sockets. Streams stay in blocking mode: io_uring gives `EAGAIN`
//! back instead of waiting when `O_NONBLOCK` is set, and epoll's ring asks with `MSG_DONTWAIT`.
//! Listeners are switched by the ring that accepts from them, for accept has no such flag.
#![expect(unsafe_code, reason = "SO_PEERCRED: rustix's type forbids pid 0, the kernel does not")]

use std::{
    fmt, io, mem,
    net::SocketAddr,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::net::UnixListener,
    },
    sync::Arc,
};

use rustix::{
    fs::OFlags,
    net::{self, AddressFamily, Shutdown, sockopt},
};

use crate::{
    Listener, Socket,
    ring::{ListenerHandle, Peer, SocketHandle},
};

/// A connected stream of this machine.
pub struct RealSocket {
    fd: OwnedFd,
    peer: Peer,
}

impl RealSocket {
    /// Takes a connected stream: asks once who is there, and turns off what delays small answers.
    pub fn adopt(fd: OwnedFd) -> Socket {
        let peer = match sockopt::socket_domain(&fd) {
            Ok(AddressFamily::UNIX) => process_peer(&fd).unwrap_or(Peer::Unknown),
            Ok(AddressFamily::INET | AddressFamily::INET6) => {
                // Both may fail when the peer has gone already; the first receive tells.
                let _ = sockopt::set_tcp_nodelay(&fd, true);
                net::getpeername(&fd)
                    .ok()
                    .flatten()
                    .and_then(|address| SocketAddr::try_from(address).ok())
                    .map_or(Peer::Unknown, Peer::Address)
            }
            _ => Peer::Unknown,
        };
        let _ = set_blocking(fd.as_fd(), true);
        Socket(Arc::new(Self { fd, peer }))
    }
}

impl SocketHandle for RealSocket {
    fn handle(&self) -> i32 {
        self.fd.as_raw_fd()
    }

    fn shut_down(&self) {
        let _ = net::shutdown(&self.fd, Shutdown::Both); // ENOTCONN: ended already
    }

    fn stop_receiving(&self) {
        let _ = net::shutdown(&self.fd, Shutdown::Read); // ENOTCONN: ended already
    }

    fn peer(&self) -> Peer {
        self.peer.clone()
    }
}

impl fmt::Debug for RealSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RealSocket({}, {:?})", self.fd.as_raw_fd(), self.peer)
    }
}

/// The process at the other end of a unix socket, as it was when it connected (or listened).
pub(crate) fn process_peer(fd: &impl AsRawFd) -> io::Result<Peer> {
    let mut found = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = libc::socklen_t::try_from(mem::size_of_val(&found)).expect("12 bytes");
    // SAFETY: `found` is as long as `length` says, and any bits are a valid `ucred`.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut found).cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    if found.uid == u32::MAX {
        return Ok(Peer::Unknown); // never connected, or the user has no number in our namespace
    }
    Ok(Peer::Process { uid: found.uid, gid: found.gid, pid: found.pid })
}

/// Sets or clears `O_NONBLOCK`.
pub(crate) fn set_blocking(fd: BorrowedFd<'_>, blocking: bool) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    let wanted = if blocking { flags - OFlags::NONBLOCK } else { flags | OFlags::NONBLOCK };
    if wanted != flags {
        rustix::fs::fcntl_setfl(fd, wanted)?;
    }
    Ok(())
}

/// The descriptor of something that the operation in the ring keeps open.
///
/// # Panics
/// On a negative handle: it comes from another world than this ring.
pub(crate) fn borrow_handle<T: ?Sized>(_keeper: &T, handle: i32) -> BorrowedFd<'_> {
    assert!(handle >= 0, "a handle of another world");
    // SAFETY: handles of this world are descriptors that live as long as what gave them, which is
    // borrowed for as long as the result.
    unsafe { BorrowedFd::borrow_raw(handle) }
}

/// A listening socket of this machine.
pub struct RealListener {
    fd: OwnedFd,
    address: ListenAddress,
    _keeper: Option<Box<dyn Send + Sync>>, // removes the name at the end
}

/// Where clients find a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// A socket file.
    Unix(std::path::PathBuf),
    /// An address, with the port that the system chose if 0 was asked for.
    Tcp(SocketAddr),
    /// The system would not say.
    Unknown,
}

impl RealListener {
    pub(crate) fn new(
        fd: OwnedFd,
        address: ListenAddress,
        keeper: Option<Box<dyn Send + Sync>>,
    ) -> Self {
        Self { fd, address, _keeper: keeper }
    }

    /// Where clients find it.
    pub fn address(&self) -> &ListenAddress {
        &self.address
    }

    /// The same socket for a loop that is no ring. Its name goes with this listener, which must
    /// outlive it.
    pub fn to_unix_listener(&self) -> io::Result<UnixListener> {
        Ok(self.fd.try_clone()?.into())
    }

    /// As rings take it.
    pub fn into_listener(self) -> Listener {
        Listener(Arc::new(self))
    }
}

impl ListenerHandle for RealListener {
    fn handle(&self) -> i32 {
        self.fd.as_raw_fd()
    }
}

impl fmt::Debug for RealListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RealListener({:?})", self.address)
    }
}
