//! Names and instants from the words of `api` to those of `catalogue` and back, and URIs of exports.
//!
//! Both have the same rules for names, so only a fault of ours makes a conversion fail.

use super::running::Listening;
use api::{Failure, InstantSpec, Point, Reference, Round, codes};
use catalogue::{At, Instant, Rounding};
use std::fmt::Write as _;

/// The volume's name for answers.
pub(super) fn api_volume(name: &catalogue::VolumeName) -> Result<api::VolumeName, Failure> {
    name.as_str().parse()
}

/// The volume's name for the catalogue.
pub(super) fn catalogue_volume(name: &api::VolumeName) -> Result<catalogue::VolumeName, Failure> {
    catalogue::VolumeName::parse(name.as_str())
        .map_err(|error| Failure::new(codes::VOLUME_NAME, error.to_string()))
}

/// The mark's name for the catalogue.
pub(super) fn catalogue_mark(name: &api::MarkName) -> Result<catalogue::MarkName, Failure> {
    catalogue::MarkName::parse(name.as_str())
        .map_err(|error| Failure::new(codes::MARK_NAME, error.to_string()))
}

/// The instant for the catalogue.
pub(super) fn catalogue_instant(spec: &InstantSpec) -> Instant {
    let at = match &spec.point {
        Point::Now => At::Now,
        Point::Start => At::Start,
        Point::Ago(ns) => At::Ago(*ns),
        Point::At(time) => At::Time(*time),
        Point::Seq(sequence) => At::Sequence(sequence.number()),
        Point::Mark { name, back } => At::Mark { name: name.as_str().to_owned(), earlier: *back },
        Point::Alarm(number) => At::Alarm(*number),
    };
    let rounding = spec.round.map(|round| match round {
        Round::Flush => Rounding::Flush,
        Round::Mark => Rounding::Mark,
        Round::Quiet(ns) => Rounding::Quiet(ns),
    });
    Instant { at, rounding }
}

/// Refuses an instant where a volume or branch is wanted.
pub(super) fn without_instant(reference: &Reference) -> Result<(), Failure> {
    if reference.instant.is_none() {
        return Ok(());
    }
    Err(Failure::new(
        codes::INSTANT_UNWANTED,
        format!("`{reference}` names an instant, and a volume is wanted"),
    ))
}

/// Where an export is reached: `nbd+unix:///db@seq:93880?socket=/run/strandline/nbd.sock`.
pub(super) fn uri(listening: &Listening, export: &Reference) -> String {
    uri_of(listening, &export.to_string())
}

/// The same for an export of any name.
pub fn uri_of(listening: &Listening, export: &str) -> String {
    let export = escaped(export, "@:~+.-_");
    match listening {
        Listening::Unix(path) => {
            let path = escaped(&path.to_string_lossy(), "/@:~+.-_");
            format!("nbd+unix:///{export}?socket={path}")
        }
        Listening::Tcp(address) => format!("nbd://{address}/{export}"),
    }
}

/// With all but letters, digits and `plain` as `%XX`.
fn escaped(text: &str, plain: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || plain.as_bytes().contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}"); // a string takes all
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_escape_only_what_they_must() {
        let export: Reference = "db~20261120T101231Z@seq:93880".parse().expect("well formed");
        let unix = Listening::Unix("/run/user/1000/my disks/nbd.sock".into());
        assert_eq!(
            uri(&unix, &export),
            "nbd+unix:///db~20261120T101231Z@seq:93880?socket=/run/user/1000/my%20disks/nbd.sock"
        );
        let tcp = Listening::Tcp("[::1]:10809".parse().expect("an address"));
        let rounded: Reference = "db@now^flush".parse().expect("well formed");
        assert_eq!(uri(&tcp, &rounded), "nbd://[::1]:10809/db@now%5Eflush");
    }
}
