//! `store key add|ls|rotate|rm`: the slots that open a store. Secrets pass through, none is kept.

use super::{
    failures::{read_only_failure, secrets_failure},
    running::{Engine, lock},
};
use api::{
    Failure, codes,
    verbs::{
        key::{
            KeyAdd, KeyAdded, KeyKind, KeyRemove, KeyRemoved, KeyRotate, KeyRotated, KeySlot,
            KeySlots,
        },
        secret,
    },
};
use catalogue::{CatalogueRecord, Presence};
use manifest::{KeyFile, NewSlot, RecoveryKey, Secret, SlotInfo, SlotKind};
use seal::Stretch;
use zeroize::Zeroizing;

impl Engine {
    pub(super) fn key_ls(&self) -> KeySlots {
        KeySlots { slots: self.slots() }
    }

    pub(super) fn key_add(&self, request: &KeyAdd) -> Result<KeyAdded, Failure> {
        let chance = &*self.held.chance;
        let shown = |text: Zeroizing<String>| Some(secret::Secret::new(text.to_string()));
        let (id, secret) = match (request.kind, &request.passphrase) {
            (KeyKind::Passphrase, Some(text)) => {
                let text = Zeroizing::new(text.expose().to_owned()); // to make a slot of it
                (self.add_slot(Secret::Passphrase(&text))?, None)
            }
            (KeyKind::Passphrase, None) => {
                return Err(Failure::new(codes::USAGE, "a passphrase must be given"));
            }
            (KeyKind::File, _) => {
                let file = KeyFile::random(self.held.facts.store, chance);
                (self.add_slot(Secret::KeyFile(&file))?, shown(file.to_text()))
            }
            (KeyKind::Recovery, _) => {
                let key = RecoveryKey::random(chance);
                (self.add_slot(Secret::Recovery(&key))?, shown(key.to_text()))
            }
        };
        let slot = self.slots().into_iter().find(|slot| slot.slot == id);
        let slot = slot.ok_or_else(|| Failure::bug("the new key slot is not there"))?;
        Ok(KeyAdded { slot, secret })
    }

    pub(super) fn key_rm(&self, request: KeyRemove) -> Result<KeyRemoved, Failure> {
        self.must_write()?;
        let held = &self.held;
        let removed =
            lock(&held.secrets).remove(&*held.disk, &held.master, request.slot, &*held.chance);
        removed.map_err(|error| secrets_failure(&held.path, error))?;
        Ok(KeyRemoved { slots: self.slots() })
    }

    /// Volumes' keys lie in the sealed manifest: they are sealed there anew.
    pub(super) fn key_rotate(&self, request: &KeyRotate) -> Result<KeyRotated, Failure> {
        let volumes = self.change(|past| {
            let volumes: Vec<_> = if let Some(name) = &request.volume {
                vec![past.volume(name)?.clone()]
            } else {
                let kept = |it: &&catalogue::Volume| it.presence != Presence::Emptied;
                past.catalogue().volumes().filter(kept).cloned().collect()
            };
            let count = volumes.len() as u64;
            Ok((count, volumes.into_iter().map(CatalogueRecord::Volume).collect()))
        })?;
        Ok(KeyRotated { volumes })
    }

    fn add_slot(&self, secret: Secret<'_>) -> Result<u32, Failure> {
        self.must_write()?;
        let held = &self.held;
        let slot = NewSlot { secret, label: "", made: self.wall(), stretch: Stretch::DEFAULT };
        let added = lock(&held.secrets).add(&*held.disk, &held.master, slot, &*held.chance);
        added.map_err(|error| secrets_failure(&held.path, error))
    }

    fn must_write(&self) -> Result<(), Failure> {
        if self.held.read_only { Err(read_only_failure()) } else { Ok(()) }
    }

    fn slots(&self) -> Vec<KeySlot> {
        let told = |slot: SlotInfo| {
            let kind = match slot.kind {
                SlotKind::KeyFile => KeyKind::File,
                SlotKind::Passphrase => KeyKind::Passphrase,
                SlotKind::Recovery => KeyKind::Recovery,
                SlotKind::Other(_) => return None, // of a later version, which alone can use it
            };
            let in_use = slot.id == self.held.slot;
            Some(KeySlot { slot: slot.id, kind, created: Some(slot.made.into()), in_use })
        };
        lock(&self.held.secrets).slots().into_iter().filter_map(told).collect()
    }
}
