//! An instant as users name it: `now`, `-5m`, `seq:123`, `mark:nightly~2`, `10:03:40^flush`.
//!
//! What is parsed here holds no local time any more: a wall-clock text becomes nanoseconds of UTC
//! while it is read, with the reader's zone and day. A relative one (`-5m`) stays relative, for it
//! counts from the server's clock. [`Display`](fmt::Display) prints the canonical form, which
//! [`FromStr`] reads back; that is also the form in JSON.

use crate::{
    amounts::{duration, duration_text},
    codes,
    failure::Failure,
    names::MarkName,
    schema::text_in_json,
    time::Time,
    zone::Zone,
};
use std::{fmt, str::FromStr};
use units::{Sequence, Timestamp};

/// A point of a volume's history and how to round it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InstantSpec {
    /// Where in history.
    pub point: Point,
    /// Rounds down from there.
    pub round: Option<Round>,
}

/// Where in history.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Point {
    /// The present (of a branch: its end).
    Now,
    /// The first instant of the volume, or where a clone forked.
    Start,
    /// So many nanoseconds before the server's present.
    Ago(u64),
    /// All writes acknowledged at or before this time, none issued after.
    At(Timestamp),
    /// All writes with this sequence or a lower one.
    Seq(Sequence),
    /// The instant with that mark; with `back`, so many earlier ones of that name.
    Mark {
        /// The mark.
        name: MarkName,
        /// 0 is the newest of that name.
        back: u32,
    },
    /// Just before that detection alarm.
    Alarm(u64),
}

/// To what an instant is rounded down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Round {
    /// The last flush of a client.
    Flush,
    /// The last mark.
    Mark,
    /// The last moment after so many nanoseconds without writes.
    Quiet(u64),
}

impl InstantSpec {
    /// The present.
    pub const NOW: Self = Self { point: Point::Now, round: None };

    /// That point, not rounded.
    pub const fn of(point: Point) -> Self {
        Self { point, round: None }
    }

    /// Reads what a user typed; bare times are those of `zone`.
    pub fn parse(text: &str, zone: &Zone) -> Result<Self, Failure> {
        Self::read(text, Some(zone))
    }

    /// Whether it names the same state at every asking: only a sequence does.
    pub const fn is_fixed(&self) -> bool {
        matches!(self, Self { point: Point::Seq(_), round: None })
    }

    fn read(text: &str, zone: Option<&Zone>) -> Result<Self, Failure> {
        let (point, round) = match text.rsplit_once('^') {
            Some((point, round)) => (point, Some(Round::read(round)?)),
            None => (text, None),
        };
        Ok(Self { point: Point::read(point, zone)?, round })
    }
}

impl Point {
    fn read(text: &str, zone: Option<&Zone>) -> Result<Self, Failure> {
        match text {
            "now" => return Ok(Self::Now),
            "start" => return Ok(Self::Start),
            _ => {}
        }
        let parsed = if let Some(ago) = text.strip_prefix('-') {
            duration(ago).map(Self::Ago)
        } else if let Some(number) = text.strip_prefix("seq:") {
            number_of(number).and_then(Sequence::new).map(Self::Seq)
        } else if let Some(number) = text.strip_prefix("alarm:") {
            number_of(number).map(Self::Alarm)
        } else if let Some(mark) = text.strip_prefix("mark:") {
            return mark_of(mark);
        } else if let Some(zone) = zone {
            zone.read(text)?.map(Self::At)
        } else {
            text.parse::<Time>().ok().map(|time| Self::At(time.0))
        };
        parsed.ok_or_else(|| no_time(text))
    }
}

