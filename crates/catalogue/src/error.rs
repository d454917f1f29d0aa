//! Why a change or a record is refused, with the facts that a message needs.

use thiserror::Error;
use units::{BranchId, Sequence, Timestamp, VolumeId};

use crate::{
    name::{BranchName, MarkName, NameError, VolumeName},
    state::{AttachedClient, MarkId, OpeningId, Who},
};

/// Why a change is refused. Nothing was changed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CatalogueError {
    /// Not found: no volume of that name outside the trash.
    #[error("no volume `{name}`")]
    NoVolume {
        /// As asked for.
        name: String,
        /// Names that may have been meant.
        near: Vec<String>,
        /// Whether one of that name lies in the trash (`undelete` brings it back).
        in_trash: bool,
    },
    /// Not found: the number names no volume, or one that was emptied from the trash.
    #[error("volume {0} is gone")]
    VolumeGone(VolumeId),
    /// Not found: the volume has no such branch.
    #[error("volume `{volume}` has no branch `{name}`")]
    NoBranch {
        /// The volume.
        volume: VolumeName,
        /// As asked for.
        name: String,
        /// Names that may have been meant.
        near: Vec<String>,
    },
    /// Not found: the number names no branch.
    #[error("branch {0} is gone")]
    BranchGone(BranchId),
    /// Not found: the number names no mark.
    #[error("mark {0} is gone")]
    MarkGone(MarkId),
    /// Not found: the number names no opened instant.
    #[error("opened instant {0} is gone")]
    OpeningGone(OpeningId),
    /// Not found: nobody of that number ever came.
    #[error("client {0} is not known")]
    NoClient(units::ClientId),
    /// Exists: the name is taken by another volume.
    #[error("volume `{name}` exists")]
    VolumeExists {
        /// The name.
        name: VolumeName,
        /// Size of the one that has it.
        size_bytes: u64,
        /// When that one was made.
        created: Timestamp,
    },
    /// Usage: the text is no name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Usage: no volume can have that size.
    #[error(transparent)]
    Size(#[from] SizeError),
    /// Usage: the new size is smaller, and nobody said that this is meant.
    #[error("volume `{volume}` would shrink from {from_bytes} to {to_bytes} bytes")]
    WouldShrink {
        /// The volume.
        volume: VolumeName,
        /// Size now.
        from_bytes: u64,
        /// Size asked for.
        to_bytes: u64,
    },
    /// Busy: clients hold the volume (or the branch).
    #[error("volume `{volume}` is in use by {} client(s)", clients.len())]
    Busy {
        /// The volume.
        volume: VolumeName,
        /// Who, and since when.
        clients: Vec<AttachedClient>,
    },
    /// Busy: lies in the trash, so it takes no change but `undelete`.
    #[error("volume `{volume}` lies in the trash")]
    InTrash {
        /// The volume.
        volume: VolumeName,
        /// When it goes for good.
        until: Timestamp,
    },
    /// Usage: `undelete` of what is not in the trash.
    #[error("volume `{volume}` does not lie in the trash")]
    NotInTrash {
        /// The volume.
        volume: VolumeName,
    },
    /// Protected: pinned marks hold it.
    #[error("volume `{volume}` has pinned marks")]
    PinnedMarks {
        /// The volume.
        volume: VolumeName,
        /// Their names, in the order in which they were made.
        marks: Vec<MarkName>,
    },
    /// Protected: the branch itself is pinned.
    #[error("branch `{volume}~{branch}` is pinned")]
    BranchPinned {
        /// The volume.
        volume: VolumeName,
        /// The branch.
        branch: BranchName,
    },
    /// Not allowed: the client was detached and nobody has released the volume since.
    #[error("{who} was detached from volume `{volume}`")]
    Refused {
        /// The volume.
        volume: VolumeName,
        /// The client.
        who: Who,
    },
    /// Not allowed: the branch takes no writes (left by a rewind, closed).
    #[error("branch {branch} of volume `{volume}` is read-only")]
    ReadOnly {
        /// The volume.
        volume: VolumeName,
        /// The branch.
        branch: BranchId,
    },
    /// Usage: the branch belongs to another volume.
    #[error("branch {branch} is none of volume `{volume}`")]
    ForeignBranch {
        /// The volume.
        volume: VolumeName,
        /// The branch.
        branch: BranchId,
    },
    /// Usage: only what `open --rw` made can be closed.
    #[error("branch {branch} of volume `{volume}` was not made by `open --rw`")]
    NotOpened {
        /// The volume.
        volume: VolumeName,
        /// The branch.
        branch: BranchId,
    },
    /// Usage: a change of size needs a sequence that no earlier instant has.
    #[error("sequence {given} is not after {last}, which has a size already")]
    SequenceUsed {
        /// As given.
        given: Sequence,
        /// The last one that is settled.
        last: Sequence,
    },
    /// No number of that kind is left.
    #[error("no number is left for another {0}")]
    NumbersUsedUp(&'static str),
    /// A source is still needed.
    #[error("{missing} units are not taken over yet")]
    NotAllTaken {
        /// How many.
        missing: u64,
    },
}

/// Why no volume can have a size.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum SizeError {
    /// Not made of whole logical blocks (nothing at all included).
    #[error("{size_bytes} bytes are no multiple of {block_bytes}; the next size is {next_bytes}")]
    NotWholeBlocks {
        /// As asked for.
        size_bytes: u64,
        /// The logical block.
        block_bytes: u64,
        /// The smallest size above it that will do.
        next_bytes: u64,
    },
    /// More than a volume can have.
    #[error("{size_bytes} bytes are more than a volume can have ({largest_bytes})")]
    TooLarge {
        /// As asked for.
        size_bytes: u64,
        /// 1 EiB.
        largest_bytes: u64,
    },
}

/// Why bytes are no record, or a record does not fit the records before it: the store is damaged, or
/// written by a newer version.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum RecordError {
    /// Not a kind of this version.
    #[error("catalogue record of unknown kind {kind:#x}")]
    UnknownKind {
        /// As found.
        kind: u16,
    },
    /// Not a layout of this version.
    #[error("catalogue record {kind:#x} has version {version}, known is 1")]
    UnknownVersion {
        /// Of the record.
        kind: u16,
        /// As found.
        version: u8,
    },
    /// Ends inside a field.
    #[error("catalogue record {kind:#x} is cut short in field `{field}`")]
    Short {
        /// Of the record.
        kind: u16,
        /// The field.
        field: &'static str,
    },
    /// Goes on behind its last field.
    #[error("catalogue record {kind:#x} has {bytes} bytes too many")]
    Long {
        /// Of the record.
        kind: u16,
        /// How many.
        bytes: usize,
    },
    /// A value that nothing has.
    #[error("catalogue record {kind:#x} has a bad value in field `{field}`")]
    Value {
        /// Of the record.
        kind: u16,
        /// The field.
        field: &'static str,
    },
    /// Names something that no record before it has made.
    #[error("a catalogue record names {what} {id}, which is not there")]
    Unknown {
        /// "volume", "branch", "mark", "client".
        what: &'static str,
        /// Its number.
        id: u64,
    },
    /// Contradicts the records before it.
    #[error("a catalogue record about {what} {id} contradicts the ones before it: {why}")]
    Contradiction {
        /// "volume", "branch".
        what: &'static str,
        /// Its number.
        id: u64,
        /// The rule that it breaks.
        why: &'static str,
    },
}
