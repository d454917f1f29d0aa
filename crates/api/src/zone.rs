//! Local wall-clock times: the only place that knows of time zones, and the only user of `jiff`.
//!
//! A [`Zone`] is a time zone and the present as its reader sees it. A local time that happened
//! twice (clocks going back) is refused with both readings; one that never happened (clocks going
//! forward) is refused with its neighbours. A bare time is today's, a bare date its first moment.

use crate::{codes, failure::Failure, instant::no_time, time::Time};
use jiff::{
    Zoned,
    civil::{Date, DateTime},
    tz::{AmbiguousOffset, Offset, TimeZone},
};
use units::Timestamp;

/// A time zone and the present.
#[derive(Clone, Debug)]
pub struct Zone {
    now: Timestamp,
    zone: TimeZone,
}

impl Zone {
    /// The zone of this system.
    pub fn local(now: Timestamp) -> Self {
        Self { now, zone: TimeZone::system() }
    }

    /// UTC.
    pub fn utc(now: Timestamp) -> Self {
        Self { now, zone: TimeZone::UTC }
    }

    /// A zone by its name (`Europe/Paris`, `UTC`) or offset (`+01:00`).
    pub fn named(name: &str, now: Timestamp) -> Result<Self, Failure> {
        if name == "local" {
            return Ok(Self::local(now));
        }
        let zone = offset(name).map(TimeZone::fixed).or_else(|| TimeZone::get(name).ok());
        let zone = zone.ok_or_else(|| {
            Failure::new(codes::ZONE, format!("`{name}` is no time zone that this system knows"))
                .doing("name it as in Europe/Paris, UTC or +01:00")
        })?;
        Ok(Self { now, zone })
    }

    /// The present.
    pub const fn now(&self) -> Timestamp {
        self.now
    }

    /// The time that the text says; `None` when it says none.
    pub fn read(&self, text: &str) -> Result<Option<Timestamp>, Failure> {
        if let Some((day, time)) = text.split_once('/') {
            let date = match day {
                "yesterday" => self.today().yesterday().ok(),
                "today" => Some(self.today()),
                _ => None,
            };
            return match date.zip(clock(time)) {
                Some((date, time)) => self.civil(date.to_datetime(time), text).map(Some),
                None => Ok(None),
            };
        }
        if let Some(time) = clock(text) {
            return self.civil(self.today().to_datetime(time), text).map(Some);
        }
        if let Some(date) = date(text) {
            let first = date.to_zoned(self.zone.clone()).and_then(|zoned| zoned.start_of_day());
            return first
                .map_err(|_| no_time(text))
                .and_then(|zoned| stamp(&zoned, text))
                .map(Some);
        }
        let halves = text.split_once([' ', 'T', 't']).and_then(|(d, t)| date(d).zip(clock(t)));
        if let Some((date, time)) = halves {
            return self.civil(date.to_datetime(time), text).map(Some);
        }
        match text.parse::<Time>() {
            Ok(time) => Ok(Some(time.0)),
            Err(failure) if failure.code == codes::TIME_RANGE => Err(failure),
            Err(_) => Ok(None),
        }
    }

    /// Date and time to the second: `2026-11-20 09:58:02`.
    pub fn show(&self, time: impl Into<Timestamp>) -> String {
        self.format(time.into(), "%Y-%m-%d %H:%M:%S")
    }

    /// Date and time to the minute: `2026-11-20 09:58`.
    pub fn show_minute(&self, time: impl Into<Timestamp>) -> String {
        self.format(time.into(), "%Y-%m-%d %H:%M")
    }

    /// The time to the millisecond, with its date unless it is today: `09:58:02.114`.
    pub fn show_precise(&self, time: impl Into<Timestamp>) -> String {
        let time = time.into();
        let today = self.zoned(time).is_some_and(|zoned| zoned.date() == self.today());
        self.format(time, if today { "%H:%M:%S.%3f" } else { "%Y-%m-%d %H:%M:%S.%3f" })
    }

