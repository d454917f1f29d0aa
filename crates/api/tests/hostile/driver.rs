//! What a user or client typed: any text is a reference, an instant, a size, a duration, or refused with
//! a message that prints. What is taken says itself again. For the fuzzer (target `instants`) and for
//! `main.rs`.

use api::{
    InstantSpec, MarkName, Reference, VolumeName, Zone,
    amounts::{duration_text, parse_duration, parse_size, size_text, stretch_text},
};
use units::Timestamp;

/// 2026-10-25 00:30 UTC: half an hour before clocks go back in Europe.
const NOW: Timestamp = Timestamp(1_792_888_200_000_000_000);

/// The first byte chooses the zone and the present.
pub fn check(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let now = match choice >> 3 {
        0 => NOW,
        1 => Timestamp(0),
        2 => Timestamp(i64::MAX),
        3 => Timestamp(i64::MIN),
        hours => NOW.plus_ns(i64::from(hours) * 3_600_000_000_000),
    };
    let names = ["UTC", "Europe/Paris", "+01:00", "America/St_Johns", "Asia/Kathmandu"];
    let zone = Zone::named(names[usize::from(choice & 7) % names.len()], now);
    let Ok(zone) = zone else { return };
    match Reference::parse(text, &zone) {
        Ok(reference) => {
            let said = reference.to_string();
            let again = Reference::parse(&said, &zone).expect("it says itself");
            assert_eq!(again, reference, "{text:?} says {said:?}");
            assert_eq!(again.to_string(), said);
            let _ = reference.local().map(|_| ());
        }
        Err(failure) => assert!(!failure.to_string().contains('\u{1b}'), "{failure:?}"),
    }
    if let Ok(instant) = InstantSpec::parse(text, &zone) {
        let said = instant.to_string();
        assert_eq!(InstantSpec::parse(&said, &zone).expect("it says itself"), instant, "{said:?}");
    }
    if let Ok(bytes) = parse_size(text) {
        let _ = size_text(bytes);
        assert_eq!(parse_size(&bytes.to_string()).expect("plain bytes"), bytes);
    }
    if let Ok(ns) = parse_duration(text) {
        let _ = stretch_text(ns);
        assert_eq!(parse_duration(&duration_text(ns)).expect("it says itself"), ns);
    }
    let _ = (text.parse::<VolumeName>(), text.parse::<MarkName>());
    if let Ok(Some(time)) = zone.read(text) {
        let _ = (zone.show(time), zone.show_minute(time), zone.show_precise(time));
    }
    let _ = Zone::named(text, now);
}

/// Beginnings: each form once.
pub fn seeds() -> Vec<Vec<u8>> {
    let forms = [
        "db@now",
        "db~20261120T101231Z@-5m",
        "office/db@seq:12^flush",
        "group:shop@mark:a~2",
        "db@2026-11-20T10:00:03.250+01:00",
        "db@2026-11-20",
        "db@2026-11-20 10:00",
        "db@10:00",
        "db@yesterday/18:30^quiet:2s",
        "db@alarm:7",
        "db@start^mark",
        "ssh:h/db@02:30",
        "1.5GiB",
        "2h30m",
        "-250ms",
        "40G",
        "10GB",
    ];
    forms.iter().map(|form| [&[1], form.as_bytes()].concat()).collect()
}
