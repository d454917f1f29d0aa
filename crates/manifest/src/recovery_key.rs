//! The key that is written on paper: `SL1-QK7M-…-9TXA`.
//!
//! 28 symbols of Crockford's base 32 (140 random bits) and 4 symbols of checksum, in groups of four.
//! The checksum is the number that the 28 symbols write, modulo the prime 2^20 - 3: it finds every
//! single wrong symbol, and every swap of two among the 28. Read with tolerance: any case, `O` for `0`, `I` and
//! `L` for `1`, dashes and blanks anywhere or nowhere, the prefix may be missing.

use std::fmt;

use seal::Key;
use world::Chance;
use zeroize::Zeroizing;

/// Digits and letters without I, L, O and U.
const SYMBOLS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const SECRET_SYMBOLS: usize = 28;
const ALL_SYMBOLS: usize = 32;
const MODULUS: u32 = (1 << 20) - 3;
const PREFIX: &str = "SL1";
/// [`PREFIX`] as it reads after `L` was taken for `1`.
const PREFIX_READ: &[u8] = b"S11";

/// A recovery key, whole: what it opens is known only to the store.
#[derive(Clone, Debug)]
pub struct RecoveryKey(Key); // the 32 symbols in ASCII; printed as `Key(..)`

impl RecoveryKey {
    /// A fresh one.
    pub fn random(chance: &dyn Chance) -> Self {
        let mut symbols = Zeroizing::new([0_u8; ALL_SYMBOLS]);
        chance.fill(&mut symbols[..SECRET_SYMBOLS]);
        for symbol in &mut symbols[..SECRET_SYMBOLS] {
            *symbol = SYMBOLS[usize::from(*symbol % 32)];
        }
        let check = checksum(&symbols[..SECRET_SYMBOLS]);
        symbols[SECRET_SYMBOLS..].copy_from_slice(&check);
        Self(Key::from_bytes(*symbols))
    }

    /// As somebody typed it.
    pub fn parse(text: &str) -> Result<Self, RecoveryKeyError> {
        let mut symbols = Zeroizing::new(Vec::with_capacity(text.len()));
        for letter in text.chars().filter(|&c| c != '-' && !c.is_whitespace()) {
            symbols.push(match letter.to_ascii_uppercase() {
                'O' => b'0',
                'I' | 'L' => b'1',
                other => u8::try_from(other)
                    .ok()
                    .filter(|symbol| SYMBOLS.contains(symbol))
                    .ok_or(RecoveryKeyError::NoSymbol { letter })?,
            });
        }
        let all = symbols.strip_prefix(PREFIX_READ).filter(|rest| rest.len() == ALL_SYMBOLS);
        let all: &[u8; ALL_SYMBOLS] = all
            .unwrap_or(&symbols)
            .try_into()
            .map_err(|_| RecoveryKeyError::WrongLength { found: symbols.len() })?;
        let (secret, check) = all.split_at(SECRET_SYMBOLS);
        if check != checksum(secret) {
            return Err(RecoveryKeyError::WrongChecksum);
        }
        Ok(Self(Key::from_bytes(*all)))
    }

    /// To be shown once and written down.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + 40));
        text.push_str(PREFIX);
        for (index, &symbol) in self.0.as_bytes().iter().enumerate() {
            if index % 4 == 0 {
                text.push('-');
            }
            text.push(char::from(symbol));
        }
        text
    }

    pub(crate) fn key(&self) -> &Key {
        &self.0
    }
}

/// Four symbols over those before them, most significant first.
fn checksum(symbols: &[u8]) -> [u8; 4] {
    let value = |symbol| SYMBOLS.iter().position(|&each| each == symbol).unwrap_or(0);
    let number = symbols.iter().fold(0, |number, &symbol| {
        (number * 32 + u32::try_from(value(symbol)).unwrap_or(0)) % MODULUS
    });
    [15, 10, 5, 0].map(|shift| SYMBOLS[usize::try_from(number >> shift & 31).unwrap_or(0)])
}

