//! What opens a store: its two super blocks, and the slots that wrap its master key.
//!
//! Both copies hold the same block. A change is written to one copy (under a temporary name, synced,
//! renamed, the directory synced) and then to the other, so that a cut leaves one good copy at least
//! and a removed slot is in neither when the call returns. The block with the greatest generation
//! counts; an older one is never unlocked in its stead, for a secret that was removed must stay so.
//!
//! The master key never changes: removing a slot keeps its secret from opening *this* store from now
//! on, not somebody who has an old copy of a super block and its secret.

use std::fmt::Write as _;

use seal::{Key, Stretch};
use units::{StoreId, Timestamp};
use world::{Chance, Disk};
use zeroize::Zeroizing;

use crate::{
    RecoveryKey, SLOTS_MAX, SlotKind,
    copies::{read_whole, replace},
    super_block::{Flaw, LABEL_MAX, Slot, SuperBlock, genuine},
};

const PATHS: [&str; 2] = ["super.a", "super.b"];

/// What is fixed when a store is made, readable without a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its identity.
    pub store: StoreId,
    /// When it was made.
    pub created: Timestamp,
    /// Length of its log segments.
    pub segment_bytes: u32,
}

/// A secret that opens a slot.
#[derive(Clone, Copy, Debug)]
pub enum Secret<'a> {
    /// From a key file.
    KeyFile(&'a KeyFile),
    /// What a person typed, as UTF-8.
    Passphrase(&'a Zeroizing<String>),
    /// What a person typed off paper.
    Recovery(&'a RecoveryKey),
}

impl Secret<'_> {
    /// The kind of slot it opens.
    pub fn kind(self) -> SlotKind {
        match self {
            Self::KeyFile(_) => SlotKind::KeyFile,
            Self::Passphrase(_) => SlotKind::Passphrase,
            Self::Recovery(_) => SlotKind::Recovery,
        }
    }
}

/// A slot to be made.
#[derive(Clone, Copy, Debug)]
pub struct NewSlot<'a> {
    /// What will open it.
    pub secret: Secret<'a>,
    /// For people; at most 64 bytes.
    pub label: &'a str,
    /// Now.
    pub made: Timestamp,
    /// What a try costs; only passphrases need it ([`Stretch::DEFAULT`]).
    pub stretch: Stretch,
}

/// What can be told of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotInfo {
    /// Never used again in the store.
    pub id: u32,
    /// What opens it.
    pub kind: SlotKind,
    /// For people.
    pub label: String,
    /// When.
    pub made: Timestamp,
}

/// Why a store does not open, or its slots do not change.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// The disk failed.
    #[error("cannot {doing}")]
    Io {
        /// Verb and object.
        doing: &'static str,
        /// What the system says.
        source: std::io::Error,
    },
    /// Neither super block is there.
    #[error("this directory is no store: it has no super block")]
    Missing,
    /// There is a store already.
    #[error("this directory is a store already")]
    Exists,
    /// Neither copy can be used.
    #[error("both super blocks are damaged")]
    Damaged,
    /// Written by a later version.
    #[error("the super block has format {found}; this program reads format 1")]
    Format {
        /// In the super block.
        found: u32,
    },
    /// The copies are of two stores.
    #[error("the super blocks are of two stores, {one} and {other}")]
    TwoStores {
        /// In `super.a`.
        one: StoreId,
        /// In `super.b`.
        other: StoreId,
    },
    /// It opens a slot, but the super block was changed by one without the master key.
    #[error("the super block of store {store} was changed without its master key")]
    Forged {
        /// What it calls itself.
        store: StoreId,
    },
    /// A secret of a kind that the store does not have.
    #[error("store {store} has no {kind}")]
    NoSlot {
        /// Which store.
        store: StoreId,
        /// Which kind.
        kind: SlotKind,
    },
    /// The right kind, but not one of this store's.
    #[error("this {kind} opens no key of store {store}")]
    WrongSecret {
        /// Which store.
        store: StoreId,
        /// Which kind.
        kind: SlotKind,
    },
    /// The key file names another store.
    #[error("this key file is of store {found}, not of {wanted}")]
    OtherStore {
        /// The one to open.
        wanted: StoreId,
        /// The one in the file.
        found: StoreId,
    },
    /// Not the form of a key file.
    #[error("this is no key file")]
    NoKeyFile,
    /// A store must stay openable.
    #[error("key {id} is the only one: removing it would lock the store for ever")]
    LastSlot {
        /// Which slot.
        id: u32,
    },
    /// No such slot.
    #[error("store {store} has no key {id}")]
    UnknownSlot {
        /// Which store.
        store: StoreId,
        /// Which slot.
        id: u32,
    },
    /// All slots are taken.
    #[error("a store has at most {SLOTS_MAX} keys")]
    Full,
    /// Too long, or with a control character.
    #[error("a key's label has at most {LABEL_MAX} bytes and no control characters")]
    BadLabel,
    /// An empty passphrase, or a cost of trying it that nobody would pay.
    #[error("a passphrase must not be empty, nor its cost beyond bounds")]
    BadPassphrase,
}

