//! 32 bytes that open something, and how to make them: by chance, of another key, of a passphrase.

use std::fmt;

use ring::hkdf::{HKDF_SHA256, Salt};
use world::Chance;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// What stands before every label, so that no other program's keys are ever ours.
const PREFIX: &[u8] = b"strandline/1 ";

/// 32 secret bytes. Wiped when dropped; printed as `Key(..)`.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Key([u8; 32]);

impl Key {
    /// A fresh one.
    pub fn random(chance: &dyn Chance) -> Self {
        let mut key = Self([0; 32]);
        chance.fill(&mut key.0);
        key
    }

    /// One that was stored, sealed by another.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// To be stored, sealed by another.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key for one purpose: another label or another salt gives an unrelated key, and none of
    /// them tells anything about this one.
    #[must_use]
    pub fn derive(&self, label: &str, salt: &[u8]) -> Self {
        let mut key = Self([0; 32]);
        hkdf(&self.0, salt, &[PREFIX, label.as_bytes()], &mut key.0);
        key
    }

    /// The key that a passphrase stands for; `None` if the cost is beyond [`Stretch::sane`].
    /// Takes the memory and the time that `cost` says: not for the log thread.
    pub fn of_passphrase(passphrase: &[u8], salt: &[u8; 16], cost: Stretch) -> Option<Self> {
        if !cost.sane() {
            return None;
        }
        let Stretch { memory_kib, passes, lanes } = cost;
        let params = argon2::Params::new(memory_kib, passes, lanes, Some(32)).ok()?;
        let argon =
            argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
        let mut key = Self([0; 32]);
        argon.hash_password_into(passphrase, salt, &mut key.0).ok()?;
        Some(key)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// What trying one passphrase costs (Argon2id, version 0x13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over that memory.
    pub passes: u32,
    /// Lanes of it.
    pub lanes: u32,
}

impl Stretch {
    /// What new key slots use: 64 MiB, 3 passes, 4 lanes.
    pub const DEFAULT: Self = Self { memory_kib: 64 << 10, passes: 3, lanes: 4 };

    /// Whether a stored cost may be paid: a forged one must not take the machine's memory or a day.
    pub const fn sane(self) -> bool {
        self.lanes >= 1
            && self.lanes <= 16
            && self.passes >= 1
            && self.passes <= 64
            && self.memory_kib >= 8 * self.lanes
            && self.memory_kib <= 1 << 20
    }
}

/// HKDF-SHA-256 of RFC 5869, extract and expand.
fn hkdf(input_key: &[u8], salt: &[u8], info: &[&[u8]], output: &mut [u8; 32]) {
    Salt::new(HKDF_SHA256, salt)
        .extract(input_key)
        .expand(info, HKDF_SHA256)
        .and_then(|output_key| output_key.fill(output))
        .expect("32 bytes are within HKDF's bound of 8160");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5869, A.1 and A.3; the first 32 of their 42 bytes are one block of the expansion.
    #[test]
    fn hkdf_gives_what_the_rfc_says() {
        let salt: Vec<u8> = (0x00..=0x0c).collect();
        let info: Vec<u8> = (0xf0..=0xf9).collect();
        let mut output = [0; 32];
        hkdf(&[0x0b; 22], &salt, &[&info[..3], &info[3..]], &mut output);
        assert_eq!(
            output,
            [
                0x3c, 0xb2, 0x5f, 0x25, 0xfa, 0xac, 0xd5, 0x7a, 0x90, 0x43, 0x4f, 0x64, 0xd0, 0x36,
                0x2f, 0x2a, 0x2d, 0x2d, 0x0a, 0x90, 0xcf, 0x1a, 0x5a, 0x4c, 0x5d, 0xb0, 0x2d, 0x56,
                0xec, 0xc4, 0xc5, 0xbf,
            ]
        );
        hkdf(&[0x0b; 22], &[], &[], &mut output);
        assert_eq!(
            output,
            [
                0x8d, 0xa4, 0xe7, 0x75, 0xa5, 0x63, 0xc1, 0x8f, 0x71, 0x5f, 0x80, 0x2a, 0x06, 0x3c,
                0x5a, 0x31, 0xb8, 0xa1, 0x1f, 0x5c, 0x5e, 0xe1, 0x87, 0x9e, 0xc3, 0x45, 0x4e, 0x5f,
                0x3c, 0x73, 0x8d, 0x2d,
            ]
        );
    }

    #[test]
    fn labels_and_salts_give_unrelated_keys() {
        let key = Key::from_bytes([7; 32]);
        let derived = key.derive("cells", &[1; 32]);
        assert_ne!(derived.as_bytes(), key.as_bytes());
        assert_ne!(derived.as_bytes(), key.derive("cells", &[2; 32]).as_bytes());
        assert_ne!(derived.as_bytes(), key.derive("segment", &[1; 32]).as_bytes());
    }

    #[test]
    fn a_key_is_never_printed() {
        assert_eq!(format!("{:?}", Key::from_bytes([0xab; 32])), "Key(..)");
    }

    #[test]
    fn insane_costs_are_refused() {
        let cheap = Stretch { memory_kib: 64, passes: 1, lanes: 4 };
        assert!(Key::of_passphrase(b"x", &[0; 16], cheap).is_some());
        for cost in [
            Stretch { memory_kib: u32::MAX, ..cheap },
            Stretch { memory_kib: 31, ..cheap },
            Stretch { passes: 0, ..cheap },
            Stretch { passes: u32::MAX, ..cheap },
            Stretch { lanes: 0, ..cheap },
            Stretch { lanes: u32::MAX, ..cheap },
        ] {
            assert!(Key::of_passphrase(b"x", &[0; 16], cost).is_none(), "{cost:?}");
        }
    }
}
