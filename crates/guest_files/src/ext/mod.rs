//! ext2, ext3 and ext4, read by their on-disk format (kernel documentation, filesystems/ext4).
//!
//! ```text
//! mod (super block, groups, blocks) ─▶ journal (what a crash left, as an overlay of blocks)
//!                                   ─▶ inode ─▶ map (extents, block maps), inline ─▶ directory
//! ```
//!
//! Checksums of super block, groups, inodes, extent blocks and directory blocks are compared where the
//! file system has them. A journal that was not written back is replayed in memory: every block is read
//! through [`Ext::read`], which takes the newest committed copy. Not read: encrypted names and
//! contents, file systems with unknown incompatible features, journals on other devices.

mod directory;
mod inline;
mod inode;
mod journal;
mod map;

use std::{cell::RefCell, collections::BTreeMap};

use crate::{
    Entry, Error, FileSystem, Kind, Node, NodeId, Piece, Place,
    disk::Window,
    fields::{Fields, size, wide},
    limits::LINK_BYTES,
};
use inode::Inode;

/// Features that must be known: without them bytes mean something else.
mod incompat {
    pub(super) const RECOVER: u32 = 0x4;
    pub(super) const JOURNAL_DEV: u32 = 0x8;
    pub(super) const META_BG: u32 = 0x10;
    pub(super) const BITS_64: u32 = 0x80;
    pub(super) const CSUM_SEED: u32 = 0x2000;
    /// File type in entries, recovery, meta groups, extents, 64 bits, multiple mounts, flexible groups,
    /// values in inodes, checksum seed, large directories, inline data, encryption, names regardless
    /// of case.
    pub(super) const READ: u32 = 0x2
        | RECOVER
        | META_BG
        | 0x40
        | BITS_64
        | 0x100
        | 0x200
        | 0x400
        | CSUM_SEED
        | 0x4000
        | 0x8000
        | 0x1_0000
        | 0x2_0000;
}

mod ro_compat {
    pub(super) const SPARSE_SUPER: u32 = 0x1;
    pub(super) const METADATA_CSUM: u32 = 0x400;
}

const COMPAT_JOURNAL: u32 = 0x4;
const COMPAT_SPARSE_SUPER2: u32 = 0x200;
const MAGIC: u16 = 0xef53;
const SUPER_PLACE: u64 = 1024;
const SUPER_BYTES: usize = 1024;
const ROOT: u32 = 2;

/// What the super block says, as far as reading needs it.
#[derive(Clone, Debug)]
struct Super {
    block_bytes: u64,
    blocks: u64,
    first_block: u64,
    group_blocks: u64,
    group_inodes: u32,
    inodes: u32,
    inode_bytes: usize,
    descriptor_bytes: usize,
    compat: u32,
    incompat: u32,
    ro_compat: u32,
    first_meta_group: u64,
    backup_groups: [u64; 2],
    journal_inode: u32,
    /// Seed of all checksums; `None` where there are none.
    seed: Option<u32>,
}

/// An ext2, ext3 or ext4 file system.
pub(crate) struct Ext {
    window: Window,
    facts: Super,
    name: &'static str,
    /// Blocks whose newest version stands in the journal: its place there, and whether the journal
    /// had to blank its first four bytes.
    overlay: BTreeMap<u64, journal::Copy>,
    notes: Vec<String>,
    /// The inode that was read last: a caller asks for node, map and content one after the other.
    last: RefCell<Option<Inode>>,
}

impl Ext {
    /// Whether its mark stands there.
    pub(crate) fn stands_on(window: &Window) -> Result<bool, Error> {
        if window.length_bytes() < SUPER_PLACE + SUPER_BYTES as u64 {
            return Ok(false);
        }
        Ok(window.bytes(SUPER_PLACE + 0x38, 2)? == MAGIC.to_le_bytes())
    }

