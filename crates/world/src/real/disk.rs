//! A directory of the machine as the store's disk.
//!
//! The directory is opened once; every name is looked up below that descriptor, so the store may be
//! moved or its path replaced under us. Files are made with mode 0600, directories with 0700, no
//! last part of a name is followed if it is a link, and no descriptor passes to another program.
//!
//! Direct access is asked of the file system for each file: it refuses ([`DiskFile::alignment`] is 1
//! then), tells its alignment (`statx`, Linux 6.1), or accepts silently, which is taken as 4096.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
    sync::Arc,
};

use rustix::{
    fs::{self, AtFlags, FallocateFlags, FileType, FlockOperation, Mode, OFlags, StatxFlags},
    io::Errno,
};

use crate::{Access, Disk, DiskFile, File, Pool, Space};

/// Alignment where direct access works but nobody tells which one it needs.
const ALIGNMENT_UNTOLD: usize = 4096;

/// No file system that we know asks for more; one that does is used through the page cache.
const ALIGNMENT_MAX: usize = 4096;

/// Name of the file that [`RealDisk::probe`] makes and removes again.
const PROBE: &str = "probe.tmp";

/// The store's directory on this machine.
#[derive(Debug)]
pub struct RealDisk {
    directory: OwnedFd,
}

impl RealDisk {
    /// Opens a directory that exists.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { directory: fs::open(path, flags, Mode::empty())? })
    }

    /// Takes the store for one writer or several readers; held until the lock is dropped. The lock
    /// ends with the process, however that ends.
    pub fn lock(&self, name: &str, kind: LockKind) -> Result<StoreLock, LockError> {
        check_path(name)?;
        let (flags, operation) = match kind {
            LockKind::Write => {
                (OFlags::RDWR | OFlags::CREATE, FlockOperation::NonBlockingLockExclusive)
            }
            LockKind::Read => (OFlags::RDONLY, FlockOperation::NonBlockingLockShared),
        };
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = fs::openat(&self.directory, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(io::Error::from)?;
        match fs::flock(&file, operation) {
            Ok(()) => Ok(StoreLock { _file: file }),
            Err(Errno::WOULDBLOCK) => Err(LockError::Busy),
            Err(error) => Err(LockError::Io(error.into())),
        }
    }

    /// What kind of file system holds the directory.
    pub fn file_system(&self) -> io::Result<FileSystem> {
        let magic = fs::fstatfs(&self.directory)?.f_type;
        let (name, kind) = u64::try_from(magic)
            .ok()
            .and_then(|magic| FILE_SYSTEMS.iter().find(|row| row.0 == magic))
            .map_or(("unknown", FileSystemKind::Unknown), |row| (row.1, row.2));
        Ok(FileSystem { name, kind, magic: magic.unsigned_abs(), read_only: self.read_only()? })
    }

    /// Whether we cannot write here: a read-only medium or no right to.
    pub fn read_only(&self) -> io::Result<bool> {
        match fs::accessat(&self.directory, ".", fs::Access::WRITE_OK, AtFlags::EACCESS) {
            Ok(()) => Ok(false),
            Err(Errno::ROFS | Errno::ACCESS | Errno::PERM) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes and reads one page round the page cache, in a file that is gone afterwards: the
    /// alignment that worked, or `None` where the file system knows no direct access.
    pub fn probe(&self) -> io::Result<Option<usize>> {
        match self.remove(PROBE) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => (),
        }
        let file = self.open(PROBE, Access::WRITE_DIRECT.new_file())?;
        let alignment = file.alignment();
        let result = if alignment == 1 { Ok(None) } else { probe_page(&file, alignment) };
        self.remove(PROBE)?;
        result
    }

    fn open_direct(&self, path: &str, flags: OFlags, mode: Mode) -> io::Result<Arc<RealFile>> {
        let made = flags - (OFlags::CREATE | OFlags::EXCL); // for a second try on what we just made
        match fs::openat(&self.directory, path, flags | OFlags::DIRECT, mode) {
            Ok(fd) => {
                if let Some(alignment) = direct_alignment(&fd) {
                    return Ok(Arc::new(RealFile { fd, alignment }));
                }
                let fd = fs::openat(&self.directory, path, made, mode)?;
                Ok(Arc::new(RealFile { fd, alignment: 1 }))
            }
            Err(Errno::INVAL) => {
                // Some kernels refuse only after they made the file. Had it been there before, the
                // first call would have ended with EEXIST, so an empty one is ours.
                let fd = match fs::openat(&self.directory, path, flags, mode) {
                    Err(Errno::EXIST) if self.is_empty_file(path) => {
                        fs::openat(&self.directory, path, made, mode)?
                    }
                    other => other?,
                };
                Ok(Arc::new(RealFile { fd, alignment: 1 }))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn is_empty_file(&self, path: &str) -> bool {
        fs::statat(&self.directory, path, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| {
            stat.st_size == 0 && FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        })
    }

    fn open_dir(&self, path: &str) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(fs::openat(&self.directory, path, flags, Mode::empty())?)
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &str, access: Access) -> io::Result<File> {
        check_path(path)?;
        let mut flags = OFlags::CLOEXEC | OFlags::NOFOLLOW;
        flags |= if access.write { OFlags::RDWR } else { OFlags::RDONLY };
        if access.create_new {
            flags |= OFlags::CREATE | OFlags::EXCL;
        }
        let mode = Mode::RUSR | Mode::WUSR;
        if access.direct {
            return Ok(self.open_direct(path, flags, mode)?);
        }
        let fd = fs::openat(&self.directory, path, flags, mode)?;
        Ok(Arc::new(RealFile { fd, alignment: 1 }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        check_path(from)?;
        check_path(to)?;
        Ok(fs::renameat(&self.directory, from, &self.directory, to)?)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        check_path(path)?;
        Ok(fs::unlinkat(&self.directory, path, AtFlags::empty())?)
    }

    fn make_dir(&self, path: &str) -> io::Result<()> {
        check_path(path)?;
        match fs::mkdirat(&self.directory, path, Mode::RWXU) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => self.open_dir(path).map(drop), // fine only if it is a directory
            Err(error) => Err(error.into()),
        }
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        if path.is_empty() {
            return Ok(fs::fsync(&self.directory)?);
        }
        check_path(path)?;
        Ok(fs::fsync(self.open_dir(path)?)?)
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let directory = if path.is_empty() { "." } else { path };
        if !path.is_empty() {
            check_path(path)?;
        }
        let directory = match self.open_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut names = Vec::new();
        for entry in fs::Dir::read_from(&directory)? {
            let entry = entry?;
            // A name that is not UTF-8 was not given by us.
            let Ok(name) = entry.file_name().to_str() else { continue };
            if is_file(&directory, entry.file_name(), entry.file_type())? {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn space(&self) -> io::Result<Space> {
        let room = fs::fstatvfs(&self.directory)?;
        Ok(Space {
            total_bytes: room.f_blocks.saturating_mul(room.f_frsize),
            free_bytes: room.f_bavail.saturating_mul(room.f_frsize),
        })
    }
}

/// The names in [`Disk`] are ours; a wrong one is a bug above and must not leave the directory.
fn check_path(path: &str) -> io::Result<()> {
    let odd = |part: &str| part.is_empty() || part == "." || part == "..";
    if path.contains('\0') || path.split('/').any(odd) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no name below the store"));
    }
    Ok(())
}

fn is_file(directory: &OwnedFd, name: &CStr, told: FileType) -> io::Result<bool> {
    if told != FileType::Unknown {
        return Ok(told == FileType::RegularFile);
    }
    match fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile),
        Err(Errno::NOENT) => Ok(false), // removed meanwhile
        Err(error) => Err(error.into()),
    }
}

/// What direct access to this file needs; `None`: the file system says that it has none.
fn direct_alignment(fd: &OwnedFd) -> Option<usize> {
    let Ok(told) = fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) else {
        return Some(ALIGNMENT_UNTOLD);
    };
    if told.stx_mask & StatxFlags::DIOALIGN.bits() == 0 {
        return Some(ALIGNMENT_UNTOLD);
    }
    if told.stx_dio_offset_align == 0 {
        return None;
    }
    // One number for both: an address needs less on most devices, but our pages have it anyway.
    let alignment = told.stx_dio_offset_align.max(told.stx_dio_mem_align).max(512);
    let alignment = usize::try_from(alignment).ok()?;
    (alignment <= ALIGNMENT_MAX && alignment.is_power_of_two()).then_some(alignment)
}

fn probe_page(file: &File, alignment: usize) -> io::Result<Option<usize>> {
    let pool = Pool::new(1);
    let mut page = pool.take(alignment).ok_or(io::ErrorKind::OutOfMemory)?;
    page.fill(0x5a);
    let round = file.write_at(0, &page).and_then(|()| {
        page.fill(0);
        file.read_at(0, &mut page)
    });
    match round {
        Ok(()) if page.iter().all(|&byte| byte == 0x5a) => Ok(Some(alignment)),
        Ok(()) => Err(io::Error::other("a page read back is not the page written")),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(None),
        Err(error) => Err(error),
    }
}

/// How a store is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    /// By its one writer.
    Write,
    /// By readers; works on a read-only medium, if the lock file is there.
    Read,
}

/// The store is ours while this lives.
#[derive(Debug)]
pub struct StoreLock {
    _file: OwnedFd,
}

/// Why the store could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("another process has the store open")]
    Busy,
    /// The lock file cannot be used.
    #[error("lock file of the store")]
    Io(#[from] io::Error),
}

/// Which file system holds a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSystem {
    /// As `mount` calls it; `unknown` if we do not know it.
    pub name: &'static str,
    /// What follows from it.
    pub kind: FileSystemKind,
    /// Its number in `statfs`.
    pub magic: u64,
    /// We cannot write there.
    pub read_only: bool,
}

/// What may be expected of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystemKind {
    /// On a local disk, overwrites in place: the ground that we are made for.
    InPlace,
    /// On a local disk, writes each block anew or stacks on another one: works, slower.
    CopyOnWrite,
    /// In memory: gone with the power.
    Memory,
    /// Over the network: locks and flushes mean what the other end makes of them.
    Network,
    /// Cannot be written at all (images of installed systems).
    ReadOnly,
    /// In user space or not known to us.
    Unknown,
}

