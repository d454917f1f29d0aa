//! The header of a VDI, versions 1.0 and 1.1.
//!
//! VirtualBox, `VDICore.h` (VDIPREHEADER, VDIHEADER1, VDIHEADER1PLUS); numbers are little-endian,
//! UUIDs in the mixed order of Windows. Version 1.1 added a second geometry at the end, nothing else.

use crate::{
    Class, Fault, FileId, Input, Part, Stop,
    bytes::{array, le32, le64, wide},
    limits,
};

/// Bytes that are read of a header: all of it that matters, in both versions.
pub(super) const HEADER: u64 = 512;

/// Bytes before the part whose length the header states.
pub(super) const PREHEADER: u64 = 72;

/// Bytes of that part in version 1.0.
const HEADER_MIN: u32 = 384;

pub(super) const SIGNATURE: u32 = 0xbeda_107f;

/// Blocks larger than this are nobody's; VirtualBox and QEMU make those of 1 MiB.
const BLOCK_BYTES_MAX: u32 = 256 << 20;

/// Most blocks of an image: what QEMU reads, 512 TiB with blocks of 1 MiB.
pub(super) const BLOCKS_MAX: u32 = 0x1fff_ff80;

/// How the guest's bytes are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Dynamic,
    Static,
    Differencing,
}

impl Kind {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Dynamic => "dynamic",
            Self::Static => "static",
            Self::Differencing => "differencing",
        }
    }
}

/// A header whose fields are right.
#[derive(Debug)]
pub(super) struct Header {
    /// Bytes from [`PREHEADER`] on.
    pub(super) len: u64,
    pub(super) kind: Kind,
    pub(super) minor: u32,
    /// What it says of its program, at the very start.
    pub(super) creator: String,
    pub(super) comment: String,
    pub(super) map_at: u64,
    pub(super) data_at: u64,
    pub(super) size: u64,
    /// Bytes of a block: a power of two, at least 512.
    pub(super) block: u64,
    /// Bytes before each block that are not the guest's.
    pub(super) extra: u64,
    /// Blocks that are stated to have a place.
    pub(super) allocated: u32,
    pub(super) id: [u8; 16],
    pub(super) modified: [u8; 16],
    pub(super) parent: [u8; 16],
    pub(super) parent_modified: [u8; 16],
}

/// Reads the header of a file.
pub(super) fn read(file: FileId, input: &Input) -> Result<Header, Stop> {
    let bytes = input.read_up_to(file, 0, HEADER, Part::Header)?;
    let fault = |class, at: u64, text: String| {
        Err(Stop::from(Fault::at(class, Part::Header, file, at, text)))
    };
    if bytes.len() < 72 || le32(bytes, 64) != SIGNATURE {
        return fault(Class::BadMagic, 64, "no VDI: its signature is missing".to_owned());
    }
    let version = le32(bytes, 68);
    let (major, minor) = (version >> 16, version & 0xffff);
    if major != 1 || minor > 1 {
        let text = format!("version {major}.{minor}, known are 1.0 and 1.1");
        return fault(Class::UnknownVersion, 68, text);
    }
    if bytes.len() < 456 {
        let text = format!("a header of 456 bytes, the file ends at {}", bytes.len());
        return fault(Class::Truncated, wide(bytes.len()), text);
    }
    Ok(Header::parse(bytes, minor, file)?)
}

impl Header {
    fn parse(bytes: &[u8], minor: u32, file: FileId) -> Result<Self, Fault> {
        let fault =
            |class, at: u64, text: String| Err(Fault::at(class, Part::Header, file, at, text));
        let len = le32(bytes, 72);
        if len < HEADER_MIN {
            let text = format!("a header of {len} bytes, fewer than {HEADER_MIN}");
            return fault(Class::BadField, 72, text);
        }
        let kind = match le32(bytes, 76) {
            1 => Kind::Dynamic,
            2 => Kind::Static,
            3 => {
                let text = "an undo image: VirtualBox itself never made one".to_owned();
                return fault(Class::UnsupportedFormat, 76, text);
            }
            4 => Kind::Differencing,
            other => return fault(Class::BadField, 76, format!("an image of type {other}")),
        };
        let sector = le32(bytes, 360);
        if sector != 512 && sector != 0 {
            let text = format!("sectors of {sector} bytes, known are 512");
            return fault(Class::BadField, 360, text);
        }
        let (size, block, blocks) = (le64(bytes, 368), le32(bytes, 376), le32(bytes, 384));
        if size == 0 || !size.is_multiple_of(512) {
            let text = format!("a size of {size} bytes is no number of sectors");
            return fault(Class::BadField, 368, text);
        }
        if block > BLOCK_BYTES_MAX {
            let text = format!("blocks of {block} bytes, more than {BLOCK_BYTES_MAX}");
            return fault(Class::Limit, 376, text);
        }
        if !block.is_power_of_two() || block < 512 {
            let text = format!("blocks of {block} bytes: no power of two from 512 on");
            return fault(Class::BadField, 376, text);
        }
        if size > limits::VIRTUAL_BYTES_MAX || blocks > BLOCKS_MAX {
            let text = format!("a disk of {size} bytes in {blocks} blocks, at most {BLOCKS_MAX}");
            return fault(Class::Limit, 384, text);
        }
        if u64::from(blocks) * u64::from(block) < size {
            let needed = size.div_ceil(block.into());
            let text = format!("a map of {blocks} blocks, the disk has {needed}");
            return fault(Class::TableTooSmall, 384, text);
        }
        Ok(Self {
            len: len.into(),
            kind,
            minor,
            creator: text(&bytes[..64]),
            comment: text(&bytes[84..340]),
            map_at: le32(bytes, 340).into(),
            data_at: le32(bytes, 344).into(),
            size,
            block: block.into(),
            extra: le32(bytes, 380).into(),
            allocated: le32(bytes, 388),
            id: array(bytes, 392),
            modified: array(bytes, 408),
            parent: array(bytes, 424),
            parent_modified: array(bytes, 440),
        })
    }

    /// Bytes of the entries that the disk needs.
    pub(super) fn map_bytes(&self) -> u64 {
        self.size.div_ceil(self.block) * 4
    }
}

/// Text that a zero byte ends.
fn text(bytes: &[u8]) -> String {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).trim().to_owned()
}
