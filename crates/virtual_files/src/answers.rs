//! What the kernel asks, and who answers.
//!
//! ```text
//! kernel ─▶ one thread reads requests ─┬─ known without asking: answered at once
//!                                      └─▶ queue ─▶ WORKERS threads ─▶ Folder, VirtualFile
//! ```
//!
//! A request that waited longer than the limit is answered with an error when a worker comes to it,
//! and what a worker asks ends within the same limit: so a server that does not answer any more
//! costs each reader two limits at most, never for ever.

use std::{
    collections::HashMap,
    ffi::OsStr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crossbeam_channel::{Receiver, Sender, bounded};
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenAccMode, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, Request,
};
use units::Timestamp;
use world::{Clock as _, real::RealClock};

use crate::{
    Entry, Kind, Listed, Node, Trouble, Wanted,
    file::seek,
    inodes::{Inodes, ROOT, number_of},
};

/// Threads that answer what may take time.
const WORKERS: usize = 8;

/// Requests that wait for one of them; the kernel keeps what goes beyond.
const QUEUE: usize = 256;

/// Bytes of one read, at most.
const READ_MAX: u32 = 1 << 20;

/// Reads ahead that the kernel may have in flight.
const BACKGROUND: u16 = 64;

/// For how long the kernel may keep what never changes, and what may.
const FIXED: Duration = Duration::from_hours(1);
const MOVING: Duration = Duration::ZERO;

/// Names in one block of a file system that has none.
const BLOCK: u32 = 4096;

/// Whose the files are, and who may read them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Everybody may read.
    pub(crate) shared: bool,
}

/// The end of the session that the kernel talks to.
pub(crate) struct Answers {
    shared: Arc<Shared>,
    queue: Sender<Job>,
}

/// What all threads share.
pub(crate) struct Shared {
    inodes: Mutex<Inodes>,
    /// Lists of folders that are open.
    lists: Mutex<HashMap<u64, Arc<Vec<Listed>>>>,
    next_list: AtomicU64,
    /// Files that are open.
    opened: AtomicU64,
    idle: Sender<()>,
    owner: Owner,
    limit: Duration,
    clock: RealClock,
    /// Whether a failed read was told: the first is a warning, others are not.
    told: AtomicBool,
}

impl Answers {
    /// Starts the workers; they end when the session does. `idle` hears when the last open file was
    /// closed.
    pub(crate) fn start(
        root: Entry,
        owner: Owner,
        limit: Duration,
        idle: Sender<()>,
    ) -> std::io::Result<(Self, Arc<Shared>)> {
        let shared = Arc::new(Shared {
            inodes: Mutex::new(Inodes::new(root)),
            lists: Mutex::default(),
            next_list: AtomicU64::new(1),
            opened: AtomicU64::new(0),
            idle,
            owner,
            limit,
            clock: RealClock,
            told: AtomicBool::new(false),
        });
        let (queue, jobs) = bounded(QUEUE);
        for number in 0..WORKERS {
            let (shared, jobs) = (Arc::clone(&shared), jobs.clone());
            let name = format!("files-{number}");
            thread::Builder::new().name(name).spawn(move || shared.work(&jobs))?;
        }
        Ok((Self { shared: Arc::clone(&shared), queue }, shared))
    }

    fn queue(&self, work: Work) {
        let asked_ns = self.shared.clock.boot_ns();
        // The workers live as long as this end does; what is dropped is answered with an error.
        let _ = self.queue.send(Job { asked_ns, work });
    }
}

struct Job {
    asked_ns: u64,
    work: Work,
}

/// What may take time.
enum Work {
    Find { parent: u64, name: String, reply: ReplyEntry },
    List { folder: u64, reply: ReplyOpen },
    Read { file: u64, offset: u64, length: u32, reply: ReplyData },
    Seek { file: u64, offset: u64, wanted: Wanted, reply: ReplyLseek },
}

impl Shared {
    /// Files that are open.
    pub(crate) fn opened(&self) -> u64 {
        self.opened.load(Ordering::SeqCst)
    }

    fn work(&self, jobs: &Receiver<Job>) {
        let mut bytes = Vec::new();
        for Job { asked_ns, work } in jobs {
            let waited_ns = u128::from(self.clock.boot_ns().saturating_sub(asked_ns));
            let late = waited_ns > self.limit.as_nanos();
            // A reply that is dropped on the way out is an I/O error to who waits for it.
            let done = catch_unwind(AssertUnwindSafe(|| self.answer(work, late, &mut bytes)));
            if done.is_err() {
                tracing::error!("a request of the kernel ended in a fault of ours");
            }
        }
    }

