//! Where files of a guest's disk are put: a folder that nothing written into it can leave.
//!
//! Names come from strangers. Each is one component, used relative to an open folder and never followed
//! if it is a link; a deeper folder is opened by the kernel with the promise to stay beneath the top
//! one and to pass no link. Nothing here makes a device, a pipe or a socket. A file is written under a
//! temporary name, private, and gets its own name and rights when it is whole.

use std::{
    ffi::OsStr,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::{
    fs::{
        self, AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Timespec,
        Timestamps, Uid,
    },
    io::{Errno, retry_on_intr},
};

/// How often a look-up is tried again when a rename elsewhere confused it.
const RACES_MAX: u32 = 64;

/// What a restored file gets beside its content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Permissions with setuid, setgid and sticky bit: 12 bits.
    pub mode: Option<u16>,
    /// User and group.
    pub owner: Option<(u32, u32)>,
    /// Seconds since 1970 and nanoseconds of the last change.
    pub modified: Option<(i64, u32)>,
}

/// A folder that is written into.
#[derive(Debug)]
pub struct Landing {
    fd: OwnedFd,
}

impl Landing {
    /// The folder at a path that the user named, made if it is not there.
    pub fn make(path: &Path) -> io::Result<Self> {
        match fs::mkdir(path, Mode::RWXU | Mode::RWXG | Mode::RWXO) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Self { fd: fs::open(path, FOLDER, Mode::empty())? })
    }

    /// A folder beneath it; `path` is relative, and none of its parts may be a link. An empty path is
    /// the folder itself.
    pub fn below(&self, path: &OsStr) -> io::Result<Self> {
        let path = if path.is_empty() { OsStr::new(".") } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        for _ in 0..RACES_MAX {
            match fs::openat2(&self.fd, path, FOLDER, Mode::empty(), resolve) {
                Ok(fd) => return Ok(Self { fd }),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Errno::AGAIN.into())
    }

    /// Whether the name is taken, by a link to nowhere too.
    pub fn holds(&self, name: &OsStr) -> io::Result<bool> {
        match fs::statat(&self.fd, checked(name)?, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a folder, private until it gets its attributes. With `merge`, one that is there is good.
    pub fn make_folder(&self, name: &OsStr, merge: bool) -> io::Result<()> {
        match fs::mkdirat(&self.fd, checked(name)?, Mode::RWXU) {
            Err(Errno::EXIST) if merge => {
                let stat = fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
                match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Directory => Ok(()),
                    _ => Err(Errno::EXIST.into()),
                }
            }
            other => Ok(other?),
        }
    }

    /// Begins a file that shall be called `name`.
    pub fn make_file(&self, name: &OsStr) -> io::Result<LandingFile<'_>> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        checked(name)?;
        loop {
            let temporary = temporary();
            match fs::openat(&self.fd, &temporary, flags, Mode::RUSR | Mode::WUSR) {
                Ok(fd) => {
                    return Ok(LandingFile { folder: self, fd, temporary: Some(temporary) });
                }
                Err(Errno::EXIST | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Makes a link to `target`, whatever that is.
    pub fn make_link(&self, name: &OsStr, target: &[u8], replace: bool) -> io::Result<()> {
        checked(name)?;
        let temporary = temporary();
        fs::symlinkat(OsStr::from_bytes(target), &self.fd, &temporary)?;
        self.place(&temporary, name, replace)
    }

    /// Gives a file that was restored before another name.
    pub fn make_name(&self, name: &OsStr, first: (&Self, &OsStr), replace: bool) -> io::Result<()> {
        checked(name)?;
        let temporary = temporary();
        fs::linkat(&first.0.fd, checked(first.1)?, &self.fd, &temporary, AtFlags::empty())?;
        self.place(&temporary, name, replace)
    }

    /// Gives the folder itself its attributes.
    pub fn set(&self, attributes: &Attributes) -> io::Result<()> {
        set(&self.fd, attributes)
    }

    /// Gives a link its owner and time; links have no mode.
    pub fn set_link(&self, name: &OsStr, attributes: &Attributes) -> io::Result<()> {
        let name = checked(name)?;
        if let Some((user, group)) = attributes.owner {
            let (user, group) = (Some(Uid::from_raw(user)), Some(Gid::from_raw(group)));
            fs::chownat(&self.fd, name, user, group, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if let Some(times) = times(attributes) {
            fs::utimensat(&self.fd, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }

    /// Makes all that was written to its file system durable.
    pub fn sync(&self) -> io::Result<()> {
        Ok(fs::syncfs(&self.fd)?)
    }

    /// Gives what has a temporary name its own; takes it away again if that fails.
    fn place(&self, temporary: &str, name: &OsStr, replace: bool) -> io::Result<()> {
        let renamed = if replace {
            fs::renameat(&self.fd, temporary, &self.fd, name)
        } else {
            match fs::renameat_with(&self.fd, temporary, &self.fd, name, RenameFlags::NOREPLACE) {
                Err(Errno::INVAL | Errno::NOSYS) => {
                    // A file system without it: a second name is refused where the first is taken.
                    fs::linkat(&self.fd, temporary, &self.fd, name, AtFlags::empty())
                        .and_then(|()| fs::unlinkat(&self.fd, temporary, AtFlags::empty()))
                }
                other => other,
            }
        };
        if renamed.is_err() {
            // What cannot be removed is left: its name says whose it is.
            let _ = fs::unlinkat(&self.fd, temporary, AtFlags::empty());
        }
        Ok(renamed?)
    }
}

/// A file in the making.
#[derive(Debug)]
pub struct LandingFile<'f> {
    folder: &'f Landing,
    fd: OwnedFd,
    temporary: Option<String>,
}

impl LandingFile<'_> {
    /// Writes all of `from`.
    pub fn write_at(&self, offset_bytes: u64, from: &[u8]) -> io::Result<()> {
        super::foreign::write_all(&self.fd, offset_bytes, from)
    }

    /// Cuts or grows it; what is new is a hole.
    pub fn set_length(&self, length_bytes: u64) -> io::Result<()> {
        Ok(retry_on_intr(|| fs::ftruncate(&self.fd, length_bytes))?)
    }

    /// Gives it its attributes and then its name. Unless `replace`, what has that name is kept and
    /// this fails with [`io::ErrorKind::AlreadyExists`].
    pub fn place(mut self, name: &OsStr, attributes: &Attributes, replace: bool) -> io::Result<()> {
        set(&self.fd, attributes)?;
        let temporary = self.temporary.take().ok_or(io::ErrorKind::NotFound)?;
        self.folder.place(&temporary, checked(name)?, replace)
    }
}

impl Drop for LandingFile<'_> {
    fn drop(&mut self) {
        if let Some(temporary) = self.temporary.take() {
            let _ = fs::unlinkat(&self.folder.fd, temporary, AtFlags::empty());
        }
    }
}

/// A folder that must be one, and is not reached by a link at its end.
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A name that is one component and stays in its folder.
fn checked(name: &OsStr) -> io::Result<&OsStr> {
    let bytes = name.as_bytes();
    let wrong = bytes.is_empty()
        || bytes == b"."
        || bytes == b".."
        || bytes.iter().any(|byte| matches!(byte, b'/' | 0));
    if wrong { Err(io::ErrorKind::InvalidFilename.into()) } else { Ok(name) }
}

fn temporary() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!(".strandline-{}-{number}.part", std::process::id())
}

fn set(fd: &OwnedFd, attributes: &Attributes) -> io::Result<()> {
    // The owner first: changing it takes the setuid bit away.
    if let Some((user, group)) = attributes.owner {
        fs::fchown(fd, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
    }
    if let Some(mode) = attributes.mode {
        fs::fchmod(fd, Mode::from_raw_mode(u32::from(mode) & 0o7777))?;
    }
    if let Some(times) = times(attributes) {
        fs::futimens(fd, &times)?;
    }
    Ok(())
}

fn times(attributes: &Attributes) -> Option<Timestamps> {
    let (seconds, nanoseconds) = attributes.modified?;
    let modified = Timespec { tv_sec: seconds, tv_nsec: i64::from(nanoseconds) };
    Some(Timestamps { last_access: modified, last_modification: modified })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    fn landing() -> (tempfile::TempDir, Landing) {
        let dir = tempfile::tempdir().expect("a directory");
        let landing = Landing::make(&dir.path().join("to")).expect("made");
        (dir, landing)
    }

    fn put(landing: &Landing, name: &str, bytes: &[u8], replace: bool) -> io::Result<()> {
        let file = landing.make_file(OsStr::new(name))?;
        file.write_at(0, bytes)?;
        let attributes = Attributes { mode: Some(0o640), modified: Some((7, 8)), owner: None };
        file.place(OsStr::new(name), &attributes, replace)
    }

    #[test]
    fn no_name_and_no_link_leads_out() {
        let (dir, landing) = landing();
        std::fs::create_dir(dir.path().join("secret")).expect("made");
        symlink("../secret", dir.path().join("to/out")).expect("a link");
        for name in ["..", ".", "", "a/b", "../secret/x", "/etc/x", "a\0b"] {
            assert!(put(&landing, name, b"x", true).is_err(), "{name:?}");
            assert!(landing.make_folder(OsStr::new(name), true).is_err(), "{name:?}");
            assert!(landing.make_link(OsStr::new(name), b"x", true).is_err(), "{name:?}");
        }
        assert!(landing.below(OsStr::new("out")).is_err());
        assert!(landing.below(OsStr::new("..")).is_err());
        assert!(landing.below(OsStr::new("/etc")).is_err());
        assert!(landing.make_folder(OsStr::new("out"), true).is_err());
        assert_eq!(std::fs::read_dir(dir.path().join("secret")).expect("listed").count(), 0);
        assert_eq!(std::fs::read_dir(dir.path().join("to")).expect("listed").count(), 1);
    }

    #[test]
    fn a_file_gets_its_name_with_its_attributes_and_replaces_only_if_told() {
        let (dir, landing) = landing();
        put(&landing, "a", b"first", false).expect("put");
        let error = put(&landing, "a", b"second", false).expect_err("taken");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        let stat = dir.path().join("to/a").metadata().expect("stat");
        assert_eq!((stat.len(), stat.permissions().mode() & 0o7777), (5, 0o640));
        assert_eq!((stat.mtime(), stat.mtime_nsec()), (7, 8));
        put(&landing, "a", b"second", true).expect("put");
        assert_eq!(dir.path().join("to/a").metadata().expect("stat").len(), 6);
        assert_eq!(std::fs::read_dir(dir.path().join("to")).expect("listed").count(), 1);
    }

    #[test]
    fn a_link_is_replaced_and_not_written_through() {
        let (dir, landing) = landing();
        let kept = dir.path().join("kept");
        put(&Landing::make(dir.path()).expect("opens"), "kept", b"kept", false).expect("put");
        symlink(&kept, dir.path().join("to/a")).expect("a link");
        put(&landing, "a", b"longer", true).expect("put");
        assert_eq!(kept.metadata().expect("stat").len(), 4);
        landing.make_link(OsStr::new("b"), b"/etc/passwd", false).expect("made");
        landing
            .set_link(
                OsStr::new("b"),
                &Attributes { modified: Some((5, 0)), ..Attributes::default() },
            )
            .expect("set");
        let stat = dir.path().join("to/b").symlink_metadata().expect("stat");
        assert!(stat.is_symlink() && stat.mtime() == 5);
    }

    #[test]
    fn a_second_name_is_of_the_same_file() {
        let (dir, landing) = landing();
        landing.make_folder(OsStr::new("sub"), false).expect("made");
        landing.make_folder(OsStr::new("sub"), true).expect("merged");
        assert!(landing.make_folder(OsStr::new("sub"), false).is_err());
        let sub = landing.below(OsStr::new("sub")).expect("opens");
        put(&landing, "a", b"one", false).expect("put");
        sub.make_name(OsStr::new("b"), (&landing, OsStr::new("a")), false).expect("named");
        let inode = |path: &str| dir.path().join(path).metadata().expect("stat").ino();
        assert_eq!(inode("to/a"), inode("to/sub/b"));
        assert!(landing.holds(OsStr::new("a")).expect("looks"));
        assert!(!landing.holds(OsStr::new("b")).expect("looks"));
    }
}
