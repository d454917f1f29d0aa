//! Where clients knock, and how we knock ourselves: unix sockets with rules on who may stand in the
//! way, TCP, and listeners that a service manager passed.
//!
//! A unix socket gives away nothing and takes nothing from others:
//! - its directory belongs to us or root; others may write there only if it is sticky;
//! - `PATH` and `PATH.lock`, if there, belong to us; `PATH.lock` is locked while we listen;
//! - the socket is made as `PATH.new` with its final mode, listens, and is renamed over `PATH`: no
//!   moment of wrong rights, no moment without an answer, a dead server's socket is replaced, a
//!   living one's never.
//!
//! `sun_path` holds 107 bytes; longer paths go through `/proc/self/fd/N/NAME`, so only the last part
//! is limited (to about 80 bytes).

use std::{
    ffi::{OsStr, OsString},
    io,
    net::SocketAddr,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{ffi::OsStrExt, net::UnixStream},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self, AtFlags, FileType, FlockOperation, Gid, Mode, OFlags, Stat},
    io::Errno,
    net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt},
    process::geteuid,
};

use super::socket::{ListenAddress, RealListener, process_peer};
use crate::ring::Peer;

/// Connections that wait to be accepted; the kernel cuts it to its own limit.
const BACKLOG: i32 = 1024;

/// Bytes of a path that a unix socket's address holds.
const PATH_BYTES_MAX: usize = 107;

/// Why nobody can knock there.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// A server listens there, or is about to.
    #[error("{} is served by another process", path.display())]
    Busy {
        /// The socket.
        path: PathBuf,
    },
    /// What is there belongs to somebody else.
    #[error("{} belongs to user {uid}", path.display())]
    NotOurs {
        /// Socket, lock file, or the directory.
        path: PathBuf,
        /// Owner.
        uid: u32,
    },
    /// Others could put their own socket there.
    #[error("others may write in {} (mode {mode:o}, not sticky)", path.display())]
    OpenDirectory {
        /// The directory.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Something other than a socket (or its lock file) has the name; it is left alone.
    #[error("{} is there and is not what we would make", path.display())]
    InTheWay {
        /// What is there.
        path: PathBuf,
    },
    /// Too long even for the way through /proc, or without a last part.
    #[error("{} cannot name a socket", path.display())]
    BadName {
        /// As given.
        path: PathBuf,
    },
    /// The descriptor does not listen.
    #[error("descriptor {fd} is no listening stream socket")]
    NotListening {
        /// Its number.
        fd: i32,
    },
    /// The system says no.
    #[error("listen on {place}")]
    Io {
        /// Path or address.
        place: String,
        /// Why.
        source: io::Error,
    },
}