/// The super blocks of a store.
#[derive(Debug)]
pub struct Secrets {
    block: SuperBlock,
    bytes: Vec<u8>,
    /// Copies that do not hold `bytes`, by place in [`PATHS`].
    stale: [bool; 2],
    /// One past every generation that was ever begun to be written from here.
    next_generation: u64,
}

impl Secrets {
    /// Makes the super blocks of a new store and its master key, wrapped in at least one slot.
    pub fn create(
        disk: &dyn Disk,
        facts: Facts,
        slots: &[NewSlot],
        chance: &dyn Chance,
    ) -> Result<(Self, Key), SecretsError> {
        let names = disk.list("").map_err(doing("list the store"))?;
        if names.iter().any(|name| PATHS.contains(&name.as_str())) {
            return Err(SecretsError::Exists);
        }
        assert!(!slots.is_empty(), "a store without a key could never be opened");
        let Facts { store, created, segment_bytes } = facts;
        let master = Key::random(chance);
        let (generation, slots_wanted) = (0, slots);
        let slots = Vec::new();
        let mut block =
            SuperBlock { store, generation, created, segment_bytes, next_slot: 1, slots };
        for slot in slots_wanted {
            push_slot(&mut block, *slot, &master, chance)?;
        }
        let mut secrets =
            Self { block: block.clone(), bytes: Vec::new(), stale: [true; 2], next_generation: 1 };
        secrets.write(disk, block, &master, chance)?;
        Ok((secrets, master))
    }

    /// Reads what can be known without a key.
    pub fn read(disk: &dyn Disk) -> Result<Self, SecretsError> {
        let copies = PATHS.map(|path| match read_whole(disk, path) {
            Ok(bytes) => SuperBlock::decode(&bytes).map(|block| (block, bytes)),
            Err(error) => Err(match error.kind() {
                std::io::ErrorKind::NotFound => Flaw::Absent,
                std::io::ErrorKind::PermissionDenied => Flaw::Denied,
                _ => Flaw::Unreadable,
            }),
        });
        let (block, bytes) = match &copies {
            [Ok((one, _)), Ok((other, _))] if one.store != other.store => {
                return Err(SecretsError::TwoStores { one: one.store, other: other.store });
            }
            [Ok(one), Ok(other)] if one.0.generation >= other.0.generation => one,
            [Ok(one), Err(_)] => one,
            [_, Ok(other)] => other,
            [Err(one), Err(other)] => return Err(neither(*one, *other)),
        };
        let stale = [0, 1]
            .map(|copy: usize| copies[copy].as_ref().map_or(true, |(_, found)| found != bytes));
        let (block, bytes) = (block.clone(), bytes.clone());
        Ok(Self { next_generation: block.generation.saturating_add(1), block, bytes, stale })
    }

    /// Which store this is. Not proven before [`Secrets::unlock`].
    pub fn facts(&self) -> Facts {
        let SuperBlock { store, created, segment_bytes, .. } = self.block;
        Facts { store, created, segment_bytes }
    }

    /// Count of changes; who keeps it elsewhere notices a super block that was put back.
    pub fn generation(&self) -> u64 {
        self.block.generation
    }

    /// The slots, oldest first.
    pub fn slots(&self) -> Vec<SlotInfo> {
        let info = |slot: &Slot| SlotInfo {
            id: slot.id,
            kind: slot.kind,
            label: slot.label.clone(),
            made: slot.made,
        };
        self.block.slots.iter().map(info).collect()
    }

