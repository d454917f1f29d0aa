//! `log`: a volume's history by minute, write, flush or client.
//!
//! Long histories come in pages: an answer with `next` is followed by the same request with
//! `after` set to it.

use super::{Moment, mark::Mark, vol::Branch};
use crate::{InstantSpec, Reference, Time, names::VolumeName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a row of the log stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogBy {
    /// A minute.
    #[default]
    Minute,
    /// A write, trim or write of zeroes.
    Write,
    /// A client's flush.
    Flush,
    /// A client.
    Client,
}

/// Asks for a volume's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// `VOL[~BRANCH]`.
    pub reference: Reference,
    /// From here on; by default the last hour for minutes, else the oldest kept instant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<InstantSpec>,
    /// Up to here; by default the present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<InstantSpec>,
    /// What a row stands for.
    #[serde(default)]
    pub by: LogBy,
    /// Asks for a page after this: `next` of the answer before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// At most so many rows; the server may give fewer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// A page of a volume's history: the list that was asked for is filled, the others are empty.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LogPage {
    /// The volume.
    pub name: VolumeName,
    /// The first instant that is covered.
    pub since: Moment,
    /// The last one.
    pub until: Moment,
    /// The present.
    pub now: Moment,
    /// Minutes with writes, ascending.
    pub minutes: Vec<Minute>,
    /// Writes, ascending.
    pub writes: Vec<Write>,
    /// Flushes, ascending.
    pub flushes: Vec<Flush>,
    /// Clients that wrote.
    pub clients: Vec<Writer>,
    /// Marks in the stretch (first page only), ascending.
    pub marks: Vec<Mark>,
    /// Branches that left in the stretch (first page only), ascending.
    pub branches: Vec<Branch>,
    /// There is more after this.
    pub next: Option<u64>,
}

/// A minute of a volume's history.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Minute {
    /// Where it begins.
    pub time: Time,
    /// Last sequence in it.
    pub seq: u64,
    /// Writes in it.
    pub writes: u64,
    /// Bytes written in it.
    pub bytes: u64,
    /// Bits per byte of what was written, where it was measured.
    pub entropy: Option<f64>,
}

/// A write, trim or write of zeroes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Write {
    /// Its sequence.
    pub seq: u64,
    /// When it was acknowledged.
    pub time: Time,
    /// What it was.
    pub op: WriteOp,
    /// First byte.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
    /// Who wrote, named for people.
    pub client: String,
}

/// What a request did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WriteOp {
    /// Wrote bytes.
    Write,
    /// Said that bytes are not needed; they read as zero.
    Trim,
    /// Wrote zeroes.
    Zero,
    /// Changed the size of the volume.
    Resize,
}

/// A client's flush.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Flush {
    /// All up to here was durable.
    pub seq: u64,
    /// When it was answered.
    pub time: Time,
    /// Whose, named for people.
    pub client: String,
}

/// What one client wrote in the stretch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Writer {
    /// Who, named for people.
    pub client: String,
    /// Writes.
    pub writes: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Its first write.
    pub first: Moment,
    /// Its last write.
    pub last: Moment,
}
