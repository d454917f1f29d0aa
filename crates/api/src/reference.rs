//! A reference: `[REMOTE/]VOL[~BRANCH][@INSTANT]` or `[REMOTE/]group:NAME[~BRANCH][@INSTANT]`.
//!
//! Parsed in this order: cut at the first `@`; left of it at the last `/`, then at `~`; right of
//! it the rounding at the last `^`. Groups, other stores and alarms belong to the grammar from the
//! first day; a store that has none of them answers with [`Reference::local`]'s refusal.

use crate::{
    codes,
    failure::Failure,
    instant::{InstantSpec, Point},
    names::{BranchName, Remote, VolumeName},
    schema::text_in_json,
    zone::Zone,
};
use std::{fmt, str::FromStr};
use units::Sequence;

/// What a user or client names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    /// Another store.
    pub remote: Option<Remote>,
    /// A volume or group.
    pub subject: Subject,
    /// A line of its history that is not the present one.
    pub branch: Option<BranchName>,
    /// A state of it; none is the present, writable.
    pub instant: Option<InstantSpec>,
}

/// A volume or a group of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// One volume.
    Volume(VolumeName),
    /// Several, with common instants.
    Group(VolumeName),
}

impl Reference {
    /// The present of a volume.
    pub const fn volume(name: VolumeName) -> Self {
        Self { remote: None, subject: Subject::Volume(name), branch: None, instant: None }
    }

    /// The same subject and branch at another instant.
    #[must_use]
    pub fn at(mut self, instant: InstantSpec) -> Self {
        self.instant = Some(instant);
        self
    }

    /// The same subject and branch at a sequence: a name that never moves.
    #[must_use]
    pub fn at_sequence(self, sequence: Sequence) -> Self {
        self.at(InstantSpec::of(Point::Seq(sequence)))
    }

    /// Reads what a user typed; bare times are those of `zone`.
    pub fn parse(text: &str, zone: &Zone) -> Result<Self, Failure> {
        Self::read(text, |instant| InstantSpec::parse(instant, zone))
    }

    /// The volume and branch, where this store has them; else why it has not: this version knows
    /// no other stores, groups and alarms.
    pub fn local(&self) -> Result<(&VolumeName, Option<&BranchName>), Failure> {
        if let Some(remote) = &self.remote {
            return Err(Failure::new(
                codes::NO_REMOTES,
                format!("this version reaches no other store; `{remote}` cannot be asked"),
            )
            .doing("run the command at that host"));
        }
        if self.instant.as_ref().is_some_and(|instant| matches!(instant.point, Point::Alarm(_))) {
            return Err(Failure::new(
                codes::NO_ALARMS,
                format!("this version raises no detection alarms; there is no `{self}`"),
            )
            .doing("name a time, seq:N or mark:NAME"));
        }
        match &self.subject {
            Subject::Volume(name) => Ok((name, self.branch.as_ref())),
            Subject::Group(name) => Err(Failure::new(
                codes::NO_GROUPS,
                format!("this version has no groups; there is no `group:{name}`"),
            )
            .doing("name the volumes one by one")),
        }
    }

    fn read(
        text: &str,
        instant: impl FnOnce(&str) -> Result<InstantSpec, Failure>,
    ) -> Result<Self, Failure> {
        if text.is_empty() {
            return Err(Failure::new(codes::REFERENCE, "an empty text names no volume"));
        }
        let (place, at) = match text.split_once('@') {
            Some((place, at)) => (place, Some(at)),
            None => (text, None),
        };
        if place.starts_with(['/', '.']) {
            return Err(Failure::new(
                codes::REFERENCE,
                format!("`{text}` is a path, and a volume is wanted"),
            )
            .doing("name a volume of the store: strandline vol ls"));
        }
        let (remote, place) = match place.rsplit_once('/') {
            Some((remote, place)) => (Some(remote.parse()?), place),
            None => (None, place),
        };
        let (name, branch) = match place.split_once('~') {
            Some((name, branch)) => (name, Some(branch.parse()?)),
            None => (place, None),
        };
        let subject = match name.strip_prefix("group:") {
            Some(group) => Subject::Group(group.parse()?),
            None => Subject::Volume(name.parse()?),
        };
        Ok(Self { remote, subject, branch, instant: at.map(instant).transpose()? })
    }
}

impl FromStr for Reference {
    type Err = Failure;

