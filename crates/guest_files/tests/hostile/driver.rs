//! A disk of any of the file systems, changed at a few places: everything that can be asked of it ends,
//! with an answer or an error. Shared by the crate's tests and the fuzz target.
//!
//! The first byte chooses the disk; each six that follow are a sector that is not blank, a byte of it,
//! and what stands there. The disks were made by the tools of each file system (`disks/README.md`); what
//! is kept of them is their sectors that are not blank, so none of those tools is needed here.

use std::{collections::BTreeMap, io::Read as _, sync::OnceLock};

use guest_files::{
    Disk, Error, FileSystem, Kind, Node, ReadError, Source, Visitor, compare, lookup, volumes, walk,
};

/// The disks, by name.
pub const DISKS: &[(&str, &[u8])] = &[
    ("ext2", include_bytes!("disks/ext2.z")),
    ("ext4-checksums", include_bytes!("disks/ext4-checksums.z")),
    ("ext4-plain", include_bytes!("disks/ext4-plain.z")),
    ("fat12", include_bytes!("disks/fat12.z")),
    ("fat16", include_bytes!("disks/fat16.z")),
    ("fat32", include_bytes!("disks/fat32.z")),
    ("gpt", include_bytes!("disks/gpt.z")),
    ("mbr", include_bytes!("disks/mbr.z")),
    ("ntfs", include_bytes!("disks/ntfs.z")),
    ("xfs-4", include_bytes!("disks/xfs-4.z")),
    ("xfs-5", include_bytes!("disks/xfs-5.z")),
];

const SECTOR: usize = 512;

/// A disk by its sectors that are not blank.
#[derive(Clone)]
pub struct Sectors {
    length: u64,
    sectors: BTreeMap<u64, [u8; SECTOR]>,
}

impl Sectors {
    /// As it is kept: deflated; a length, then each sector behind its number.
    fn unpack(packed: &[u8]) -> Self {
        let mut bytes = Vec::new();
        let mut decoder = flate2::read::ZlibDecoder::new(packed);
        decoder.read_to_end(&mut bytes).expect("kept disks are whole");
        let (length, rest) = bytes.split_first_chunk().expect("a length");
        let sectors = rest.chunks_exact(4 + SECTOR).map(|chunk| {
            let (number, sector) = chunk.split_first_chunk().expect("a number");
            let sector = sector.first_chunk().copied().expect("a sector");
            (u64::from(u32::from_le_bytes(*number)), sector)
        });
        Self { length: u64::from_le_bytes(*length), sectors: sectors.collect() }
    }

    /// The disk of that number.
    pub fn of(which: usize) -> Self {
        static UNPACKED: OnceLock<Vec<Sectors>> = OnceLock::new();
        let all =
            UNPACKED.get_or_init(|| DISKS.iter().map(|(_, packed)| Self::unpack(packed)).collect());
        all[which % all.len()].clone()
    }

    /// Changes a byte of a sector that is not blank.
    pub fn edit(&mut self, sector: u16, byte: u16, value: u8, and_next: u8) {
        let nth = usize::from(sector) % self.sectors.len();
        let Some(bytes) = self.sectors.values_mut().nth(nth) else { return };
        let at = usize::from(byte) % SECTOR;
        bytes[at] = value;
        bytes[(at + 1) % SECTOR] ^= and_next;
    }
}

impl Source for Sectors {
    fn length_bytes(&self) -> u64 {
        self.length
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), ReadError> {
        let end = offset.checked_add(into.len() as u64).filter(|end| *end <= self.length);
        let end = end.ok_or("a read past the end")?;
        into.fill(0);
        let unit = SECTOR as u64;
        for (number, sector) in self.sectors.range(offset / unit..end.div_ceil(unit)) {
            let start = number * unit;
            let (from, to) = (start.max(offset), (start + unit).min(end));
            let place = |at: u64, base: u64| usize::try_from(at - base).expect("inside");
            into[place(from, offset)..place(to, offset)]
                .copy_from_slice(&sector[place(from, start)..place(to, start)]);
        }
        Ok(())
    }
}