    /// Copies that are absent, damaged or old: [`Secrets::heal`] replaces them.
    pub fn stale(&self) -> Vec<&'static str> {
        PATHS.into_iter().zip(self.stale).filter(|copy| copy.1).map(|copy| copy.0).collect()
    }

    /// The master key. For a passphrase it takes a moment and 64 MiB for each slot of that kind.
    pub fn unlock(&self, secret: Secret) -> Result<Key, SecretsError> {
        self.unlock_slot(secret).map(|(_, master)| master)
    }

    /// The master key, and the id of the slot that the secret opened.
    pub fn unlock_slot(&self, secret: Secret) -> Result<(u32, Key), SecretsError> {
        let (store, kind) = (self.block.store, secret.kind());
        if let Secret::KeyFile(file) = secret
            && file.store != store
        {
            return Err(SecretsError::OtherStore { wanted: store, found: file.store });
        }
        let mut slots = self.block.slots.iter().filter(|slot| slot.kind == kind).peekable();
        if slots.peek().is_none() {
            return Err(SecretsError::NoSlot { store, kind });
        }
        let (id, master) = slots
            .find_map(|slot| {
                let key = secret_key(secret, &slot.salt, slot.stretch)?;
                Some((slot.id, slot.unwrap(store, &key)?))
            })
            .ok_or(SecretsError::WrongSecret { store, kind })?;
        self.check(&master)?;
        Ok((id, master))
    }

    /// Replaces copies that are absent, damaged or old, and makes sure that what was read is
    /// durable. Gives the paths of those replaced. For who opens the store to write.
    pub fn heal(
        &mut self,
        disk: &dyn Disk,
        master: &Key,
    ) -> Result<Vec<&'static str>, SecretsError> {
        self.check(master)?;
        disk.sync_dir("").map_err(doing("make the super blocks durable"))?;
        let healed = self.stale();
        self.write_stale(disk)?;
        Ok(healed)
    }

    /// Adds a slot and gives its id.
    pub fn add(
        &mut self,
        disk: &dyn Disk,
        master: &Key,
        slot: NewSlot,
        chance: &dyn Chance,
    ) -> Result<u32, SecretsError> {
        self.check(master)?;
        let mut block = self.block.clone();
        let id = push_slot(&mut block, slot, master, chance)?;
        self.write(disk, block, master, chance)?;
        Ok(id)
    }

    /// Removes a slot; the last one stays.
    pub fn remove(
        &mut self,
        disk: &dyn Disk,
        master: &Key,
        id: u32,
        chance: &dyn Chance,
    ) -> Result<(), SecretsError> {
        self.check(master)?;
        let mut block = self.block.clone();
        remove_slot(&mut block, id)?;
        if block.slots.is_empty() {
            return Err(SecretsError::LastSlot { id });
        }
        self.write(disk, block, master, chance)
    }

    /// Puts another secret in place of a slot's, in one step; gives the new slot's id.
    pub fn rotate(
        &mut self,
        disk: &dyn Disk,
        master: &Key,
        id: u32,
        slot: NewSlot,
        chance: &dyn Chance,
    ) -> Result<u32, SecretsError> {
        self.check(master)?;
        let mut block = self.block.clone();
        remove_slot(&mut block, id)?;
        let id = push_slot(&mut block, slot, master, chance)?;
        self.write(disk, block, master, chance)?;
        Ok(id)
    }

    fn check(&self, master: &Key) -> Result<(), SecretsError> {
        if genuine(&self.bytes, master) {
            return Ok(());
        }
        Err(SecretsError::Forged { store: self.block.store })
    }

    /// Writes a changed block to both copies, the worse one first.
    fn write(
        &mut self,
        disk: &dyn Disk,
        mut block: SuperBlock,
        master: &Key,
        chance: &dyn Chance,
    ) -> Result<(), SecretsError> {
        // A try that failed may have left its block in one copy: its generation is used up.
        block.generation = self.next_generation;
        self.next_generation += 1;
        let mut salt = [0; 32];
        chance.fill(&mut salt);
        let bytes = block.encode(&salt, master).to_vec();
        let worse_first = if self.stale[1] { [1, 0] } else { [0, 1] };
        for copy in worse_first {
            replace(disk, "", PATHS[copy], &bytes).map_err(doing("write the super blocks"))?;
        }
        *self = Self { block, bytes, stale: [false; 2], next_generation: self.next_generation };
        Ok(())
    }

    fn write_stale(&mut self, disk: &dyn Disk) -> Result<(), SecretsError> {
        for (path, stale) in PATHS.into_iter().zip(&mut self.stale) {
            if *stale {
                replace(disk, "", path, &self.bytes).map_err(doing("heal the super blocks"))?;
                *stale = false;
            }
        }
        Ok(())
    }
}

/// What to say when neither copy can be used: what is certain beats what is merely broken.
fn neither(one: Flaw, other: Flaw) -> SecretsError {
    match (one, other) {
        (Flaw::Format(found), _) | (_, Flaw::Format(found)) => SecretsError::Format { found },
        // Who may not look knows of no damage, and must not be sent to mend any.
        (Flaw::Denied, _) | (_, Flaw::Denied) => SecretsError::Io {
            doing: "read the super blocks",
            source: std::io::ErrorKind::PermissionDenied.into(),
        },
        (Flaw::Absent, Flaw::Absent) => SecretsError::Missing,
        _ => SecretsError::Damaged,
    }
}