/// Digits only: `+5` and blanks are no numbers here.
fn number_of(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn mark_of(text: &str) -> Result<Point, Failure> {
    let Some((name, back)) = text.split_once('~') else {
        return Ok(Point::Mark { name: text.parse()?, back: 0 });
    };
    let back = number_of(back).and_then(|back| u32::try_from(back).ok());
    let back = back.ok_or_else(|| no_time(&format!("mark:{text}")))?;
    Ok(Point::Mark { name: name.parse()?, back })
}

/// The refusal of a text that is no instant.
pub(crate) fn no_time(text: &str) -> Failure {
    Failure::new(codes::TIME, format!("`{text}` is no time; try 10:03:40, -5m, seq:123, mark:NAME"))
}

impl Round {
    fn read(text: &str) -> Result<Self, Failure> {
        let parsed = match text {
            "flush" => Some(Self::Flush),
            "mark" => Some(Self::Mark),
            _ => text.strip_prefix("quiet:").and_then(duration).map(Self::Quiet),
        };
        parsed.ok_or_else(|| {
            Failure::new(codes::ROUNDING, format!("`^{text}` is no way to round an instant"))
                .doing("write ^flush, ^mark or ^quiet:2s")
        })
    }
}

impl FromStr for InstantSpec {
    type Err = Failure;

    /// Reads the canonical form: times in RFC 3339 only.
    fn from_str(text: &str) -> Result<Self, Failure> {
        Self::read(text, None)
    }
}

impl fmt::Display for InstantSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.point {
            Point::Now => f.write_str("now"),
            Point::Start => f.write_str("start"),
            Point::Ago(ns) => write!(f, "-{}", duration_text(*ns)),
            Point::At(time) => Time(*time).fmt(f),
            Point::Seq(sequence) => write!(f, "seq:{sequence}"),
            Point::Mark { name, back: 0 } => write!(f, "mark:{name}"),
            Point::Mark { name, back } => write!(f, "mark:{name}~{back}"),
            Point::Alarm(number) => write!(f, "alarm:{number}"),
        }?;
        match self.round {
            None => Ok(()),
            Some(Round::Flush) => f.write_str("^flush"),
            Some(Round::Mark) => f.write_str("^mark"),
            Some(Round::Quiet(ns)) => write!(f, "^quiet:{}", duration_text(ns)),
        }
    }
}

text_in_json!(
    InstantSpec,
    "an instant: now, start, -5m, seq:123, mark:NAME, mark:NAME~2, RFC 3339; then ^flush, ^mark, ^quiet:2s",
    "seq:93880"
);

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<InstantSpec, Failure> {
        text.parse()
    }

    #[test]
    fn each_form_of_the_manual_is_read() {
        let minute = 60_000_000_000;
        for (text, point) in [
            ("now", Point::Now),
            ("start", Point::Start),
            ("-5s", Point::Ago(5_000_000_000)),
            ("-250ms", Point::Ago(250_000_000)),
            ("-2h30m", Point::Ago(150 * minute)),
            ("-3d", Point::Ago(3 * 1440 * minute)),
            ("seq:123", Point::Seq(Sequence::new(123).expect("small"))),
            ("alarm:7", Point::Alarm(7)),
            ("1970-01-01T00:01:00Z", Point::At(Timestamp(60_000_000_000))),
        ] {
            assert_eq!(read(text), Ok(InstantSpec::of(point)), "{text}");
        }
        let mark = Point::Mark { name: "nightly".parse().expect("a name"), back: 2 };
        assert_eq!(read("mark:nightly~2"), Ok(InstantSpec::of(mark)));
        let quiet = InstantSpec { point: Point::Now, round: Some(Round::Quiet(2_000_000_000)) };
        assert_eq!(read("now^quiet:2s"), Ok(quiet));
    }

    #[test]
    fn what_is_no_instant_is_refused_with_examples() {
        let failure = read("25:99").expect_err("no time");
        assert_eq!(
            failure.to_string(),
            "error[E2011]: `25:99` is no time; try 10:03:40, -5m, seq:123, mark:NAME"
        );
        for bad in [
            "",
            "-",
            "-5",
            "seq:",
            "seq:-1",
            "seq:+1",
            "seq:281474976710656",
            "alarm:x",
            "mark:n~",
            "mark:n~x",
            "10:00",
            "2026-11-20",
        ] {
            assert_eq!(read(bad).expect_err(bad).code, codes::TIME, "{bad}");
        }
        assert_eq!(read("now^flash").expect_err("rounding").code, codes::ROUNDING);
        assert_eq!(read("mark:_").expect_err("name").code, codes::MARK_NAME);
    }

    /// Any instant that can be written.
    pub(crate) fn any_instant() -> impl Strategy<Value = InstantSpec> {
        let point = prop_oneof![
            Just(Point::Now),
            Just(Point::Start),
            any::<u64>().prop_map(Point::Ago),
            any::<i64>().prop_map(|ns| Point::At(Timestamp(ns))),
            (0..=Sequence::MAX.number())
                .prop_map(|number| Point::Seq(Sequence::new(number).expect("in range"))),
            ("[A-Za-z0-9][A-Za-z0-9._-]{0,20}", any::<u32>()).prop_map(|(name, back)| {
                Point::Mark { name: name.parse().expect("well formed"), back }
            }),
            any::<u64>().prop_map(Point::Alarm),
        ];
        let round = prop_oneof![
            Just(None),
            Just(Some(Round::Flush)),
            Just(Some(Round::Mark)),
            any::<u64>().prop_map(|ns| Some(Round::Quiet(ns))),
        ];
        (point, round).prop_map(|(point, round)| InstantSpec { point, round })
    }

    proptest! {
        #[test]
        fn any_instant_is_read_back(instant in any_instant()) {
            prop_assert_eq!(read(&instant.to_string()), Ok(instant));
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = read(&text);
        }
    }
}
