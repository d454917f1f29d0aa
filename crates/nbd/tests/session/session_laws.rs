//! Laws that hold for whatever a client sends.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::client::{Replies, contexts, export, option};
use crate::driver;

fn any_replies() -> impl Strategy<Value = Replies> {
    prop_oneof![Just(Replies::Simple), Just(Replies::Structured), Just(Replies::Extended)]
}

fn any_name() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop_oneof!["vol", "past", "secret", ""],
        1 => ".{0,20}",
    ]
}

/// Well framed; its data may be wrong.
fn any_option() -> impl Strategy<Value = Vec<u8>> {
    let queries = vec(prop_oneof!["base:", "base:allocation", "qemu:x"], 0..4);
    prop_oneof![
        (2..13_u32, vec(any::<u8>(), 1..40)).prop_map(|(number, data)| option(number, &data)),
        (any_name(), vec(0..5_u16, 0..5))
            .prop_map(|(name, infos)| option(6, &export(&name, &infos))),
        (9..11_u32, any_name(), queries).prop_map(|(number, name, queries)| {
            let queries: Vec<&str> = queries.iter().map(String::as_str).collect();
            option(number, &contexts(&name, &queries))
        }),
        Just(option(3, b"")),
    ]
}

/// Well framed; offset, length and flags may be wrong.
fn any_request(replies: Replies) -> impl Strategy<Value = Vec<u8>> {
    let lengths = prop_oneof![0..200_u64, 0..1_u64 << 32];
    let offsets = prop_oneof![4 => 0..driver::SIZE_BYTES, 1 => any::<u64>()];
    let flags = prop_oneof![3 => Just(0), 2 => 0..64_u16, 1 => any::<u16>()];
    let commands = prop_oneof![9 => 0..9_u16, 1 => any::<u16>()];
    (flags, commands, any::<u64>(), offsets, lengths).prop_map(
        move |(flags, command, cookie, at, mut length)| {
            let marked = replies == Replies::Extended && flags & 32 != 0;
            let has_payload = marked || command == 1;
            if has_payload {
                length %= 100;
            }
            let mut bytes = replies.request(flags, command, cookie, at, length);
            if has_payload {
                bytes.extend((0..length).map(|byte| u8::try_from(byte).expect("below 100")));
            }
            bytes
        },
    )
}

/// Options, then the handshake to its end, then requests.
fn any_client() -> impl Strategy<Value = Vec<u8>> {
    (any_replies(), vec(any_option(), 0..4), prop_oneof!["vol", "past"]).prop_flat_map(
        |(replies, options, name)| {
            vec(any_request(replies), 0..12).prop_map(move |requests| {
                let handshake = replies.handshake(&name);
                let (flags, rest) = handshake.split_at(4);
                [flags, &options.concat(), rest, &requests.concat()].concat()
            })
        },
    )
}

proptest! {
    #[test]
    fn cuts_do_not_change_what_comes_out(
        bytes in any_client(),
        cuts in vec(any::<Index>(), 0..20),
    ) {
        let whole = driver::run([&bytes[..]]);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]);
        prop_assert_eq!(driver::run(pieces), whole);
    }

    #[test]
    fn well_framed_clients_are_never_cut_off(bytes in any_client()) {
        prop_assert_eq!(driver::run([&bytes[..]]).violation, None);
    }

    #[test]
    fn any_bytes_are_survived(bytes in vec(any::<u8>(), 0..600)) {
        driver::check(&bytes);
        driver::check(&[b"\0\0\0\x03IHAVEOPT", &bytes[..]].concat());
        driver::check(&[Replies::Simple.handshake("vol"), bytes].concat());
    }

    #[test]
    fn spoilt_clients_are_survived(
        mut bytes in any_client(),
        spoils in vec((any::<Index>(), any::<u8>()), 1..6),
    ) {
        for (at, byte) in spoils {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        driver::check(&bytes);
    }

    #[test]
    fn each_request_is_answered_once((replies, requests) in any_answerable()) {
        let handshake = replies.handshake("vol");
        let greeted = driver::run([&handshake[..]]).output.len();
        let output = driver::run([&[handshake, requests.concat()].concat()[..]]).output;
        let cookies: Vec<u64> = requests
            .iter()
            .map(|request| u64::from_be_bytes(request[8..16].try_into().expect("8 bytes")))
            .collect();
        prop_assert_eq!(answered(&output[greeted..]), cookies);
    }
}

/// No reads, whose data the driver leaves out, and no disconnects, which have no answer.
fn any_answerable() -> impl Strategy<Value = (Replies, Vec<Vec<u8>>)> {
    any_replies().prop_flat_map(|replies| {
        let request = any_request(replies)
            .prop_filter("answered without data", |bytes| !matches!(bytes[6..8], [0, 0 | 2]));
        (Just(replies), vec(request, 0..30))
    })
}

/// The cookies in a stream of replies.
fn answered(mut replies: &[u8]) -> Vec<u64> {
    let mut cookies = Vec::new();
    while !replies.is_empty() {
        let number = |at: usize, length: usize| {
            replies[at..at + length].iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte))
        };
        let length = match number(0, 4) {
            0x6744_6698 => 16,
            0x668e_33ef => 20 + number(16, 4),
            0x6e8a_278c => 32 + number(24, 8),
            magic => panic!("a reply begins with {magic:#x}"),
        };
        cookies.push(number(8, 8));
        replies = &replies[usize::try_from(length).expect("short")..];
    }
    cookies
}
