//! Records and pages (sealed, of any length), and tags over what stays readable.

use std::fmt;

use crate::{Damaged, Key, Nonce, TAG, Tag, gcm::Gcm};

/// Makes and checks tags: AES-256-GCM over empty text (GMAC). Each file has a key of its own, by the
/// salt in its header; the nonce is a place or number in that file.
pub struct TagKey(Gcm);

impl TagKey {
    /// Makes the key ready.
    pub fn new(key: &Key) -> Self {
        Self(Gcm::new(key))
    }

    /// The tag over the parts as if they stood in one piece. Never twice with one nonce over
    /// different bytes.
    pub fn tag(&self, nonce: Nonce, parts: &[&[u8]]) -> Tag {
        if let [part] = parts {
            return self.0.seal_in_place(nonce, part, &mut []);
        }
        self.0.seal_in_place(nonce, &parts.concat(), &mut [])
    }

    /// Whether it is the tag over the parts. Takes the same time wherever a wrong one differs.
    #[must_use]
    pub fn verify(&self, nonce: Nonce, parts: &[&[u8]], tag: &Tag) -> bool {
        match parts {
            [part] => self.0.open(nonce, part, &[], tag, &mut []).is_ok(),
            _ => self.0.open(nonce, &parts.concat(), &[], tag, &mut []).is_ok(),
        }
    }
}

impl fmt::Debug for TagKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TagKey(..)")
    }
}

/// Seals and opens records and pages: AES-256-GCM, ciphertext ‖ tag. Each file has a key of its own,
/// by the salt in its header; the nonce is a place or number in that file, used once.
pub struct RecordKey(Gcm);

impl RecordKey {
    /// Makes the key ready.
    pub fn new(key: &Key) -> Self {
        Self(Gcm::new(key))
    }

    /// Encrypts in place and appends the tag.
    pub fn seal(&self, nonce: Nonce, associated: &[u8], bytes: &mut Vec<u8>) {
        let tag = self.0.seal_in_place(nonce, associated, bytes);
        bytes.extend_from_slice(&tag);
    }

    /// Cuts the tag and decrypts in place; empties `bytes` if it fails.
    pub fn open(
        &self,
        nonce: Nonce,
        associated: &[u8],
        bytes: &mut Vec<u8>,
    ) -> Result<(), Damaged> {
        let text = self.0.open_in_place(nonce, associated, bytes);
        bytes.truncate(text.unwrap_or(0));
        text.map(|_| ())
    }

    /// Seals `plain` into `sealed`, which is [`TAG`] bytes longer.
    pub fn seal_into(&self, nonce: Nonce, associated: &[u8], plain: &[u8], sealed: &mut [u8]) {
        assert_eq!(sealed.len(), plain.len() + TAG, "room for the text and its tag");
        let (sealed, tag) = sealed.split_last_chunk_mut::<TAG>().expect("room for the tag");
        self.0.seal(nonce, associated, plain, sealed, tag);
    }

    /// Opens `sealed` into `plain`, which is [`TAG`] bytes shorter. Zeros are left if it fails.
    pub fn open_into(
        &self,
        nonce: Nonce,
        associated: &[u8],
        sealed: &[u8],
        plain: &mut [u8],
    ) -> Result<(), Damaged> {
        let (sealed, tag) = sealed.split_last_chunk::<TAG>().ok_or(Damaged)?;
        self.0.open(nonce, associated, sealed, tag, plain)
    }
}

impl fmt::Debug for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecordKey(..)")
    }
}
