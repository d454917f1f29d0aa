//! Parts of a file over HTTP (RFC 9110: 13, 14): one range, entity tags, what is unchanged.
//!
//! Several ranges at once, and units other than bytes, are answered with the whole, as the standard
//! allows.

use super::serve::Refusal;
use api::{
    Failure, codes,
    verbs::export::{Described, Read},
};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};

/// Status and headers of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub status: StatusCode,
    pub headers: Vec<(HeaderName, String)>,
}

/// What is answered to who asks for a file, and what is to be read for it; nothing where the file has
/// not changed, or has no such range.
pub(super) fn answer(
    described: &Described,
    mut read: Read,
    asked: &HeaderMap,
) -> Result<(Head, Option<Read>), Refusal> {
    let file = usize::try_from(read.file).ok().and_then(|number| described.files.get(number));
    let file = file.ok_or_else(|| {
        Failure::new(codes::USAGE, format!("the export has no file {}", read.file))
    })?;
    let etag = format!("\"{}\"", file.etag);
    let mut headers = vec![(header::ETAG, etag.clone())];
    // What was described is what is read, though the present moves on.
    read.reference = described.reference.clone();
    if let Some(base) = &described.base {
        read.base = Some(base.reference.clone());
    }
    let says = |name: HeaderName| asked.get(name).and_then(|value| value.to_str().ok());
    if says(header::IF_NONE_MATCH).is_some_and(|tags| matches(tags, &etag)) {
        return Ok((Head { status: StatusCode::NOT_MODIFIED, headers }, None));
    }
    let Some(length) = file.length else {
        headers.push((header::ACCEPT_RANGES, "none".to_owned()));
        return Ok((Head { status: StatusCode::OK, headers }, Some(read)));
    };
    if read.offset > 0 || read.length.is_some() {
        // The range is part of the name: what is named is whole.
        let length = read.length.unwrap_or(length.saturating_sub(read.offset));
        headers.push((header::CONTENT_LENGTH, length.to_string()));
        return Ok((Head { status: StatusCode::OK, headers }, Some(read)));
    }
    headers.push((header::ACCEPT_RANGES, "bytes".to_owned()));
    let same = says(header::IF_RANGE).is_none_or(|tag| tag == etag);
    let asked = says(header::RANGE).filter(|_| same);
    let wanted = asked.map_or(Wanted::Whole, |text| parse(text, length).unwrap_or(Wanted::Whole));
    let status = match wanted {
        Wanted::Whole => {
            headers.push((header::CONTENT_LENGTH, length.to_string()));
            StatusCode::OK
        }
        Wanted::Nothing => {
            headers.push((header::CONTENT_RANGE, format!("bytes */{length}")));
            let head = Head { status: StatusCode::RANGE_NOT_SATISFIABLE, headers };
            return Ok((head, None));
        }
        Wanted::Part(start, end) => {
            let last = end - 1;
            headers.push((header::CONTENT_RANGE, format!("bytes {start}-{last}/{length}")));
            headers.push((header::CONTENT_LENGTH, (end - start).to_string()));
            read = read.range(start, end - start);
            StatusCode::PARTIAL_CONTENT
        }
    };
    Ok((Head { status, headers }, Some(read)))
}

/// Whether one of the tags is ours, or any will do.
fn matches(tags: &str, etag: &str) -> bool {
    tags.trim() == "*" || tags.split(',').any(|tag| tag.trim().trim_start_matches("W/") == etag)
}

/// What of a file is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Whole,
    /// From a byte on, up to another.
    Part(u64, u64),
    /// A range of which the file has no byte.
    Nothing,
}

impl Wanted {
    const fn part(start: u64, end: u64) -> Self {
        if start < end { Self::Part(start, end) } else { Self::Nothing }
    }
}

/// The one range of bytes that is asked for; `None` where there is none to be followed.
fn parse(text: &str, length: u64) -> Option<Wanted> {
    let (unit, ranges) = text.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") || ranges.contains(',') {
        return None;
    }
    let (first, last) = ranges.trim().split_once('-')?;
    let number = |text: &str| {
        let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // A number too large for us lies past the end of every file.
        plain.then(|| text.parse::<u64>().unwrap_or(u64::MAX))
    };
    if first.is_empty() {
        let count = number(last)?.min(length);
        return Some(Wanted::part(length - count, length));
    }
    let first = number(first)?;
    let end = match last {
        "" => length,
        last => number(last).filter(|last| *last >= first)?.saturating_add(1).min(length),
    };
    Some(Wanted::part(first, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_followed_and_the_rest_is_left() {
        for (text, found) in [
            ("bytes=0-0", Some(Wanted::Part(0, 1))),
            ("bytes=10-19", Some(Wanted::Part(10, 20))),
            ("bytes=90-", Some(Wanted::Part(90, 100))),
            ("bytes=90-900", Some(Wanted::Part(90, 100))),
            ("Bytes= 5-6 ", Some(Wanted::Part(5, 7))),
            ("bytes=-7", Some(Wanted::Part(93, 100))),
            ("bytes=-700", Some(Wanted::Part(0, 100))),
            ("bytes=-0", Some(Wanted::Nothing)),
            ("bytes=100-", Some(Wanted::Nothing)),
            ("bytes=99999999999999999999-", Some(Wanted::Nothing)),
            ("bytes=7-5", None),
            ("bytes=0-1,5-6", None),
            ("bytes=a-b", None),
            ("bytes=+1-2", None),
            ("bytes=", None),
            ("lines=0-1", None),
        ] {
            assert_eq!(parse(text, 100), found, "{text}");
        }
        assert_eq!(parse("bytes=0-", 0), Some(Wanted::Nothing));
        assert_eq!(parse("bytes=-5", 0), Some(Wanted::Nothing));
    }

    #[test]
    fn tags_are_compared_as_lists() {
        assert!(matches("*", "\"a\""));
        assert!(matches("\"b\", W/\"a\"", "\"a\""));
        assert!(!matches("\"b\"", "\"a\""));
    }
}