/// Listens on a unix socket that only we can connect to (0600), or members of a group too (0660).
/// The socket file goes when the listener is dropped, unless it is no longer ours.
pub fn listen_unix(path: &Path, group: Option<u32>) -> Result<RealListener, ListenError> {
    let failed = |source: Errno| ListenError::Io {
        place: path.display().to_string(),
        source: source.into(),
    };
    let place = Place::open(path)?;
    place.check_directory()?;
    let lock = place.take_lock()?;
    place.check_vacant()?;

    // From here on a failure leaves nothing behind but what the next try replaces.
    match fs::unlinkat(&place.directory, &place.temporary, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => (),
        Err(error) => return Err(failed(error)),
    }
    let socket = stream_socket(AddressFamily::UNIX).map_err(failed)?;
    // The kernel gives the name the socket's own mode, so it is never wider than this.
    fs::fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(failed)?;
    net::bind(&socket, &place.address(&place.temporary)?).map_err(failed)?;
    let own = fs::statat(&place.directory, &place.temporary, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(failed)?;
    let keeper = Keeper { place, device: own.st_dev, inode: own.st_ino, lock };
    let place = &keeper.place;
    if let Some(group) = group {
        let group = Some(Gid::from_raw(group));
        fs::chownat(&place.directory, &place.temporary, None, group, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed)?;
    }
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    fs::chmodat(&place.directory, &place.temporary, Mode::from_raw_mode(mode), AtFlags::empty())
        .map_err(failed)?;
    net::listen(&socket, BACKLOG).map_err(failed)?;
    fs::renameat(&place.directory, &place.temporary, &place.directory, &place.name)
        .map_err(failed)?;
    Ok(RealListener::new(socket, ListenAddress::Unix(path.to_owned()), Some(Box::new(keeper))))
}

/// A name in an open directory: what happens to the path meanwhile does not matter.
struct Place {
    path: PathBuf,
    directory: OwnedFd,
    name: OsString,
    temporary: OsString,
    lock: OsString,
}

impl Place {
    fn open(path: &Path) -> Result<Self, ListenError> {
        let bad = || ListenError::BadName { path: path.to_owned() };
        let name = path.file_name().ok_or_else(bad)?;
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = fs::open(parent, flags, Mode::empty()).map_err(|source| {
            ListenError::Io { place: path.display().to_string(), source: source.into() }
        })?;
        let with = |suffix: &str| {
            let mut name = name.to_owned();
            name.push(suffix);
            name
        };
        let (temporary, lock) = (with(".new"), with(".lock"));
        Ok(Self { path: path.to_owned(), directory, name: name.to_owned(), temporary, lock })
    }

    fn sibling(&self, name: &OsStr) -> PathBuf {
        self.path.with_file_name(name)
    }

    fn failed(&self, name: &OsStr, source: Errno) -> ListenError {
        let place = self.sibling(name).display().to_string();
        ListenError::Io { place, source: source.into() }
    }

    fn check_directory(&self) -> Result<(), ListenError> {
        let stat = fs::fstat(&self.directory).map_err(|error| self.failed(&self.name, error))?;
        let path = || match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        if stat.st_uid != geteuid().as_raw() && stat.st_uid != 0 {
            return Err(ListenError::NotOurs { path: path(), uid: stat.st_uid });
        }
        let mode = stat.st_mode & 0o7777;
        if mode & 0o022 != 0 && mode & 0o1000 == 0 {
            return Err(ListenError::OpenDirectory { path: path(), mode });
        }
        Ok(())
    }

    /// What has the name, refused if it is somebody else's.
    fn own(&self, name: &OsStr) -> Result<Option<Stat>, ListenError> {
        match fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if stat.st_uid != geteuid().as_raw() => {
                Err(ListenError::NotOurs { path: self.sibling(name), uid: stat.st_uid })
            }
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(self.failed(name, error)),
        }
    }

    /// Locks `PATH.lock`. Who ends removes the file while it has the lock, so a lock is only worth
    /// something if the file still has its name.
    fn take_lock(&self) -> Result<OwnedFd, ListenError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let flags = flags | OFlags::NONBLOCK; // never hang in a fifo
        loop {
            let regular =
                |stat: &Stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            if self.own(&self.lock)?.is_some_and(|stat| !regular(&stat)) {
                return Err(ListenError::InTheWay { path: self.sibling(&self.lock) });
            }
            let file = fs::openat(&self.directory, &self.lock, flags, Mode::RUSR | Mode::WUSR)
                .map_err(|error| self.failed(&self.lock, error))?;
            match fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => (),
                Err(Errno::WOULDBLOCK) => {
                    return Err(ListenError::Busy { path: self.path.clone() });
                }
                Err(error) => return Err(self.failed(&self.lock, error)),
            }
            let locked = fs::fstat(&file).map_err(|error| self.failed(&self.lock, error))?;
            let named = self.own(&self.lock)?;
            if named.is_some_and(|it| (it.st_dev, it.st_ino) == (locked.st_dev, locked.st_ino)) {
                return Ok(file);
            }
        }
    }

    /// Whether the name is free: absent, or a socket of ours that nobody answers.
    fn check_vacant(&self) -> Result<(), ListenError> {
        let Some(stat) = self.own(&self.name)? else { return Ok(()) };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
            return Err(ListenError::InTheWay { path: self.path.clone() });
        }
        let failed = |error| self.failed(&self.name, error);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let probe = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(failed)?;
        match net::connect(&probe, &self.address(&self.name)?) {
            Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(()),
            Err(error @ (Errno::NFILE | Errno::MFILE | Errno::NOMEM)) => Err(failed(error)),
            // Connected, EAGAIN (it has a full queue), EPROTOTYPE (another kind of socket), EACCES.
            _ => Err(ListenError::Busy { path: self.path.clone() }),
        }
    }

    fn address(&self, name: &OsStr) -> Result<SocketAddrUnix, ListenError> {
        let path = short_path(&self.sibling(name), &self.directory, name);
        SocketAddrUnix::new(path).map_err(|_| ListenError::BadName { path: self.path.clone() })
    }
}

