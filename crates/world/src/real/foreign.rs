//! Files that are not the store's: images that a user names, and files that those images name.
//!
//! A name that the user typed is opened as any program would. A name that stands in an image is
//! looked up beneath the folder of that image ([`Folder`]): the kernel refuses what leads out of it,
//! links included. Pipes, sockets and terminals are never waited for and always refused; block
//! devices are taken only where the caller allows them.
//!
//! New files are made under a temporary name in their folder and get their own only when they are
//! whole ([`NewFile::place`]); what is dropped before leaves nothing behind.

use std::{
    ffi::OsStr,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::{
    fs::{
        self, AtFlags, FallocateFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags, SeekFrom,
        Stat, StatxFlags,
    },
    io::{Errno, retry_on_intr},
};

use super::{EditedFile, edited::take_owner};

/// How often a look-up is tried again when a rename elsewhere confused it.
const RACES_MAX: u32 = 64;

/// Zeroes that are written at once where a device cannot be told to make them.
const ZEROES_BYTES: usize = 1 << 20;

/// Reading only, without waiting for the other end of a pipe, and never as a terminal of ours.
const READ: OFlags =
    OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC).union(OFlags::NOCTTY);

/// Which files may be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kinds {
    /// Regular files.
    Files,
    /// Regular files and block devices.
    FilesAndDevices,
}

/// Why a file was not opened.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// There is no such file, or it is a directory.
    #[error("it is not there")]
    Missing,
    /// It is something that an image must not lead to.
    #[error("{0}")]
    Forbidden(&'static str),
    /// The system's answer.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A folder in which names of files are looked up.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
    path: PathBuf,
}

impl Folder {
    /// The folder at a path that the user named.
    pub fn open(path: &Path) -> io::Result<Self> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { fd: fs::open(path, flags, Mode::empty())?, path: path.to_owned() })
    }

    /// The folder of a file that the user named.
    pub fn of(file: &Path) -> io::Result<Self> {
        Self::open(file.parent().unwrap_or(Path::new(".")))
    }

    /// Its path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a file by a relative name that stands in an image, and the folder it lies in.
    pub fn file(&self, name: &str, kinds: Kinds) -> Result<(ForeignFile, Self), Refusal> {
        let fd = self.beneath(name, READ)?;
        let file = ForeignFile::of(fd, kinds)?;
        let folder = match Path::new(name).parent() {
            Some(parent) if !parent.as_os_str().is_empty() => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let fd = self.beneath(&parent.to_string_lossy(), flags)?;
                Self { fd, path: self.path.join(parent) }
            }
            _ => self.again()?,
        };
        Ok((file, folder))
    }

    /// Names of the files (no directories) with this suffix, compared without case; sorted.
    pub fn names(&self, suffix: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::Dir::read_from(&self.fd)? {
            let entry = entry?;
            // A name that is not UTF-8 cannot be told to a parser.
            let Ok(name) = entry.file_name().to_str() else { continue };
            let is_file = matches!(
                entry.file_type(),
                FileType::RegularFile | FileType::Symlink | FileType::Unknown
            );
            let found = Path::new(name).extension().and_then(OsStr::to_str);
            if is_file && found.is_some_and(|found| found.eq_ignore_ascii_case(suffix)) {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Another descriptor of the same folder.
    fn again(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()?, path: self.path.clone() })
    }

    fn beneath(&self, name: &str, flags: OFlags) -> Result<OwnedFd, Refusal> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..RACES_MAX {
            return match fs::openat2(&self.fd, name, flags, Mode::empty(), resolve) {
                Ok(fd) => Ok(fd),
                Err(Errno::AGAIN | Errno::INTR) => continue,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => Err(Refusal::Missing),
                Err(Errno::XDEV) => Err(Refusal::Forbidden("it lies outside the image's folder")),
                Err(Errno::LOOP) => {
                    Err(Refusal::Forbidden("it is reached by too many links, or by a magic one"))
                }
                Err(Errno::NXIO) => Err(Refusal::Forbidden("it is no regular file")),
                Err(error) => Err(Refusal::Io(error.into())),
            };
        }
        Err(Refusal::Io(Errno::AGAIN.into()))
    }
}

