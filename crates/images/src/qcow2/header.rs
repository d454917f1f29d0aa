//! The header of a qcow2 file and its extensions.
//!
//! Layouts are those of QEMU's `docs/interop/qcow2.rst`, "Header" and "Header extensions". All of it
//! lies in the first cluster.

use crate::{
    Class, Fault, FileId, Input, Part, Stop,
    bytes::{be32, be64, narrow, wide},
    limits,
};

/// Bits of `incompatible_features`.
pub(super) mod incompatible {
    pub const DIRTY: u64 = 1;
    pub const CORRUPT: u64 = 1 << 1;
    pub const DATA_FILE: u64 = 1 << 2;
    pub const COMPRESSION: u64 = 1 << 3;
    pub const EXTENDED_L2: u64 = 1 << 4;
    pub const KNOWN: u64 = DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2;
}

/// Bit of `compatible_features`: refcounts are written late.
pub(super) const COMPATIBLE_LAZY: u64 = 1;
/// Bit of `autoclear_features`: the bitmaps extension is consistent.
pub(super) const AUTOCLEAR_BITMAPS: u64 = 1;
/// Bit of `autoclear_features`: the data file alone is a raw image of the disk.
pub(super) const AUTOCLEAR_RAW: u64 = 1 << 1;

/// Types of header extensions.
pub(super) mod extension {
    pub const END: u32 = 0;
    pub const BACKING_FORMAT: u32 = 0xe279_2aca;
    pub const FEATURE_NAMES: u32 = 0x6803_f857;
    pub const BITMAPS: u32 = 0x2385_2875;
    pub const ENCRYPTION: u32 = 0x0537_be77;
    pub const DATA_FILE: u32 = 0x4441_5441;
}

/// Bytes of the header of version 2, and the least of version 3.
const HEADER_2: u64 = 72;
const HEADER_3: u64 = 104;

/// The fields of a header, each in its range.
#[derive(Clone, Debug)]
pub(super) struct Header {
    pub file: FileId,
    pub version: u32,
    pub cluster_bits: u32,
    pub size: u64,
    pub l1: u64,
    pub l1_count: u64,
    pub refcount_table: u64,
    pub refcount_clusters: u64,
    pub refcount_bits: u32,
    pub snapshots: u64,
    pub snapshot_count: u64,
    pub incompatible: u64,
    pub compatible: u64,
    pub autoclear: u64,
    pub zstd: bool,
    /// The parent's name and where it stands; empty names are kept.
    pub backing: Option<(u64, Vec<u8>)>,
    /// Extensions by type, in the order of the file.
    pub extensions: Vec<(u32, Vec<u8>)>,
}

impl Header {
    /// Reads the first cluster and makes sure of every field.
    pub fn read(file: FileId, input: &Input) -> Result<Self, Stop> {
        let fault = |class, at, text: String| Fault::at(class, Part::Header, file, at, text);
        let start = input.read_up_to(file, 0, 512, Part::Header)?;
        if !start.starts_with(b"QFI\xfb") {
            let text = "it does not begin as qcow2 images do".to_owned();
            return Err(fault(Class::BadMagic, 0, text).into());
        }
        let cut = || {
            let text = format!("the file ends at {} within the header", start.len());
            Stop::from(fault(Class::Truncated, wide(start.len()), text))
        };
        if start.len() < 72 {
            return Err(cut());
        }
        let version = be32(start, 4);
        if !(2..=3).contains(&version) {
            let text = format!("version {version}, known are 2 and 3");
            return Err(fault(Class::UnknownVersion, 4, text).into());
        }
        let cluster_bits = be32(start, 20);
        if !(9..=21).contains(&cluster_bits) {
            let text = format!("clusters of 2^{cluster_bits} bytes, the format has 2^9 to 2^21");
            return Err(fault(Class::BadField, 20, text).into());
        }
        if version == 3 && start.len() < narrow(HEADER_3) {
            return Err(cut());
        }
        let cluster = 1 << cluster_bits;
        let head = input.read_up_to(file, 0, cluster, Part::Header)?;
        let header_len = if version == 2 { HEADER_2 } else { u64::from(be32(head, 100)) };
        let is_sound = version == 2
            || (HEADER_3..=cluster).contains(&header_len) && header_len.is_multiple_of(8);
        if !is_sound {
            let text = format!("a header of {header_len} bytes");
            return Err(fault(Class::BadField, 100, text).into());
        }
        if wide(head.len()) < header_len {
            return Err(cut());
        }
        let mut header = Self {
            file,
            version,
            cluster_bits,
            size: be64(head, 24),
            l1: be64(head, 40),
            l1_count: u64::from(be32(head, 36)),
            refcount_table: be64(head, 48),
            refcount_clusters: u64::from(be32(head, 56)),
            refcount_bits: 16,
            snapshots: be64(head, 64),
            snapshot_count: u64::from(be32(head, 60)),
            incompatible: 0,
            compatible: 0,
            autoclear: 0,
            zstd: false,
            backing: None,
            extensions: Vec::new(),
        };
        if version == 3 {
            header.take_version_3(head, header_len)?;
        }
        if header.size > limits::VIRTUAL_BYTES_MAX {
            let text = format!("a disk of {} bytes", header.size);
            return Err(fault(Class::Limit, 24, text).into());
        }
        header.take_extensions(head, header_len, input)?;
        header.check_encryption(be32(head, 32))?;
        Ok(header)
    }