/// The path itself if it fits an address, else by way of its open directory.
fn short_path(path: &Path, directory: &OwnedFd, name: &OsStr) -> PathBuf {
    if path.as_os_str().as_bytes().len() <= PATH_BYTES_MAX {
        return path.to_owned();
    }
    Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name)
}

/// Removes our names at the end, the lock last and while it is held.
struct Keeper {
    place: Place,
    device: u64,
    inode: u64,
    lock: OwnedFd,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let directory = &self.place.directory;
        for name in [&self.place.name, &self.place.temporary] {
            let found = fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW);
            if found.is_ok_and(|it| (it.st_dev, it.st_ino) == (self.device, self.inode)) {
                let _ = fs::unlinkat(directory, name, AtFlags::empty());
            }
        }
        let named = fs::statat(directory, &self.place.lock, AtFlags::SYMLINK_NOFOLLOW);
        if let (Ok(named), Ok(held)) = (named, fs::fstat(&self.lock))
            && (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino)
        {
            let _ = fs::unlinkat(directory, &self.place.lock, AtFlags::empty());
        }
    }
}

/// Listens on exactly this address; port 0 lets the system choose one.
pub fn listen_tcp(address: SocketAddr) -> Result<RealListener, ListenError> {
    let bind = || {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = stream_socket(family)?;
        sockopt::set_socket_reuseaddr(&socket, true)?; // a restart need not wait for TIME_WAIT
        if address.is_ipv6() {
            sockopt::set_ipv6_v6only(&socket, true)?; // `::` is what it says
        }
        net::bind(&socket, &address)?;
        net::listen(&socket, BACKLOG)?;
        Ok(socket)
    };
    match bind() {
        Ok(socket) => {
            let address = local_address(&socket);
            Ok(RealListener::new(socket, address, None))
        }
        Err(Errno::ADDRINUSE) => Err(ListenError::Busy { path: address.to_string().into() }),
        Err(error) => Err(ListenError::Io { place: address.to_string(), source: error.into() }),
    }
}

/// Takes a socket that listens already (socket activation). Its name stays when we end.
pub fn adopt_listener(fd: OwnedFd) -> Result<RealListener, ListenError> {
    let stream = sockopt::socket_type(&fd).is_ok_and(|kind| kind == SocketType::STREAM);
    if !stream || !sockopt::socket_acceptconn(&fd).unwrap_or(false) {
        return Err(ListenError::NotListening { fd: fd.as_raw_fd() });
    }
    // What systemd passes has no CLOEXEC: nothing of ours shall inherit it.
    let failed = |error: Errno| ListenError::Io {
        place: format!("descriptor {}", fd.as_raw_fd()),
        source: error.into(),
    };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC).map_err(failed)?;
    let address = local_address(&fd);
    Ok(RealListener::new(fd, address, None))
}

fn stream_socket(family: AddressFamily) -> Result<OwnedFd, Errno> {
    net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)
}

