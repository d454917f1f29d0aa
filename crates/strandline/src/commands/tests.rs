//! Golden output of the commands and their refusals: the transcripts of the manual.

use crate::testing::{Script, client, details, mark, moment, run, time};
use api::{
    Answer, Failure, codes,
    verbs::{Damage, Resolution, doctor, history, log, mark as marks, past, store, vol},
};
use std::collections::BTreeSet;

fn script(answer: Answer) -> Script {
    Script::of([Ok(answer)])
}

fn created() -> Answer {
    Answer::VolCreate(vol::VolCreated {
        id: 1,
        name: "db".parse().expect("a name"),
        size: 40 << 30,
        block: 512,
        keep: "all 24h, 1m 7d, 1h 90d".to_owned(),
        uri: Some("nbd+unix:///db?socket=/run/strandline/nbd.sock".to_owned()),
    })
}

#[test]
fn vol_create_says_where_clients_reach_it() {
    let script = script(created());
    let ran = run(&["vol", "create", "db", "--size", "40G"], &script, true);
    assert_eq!(
        ran.stdout,
        "db  40.0 GiB  keep \"all 24h, 1m 7d, 1h 90d\"   \
         nbd+unix:///db?socket=/run/strandline/nbd.sock\n"
    );
    let asked = r#"vol/create {"block":512,"exclusive":false,"name":"db","size":42949672960}"#;
    assert_eq!(script.asked(), [asked]);
}

#[test]
fn a_size_is_taken_exactly_or_refused_with_the_next() {
    let script = Script::default();
    let ran = run(&["vol", "create", "db", "--size", "1000"], &script, true);
    assert_eq!(
        (ran.exit, ran.stderr.as_str()),
        (2, "error[E2016]: 1000 bytes are no multiple of 512\n  did you mean  1024?")
    );
    assert!(script.asked().is_empty());
}

