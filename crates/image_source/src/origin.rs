//! Where an image is and how it is read, as bytes that a store keeps: JSON, so that a person can.

use image_files::OpenDisk;
use images::Format;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use world::real::Kinds;

/// See the module's head. Paths are absolute; a path that is no UTF-8 has no origin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// The image.
    pub path: String,
    /// Its format, where it was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// The format of parents whose children do not state it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_format: Option<String>,
    /// An internal snapshot in place of the present state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// Folders in which parents and parts are looked for, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Block devices are allowed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub devices: bool,
}

impl Origin {
    /// The bytes that [`Origin::decode`] takes.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain data with string keys")
    }

    /// The origin of these bytes.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// The image.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(&self.path)
    }

    /// How it is opened; `None` if a format is none.
    pub(crate) fn how(&self) -> Option<OpenDisk> {
        let format = |word: &Option<String>| match word {
            None => Some(None),
            Some(word) => Format::ALL.into_iter().find(|format| format.word() == word).map(Some),
        };
        Some(OpenDisk {
            format: format(&self.format)?,
            parent_format: format(&self.parent_format)?,
            snapshot: self.snapshot.clone(),
            search: self.search.iter().map(PathBuf::from).collect(),
            kinds: if self.devices { Kinds::FilesAndDevices } else { Kinds::Files },
            ..OpenDisk::default()
        })
    }
}
