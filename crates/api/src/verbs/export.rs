//! `export/describe` and the bytes of an instant as an image.

use super::Resolution;
use crate::{Reference, Time};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A format of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ImageFormat {
    /// The guest's bytes and nothing else.
    Raw,
    /// QEMU's.
    Qcow2,
    /// Virtual PC's, and Hyper-V's before 2012.
    Vhd,
    /// Hyper-V's.
    Vhdx,
    /// VMware's.
    Vmdk,
    /// VirtualBox's.
    Vdi,
}

/// Asks which files an instant is as an image: their lengths, and what says that they are the same.
/// Nothing is written or kept; the answer depends on the instant and on what is asked here alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Describe {
    /// `VOL[~BRANCH][@INSTANT]`; without an instant, the present.
    pub reference: Reference,
    /// The format.
    pub format: ImageFormat,
    /// Kind within the format: qcow2 `plain`, `zlib`, `zstd`; VHD and VHDX `dynamic`, `fixed`; VDI
    /// `dynamic`, `static`; VMDK `sparse`, `flat`, `streamOptimized`. Absent: the first of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subformat: Option<String>,
    /// Makes an image of what differs from this instant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Reference>,
    /// File name of the base's image, relative to the folder of this one. Absent:
    /// `VOL-seqN.FORMAT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_name: Option<String>,
    /// File name of the image, where it carries it in itself (VMDK). Absent: `VOL-seqN.FORMAT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Refuses instants that were thinned.
    #[serde(default)]
    pub exact: bool,
}

/// An instant as an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Described {
    /// The instant, by its fixed name: ask for the bytes by this.
    pub reference: Reference,
    /// Its sequence.
    pub seq: u64,
    /// Its time.
    pub time: Time,
    /// How it was understood.
    pub resolution: Option<Resolution>,
    /// Bytes that the guest saw.
    pub size: u64,
    /// The format.
    pub format: ImageFormat,
    /// The kind within the format.
    pub subformat: String,
    /// What it differs from.
    pub base: Option<DescribedBase>,
    /// Bytes of the guest that the image holds as data; `null` where nobody has looked.
    pub data: Option<u64>,
    /// The files, the one that is opened first.
    pub files: Vec<ExportFile>,
}

/// The base of a difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DescribedBase {
    /// The instant, by its fixed name.
    pub reference: Reference,
    /// Its sequence.
    pub seq: u64,
    /// Its time.
    pub time: Time,
    /// Bytes that the guest saw of it.
    pub size: u64,
    /// File name by which the image refers to it; absent where the format refers by identity alone.
    pub name: Option<String>,
}

/// A file of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExportFile {
    /// Its name.
    pub name: String,
    /// What stands between the stem of the image's name and its extension: empty for the file that
    /// is opened, `-flat` for the data of a flat VMDK.
    pub suffix: String,
    /// Its length in bytes; `null` for a packed image, which shows while it is packed and is given
    /// from its beginning to its end only.
    pub length: Option<u64>,
    /// Equal tags, equal bytes: at any time, on any machine, of this version.
    pub etag: String,
}

/// Asks for bytes of a file of an export; the answer is a stream, see [`crate::Control::export`].
/// Fields mean what they mean in [`Describe`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ExportRead)] // there is a `Read` of instants, too
pub struct Read {
    /// `VOL[~BRANCH][@INSTANT]`.
    #[serde(rename = "ref")]
    pub reference: Reference,
    /// The format.
    pub format: ImageFormat,
    /// Kind within the format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subformat: Option<String>,
    /// What it differs from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Reference>,
    /// File name of the base's image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_name: Option<String>,
    /// File name of the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Refuses instants that were thinned.
    #[serde(default)]
    pub exact: bool,
    /// Which file: its place in [`Described::files`].
    #[serde(default)]
    pub file: u32,
    /// First byte. A packed image is given from byte 0 on only.
    #[serde(default)]
    pub offset: u64,
    /// How many bytes; absent: up to the end of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// Of a packed qcow2: the bytes of its first 64 KiB come as zeroes, and once more behind all
    /// others. So it is packed once instead of twice; for who writes a file and can go back.
    #[serde(default)]
    pub head_last: bool,
}

impl Describe {
    /// What is asked of an instant when nothing is chosen.
    pub const fn of(reference: Reference, format: ImageFormat) -> Self {
        Self {
            reference,
            format,
            subformat: None,
            base: None,
            base_name: None,
            name: None,
            exact: false,
        }
    }

    /// All bytes of one of the files.
    pub fn read(self, file: u32) -> Read {
        let Self { reference, format, subformat, base, base_name, name, exact } = self;
        Read {
            reference,
            format,
            subformat,
            base,
            base_name,
            name,
            exact,
            file,
            offset: 0,
            length: None,
            head_last: false,
        }
    }
}

impl Read {
    /// Bytes of the head that [`Read::head_last`] is about.
    pub const HEAD_BYTES: u64 = 64 << 10;

    /// The question which files there are.
    pub fn describe(&self) -> Describe {
        Describe {
            reference: self.reference.clone(),
            format: self.format,
            subformat: self.subformat.clone(),
            base: self.base.clone(),
            base_name: self.base_name.clone(),
            name: self.name.clone(),
            exact: self.exact,
        }
    }

    /// So many bytes from an offset on.
    #[must_use]
    pub const fn range(mut self, offset: u64, length: u64) -> Self {
        self.offset = offset;
        self.length = Some(length);
        self
    }
}