/// An open file that is only read.
#[derive(Debug)]
pub struct ForeignFile {
    fd: OwnedFd,
    inode: (u64, u64),
    length_bytes: u64,
    modified_s: u64,
    sparse: bool,
}

/// A stretch of a file, as its file system keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stretch {
    /// So many bytes are kept.
    Data(u64),
    /// So many bytes are a hole, and read as zero.
    Hole(u64),
}

/// What the file system says of a file at one moment. Times are ns since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStat {
    /// Length.
    pub length_bytes: u64,
    /// Last change of its bytes; anybody may set it. 0 for a device.
    pub modified_ns: i64,
    /// Last change of bytes or inode; the clock alone sets it. 0 for a device.
    pub changed_ns: i64,
    /// Inode; the number of a device.
    pub inode: u64,
    /// Device that it lies on; [`u64::MAX`] for what is one.
    pub device: u64,
    /// When it was made, where the file system knows.
    pub born_ns: Option<i64>,
}

impl FileStat {
    /// Of the file at a path; links are followed.
    pub fn at(path: &Path) -> io::Result<Self> {
        Self::asked(fs::CWD, path, AtFlags::empty())
    }

    fn asked(from: impl AsFd, path: &Path, flags: AtFlags) -> io::Result<Self> {
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let told = retry_on_intr(|| fs::statx(&from, path, flags, wanted))?;
        let ns = |time: &fs::StatxTimestamp| {
            time.tv_sec.saturating_mul(1_000_000_000).saturating_add(i64::from(time.tv_nsec))
        };
        let born = told.stx_mask & StatxFlags::BTIME.bits() != 0;
        let device = fs::makedev(told.stx_dev_major, told.stx_dev_minor);
        if FileType::from_raw_mode(told.stx_mode.into()) == FileType::BlockDevice {
            let inode = fs::makedev(told.stx_rdev_major, told.stx_rdev_minor);
            return Ok(Self {
                length_bytes: 0,
                modified_ns: 0,
                changed_ns: 0,
                inode,
                device: u64::MAX,
                born_ns: None,
            });
        }
        Ok(Self {
            length_bytes: told.stx_size,
            modified_ns: ns(&told.stx_mtime),
            changed_ns: ns(&told.stx_ctime),
            inode: told.stx_ino,
            device,
            born_ns: born.then(|| ns(&told.stx_btime)),
        })
    }
}

impl ForeignFile {
    /// Opens a file by a path that the user named.
    pub fn open(path: &Path, kinds: Kinds) -> Result<Self, Refusal> {
        match retry_on_intr(|| fs::open(path, READ, Mode::empty())) {
            Ok(fd) => Self::of(fd, kinds),
            Err(Errno::NOENT | Errno::NOTDIR) => Err(Refusal::Missing),
            Err(Errno::NXIO) => Err(Refusal::Forbidden("it is no regular file")),
            Err(error) => Err(Refusal::Io(error.into())),
        }
    }

