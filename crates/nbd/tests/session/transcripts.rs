//! What goes over the wire, byte for byte, as the protocol text has it.
//!
//! Bytes are written as words: `'text'`, hexadecimal digits, `0*124` for so many zero bytes.

use crate::driver;

struct Case {
    what: &'static str,
    sent: &'static str,
    received: &'static str,
}

/// Every server begins so.
const GREETING: &str = "'NBDMAGIC' 'IHAVEOPT' 0003";

/// After the client's flags `00000003`.
const HANDSHAKES: &[Case] = &[
    Case {
        what: "the old way, without reserved zeroes",
        sent: "'IHAVEOPT' 00000001 00000003 'vol'",
        received: "0000000004000000 0d6d",
    },
    Case {
        what: "the old way cannot be refused in words",
        sent: "'IHAVEOPT' 00000001 00000004 'none'",
        received: "",
    },
    Case {
        what: "go, and all there is to know",
        sent: "'IHAVEOPT' 00000007 0000000f 00000003 'vol' 0003 0001 0002 0003",
        received: "
            0003e889045565a9 00000007 00000003 0000000c 0000 0000000004000000 0d6d
            0003e889045565a9 00000007 00000003 00000005 0001 'vol'
            0003e889045565a9 00000007 00000003 0000000a 0002 'a volume'
            0003e889045565a9 00000007 00000003 0000000e 0003 00000001 00001000 02000000
            0003e889045565a9 00000007 00000001 00000000",
    },
    Case {
        what: "the past has a fixed name and takes no writes",
        sent: "'IHAVEOPT' 00000006 0000000c 00000004 'past' 0001 0001",
        received: "
            0003e889045565a9 00000006 00000003 0000000c 0000 0000000004000000 040f
            0003e889045565a9 00000006 00000003 00000008 0001 'past@1'
            0003e889045565a9 00000006 00000001 00000000",
    },
    Case {
        what: "an export that is not there, one that is not given",
        sent: "
            'IHAVEOPT' 00000006 0000000a 00000004 'none' 0000
            'IHAVEOPT' 00000007 0000000c 00000006 'secret' 0000",
        received: "
            0003e889045565a9 00000006 80000006 00000002 'no'
            0003e889045565a9 00000007 80000002 00000002 'no'",
    },
    Case {
        what: "a list",
        sent: "'IHAVEOPT' 00000003 00000000",
        received: "
            0003e889045565a9 00000003 00000002 0000000f 00000003 'vol' 'a volume'
            0003e889045565a9 00000003 00000002 00000008 00000004 'past'
            0003e889045565a9 00000003 00000001 00000000",
    },
    Case {
        what: "leaving",
        sent: "'IHAVEOPT' 00000002 00000000 'IHAVEOPT' 00000003 00000000",
        received: "0003e889045565a9 00000002 00000001 00000000",
    },
    Case {
        what: "TLS, peeking and the future are not supported",
        sent: "
            'IHAVEOPT' 00000005 00000000
            'IHAVEOPT' 00000004 00000000
            'IHAVEOPT' 7ffffff0 00000003 'abc'",
        received: "
            0003e889045565a9 00000005 80000001 00000017 'option is not supported'
            0003e889045565a9 00000004 80000001 00000017 'option is not supported'
            0003e889045565a9 7ffffff0 80000001 00000017 'option is not supported'",
    },
    Case {
        what: "a name that passes its option",
        sent: "'IHAVEOPT' 00000006 00000009 ffffffff 'vol' 0000",
        received: "0003e889045565a9 00000006 80000003 00000019 'option data ends too soon'",
    },
    Case {
        what: "more than an option has",
        sent: "'IHAVEOPT' 00000007 0000000a 00000003 'vol' 0000 'x'",
        received: "0003e889045565a9 00000007 80000003 00000017 'option data is too long'",
    },
    Case {
        what: "contexts need structured replies",
        sent: "'IHAVEOPT' 0000000a 0000000b 00000003 'vol' 00000000",
        received: "0003e889045565a9 0000000a 80000003 00000022 'negotiate structured replies first'",
    },
    Case {
        what: "contexts are listed with wildcards and selected without",
        sent: "
            'IHAVEOPT' 00000008 00000000
            'IHAVEOPT' 00000009 0000000b 00000003 'vol' 00000000
            'IHAVEOPT' 00000009 00000014 00000003 'vol' 00000001 00000005 'base:'
            'IHAVEOPT' 0000000a 00000014 00000003 'vol' 00000001 00000005 'base:'
            'IHAVEOPT' 0000000a 0000001e 00000003 'vol' 00000001 0000000f 'base:allocation'",
        received: "
            0003e889045565a9 00000008 00000001 00000000
            0003e889045565a9 00000009 00000004 00000013 00000000 'base:allocation'
            0003e889045565a9 00000009 00000001 00000000
            0003e889045565a9 00000009 00000004 00000013 00000000 'base:allocation'
            0003e889045565a9 00000009 00000001 00000000
            0003e889045565a9 0000000a 00000001 00000000
            0003e889045565a9 0000000a 00000004 00000013 00000001 'base:allocation'
            0003e889045565a9 0000000a 00000001 00000000",
    },
    Case {
        what: "extended headers replace structured replies",
        sent: "
            'IHAVEOPT' 00000008 00000000
            'IHAVEOPT' 0000000b 00000000
            'IHAVEOPT' 00000008 00000000
            'IHAVEOPT' 00000007 00000009 00000003 'vol' 0000",
        received: "
            0003e889045565a9 00000008 00000001 00000000
            0003e889045565a9 0000000b 00000001 00000000
            0003e889045565a9 00000008 8000000a 0000001b 'extended headers are in use'
            0003e889045565a9 00000007 00000003 0000000c 0000 0000000004000000 1ded
            0003e889045565a9 00000007 00000001 00000000",
    },
];

