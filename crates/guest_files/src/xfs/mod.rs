//! XFS versions 4 and 5, read by its on-disk format ("XFS Algorithms & Data Structures", 3rd edition).
//!
//! Checksums of version 5 are compared for super block, inodes, and blocks of maps, directories and
//! links. The log is not replayed: a file system that was in use at its instant shows what had been
//! written back, and a note says so where the log is not empty. Not read: files on a realtime device.

mod directory;
mod inode;
mod log;
mod map;

use std::cell::RefCell;

use crate::{
    Entry, Error, FileSystem, Kind, Node, NodeId, Piece, Place,
    disk::Window,
    fields::{Fields, size},
    limits::LINK_BYTES,
};
use inode::{Form, Inode};

const SUPER_BYTES: usize = 512;

mod incompat {
    pub(super) const FTYPE: u32 = 0x1;
    pub(super) const NEEDS_REPAIR: u32 = 0x10;
    /// File type in names, sparse inodes, an id of its own for metadata, big times, needs repair, many
    /// extents, exchanged ranges, parent pointers.
    pub(super) const READ: u32 = 0xff;
}

const FEATURES2_FTYPE: u32 = 0x200;

/// What the super block says, as far as reading needs it.
#[derive(Clone, Copy, Debug)]
struct Super {
    version: u16,
    block_bytes: u64,
    blocks: u64,
    root: u64,
    group_blocks: u64,
    groups: u64,
    inode_bytes: usize,
    inodes_in_block_log: u32,
    group_blocks_log: u32,
    directory_bytes: u64,
    has_kinds: bool,
    log_start: u64,
    log_blocks: u64,
}

/// An XFS file system.
pub(crate) struct Xfs {
    window: Window,
    facts: Super,
    notes: Vec<String>,
    /// The inode that was read last: a caller asks for node, map and content one after the other.
    last: RefCell<Option<Inode>>,
}

impl Xfs {
    /// Whether its mark stands there.
    pub(crate) fn stands_on(window: &Window) -> Result<bool, Error> {
        Ok(window.length_bytes() >= 1 << 16 && window.bytes(0, 4)? == b"XFSB")
    }

    /// Reads the super block, and whether the log is empty.
    pub(crate) fn open(window: Window) -> Result<Self, Error> {
        let facts = Super::parse(&window.bytes(0, 1 << 15)?)?;
        let mut xfs = Self { window, facts, notes: Vec::new(), last: RefCell::default() };
        if xfs.facts.log_start == 0 {
            xfs.notes.push(
                "its log lies on another device and was not replayed: files may be older or torn"
                    .to_owned(),
            );
        } else if !xfs.log_is_empty()? {
            xfs.notes.push("its log was not replayed: what was changed shortly before this instant may be missing, older or torn".to_owned());
        }
        Ok(xfs)
    }

    /// Whether the last record of the log is that of a clean unmount.
    fn log_is_empty(&self) -> Result<bool, Error> {
        log::ends_clean(
            &self.window,
            self.fs_block(self.facts.log_start)?,
            self.facts.log_blocks * self.facts.block_bytes,
        )
    }

    /// Where a block lies that is named by group and block of the group.
    fn fs_block(&self, block: u64) -> Result<u64, Error> {
        let facts = &self.facts;
        let (group, index) =
            (block >> facts.group_blocks_log, block & ((1 << facts.group_blocks_log) - 1));
        let linear =
            group.checked_mul(facts.group_blocks).and_then(|start| start.checked_add(index));
        match linear {
            Some(linear) if index < facts.group_blocks && linear < facts.blocks => {
                Ok(linear * facts.block_bytes)
            }
            _ => Err(Error::damaged("a block number lies past the file system's end", block)),
        }
    }

    fn inode(&self, number: u64) -> Result<Inode, Error> {
        if let Some(last) = &*self.last.borrow()
            && last.number == number
        {
            return Ok(last.clone());
        }
        let in_block = self.facts.inodes_in_block_log;
        let place = self.fs_block(number >> in_block)?
            + (number & ((1 << in_block) - 1)) * self.facts.inode_bytes as u64;
        let inode = Inode::parse(
            number,
            self.window.bytes(place, self.facts.inode_bytes)?,
            place,
            &self.facts,
        )?;
        self.last.replace(Some(inode.clone()));
        Ok(inode)
    }

    /// Compares a block of version 5 with its checksum, which stands at `at`.
    fn compare(&self, block: &Fields<'_>, at: usize) -> Result<(), Error> {
        if self.facts.version == 5 && checksum(block, at)? != block.le32(at)? {
            return Err(Error::damaged("a block's checksum differs", block.place()));
        }
        Ok(())
    }
}

/// CRC-32C of a structure with its own field, at `at`, as zeroes.
fn checksum(fields: &Fields<'_>, at: usize) -> Result<u32, Error> {
    let sum = crc32c::crc32c(fields.slice(0, at)?);
    let sum = crc32c::crc32c_append(sum, &[0; 4]);
    Ok(crc32c::crc32c_append(sum, fields.slice(at + 4, fields.length() - at - 4)?))
}

impl FileSystem for Xfs {
    fn name(&self) -> &'static str {
        "xfs"
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn root(&self) -> NodeId {
        NodeId(self.facts.root)
    }