    fn of(fd: OwnedFd, kinds: Kinds) -> Result<Self, Refusal> {
        let stat = fs::fstat(&fd).map_err(io::Error::from)?;
        let (inode, length_bytes) = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => ((stat.st_dev, stat.st_ino), length_of(&stat)),
            FileType::Directory => return Err(Refusal::Missing),
            // Two nodes of one device are one file: its number, where no inode can be.
            FileType::BlockDevice if kinds == Kinds::FilesAndDevices => {
                let length = fs::seek(&fd, SeekFrom::End(0)).map_err(io::Error::from)?;
                ((u64::MAX, stat.st_rdev), length)
            }
            FileType::BlockDevice => return Err(Refusal::Forbidden("it is a block device")),
            _ => return Err(Refusal::Forbidden("it is no regular file")),
        };
        let kept = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
        let regular = inode.0 != u64::MAX;
        Ok(Self {
            fd,
            inode,
            length_bytes,
            modified_s: u64::try_from(stat.st_mtime).unwrap_or(0),
            sparse: regular && kept < length_bytes,
        })
    }

    /// Its descriptor, for locks.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// What tells one file from another, whatever its name.
    pub fn inode(&self) -> (u64, u64) {
        self.inode
    }

    /// What the file system says of it now; the length of a device is that of its opening.
    pub fn stat(&self) -> io::Result<FileStat> {
        let told = FileStat::asked(&self.fd, Path::new(""), AtFlags::EMPTY_PATH)?;
        let is_device = told.device == u64::MAX;
        let length_bytes = if is_device { self.length_bytes } else { told.length_bytes };
        Ok(FileStat { length_bytes, ..told })
    }

    /// Its length when it was opened.
    pub fn length_bytes(&self) -> u64 {
        self.length_bytes
    }

    /// When it was last written, in seconds since 1970-01-01 UTC.
    pub fn modified_s(&self) -> u64 {
        self.modified_s
    }

    /// Reads up to `into.len()` bytes: fewer only where the file ends.
    pub fn read_at(&self, offset_bytes: u64, into: &mut [u8]) -> io::Result<usize> {
        read_all(&self.fd, offset_bytes, into)
    }

    /// What stands at `offset_bytes`, for at most `length_bytes` (which is not 0). A file system that
    /// does not tell has data everywhere.
    pub fn stretch(&self, offset_bytes: u64, length_bytes: u64) -> Stretch {
        if !self.sparse {
            return Stretch::Data(length_bytes);
        }
        match fs::seek(&self.fd, SeekFrom::Data(offset_bytes)) {
            Ok(data) if data > offset_bytes => Stretch::Hole(length_bytes.min(data - offset_bytes)),
            Ok(_) => match fs::seek(&self.fd, SeekFrom::Hole(offset_bytes)) {
                Ok(hole) if hole > offset_bytes => {
                    Stretch::Data(length_bytes.min(hole - offset_bytes))
                }
                _ => Stretch::Data(length_bytes),
            },
            // Nothing but a hole up to the end; past the end reading says so itself.
            Err(Errno::NXIO) if offset_bytes < self.length_bytes => {
                Stretch::Hole(length_bytes.min(self.length_bytes - offset_bytes))
            }
            Err(_) => Stretch::Data(length_bytes),
        }
    }
}

fn length_of(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

/// What stands at a path that is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nothing.
    Free,
    /// A regular file.
    File,
    /// A block device.
    Device,
    /// Something that is neither.
    Other,
}

impl Place {
    /// Looks at a path; links are followed.
    pub fn at(path: &Path) -> io::Result<Self> {
        match fs::stat(path) {
            Ok(stat) => Ok(match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => Self::File,
                FileType::BlockDevice => Self::Device,
                _ => Self::Other,
            }),
            Err(Errno::NOENT) => Ok(Self::Free),
            Err(error) => Err(error.into()),
        }
    }
}

/// A file in the making, under a temporary name beside its own; private (mode 0600).
#[derive(Debug)]
pub struct NewFile {
    fd: OwnedFd,
    folder: Folder,
    temporary: Option<String>,
    name: PathBuf,
}

