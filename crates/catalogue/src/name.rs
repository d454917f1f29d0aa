//! Names: what may be one, which one was perhaps meant, and the ones made of a time.

use std::{borrow::Borrow, fmt};

use thiserror::Error;
use units::Timestamp;

/// Why something is no name.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("`{name}` is no name of a {what}: {rule}")]
pub struct NameError {
    /// What was given, cut to 80 characters.
    pub name: String,
    /// What it should name: "volume", "mark" or "branch".
    pub what: &'static str,
    /// What names of that kind look like.
    pub rule: &'static str,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $first:expr, $rest:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Checks the rule; bytes from anywhere may be given.
            pub fn parse(name: &str) -> Result<Self, NameError> {
                let first: fn(u8) -> bool = $first;
                let rest: fn(u8) -> bool = $rest;
                let good = match name.as_bytes() {
                    [head, tail @ ..] => first(*head) && tail.len() < 63 && tail.iter().all(|&byte| rest(byte)),
                    [] => false,
                };
                if good {
                    return Ok(Self(name.to_owned()));
                }
                Err(NameError { name: name.chars().take(80).collect(), what: $what, rule: $rule })
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(
    /// Of a volume: fits IQN, DNS, Kubernetes, URIs and file names.
    VolumeName,
    "volume",
    "1 to 63 of a-z, 0-9, `.` and `-`, the first a letter or digit",
    |byte| byte.is_ascii_lowercase() || byte.is_ascii_digit(),
    |byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-')
);
name!(
    /// Of a mark; several marks of a volume may share one.
    MarkName,
    "mark",
    "1 to 63 of A-Z, a-z, 0-9, `.`, `_` and `-`, the first a letter or digit",
    |byte| byte.is_ascii_alphanumeric(),
    |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
);
name!(
    /// Of a branch that is not the present: `20261120T101231Z`, `open-20261120T101231Z`, with `-2` …
    /// where that is taken.
    BranchName,
    "branch",
    "what `log --graph` prints, e.g. 20261120T101231Z",
    |byte| byte.is_ascii_alphanumeric(),
    |byte| byte.is_ascii_alphanumeric() || byte == b'-'
);

/// A line for people: 1 to 255 bytes, no control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note(String);

impl Note {
    /// Bytes of the longest.
    pub const BYTES_MAX: usize = 255;

    /// Checks the rule.
    pub fn parse(text: &str) -> Option<Self> {
        let good = (1..=Self::BYTES_MAX).contains(&text.len()) && !text.contains(char::is_control);
        good.then(|| Self(text.to_owned()))
    }

    /// The note as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The second of that time as `20261120T101231Z`.
pub fn utc_name(time: Timestamp) -> String {
    let seconds = time.0.div_euclid(1_000_000_000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// Year, month and day of a day counted from 1970-01-01 (Hinnant's `civil_from_days`: years begin in
/// March, so that the leap day is the last of its year).
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The names that may have been meant, best first, at most three: those within a third of the
/// length, and those that the given one begins.
pub fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let reach = (wanted.chars().count() / 3).max(1);
    let mut near: Vec<(usize, &str)> = names
        .map(|name| (distance(wanted, name), name))
        .filter(|&(far, name)| far <= reach || (!wanted.is_empty() && name.starts_with(wanted)))
        .collect();
    near.sort_unstable();
    near.dedup();
    near.into_iter().take(3).map(|(_, name)| name.to_owned()).collect()
}

/// Insertions, deletions and replacements from one to the other. What is asked for may be long, so
/// it is cut: no name is longer than 63.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().take(128).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_their_rules() {
        for good in ["db", "0", "a.b-c", "x".repeat(63).as_str()] {
            assert!(VolumeName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "Db", ".db", "-db", "d_b", "d/b", "db~1", "dä", "x".repeat(64).as_str()] {
            assert!(VolumeName::parse(bad).is_err(), "{bad}");
        }
        assert!(MarkName::parse("Before_upgrade-1.2").is_ok());
        assert!(MarkName::parse("_x").is_err());
        assert!(BranchName::parse("open-20261120T101231Z-2").is_ok());
    }

    #[test]
    fn times_are_named_in_utc() {
        let named = |seconds: i64| utc_name(Timestamp(seconds * 1_000_000_000));
        assert_eq!(named(0), "19700101T000000Z");
        assert_eq!(named(-1), "19691231T235959Z");
        assert_eq!(named(951_782_400), "20000229T000000Z");
        assert_eq!(named(1_795_169_551), "20261120T101231Z");
        assert_eq!(named(4_107_542_399), "21000228T235959Z");
    }

    #[test]
    fn near_names_are_offered_best_first() {
        let names = ["before-upgrade", "before-update", "nightly", "db", "db2"];
        assert_eq!(nearest("before-upgrad", names.into_iter())[0], "before-upgrade");
        assert_eq!(nearest("dbb", names.into_iter()), ["db", "db2"]);
        assert!(nearest("zzz", names.into_iter()).is_empty());
    }
}