#[test]
fn handshakes_are_as_the_protocol_has_them() {
    for Case { what, sent, received } in HANDSHAKES {
        let (sent, received) = (format!("00000003 {sent}"), format!("{GREETING} {received}"));
        let transcript = driver::run([&bytes(&sent)[..]]);
        assert_eq!(transcript.output, bytes(&received), "{what}: {transcript:?}");
        assert_eq!(transcript.violation, None, "{what}");
    }
}

#[test]
fn old_clients_get_their_reserved_zeroes() {
    let transcript = driver::run([&bytes("00000000 'IHAVEOPT' 00000001 00000003 'vol'")[..]]);
    let received = format!("{GREETING} 0000000004000000 0d6d 0*124");
    assert_eq!(transcript.output, bytes(&received));
}

const SIMPLE: &str = "00000003 'IHAVEOPT' 00000007 00000009 00000003 'vol' 0000";
const PAST: &str = "00000003 'IHAVEOPT' 00000007 0000000a 00000004 'past' 0000";
const STRUCTURED: &str = "
    00000003
    'IHAVEOPT' 00000008 00000000
    'IHAVEOPT' 0000000a 0000001e 00000003 'vol' 00000001 0000000f 'base:allocation'
    'IHAVEOPT' 00000007 00000009 00000003 'vol' 0000";
const EXTENDED: &str = "
    00000003
    'IHAVEOPT' 0000000b 00000000
    'IHAVEOPT' 0000000a 0000001e 00000003 'vol' 00000001 0000000f 'base:allocation'
    'IHAVEOPT' 00000007 00000009 00000003 'vol' 0000";

