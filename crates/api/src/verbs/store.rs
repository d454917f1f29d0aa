//! `store init|info|check|repair|gc`, `status` and the end of a server.

use super::{Damage, Moment, secret::Secret};
use crate::Time;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What `store init` made; the recovery key is shown once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StoreCreated {
    /// Identity of the store: `7f3a-19c2`.
    pub id: String,
    /// Its directory.
    pub path: String,
    /// The cipher of its blocks.
    pub cipher: String,
    /// The key file, unless a passphrase was chosen.
    pub key_file: Option<String>,
    /// The recovery key, printed once and kept nowhere.
    pub recovery_key: Secret,
}

question!(
    /// Asks what a store is and holds.
    StoreInfoAsk
);

/// What a store is and holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StoreInfo {
    /// Identity: `7f3a-19c2`.
    pub id: String,
    /// Its directory.
    pub path: String,
    /// Version of the format on disk.
    pub format: u32,
    /// When it was made.
    pub created: Option<Time>,
    /// The cipher of its blocks.
    pub cipher: String,
    /// Length of a segment of the log in bytes.
    pub segment_size: u64,
    /// What an answered write has reached: `disk`, `page` or `memory`.
    pub ack: String,
    /// Whether nothing may be written.
    pub read_only: bool,
    /// Count of its openings for writing.
    pub epoch: u32,
    /// How many volumes it has.
    pub volumes: u64,
    /// How many key slots.
    pub key_slots: u64,
    /// The present.
    pub now: Moment,
    /// The oldest instant of any volume.
    pub oldest: Option<Moment>,
    /// Bytes on disk by use.
    pub space: Space,
}

/// Bytes on disk by use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Space {
    /// Segments of the log.
    pub segments: u64,
    /// Packs.
    pub packs: u64,
    /// Bulk files of large writes.
    pub bulk: u64,
    /// Index runs.
    pub index: u64,
    /// Recycled segment files, free for use.
    pub pool: u64,
    /// What the trash holds.
    pub trash: u64,
    /// Kept free for the store's own work.
    pub reserve: u64,
    /// Free on the file system.
    pub free: u64,
    /// Size of the file system.
    pub total: u64,
}

/// Reads what the store holds and compares it with its seals.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StoreCheck {
    /// Parts per million of the cells to read; all when absent.
    pub sample_ppm: Option<u32>,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StoreChecked {
    /// Cells that were opened and compared.
    pub cells: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// How long it took.
    pub took_ms: u64,
    /// What is damaged; empty when all is well.
    pub damage: Vec<Damage>,
}

/// Rebuilds what is derived; with `new_id` makes a copied store one of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StoreRepair {
    /// Gives the store a new identity.
    pub new_id: bool,
    /// Only says what would be done.
    pub dry_run: bool,
}

/// What a repair did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StoreRepaired {
    /// Identity of the store afterwards.
    pub id: String,
    /// What was rebuilt, one line each.
    pub rebuilt: Vec<String>,
    /// What cannot be brought back.
    pub lost: Vec<Damage>,
    /// Whether it was done, or only planned.
    pub done: bool,
}

/// Frees at once what no kept instant needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StoreGc {
    /// Does not wait for the jobs' own pace.
    pub now: bool,
    /// Only says what would be freed.
    pub dry_run: bool,
}

/// What `gc` freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StoreCollected {
    /// Bytes that came free, or would.
    pub freed: u64,
    /// Files that were removed or given back to the pool, or would be.
    pub files: u64,
    /// Whether it was done, or only planned.
    pub done: bool,
}

question!(
    /// Asks how a store and its server are.
    StatusAsk
);

/// How a store and its server are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Identity of the store.
    pub id: String,
    /// Its directory.
    pub path: String,
    /// `serving`, `read-only`, `recovering`, `poisoned`; `offline` when no server runs.
    pub state: String,
    /// Version of the server.
    pub version: String,
    /// Process id of the server.
    pub pid: Option<u32>,
    /// How long the server runs.
    pub uptime_s: Option<u64>,
    /// Where it listens, as URIs.
    pub listening: Vec<String>,
    /// What an answered write has reached.
    pub ack: String,
    /// How the disk is driven: `io_uring` or `threads`.
    pub io: String,
    /// The present.
    pub now: Moment,
    /// The oldest instant of any volume.
    pub oldest: Option<Moment>,
    /// How many volumes.
    pub volumes: u64,
    /// How many clients are connected.
    pub clients: u64,
    /// Bytes on disk by use.
    pub space: Space,
    /// Days until the disk is full at the pace of the last day.
    pub days_left: Option<f64>,
    /// Memory in use by what.
    pub memory: Memory,
    /// Seconds for which writers were slowed since the start.
    pub throttled_s: f64,
    /// Damaged places known.
    pub damage: u64,
    /// What a person should look at: files that are damaged or lost, work that failed, what was mended.
    #[serde(default)]
    pub faults: Vec<String>,
    /// Background work.
    pub jobs: Vec<Job>,
}

/// Memory in use, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Memory {
    /// The bound.
    pub cap: u64,
    /// Pages for I/O.
    pub pages: u64,
    /// Head maps; they stand outside the bound.
    pub head_maps: u64,
    /// Caches.
    pub cache: u64,
}

/// A piece of background work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// What: `pack`, `check`, …
    pub job: String,
    /// From 0 to 1, where it is known.
    pub progress: Option<f64>,
    /// A line for people.
    pub note: Option<String>,
}

question!(
    /// Ends the server as if by SIGTERM.
    Stop
);

/// The server is ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Stopping {
    /// Clients that are connected while it stops.
    pub clients: u64,
}
