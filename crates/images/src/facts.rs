//! What an image says of itself.

use crate::{Class, Fault, FileId, Format, Role, names::FileName};

/// What was found when an image was opened.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Its format.
    pub format: Format,
    /// The kind within the format: `v3`, `dynamic`, `streamOptimized`.
    pub variant: &'static str,
    /// Bytes that the guest sees.
    pub virtual_size: u64,
    /// Bytes of a cluster, block or grain; 0 where the format has none.
    pub unit: u64,
    /// Bytes of the logical sector that the format states; 512 where it states none.
    pub sector: u32,
    /// Which program made it, as it says.
    pub creator: Option<String>,
    /// Its own identifiers.
    pub identity: Identity,
    /// What it differs from.
    pub parent: Option<Parent>,
    /// Other files that hold parts of it, in the order of the image.
    pub files: Vec<OtherFile>,
    /// Features in use, one word or short phrase each.
    pub features: Vec<String>,
    /// Header extensions that are not the format's own: type and bytes (qcow2).
    pub extensions: Vec<(u32, Vec<u8>)>,
    /// Feature bits that a writer who does not know them clears (qcow2).
    pub autoclear: u64,
    /// Internal snapshots.
    pub snapshots: Vec<Snapshot>,
    /// Persistent bitmaps.
    pub bitmaps: Vec<Bitmap>,
    /// What is odd or damaged and did not keep it from being read.
    pub notes: Vec<Fault>,
    /// Why it must not be written in place, where there is a reason.
    pub read_only: Option<Class>,
}

impl Facts {
    /// Facts with nothing but what every image has.
    pub(crate) fn new(format: Format, variant: &'static str, virtual_size: u64, unit: u64) -> Self {
        Self {
            format,
            variant,
            virtual_size,
            unit,
            sector: 512,
            creator: None,
            identity: Identity::None,
            parent: None,
            files: Vec::new(),
            features: Vec::new(),
            extensions: Vec::new(),
            autoclear: 0,
            snapshots: Vec::new(),
            bitmaps: Vec::new(),
            notes: Vec::new(),
            read_only: None,
        }
    }
}

/// Identifiers, by which a child knows its parent. Ids are in the byte order of the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Identity {
    /// The format has none.
    #[default]
    None,
    /// VHD: the unique id, and the time stamp in seconds since 2000-01-01 UTC.
    Vhd {
        /// Unique id of the footer.
        id: [u8; 16],
        /// Time stamp.
        time: u32,
    },
    /// VHDX: of an image its write ids; of a parent both linkages, the second all zero if absent.
    Vhdx {
        /// FileWriteGuid, or of a parent `parent_linkage2`.
        file_write: [u8; 16],
        /// DataWriteGuid, or of a parent `parent_linkage`.
        data_write: [u8; 16],
    },
    /// VMDK: the content id.
    Vmdk {
        /// CID.
        content: u32,
    },
    /// VDI: the image's UUID and that of its last modification.
    Vdi {
        /// UUID.
        id: [u8; 16],
        /// Modification UUID.
        modified: [u8; 16],
    },
}

/// What an image differs from, as it states.
#[derive(Clone, Debug)]
pub struct Parent {
    /// The name as the image has it, for messages; empty where it has none.
    pub stated: String,
    /// Names to try in this order, checked. An `Err` is a name that must not be opened; it is the
    /// answer if no other name leads to a file.
    pub names: Vec<Result<FileName, Fault>>,
    /// The parent's format, as stated or as the child's format implies it.
    pub format: Option<Format>,
    /// Found by its identity alone, among the files of the child's folder with this suffix.
    pub by_identity: Option<&'static str>,
    /// Identity that the parent must have.
    pub identity: Identity,
}

/// A file besides the image's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherFile {
    /// What it holds.
    pub role: Role,
    /// Its name, as checked.
    pub name: String,
    /// The opened file.
    pub file: FileId,
}

/// An internal snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its id, as text.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Bytes that the guest saw.
    pub virtual_size: u64,
    /// When it was made, in seconds since 1970-01-01 UTC.
    pub made_s: u64,
    /// Bytes of the machine's state beside the disk's.
    pub machine_state: u64,
    /// Why it cannot be opened, where it cannot.
    pub fault: Option<Fault>,
}

/// A persistent bitmap of changed ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bitmap {
    /// Its name.
    pub name: String,
    /// Bytes of the disk that one bit stands for.
    pub granularity: u64,
    /// It was in use when the image was last closed: what it says is not to be relied on.
    pub in_use: bool,
    /// It records writes by itself.
    pub auto: bool,
}
