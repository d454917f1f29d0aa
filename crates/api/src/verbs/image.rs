//! `image adopt|import`: volumes that stand on foreign images.

use crate::names::VolumeName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Makes a volume on an image that the server opens itself: usable at once, nothing copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageAdopt {
    /// The volume's name.
    pub name: VolumeName,
    /// The image: an absolute path on the server's host.
    pub path: String,
    /// Its format; found out where it is not told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// Format of parents whose children do not state it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_format: Option<String>,
    /// An internal snapshot in place of the present state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// Absolute paths of folders in which parents and parts are looked for, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Allows block devices.
    #[serde(default)]
    pub devices: bool,
    /// Takes all of it over in the background.
    #[serde(default)]
    pub fill: bool,
    /// Bytes a second that may be taken over; 0: as many as can be.
    #[serde(default)]
    pub rate: u64,
}

/// The volume that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageAdopted {
    /// Its number.
    pub id: u32,
    /// Its name.
    pub name: VolumeName,
    /// Size in bytes.
    pub size: u64,
    /// What it stands on.
    pub base: VolBase,
    /// How long it took.
    pub took_ns: u64,
    /// Where clients reach it, when a server offers NBD.
    pub uri: Option<String>,
}

/// Begins, ends or paces the taking over of the image that a volume stands on, or opens it anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageFill {
    /// The volume.
    pub name: VolumeName,
    /// Whether all of the image shall be taken over; as it was when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fill: Option<bool>,
    /// Bytes a second; 0: as many as can be; as it was when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
    /// The image is at this absolute path now; where it was when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Takes the image for what was adopted, though its files look otherwise.
    #[serde(default)]
    pub accept: bool,
}

/// A volume and what it stands on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageFilled {
    /// The volume.
    pub name: VolumeName,
    /// What it stands on.
    pub base: VolBase,
}

/// The image that a volume stands on, or stood on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolBase {
    /// Its path.
    pub image: String,
    /// Bytes of its disk.
    pub size: u64,
    /// How the volume depends on it.
    pub state: BaseState,
    /// Bytes that were taken over, zeros included.
    pub taken: u64,
    /// Bytes that are not, and so can be read from the image only.
    pub left: u64,
    /// Whether all of it shall be taken over.
    pub fill: bool,
    /// Bytes a second that may be taken over; 0: as many as can be.
    pub rate: u64,
    /// Why nothing can be read of it now, or not all.
    pub trouble: Option<String>,
}

/// How a volume depends on an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BaseState {
    /// It needs it, and takes nothing over.
    Attached,
    /// It needs it, and takes it over.
    Filling,
    /// It needs it, and it is not there or not what it was: what was not taken over cannot be read, and
    /// nothing is written.
    Lost,
    /// It needs it no more.
    Independent,
}

impl BaseState {
    /// For people.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Attached => "attached",
            Self::Filling => "filling",
            Self::Lost => "lost",
            Self::Independent => "independent",
        }
    }
}
