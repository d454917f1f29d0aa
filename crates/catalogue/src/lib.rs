//! Volumes, branches, marks and their rules, as records.
//!
//! Pure: no I/O, no clock, no chance, no cipher. A change has three steps: a `plan_…` function checks
//! the rules and gives records without changing anything; the caller makes them durable; then
//! [`Catalogue::apply`] takes each of them. Reading a store is the third step alone. The caller has
//! one change at a time between plan and apply, for a plan holds for the state it saw.
//!
//! Invariants, kept by `apply` whatever the bytes said:
//! - a branch is numbered above its parent, so that a chain ends;
//! - no two volumes outside the trash share a name;
//! - a base belongs to one first branch, and shares its number with no branch;
//! - what a record names (volume, branch, client) was named before it;
//! - `apply` of all of [`Catalogue::snapshot`] gives an equal catalogue.
//!
//! Records and their bytes: `docs/format.md` 10.2. Limits: ids end with their types, a name has at
//! most 63 bytes, and all of it stands in memory (about 300 bytes a volume).

mod bases;
mod branches;
mod clients;
mod error;
mod instant;
mod marks;
mod name;
mod record;
mod state;
mod trash;
mod volumes;
mod wire;

pub use bases::{Base, NewBase, SOURCE_BYTES_MAX, UNIT_BYTES, Units};
pub use branches::{Opened, Rewound};
pub use error::{CatalogueError, RecordError, SizeError};
pub use instant::{At, AtTime, History, Instant, InstantError, Resolved, Rounding};
pub use marks::NewMark;
pub use name::{BranchName, MarkName, NameError, Note, VolumeName, nearest, utc_name};
pub use record::CatalogueRecord;
pub use state::{
    AckPolicy, AttachedClient, Attachment, Branch, Catalogue, Fork, LogicalBlock, Mark, MarkId,
    Opening, OpeningId, Presence, Served, Volume, VolumeKey, VolumeOptions, When, WhenFull, Who,
};
pub use trash::{Emptied, TRASH_NS, Trash};
pub use volumes::{NewVolume, VOLUME_BYTES_MAX, check_size};
