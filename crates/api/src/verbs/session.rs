//! `session ls|kick`: who is connected.

use crate::{Time, names::VolumeName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A client, connected or still attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Client {
    /// Number of the session; 0 when attached without a connection.
    pub id: u64,
    /// The volume.
    pub volume: VolumeName,
    /// The export as it asked for it.
    pub export: String,
    /// A name for people: the program, a certificate, an address.
    pub name: String,
    /// `unix`, or the address.
    pub address: String,
    /// User id of a unix peer.
    pub uid: Option<u32>,
    /// Process of a unix peer.
    pub pid: Option<u32>,
    /// Since when.
    pub since: Time,
    /// Whether it is connected now.
    pub connected: bool,
    /// Whether it has written since its handshake.
    pub writing: bool,
    /// Whether it may only read.
    pub read_only: bool,
    /// Bytes it read.
    pub bytes_read: u64,
    /// Bytes it wrote.
    pub bytes_written: u64,
}

/// Asks who is connected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SessionLs {
    /// Only this volume's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeName>,
}

/// Who is connected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionList {
    /// In order of their numbers.
    pub sessions: Vec<Client>,
}

/// Ends a session; the client may come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionKick {
    /// Number of the session.
    pub id: u64,
}

/// Whom it hit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionKicked {
    /// The client.
    pub client: Client,
}
