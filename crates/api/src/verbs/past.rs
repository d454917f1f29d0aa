//! `open`, `close` and the bytes of an instant.

use super::Resolution;
use crate::{Reference, Time};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Makes an instant reachable for clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Open {
    /// `VOL[~BRANCH]@INSTANT`.
    pub reference: Reference,
    /// Writable: makes a branch that ends with `close` or its time.
    #[serde(default)]
    pub writable: bool,
    /// Nanoseconds after the last client until it closes by itself; absent: one hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ns: Option<u64>,
    /// Refuses an instant that was thinned.
    #[serde(default)]
    pub exact: bool,
}

/// An opened instant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Opened {
    /// Its fixed name: `db@seq:93880`, or `db~open-20261120T101231Z` when writable.
    pub reference: Reference,
    /// Sequence of the instant.
    pub seq: u64,
    /// Time of the instant.
    pub time: Time,
    /// How the instant was understood.
    pub resolution: Option<Resolution>,
    /// Size of the disk at that instant.
    pub size: u64,
    /// Whether it may be written.
    pub writable: bool,
    /// Where clients reach it, when a server offers NBD.
    pub uri: Option<String>,
    /// Nanoseconds after the last client until it closes by itself.
    pub ttl_ns: u64,
    /// How long opening took.
    pub took_ns: u64,
}

/// Closes an opened instant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Close {
    /// `VOL@INSTANT` or `VOL~BRANCH`, as `open` printed it.
    pub reference: Reference,
}

/// What was closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Closed {
    /// Its name.
    pub reference: Reference,
    /// Clients that were cut off.
    pub clients: u64,
    /// When a writable one was put into the trash: until then it can be brought back.
    pub trash_until: Option<Time>,
}

/// Asks for the bytes of an instant; the answer is a stream, see [`crate::Control::read`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Read {
    /// `VOL[~BRANCH][@INSTANT]`.
    #[serde(rename = "ref")]
    pub reference: Reference,
    /// First byte.
    #[serde(default)]
    pub offset: u64,
    /// How many bytes; absent: up to the end of the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// Refuses an instant that was thinned.
    #[serde(default)]
    pub exact: bool,
}