/// Magic numbers of statfs(2) and the kernel's `uapi/linux/magic.h`.
const FILE_SYSTEMS: [(u64, &str, FileSystemKind); 24] = [
    (0xef53, "ext4", FileSystemKind::InPlace), // ext2 and ext3 too
    (0x5846_5342, "xfs", FileSystemKind::InPlace),
    (0x3153_464a, "jfs", FileSystemKind::InPlace),
    (0x4d44, "vfat", FileSystemKind::InPlace),
    (0x2011_bab0, "exfat", FileSystemKind::InPlace),
    (0x9123_683e, "btrfs", FileSystemKind::CopyOnWrite),
    (0x2fc1_2fc1, "zfs", FileSystemKind::CopyOnWrite),
    (0xca45_1a4e, "bcachefs", FileSystemKind::CopyOnWrite),
    (0xf2f5_2010, "f2fs", FileSystemKind::CopyOnWrite),
    (0x3434, "nilfs2", FileSystemKind::CopyOnWrite),
    (0x794c_7630, "overlay", FileSystemKind::CopyOnWrite),
    (0x0102_1994, "tmpfs", FileSystemKind::Memory),
    (0x8584_58f6, "ramfs", FileSystemKind::Memory),
    (0x6969, "nfs", FileSystemKind::Network),
    (0xff53_4d42, "cifs", FileSystemKind::Network),
    (0xfe53_4d42, "smb2", FileSystemKind::Network),
    (0x0102_1997, "9p", FileSystemKind::Network),
    (0x00c3_6400, "ceph", FileSystemKind::Network),
    (0x5346_414f, "afs", FileSystemKind::Network),
    (0x6b41_4653, "afs", FileSystemKind::Network),
    (0x0116_1970, "gfs2", FileSystemKind::Network),
    (0x7461_636f, "ocfs2", FileSystemKind::Network),
    (0x7371_7368, "squashfs", FileSystemKind::ReadOnly),
    (0xe0f5_e1e2, "erofs", FileSystemKind::ReadOnly),
];

