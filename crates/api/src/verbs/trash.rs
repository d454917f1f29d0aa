//! `store trash ls|empty`: what was removed and can still be brought back.

use crate::{Time, names::VolumeName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Something in the trash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Trashed {
    /// Number of the volume.
    pub id: u32,
    /// Its name, for a branch with `~BRANCH`.
    pub name: String,
    /// Size of the disk.
    pub size: u64,
    /// Bytes that emptying frees.
    pub bytes: u64,
    /// When it was removed.
    pub removed: Time,
    /// When it goes for good.
    pub until: Time,
}

question!(
    /// Asks what the trash holds.
    TrashLs
);

/// What the trash holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TrashList {
    /// The newest first.
    pub trash: Vec<Trashed>,
}

/// Removes for good; it cannot be undone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrashEmpty {
    /// Only volumes of this name; all when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<VolumeName>,
    /// Only says what would go.
    pub dry_run: bool,
}

/// What went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TrashEmptied {
    /// What went, or would.
    pub gone: Vec<Trashed>,
    /// Bytes that came free, or would.
    pub freed: u64,
    /// Whether it was done, or only planned.
    pub done: bool,
}