/// After the handshake named first. Even cookies succeed, odd ones fail with EIO and `odd`.
const REQUESTS: &[(&str, Case)] = &[
    (
        SIMPLE,
        Case {
            what: "simple read, write, flush",
            sent: "
                25609513 0000 0000 00000000000000a0 0000000000001000 00000200
                25609513 0001 0001 00000000000000a2 0000000000001000 00000003 'abc'
                25609513 0000 0003 00000000000000a4 0000000000000000 00000000",
            received: "
                67446698 00000000 00000000000000a0
                67446698 00000000 00000000000000a2
                67446698 00000000 00000000000000a4",
        },
    ),
    (
        SIMPLE,
        Case {
            what: "simple failure, unknown command, past the end, without a place to go",
            sent: "
                25609513 0000 0000 00000000000000a1 0000000000001000 00000200
                25609513 0000 0009 00000000000000a2 0000000000000000 00000000
                25609513 0000 0001 00000000000000a4 0000000004000000 00000003 'abc'
                25609513 0000 0000 00000000000000a6 ffffffffffffffff 00000002
                25609513 0000 0007 00000000000000a8 0000000000000000 00001000",
            received: "
                67446698 00000005 00000000000000a1
                67446698 00000016 00000000000000a2
                67446698 0000001c 00000000000000a4
                67446698 00000016 00000000000000a6
                67446698 00000016 00000000000000a8",
        },
    ),
    (
        PAST,
        Case {
            what: "the past cannot be written, trimmed or zeroed",
            sent: "
                25609513 0000 0001 00000000000000a0 0000000000000000 00000003 'abc'
                25609513 0000 0004 00000000000000a2 0000000000000000 00001000
                25609513 0000 0006 00000000000000a4 0000000000000000 00001000
                25609513 0000 0003 00000000000000a6 0000000000000000 00000000",
            received: "
                67446698 00000001 00000000000000a0
                67446698 00000001 00000000000000a2
                67446698 00000001 00000000000000a4
                67446698 00000000 00000000000000a6",
        },
    ),
    (
        STRUCTURED,
        Case {
            what: "structured read, whole and failing, write, empty read",
            sent: "
                25609513 0004 0000 00000000000000a0 0000000000001000 00000200
                25609513 0000 0000 00000000000000a1 0000000000001000 00000200
                25609513 0000 0001 00000000000000a2 0000000000001000 00000003 'abc'
                25609513 0000 0000 00000000000000a4 0000000000001000 00000000",
            received: "
                668e33ef 0001 0001 00000000000000a0 00000208 0000000000001000
                668e33ef 0001 8001 00000000000000a1 00000009 00000005 0003 'odd'
                67446698 00000000 00000000000000a2
                668e33ef 0001 0000 00000000000000a4 00000000",
        },
    ),
    (
        STRUCTURED,
        Case {
            what: "structured block status, of all and of one",
            sent: "
                25609513 0000 0007 00000000000000a0 0000000000001000 00002000
                25609513 0008 0007 00000000000000a2 0000000000001000 00002000",
            received: "
                668e33ef 0001 0005 00000000000000a0 00000014 00000001
                    00001000 00000000 00001000 00000003
                668e33ef 0001 0005 00000000000000a2 0000000c 00000001 00001000 00000000",
        },
    ),
    (
        EXTENDED,
        Case {
            what: "extended read, write, failure",
            sent: "
                21e41c71 0000 0000 00000000000000a0 0000000000001000 0000000000000200
                21e41c71 0020 0001 00000000000000a2 0000000000002000 0000000000000003 'abc'
                21e41c71 0000 0006 00000000000000a4 0000000000003000 0000000100000000",
            received: "
                6e8a278c 0001 0001 00000000000000a0 0000000000001000 0000000000000208
                    0000000000001000
                6e8a278c 0001 0000 00000000000000a2 0000000000002000 0000000000000000
                6e8a278c 0001 8001 00000000000000a4 0000000000003000 000000000000002a
                    0000001c 0024 'request passes the end of the export'",
        },
    ),
    (
        EXTENDED,
        Case {
            // QEMU 10.0 does so; taken for a request without payload, its data became requests.
            what: "extended write that does not say that it has a payload",
            sent: "21e41c71 0000 0001 00000000000000a2 0000000000002000 0000000000000003 'abc'",
            received: "6e8a278c 0001 0000 00000000000000a2 0000000000002000 0000000000000000",
        },
    ),
    (
        EXTENDED,
        Case {
            what: "extended block status, with and without a filter",
            sent: "
                21e41c71 0000 0007 00000000000000a0 0000000000001000 0000000000002000
                21e41c71 0020 0007 00000000000000a2 0000000000001000 000000000000000c
                    0000000000002000 00000001
                21e41c71 0020 0007 00000000000000a4 0000000000001000 000000000000000c
                    0000000000002000 00000002
                21e41c71 0020 0007 00000000000000a6 0000000000001000 0000000000000003 'abc'",
            received: "
                6e8a278c 0001 0006 00000000000000a0 0000000000001000 0000000000000028
                    00000001 00000002
                    0000000000001000 0000000000000000 0000000000001000 0000000000000003
                6e8a278c 0001 0006 00000000000000a2 0000000000001000 0000000000000028
                    00000001 00000002
                    0000000000001000 0000000000000000 0000000000001000 0000000000000003
                6e8a278c 0001 8001 00000000000000a4 0000000000001000 000000000000001d
                    00000016 0017 'context is not selected'
                6e8a278c 0001 8001 00000000000000a6 0000000000001000 000000000000001f
                    00000016 0019 'name the one context once'",
        },
    ),
];

#[test]
fn requests_are_answered_as_the_protocol_has_them() {
    for (handshake, Case { what, sent, received }) in REQUESTS {
        let greeted = driver::run([&bytes(handshake)[..]]).output.len();
        let transcript = driver::run([&bytes(&format!("{handshake} {sent}"))[..]]);
        assert_eq!(transcript.output[greeted..], bytes(received), "{what}: {transcript:?}");
        assert_eq!(transcript.violation, None, "{what}");
    }
}

#[test]
fn only_payload_of_served_writes_reaches_the_server() {
    let sent = "
        25609513 0000 0001 00000000000000a2 0000000000001000 00000003 'abc'
        25609513 8000 0001 00000000000000a4 0000000000001000 00000003 'def'
        25609513 0000 0001 00000000000000a6 0000000000001000 00000003 'ghi'";
    let transcript = driver::run([&bytes(&format!("{SIMPLE} {sent}"))[..]]);
    assert_eq!(transcript.payload, b"abcghi");
}

fn bytes(words: &str) -> Vec<u8> {
    let mut rest = words.trim_start();
    let mut bytes = Vec::new();
    while !rest.is_empty() {
        if let Some(text) = rest.strip_prefix('\'') {
            let (text, after) = text.split_once('\'').expect("a closing quote");
            bytes.extend_from_slice(text.as_bytes());
            rest = after.trim_start();
            continue;
        }
        let (word, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        if let Some(count) = word.strip_prefix("0*") {
            bytes.resize(bytes.len() + count.parse::<usize>().expect("a count"), 0);
        } else {
            let digits = (0..word.len()).step_by(2).map(|at| &word[at..at + 2]);
            bytes.extend(digits.map(|two| u8::from_str_radix(two, 16).expect("hexadecimal")));
        }
        rest = after.trim_start();
    }
    bytes
}