    fn answer(&self, work: Work, late: bool, bytes: &mut Vec<u8>) {
        match work {
            Work::Find { reply, .. } if late => reply.error(self.late()),
            Work::List { reply, .. } if late => reply.error(self.late()),
            Work::Read { reply, .. } if late => reply.error(self.late()),
            Work::Seek { reply, .. } if late => reply.error(self.late()),
            Work::Find { parent, name, reply } => match self.find(parent, &name) {
                Ok(found) => {
                    let (number, entry) = self.inodes().enter(found);
                    let keep = if entry.fixed { FIXED } else { MOVING };
                    // The entry's own facts are fixed even where its name moves on.
                    let attributes = self.attributes(number, &entry);
                    reply.entry_with_ttls(&FIXED, &keep, &attributes, Generation(0));
                }
                Err(trouble) => reply.error(self.errno(&trouble, || format!("find {name:?}"))),
            },
            Work::List { folder, reply } => match self.list(folder) {
                Ok(listed) => {
                    let handle = self.next_list.fetch_add(1, Ordering::Relaxed);
                    self.lists().insert(handle, Arc::new(listed));
                    reply.opened(FileHandle(handle), FopenFlags::empty());
                }
                Err(trouble) => reply.error(self.errno(&trouble, || "list a folder".to_owned())),
            },
            Work::Read { file, offset, length, reply } => {
                match self.read(file, offset, length, bytes) {
                    Ok(()) => reply.data(bytes),
                    Err(trouble) => reply
                        .error(self.errno(&trouble, || format!("read {length} bytes at {offset}"))),
                }
            }
            Work::Seek { file, offset, wanted, reply } => match self.seek(file, offset, wanted) {
                Ok(Some(place)) => match i64::try_from(place) {
                    Ok(place) => reply.offset(place),
                    Err(_) => reply.error(Errno::EOVERFLOW),
                },
                Ok(None) => reply.error(Errno::ENXIO),
                Err(trouble) => reply.error(self.errno(&trouble, || format!("look at {offset}"))),
            },
        }
    }

    fn find(&self, parent: u64, name: &str) -> Result<Entry, Trouble> {
        match &self.known(parent)?.node {
            Node::Folder(folder) => folder.find(name),
            _ => Err(Trouble::Absent("it is no folder".to_owned())),
        }
    }

    fn list(&self, number: u64) -> Result<Vec<Listed>, Trouble> {
        match &self.known(number)?.node {
            Node::Folder(folder) => folder.list(),
            _ => Err(Trouble::Absent("it is no folder".to_owned())),
        }
    }

    fn read(
        &self,
        number: u64,
        offset: u64,
        length: u32,
        bytes: &mut Vec<u8>,
    ) -> Result<(), Trouble> {
        bytes.clear();
        let entry = self.known(number)?;
        let Node::File(file) = &entry.node else {
            return Err(Trouble::Failed("it is no file".to_owned()));
        };
        let there = file.len().saturating_sub(offset).min(u64::from(length.min(READ_MAX)));
        bytes.resize(usize::try_from(there).expect("bounded by 32 bits"), 0);
        file.read_at(offset, bytes)
    }

    fn seek(&self, number: u64, offset: u64, wanted: Wanted) -> Result<Option<u64>, Trouble> {
        match &self.known(number)?.node {
            Node::File(file) => seek(&**file, offset, wanted),
            _ => Ok(None),
        }
    }

    fn known(&self, number: u64) -> Result<Arc<Entry>, Trouble> {
        let known = self.inodes().get(number);
        known.ok_or_else(|| Trouble::Failed(format!("the inode {number} is not known")))
    }

    fn attributes(&self, number: u64, entry: &Entry) -> FileAttr {
        let (kind, bits, size, kept) = match &entry.node {
            Node::Folder(_) => (FileType::Directory, 0o555, 0, 0),
            Node::File(file) => (FileType::RegularFile, 0o444, file.len(), file.kept()),
            Node::Link(to) => (FileType::Symlink, 0o777, to.len() as u64, 0),
        };
        // What nobody else may read should not become readable by being copied.
        let perm = if self.owner.shared || kind == FileType::Symlink { bits } else { bits & 0o700 };
        let time = system_time(entry.modified);
        FileAttr {
            ino: INodeNo(number),
            size,
            blocks: kept.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm,
            nlink: if kind == FileType::Directory { 2 } else { 1 },
            uid: self.owner.uid,
            gid: self.owner.gid,
            rdev: 0,
            blksize: BLOCK,
            flags: 0,
        }
    }

