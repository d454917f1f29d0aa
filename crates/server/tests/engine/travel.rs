//! Going back and forth in time, seen by clients.

use crate::house::{Place, owner, reference};
use api::{
    Chunk, Control as _, InstantSpec, codes,
    verbs::{
        history::{Diff, DifferenceKind, Rewind, VolClone},
        log::{Log, LogBy, WriteOp},
        mark::{MarkAdd, MarkLs, MarkRemove},
        past::{Close, Open, Read},
        session::{SessionKick, SessionLs},
        vol::VolRelease,
    },
};

const MIB: u64 = 1 << 20;

fn mark(name: &str, volume: &str) -> MarkAdd {
    MarkAdd {
        reference: reference(volume),
        name: name.parse().expect("a name"),
        keep_ns: None,
        pinned: false,
        note: None,
    }
}

fn rewind(to: &str) -> Rewind {
    Rewind { reference: reference(to), detach: false, dry_run: false, exact: false }
}

fn open(instant: &str, writable: bool, ttl_ns: Option<u64>) -> Open {
    Open { reference: reference(instant), writable, ttl_ns, exact: false }
}

#[test]
fn the_past_is_read_and_gone_back_to() {
    let place = Place::new();
    let house = place.serve();
    house.create("db", 64 * MIB);
    let mut client = house.connect("db");
    assert_eq!((client.size, client.read_only(), client.multi_conn()), (64 * MIB, false, true));
    client.write(0, &[1; 8192]).expect("written");
    client.write(MIB, &[1; 700]).expect("a part of a block");
    client.flush().expect("flushed");
    let marked = house.ask(mark("before", "db")).expect("marked");
    client.write(4096, &[2; 4096]).expect("written");
    client.write(16 * MIB, &vec![2; 512 << 10]).expect("a bulk write");
    client.trim(0, 4096).expect("trimmed");

    let opened = house.ask(open("db@mark:before", false, None)).expect("opened");
    assert_eq!((opened.seq, opened.writable), (marked.seq, false));
    assert_eq!(opened.reference.to_string(), format!("db@seq:{}", marked.seq));
    let uri = format!("nbd+unix:///db@seq:{}?socket={}", marked.seq, house.socket.display());
    assert_eq!(opened.uri.as_deref(), Some(uri.as_str()));
    let mut past = house.connect("db@mark:before");
    assert_eq!(past.name, format!("db@seq:{}", marked.seq));
    assert_eq!((past.read_only(), past.multi_conn()), (true, false), "a mark may move");
    assert!(house.connect(&past.name).multi_conn(), "a sequence does not");
    assert_eq!(past.read(0, 8192).expect("read"), [1; 8192]);
    assert!(past.write(0, &[9; 512]).is_err());
    past.end();

    let diff = Diff {
        from: reference("db@mark:before"),
        to: reference("db@now"),
        after: None,
        limit: None,
        exact: false,
    };
    let found = house.ask(diff.clone()).expect("compared").ranges;
    let found: Vec<_> = found.iter().map(|it| (it.offset, it.length, it.kind)).collect();
    let (data, zero) = (DifferenceKind::Data, DifferenceKind::Zero);
    let wanted = vec![(0, 4096, zero), (4096, 4096, data), (16 * MIB, 512 << 10, data)];
    assert_eq!(found, wanted);
    let mut pages = Vec::new();
    let mut after = None;
    loop {
        let page = Diff { after, limit: Some(1), ..diff.clone() };
        let page = house.ask(page).expect("a page");
        pages.extend(page.ranges.iter().map(|it| (it.offset, it.length, it.kind)));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(pages, wanted);

    let failure = house.ask(rewind("db@mark:before")).expect_err("a client is attached");
    assert_eq!(failure.code, codes::IN_USE);
    assert!(failure.message.starts_with("volume `db` is in use by 1 client ("), "{failure}");
    client.end();
    house.wait_until_free("db");
    let plan = Rewind { dry_run: true, ..rewind("db@mark:before") };
    let planned = house.ask(plan).expect("planned");
    assert_eq!((planned.writes, planned.done), (3, false));
    let rewound = house.ask(rewind("db@mark:before")).expect("rewound");
    assert_eq!((rewound.writes, rewound.done), (3, true));
    let left = rewound.kept.expect("a branch").to_string();

    let mut client = house.connect("db");
    assert_eq!(client.read(0, 8192).expect("read"), [1; 8192]);
    assert_eq!(client.read(16 * MIB, 4096).expect("read"), [0; 4096]);
    client.end();
    let mut branch = house.connect(&left);
    assert!(branch.read_only());
    assert_eq!(branch.read(4096, 4096).expect("read"), [2; 4096]);
    assert_eq!(branch.read(0, 4096).expect("read"), [0; 4096]);
    branch.end();
    house.ask(rewind(&format!("{left}@now"))).expect("undone");
    assert_eq!(house.connect("db").read(4096, 4096).expect("read"), [2; 4096]);
    house.stop();
}

#[test]
fn clones_and_branches_outlive_a_restart() {
    let place = Place::new();
    let house = place.serve();
    house.create("db", 8 * MIB);
    let mut client = house.connect("db");
    client.write(0, &[1; 4096]).expect("written");
    let request = VolClone {
        reference: reference("db"),
        name: "copy".parse().expect("a name"),
        exact: false,
    };
    let cloned = house.ask(request).expect("cloned");
    assert_eq!(cloned.size, 8 * MIB);
    client.write(0, &[2; 4096]).expect("written");
    client.end();
    let mut copy = house.connect("copy");
    copy.write(4096, &[3; 4096]).expect("written");
    copy.end();
    let opened = house.ask(open(&cloned.origin.to_string(), true, None)).expect("opened");
    let name = opened.reference.to_string();
    assert!(name.starts_with("db~open-"), "{name}");
    let mut branch = house.connect(&name);
    assert_eq!(branch.read(0, 4096).expect("read"), [1; 4096]);
    branch.write(8192, &[4; 4096]).expect("writable");
    branch.end();
    house.wait_until_free("db");
    house.stop();

    let house = place.serve();
    let whole = [vec![1; 4096], vec![3; 4096], vec![0; 4096]].concat();
    assert_eq!(house.connect("copy").read(0, 12288).expect("read"), whole);
    let whole = [vec![2; 4096], vec![0; 8192]].concat();
    assert_eq!(house.connect("db").read(0, 12288).expect("read"), whole);
    let whole = [vec![1; 4096], vec![0; 4096], vec![4; 4096]].concat();
    assert_eq!(house.connect(&name).read(0, 12288).expect("read"), whole);
    assert_eq!(house.show("copy").origin.map(|it| it.to_string()), Some(cloned.origin.to_string()));
    let closed = house.ask(Close { reference: reference(&name) }).expect("closed");
    assert!(closed.trash_until.is_some());
    assert!(crate::client::Client::connect(&house.socket, &name).is_err());
    house.stop();
}

#[test]
fn what_was_cut_off_comes_back_when_released() {
    let place = Place::new();
    let house = place.serve();
    house.create("db", 8 * MIB);
    house.ask(mark("empty", "db")).expect("marked");
    let mut client = house.connect("db");
    client.write(0, &[1; 4096]).expect("written");
    let forced = Rewind { detach: true, ..rewind("db@mark:empty") };
    let rewound = house.ask(forced).expect("rewound");
    assert_eq!((rewound.clients.len(), rewound.writes), (1, 1));
    assert!(client.write(0, &[2; 4096]).is_err(), "its connection is gone");
    let refused = crate::client::Client::connect(&house.socket, "db").err().expect("refused");
    assert!(refused.to_string().contains("detached"), "{refused}");
    let released = house.ask(VolRelease { name: "db".parse().expect("a name") }).expect("released");
    assert_eq!(released.released.len(), 1);
    assert_eq!(house.connect("db").read(0, 4096).expect("read"), [0; 4096]);
    house.stop();
}

#[test]
fn an_opened_instant_closes_when_nobody_comes() {
    let place = Place::new();
    let house = place.serve();
    house.create("db", 8 * MIB);
    let opened = house.ask(open("db@now", false, Some(0))).expect("opened");
    let client = house.connect(&opened.reference.to_string());
    house.engine.on_time().expect("looked");
    let close = Close { reference: opened.reference.clone() };
    assert_eq!(house.ask(close.clone()).expect("it was open").clients, 1);
    assert_eq!(house.refusal(close.clone()), codes::NOT_OPENED);
    drop(client);
    house.ask(open("db@now", false, Some(0))).expect("opened");
    let deadline = 1_000_000;
    for turn in 0..=deadline {
        assert_ne!(turn, deadline, "it stays open");
        house.engine.on_time().expect("looked");
        if house.ask(close.clone()).is_err() {
            break;
        }
        house.ask(open("db@now", false, Some(0))).expect("opened");
    }
    house.stop();
}

#[test]
fn history_is_listed_by_write_flush_minute_and_client() {
    let place = Place::new();
    let house = place.serve();
    house.create("other", 8 * MIB);
    house.create("db", 8 * MIB);
    let mut other = house.connect("other");
    let mut client = house.connect("db");
    client.write(4096, &[1; 8192]).expect("written");
    other.write(0, &[1; 4096]).expect("written");
    client.flush().expect("flushed");
    client.trim(0, 65536).expect("trimmed");
    house.ask(mark("here", "db")).expect("marked");
    let ask = |by, after, limit| Log {
        reference: reference("db"),
        since: None,
        until: None,
        by,
        after,
        limit,
    };
    let page = house.ask(ask(LogBy::Write, None, None)).expect("listed");
    let rows: Vec<_> = page.writes.iter().map(|it| (it.op, it.offset, it.length)).collect();
    assert_eq!(rows, [(WriteOp::Write, 4096, 8192), (WriteOp::Trim, 0, 65536)]);
    assert_eq!(page.marks.len(), 1);
    let first = house.ask(ask(LogBy::Write, None, Some(1))).expect("a page");
    let second = house.ask(ask(LogBy::Write, first.next, Some(1))).expect("a page");
    assert_eq!([&first.writes[..], &second.writes[..]].concat(), page.writes);
    let flushes = house.ask(ask(LogBy::Flush, None, None)).expect("listed").flushes;
    assert_eq!(flushes.iter().map(|it| it.seq).collect::<Vec<_>>(), [page.writes[0].seq]);
    let minutes = house.ask(ask(LogBy::Minute, None, None)).expect("listed").minutes;
    let sums = minutes.iter().fold((0, 0), |sum, it| (sum.0 + it.writes, sum.1 + it.bytes));
    assert_eq!(sums, (2, 8192));
    let clients = house.ask(ask(LogBy::Client, None, None)).expect("listed").clients;
    assert_eq!(clients.iter().map(|it| (it.writes, it.bytes)).collect::<Vec<_>>(), [(2, 8192)]);

    let rounded = house.show("db@now^flush");
    assert_eq!(rounded.seq, page.writes[0].seq);
    assert_eq!(house.show("db@now^mark").seq, page.writes[1].seq);
    assert_eq!(house.show("db@now^quiet:1ns").seq, page.writes[1].seq);
    house.stop();
}

#[test]
fn marks_are_named_found_and_protected() {
    let place = Place::new();
    let house = place.serve();
    house.create("db", 8 * MIB);
    let mut client = house.connect("db");
    client.write(0, &[1; 4096]).expect("written");
    let first = house.ask(mark("nightly", "db")).expect("marked");
    assert_eq!(house.refusal(mark("nightly", "db")), codes::MARK_EXISTS);
    client.write(0, &[2; 4096]).expect("written");
    let note = Some("before the upgrade".to_owned());
    let pinned = MarkAdd { pinned: true, note: note.clone(), ..mark("nightly", "db") };
    let second = house.ask(pinned).expect("marked");
    let listed = house.ask(MarkLs::default()).expect("listed").marks;
    let names: Vec<_> = listed.iter().map(|it| it.reference.to_string()).collect();
    assert_eq!(names, ["db@mark:nightly~1", "db@mark:nightly"]);
    assert_eq!((&listed[0].note, &listed[1].note), (&None, &note));
    let long = MarkAdd { note: Some("x".repeat(256)), ..mark("long", "db") };
    assert_eq!(house.refusal(long), codes::USAGE);
    assert_eq!(house.show("db@mark:nightly~1").seq, first.seq);
    assert_eq!(house.show("db@mark:nightly").seq, second.seq);
    let failure = house.ask(open("db@mark:nightl", false, None)).expect_err("no such mark");
    assert_eq!(failure.code, codes::NO_INSTANT);
    let hint = failure.hint.expect("a hint").1;
    assert!(hint.starts_with("mark:nightly  ("), "{hint}");
    let remove = |back| MarkRemove {
        volume: "db".parse().expect("a name"),
        name: "nightly".parse().expect("a name"),
        back,
        dry_run: false,
    };
    assert_eq!(house.refusal(remove(0)), codes::PINNED);
    house.ask(remove(1)).expect("removed");
    assert_eq!(house.refusal(open("db@mark:nightly~1", false, None)), codes::NO_INSTANT);
    assert_eq!(house.refusal(open("db", false, None)), codes::INSTANT_WANTED);
    assert_eq!(house.refusal(open("db@-400d", false, None)), codes::TOO_OLD);
    assert_eq!(house.refusal(open("db@seq:9999", false, None)), codes::NOT_YET);
    assert_eq!(house.refusal(open("dbb@now", false, None)), codes::NO_VOLUME);
    house.stop();
}

#[test]
fn the_bytes_of_an_instant_stream_with_their_holes() {
    let place = Place::new();
    let house = place.serve();
    house.create("db", 64 * MIB + 512);
    let mut client = house.connect("db");
    let data: Vec<u8> = (0..5 * MIB).map(|at| u8::try_from(at % 251).expect("small")).collect();
    client.write(8 * MIB, &data).expect("written");
    let then = house.show("db@now").reference.instant.expect("an instant");
    client.write(8 * MIB, &[0xff; 4096]).expect("written");
    let reference = |instant: InstantSpec| reference("db").at(instant);
    let read = Read { reference: reference(then), offset: 0, length: None, exact: false };
    let mut chunks = house.engine.read(&owner(), read.clone()).expect("begun");
    let (mut bytes, mut zeroes) = (Vec::new(), 0);
    while let Some(chunk) = chunks.next().expect("read") {
        match chunk {
            Chunk::Data(data) => bytes.extend(data),
            Chunk::Zeroes(length) => zeroes += length,
        }
    }
    assert!(bytes == data, "the bytes differ");
    assert_eq!(zeroes, 59 * MIB + 512);
    let beyond = Read { offset: 64 * MIB, length: Some(513), ..read };
    let failure = house.engine.read(&owner(), beyond).err().expect("outside");
    assert_eq!(failure.code, codes::USAGE);
    house.stop();
}

#[test]
fn sessions_are_listed_and_ended() {
    let place = Place::new();
    let house = place.serve();
    house.create("db", 8 * MIB);
    let mut client = house.connect("db");
    client.write(0, &[1; 4096]).expect("written");
    let sessions = house.ask(SessionLs::default()).expect("listed").sessions;
    assert_eq!(sessions.len(), 1);
    assert_eq!((sessions[0].pid, sessions[0].writing), (Some(std::process::id()), true));
    house.ask(SessionKick { id: sessions[0].id }).expect("ended");
    assert_eq!(client.flush(), Err(u32::MAX));
    assert_eq!(house.refusal(SessionKick { id: 999 }), codes::NO_CLIENT);
    assert_eq!(house.show("db").clients.len(), 1, "a lost link leaves its client attached");
    house.stop();
}

fn log(of: &str) -> Log {
    let (since, until, after, limit) = (None, None, None, None);
    Log { reference: reference(of), since, until, by: LogBy::Minute, after, limit }
}

/// The present was once shown as the branch of its last write, so read-only until somebody wrote.
#[test]
fn the_present_is_writable_right_after_a_rewind() {
    let place = Place::new();
    let house = place.serve();
    house.create("db", MIB);
    let mut client = house.connect("db");
    client.write(0, &[1; 4096]).expect("written");
    client.write(0, &[2; 4096]).expect("written");
    client.end();
    house.wait_until_free("db");
    let before = house.show("db");
    house.ask(rewind("db@seq:1")).expect("rewound");
    let after = house.show("db");
    assert!(!after.read_only, "{after:?}");
    assert_ne!((after.branch, after.serial), (before.branch, before.serial));
    let left = after.branches[0].name.to_string();
    let now = house.ask(open("db@now", false, None)).expect("opened");
    assert!(!now.resolution.expect("it moves").thinned, "nothing is thinned");
    // The log goes along the present line, whatever is left beside it.
    house.ask(rewind("db@seq:1")).expect("rewound again");
    let since = Some(InstantSpec::of(api::Point::Ago(1)));
    let asked = Log { reference: reference("db"), since, ..log("db") };
    house.ask(asked).expect("shown");
    assert_eq!(house.ask(log("db")).expect("shown").branches.len(), 2);
    assert_eq!(house.ask(log(&format!("db~{left}"))).expect("shown").minutes.len(), 1);
    assert!(house.show(&format!("db~{left}")).read_only);
    house.stop();
}

/// A process may keep a second connection open that never writes: it holds nothing that a rewind would
/// write over.
#[test]
fn who_reads_on_is_not_attached() {
    let place = Place::new();
    let house = place.serve();
    house.create("db", MIB);
    let mut reader = house.connect("db");
    let mut writer = house.connect("db");
    writer.write(0, &[1; 4096]).expect("written");
    let mut other = house.connect("db");
    other.write(4096, &[1; 4096]).expect("written");
    assert_eq!(house.show("db").clients.len(), 1, "one process");
    writer.end();
    reader.read(0, 4096).expect("read");
    assert_eq!(house.refusal(rewind("db@seq:1")), codes::IN_USE, "another connection wrote");
    other.end();
    house.wait_until_free("db");
    house.ask(rewind("db@seq:1")).expect("rewound");
    reader.read(0, 4096).expect("read");
    house.stop();
}

/// What lies in a run that is lost has no time any more; an instant before what is left was once said to
/// be the volume's beginning.
#[test]
fn a_time_in_a_lost_run_is_refused() {
    let place = Place::new();
    let house = place.serve();
    house.create("db", MIB);
    house.connect("db").write(0, &[1; 4096]).expect("written");
    let first = house.ask(mark("first", "db")).expect("marked");
    house.stop();
    let house = place.serve();
    house.connect("db").write(0, &[2; 4096]).expect("written");
    house.stop();
    let runs = std::fs::read_dir(place.store().join("run")).expect("runs");
    let number = |path: &std::path::Path| {
        path.file_stem().and_then(|name| name.to_str()?.parse::<u64>().ok()).expect("a number")
    };
    let mut runs: Vec<_> = runs.map(|run| run.expect("listed").path()).collect();
    runs.sort_by_key(|path| number(path));
    println!("{runs:?}");
    runs.pop().expect("the newest stays");
    assert!(!runs.is_empty(), "there are two");
    for run in runs {
        std::fs::remove_file(run).expect("removed");
    }
    let house = place.serve();
    let at = format!("db@{}", first.time);
    let found = house.ask(open(&at, false, None));
    let failure = found.expect_err("its time is not known");
    assert_eq!(failure.code, codes::DAMAGED, "{failure}");
    house.stop();
}
