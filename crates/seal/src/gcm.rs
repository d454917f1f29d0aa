//! The cipher itself: AES-256-GCM of aws-lc, for the key types of this crate.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce as GcmNonce, UnboundKey};

use crate::{Damaged, Key, Nonce, Tag};

/// A key made ready (its schedule and hash table stand in memory; aws-lc wipes them at the end).
/// "Less safe" means: the nonces are ours to keep apart, see the users.
pub(crate) struct Gcm(LessSafeKey);

impl Gcm {
    pub(crate) fn new(key: &Key) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, key.as_bytes()).expect("a key has 32 bytes");
        Self(LessSafeKey::new(key))
    }

    /// `sealed` is as long as `plain`.
    pub(crate) fn seal(
        &self,
        nonce: Nonce,
        associated: &[u8],
        plain: &[u8],
        sealed: &mut [u8],
        tag: &mut Tag,
    ) {
        let nonce = GcmNonce::assume_unique_for_key(nonce);
        self.0
            .seal_out_of_place_scatter(nonce, Aad::from(associated), plain, sealed, &[], tag)
            .expect("sealing fails only for wrong lengths");
    }

    /// Returns the tag; the ciphertext takes the text's place.
    pub(crate) fn seal_in_place(&self, nonce: Nonce, associated: &[u8], bytes: &mut [u8]) -> Tag {
        let nonce = GcmNonce::assume_unique_for_key(nonce);
        let mut tag = [0; 16];
        self.0
            .seal_in_place_scatter(nonce, Aad::from(associated), bytes, &[], &mut tag)
            .expect("sealing fails only for wrong lengths");
        tag
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
        assert_eq!(sealed.len(), plain.len(), "text and ciphertext are of one length");
        let nonce = GcmNonce::assume_unique_for_key(nonce);
        self.0.open_separate_gather(nonce, Aad::from(associated), sealed, tag, plain).map_err(
            |_| {
                plain.fill(0);
                Damaged
            },
        )
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
