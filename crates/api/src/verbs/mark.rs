//! `mark add|ls|rm|pin|unpin`: instants with names.

use crate::{
    Reference, Time,
    names::{MarkName, VolumeName},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Names an instant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MarkAdd {
    /// `VOL[~BRANCH][@INSTANT]`; without an instant, the present.
    pub reference: Reference,
    /// The mark; a name may be used again, `mark:NAME~1` is the one before.
    pub name: MarkName,
    /// Nanoseconds after which it goes by itself; absent: kept until removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_ns: Option<u64>,
    /// Cannot be removed before it is unpinned.
    #[serde(default)]
    pub pinned: bool,
    /// A line for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A mark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Mark {
    /// Its volume.
    pub volume: VolumeName,
    /// Its name.
    pub name: MarkName,
    /// How to name it: `db@mark:nightly~2`.
    pub reference: Reference,
    /// Sequence of its instant.
    pub seq: u64,
    /// Time of its instant.
    pub time: Time,
    /// When it was made.
    pub created: Time,
    /// When it goes by itself.
    pub until: Option<Time>,
    /// Whether it is pinned.
    pub pinned: bool,
    /// How much a guest knew of it: `crash`.
    pub consistency: String,
    /// A line for people.
    pub note: Option<String>,
}

/// Asks for marks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MarkLs {
    /// Only this volume's; all when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeName>,
}

/// The marks asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MarkList {
    /// By volume, then by time.
    pub marks: Vec<Mark>,
}

/// Removes a mark; its instant then ages by the volume's rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MarkRemove {
    /// The volume.
    pub volume: VolumeName,
    /// The mark.
    pub name: MarkName,
    /// So many earlier ones of that name.
    #[serde(default)]
    pub back: u32,
    /// Only says what would happen.
    #[serde(default)]
    pub dry_run: bool,
}

/// The mark that went, or would.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MarkRemoved {
    /// The mark.
    pub mark: Mark,
    /// Whether it was done, or only planned.
    pub done: bool,
}

/// Pins a mark or lets it go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MarkPin {
    /// The volume.
    pub volume: VolumeName,
    /// The mark.
    pub name: MarkName,
    /// So many earlier ones of that name.
    #[serde(default)]
    pub back: u32,
    /// Pinned from now on, or not.
    pub pinned: bool,
}