/// An open file of this machine.
#[derive(Debug)]
pub struct RealFile {
    fd: OwnedFd,
    alignment: usize,
}

impl RealFile {
    /// A file that somebody else opened (passed by the command line, or in memory), used through
    /// the page cache.
    pub fn adopt(fd: OwnedFd) -> File {
        Arc::new(Self { fd, alignment: 1 })
    }
}

impl DiskFile for RealFile {
    fn read_at(&self, offset_bytes: u64, into: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while done < into.len() {
            let at = offset_bytes + done as u64;
            match rustix::io::pread(&self.fd, &mut into[done..], at) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(bytes) => done += bytes,
                Err(Errno::INTR) => (),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn write_at(&self, offset_bytes: u64, from: &[u8]) -> io::Result<()> {
        let mut done = 0;
        while done < from.len() {
            let at = offset_bytes + done as u64;
            match rustix::io::pwrite(&self.fd, &from[done..], at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => done += bytes,
                Err(Errno::INTR) => (),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(fs::fdatasync(&self.fd)?)
    }

    fn length_bytes(&self) -> io::Result<u64> {
        let length = fs::fstat(&self.fd)?.st_size;
        u64::try_from(length).map_err(|_| io::ErrorKind::InvalidData.into())
    }

    fn set_length(&self, length_bytes: u64) -> io::Result<()> {
        Ok(rustix::io::retry_on_intr(|| fs::ftruncate(&self.fd, length_bytes))?)
    }

    fn allocate(&self, length_bytes: u64) -> io::Result<()> {
        if length_bytes == 0 {
            return Ok(());
        }
        let allocate = || fs::fallocate(&self.fd, FallocateFlags::empty(), 0, length_bytes);
        match rustix::io::retry_on_intr(allocate) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) if self.length_bytes()? < length_bytes => {
                self.set_length(length_bytes)
            }
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn alignment(&self) -> usize {
        self.alignment
    }

    fn handle(&self) -> i32 {
        self.fd.as_fd().as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn store() -> (tempfile::TempDir, RealDisk) {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = RealDisk::open(dir.path()).expect("opens");
        (dir, disk)
    }

    #[test]
    fn names_cannot_leave_the_store() {
        let (dir, disk) = store();
        for path in ["", "..", "../x", "/etc/passwd", "a//b", "a/../b", "./a", "a\0b"] {
            let error = disk.open(path, Access::READ).expect_err(path);
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{path}");
        }
        symlink("/etc/passwd", dir.path().join("link")).expect("a link");
        let error = disk.open("link", Access::READ).expect_err("a link");
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
    }

    #[test]
    fn a_new_file_must_be_new_and_is_private() {
        let (dir, disk) = store();
        disk.make_dir("pack").expect("made");
        disk.make_dir("pack").expect("there already");
        let file = disk.open("pack/1.pack", Access::WRITE.new_file()).expect("made");
        let error = disk.open("pack/1.pack", Access::WRITE.new_file()).expect_err("there");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        let mode = dir.path().join("pack/1.pack").metadata().expect("stat").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let error = disk.make_dir("pack/1.pack").expect_err("a file is in the way");
        assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
        file.write_at(3, b"abc").expect("written");
        assert_eq!(file.length_bytes().expect("length"), 6);
    }

    #[test]
    fn reads_end_where_the_file_ends() {
        let (_dir, disk) = store();
        let file = disk.open("a", Access::WRITE.new_file()).expect("made");
        file.write_at(0, b"hello").expect("written");
        file.sync_data().expect("synced");
        let mut bytes = [0; 5];
        file.read_at(0, &mut bytes).expect("read");
        assert_eq!(&bytes, b"hello");
        let error = file.read_at(1, &mut bytes).expect_err("one byte short");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        file.set_length(8).expect("grown");
        file.read_at(3, &mut bytes).expect("read");
        assert_eq!(&bytes, b"lo\0\0\0");
        let reader = disk.open("a", Access::READ).expect("opens");
        assert_eq!(
            reader.write_at(0, b"x").expect_err("read only").raw_os_error(),
            Some(libc::EBADF)
        );
    }

    #[test]
    fn lists_files_only_and_renames_over() {
        let (dir, disk) = store();
        assert_eq!(disk.list("absent").expect("empty"), Vec::<String>::new());
        for name in ["b", "a", "c"] {
            disk.open(name, Access::WRITE.new_file())
                .expect("made")
                .write_at(0, name.as_bytes())
                .expect("written");
        }
        disk.make_dir("dir").expect("made");
        symlink("a", dir.path().join("link")).expect("a link");
        assert_eq!(disk.list("").expect("listed"), ["a", "b", "c"]);
        disk.rename("a", "c").expect("renamed");
        disk.sync_dir("").expect("synced");
        disk.rename("b", "dir/b").expect("renamed");
        disk.sync_dir("dir").expect("synced");
        assert_eq!(disk.list("").expect("listed"), ["c"]);
        assert_eq!(disk.list("dir").expect("listed"), ["b"]);
        let mut byte = [0];
        disk.open("c", Access::READ).expect("opens").read_at(0, &mut byte).expect("read");
        assert_eq!(&byte, b"a");
        disk.remove("c").expect("removed");
        assert_eq!(disk.remove("c").expect_err("gone").kind(), io::ErrorKind::NotFound);
        assert!(disk.remove("dir").is_err());
    }

    #[test]
    fn allocated_room_reads_as_zero_and_is_kept() {
        let (_dir, disk) = store();
        let file = disk.open("a", Access::WRITE.new_file()).expect("made");
        file.write_at(0, b"x").expect("written");
        file.allocate(1 << 20).expect("allocated");
        assert_eq!(file.length_bytes().expect("length"), 1 << 20);
        file.allocate(4096).expect("less is fine");
        assert_eq!(file.length_bytes().expect("length"), 1 << 20);
        let mut bytes = [1; 2];
        file.read_at(0, &mut bytes).expect("read");
        assert_eq!(&bytes, b"x\0");
        let space = disk.space().expect("space");
        assert!(space.free_bytes <= space.total_bytes && space.total_bytes > 0);
    }

    #[test]
    fn direct_files_say_their_alignment_and_keep_it() {
        let (_dir, disk) = store();
        let probed = disk.probe().expect("probed");
        assert_eq!(disk.list("").expect("listed"), Vec::<String>::new());
        let file = disk.open("a", Access::WRITE_DIRECT.new_file()).expect("made");
        assert_eq!(file.alignment(), probed.unwrap_or(1));
        let pool = Pool::new(1);
        let mut page = pool.take(4096).expect("a page");
        page.fill(7);
        file.write_at(4096, &page).expect("written");
        page.fill(0);
        let again = disk.open("a", Access::READ_DIRECT).expect("opens");
        again.read_at(4096, &mut page).expect("read");
        assert!(page.iter().all(|&byte| byte == 7));
        if file.alignment() > 1 {
            let error = file.write_at(1, &page).expect_err("an odd offset");
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn a_store_has_one_writer_or_many_readers() {
        let (dir, disk) = store();
        let reader = disk.lock("lock", LockKind::Read);
        assert!(matches!(reader, Err(LockError::Io(_))), "no lock file yet");
        let writer = disk.lock("lock", LockKind::Write).expect("free");
        let other = RealDisk::open(dir.path()).expect("opens");
        assert!(matches!(other.lock("lock", LockKind::Write), Err(LockError::Busy)));
        assert!(matches!(other.lock("lock", LockKind::Read), Err(LockError::Busy)));
        drop(writer);
        let readers = [disk.lock("lock", LockKind::Read), other.lock("lock", LockKind::Read)];
        assert!(readers.iter().all(Result::is_ok));
        assert!(matches!(other.lock("lock", LockKind::Write), Err(LockError::Busy)));
    }

    #[test]
    fn a_store_in_memory_is_known() {
        let Ok(disk) = RealDisk::open(Path::new("/dev/shm")) else { return }; // none mounted here
        let found = disk.file_system().expect("statfs");
        assert_eq!((found.name, found.kind), ("tmpfs", FileSystemKind::Memory));
    }
}