fn local_address(socket: &OwnedFd) -> ListenAddress {
    let Ok(address) = net::getsockname(socket) else { return ListenAddress::Unknown };
    if let Ok(address) = SocketAddr::try_from(address.clone()) {
        return ListenAddress::Tcp(address);
    }
    match SocketAddrUnix::try_from(address) {
        Ok(address) => match address.path() {
            Some(path) => ListenAddress::Unix(PathBuf::from(OsStr::from_bytes(path.to_bytes()))),
            None => ListenAddress::Unknown,
        },
        Err(_) => ListenAddress::Unknown,
    }
}

/// Why no server answers at a path.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nothing has the name.
    #[error("{} is not there", path.display())]
    Absent {
        /// As given.
        path: PathBuf,
    },
    /// A socket without a server, left by one that was killed.
    #[error("nobody listens on {}", path.display())]
    Stale {
        /// As given.
        path: PathBuf,
    },
    /// Somebody whom we do not trust listens there; nothing was sent.
    #[error("{} is served by user {uid}, not by its owner", path.display())]
    Stranger {
        /// As given.
        path: PathBuf,
        /// Who listens.
        uid: u32,
    },
    /// The system says no.
    #[error("connect to {}", path.display())]
    Io {
        /// As given.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Connects to a unix socket and makes sure that we, root or `owner` listen there, before anything
/// is sent. Blocks.
pub fn connect_unix(path: &Path, owner: Option<u32>) -> Result<UnixStream, ConnectError> {
    let failed = |error: Errno| {
        let path = path.to_owned();
        match error {
            Errno::NOENT | Errno::NOTDIR => ConnectError::Absent { path },
            Errno::CONNREFUSED => ConnectError::Stale { path },
            error => ConnectError::Io { path, source: error.into() },
        }
    };
    let socket = stream_socket(AddressFamily::UNIX).map_err(failed)?;
    let mut directory = None; // open until we are connected
    let address = if path.as_os_str().as_bytes().len() <= PATH_BYTES_MAX {
        SocketAddrUnix::new(path).map_err(failed)?
    } else {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(failed(Errno::NAMETOOLONG));
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = directory.insert(fs::open(parent, flags, Mode::empty()).map_err(failed)?);
        SocketAddrUnix::new(short_path(path, opened, name)).map_err(failed)?
    };
    rustix::io::retry_on_intr(|| net::connect(socket.as_fd(), &address)).map_err(failed)?;
    drop(directory);
    let trusted = |uid: u32| uid == geteuid().as_raw() || uid == 0 || Some(uid) == owner;
    match process_peer(&socket) {
        Ok(Peer::Process { uid, .. }) if trusted(uid) => Ok(UnixStream::from(socket)),
        Ok(Peer::Process { uid, .. }) => Err(ConnectError::Stranger { path: path.to_owned(), uid }),
        Ok(_) => Err(ConnectError::Stranger { path: path.to_owned(), uid: u32::MAX }),
        Err(source) => Err(ConnectError::Io { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::{fs::PermissionsExt, net::UnixListener};

    fn mode_of(path: &Path) -> u32 {
        path.metadata().expect("stat").permissions().mode() & 0o7777
    }

    #[test]
    fn a_socket_has_its_mode_and_goes_at_the_end() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("nbd.sock");
        let listener = listen_unix(&path, None).expect("listens");
        assert_eq!(mode_of(&path), 0o600);
        assert_eq!(listener.address(), &ListenAddress::Unix(path.clone()));
        connect_unix(&path, None).expect("connects");
        drop(listener);
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 0);
        assert!(matches!(connect_unix(&path, None), Err(ConnectError::Absent { .. })));

        let group = rustix::process::getegid().as_raw();
        let _listener = listen_unix(&path, Some(group)).expect("listens");
        assert_eq!(mode_of(&path), 0o660);
    }

    #[test]
    fn a_living_socket_is_refused_a_stale_one_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("nbd.sock");
        let ours = listen_unix(&path, None).expect("listens");
        let error = listen_unix(&path, None).expect_err("ours has the lock");
        assert!(matches!(error, ListenError::Busy { .. }), "{error:?}");
        drop(ours);

        let theirs = UnixListener::bind(&path).expect("bound");
        let error = listen_unix(&path, None).expect_err("theirs answers");
        assert!(matches!(error, ListenError::Busy { .. }), "{error:?}");
        drop(theirs); // the name stays
        assert!(matches!(connect_unix(&path, None), Err(ConnectError::Stale { .. })));
        let _again = listen_unix(&path, None).expect("replaced");
        connect_unix(&path, None).expect("connects");
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("precious");
        tempfile::NamedTempFile::new_in(dir.path()).expect("made").persist(&path).expect("kept");
        let error = listen_unix(&path, None).expect_err("a file is there");
        assert!(matches!(error, ListenError::InTheWay { .. }), "{error:?}");
        assert!(path.is_file());
        std::os::unix::fs::symlink(&path, dir.path().join("s.lock")).expect("a link");
        let error = listen_unix(&dir.path().join("s"), None).expect_err("a link is the lock");
        assert!(matches!(error, ListenError::InTheWay { .. }), "{error:?}");
    }

    #[test]
    fn a_directory_open_to_others_must_be_sticky() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("nbd.sock");
        let set = |mode| {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(dir.path(), mode).expect("chmod");
        };
        for mode in [0o777, 0o770, 0o702] {
            set(mode);
            let error = listen_unix(&path, None).expect_err("others may write");
            assert!(
                matches!(error, ListenError::OpenDirectory { mode: found, .. } if found == mode),
                "{error:?}"
            );
        }
        set(0o1777);
        listen_unix(&path, None).expect("sticky is fine");
        set(0o700);
    }

    #[test]
    fn names_of_other_owners_are_refused() {
        if !geteuid().is_root() {
            return; // only root can give files away
        }
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("nbd.sock");
        let give = |path: &Path| std::os::unix::fs::chown(path, Some(4242), None).expect("chown");
        let refused = |expected: &Path| {
            let error = listen_unix(&path, None).expect_err("another owner");
            let ListenError::NotOurs { path: found, uid: 4242 } = &error else {
                panic!("{error:?}")
            };
            assert_eq!(found, expected);
        };
        drop(UnixListener::bind(&path).expect("bound"));
        give(&path);
        refused(&path);
        fs::rename(&path, dir.path().join("nbd.sock.lock")).expect("renamed");
        refused(&dir.path().join("nbd.sock.lock"));
        give(dir.path());
        refused(dir.path());
    }

    #[test]
    fn long_paths_go_through_the_directory() {
        let dir = tempfile::tempdir().expect("a directory");
        let deep = dir.path().join("d".repeat(100)).join("e".repeat(100));
        std::fs::create_dir_all(&deep).expect("made");
        let path = deep.join("control.sock");
        let _listener = listen_unix(&path, None).expect("listens");
        assert_eq!(mode_of(&path), 0o600);
        connect_unix(&path, None).expect("connects");
        assert!(matches!(listen_unix(&path, None), Err(ListenError::Busy { .. })));
        let error = listen_unix(&deep.join("n".repeat(100)), None).expect_err("no room");
        assert!(matches!(error, ListenError::BadName { .. }), "{error:?}");
    }

    #[test]
    fn tcp_binds_what_was_named() {
        let listener = listen_tcp("127.0.0.1:0".parse().expect("an address")).expect("listens");
        let &ListenAddress::Tcp(address) = listener.address() else { panic!("{listener:?}") };
        assert_ne!(address.port(), 0);
        std::net::TcpStream::connect(address).expect("connects");
        assert!(matches!(listen_tcp(address), Err(ListenError::Busy { .. })));
    }

    #[test]
    fn only_listening_sockets_are_adopted() {
        let inherited = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = inherited.local_addr().expect("an address");
        let listener = adopt_listener(inherited.into()).expect("listens");
        assert_eq!(listener.address(), &ListenAddress::Tcp(address));
        let (one, _other) = UnixStream::pair().expect("a pair");
        assert!(matches!(adopt_listener(one.into()), Err(ListenError::NotListening { .. })));
    }
}
