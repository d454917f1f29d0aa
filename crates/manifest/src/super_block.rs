//! The super block as bytes: 4096 of them, fixed places, two seals.
//!
//! The *checksum* needs no key: it finds damage before anything is unlocked, so that a damaged copy
//! is never taken for a wrong passphrase. The *tag* needs the master key: it finds what somebody
//! without it has changed.

use seal::{Key, RecordKey, Stretch, TAG, Tag, TagKey};
use units::{StoreId, Timestamp};

use crate::copies::array;

/// Bytes of a super block.
pub const SUPER_BYTES: usize = 4096;
/// Key slots that a store can have.
pub const SLOTS_MAX: usize = 24;

const MAGIC: &[u8; 8] = b"SLSUPER1";
const FORMAT: u32 = 1;
const SLOTS_START: usize = 96;
pub(crate) const SLOT_BYTES: usize = 160;
const SLOT_WRAPPED: usize = 112;
const TAG_START: usize = 4064;
const CHECKSUM_START: usize = 4080;
/// Longest label of a slot, in bytes.
pub(crate) const LABEL_MAX: usize = 64;
/// Nonce of tag and checksum: each of their keys is used for one text only, or is public.
const NONCE: [u8; 12] = [0xff; 12];

/// What a super block says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SuperBlock {
    pub store: StoreId,
    pub generation: u64,
    pub created: Timestamp,
    pub segment_bytes: u32,
    /// Ids of slots grow and are never used again.
    pub next_slot: u32,
    pub slots: Vec<Slot>,
}

/// What kind of secret opens a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotKind {
    /// A file with a random key in it.
    KeyFile,
    /// Something a person knows.
    Passphrase,
    /// Something a person wrote down.
    Recovery,
    /// Made by a later version; kept as it is.
    Other(u32),
}

impl SlotKind {
    fn number(self) -> u32 {
        match self {
            Self::KeyFile => 1,
            Self::Passphrase => 2,
            Self::Recovery => 3,
            Self::Other(number) => number,
        }
    }

    fn of(number: u32) -> Self {
        match number {
            1 => Self::KeyFile,
            2 => Self::Passphrase,
            3 => Self::Recovery,
            other => Self::Other(other),
        }
    }
}

impl std::fmt::Display for SlotKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::KeyFile => f.write_str("key file"),
            Self::Passphrase => f.write_str("passphrase"),
            Self::Recovery => f.write_str("recovery key"),
            Self::Other(number) => write!(f, "secret of kind {number}"),
        }
    }
}

/// The master key, wrapped by a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub id: u32,
    pub kind: SlotKind,
    pub salt: [u8; 16],
    pub stretch: Stretch,
    pub made: Timestamp,
    pub label: String,
    pub wrapped: [u8; 48],
}

/// What is wrong with a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    Absent,
    Unreadable,
    /// The system does not let us read it.
    Denied,
    Damaged,
    Format(u32),
}

impl SuperBlock {
    /// The bytes to write; `salt` is random and never used again.
    pub fn encode(&self, salt: &[u8; 32], master: &Key) -> [u8; SUPER_BYTES] {
        assert!(self.slots.len() <= SLOTS_MAX, "more slots than a super block holds");
        let mut bytes = [0; SUPER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[12..16].copy_from_slice(&u32::try_from(self.slots.len()).unwrap_or(0).to_le_bytes());
        bytes[16..32].copy_from_slice(&self.store.0);
        bytes[32..40].copy_from_slice(&self.generation.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.created.0.to_le_bytes());
        bytes[48..52].copy_from_slice(&self.segment_bytes.to_le_bytes());
        bytes[52..56].copy_from_slice(&self.next_slot.to_le_bytes());
        bytes[64..96].copy_from_slice(salt);
        for (slot, place) in self.slots.iter().zip(bytes[SLOTS_START..].chunks_mut(SLOT_BYTES)) {
            place.copy_from_slice(&slot.encode());
        }
        let tag = tag_key(master, salt).tag(NONCE, &[&bytes[..TAG_START]]);
        bytes[TAG_START..CHECKSUM_START].copy_from_slice(&tag);
        let checksum = checksum_key().tag(NONCE, &[&bytes[..CHECKSUM_START]]);
        bytes[CHECKSUM_START..].copy_from_slice(&checksum);
        bytes
    }

    /// What undamaged bytes say; whether they are genuine, only the master key can tell.
    pub fn decode(bytes: &[u8]) -> Result<Self, Flaw> {
        let bytes: &[u8; SUPER_BYTES] = bytes.try_into().map_err(|_| Flaw::Damaged)?;
        if &array(bytes, 0) != MAGIC {
            return Err(Flaw::Damaged);
        }
        let format = u32::from_le_bytes(array(bytes, 8));
        if format != FORMAT {
            return Err(Flaw::Format(format));
        }
        let checksum: Tag = array(bytes, CHECKSUM_START);
        if !checksum_key().verify(NONCE, &[&bytes[..CHECKSUM_START]], &checksum) {
            return Err(Flaw::Damaged);
        }
        let count = usize::try_from(u32::from_le_bytes(array(bytes, 12)));
        let count = count.ok().filter(|&count| count <= SLOTS_MAX).ok_or(Flaw::Damaged)?;
        let places = bytes[SLOTS_START..].chunks_exact(SLOT_BYTES).take(count);
        Ok(Self {
            store: StoreId(array(bytes, 16)),
            generation: u64::from_le_bytes(array(bytes, 32)),
            created: Timestamp(i64::from_le_bytes(array(bytes, 40))),
            segment_bytes: u32::from_le_bytes(array(bytes, 48)),
            next_slot: u32::from_le_bytes(array(bytes, 52)),
            slots: places.map(Slot::decode).collect::<Option<_>>().ok_or(Flaw::Damaged)?,
        })
    }
}

/// Whether the bytes of a super block were written by one who had the master key.
pub(crate) fn genuine(bytes: &[u8], master: &Key) -> bool {
    if bytes.len() != SUPER_BYTES {
        return false;
    }
    let salt: [u8; 32] = array(bytes, 64);
    let tag: Tag = array(bytes, TAG_START);
    tag_key(master, &salt).verify(NONCE, &[&bytes[..TAG_START]], &tag)
}

fn tag_key(master: &Key, salt: &[u8; 32]) -> TagKey {
    TagKey::new(&master.derive("super", salt))
}

/// 32 zero bytes: everybody's key.
fn checksum_key() -> TagKey {
    TagKey::new(&Key::from_bytes([0; 32]))
}

impl Slot {
    /// Wraps the master key; `self.wrapped` is what comes out.
    pub fn wrap(&mut self, store: StoreId, secret: &Key, master: &Key) {
        let associated = self.associated(store);
        self.key(secret).seal_into([0; 12], &associated, master.as_bytes(), &mut self.wrapped);
    }

