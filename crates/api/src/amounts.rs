//! Sizes (`10G` = `10GiB`, `10GB` = 10^10) and durations (`2h30m`, `250ms`), in and out.
//!
//! Both are exact: an amount that is no whole number of bytes or nanoseconds is refused, not
//! rounded.

use crate::{codes, failure::Failure};
use std::fmt::Write as _;

/// Bytes, from a number with an optional unit.
pub fn parse_size(text: &str) -> Result<u64, Failure> {
    size(text).ok_or_else(|| {
        Failure::new(codes::SIZE, format!("`{text}` is no size"))
            .doing("write 40G or 40GiB (2^30), 40GB (10^9), 512M, or plain bytes")
    })
}

fn size(text: &str) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let mut letters = unit.trim_start().chars();
    let power = match letters.next().map(|c| c.to_ascii_uppercase()) {
        None | Some('B') => 0,
        Some(c) => u32::try_from("KMGTPE".find(c)?).ok()? + 1,
    };
    let base: u128 = match (power, letters.as_str()) {
        (_, "") | (1.., "i" | "iB") => 1024,
        (1.., "B") => 1000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = u32::try_from(fraction.len()).ok().filter(|digits| *digits <= 18)?;
    if whole.is_empty() || (fraction.is_empty() && number.contains('.')) {
        return None;
    }
    let scaled = format!("{whole}{fraction}").parse::<u128>().ok()?.checked_mul(base.pow(power))?;
    let denominator = 10_u128.pow(digits);
    (scaled % denominator == 0).then(|| u64::try_from(scaled / denominator).ok())?
}

/// Units of durations: longest first, in nanoseconds.
const UNITS: [(&str, u64); 8] = [
    ("w", 7 * 86_400_000_000_000),
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Nanoseconds, from numbers with units, the longest unit first: `2h30m`.
pub fn parse_duration(text: &str) -> Result<u64, Failure> {
    duration(text).ok_or_else(|| {
        Failure::new(codes::DURATION, format!("`{text}` is no duration"))
            .doing("write 5s, 250ms, 2h30m, 3d or 2w")
    })
}

pub(crate) fn duration(text: &str) -> Option<u64> {
    let (mut rest, mut sum, mut units) = (text, 0_u64, UNITS.as_slice());
    while !rest.is_empty() || sum == 0 && units.len() == UNITS.len() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let letters =
            rest[digits..].find(|c: char| !c.is_ascii_lowercase()).unwrap_or(rest.len() - digits);
        let unit = &rest[digits..digits + letters];
        let index = units.iter().position(|(name, _)| *name == unit)?;
        let count: u64 = rest[..digits].parse().ok()?;
        sum = sum.checked_add(count.checked_mul(units[index].1)?)?;
        units = &units[index + 1..];
        rest = &rest[digits + letters..];
    }
    Some(sum)
}

/// The duration in the form that [`parse_duration`] reads, exact: `2h30m`, `1m0s` never, `0s`.
pub fn duration_text(ns: u64) -> String {
    let (mut rest, mut out) = (ns, String::new());
    for (name, length) in UNITS.iter().skip(1) {
        if rest >= *length {
            write!(out, "{}{name}", rest / length).expect("a string takes all");
            rest %= length;
        }
    }
    if out.is_empty() { "0s".to_owned() } else { out }
}

/// A size for people: `40.0 GiB`, `512 B`.
pub fn size_text(bytes: u64) -> String {
    let mut unit = 0;
    while unit < 6 && bytes >> (10 * unit) >= 1024 {
        unit += 1;
    }
    if unit == 0 {
        return format!("{bytes} B");
    }
    let scale = 1_u128 << (10 * unit);
    let tenths = (u128::from(bytes) * 10 + scale / 2) / scale;
    let name = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"][unit];
    format!("{}.{} {name}", tenths / 10, tenths % 10)
}

/// A number for people, its digits in threes: `97 311`.
pub fn count_text(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

/// Days for people, as exact as they are worth knowing.
pub fn days_text(days: f64) -> String {
    match days {
        days if days < 1.0 => "less than a day".to_owned(),
        days if days < 10.0 => format!("{days:.1} days"),
        days if days < 730.0 => format!("{days:.0} days"),
        _ => "more than two years".to_owned(),
    }
}

/// A stretch of time for people, in its two largest units: `8 min 51 s`, `0.11 s`, `2 ms`.
pub fn stretch_text(ns: u64) -> String {
    const NAMES: [(&str, u64); 4] = [
        ("d", 86_400_000_000_000),
        ("h", 3_600_000_000_000),
        ("min", 60_000_000_000),
        ("s", 1_000_000_000),
    ];
    if ns < 1_000_000_000 {
        return match ns {
            0..1_000 => format!("{ns} ns"),
            1_000..1_000_000 => format!("{} us", ns / 1_000),
            _ => format!("{} ms", ns / 1_000_000),
        };
    }
    let mut parts = NAMES.iter().scan(ns, |rest, (name, length)| {
        let count = *rest / length;
        *rest %= length;
        Some((count, name))
    });
    let mut out = String::new();
    if let Some((count, name)) = parts.find(|(count, _)| *count > 0) {
        write!(out, "{count} {name}").expect("a string takes all");
        if let Some((count, name)) = parts.next().filter(|(count, _)| *count > 0) {
            write!(out, " {count} {name}").expect("a string takes all");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_no_more_exact_than_they_can_be() {
        let texts = [0.04, 6.25, 61.2, 20_812.3].map(days_text);
        let wanted = ["less than a day", "6.2 days", "61 days", "more than two years"];
        assert_eq!(texts, wanted);
    }
    use proptest::prelude::*;

    #[test]
    fn binary_and_decimal_units_differ() {
        let gib = 1_u64 << 30;
        for (text, bytes) in [
            ("10G", 10 * gib),
            ("10GiB", 10 * gib),
            ("10g", 10 * gib),
            ("10GB", 10_000_000_000),
            ("1.5K", 1536),
            ("4096", 4096),
            ("4096B", 4096),
            ("0", 0),
            ("1E", 1 << 60),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "G", "10X", "10GBB", "1.3B", "-1", "16E", "1..2", "1.", "10 0", "1_000"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_go_from_long_to_short() {
        assert_eq!(parse_duration("2h30m"), Ok(9_000_000_000_000));
        assert_eq!(parse_duration("250ms"), Ok(250_000_000));
        assert_eq!(parse_duration("0s"), Ok(0));
        for bad in ["", "5", "s", "30m2h", "5s5s", "1.5s", "9999999999d", "5 s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn figures_for_people_are_short() {
        assert_eq!(size_text(40 << 30), "40.0 GiB");
        assert_eq!(size_text(512), "512 B");
        assert_eq!(size_text(u64::MAX), "16.0 EiB");
        assert_eq!(count_text(97_311), "97 311");
        assert_eq!(count_text(311), "311");
        assert_eq!(stretch_text(531_000_000_000), "8 min 51 s");
        assert_eq!(stretch_text(2_000_000), "2 ms");
        assert_eq!(stretch_text(3_600_000_000_000), "1 h");
    }

    proptest! {
        #[test]
        fn a_printed_duration_is_read_back(ns in any::<u64>()) {
            prop_assert_eq!(parse_duration(&duration_text(ns)), Ok(ns));
        }

        #[test]
        fn no_text_panics(text in ".{0,20}") {
            let _ = (parse_size(&text), parse_duration(&text));
        }
    }
}
