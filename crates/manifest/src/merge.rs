//! What two copies of a manifest say together: pure, from bytes to records.
//!
//! Both copies are one and the same stream, so what is damaged in one is taken from the other at the
//! same offset. The stream ends before the first entry that neither has. That is an end only if
//! nothing valid follows in either copy and the header's snapshot is whole; else it is a hole.

use std::io;

use seal::{Key, RecordKey, Tag, TagKey};
use units::StoreId;

use crate::{
    Record,
    copies::array,
    entry::{self, Link},
};

pub(crate) const HEADER: usize = 96;
const HEADER_TAGGED: usize = 80;
const MAGIC: &[u8; 8] = b"SLMANIF1";
const FORMAT: u32 = 1;

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The disk failed.
    #[error("cannot {doing}")]
    Io {
        /// Verb and object.
        doing: String,
        /// What the system says.
        source: io::Error,
    },
    /// There is none.
    #[error("this directory has no manifest")]
    Missing,
    /// There is one already.
    #[error("this directory has a manifest already")]
    Exists,
    /// What stood here is in neither copy any more.
    #[error("both copies of manifest {generation} are damaged at byte {at_bytes}")]
    Damaged {
        /// Which one.
        generation: u64,
        /// The first byte that is lost.
        at_bytes: u64,
    },
    /// The copies are whole, and two different logs.
    #[error("the copies of manifest {generation} are not of the same log")]
    Diverged {
        /// Which one.
        generation: u64,
    },
    /// It belongs to another store.
    #[error("this manifest belongs to store {found}, not to {wanted}")]
    Foreign {
        /// The one that was opened.
        wanted: StoreId,
        /// The one in the header.
        found: StoreId,
    },
    /// Written by a later version.
    #[error("the manifest has format {found}; this program reads format {FORMAT}")]
    Format {
        /// In the header.
        found: u32,
    },
}

/// A manifest as both copies have it together.
pub(crate) struct Merged {
    pub stream: Vec<u8>,
    pub records: Vec<Record>,
    pub key: RecordKey,
    pub link: Link,
}

/// What two copies of manifest `generation` say together; empty stands for an absent copy.
pub fn read_copies(
    copies: [&[u8]; 2],
    master: &Key,
    store: StoreId,
    generation: u64,
) -> Result<Vec<Record>, ManifestError> {
    merge(copies, master, store, generation).map(|merged| merged.records)
}

/// The header of a new manifest.
pub(crate) fn header(
    master: &Key,
    store: StoreId,
    generation: u64,
    salt: &[u8; 32],
    snapshot_bytes: u64,
) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    bytes[16..32].copy_from_slice(&store.0);
    bytes[32..40].copy_from_slice(&generation.to_le_bytes());
    bytes[40..72].copy_from_slice(salt);
    bytes[72..80].copy_from_slice(&snapshot_bytes.to_le_bytes());
    let tag = TagKey::new(&file_key(master, salt)).tag([0xff; 12], &[&bytes[..HEADER_TAGGED]]);
    bytes[HEADER_TAGGED..].copy_from_slice(&tag);
    bytes
}

/// Each file's own key, by the salt in its header.
pub(crate) fn file_key(master: &Key, salt: &[u8; 32]) -> Key {
    master.derive("manifest", salt)
}

pub(crate) fn merge(
    copies: [&[u8]; 2],
    master: &Key,
    store: StoreId,
    generation: u64,
) -> Result<Merged, ManifestError> {
    let header = common_header(copies, master, store, generation)?;
    let key = RecordKey::new(&file_key(master, &array(&header, 40)));
    let snapshot_bytes = u64::from_le_bytes(array(&header, 72));
    let mut link = Link { number: 0, previous: array(&header, HEADER_TAGGED) };
    let mut stream = header.to_vec();
    let mut records = Vec::new();
    loop {
        let rests = copies.map(|copy| copy.get(stream.len()..).unwrap_or(&[]));
        let found = rests.iter().find_map(|rest| {
            let entry = entry::open(&key, rest)?;
            let fits = entry.number == link.number && entry.previous == link.previous;
            fits.then_some((rest, entry))
        });
        if let Some((rest, mut entry)) = found {
            link = Link { number: link.number + 1, previous: entry.tag };
            stream.extend_from_slice(&rest[..entry.length]);
            records.append(&mut entry.records);
            continue;
        }
        let at_bytes = u64::try_from(stream.len()).unwrap_or(u64::MAX);
        let hole = rests.iter().any(|rest| entry::lies_within(&key, rest));
        if hole || at_bytes < snapshot_bytes {
            return Err(ManifestError::Damaged { generation, at_bytes });
        }
        return Ok(Merged { stream, records, key, link });
    }
}

/// The header that at least one copy has and the other does not contradict.
fn common_header(
    copies: [&[u8]; 2],
    master: &Key,
    store: StoreId,
    generation: u64,
) -> Result<[u8; HEADER], ManifestError> {
    match copies.map(|copy| check_header(copy, master, store, generation)) {
        [Ok(one), Ok(other)] if one != other => Err(ManifestError::Diverged { generation }),
        [Ok(header), _] | [Err(_), Ok(header)] => Ok(header),
        [Err(one @ ManifestError::Damaged { .. }), Err(other)] => {
            // The other copy may say more than that it is damaged.
            Err(if matches!(other, ManifestError::Damaged { .. }) { one } else { other })
        }
        [Err(one), Err(_)] => Err(one),
    }
}

fn check_header(
    copy: &[u8],
    master: &Key,
    store: StoreId,
    generation: u64,
) -> Result<[u8; HEADER], ManifestError> {
    let damaged = ManifestError::Damaged { generation, at_bytes: 0 };
    let Some(header) = copy.first_chunk::<HEADER>() else { return Err(damaged) };
    if &array(header, 0) != MAGIC {
        return Err(damaged);
    }
    let found = u32::from_le_bytes(array(header, 8));
    if found != FORMAT {
        return Err(ManifestError::Format { found });
    }
    let found = StoreId(array(header, 16));
    if found != store {
        return Err(ManifestError::Foreign { wanted: store, found });
    }
    let tag: Tag = array(header, HEADER_TAGGED);
    let key = TagKey::new(&file_key(master, &array(header, 40)));
    let genuine = key.verify([0xff; 12], &[&header[..HEADER_TAGGED]], &tag);
    let in_place = u64::from_le_bytes(array(header, 32)) == generation;
    if genuine && in_place { Ok(*header) } else { Err(damaged) }
}
