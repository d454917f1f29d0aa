//! A point of time in answers: RFC 3339, UTC, to the nanosecond.

use crate::{codes, failure::Failure, schema::text_in_json};
use std::{fmt, str::FromStr};
use units::Timestamp;

/// [`Timestamp`] with its JSON form, e.g. `2026-11-20T10:00:03.25Z`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub Timestamp);

impl From<Timestamp> for Time {
    fn from(timestamp: Timestamp) -> Self {
        Self(timestamp)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        jiff::Timestamp::from_nanosecond(i128::from(self.0.0)).map_err(|_| fmt::Error)?.fmt(f)
    }
}

impl FromStr for Time {
    type Err = Failure;

    /// RFC 3339 with `Z` or an offset.
    fn from_str(text: &str) -> Result<Self, Failure> {
        let time: jiff::Timestamp = text
            .parse()
            .map_err(|_| Failure::new(codes::TIME, format!("`{text}` is no RFC 3339 time")))?;
        i64::try_from(time.as_nanosecond())
            .map(|ns| Self(Timestamp(ns)))
            .map_err(|_| Failure::new(codes::TIME_RANGE, format!("`{text}` is out of range")))
    }
}

text_in_json!(Time, "RFC 3339, UTC, to the nanosecond", "2026-11-20T10:00:03.25Z");

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_time_is_read_back_to_the_nanosecond(ns in any::<i64>()) {
            let time = Time(Timestamp(ns));
            prop_assert_eq!(time.to_string().parse::<Time>(), Ok(time));
        }
    }

    #[test]
    fn an_offset_is_understood_and_utc_is_printed() {
        let time: Time = "2026-11-20T10:00:03.250+01:00".parse().expect("RFC 3339");
        assert_eq!(time.to_string(), "2026-11-20T09:00:03.25Z");
    }
}
