//! The cipher itself: AES-256-GCM of ring, for the key types of this crate.

use std::fmt;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce as GcmNonce, Tag as GcmTag, UnboundKey};

use crate::{Damaged, Key, Nonce, Tag};

/// A key made ready (its schedule and hash table stand in memory).
/// "Less safe" means: the nonces are ours to keep apart, see the users.
pub(crate) struct Gcm(LessSafeKey);

impl Gcm {
    pub(crate) fn new(key: &Key) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, key.as_bytes()).expect("a key has 32 bytes");
        Self(LessSafeKey::new(key))
    }

    /// `sealed` is as long as `plain`. Copied and sealed in place: as fast as out of place.
    pub(crate) fn seal(
        &self,
        nonce: Nonce,
        associated: &[u8],
        plain: &[u8],
        sealed: &mut [u8],
        tag: &mut Tag,
    ) {
        sealed.copy_from_slice(plain);
        *tag = self.seal_in_place(nonce, associated, sealed);
    }

    /// Returns the tag; the ciphertext takes the text's place.
    pub(crate) fn seal_in_place(&self, nonce: Nonce, associated: &[u8], bytes: &mut [u8]) -> Tag {
        let nonce = GcmNonce::assume_unique_for_key(nonce);
        let tag = self.0.seal_in_place_separate_tag(nonce, Aad::from(associated), bytes);
        let tag = tag.expect("sealing fails only beyond 64 GiB");
        tag.as_ref().try_into().expect("a tag has 16 bytes")
    }

    /// `plain` is as long as `sealed`; wiped if the tag does not fit.
    pub(crate) fn open(
        &self,
        nonce: Nonce,
        associated: &[u8],
        sealed: &[u8],
        tag: &[u8],
        plain: &mut [u8],
    ) -> Result<(), Damaged> {
        plain.copy_from_slice(sealed);
        let nonce = GcmNonce::assume_unique_for_key(nonce);
        let opened = GcmTag::try_from(tag).ok().and_then(|tag| {
            let opened =
                self.0.open_in_place_separate_tag(nonce, Aad::from(associated), tag, plain, 0..);
            opened.ok().map(drop)
        });
        opened.ok_or_else(|| {
            plain.fill(0);
            Damaged
        })
    }

    /// The text takes the place of the ciphertext and its tag behind it; returns how long it is.
    pub(crate) fn open_in_place(
        &self,
        nonce: Nonce,
        associated: &[u8],
        bytes: &mut [u8],
    ) -> Result<usize, Damaged> {
        let nonce = GcmNonce::assume_unique_for_key(nonce);
        let text = self.0.open_in_place(nonce, Aad::from(associated), bytes);
        text.map(|text| text.len()).map_err(|_| Damaged)
    }
}

impl fmt::Debug for Gcm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("..")
    }
}