    /// The master key, if this secret wrapped it.
    pub fn unwrap(&self, store: StoreId, secret: &Key) -> Option<Key> {
        let mut master = zeroize::Zeroizing::new([0; 32]);
        self.key(secret)
            .open_into([0; 12], &self.associated(store), &self.wrapped, &mut *master)
            .ok()
            .map(|()| Key::from_bytes(*master))
    }

    /// One key for each slot, for salts are random: the nonce can stay zero.
    fn key(&self, secret: &Key) -> RecordKey {
        RecordKey::new(&secret.derive("slot", &self.salt))
    }

    fn associated(&self, store: StoreId) -> Vec<u8> {
        [&store.0[..], &self.encode()[..SLOT_WRAPPED]].concat()
    }

    fn encode(&self) -> [u8; SLOT_BYTES] {
        assert!(self.label.len() <= LABEL_MAX, "a label longer than its place");
        let mut bytes = [0; SLOT_BYTES];
        bytes[..4].copy_from_slice(&self.id.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.kind.number().to_le_bytes());
        bytes[8..24].copy_from_slice(&self.salt);
        bytes[24..28].copy_from_slice(&self.stretch.memory_kib.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.stretch.passes.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.stretch.lanes.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.made.0.to_le_bytes());
        bytes[48..48 + self.label.len()].copy_from_slice(self.label.as_bytes());
        bytes[SLOT_WRAPPED..].copy_from_slice(&self.wrapped);
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let number = |at| u32::from_le_bytes(array(bytes, at));
        let label: [u8; LABEL_MAX] = array(bytes, 48);
        let end = label.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        Some(Self {
            id: number(0),
            kind: SlotKind::of(number(4)),
            salt: array(bytes, 8),
            stretch: Stretch { memory_kib: number(24), passes: number(28), lanes: number(32) },
            made: Timestamp(i64::from_le_bytes(array(bytes, 40))),
            label: String::from_utf8(label[..end].to_vec()).ok()?,
            wrapped: array(bytes, SLOT_WRAPPED),
        })
    }
}

const _: () = assert!(SLOTS_START + SLOTS_MAX * SLOT_BYTES <= TAG_START);
const _: () = assert!(TAG_START + TAG == CHECKSUM_START && CHECKSUM_START + TAG == SUPER_BYTES);
const _: () = assert!(SLOT_WRAPPED + 32 + TAG == SLOT_BYTES);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_is_guarded_by_the_checksum() {
        let block = SuperBlock {
            store: StoreId([3; 16]),
            generation: 7,
            created: Timestamp(-5),
            segment_bytes: 8 << 20,
            next_slot: 1,
            slots: Vec::new(),
        };
        let master = Key::from_bytes([9; 32]);
        let bytes = block.encode(&[4; 32], &master);
        assert_eq!(SuperBlock::decode(&bytes), Ok(block));
        assert!(genuine(&bytes, &master) && !genuine(&bytes, &Key::from_bytes([8; 32])));
        for at in 0..SUPER_BYTES {
            let mut changed = bytes;
            changed[at] ^= 1 << (at % 8);
            assert!(SuperBlock::decode(&changed).is_err(), "byte {at}");
            assert!(SuperBlock::decode(&bytes[..at]).is_err(), "cut to {at}");
        }
    }
}