    /// Reads the canonical form: times in RFC 3339 only.
    fn from_str(text: &str) -> Result<Self, Failure> {
        Self::read(text, str::parse)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(remote) = &self.remote {
            write!(f, "{remote}/")?;
        }
        match &self.subject {
            Subject::Volume(name) => name.fmt(f)?,
            Subject::Group(name) => write!(f, "group:{name}")?,
        }
        if let Some(branch) = &self.branch {
            write!(f, "~{branch}")?;
        }
        match &self.instant {
            Some(instant) => write!(f, "@{instant}"),
            None => Ok(()),
        }
    }
}

text_in_json!(
    Reference,
    "[REMOTE/]VOL[~BRANCH][@INSTANT], times in RFC 3339 only",
    "db@mark:before-upgrade"
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instant::tests::any_instant;
    use proptest::{option, prelude::*};
    use units::Timestamp;

    fn read(text: &str) -> Result<Reference, Failure> {
        text.parse()
    }

    #[test]
    fn the_parts_are_cut_in_the_order_of_the_manual() {
        let whole = read("backup.example:9489/group:shop~20261120T101231Z@mark:a~2^flush");
        let whole = whole.expect("well formed");
        assert_eq!(whole.remote.as_ref().map(Remote::as_str), Some("backup.example:9489"));
        assert_eq!(whole.subject, Subject::Group("shop".parse().expect("a name")));
        assert_eq!(whole.branch.as_ref().map(BranchName::as_str), Some("20261120T101231Z"));
        assert_eq!(whole.instant.expect("given").to_string(), "mark:a~2^flush");
        let slash =
            Reference::parse("db@yesterday/18:30", &Zone::utc(Timestamp(86_400_000_000_000)));
        assert_eq!(slash.expect("the slash is the day's").to_string(), "db@1970-01-01T18:30:00Z");
    }

    #[test]
    fn what_is_malformed_is_refused_by_its_part() {
        for (text, code) in [
            ("", codes::REFERENCE),
            ("./old.raw", codes::REFERENCE),
            ("/dev/sdb", codes::REFERENCE),
            ("a/b/c", codes::REMOTE_NAME),
            ("root@host/db", codes::TIME), // cut at the `@`: `host/db` is no instant
            ("DB", codes::VOLUME_NAME),
            ("db@", codes::TIME),
            ("db~", codes::BRANCH_NAME),
            ("db@now^", codes::ROUNDING),
            ("group:", codes::VOLUME_NAME),
        ] {
            let failure = match read(text) {
                Ok(reference) => panic!("{text} became {reference:?}"),
                Err(failure) => failure,
            };
            assert_eq!(failure.code, code, "{text}");
        }
    }

    #[test]
    fn what_has_no_system_yet_exits_3_with_a_clear_text() {
        for (text, code) in [
            ("office/db", codes::NO_REMOTES),
            ("group:shop", codes::NO_GROUPS),
            ("db@alarm:7", codes::NO_ALARMS),
        ] {
            let failure = read(text).expect("the grammar has it").local().expect_err(text);
            assert_eq!((failure.code, failure.exit()), (code, 3), "{text}");
        }
        assert!(read("db~x@-5m").expect("well formed").local().is_ok());
    }

    fn any_reference() -> impl Strategy<Value = Reference> {
        let name = || "[a-z0-9][a-z0-9.-]{0,20}".prop_map(|text| text.parse().expect("a name"));
        let remote = "(ssh:)?[a-z0-9][a-z0-9.-]{0,20}(:[0-9]{1,5})?"
            .prop_map(|text| text.parse().expect("a remote"));
        let branch = "[A-Za-z0-9][A-Za-z0-9.-]{0,20}".prop_map(|text| text.parse().expect("one"));
        let subject =
            prop_oneof![name().prop_map(Subject::Volume), name().prop_map(Subject::Group)];
        (option::of(remote), subject, option::of(branch), option::of(any_instant())).prop_map(
            |(remote, subject, branch, instant)| Reference { remote, subject, branch, instant },
        )
    }

    proptest! {
        #[test]
        fn any_reference_is_read_back(reference in any_reference()) {
            prop_assert_eq!(read(&reference.to_string()), Ok(reference.clone()));
            let zone = Zone::utc(Timestamp(0));
            prop_assert_eq!(Reference::parse(&reference.to_string(), &zone), Ok(reference));
        }

        #[test]
        fn no_text_panics(text in "[a-z0-9@~^:/. A-Z-]{0,40}|.{0,40}") {
            let _ = (read(&text), Reference::parse(&text, &Zone::utc(Timestamp(0))));
        }
    }
}