    fn node(&self, id: NodeId) -> Result<Node, Error> {
        let inode = self.inode(id.0)?;
        Ok(Node {
            id,
            kind: inode.kind()?,
            size: inode.size,
            mode: Some(inode.mode & 0o7777),
            owner: Some((inode.user, inode.group)),
            modified: inode.modified,
            names: inode.links,
        })
    }

    fn list(
        &self,
        directory: NodeId,
        each: &mut dyn FnMut(Entry) -> Result<(), Error>,
    ) -> Result<(), Error> {
        directory::list(self, &self.inode(directory.0)?, each)
    }

    fn pieces(&self, file: NodeId) -> Result<Vec<Piece>, Error> {
        let inode = self.inode(file.0)?;
        if inode.is_realtime() {
            return Err(Error::unsupported("its content lies on a realtime device"));
        }
        map::pieces(self, &inode, inode.size)
    }

    fn target(&self, link: NodeId) -> Result<Vec<u8>, Error> {
        let inode = self.inode(link.0)?;
        if inode.kind()? != Kind::Link || inode.size > LINK_BYTES {
            return Err(Error::damaged("a link has no target that can be", inode.place));
        }
        let length = size(inode.size)?;
        if inode.form == Form::Local {
            return Ok(inode.fork()?.slice(0, length)?.to_vec());
        }
        // In version 5 each block begins with a header that is not part of the target.
        let header = if self.facts.version == 5 { 56 } else { 0 };
        let mut target = Vec::with_capacity(length);
        for piece in map::pieces(self, &inode, u64::MAX)? {
            let Place::At(place) = piece.place else { continue };
            let bytes = self.window.bytes(place, size(piece.length.min(LINK_BYTES * 16))?)?;
            let fields = Fields::new(&bytes, place);
            if header > 0 {
                if fields.slice(0, 4)? != b"XSLM" {
                    return Err(Error::damaged("a link's block has no header", place));
                }
                self.compare(&fields, 12)?;
            }
            let now = (fields.length().saturating_sub(header)).min(length - target.len());
            target.extend_from_slice(fields.slice(header, now)?);
        }
        if target.len() == length {
            return Ok(target);
        }
        Err(Error::damaged("a link's target is cut short", inode.place))
    }

    fn read(&self, place: u64, into: &mut [u8]) -> Result<(), Error> {
        self.window.read(place, into)
    }

    fn replayed(&self, _place: u64, _length: u64) -> bool {
        false
    }
}

impl Super {
    fn parse(sector: &[u8]) -> Result<Self, Error> {
        let fields = Fields::new(sector, 0);
        let damaged = |what| Error::damaged(what, 0);
        let version = fields.be16(100)? & 0xf;
        if !(4..=5).contains(&version) {
            return Err(Error::unsupported(format!("an XFS file system of version {version}")));
        }
        let sector_bytes = usize::from(fields.be16(102)?);
        if !(SUPER_BYTES..=1 << 15).contains(&sector_bytes) || !sector_bytes.is_power_of_two() {
            return Err(damaged("the super block's sector size cannot be"));
        }
        let mut has_kinds = fields.be32(200)? & FEATURES2_FTYPE != 0;
        if version == 5 {
            let block = Fields::new(fields.slice(0, sector_bytes)?, 0);
            if checksum(&block, 224)? != block.le32(224)? {
                return Err(damaged("the super block's checksum differs"));
            }
            let features = fields.be32(216)?;
            if features & !incompat::READ != 0 {
                let unknown = features & !incompat::READ;
                let text =
                    format!("an XFS file system with features that are not known ({unknown:#x})");
                return Err(Error::unsupported(text));
            }
            if features & incompat::NEEDS_REPAIR != 0 {
                return Err(damaged("the file system says that it needs repair"));
            }
            has_kinds = features & incompat::FTYPE != 0;
        }
        let (block_log, inode_log) = (u32::from(fields.u8(120)?), u32::from(fields.u8(122)?));
        let (in_block_log, group_log) = (u32::from(fields.u8(123)?), u32::from(fields.u8(124)?));
        let directory_log = u32::from(fields.u8(192)?);
        let possible = (9..=16).contains(&block_log)
            && (8..=11).contains(&inode_log)
            && inode_log <= block_log
            && in_block_log == block_log - inode_log
            && fields.be32(4)? == 1 << block_log
            && (1..=31).contains(&group_log)
            && directory_log + block_log <= 16;
        if !possible {
            return Err(damaged("the super block's numbers cannot be"));
        }
        let facts = Self {
            version,
            block_bytes: 1 << block_log,
            blocks: fields.be64(8)?,
            root: fields.be64(56)?,
            group_blocks: u64::from(fields.be32(84)?),
            groups: u64::from(fields.be32(88)?),
            inode_bytes: 1 << inode_log,
            inodes_in_block_log: in_block_log,
            group_blocks_log: group_log,
            directory_bytes: 1 << (block_log + directory_log),
            has_kinds,
            log_start: fields.be64(48)?,
            log_blocks: u64::from(fields.be32(96)?),
        };
        if facts.group_blocks == 0
            || facts.group_blocks > 1 << group_log
            || facts.blocks > facts.groups * facts.group_blocks
            || facts.blocks > u64::MAX >> block_log
        {
            return Err(damaged("the super block's numbers cannot be"));
        }
        Ok(facts)
    }
}
