//! What the catalogue writes down: facts that replace what was known of the same thing.

use units::{BranchId, ClientId, Sequence, Timestamp, VolumeId};

use crate::bases::Base;
use crate::state::{
    Attachment, Branch, Mark, MarkId, Opening, OpeningId, Served, Volume, When, Who,
};

/// One fact. Things are written whole: the last record about a thing holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CatalogueRecord {
    /// A volume, new or changed.
    Volume(Volume),
    /// A volume and its key are gone for good.
    VolumeGone(VolumeId),
    /// A branch, new or changed.
    Branch(Branch),
    /// A branch is gone for good.
    BranchGone(BranchId),
    /// From that sequence on, instants of the branch have that size.
    Size {
        /// The branch.
        branch: BranchId,
        /// First sequence that has it.
        sequence: Sequence,
        /// The size.
        size_bytes: u64,
    },
    /// What a volume's clients see from then on.
    Served {
        /// The volume.
        volume: VolumeId,
        /// Its new present.
        served: Served,
    },
    /// A mark, new or changed.
    Mark(Mark),
    /// A mark is gone.
    MarkGone(MarkId),
    /// Who a client is; never changes.
    Client {
        /// The number that the log has.
        client: ClientId,
        /// Who that is.
        who: Who,
    },
    /// A client may have unwritten caches of a branch.
    Attached(Attachment),
    /// It has not any more.
    AttachmentEnded {
        /// The volume.
        volume: VolumeId,
        /// The branch.
        branch: BranchId,
        /// The client.
        client: ClientId,
    },
    /// A client may not come back to a volume until it is released.
    Refused {
        /// The volume.
        volume: VolumeId,
        /// The client.
        client: ClientId,
        /// Since when.
        since: Timestamp,
    },
    /// All who were refused may come back.
    Released(VolumeId),
    /// An instant is open and pinned, new or changed.
    Opened(Opening),
    /// It is not any more.
    OpeningGone(OpeningId),
    /// Numbers below these were given out, perhaps to things that are gone.
    Numbers {
        /// The next volume's.
        volume: u32,
        /// The next branch's.
        branch: u32,
        /// The next mark's.
        mark: u64,
        /// The next client's.
        client: u64,
        /// The next opened instant's.
        opening: u64,
    },
    /// What a volume stands on, new or changed.
    Base(Base),
    /// Units of a base are in the log, durable.
    Taken {
        /// The base.
        base: BranchId,
        /// From a first unit to before an end: ascending, none empty, none touching the next.
        runs: Vec<(u64, u64)>,
    },
    /// All of them or none: what one change writes.
    Together(Vec<CatalogueRecord>),
}

impl CatalogueRecord {
    /// Several records as the one durable step of a change; nothing for none.
    pub(crate) fn as_one_step(mut records: Vec<Self>) -> Vec<Self> {
        if records.len() > 1 {
            records = vec![Self::Together(records)];
        }
        records
    }

    /// That a volume's clients see `branch` from then on.
    pub(crate) fn served(volume: VolumeId, branch: BranchId, from: When) -> Self {
        Self::Served { volume, served: Served { branch, from } }
    }
}
