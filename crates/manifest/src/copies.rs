//! Whole small files: read at once, and replaced so that a cut leaves the old one or the new one.

use std::io;

use world::{Access, Disk};

/// Longer files are not ours (a manifest of this length would hold a hundred million marks).
const LENGTH_MAX: u64 = 4 << 30;

/// All bytes of a file.
pub(crate) fn read_whole(disk: &dyn Disk, path: &str) -> io::Result<Vec<u8>> {
    let file = disk.open(path, Access::READ)?;
    let length_bytes = file.length_bytes()?;
    if length_bytes > LENGTH_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "longer than any file of ours"));
    }
    let length = usize::try_from(length_bytes).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    file.read_at(0, &mut bytes)?;
    Ok(bytes)
}

/// Puts a file in place of the one of that name, if any; durable when it returns.
pub(crate) fn replace(disk: &dyn Disk, dir: &str, path: &str, bytes: &[u8]) -> io::Result<()> {
    prepare(disk, path, bytes)?;
    disk.rename(&temporary(path), path)?;
    disk.sync_dir(dir)
}

/// Makes the contents durable under the temporary name of `path`.
pub(crate) fn prepare(disk: &dyn Disk, path: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = temporary(path);
    remove_if_there(disk, &temporary)?;
    let file = disk.open(&temporary, Access::WRITE.new_file())?;
    file.write_at(0, bytes)?;
    file.sync_data()
}

/// The name under which a file is written before it gets its own.
pub(crate) fn temporary(path: &str) -> String {
    format!("{path}.tmp")
}

/// Removes a file; fine if it is not there.
pub(crate) fn remove_if_there(disk: &dyn Disk, path: &str) -> io::Result<()> {
    match disk.remove(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// `N` bytes from `at` on, which the caller knows to be there.
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    std::array::from_fn(|index| bytes[at + index])
}