    /// Bytes of a cluster.
    pub fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Whether a feature is in use that a reader must know.
    pub fn needs(&self, feature: u64) -> bool {
        self.incompatible & feature != 0
    }

    /// Bytes of an entry of an L2 table.
    pub fn l2_entry(&self) -> u64 {
        if self.needs(incompatible::EXTENDED_L2) { 16 } else { 8 }
    }

    /// Entries of an L2 table.
    pub fn l2_count(&self) -> u64 {
        self.cluster() / self.l2_entry()
    }

    /// Guest bytes that an L2 table maps. At most 2^39.
    pub fn l2_reach(&self) -> u64 {
        self.cluster() * self.l2_count()
    }

    /// The content of an extension.
    pub fn extension(&self, kind: u32) -> Option<&[u8]> {
        self.extensions.iter().find(|(found, _)| *found == kind).map(|(_, bytes)| bytes.as_slice())
    }

    fn fault(&self, class: Class, at: u64, text: impl Into<String>) -> Stop {
        Fault::at(class, Part::Header, self.file, at, text).into()
    }

    fn take_version_3(&mut self, head: &[u8], header_len: u64) -> Result<(), Stop> {
        self.incompatible = be64(head, 72);
        self.compatible = be64(head, 80);
        self.autoclear = be64(head, 88);
        let unknown = self.incompatible & !incompatible::KNOWN;
        if unknown != 0 {
            let text = format!("incompatible features {unknown:#x} are not known");
            return Err(self.fault(Class::UnknownFeature, 72, text));
        }
        let order = be32(head, 96);
        if order > 6 {
            let text = format!("refcounts of 2^{order} bits, the format has at most 64");
            return Err(self.fault(Class::BadField, 96, text));
        }
        self.refcount_bits = 1 << order;
        if self.needs(incompatible::EXTENDED_L2) && self.cluster_bits < 14 {
            let text = format!("extended L2 entries with clusters of 2^{}", self.cluster_bits);
            return Err(self.fault(Class::BadField, 20, text));
        }
        let kind = if header_len > HEADER_3 { head[narrow(HEADER_3)] } else { 0 };
        match (self.needs(incompatible::COMPRESSION), kind) {
            (false, 0) => {}
            (true, 1) => self.zstd = true,
            (true, 2..) => {
                let text = format!("compression type {kind} is not known");
                return Err(self.fault(Class::UnknownFeature, HEADER_3, text));
            }
            (true, 0) => {
                let text = "a compression type is announced and not stated";
                return Err(self.fault(Class::BadField, HEADER_3, text));
            }
            (false, _) => {
                let text = format!("compression type {kind} without its feature bit");
                return Err(self.fault(Class::BadField, HEADER_3, text));
            }
        }
        Ok(())
    }

    /// The parent's name and the extensions before it.
    fn take_extensions(&mut self, head: &[u8], from: u64, input: &Input) -> Result<(), Stop> {
        let (name_at, name_len) = (be64(head, 8), u64::from(be32(head, 16)));
        let mut end = wide(head.len());
        if name_at != 0 {
            if name_len > wide(limits::NAME_BYTES_MAX) {
                let text = format!("a parent's name of {name_len} bytes, the format allows 1023");
                return Err(self.fault(Class::BadField, 16, text));
            }
            input.inside(self.file, name_at, name_len, Part::Header)?;
            if name_at < from || name_at + name_len > end {
                let text = "the parent's name is not within the first cluster";
                return Err(self.fault(Class::BadField, 8, text));
            }
            let name = head[narrow(name_at)..narrow(name_at + name_len)].to_vec();
            self.backing = Some((name_at, name));
            end = name_at;
        }
        let mut at = from;
        while at + 8 <= end {
            let (kind, len) = (be32(head, narrow(at)), u64::from(be32(head, narrow(at) + 4)));
            if kind == extension::END {
                break;
            }
            let content = at + 8;
            if len > end - content {
                let text = format!("extension {kind:#x} of {len} bytes has no room");
                let part = Part::HeaderExtension;
                return Err(Fault::at(Class::BadField, part, self.file, at, text).into());
            }
            let bytes = head[narrow(content)..narrow(content + len)].to_vec();
            self.extensions.push((kind, bytes));
            at = content + len.next_multiple_of(8);
        }
        Ok(())
    }

    /// Encrypted images are named and not read.
    fn check_encryption(&self, method: u32) -> Result<(), Stop> {
        let (class, text) = match method {
            0 => return Ok(()),
            1 => (Class::UnsupportedEncryption, "encrypted by the old AES method".to_owned()),
            2 if self.extension(extension::ENCRYPTION).is_none() => {
                (Class::BadField, "encrypted by LUKS, without the extension for it".to_owned())
            }
            2 => (Class::UnsupportedEncryption, "encrypted by LUKS".to_owned()),
            other => (Class::UnsupportedEncryption, format!("encrypted by method {other}")),
        };
        Err(Fault::at(class, Part::Crypto, self.file, 32, text).into())
    }
}