    /// Hours and minutes, for axes: `09:52`.
    pub fn show_clock(&self, time: impl Into<Timestamp>) -> String {
        self.format(time.into(), "%H:%M")
    }

    fn format(&self, time: Timestamp, form: &str) -> String {
        self.zoned(time).map_or_else(|| Time(time).to_string(), |z| z.strftime(form).to_string())
    }

    fn zoned(&self, time: Timestamp) -> Option<Zoned> {
        let utc = jiff::Timestamp::from_nanosecond(i128::from(time.0)).ok()?;
        Some(utc.to_zoned(self.zone.clone()))
    }

    fn today(&self) -> Date {
        self.zoned(self.now).map_or(Date::default(), |zoned| zoned.date())
    }

    fn civil(&self, local: DateTime, text: &str) -> Result<Timestamp, Failure> {
        let found = self.zone.to_ambiguous_timestamp(local);
        let reading = |offset: Offset| match offset.to_timestamp(local) {
            Ok(time) => time.display_with_offset(offset).to_string(),
            Err(_) => local.to_string(),
        };
        match found.offset() {
            AmbiguousOffset::Unambiguous { offset } => {
                let time = offset.to_timestamp(local).map_err(|_| no_time(text))?;
                stamp(&time.to_zoned(TimeZone::UTC), text)
            }
            AmbiguousOffset::Fold { before, after } => Err(Failure::new(
                codes::TIME_AMBIGUOUS,
                format!("`{text}` happened twice on {} (clocks went back)", local.date()),
            )
            .meaning(format!("{} or {}?", reading(before), reading(after)))),
            AmbiguousOffset::Gap { before, after } => Err(Failure::new(
                codes::TIME_SKIPPED,
                format!("`{text}` never happened on {} (clocks went forward)", local.date()),
            )
            .meaning(format!("{} or {}?", reading(after), reading(before)))),
        }
    }
}

impl From<Time> for Timestamp {
    fn from(time: Time) -> Self {
        time.0
    }
}

fn stamp(zoned: &Zoned, text: &str) -> Result<Timestamp, Failure> {
    let ns = i64::try_from(zoned.timestamp().as_nanosecond());
    ns.map(Timestamp)
        .map_err(|_| Failure::new(codes::TIME_RANGE, format!("`{text}` is out of range")))
}

/// `HH:MM[:SS[.frac]]`, nothing else that ISO 8601 allows.
fn clock(text: &str) -> Option<jiff::civil::Time> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let shaped = whole
        .bytes()
        .enumerate()
        .all(|(index, byte)| if index % 3 == 2 { byte == b':' } else { byte.is_ascii_digit() });
    let fits = shaped
        && (whole.len() == 8 || whole.len() == 5 && !text.contains('.'))
        && (1..=9).contains(&fraction.len())
        && fraction.bytes().all(|byte| byte.is_ascii_digit());
    fits.then(|| text.parse().ok())?
}

