//! Finds the file systems of a disk: on all of it, or one on each partition.

use crate::{
    Error, FileSystem, Partition, Table,
    disk::{Disk, Window},
    ext::Ext,
    fat::Fat,
    fields::Fields,
    ntfs::Ntfs,
    partitions::partitions,
    xfs::Xfs,
};

/// A place of a disk and what stands there.
pub struct Volume {
    /// `p2`, or `disk` where the file system takes all of it.
    pub label: String,
    /// The partition; `None` for the whole disk.
    pub partition: Option<Partition>,
    /// First byte of the disk that belongs to it.
    pub start: u64,
    /// Bytes of the disk that belong to it.
    pub length: u64,
    /// The file system, or why it is not read.
    pub file_system: Result<Box<dyn FileSystem>, Error>,
}

/// What a disk holds.
pub struct Volumes {
    /// How it is divided.
    pub table: Table,
    /// Its places, in the order of their numbers.
    pub list: Vec<Volume>,
}

/// Looks at a disk. Fails only where its first bytes or its tables cannot be read at all.
pub fn volumes(disk: &Disk) -> Result<Volumes, Error> {
    let whole = disk.whole();
    let (table, parts) = partitions(disk)?;
    // A file system on all of the disk can leave an old table in the first sector, and a FAT's first
    // sector ends as a table does: what is there in full goes before what may be left over.
    let on_all = open(&whole);
    if parts.is_empty() || matches!(on_all, Ok(Some(_))) {
        let file_system = on_all.and_then(|found| found.ok_or_else(|| unknown(&whole)));
        let list = vec![Volume {
            label: "disk".to_owned(),
            partition: None,
            start: 0,
            length: whole.length_bytes(),
            file_system,
        }];
        return Ok(Volumes { table: Table::None, list });
    }
    let list = parts.into_iter().map(|partition| {
        let window = disk.window(partition.start, partition.length);
        Volume {
            label: format!("p{}", partition.number),
            partition: Some(partition),
            start: partition.start,
            length: window.length_bytes(),
            file_system: open(&window).and_then(|found| found.ok_or_else(|| unknown(&window))),
        }
    });
    Ok(Volumes { table, list: list.collect() })
}

/// The file system of a range; `None` where none that is read here stands.
fn open(window: &Window) -> Result<Option<Box<dyn FileSystem>>, Error> {
    if Ext::stands_on(window)? {
        return Ok(Some(Box::new(Ext::open(window.clone())?)));
    }
    if Xfs::stands_on(window)? {
        return Ok(Some(Box::new(Xfs::open(window.clone())?)));
    }
    if Ntfs::stands_on(window)? {
        return Ok(Some(Box::new(Ntfs::open(window.clone())?)));
    }
    if let Some(fat) = Fat::find(window)? {
        return Ok(Some(Box::new(fat)));
    }
    Ok(None)
}

/// Marks of what is not read, so that a person learns what stands there.
const OTHERS: &[(u64, &[u8], &str)] = &[
    (0, b"LUKS\xba\xbe", "an encrypted volume (LUKS)"),
    (3, b"-FVE-FS-", "an encrypted volume (BitLocker)"),
    (512, b"LABELONE", "a physical volume of LVM"),
    (0x1000, b"\xfc\x4e\x2b\xa9", "a member of an md RAID"),
    (4086, b"SWAPSPACE2", "swap space"),
    (0x1_0040, b"_BHRfS_M", "a btrfs file system"),
    (3, b"EXFAT   ", "an exFAT file system"),
    (3, b"ReFS\0\0\0\0", "a ReFS file system"),
    (1024, b"\x10\x20\xf5\xf2", "an f2fs file system"),
    (1024, b"H+", "an HFS+ file system"),
    (32, b"NXSB", "an APFS container"),
    (0, b"hsqs", "a squashfs file system"),
    (0x8001, b"CD001", "an ISO 9660 file system"),
];

fn unknown(window: &Window) -> Error {
    for (place, mark, what) in OTHERS {
        if window.bytes(*place, mark.len()).is_ok_and(|found| found == *mark) {
            return Error::unsupported(format!("{what}, which is not read"));
        }
    }
    let length = usize::try_from(window.length_bytes().min(4096)).unwrap_or(0);
    match window.bytes(0, length) {
        Ok(begin) if begin.iter().all(|byte| *byte == 0) => {
            Error::unsupported("nothing that was ever written")
        }
        Ok(begin) if Fields::new(&begin, 0).le16(510).is_ok_and(|mark| mark == 0xaa55) => {
            Error::unsupported("a boot sector of no known file system")
        }
        Ok(_) => Error::unsupported("no known file system"),
        Err(error) => error,
    }
}