/// Bytes of each piece that are read.
const CONTENT_MAX: u64 = 1 << 16;

/// Names that are asked for; a damaged directory can lead to the same ones over and over.
const NAMES_MAX: u32 = 4096;

/// Everything that a walk meets is asked for all it can tell.
struct Asker<'f> {
    file_system: &'f dyn FileSystem,
    left: u32,
}

impl Asker<'_> {
    fn ask(&mut self, node: &Node) -> Result<(), ()> {
        self.left = self.left.checked_sub(1).ok_or(())?;
        match node.kind {
            Kind::File => {
                let Ok(pieces) = self.file_system.pieces(node.id) else { return Ok(()) };
                let mut end = 0;
                for piece in pieces {
                    assert!(piece.offset >= end && piece.length > 0, "pieces overlap or are empty");
                    end = piece.end();
                    assert!(end <= node.size, "a piece lies past the end of its file");
                    let length = piece.length.min(CONTENT_MAX);
                    let mut bytes = vec![0; usize::try_from(length).expect("bounded")];
                    let _ = piece.read(self.file_system, 0, &mut bytes);
                }
            }
            Kind::Link => {
                if let Ok(target) = self.file_system.target(node.id) {
                    assert!(target.len() as u64 <= 1 << 16, "a target without a bound");
                }
            }
            Kind::Directory | Kind::Special(_) => {}
        }
        Ok(())
    }
}

impl Visitor for Asker<'_> {
    type Stop = ();

    fn directory(&mut self, path: &[u8], node: &Node) -> Result<(), ()> {
        assert!(!path.split(|byte| *byte == b'/').any(|name| name == b".."), "a way out");
        self.ask(node)
    }

    fn other(&mut self, _path: &[u8], name: &[u8], node: &Node) -> Result<(), ()> {
        assert!(!name.contains(&b'/') && name != b"..", "a name that leads out");
        self.ask(node)
    }

    fn trouble(&mut self, _path: &[u8], _error: Error) -> Result<(), ()> {
        self.left = self.left.checked_sub(1).ok_or(())?;
        Ok(())
    }
}

/// Builds the disk that the input describes, and asks it everything.
pub fn check(input: &[u8]) {
    let Some((which, edits)) = input.split_first() else { return };
    let mut disk = Sectors::of(usize::from(*which));
    for edit in edits.chunks_exact(6) {
        let sector = u16::from_le_bytes([edit[0], edit[1]]);
        disk.edit(sector, u16::from_le_bytes([edit[2], edit[3]]), edit[4], edit[5]);
    }
    ask(disk);
}

/// Asks a disk what it is and for its top directory.
#[allow(dead_code, reason = "for the tests, not for the fuzz target")]
pub fn ask_little(disk: Sectors) {
    let Ok(found) = volumes(&Disk::new(Box::new(disk))) else { return };
    for volume in &found.list {
        let Ok(file_system) = &volume.file_system else { continue };
        let mut left = 64_u32;
        let _ = file_system.list(file_system.root(), &mut |entry| {
            let _ = file_system.node(entry.id);
            left = left.saturating_sub(1);
            if left == 0 { Err(Error::Limit("names")) } else { Ok(()) }
        });
    }
}

/// Asks a disk everything; gives how many names it told.
pub fn ask(disk: Sectors) -> u32 {
    let Ok(found) = volumes(&Disk::new(Box::new(disk))) else { return 0 };
    let mut told = 0;
    for volume in &found.list {
        let Ok(file_system) = &volume.file_system else { continue };
        let file_system = &**file_system;
        let _ = lookup(file_system, b"/directory/../link/file");
        let Ok(top) = file_system.node(file_system.root()) else { continue };
        if top.kind != Kind::Directory {
            continue;
        }
        let mut asker = Asker { file_system, left: NAMES_MAX };
        let _ = walk(file_system, &top, &mut asker);
        told += NAMES_MAX - asker.left;
        let _ = compare(file_system, file_system, &|range| range.start % 8192 == 0);
    }
    told
}