impl NewFile {
    /// Makes the file that shall be called `path`.
    pub fn beside(path: &Path) -> io::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let folder = Folder::of(path)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let temporary = format!(".strandline-{}-{number}.part", std::process::id());
            match fs::openat(&folder.fd, &temporary, flags, Mode::RUSR | Mode::WUSR) {
                Ok(fd) => {
                    let name = PathBuf::from(name);
                    return Ok(Self { fd, folder, temporary: Some(temporary), name });
                }
                Err(Errno::EXIST | Errno::INTR) => (), // left by a process of our number
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Writes all of `from`.
    pub fn write_at(&self, offset_bytes: u64, from: &[u8]) -> io::Result<()> {
        write_all(&self.fd, offset_bytes, from)
    }

    /// Fills `into` with what was written; it lies within the file.
    pub fn read_at(&self, offset_bytes: u64, into: &mut [u8]) -> io::Result<()> {
        let read = read_all(&self.fd, offset_bytes, into)?;
        if read < into.len() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// Cuts or grows the file; what is new is a hole.
    pub fn set_length(&self, length_bytes: u64) -> io::Result<()> {
        Ok(retry_on_intr(|| fs::ftruncate(&self.fd, length_bytes))?)
    }

    /// Bytes that the file system keeps of it.
    pub fn kept_bytes(&self) -> io::Result<u64> {
        let blocks = fs::fstat(&self.fd)?.st_blocks;
        Ok(u64::try_from(blocks).unwrap_or(0).saturating_mul(512))
    }

    /// Gives it owner, group and mode of the file that it shall replace.
    pub fn take_owner_of(&self, old: &EditedFile) -> io::Result<()> {
        take_owner(&self.fd, old.descriptor())
    }

    /// Makes its bytes durable, gives it its own name, and makes that durable. Unless `replace`, a
    /// file of that name is kept and the call fails with [`io::ErrorKind::AlreadyExists`].
    pub fn place(mut self, replace: bool) -> io::Result<()> {
        retry_on_intr(|| fs::fsync(&self.fd))?;
        let temporary = self.temporary.clone().ok_or(io::ErrorKind::NotFound)?;
        let folder = &self.folder.fd;
        if replace {
            fs::renameat(folder, &temporary, folder, &self.name)?;
        } else {
            let flags = RenameFlags::NOREPLACE;
            match fs::renameat_with(folder, &temporary, folder, &self.name, flags) {
                Err(Errno::INVAL | Errno::NOSYS) => {
                    // A file system without it: a link is refused where the name is taken.
                    fs::linkat(folder, &temporary, folder, &self.name, AtFlags::empty())?;
                    fs::unlinkat(folder, &temporary, AtFlags::empty())?;
                }
                other => other?,
            }
        }
        self.temporary = None;
        Ok(retry_on_intr(|| fs::fsync(folder))?)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(temporary) = self.temporary.take() {
            // What cannot be removed is left: its name says whose it is.
            let _ = fs::unlinkat(&self.folder.fd, &temporary, AtFlags::empty());
        }
    }
}

/// A block device that is written over.
#[derive(Debug)]
pub struct TargetDevice {
    fd: OwnedFd,
    length_bytes: u64,
}

impl TargetDevice {
    /// Opens the device for this process alone: refused while it is mounted or otherwise held.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOCTTY;
        let fd = retry_on_intr(|| fs::open(path, flags, Mode::empty()))?;
        if FileType::from_raw_mode(fs::fstat(&fd)?.st_mode) != FileType::BlockDevice {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let length_bytes = fs::seek(&fd, SeekFrom::End(0))?;
        Ok(Self { fd, length_bytes })
    }

    /// Its length.
    pub fn length_bytes(&self) -> u64 {
        self.length_bytes
    }

    /// Whether its first or last `look_bytes` are anything but zeroes.
    pub fn holds_data(&self, look_bytes: usize) -> io::Result<bool> {
        let mut bytes = vec![0; look_bytes];
        for start in [0, self.length_bytes.saturating_sub(look_bytes as u64)] {
            let read = rustix::io::pread(&self.fd, &mut bytes[..], start)?;
            if bytes[..read].iter().any(|byte| *byte != 0) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Writes all of `from`.
    pub fn write_at(&self, offset_bytes: u64, from: &[u8]) -> io::Result<()> {
        write_all(&self.fd, offset_bytes, from)
    }

    /// Makes a range read as zero: by the device itself where it can.
    pub fn write_zeroes(&self, offset_bytes: u64, length_bytes: u64) -> io::Result<()> {
        static ZEROES: [u8; ZEROES_BYTES] = [0; ZEROES_BYTES];
        if length_bytes == 0 {
            return Ok(());
        }
        let flags = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        if retry_on_intr(|| fs::fallocate(&self.fd, flags, offset_bytes, length_bytes)).is_ok() {
            return Ok(());
        }
        let (mut offset, end) = (offset_bytes, offset_bytes + length_bytes);
        while offset < end {
            let now = usize::try_from(end - offset).unwrap_or(usize::MAX).min(ZEROES.len());
            self.write_at(offset, &ZEROES[..now])?;
            offset += now as u64;
        }
        Ok(())
    }

    /// Makes all that was written durable.
    pub fn sync(&self) -> io::Result<()> {
        Ok(retry_on_intr(|| fs::fsync(&self.fd))?)
    }
}

/// Reads until `into` is full or the file ends; gives how many bytes came.
fn read_all(fd: impl AsFd, offset_bytes: u64, into: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < into.len() {
        match rustix::io::pread(&fd, &mut into[done..], offset_bytes + done as u64) {
            Ok(0) => break,
            Ok(bytes) => done += bytes,
            Err(Errno::INTR) => (),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(done)
}

pub(super) fn write_all(fd: impl AsFd, offset_bytes: u64, from: &[u8]) -> io::Result<()> {
    let mut done = 0;
    while done < from.len() {
        match rustix::io::pwrite(&fd, &from[done..], offset_bytes + done as u64) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(bytes) => done += bytes,
            Err(Errno::INTR) => (),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn folder() -> (tempfile::TempDir, Folder) {
        let dir = tempfile::tempdir().expect("a directory");
        let folder = Folder::open(dir.path()).expect("opens");
        (dir, folder)
    }

    fn put(path: &Path, bytes: &[u8]) {
        let file = NewFile::beside(path).expect("made");
        file.write_at(0, bytes).expect("written");
        file.place(true).expect("placed");
    }

    #[test]
    fn names_in_images_cannot_leave_their_folder() {
        let (dir, folder) = folder();
        std::fs::create_dir(dir.path().join("sub")).expect("made");
        put(&dir.path().join("sub/base"), b"base");
        symlink("/etc/passwd", dir.path().join("out")).expect("a link");
        symlink("sub/base", dir.path().join("in")).expect("a link");
        symlink("me", dir.path().join("me")).expect("a link");
        for name in ["out", "/etc/passwd", "../x", "me"] {
            let refused = folder.file(name, Kinds::FilesAndDevices);
            assert!(matches!(refused, Err(Refusal::Forbidden(_))), "{name}: {refused:?}");
        }
        for name in ["absent", "sub", "sub/base/x"] {
            let refused = folder.file(name, Kinds::Files);
            assert!(matches!(refused, Err(Refusal::Missing)), "{name}: {refused:?}");
        }
        let (file, below) = folder.file("sub/base", Kinds::Files).expect("opens");
        assert_eq!(folder.file("in", Kinds::Files).expect("opens").0.inode(), file.inode());
        assert_eq!(below.file("base", Kinds::Files).expect("opens").0.inode(), file.inode());
    }

    #[test]
    fn pipes_and_devices_are_refused_at_once() {
        let (dir, folder) = folder();
        let pipe = dir.path().join("pipe");
        fs::mknodat(fs::CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).expect("made");
        assert!(matches!(folder.file("pipe", Kinds::Files), Err(Refusal::Forbidden(_))));
        for path in [pipe.as_path(), Path::new("/dev/null")] {
            let refused = ForeignFile::open(path, Kinds::FilesAndDevices);
            assert!(matches!(refused, Err(Refusal::Forbidden(_))), "{refused:?}");
        }
    }

    #[test]
    fn a_file_is_told_by_its_inode_and_times() {
        let (dir, _) = folder();
        let (one, two) = (dir.path().join("a"), dir.path().join("b"));
        put(&one, b"hello");
        let file = ForeignFile::open(&one, Kinds::Files).expect("opens");
        let stat = file.stat().expect("told");
        assert_eq!((stat.length_bytes, (stat.device, stat.inode)), (5, file.inode()));
        assert!(stat.modified_ns > 0 && stat.changed_ns >= stat.modified_ns, "{stat:?}");
        fs::renameat(fs::CWD, &one, fs::CWD, &two).expect("moved");
        let moved = FileStat::at(&two).expect("told");
        let same = |stat: FileStat| (stat.inode, stat.device, stat.born_ns, stat.modified_ns);
        assert_eq!(same(moved), same(stat));
        put(&one, b"hello");
        assert_ne!(FileStat::at(&one).expect("told").inode, stat.inode);
        assert!(FileStat::at(&dir.path().join("absent")).is_err());
    }

    #[test]
    fn reads_end_where_the_file_ends() {
        let (dir, _) = folder();
        put(&dir.path().join("a"), b"hello");
        let file = ForeignFile::open(&dir.path().join("a"), Kinds::Files).expect("opens");
        let mut bytes = [0; 8];
        assert_eq!((file.length_bytes(), file.read_at(1, &mut bytes).expect("read")), (5, 4));
        assert_eq!(&bytes[..4], b"ello");
        assert_eq!(file.read_at(9, &mut bytes).expect("read"), 0);
    }

    #[test]
    fn holes_are_told_from_data() {
        let (dir, _) = folder();
        let new = NewFile::beside(&dir.path().join("a")).expect("made");
        new.set_length(4 << 20).expect("grown");
        new.write_at(1 << 20, &[7; 4096]).expect("written");
        new.place(false).expect("placed");
        let file = ForeignFile::open(&dir.path().join("a"), Kinds::Files).expect("opens");
        if file.stretch(0, 4 << 20) == Stretch::Data(4 << 20) {
            return; // this file system does not tell
        }
        assert_eq!(file.stretch(0, 4 << 20), Stretch::Hole(1 << 20));
        assert_eq!(file.stretch(0, 512), Stretch::Hole(512));
        assert!(matches!(file.stretch(1 << 20, 1 << 20), Stretch::Data(n) if n >= 4096));
        assert_eq!(file.stretch(3 << 20, 9 << 20), Stretch::Hole(1 << 20));
    }

    #[test]
    fn a_new_file_appears_whole_or_not_at_all() {
        let (dir, folder) = folder();
        let path = dir.path().join("out.raw");
        drop(NewFile::beside(&path).expect("made"));
        assert_eq!(folder.names("part").expect("listed"), Vec::<String>::new());
        put(&path, b"first");
        let mode = path.metadata().expect("stat").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let second = NewFile::beside(&path).expect("made");
        second.write_at(0, b"second").expect("written");
        let error = second.place(false).expect_err("taken");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::metadata(&path).expect("stat").len(), 5);
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 1);
        put(&path, b"second");
        assert_eq!(std::fs::metadata(&path).expect("stat").len(), 6);
        assert_eq!(folder.names("RAW").expect("listed"), ["out.raw"]);
    }

    #[test]
    fn a_path_is_looked_at_before_it_is_written() {
        let (dir, _) = folder();
        assert_eq!(Place::at(&dir.path().join("x")).expect("looks"), Place::Free);
        put(&dir.path().join("x"), b"");
        assert_eq!(Place::at(&dir.path().join("x")).expect("looks"), Place::File);
        assert_eq!(Place::at(dir.path()).expect("looks"), Place::Other);
        assert!(TargetDevice::open(&dir.path().join("x")).is_err());
    }
}
