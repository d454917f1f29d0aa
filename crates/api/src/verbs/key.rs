//! `store key add|ls|rotate|rm`: the slots that open a store.

use super::secret::Secret;
use crate::{Time, names::VolumeName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What opens a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyKind {
    /// A file; the caller keeps it.
    File,
    /// A passphrase.
    Passphrase,
    /// A key of letters to write down.
    Recovery,
}

/// Adds a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyAdd {
    /// What will open it.
    pub kind: KeyKind,
    /// The passphrase; the other kinds are made by the store and come with the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passphrase: Option<Secret>,
}

/// The slot that was added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyAdded {
    /// The slot.
    pub slot: KeySlot,
    /// Text of the key file, or the recovery key: shown once, kept nowhere.
    pub secret: Option<Secret>,
}

/// A slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeySlot {
    /// Its number.
    pub slot: u32,
    /// What opens it.
    pub kind: KeyKind,
    /// When it was added.
    pub created: Option<Time>,
    /// Whether this server was opened with it.
    pub in_use: bool,
}

question!(
    /// Asks for the slots.
    KeyLs
);

/// All slots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeySlots {
    /// In order of their numbers.
    pub slots: Vec<KeySlot>,
}

/// Wraps keys anew; no data is rewritten.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KeyRotate {
    /// Only this volume's key; all when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeName>,
}

/// What was wrapped anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyRotated {
    /// How many keys of volumes.
    pub volumes: u64,
}

/// Removes a slot; it cannot be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyRemove {
    /// Its number.
    pub slot: u32,
}

/// The slots that are left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyRemoved {
    /// In order of their numbers.
    pub slots: Vec<KeySlot>,
}
