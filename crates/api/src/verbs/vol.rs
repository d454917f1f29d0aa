//! `vol create|ls|show|set|resize|rename|rm|undelete|release`.

use super::{Moment, Resolution, image::VolBase, session::Client};
use crate::{
    Reference, Time,
    names::{BranchName, VolumeName},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Makes a volume, empty: it reads as zeroes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolCreate {
    /// Its name.
    pub name: VolumeName,
    /// Size in bytes, a multiple of `block`.
    pub size: u64,
    /// Logical block that clients are told: 512 or 4096; fixed for ever.
    #[serde(default = "logical_block")]
    pub block: u32,
    /// Refuses a second writer.
    #[serde(default)]
    pub exclusive: bool,
}

const fn logical_block() -> u32 {
    512
}

/// A volume in one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolSummary {
    /// Its number, never used again.
    pub id: u32,
    /// Its name.
    pub name: VolumeName,
    /// Size in bytes.
    pub size: u64,
    /// The present branch's id.
    pub branch: String,
    /// Logical block in bytes.
    pub block: u32,
    /// Bytes that its history takes.
    pub history: u64,
    /// Clients connected now.
    pub clients: u64,
    /// Whether a client is attached (connected, or cut off without a clean end).
    pub attached: bool,
    /// The retention rule.
    pub keep: String,
    /// The present.
    pub now: Moment,
    /// The oldest kept instant.
    pub oldest: Option<Moment>,
}

/// The volume that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolCreated {
    /// Its number.
    pub id: u32,
    /// Its name.
    pub name: VolumeName,
    /// Size in bytes.
    pub size: u64,
    /// Logical block in bytes.
    pub block: u32,
    /// The retention rule.
    pub keep: String,
    /// Where clients reach it, when a server offers NBD.
    pub uri: Option<String>,
}

question!(
    /// Asks for all volumes.
    VolLs
);

/// All volumes that the caller may see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolList {
    /// By name.
    pub volumes: Vec<VolSummary>,
}

/// Asks for a volume, or how an instant of it is understood.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolShow {
    /// `VOL[~BRANCH][@INSTANT]`.
    pub reference: Reference,
    /// Refuses an instant that was thinned.
    #[serde(default)]
    pub exact: bool,
}

/// All about a volume at an instant (the present, unless another was asked).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolDetails {
    /// Its number.
    pub id: u32,
    /// Its name.
    pub name: VolumeName,
    /// Size in bytes, at that instant.
    pub size: u64,
    /// Id of the branch that the instant lies on.
    pub branch: String,
    /// The fixed name: `db@seq:93880`; without an instant when none was asked.
    pub reference: Reference,
    /// Sequence of the instant.
    pub seq: u64,
    /// Time of the instant.
    pub time: Time,
    /// How the instant was understood.
    pub resolution: Option<Resolution>,
    /// Logical block in bytes.
    pub block: u32,
    /// When it was made.
    pub created: Option<Time>,
    /// What it was cloned from.
    pub origin: Option<Reference>,
    /// What an answered write has reached: `disk`, `page` or `memory`.
    pub ack: String,
    /// The retention rule.
    pub keep: String,
    /// Refuses a second writer.
    pub exclusive: bool,
    /// Whether nothing may be written.
    pub read_only: bool,
    /// What happens when the disk is full.
    pub when_full: WhenFull,
    /// Bytes that its history takes.
    pub history: u64,
    /// The oldest kept instant.
    pub oldest: Option<Moment>,
    /// Serial that guests see; each branch and opened instant has its own.
    pub serial: String,
    /// Where clients reach it, when a server offers NBD.
    pub uri: Option<String>,
    /// Clients that are attached.
    pub clients: Vec<Client>,
    /// Futures left by rewind, and opened instants that are writable.
    pub branches: Vec<Branch>,
    /// How many marks.
    pub marks: u64,
    /// The foreign image that it stands on, or stood on.
    #[serde(default)]
    pub base: Option<VolBase>,
}

/// What happens when the disk is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// The oldest unpinned history yields.
    Thin,
    /// Writes end with ENOSPC before history yields.
    Stop,
}

/// A line of history beside the present one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Branch {
    /// Its name, after the `~`.
    pub name: BranchName,
    /// Where it left the line it came from.
    pub from: Moment,
    /// Its end.
    pub end: Moment,
    /// Whether it may be written.
    pub writable: bool,
}

/// Changes settings; what is absent stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolSet {
    /// The volume.
    pub name: VolumeName,
    /// Refuses a second writer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclusive: Option<bool>,
    /// Refuses all writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only: Option<bool>,
    /// What happens when the disk is full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when_full: Option<WhenFull>,
}

/// Changes the size; the past keeps its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolResize {
    /// The volume.
    pub name: VolumeName,
    /// New size in bytes.
    pub size: u64,
    /// Allows a smaller size; the volume must be detached.
    #[serde(default)]
    pub shrink: bool,
}

/// The sizes before and after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolResized {
    /// The volume.
    pub name: VolumeName,
    /// Size before.
    pub size_before: u64,
    /// Size now.
    pub size: u64,
    /// Clients that see the new size only when they reconnect.
    pub clients: Vec<Client>,
}

/// Gives a volume another name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolRename {
    /// The volume.
    pub name: VolumeName,
    /// Its new name.
    pub to: VolumeName,
}

/// The volume under its new name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolRenamed {
    /// Its number.
    pub id: u32,
    /// Its name before.
    pub name_before: VolumeName,
    /// Its name.
    pub name: VolumeName,
}

/// Puts a volume into the trash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolRemove {
    /// The volume.
    pub name: VolumeName,
    /// Only says what would happen.
    #[serde(default)]
    pub dry_run: bool,
}

/// What went into the trash, or would.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolRemoved {
    /// Its number.
    pub id: u32,
    /// Its name.
    pub name: VolumeName,
    /// Size of the disk.
    pub size: u64,
    /// Bytes that its history takes.
    pub history: u64,
    /// Until when it can be brought back.
    pub until: Time,
    /// Clones that live on.
    pub clones: Vec<VolumeName>,
    /// Whether it was done, or only planned.
    pub done: bool,
}

/// Brings a volume back from the trash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolUndelete {
    /// Its name when it was removed.
    pub name: VolumeName,
    /// Its number, where several of that name are in the trash; else the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    /// A new name.
    #[serde(default, rename = "as", skip_serializing_if = "Option::is_none")]
    pub new_name: Option<VolumeName>,
}

/// Lets clients in again that `rewind --detach` had cut off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolRelease {
    /// The volume.
    pub name: VolumeName,
}

/// Who was let in again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolReleased {
    /// The volume.
    pub name: VolumeName,
    /// The clients, named.
    pub released: Vec<String>,
}