    fn errno(&self, trouble: &Trouble, doing: impl Fn() -> String) -> Errno {
        match trouble {
            Trouble::Absent(why) => {
                tracing::debug!("cannot {}: {why}", doing());
                Errno::ENOENT
            }
            Trouble::Denied(why) => {
                tracing::debug!("cannot {}: {why}", doing());
                Errno::EACCES
            }
            Trouble::Failed(why) if self.told.swap(true, Ordering::Relaxed) => {
                tracing::debug!("cannot {}: {why}", doing());
                Errno::EIO
            }
            Trouble::Failed(why) => {
                tracing::warn!("cannot {}: {why} (later ones are told with -vv)", doing());
                Errno::EIO
            }
        }
    }

    fn late(&self) -> Errno {
        let waited = Trouble::Failed(format!("nothing was answered within {:?}", self.limit));
        self.errno(&waited, || "answer in time".to_owned())
    }

    // What stands under these locks is whole between two statements: a panic elsewhere harms nothing.
    fn inodes(&self) -> MutexGuard<'_, Inodes> {
        self.inodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lists(&self) -> MutexGuard<'_, HashMap<u64, Arc<Vec<Listed>>>> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Filesystem for Answers {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Each that an old kernel lacks is a matter of speed only.
        let _ = config.add_capabilities(InitFlags::FUSE_PARALLEL_DIROPS);
        let _ = config.set_max_write(READ_MAX); // it bounds a read's pages, too
        let _ = config.set_max_background(BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        // No name here is anything but text.
        let Some(name) = name.to_str() else { return reply.error(Errno::ENOENT) };
        self.queue(Work::Find { parent: parent.0, name: name.to_owned(), reply });
    }

    fn forget(&self, _: &Request, number: INodeNo, lookups: u64) {
        self.shared.inodes().forget(number.0, lookups);
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.shared.known(number.0) {
            Ok(entry) => reply.attr(&FIXED, &self.shared.attributes(number.0, &entry)),
            Err(_) => reply.error(Errno::ESTALE),
        }
    }

    fn readlink(&self, _: &Request, number: INodeNo, reply: ReplyData) {
        match self.shared.known(number.0).as_deref() {
            Ok(Entry { node: Node::Link(to), .. }) => reply.data(to.as_bytes()),
            Ok(_) => reply.error(Errno::EINVAL),
            Err(_) => reply.error(Errno::ESTALE),
        }
    }

    fn open(&self, _: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(Errno::EROFS);
        }
        if self.shared.known(number.0).is_err() {
            return reply.error(Errno::ESTALE);
        }
        self.shared.opened.fetch_add(1, Ordering::SeqCst);
        // The bytes of an inode never change.
        let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH;
        reply.opened(FileHandle(0), flags);
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        if self.shared.opened.fetch_sub(1, Ordering::SeqCst) == 1 {
            let _ = self.shared.idle.try_send(()); // one call is enough
        }
        reply.ok();
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.queue(Work::Read { file: number.0, offset, length, reply });
    }

    fn lseek(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let wanted = match whence {
            SEEK_DATA => Wanted::Data,
            SEEK_HOLE => Wanted::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        self.queue(Work::Seek { file: number.0, offset, wanted, reply });
    }

    fn opendir(&self, _: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.queue(Work::List { folder: number.0, reply });
    }

    fn readdir(
        &self,
        _: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = self.shared.lists().get(&handle.0).cloned();
        let Some(listed) = listed else { return reply.error(Errno::EBADF) };
        let own = [(".", number.0), ("..", ROOT)]
            .map(|(name, number)| (number, FileType::Directory, name));
        let lines = listed.iter().map(|line| {
            let number = number_of(line.key.as_deref().unwrap_or(&line.name));
            (number, file_type(line.kind), line.name.as_str())
        });
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        for (next, (number, kind, name)) in (1..).zip(own.into_iter().chain(lines)).skip(skip) {
            if reply.add(INodeNo(number), next, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.shared.lists().remove(&handle.0);
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(0, 0, 0, 0, 0, BLOCK, 255, BLOCK);
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: fuser::ReplyXattr) {
        reply.error(Errno::ENOSYS); // then the kernel does not ask again
    }

    fn listxattr(&self, _: &Request, _: INodeNo, _: u32, reply: fuser::ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }
}

/// As lseek(2) of Linux numbers them.
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::Folder => FileType::Directory,
        Kind::File => FileType::RegularFile,
        Kind::Link => FileType::Symlink,
    }
}

fn system_time(time: Timestamp) -> SystemTime {
    let ns = Duration::from_nanos(time.0.unsigned_abs());
    let at = if time.0 < 0 { UNIX_EPOCH.checked_sub(ns) } else { UNIX_EPOCH.checked_add(ns) };
    at.unwrap_or(UNIX_EPOCH)
}