fn push_slot(
    block: &mut SuperBlock,
    new: NewSlot,
    master: &Key,
    chance: &dyn Chance,
) -> Result<u32, SecretsError> {
    if block.slots.len() >= SLOTS_MAX {
        return Err(SecretsError::Full);
    }
    if new.label.len() > LABEL_MAX || new.label.contains(char::is_control) {
        return Err(SecretsError::BadLabel);
    }
    let (id, kind) = (block.next_slot, new.secret.kind());
    let mut salt = [0; 16];
    chance.fill(&mut salt);
    let stretch = match kind {
        SlotKind::Passphrase => new.stretch,
        _ => Stretch { memory_kib: 0, passes: 0, lanes: 0 },
    };
    let key = secret_key(new.secret, &salt, stretch).ok_or(SecretsError::BadPassphrase)?;
    let (label, wrapped) = (new.label.to_owned(), [0; 48]);
    let mut slot = Slot { id, kind, salt, stretch, made: new.made, label, wrapped };
    slot.wrap(block.store, &key, master);
    block.slots.push(slot);
    block.next_slot += 1;
    Ok(id)
}

fn remove_slot(block: &mut SuperBlock, id: u32) -> Result<(), SecretsError> {
    let found = block.slots.iter().position(|slot| slot.id == id);
    let index = found.ok_or(SecretsError::UnknownSlot { store: block.store, id })?;
    block.slots.remove(index);
    Ok(())
}

/// The key that a secret stands for in a slot with that salt.
fn secret_key(secret: Secret, salt: &[u8; 16], stretch: Stretch) -> Option<Key> {
    match secret {
        Secret::KeyFile(file) => Some(file.secret.clone()),
        Secret::Recovery(key) => Some(key.key().clone()),
        Secret::Passphrase(text) if text.is_empty() => None,
        Secret::Passphrase(text) => Key::of_passphrase(text.as_bytes(), salt, stretch),
    }
}

/// What a key file holds: `strandline-key-1 STORE SECRET`, both in hexadecimal, one line.
#[derive(Clone, Debug)]
pub struct KeyFile {
    /// The store that it is for: a wrong file is told from a wrong key.
    pub store: StoreId,
    secret: Key,
}

impl KeyFile {
    const FIRST_WORD: &str = "strandline-key-1";

    /// A fresh one.
    pub fn random(store: StoreId, chance: &dyn Chance) -> Self {
        Self { store, secret: Key::random(chance) }
    }

    /// What to write to the file.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(128));
        text.push_str(Self::FIRST_WORD);
        for part in [&self.store.0[..], &self.secret.as_bytes()[..]] {
            text.push(' ');
            for byte in part {
                let _ = write!(text, "{byte:02x}"); // writing to a string never fails
            }
        }
        text.push('\n');
        text
    }

    /// What was read from a file.
    pub fn parse(bytes: &[u8]) -> Result<Self, SecretsError> {
        let mut words = std::str::from_utf8(bytes).unwrap_or("").split_ascii_whitespace();
        let (Some(Self::FIRST_WORD), Some(store), Some(secret), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(SecretsError::NoKeyFile);
        };
        let store = StoreId(*from_hex(store).ok_or(SecretsError::NoKeyFile)?);
        let secret = from_hex(secret).ok_or(SecretsError::NoKeyFile)?;
        Ok(Self { store, secret: Key::from_bytes(*secret) })
    }
}

fn from_hex<const N: usize>(text: &str) -> Option<Zeroizing<[u8; N]>> {
    let mut bytes = Zeroizing::new([0; N]);
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit =
            |at: usize| char::from(pair[at]).to_digit(16).and_then(|d| u8::try_from(d).ok());
        *byte = digit(0)? * 16 + digit(1)?;
    }
    Some(bytes)
}

fn doing(doing: &'static str) -> impl FnOnce(std::io::Error) -> SecretsError {
    move |source| SecretsError::Io { doing, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_we_may_not_read_is_not_called_damaged() {
        for other in [Flaw::Denied, Flaw::Absent, Flaw::Unreadable, Flaw::Damaged] {
            for error in [neither(Flaw::Denied, other), neither(other, Flaw::Denied)] {
                let SecretsError::Io { source, .. } = error else { panic!("{error}") };
                assert_eq!(source.kind(), std::io::ErrorKind::PermissionDenied);
            }
        }
        assert!(matches!(neither(Flaw::Absent, Flaw::Damaged), SecretsError::Damaged));
        assert!(matches!(neither(Flaw::Absent, Flaw::Absent), SecretsError::Missing));
    }
}