    /// Reads the super block, and the journal where it was not written back.
    pub(crate) fn open(window: Window) -> Result<Self, Error> {
        let facts = Super::parse(&window.bytes(SUPER_PLACE, SUPER_BYTES)?)?;
        let mut ext = Self {
            window,
            name: facts.name(),
            facts,
            overlay: BTreeMap::new(),
            notes: Vec::new(),
            last: RefCell::default(),
        };
        if ext.facts.incompat & incompat::RECOVER != 0 && ext.facts.compat & COMPAT_JOURNAL != 0 {
            ext.recover()?;
        }
        Ok(ext)
    }

    fn recover(&mut self) -> Result<(), Error> {
        if self.facts.journal_inode == 0 {
            let note = "its journal lies on another device and was not replayed: files may be older or torn";
            self.notes.push(note.to_owned());
            return Ok(());
        }
        let replayed = journal::replay(self)?;
        self.notes.extend(replayed.notes);
        self.overlay = replayed.overlay;
        self.last.replace(None); // the journal's own inode, from before
        // The super block itself can stand in the journal.
        let mut bytes = vec![0; SUPER_BYTES];
        self.read(SUPER_PLACE, &mut bytes)?;
        self.facts = Super::parse(&bytes)?;
        Ok(())
    }

    /// The bytes of a block.
    fn block(&self, block: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; size(self.facts.block_bytes)?];
        self.read(self.place(block)?, &mut bytes)?;
        Ok(bytes)
    }

    /// Where a block lies; one that cannot be is damage.
    fn place(&self, block: u64) -> Result<u64, Error> {
        let place = block.checked_mul(self.facts.block_bytes);
        match place {
            Some(place) if block < self.facts.blocks => Ok(place),
            _ => Err(Error::damaged("a block number lies past the file system's end", 0)),
        }
    }

    fn inode(&self, number: u32) -> Result<Inode, Error> {
        if let Some(last) = &*self.last.borrow()
            && last.number == number
        {
            return Ok(last.clone());
        }
        let inode = self.read_inode(number)?;
        self.last.replace(Some(inode.clone()));
        Ok(inode)
    }

    fn read_inode(&self, number: u32) -> Result<Inode, Error> {
        if number == 0 || number > self.facts.inodes {
            return Err(Error::damaged("an inode's number is out of range", u64::from(number)));
        }
        let (group, index) =
            ((number - 1) / self.facts.group_inodes, (number - 1) % self.facts.group_inodes);
        let table = self.inode_table(u64::from(group))?;
        let place = self.place(table)? + u64::from(index) * self.facts.inode_bytes as u64;
        let mut bytes = vec![0; self.facts.inode_bytes];
        self.read(place, &mut bytes)?;
        Inode::parse(number, bytes, place, &self.facts)
    }

    /// First block of a group's table of inodes.
    fn inode_table(&self, group: u64) -> Result<u64, Error> {
        let facts = &self.facts;
        let in_block = facts.block_bytes / facts.descriptor_bytes as u64;
        let (table, index) = (group / in_block, group % in_block);
        let block = if facts.incompat & incompat::META_BG == 0 || table < facts.first_meta_group {
            facts.first_block + 1 + table
        } else {
            let first = table * in_block;
            let start =
                first.checked_mul(facts.group_blocks).map(|start| start + facts.first_block);
            let start = start.ok_or(Error::damaged("a group lies nowhere", 0))?;
            start + u64::from(facts.has_super(first))
        };
        let place = self.place(block)? + index * facts.descriptor_bytes as u64;
        let mut bytes = vec![0; facts.descriptor_bytes];
        self.read(place, &mut bytes)?;
        let fields = Fields::new(&bytes, place);
        if let Some(seed) = facts.seed {
            let number =
                u32::try_from(group).map_err(|_| Error::damaged("a group's number", place))?;
            let mut sum = raw_crc(raw_crc(seed, &number.to_le_bytes()), fields.slice(0, 0x1e)?);
            sum = raw_crc(sum, &[0; 2]);
            sum = raw_crc(sum, fields.slice(0x20, facts.descriptor_bytes - 0x20)?);
            if sum & 0xffff != u32::from(fields.le16(0x1e)?) {
                return Err(Error::damaged("a group's checksum differs", place));
            }
        }
        let high = if facts.descriptor_bytes >= 64 { fields.le32(0x28)? } else { 0 };
        Ok(wide(high, fields.le32(0x8)?))
    }
}