/// Why a text is no recovery key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoveryKeyError {
    /// A letter that no recovery key has.
    NoSymbol {
        /// As typed.
        letter: char,
    },
    /// Too few or too many symbols.
    WrongLength {
        /// Without dashes and blanks.
        found: usize,
    },
    /// Somewhere a symbol is another than was printed.
    WrongChecksum,
}

impl std::error::Error for RecoveryKeyError {}

impl fmt::Display for RecoveryKeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSymbol { letter } => write!(f, "{letter:?} stands in no recovery key"),
            Self::WrongLength { found } => {
                write!(
                    f,
                    "a recovery key has {ALL_SYMBOLS} symbols after {PREFIX}, here are {found}"
                )
            }
            Self::WrongChecksum => f.write_str("mistyped: the last group does not fit the others"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Fixed(Vec<u8>);

    impl Chance for Fixed {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.copy_from_slice(&self.0[..bytes.len()]);
        }
    }

    fn key(seed: &[u8]) -> RecoveryKey {
        RecoveryKey::random(&Fixed(seed.to_vec()))
    }

    #[test]
    fn a_known_key_reads_as_in_the_manual() {
        let seed: Vec<u8> = (0..28).collect();
        let text = key(&seed).to_text().to_string();
        assert_eq!(text, "SL1-0123-4567-89AB-CDEF-GHJK-MNPQ-RSTV-6EQ0");
        assert_eq!(format!("{:?}", key(&seed)), "RecoveryKey(Key(..))");
    }

    #[test]
    fn what_is_no_key_is_told_apart() {
        let parse = |text: &str| RecoveryKey::parse(text).map(|_| ()).unwrap_err();
        assert_eq!(parse("SL1-0123"), RecoveryKeyError::WrongLength { found: 7 });
        assert_eq!(parse(""), RecoveryKeyError::WrongLength { found: 0 });
        assert_eq!(parse("SL1-U"), RecoveryKeyError::NoSymbol { letter: 'U' });
        assert_eq!(parse("SL1-ä"), RecoveryKeyError::NoSymbol { letter: 'ä' });
    }

    proptest! {
        #[test]
        fn a_key_is_read_as_people_type_it(seed: [u8; 28], lower: bool, dashes: bool, prefix: bool) {
            let key = key(&seed);
            let mut text = key.to_text().replace('0', "o").replace('1', "l");
            if lower { text = text.to_lowercase(); }
            if !dashes { text = text.replace('-', " "); }
            if !prefix { text = text[4..].to_owned(); }
            let read = RecoveryKey::parse(&text).expect("the same key");
            prop_assert_eq!(read.key().as_bytes(), key.key().as_bytes());
        }

        #[test]
        fn one_wrong_symbol_is_found(seed: [u8; 28], at in 0..32_usize, symbol in 0..32_usize) {
            let mut symbols = *key(&seed).key().as_bytes();
            prop_assume!(symbols[at] != SYMBOLS[symbol]);
            symbols[at] = SYMBOLS[symbol];
            let text = String::from_utf8(symbols.to_vec()).expect("ASCII");
            prop_assert_eq!(
                RecoveryKey::parse(&text).map(|_| ()),
                Err(RecoveryKeyError::WrongChecksum)
            );
        }

        #[test]
        fn two_swapped_symbols_are_found(seed: [u8; 28], one in 0..28_usize, other in 0..28_usize) {
            let mut symbols = *key(&seed).key().as_bytes();
            prop_assume!(symbols[one] != symbols[other]);
            symbols.swap(one, other);
            let text = String::from_utf8(symbols.to_vec()).expect("ASCII");
            prop_assert!(RecoveryKey::parse(&text).is_err());
        }

        #[test]
        fn no_text_makes_it_panic(text: String) {
            let _ = RecoveryKey::parse(&text);
        }
    }
}
