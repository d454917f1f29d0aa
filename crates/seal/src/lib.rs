//! Keys; sealing and opening of cells, records and pages. The only crate that names a cipher.
//!
//! One cipher (AES-256-GCM), one way to make a key of a key (HKDF-SHA-256), one way to make a key
//! of a passphrase (Argon2id). The layouts stand in `docs/format.md`, sections 1 and 5.
//!
//! Never two texts under one (key, nonce): nonces are the caller's numbers, and each key type says
//! what keeps its nonces apart. What was sealed opens as it was or not at all ([`Damaged`]); the
//! text of something damaged is never handed out. Keys are wiped when dropped and never printed.
//!
//! Not here: where keys are kept, who may use them, what the numbers in a trailer must be.

mod cell;
mod gcm;
mod key;
mod record;

pub use cell::{CellKey, CellName};
pub use key::{Key, Stretch};
pub use record::{RecordKey, TagKey};

/// Bytes behind the ciphertext of a cell: its name (16) and its tag (16).
pub const TRAILER: usize = 32;

/// Bytes of a [`Tag`], and what sealing adds to a record or page.
pub const TAG: usize = 16;

/// Proof that bytes are as they were sealed, by one who has the key.
pub type Tag = [u8; TAG];

/// Makes each use of a key unlike all others.
pub type Nonce = [u8; 12];

/// The bytes differ from their seal: changed, cut, moved, or sealed with another key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bytes differ from their seal")]
pub struct Damaged;