impl FileSystem for Ext {
    fn name(&self) -> &'static str {
        self.name
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn root(&self) -> NodeId {
        NodeId(u64::from(ROOT))
    }

    fn node(&self, id: NodeId) -> Result<Node, Error> {
        let inode = self.inode(number(id)?)?;
        Ok(Node {
            id,
            kind: inode.kind()?,
            size: inode.size,
            mode: Some(inode.mode & 0o7777),
            owner: Some((inode.user, inode.group)),
            modified: inode.modified,
            names: u32::from(inode.links),
        })
    }

    fn list(
        &self,
        directory: NodeId,
        each: &mut dyn FnMut(Entry) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let inode = self.inode(number(directory)?)?;
        directory::list(self, &inode, each)
    }

    fn pieces(&self, file: NodeId) -> Result<Vec<Piece>, Error> {
        let inode = self.inode(number(file)?)?;
        if inode.is_encrypted() {
            return Err(Error::unsupported("its content is encrypted"));
        }
        if inode.is_inline() {
            return inline::content(&inode).map(|bytes| inline_piece(bytes, inode.size));
        }
        map::pieces(self, &inode)
    }

    fn target(&self, link: NodeId) -> Result<Vec<u8>, Error> {
        let inode = self.inode(number(link)?)?;
        if inode.kind()? != Kind::Link || inode.size > LINK_BYTES {
            return Err(Error::damaged("a link has no target that can be", inode.place));
        }
        if inode.is_encrypted() {
            return Err(Error::unsupported("its target is encrypted"));
        }
        let length = size(inode.size)?;
        if let Some(short) = inode.short_target(length) {
            return Ok(short.to_vec());
        }
        let mut target = vec![0; length];
        for piece in self.pieces(link)? {
            let (from, to) = (size(piece.offset)?, size(piece.end())?);
            let into = target.get_mut(from..to);
            piece.read(self, 0, into.ok_or(Error::damaged("a link's target", inode.place))?)?;
        }
        Ok(target)
    }

    fn read(&self, place: u64, into: &mut [u8]) -> Result<(), Error> {
        if self.overlay.is_empty() {
            return self.window.read(place, into);
        }
        let block_bytes = self.facts.block_bytes;
        let end = place.saturating_add(into.len() as u64);
        self.window.read(place, into)?;
        let blocks = place / block_bytes..end.div_ceil(block_bytes);
        for (block, copy) in self.overlay.range(blocks) {
            let mut bytes = self.window.bytes(copy.place, size(block_bytes)?)?;
            if copy.escaped {
                bytes[..4].copy_from_slice(&journal::MAGIC.to_be_bytes());
            }
            let start = block * block_bytes;
            let (from, to) = (start.max(place), (start + block_bytes).min(end));
            let found = &bytes[size(from - start)?..size(to - start)?];
            into[size(from - place)?..size(to - place)?].copy_from_slice(found);
        }
        Ok(())
    }

    fn replayed(&self, place: u64, length: u64) -> bool {
        let block_bytes = self.facts.block_bytes;
        let blocks = place / block_bytes..place.saturating_add(length).div_ceil(block_bytes);
        self.overlay.range(blocks).next().is_some()
    }
}

fn number(id: NodeId) -> Result<u32, Error> {
    u32::try_from(id.0).map_err(|_| Error::damaged("an inode's number is out of range", id.0))
}

/// The content of a file that lies in its inode.
fn inline_piece(mut bytes: Vec<u8>, size: u64) -> Vec<Piece> {
    bytes.truncate(usize::try_from(size).unwrap_or(usize::MAX));
    if bytes.is_empty() {
        return Vec::new();
    }
    vec![Piece { offset: 0, length: bytes.len() as u64, place: Place::Inline(bytes) }]
}