/// `YYYY-MM-DD`, nothing else that ISO 8601 allows.
fn date(text: &str) -> Option<Date> {
    let shaped = text.len() == 10
        && text.bytes().enumerate().all(|(index, byte)| match index {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    shaped.then(|| text.parse().ok())?
}

/// `+HH:MM` or `-HH:MM`.
fn offset(text: &str) -> Option<Offset> {
    let (sign, rest) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = rest.split_once(':')?;
    let (hours, minutes): (i32, i32) = (hours.parse().ok()?, minutes.parse().ok()?);
    let inside = (0..=23).contains(&hours) && (0..=59).contains(&minutes);
    inside.then(|| Offset::from_seconds(sign * (hours * 3600 + minutes * 60)).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn utc(text: &str) -> Timestamp {
        text.parse::<Time>().expect("RFC 3339").0
    }

    fn paris(now: &str) -> Zone {
        Zone::named("Europe/Paris", utc(now)).expect("known everywhere")
    }

    fn read(zone: &Zone, text: &str) -> Timestamp {
        zone.read(text).expect(text).expect(text)
    }

    #[test]
    fn local_forms_are_those_of_the_manual() {
        let zone = paris("2026-11-20T11:00:00Z");
        for (text, expected) in [
            ("2026-11-20T10:00:03Z", "2026-11-20T10:00:03Z"),
            ("2026-11-20T10:00:03.250+01:00", "2026-11-20T09:00:03.25Z"),
            ("2026-11-20", "2026-11-19T23:00:00Z"),
            ("2026-11-20 10:00", "2026-11-20T09:00:00Z"),
            ("2026-11-20T10:00", "2026-11-20T09:00:00Z"),
            ("10:00", "2026-11-20T09:00:00Z"),
            ("10:03:40.000000001", "2026-11-20T09:03:40.000000001Z"),
            ("yesterday/18:30", "2026-11-19T17:30:00Z"),
        ] {
            assert_eq!(read(&zone, text), utc(expected), "{text}");
        }
        for bad in ["25:99", "1000", "10", "T10:00", "10:00.5", "tomorrow/10:00", "20261120", "x"] {
            assert_eq!(zone.read(bad), Ok(None), "{bad}");
        }
    }

    #[test]
    fn a_time_that_happened_twice_is_refused_with_both_readings() {
        let zone = paris("2026-10-25T12:00:00Z");
        let failure = zone.read("02:30").expect_err("twice");
        assert_eq!(
            failure.to_string(),
            "error[E2012]: `02:30` happened twice on 2026-10-25 (clocks went back)\n  did you mean  \
             2026-10-25T02:30:00+02:00 or 2026-10-25T02:30:00+01:00?"
        );
        assert_eq!(read(&zone, "2026-10-25T02:30:00+02:00"), utc("2026-10-25T00:30:00Z"));
        assert_eq!(read(&zone, "2026-10-25T02:30:00+01:00"), utc("2026-10-25T01:30:00Z"));
    }

    #[test]
    fn a_time_that_was_skipped_is_refused_with_its_neighbours() {
        let failure = paris("2026-03-29T12:00:00Z").read("02:30").expect_err("skipped");
        assert_eq!(failure.code, codes::TIME_SKIPPED);
        let (_, hint) = failure.hint.expect("two neighbours");
        assert_eq!(hint, "2026-03-29T02:30:00+02:00 or 2026-03-29T02:30:00+01:00?");
    }

    #[test]
    fn a_date_whose_midnight_is_skipped_begins_where_it_begins() {
        // Lebanon's clocks go forward at midnight.
        let zone = Zone::named("Asia/Beirut", utc("2024-06-01T00:00:00Z")).expect("known");
        assert_eq!(read(&zone, "2024-03-31"), utc("2024-03-30T22:00:00Z"));
    }

    #[test]
    fn today_is_the_day_of_the_zone() {
        let zone = Zone::named("+13:00", utc("2026-11-20T12:00:00Z")).expect("an offset");
        assert_eq!(read(&zone, "00:30"), utc("2026-11-20T11:30:00Z"));
        assert_eq!(zone.show_precise(utc("2026-11-20T12:00:00.5Z")), "01:00:00.500");
        assert_eq!(zone.show_precise(utc("2026-11-20T10:00:00Z")), "2026-11-20 23:00:00.000");
    }

    #[test]
    fn an_unknown_zone_is_refused() {
        for bad in ["Nowhere/Atall", "+25:00", "+1", ""] {
            let failure = Zone::named(bad, Timestamp(0)).expect_err(bad);
            assert_eq!(failure.code, codes::ZONE, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[-0-9:/ TZyesterday.+^]{0,30}", ns in any::<i64>()) {
            let zone = Zone::named("America/Sao_Paulo", Timestamp(ns)).expect("known");
            let _ = zone.read(&text);
        }

        #[test]
        fn a_shown_second_is_read_back(seconds in 0..4_000_000_000_i64) {
            let zone = Zone::utc(Timestamp(0));
            let time = Timestamp(seconds * 1_000_000_000);
            prop_assert_eq!(zone.read(&zone.show(time)), Ok(Some(time)));
        }
    }
}