#[test]
fn json_names_are_those_fixed_on_the_first_day() {
    let keys = |line: &[&str], answer: Answer, pick: &str| {
        let ran = run(&[line, &["--json"]].concat(), &script(answer), false);
        let document: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
        assert!(document["schema"].is_string());
        let part = document.pointer(pick).expect("the part is there");
        part.as_object().expect("an object").keys().cloned().collect::<BTreeSet<_>>()
    };
    let holds = |keys: &BTreeSet<String>, names: &[&str]| {
        for name in names {
            assert!(keys.contains(*name), "{name} in {keys:?}");
        }
    };
    holds(&keys(&["vol", "create", "db", "--size", "1G"], created(), ""), &["uri"]);
    let shown = Answer::VolShow(details("db"));
    holds(&keys(&["vol", "show", "db@-5m"], shown, ""), &["seq", "time", "uri"]);
    holds(&keys(&["open", "db@-5m"], Answer::Open(opened()), ""), &["seq", "time", "uri"]);
    let marked = Answer::MarkAdd(mark("db", "m", "2026-11-20T09:58:02Z", 1));
    holds(&keys(&["mark", "add", "db", "m"], marked, ""), &["seq", "time"]);
    let list = Answer::VolLs(vol::VolList { volumes: vec![summary()] });
    holds(&keys(&["vol", "ls"], list, "/volumes/0"), &["id", "name", "size", "branch"]);
    let diff = Answer::Diff(differing());
    holds(&keys(&["diff", "db@-5m"], diff, "/ranges/0"), &["offset", "length", "kind"]);
    let rewound = script(Answer::Rewind(rewound(true)));
    let planned = run(&["rewind", "db@-5m", "-n", "--json"], &rewound, false);
    assert!(planned.stdout.contains(r#""kept": "db~20261120T101231Z""#), "{}", planned.stdout);
}

fn summary() -> vol::VolSummary {
    vol::VolSummary {
        id: 1,
        name: "db".parse().expect("a name"),
        size: 40 << 30,
        branch: "1".to_owned(),
        block: 512,
        history: 184 << 20,
        clients: 1,
        attached: true,
        keep: "all".to_owned(),
        now: moment("2026-11-20T10:12:31Z", 97_311),
        oldest: Some(moment("2026-11-20T09:00:00Z", 1)),
    }
}

#[test]
fn vol_ls_is_a_table_for_people_and_tabs_for_scripts() {
    let list = || script(Answer::VolLs(vol::VolList { volumes: vec![summary()] }));
    assert_eq!(
        run(&["vol", "ls"], &list(), true).stdout,
        "\
NAME  ID  SIZE      BRANCH    HISTORY  CLIENTS     NOW  OLDEST            KEEP
db    1   40.0 GiB  1       184.0 MiB        1  97 311  2026-11-20 09:00  all
"
        .replace("SIZE      BRANCH", "    SIZE  BRANCH")
    );
    assert_eq!(
        run(&["vol", "ls"], &list(), false).stdout,
        "db\t1\t42949672960\t1\t192937984\t1\t97311\t2026-11-20T09:00:00Z\tall\n"
    );
}

#[test]
fn mark_add_says_what_was_marked() {
    let script =
        script(Answer::MarkAdd(mark("db", "before-upgrade", "2026-11-20T09:58:02.114Z", 81_204)));
    let ran = run(&["mark", "add", "db", "before-upgrade"], &script, true);
    assert_eq!(
        ran.stdout,
        "marked db@mark:before-upgrade  seq 81 204  09:58:02.114  crash-consistent  \
         kept until `mark rm`\n"
    );
    assert_eq!(
        script.asked(),
        [r#"mark/add {"name":"before-upgrade","pinned":false,"reference":"db"}"#]
    );
}

fn opened() -> past::Opened {
    past::Opened {
        reference: "db@seq:93880".parse().expect("well formed"),
        seq: 93_880,
        time: time("2026-11-20T10:03:39.998Z"),
        resolution: Some(Resolution {
            asked: "2026-11-20T10:03:40Z".to_owned(),
            asked_time: Some(time("2026-11-20T10:03:40Z")),
            before_ns: 2_000_000,
            thinned: false,
        }),
        size: 40 << 30,
        writable: false,
        uri: Some("nbd+unix:///db@seq:93880?socket=/run/strandline/nbd.sock".to_owned()),
        ttl_ns: 3_600_000_000_000,
        took_ns: 110_000_000,
    }
}

#[test]
fn open_says_how_the_instant_was_understood() {
    let script = script(Answer::Open(opened()));
    let ran = run(&["open", "db@10:03:40", "--tz", "UTC"], &script, true);
    assert_eq!(
        ran.stdout,
        "db@seq:93880 (10:03:39.998, 2 ms before)  read-only  ready in 110 ms\n  \
         nbd+unix:///db@seq:93880?socket=/run/strandline/nbd.sock\n  closes after 1 h idle\n  \
         file-system and LVM ids inside are those of the present: do not mount both on one host\n"
    );
    let asked = r#"open {"exact":false,"reference":"db@2026-11-20T10:03:40Z","writable":false}"#;
    assert_eq!(script.asked(), [asked]);
}

#[test]
fn what_is_no_time_is_refused_before_the_store_is_asked() {
    let script = Script::default();
    let ran = run(&["open", "db@25:99"], &script, true);
    assert_eq!(
        (ran.exit, ran.stderr.as_str()),
        (2, "error[E2011]: `25:99` is no time; try 10:03:40, -5m, seq:123, mark:NAME")
    );
    let ran = run(&["open", "db"], &script, true);
    assert_eq!(
        (ran.exit, ran.stderr.as_str()),
        (2, "error[E2018]: `db` names no instant\n  did you mean  db@now, db@-5m, db@10:03:40?")
    );
    assert!(script.asked().is_empty());
}

fn rewound(done: bool) -> history::Rewound {
    history::Rewound {
        name: "db".parse().expect("a name"),
        from: moment("2026-11-20T10:12:31Z", 97_311),
        to: moment("2026-11-20T10:03:40Z", 93_880),
        reference: "db@seq:93880".parse().expect("well formed"),
        resolution: None,
        writes: 3_431,
        kept: Some("db~20261120T101231Z".parse().expect("well formed")),
        size_before: 40 << 30,
        size: 40 << 30,
        clients: vec![],
        done,
        took_ns: 300_000_000,
    }
}

#[test]
fn rewind_needs_a_yes_and_says_what_would_leave() {
    let script = script(Answer::Rewind(rewound(false)));
    let ran = run(&["rewind", "db@-5m"], &script, false);
    assert_eq!(
        (ran.exit, ran.stderr.as_str()),
        (6, "error[E6002]: 3 431 writes would leave the present (kept as a branch); pass --yes")
    );
    assert_eq!(script.asked().len(), 1, "only the plan was asked for");
}

#[test]
fn rewind_does_what_was_agreed_to_and_says_how_to_undo_it() {
    let script =
        Script::of([Ok(Answer::Rewind(rewound(false))), Ok(Answer::Rewind(rewound(true)))]);
    let ran = run(&["rewind", "db@-5m", "--yes"], &script, true);
    assert_eq!(
        ran.stdout,
        "rewound in 300 ms.   undo: strandline rewind db~20261120T101231Z@now\n"
    );
    let asked = script.asked();
    assert!(
        asked[0].contains(r#""dry_run":true"#) && asked[0].contains(r#""db@-5m""#),
        "{asked:?}"
    );
    assert!(asked[1].contains(r#""dry_run":false"#), "{asked:?}");
    assert!(asked[1].contains(r#""db@seq:93880""#), "the instant no longer moves: {asked:?}");
}

#[test]
fn rewind_dry_run_prints_the_plan() {
    let plan = history::Rewound { clients: vec![client("qemu", 4121)], ..rewound(false) };
    let ran =
        run(&["rewind", "db@10:03:40", "--detach", "-n"], &script(Answer::Rewind(plan)), true);
    assert_eq!(
        ran.stdout,
        "db goes back 8 min 51 s to 10:03:40.000 (seq 97 311 -> 93 880). \
         3 431 writes leave the present; they stay as db~20261120T101231Z\n\
         is cut off: qemu, pid 4121, since 2026-11-20 09:51:40\n"
    );
}

fn differing() -> history::DiffPage {
    history::DiffPage {
        from: "db@seq:1".parse().expect("well formed"),
        to: "db@seq:9".parse().expect("well formed"),
        size_from: 1 << 20,
        size_to: 1 << 20,
        ranges: vec![history::Difference {
            offset: 4096,
            length: 8192,
            kind: history::DifferenceKind::Data,
        }],
        next: None,
    }
}

#[test]
fn diff_joins_pages_of_the_same_two_states_and_exits_1() {
    let first = history::DiffPage { next: Some(7), ..differing() };
    let script = Script::of([Ok(Answer::Diff(first)), Ok(Answer::Diff(differing()))]);
    let ran = run(&["diff", "db@-5m"], &script, false);
    assert_eq!((ran.exit, ran.stdout.as_str()), (1, "4096\t8192\tdata\n4096\t8192\tdata\n"));
    let asked = script.asked();
    assert!(asked[0].contains(r#""to":"db@now""#), "{asked:?}");
    assert!(
        asked[1].contains(r#""after":7"#) && asked[1].contains(r#""to":"db@seq:9""#),
        "{asked:?}"
    );
    let same = history::DiffPage { ranges: vec![], ..differing() };
    let script = Script::of([Ok(Answer::Diff(same))]);
    assert_eq!(run(&["diff", "db@-5m", "db@now"], &script, false).exit, 0);
}

#[test]
fn a_log_of_writes_is_a_stream_of_json_lines() {
    let write = |seq| log::Write {
        seq,
        time: time("2026-11-20T10:00:00Z"),
        op: log::WriteOp::Write,
        offset: 4096,
        length: 512,
        client: "qemu".to_owned(),
    };
    let page = |seq, next| {
        Ok(Answer::Log(log::LogPage {
            name: "db".parse().expect("a name"),
            since: moment("2026-11-20T09:00:00Z", 1),
            until: moment("2026-11-20T10:12:31Z", 97_311),
            now: moment("2026-11-20T10:12:31Z", 97_311),
            minutes: vec![],
            writes: vec![write(seq)],
            flushes: vec![],
            clients: vec![],
            marks: vec![],
            branches: vec![],
            next,
        }))
    };
    let script = Script::of([page(1, Some(1)), page(2, None)]);
    let ran = run(&["log", "db", "--by", "write", "--json"], &script, false);
    let lines: Vec<serde_json::Value> =
        ran.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 2);
    for name in ["schema", "seq", "time", "op", "offset", "length", "client"] {
        assert!(lines[1].get(name).is_some(), "{name}");
    }
    assert!(script.asked()[1].contains(r#""until":"seq:97311""#), "{:?}", script.asked());
}

#[test]
fn a_refusal_of_the_store_keeps_its_form_and_exit() {
    let busy = Failure::new(
        codes::IN_USE,
        "volume `db` is in use by 1 client (qemu, pid 4121, since 09:51:40)",
    )
    .doing("shut the guest down");
    let ran = run(&["rewind", "db@10:03:40"], &Script::of([Err(busy)]), true);
    assert_eq!(
        (ran.exit, ran.stderr.as_str()),
        (
            4,
            "error[E4003]: volume `db` is in use by 1 client (qemu, pid 4121, since 09:51:40)\n  \
             do            shut the guest down"
        )
    );
}

#[test]
fn vol_rm_needs_a_yes_and_says_how_to_undo_it() {
    let removed = |done| {
        Ok(Answer::VolRemove(vol::VolRemoved {
            id: 1,
            name: "db".parse().expect("a name"),
            size: 1 << 30,
            history: 1 << 20,
            until: time("2026-11-27T10:12:31Z"),
            clones: vec![],
            done,
        }))
    };
    let ran = run(&["vol", "rm", "db"], &Script::of([removed(false)]), false);
    assert_eq!(
        (ran.exit, ran.stderr.as_str()),
        (6, "error[E6003]: `db` would go into the trash until 2026-11-27 10:12; pass --yes")
    );
    let ran = run(&["vol", "rm", "db", "-y"], &Script::of([removed(false), removed(true)]), true);
    assert_eq!(
        ran.stdout,
        "removed db; it stays in the trash until 2026-11-27 10:12\n  \
         undo: strandline vol undelete db\n"
    );
}

#[test]
fn check_exits_7_when_something_is_damaged() {
    let checked = store::StoreChecked {
        cells: 97_311,
        bytes: 1 << 30,
        took_ms: 1_500,
        damage: vec![Damage {
            volume: Some("db".parse().expect("a name")),
            offset: Some(4096),
            length: Some(4096),
            seq: Some(7),
            file: "packs/12".to_owned(),
            what: "seal".to_owned(),
        }],
    };
    let ran = run(&["store", "check"], &script(Answer::StoreCheck(checked)), true);
    assert_eq!(ran.exit, 7);
    assert!(ran.stdout.starts_with("checked 97 311 cells, 1.0 GiB, in 1 s\n"), "{}", ran.stdout);
    assert!(ran.stderr.starts_with("error[E7002]: 1 damaged place found"), "{}", ran.stderr);
}

#[test]
fn restore_writes_a_sparse_file_and_never_over_one() {
    let place = tempfile::tempdir().expect("a directory");
    let file = place.path().join("disk.raw");
    let path = file.to_str().expect("text");
    let small = vol::VolDetails {
        size: 1 << 20,
        reference: "db@seq:93880".parse().expect("well formed"),
        ..details("db")
    };
    let line = ["restore", "db@-5m", "--to-disk", path];
    let ran = run(&line, &script(Answer::VolShow(small.clone())), true);
    assert_eq!(ran.exit, 0, "{}", ran.stderr);
    assert_eq!(ran.stdout, format!("restored db@seq:93880 (10:12:31.000), 1.0 MiB to {path}\n"));
    assert_eq!(std::fs::metadata(&file).expect("it is there").len(), 1 << 20);
    let ran = run(&line, &script(Answer::VolShow(small)), true);
    assert_eq!(ran.exit, 4);
    assert_eq!(
        ran.stderr,
        format!("error[E4009]: {path} exists and would be written over; pass --yes")
    );
}

#[test]
fn doctor_joins_both_sides_and_exits_1_on_a_failure() {
    let check = doctor::Check {
        health: doctor::Health::Ok,
        what: "clock: synchronised".to_owned(),
        remedy: None,
    };
    let script = script(Answer::Doctor(doctor::Checks { checks: vec![check] }));
    let ran = run(&["doctor"], &script, true);
    assert_eq!(ran.exit, 1, "the store of the tests does not exist");
    assert!(ran.stdout.contains("fail  store /srv/strand: "), "{}", ran.stdout);
    assert!(ran.stdout.ends_with("ok    clock: synchronised\n"), "{}", ran.stdout);
}

#[test]
fn marks_are_pinned_by_name_and_number() {
    let script = script(Answer::MarkPin(mark("db", "nightly", "2026-11-20T09:58:02Z", 1)));
    assert_eq!(run(&["mark", "pin", "db", "nightly~2"], &script, true).exit, 0);
    assert_eq!(
        script.asked(),
        [r#"mark/pin {"back":2,"name":"nightly","pinned":true,"volume":"db"}"#]
    );
    let listed = Answer::MarkLs(marks::MarkList { marks: vec![] });
    assert_eq!(run(&["mark", "ls"], &self::script(listed), false).stdout, "");
}

#[test]
fn groups_and_other_stores_exit_3() {
    for line in [["vol", "rm", "office/db"], ["vol", "release", "group:shop"]] {
        assert_eq!(run(&line, &Script::default(), true).exit, 3, "{line:?}");
    }
}