impl Super {
    fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let fields = Fields::new(bytes, SUPER_PLACE);
        let damaged = |what| Error::damaged(what, SUPER_PLACE);
        let (compat, incompat, ro_compat) =
            (fields.le32(0x5c)?, fields.le32(0x60)?, fields.le32(0x64)?);
        if fields.le16(0x38)? != MAGIC {
            return Err(damaged("the super block's mark differs"));
        }
        if incompat & incompat::JOURNAL_DEV != 0 {
            return Err(Error::unsupported("the journal of an ext4 file system elsewhere"));
        }
        if incompat & !incompat::READ != 0 {
            let unknown = incompat & !incompat::READ;
            let text =
                format!("an ext4 file system with features that are not known ({unknown:#x})");
            return Err(Error::unsupported(text));
        }
        let mut seed = None;
        if ro_compat & ro_compat::METADATA_CSUM != 0 {
            if raw_crc(u32::MAX, fields.slice(0, 0x3fc)?) != fields.le32(0x3fc)? {
                return Err(damaged("the super block's checksum differs"));
            }
            seed = Some(match incompat & incompat::CSUM_SEED {
                0 => raw_crc(u32::MAX, fields.slice(0x68, 16)?),
                _ => fields.le32(0x270)?,
            });
        }
        let old = fields.le32(0x4c)? == 0;
        let wide_fields = incompat & incompat::BITS_64 != 0;
        let log_block = fields.le32(0x18)?;
        if log_block > 6 {
            return Err(damaged("the super block's block size cannot be"));
        }
        let facts = Self {
            block_bytes: 1024 << log_block,
            blocks: wide(if wide_fields { fields.le32(0x150)? } else { 0 }, fields.le32(0x4)?),
            first_block: u64::from(fields.le32(0x14)?),
            group_blocks: u64::from(fields.le32(0x20)?),
            group_inodes: fields.le32(0x28)?,
            inodes: fields.le32(0)?,
            inode_bytes: if old { 128 } else { usize::from(fields.le16(0x58)?) },
            descriptor_bytes: if wide_fields { usize::from(fields.le16(0xfe)?) } else { 32 },
            compat,
            incompat,
            ro_compat,
            first_meta_group: u64::from(fields.le32(0x104)?),
            backup_groups: [u64::from(fields.le32(0x24c)?), u64::from(fields.le32(0x250)?)],
            journal_inode: fields.le32(0xe0)?,
            seed,
        };
        let block_bytes = size(facts.block_bytes)?;
        let possible = facts.group_inodes != 0
            && facts.group_blocks != 0
            && (128..=block_bytes).contains(&facts.inode_bytes)
            && facts.inode_bytes.is_power_of_two()
            && (32..=block_bytes).contains(&facts.descriptor_bytes)
            && facts.descriptor_bytes.is_power_of_two()
            && facts.first_block <= 1;
        if possible { Ok(facts) } else { Err(damaged("the super block's numbers cannot be")) }
    }

    const fn name(&self) -> &'static str {
        // As blkid tells them apart: what ext3 has not is ext4, and without a journal it is ext2.
        if self.incompat & !0x16 != 0 || self.ro_compat & !0x7 != 0 {
            "ext4"
        } else if self.compat & COMPAT_JOURNAL != 0 {
            "ext3"
        } else {
            "ext2"
        }
    }

    /// Whether a group begins with a copy of the super block.
    fn has_super(&self, group: u64) -> bool {
        if group == 0 {
            return true;
        }
        if self.compat & COMPAT_SPARSE_SUPER2 != 0 {
            return self.backup_groups.contains(&group);
        }
        if self.ro_compat & ro_compat::SPARSE_SUPER == 0 {
            return true;
        }
        let power = |base: u64| {
            let mut value = base;
            while value < group {
                value *= base; // below 2^32 times 7
            }
            value == group
        };
        group == 1 || power(3) || power(5) || power(7)
    }
}

/// CRC-32C without the inversions at both ends, as ext4 takes it over several stretches.
fn raw_crc(seed: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, bytes)
}
