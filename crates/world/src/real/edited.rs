//! A file of the user's that is changed in place, at a few bytes, with barriers between.
//!
//! Only what the user named is ever opened so. It is taken as QEMU takes what it writes
//! (see `bar.rs`): a guest that runs on it keeps it, and cannot start on it meanwhile.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{self, FileType, Mode, OFlags},
    io::{Errno, retry_on_intr},
    process::{Gid, Uid},
};

use super::{BarError, Refusal, bar::take_for_writing, foreign::write_all};

/// An open file that is changed in place.
#[derive(Debug)]
pub struct EditedFile {
    fd: OwnedFd,
    inode: (u64, u64),
    length_bytes: u64,
}

/// Why a file cannot be changed in place now.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// It was not opened.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Somebody else uses it.
    #[error(transparent)]
    InUse(#[from] BarError),
}

impl EditedFile {
    /// Opens the regular file at a path that the user named, for this process alone.
    pub fn open(path: &Path) -> Result<Self, EditError> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let fd = retry_on_intr(|| fs::open(path, flags, Mode::empty()));
        let fd = fd.map_err(|error| Refusal::Io(error.into()))?;
        let stat = fs::fstat(&fd).map_err(|error| Refusal::Io(error.into()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Refusal::Forbidden("it is no regular file").into());
        }
        take_for_writing(fd.as_fd())?;
        let length_bytes = u64::try_from(stat.st_size).unwrap_or(0);
        Ok(Self { fd, inode: (stat.st_dev, stat.st_ino), length_bytes })
    }

    /// What tells it from others: compare it with that of the file that was looked at.
    pub fn inode(&self) -> (u64, u64) {
        self.inode
    }

    /// Its descriptor.
    pub(super) fn descriptor(&self) -> &OwnedFd {
        &self.fd
    }

    /// Its length when it was opened.
    pub fn length_bytes(&self) -> u64 {
        self.length_bytes
    }

    /// Writes all of `from`; the file grows where it must.
    pub fn write_at(&self, offset_bytes: u64, from: &[u8]) -> io::Result<()> {
        write_all(&self.fd, offset_bytes, from)
    }

    /// Puts a finished new file in its place, `own` being its path without links: the new one gets owner
    /// and mode, is made durable and renamed over it.
    pub fn give_way_to(&self, new: &Path, own: &Path) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = retry_on_intr(|| fs::open(new, flags, Mode::empty()))?;
        take_owner(&file, &self.fd)?;
        retry_on_intr(|| fs::fsync(&file))?;
        fs::rename(new, own)?;
        let folder = own.parent().unwrap_or(Path::new("/"));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = retry_on_intr(|| fs::open(folder, flags, Mode::empty()))?;
        Ok(retry_on_intr(|| fs::fsync(&folder))?)
    }

    /// Makes all that was written durable, the length included.
    pub fn sync(&self) -> io::Result<()> {
        Ok(retry_on_intr(|| fs::fsync(&self.fd))?)
    }
}

/// Gives one file owner, group and mode of another. Who may not give files away keeps its own; the mode
/// follows all the same.
pub(super) fn take_owner(new: &OwnedFd, old: &OwnedFd) -> io::Result<()> {
    let stat = fs::fstat(old)?;
    let owner = Some(Uid::from_raw(stat.st_uid));
    match fs::fchown(new, owner, Some(Gid::from_raw(stat.st_gid))) {
        Ok(()) | Err(Errno::PERM) => (),
        Err(error) => return Err(error.into()),
    }
    Ok(fs::fchmod(new, Mode::from_raw_mode(stat.st_mode))?)
}

/// Removes a file of ours that did not get its place.
pub fn remove_new(path: &Path) -> io::Result<()> {
    Ok(fs::unlink(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real::{ForeignFile, Kinds};

    #[test]
    fn what_somebody_uses_is_not_changed() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let reader = ForeignFile::open(file.path(), Kinds::Files).expect("opens");
        reader.bar_writers().expect("nobody writes");
        let refused = EditedFile::open(file.path()).expect_err("barred");
        assert!(matches!(refused, EditError::InUse(BarError::Held)), "{refused:?}");
        drop(reader);
        let edited = EditedFile::open(file.path()).expect("nobody is there");
        edited.write_at(3, b"x").expect("written");
        edited.sync().expect("durable");
        let again = EditedFile::open(file.path()).expect_err("taken");
        assert!(matches!(again, EditError::InUse(BarError::Held)), "{again:?}");
        let reader = ForeignFile::open(file.path(), Kinds::Files).expect("opens");
        assert_eq!((reader.inode(), reader.length_bytes()), (edited.inode(), 4));
        assert!(matches!(reader.bar_writers(), Err(BarError::Written)));
        drop(edited);
        reader.bar_writers().expect("given back");
    }

    #[test]
    fn only_regular_files_are_changed() {
        let refused = EditedFile::open(Path::new("/dev/null")).expect_err("a device");
        assert!(matches!(refused, EditError::Refused(Refusal::Forbidden(_))), "{refused:?}");
    }
}
