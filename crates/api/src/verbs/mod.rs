//! One type for each request and each answer, a file for each noun.
//!
//! Field names are a contract from the day they ship: they may be added to, not renamed. Byte
//! counts are integers, times are RFC 3339 in UTC, names are strings; what is absent is left out
//! of a request and `null` in an answer only where [`Option`] says so.

/// A request that names nothing.
macro_rules! question {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name {}
    };
}

pub mod doctor;
pub mod export;
pub mod history;
pub mod image;
pub mod key;
pub mod log;
pub mod mark;
pub mod past;
pub mod secret;
pub mod session;
pub mod store;
pub mod trash;
pub mod vol;

use crate::{Time, names::VolumeName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A point of a volume's history, fixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Moment {
    /// Its sequence.
    pub seq: u64,
    /// Its time by the store's clock.
    pub time: Time,
}

/// How an instant was understood, where it was not named by its sequence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Resolution {
    /// What was asked, in the canonical form.
    pub asked: String,
    /// The time that was asked, if a time was.
    pub asked_time: Option<Time>,
    /// So many nanoseconds the state lies before the time that was asked.
    pub before_ns: u64,
    /// Whether the retention rule had thinned the state that was asked.
    pub thinned: bool,
}

/// Damaged bytes: which, of what, and what still reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Damage {
    /// The volume, where it is known.
    pub volume: Option<VolumeName>,
    /// First byte of the disk that cannot be read.
    pub offset: Option<u64>,
    /// How many bytes.
    pub length: Option<u64>,
    /// Sequence of the damaged version.
    pub seq: Option<u64>,
    /// File of the store that holds the damage.
    pub file: String,
    /// What is wrong with it.
    pub what: String,
}
