//! `clone`, `rewind`, `diff`.

use super::{Moment, Resolution, session::Client};
use crate::{Reference, Time, names::VolumeName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Makes a writable volume that begins at an instant; nothing is copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolClone {
    /// `VOL[~BRANCH][@INSTANT]`; without an instant, the present.
    pub reference: Reference,
    /// Name of the new volume.
    pub name: VolumeName,
    /// Refuses an instant that was thinned.
    #[serde(default)]
    pub exact: bool,
}

/// The new volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Cloned {
    /// Its number.
    pub id: u32,
    /// Its name.
    pub name: VolumeName,
    /// Its size.
    pub size: u64,
    /// Where it begins, by its fixed name.
    pub origin: Reference,
    /// Sequence of that instant.
    pub seq: u64,
    /// Time of that instant.
    pub time: Time,
    /// How the instant was understood.
    pub resolution: Option<Resolution>,
    /// Where clients reach it, when a server offers NBD.
    pub uri: Option<String>,
}

/// Puts a volume back at an instant; the left future stays as a branch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rewind {
    /// `VOL[~BRANCH]@INSTANT`.
    pub reference: Reference,
    /// Cuts attached clients off and refuses them until `vol release`.
    #[serde(default)]
    pub detach: bool,
    /// Only says what would happen.
    #[serde(default)]
    pub dry_run: bool,
    /// Refuses an instant that was thinned.
    #[serde(default)]
    pub exact: bool,
}

/// What going back did, or would.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rewound {
    /// The volume.
    pub name: VolumeName,
    /// The present before.
    pub from: Moment,
    /// The present now.
    pub to: Moment,
    /// The instant by its fixed name.
    pub reference: Reference,
    /// How the instant was understood.
    pub resolution: Option<Resolution>,
    /// Writes that leave the present.
    pub writes: u64,
    /// The left branch; `null` when nothing was left.
    pub kept: Option<Reference>,
    /// Size before.
    pub size_before: u64,
    /// Size now.
    pub size: u64,
    /// Clients that are attached and would be cut off, or were.
    pub clients: Vec<Client>,
    /// Whether it was done, or only planned.
    pub done: bool,
    /// How long it took.
    pub took_ns: u64,
}

/// Asks what differs between two instants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Diff {
    /// The one: `VOL[~BRANCH]@INSTANT`.
    pub from: Reference,
    /// The other.
    pub to: Reference,
    /// Asks for a page after this: `next` of the answer before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// At most so many ranges; the server may give fewer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Refuses an instant that was thinned.
    #[serde(default)]
    pub exact: bool,
}

/// A page of what differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiffPage {
    /// The one, by its fixed name.
    pub from: Reference,
    /// The other, by its fixed name.
    pub to: Reference,
    /// Size of the disk at the one.
    pub size_from: u64,
    /// Size of the disk at the other.
    pub size_to: u64,
    /// Ranges that differ, ascending.
    pub ranges: Vec<Difference>,
    /// There is more after this.
    pub next: Option<u64>,
}

/// A range that differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Difference {
    /// First byte.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
    /// How it reads at the second instant.
    pub kind: DifferenceKind,
}

/// How a range reads at the second of two instants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DifferenceKind {
    /// As bytes that were written.
    Data,
    /// As zeroes: trimmed, zeroed or never written.
    Zero,
}
