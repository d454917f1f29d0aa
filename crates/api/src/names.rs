//! Names of volumes, groups, branches, marks and other stores; a value that exists is well formed.
//!
//! A volume's name fits an iSCSI name, DNS, Kubernetes, a URI and a file name, hence no `_` and no
//! capitals. Names never become paths in a store.

use crate::{
    codes::{self, Code},
    failure::Failure,
    schema::text_in_json,
};
use std::{fmt, str::FromStr};

/// The most characters of a name.
pub const NAME_MAX: usize = 63;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $code:expr, $what:literal, $rule:literal, $example:literal,
     first $first:expr, rest $rest:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            fn holds(text: &str) -> bool {
                let first: fn(char) -> bool = $first;
                let rest: fn(char) -> bool = $rest;
                let mut characters = text.chars();
                text.len() <= NAME_MAX && characters.next().is_some_and(first) && characters.all(rest)
            }
        }

        impl FromStr for $name {
            type Err = Failure;

            fn from_str(text: &str) -> Result<Self, Failure> {
                if Self::holds(text) {
                    return Ok(Self(text.to_owned()));
                }
                Err(refusal($code, text, $what, $rule, Self::holds))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        text_in_json!($name, $rule, $example);
    };
}

name!(
    /// A volume or a group.
    VolumeName, codes::VOLUME_NAME, "a volume",
    "1 to 63 of a-z, 0-9, `.` and `-`, beginning with a letter or digit", "db",
    first |c| c.is_ascii_lowercase() || c.is_ascii_digit(),
    rest |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' || c == '-'
);
name!(
    /// A mark.
    MarkName, codes::MARK_NAME, "a mark",
    "1 to 63 of A-Z, a-z, 0-9, `.`, `_` and `-`, beginning with a letter or digit", "before-upgrade",
    first |c| c.is_ascii_alphanumeric(),
    rest |c| c.is_ascii_alphanumeric() || c == '.' || c == '_' || c == '-'
);
name!(
    /// A branch: what `log --graph` prints after the `~`.
    BranchName, codes::BRANCH_NAME, "a branch",
    "1 to 63 of A-Z, a-z, 0-9, `.` and `-`, beginning with a letter or digit", "20261120T101231Z",
    first |c| c.is_ascii_alphanumeric(),
    rest |c| c.is_ascii_alphanumeric() || c == '.' || c == '-'
);
name!(
    /// Another store: a site's name, `host[:port]` or `ssh:HOST`; never `user@`.
    Remote, codes::REMOTE_NAME, "a remote store",
    "a site's name, HOST, HOST:PORT or ssh:HOST", "office",
    first |c| c.is_ascii_alphanumeric() || c == '[',
    rest |c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']')
);

fn refusal(code: Code, text: &str, what: &str, rule: &str, holds: fn(&str) -> bool) -> Failure {
    let failure = Failure::new(code, format!("`{text}` is no name of {what}"));
    let likely = text.to_ascii_lowercase().replace(['_', ' '], "-");
    if likely != text && holds(&likely) {
        return failure.meaning(format!("{likely}?"));
    }
    failure.doing(format!("use {rule}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_fit_dns_and_file_names() {
        for good in ["db", "0", "web-1.example", &"a".repeat(63)] {
            assert!(good.parse::<VolumeName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", ".a", "DB", "a_b", "a/b", "a~b", "ä", &"a".repeat(64)] {
            assert!(bad.parse::<VolumeName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_near_miss_names_what_would_do() {
        let failure = "My_Disk".parse::<VolumeName>().expect_err("capitals");
        assert_eq!(
            failure.to_string(),
            "error[E2002]: `My_Disk` is no name of a volume\n  did you mean  my-disk?"
        );
    }

    #[test]
    fn marks_may_have_capitals_and_underscores() {
        assert!("Release_42".parse::<MarkName>().is_ok());
        assert!("_x".parse::<MarkName>().is_err());
        assert!("a~2".parse::<MarkName>().is_err());
    }
}
