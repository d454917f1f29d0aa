//! Locks on a file that keep QEMU from writing to it, in QEMU's own convention.
//!
//! A QEMU (`block/file-posix.c`) holds a read lock on byte `100 + n` of a file for each permission `n`
//! that it uses, and on byte `200 + n` for each that it does not share; before it takes one up, it looks
//! whether somebody holds the other. Bytes need not exist, and nothing is ever written to them. So a
//! read lock on bytes 201 and 203, which a descriptor opened for reading may take, says "nobody else may
//! write or resize this": measured with QEMU 7.2, write, resize and commit are refused, reading is not.
//!
//! The locks belong to the open file description (OFD): they end with the last descriptor of it, a
//! killed process included, and another descriptor of the same file in this process does not end them.
//! What they do not stop: programs that do not look (dd, VirtualBox), and other hosts over NFS.
#![expect(unsafe_code, reason = "fcntl with OFD locks, which rustix does not have")]

use std::{
    io, mem,
    os::fd::{AsRawFd, BorrowedFd},
};

use super::ForeignFile;

/// First byte of the permissions in use.
const USED: i64 = 100;

/// First byte of the permissions that are not shared.
const NOT_SHARED: i64 = 200;

/// QEMU's numbers of writing and resizing (`BLK_PERM_WRITE`, `BLK_PERM_RESIZE`).
const PERMISSIONS: [i64; 2] = [1, 3];

/// Why writers were not kept out.
#[derive(Debug, thiserror::Error)]
pub enum BarError {
    /// A program has the file open for writing.
    #[error("a program has it open for writing")]
    Written,
    /// A program has the file open, and allows nobody to write to it.
    #[error("a program has it open")]
    Held,
    /// The system's answer; some file systems have no such locks.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl ForeignFile {
    /// Keeps writers that look at such locks out for as long as this file is open. Others may do the
    /// same at the same time. Fails, holding nothing, if such a writer is there already.
    pub fn bar_writers(&self) -> Result<(), BarError> {
        let file = self.descriptor();
        let barred = bar(file);
        if barred.is_err() {
            for permission in PERMISSIONS {
                // What cannot be given back goes with the descriptor.
                let _ = set(file, NOT_SHARED + permission, libc::F_UNLCK);
            }
        }
        barred
    }
}

/// Takes a file for writing as QEMU does: no other writer, and nobody who bars writers, is there now or
/// comes while it is open. It is given back with the descriptor.
pub(super) fn take_for_writing(file: BorrowedFd<'_>) -> Result<(), BarError> {
    for permission in PERMISSIONS {
        set(file, USED + permission, libc::F_RDLCK)?;
        set(file, NOT_SHARED + permission, libc::F_RDLCK)?;
    }
    for permission in PERMISSIONS {
        if is_locked(file, NOT_SHARED + permission)? || is_locked(file, USED + permission)? {
            return Err(BarError::Held);
        }
    }
    Ok(())
}

/// Locks first and looks then: of two that meet, at least one sees the other.
fn bar(file: BorrowedFd<'_>) -> Result<(), BarError> {
    for permission in PERMISSIONS {
        set(file, NOT_SHARED + permission, libc::F_RDLCK)?;
    }
    for permission in PERMISSIONS {
        if is_locked(file, USED + permission)? {
            return Err(BarError::Written);
        }
    }
    Ok(())
}

/// Takes or gives back the lock on a byte; never waits.
fn set(file: BorrowedFd<'_>, byte: i64, kind: libc::c_int) -> io::Result<()> {
    call(file, libc::F_OFD_SETLK, byte, kind).map(|_| ())
}

/// Whether another open file description holds a lock on a byte.
fn is_locked(file: BorrowedFd<'_>, byte: i64) -> io::Result<bool> {
    // A write lock would meet every other: the question does not take it.
    let found = call(file, libc::F_OFD_GETLK, byte, libc::F_WRLCK)?;
    Ok(libc::c_int::from(found.l_type) != libc::F_UNLCK)
}

fn call(
    file: BorrowedFd<'_>,
    command: libc::c_int,
    byte: i64,
    kind: libc::c_int,
) -> io::Result<libc::flock> {
    let narrow = |value: libc::c_int| i16::try_from(value).expect("small constants");
    // SAFETY: a struct of integers; zero is a value of each, and `l_pid` must be 0 for OFD locks.
    let mut lock: libc::flock = unsafe { mem::zeroed() };
    lock.l_type = narrow(kind);
    lock.l_whence = narrow(libc::SEEK_SET);
    lock.l_start = byte;
    lock.l_len = 1;
    let fd = file.as_raw_fd();
    loop {
        // SAFETY: the descriptor is open while it is borrowed, and `lock` is ours alone.
        match unsafe { libc::fcntl(fd, command, &raw mut lock) } {
            -1 => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => (),
                error => return Err(error),
            },
            _ => return Ok(lock),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real::Kinds;

    fn opened(file: &tempfile::NamedTempFile) -> ForeignFile {
        ForeignFile::open(file.path(), Kinds::Files).expect("opens")
    }

    /// What a QEMU does that wants to write.
    fn may_write(file: &ForeignFile) -> bool {
        let file = file.descriptor();
        set(file, USED + 1, libc::F_RDLCK).expect("taken");
        let barred = is_locked(file, NOT_SHARED + 1).expect("asked");
        if barred {
            set(file, USED + 1, libc::F_UNLCK).expect("given back");
        }
        !barred
    }

    #[test]
    fn a_writer_is_kept_out_until_the_last_bar_is_gone() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let (one, two, writer) = (opened(&file), opened(&file), opened(&file));
        one.bar_writers().expect("nobody writes");
        two.bar_writers().expect("two may do so");
        assert!(!may_write(&writer));
        drop(one);
        assert!(!may_write(&writer), "the other bar went too");
        drop(two);
        assert!(may_write(&writer));
    }

    #[test]
    fn a_writer_that_is_there_is_told_and_nothing_is_held() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let (writer, late) = (opened(&file), opened(&file));
        assert!(may_write(&writer));
        assert!(matches!(late.bar_writers(), Err(BarError::Written)));
        for permission in PERMISSIONS {
            assert!(!is_locked(writer.descriptor(), NOT_SHARED + permission).expect("asked"));
        }
        drop(writer);
        late.bar_writers().expect("the writer is gone");
    }

    /// Opening the same file again and closing it must not end the lock, as it would with the older
    /// locks of a process.
    #[test]
    fn another_descriptor_of_the_process_ends_nothing() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let (held, writer) = (opened(&file), opened(&file));
        held.bar_writers().expect("nobody writes");
        drop(opened(&file));
        assert!(!may_write(&writer));
    }
}
