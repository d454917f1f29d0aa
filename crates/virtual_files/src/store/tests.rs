//! What names lead to, over a store that answers from a table.

use super::*;
use api::{
    Answer, Chunks, InstantSpec, Point, Request, Time, VolumeName,
    verbs::{
        Moment, export,
        mark::{Mark, MarkList},
        past,
        vol::{VolList, VolSummary, WhenFull},
    },
};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use units::Sequence;

const SIZE: u64 = 3 << 20;

/// A store with one volume `db`, whose present is `now` and which has a mark at sequence 5. Writes up to
/// 2 happened on the branch `left` alone.
struct Fake {
    id: AtomicU32,
    now: AtomicU64,
    asked: AtomicU64,
    /// Bytes that an export leaves out.
    short: AtomicU64,
}

fn reference(text: &str) -> Reference {
    text.parse().expect("a reference")
}

fn at(seq: u64) -> Time {
    Time(Timestamp(i64::try_from(seq).expect("small") * 1_000_000_000))
}

/// The byte of a file at a place.
fn byte(reference: &Reference, offset: u64) -> u8 {
    let seq = reference.to_string().bytes().last().unwrap_or_default();
    seq.wrapping_add(offset.to_le_bytes()[1])
}

impl Fake {
    fn resolve(&self, asked: &Reference) -> Result<Reference, Failure> {
        let missing = |code| Err(Failure::new(code, format!("no {asked}")));
        let (name, branch) = asked.local()?;
        if name.as_str() != "db" || branch.is_some_and(|branch| branch.as_str() != "left") {
            return missing(api::codes::NO_VOLUME);
        }
        let now = self.now.load(Ordering::SeqCst);
        let seq = match asked.instant.as_ref().map(|instant| &instant.point) {
            None | Some(Point::Now | Point::Ago(_) | Point::At(_)) => now,
            Some(Point::Start) => 0,
            Some(Point::Seq(seq)) if seq.number() <= now => seq.number(),
            Some(Point::Mark { name, back: 0 }) if name.as_str() == "good" => 5,
            Some(_) => return missing(api::codes::NO_INSTANT),
        };
        let left = branch.is_some() || (1..=2).contains(&seq);
        let line = reference(if left { "db~left" } else { "db" });
        Ok(line.at_sequence(Sequence::new(seq).expect("small")))
    }

    fn details(&self, asked: &VolShow) -> Result<VolDetails, Failure> {
        let found = self.resolve(&asked.reference)?;
        let Some(InstantSpec { point: Point::Seq(seq), .. }) = found.instant else {
            return Err(Failure::bug("a fixed name has a sequence"));
        };
        Ok(VolDetails {
            id: self.id.load(Ordering::SeqCst),
            name: "db".parse().expect("a name"),
            size: SIZE,
            branch: found.branch.as_ref().map_or("1".to_owned(), ToString::to_string),
            reference: match asked.reference.instant {
                Some(_) => found,
                None => asked.reference.clone(),
            },
            seq: seq.number(),
            time: at(seq.number()),
            resolution: None,
            block: 512,
            created: None,
            origin: None,
            ack: "disk".to_owned(),
            keep: "all".to_owned(),
            exclusive: false,
            read_only: false,
            when_full: WhenFull::Thin,
            history: 0,
            oldest: None,
            serial: "1".to_owned(),
            uri: None,
            clients: vec![],
            branches: vec![],
            marks: 1,
            base: None,
        })
    }

    fn describe(&self, asked: &Describe) -> Result<Described, Failure> {
        let found = self.resolve(&asked.reference)?;
        let file = export::ExportFile {
            name: asked.name.clone().expect("we name our files"),
            suffix: String::new(),
            length: Some(SIZE),
            etag: "tag".to_owned(),
        };
        Ok(Described {
            reference: found,
            seq: 0,
            time: at(0),
            resolution: None,
            size: SIZE,
            format: asked.format,
            subformat: "plain".to_owned(),
            base: None,
            data: (asked.format != ImageFormat::Raw).then_some(4096),
            files: vec![file],
        })
    }
}

struct Given(Vec<Chunk>);

impl Chunks for Given {
    fn next(&mut self) -> Result<Option<Chunk>, Failure> {
        Ok(self.0.pop())
    }
}

impl Control for Fake {
    fn call(&self, _who: &Caller, request: Request) -> Result<Answer, Failure> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let name: VolumeName = "db".parse().expect("a name");
        let moment = |seq| Moment { seq, time: at(seq) };
        Ok(match request {
            Request::VolShow(asked) => Answer::VolShow(self.details(&asked)?),
            Request::ExportDescribe(asked) => Answer::ExportDescribe(self.describe(&asked)?),
            Request::VolLs(_) => Answer::VolLs(VolList {
                volumes: vec![VolSummary {
                    id: self.id.load(Ordering::SeqCst),
                    name,
                    size: SIZE,
                    branch: "1".to_owned(),
                    block: 512,
                    history: 0,
                    clients: 0,
                    attached: false,
                    keep: "all".to_owned(),
                    now: moment(self.now.load(Ordering::SeqCst)),
                    oldest: None,
                }],
            }),
            Request::MarkLs(_) => Answer::MarkLs(MarkList {
                marks: vec![Mark {
                    volume: name,
                    name: "good".parse().expect("a name"),
                    reference: reference("db@mark:good"),
                    seq: 5,
                    time: at(5),
                    created: at(5),
                    until: None,
                    pinned: false,
                    consistency: "crash".to_owned(),
                    note: None,
                }],
            }),
            other => return Err(Failure::bug(format!("nobody asks {}", other.path()))),
        })
    }

    fn read(&self, _: &Caller, _: past::Read) -> Result<Box<dyn Chunks>, Failure> {
        Err(Failure::bug("nobody reads a disk so"))
    }

    fn export(&self, _: &Caller, asked: Read) -> Result<Box<dyn Chunks>, Failure> {
        self.resolve(&asked.reference)?;
        let end = asked.offset + asked.length.expect("a range is asked for");
        let end = end - self.short.load(Ordering::SeqCst);
        let bytes: Vec<u8> =
            (asked.offset..end).map(|place| byte(&asked.reference, place)).collect();
        let mut pieces: Vec<Chunk> =
            bytes.chunks(1000).map(|piece| Chunk::Data(piece.to_vec())).collect();
        pieces.reverse();
        Ok(Box::new(Given(pieces)))
    }
}

fn store() -> (Arc<Fake>, Arc<Store>) {
    let fake = Arc::new(Fake {
        id: AtomicU32::new(7),
        now: AtomicU64::new(9),
        asked: AtomicU64::new(0),
        short: AtomicU64::new(0),
    });
    let zone = Box::new(|| Zone::named("UTC", Timestamp(0)).expect("known"));
    let who = Caller { uid: 1, gid: 1, pid: None };
    (Arc::clone(&fake), Store::new(fake, who, zone))
}

fn find(entry: &Entry, path: &str) -> Result<Entry, Trouble> {
    path.split('/').try_fold(entry.clone(), |entry, name| match &entry.node {
        Node::Folder(folder) => folder.find(name),
        _ => panic!("{name} is looked for in no folder"),
    })
}

fn leads_to(entry: &Entry) -> &str {
    match &entry.node {
        Node::Link(to) => to,
        _ => panic!("{} is no link", entry.key),
    }
}

fn file(entry: &Entry) -> Arc<dyn VirtualFile> {
    match &entry.node {
        Node::File(file) => Arc::clone(file),
        _ => panic!("{} is no file", entry.key),
    }
}

#[test]
fn what_moves_is_a_link_to_what_does_not() {
    let (fake, store) = store();
    let root = store.all().expect("a store");
    let before = find(&root, "db/at/now").expect("an instant");
    assert_eq!((leads_to(&before), before.fixed), ("seq:9", false));
    fake.now.store(10, Ordering::SeqCst);
    let after = find(&root, "db/at/now").expect("an instant");
    assert_eq!(leads_to(&after), "seq:10");
    assert_ne!(before.key, after.key, "an inode that leads elsewhere");
    for (name, to) in [("mark:good", "seq:5"), ("-5m", "seq:10"), ("seq:007", "seq:7")] {
        assert_eq!(leads_to(&find(&root, &format!("db/at/{name}")).expect("found")), to);
    }
    let state = find(&root, "db/at/seq:9").expect("an instant");
    assert!(state.fixed && state.modified == at(9).0, "{}", state.key);
    assert_eq!(find(&root, "db/at/seq:9").expect("an instant").key, state.key);
}

#[test]
fn a_state_of_another_branch_has_its_branch_in_the_name() {
    let (_, store) = store();
    let db = store.volume(&reference("db")).expect("a volume");
    assert_eq!(leads_to(&find(&db, "at/seq:2").expect("found")), "~left@seq:2");
    let state = find(&db, "at/~left@seq:2").expect("found");
    assert!(matches!(state.node, Node::Folder(_)) && state.fixed);
    // Beneath the branch itself its name is not said again.
    let left = store.volume(&reference("db~left")).expect("a branch");
    assert!(matches!(find(&left, "at/seq:2").expect("found").node, Node::Folder(_)));
}

#[test]
fn what_is_no_instant_costs_no_question() {
    let (fake, store) = store();
    let at = find(&store.volume(&reference("db")).expect("a volume"), "at").expect("a folder");
    let before = fake.asked.load(Ordering::SeqCst);
    for name in [".Trash-1000", "autorun.inf", "seq:", "~left", "~", "..", "mark:", "disk.raw"] {
        let found = find(&at, name).map(|entry| entry.key);
        assert!(matches!(found, Err(Trouble::Absent(_))), "{name}: {found:?}");
    }
    assert_eq!(fake.asked.load(Ordering::SeqCst), before);
    for name in ["seq:11", "mark:bad", "start^flush"] {
        let found = find(&at, name).map(|entry| entry.key);
        let asked = fake.asked.load(Ordering::SeqCst);
        assert!(asked > before, "{name} is an instant's name: {found:?}");
    }
}

#[test]
fn lists_hold_marks_by_name_and_time() {
    let (_, store) = store();
    let root = store.all().expect("a store");
    let names = |path: &str| match &find(&root, path).expect("found").node {
        Node::Folder(folder) => {
            let listed = folder.list().expect("listed");
            listed.into_iter().map(|line| line.name).collect::<Vec<String>>()
        }
        _ => panic!("{path} is no folder"),
    };
    let expected = ["1970-01-01T00:00:05Z", "mark:good", "now", "seq:0", "seq:5", "seq:9", "start"];
    assert_eq!(names("db/at"), expected);
    let disks = ["disk.raw", "disk.qcow2", "disk.vhd", "disk.vhdx", "disk.vmdk", "disk.vdi"];
    assert_eq!(names("db/at/seq:5"), disks);
    for name in expected {
        assert!(find(&root, &format!("db/at/{name}")).is_ok(), "{name} is listed and not found");
    }
}

#[test]
fn bytes_are_those_of_the_export() {
    let (fake, store) = store();
    let root = store.all().expect("a store");
    let fixed = reference("db@seq:9");
    let disk = file(&find(&root, "db/at/seq:9/disk.qcow2").expect("found"));
    assert_eq!((disk.len(), disk.kept()), (SIZE, 4096));
    for (offset, length) in [(0, 10), (1_048_570, 20), (999, 1_100_000), (SIZE - 5, 5)] {
        let mut bytes = vec![0; length];
        disk.read_at(offset, &mut bytes).expect("read");
        let right = bytes.iter().zip(offset..).all(|(found, place)| *found == byte(&fixed, place));
        assert!(right, "other bytes at {offset}");
    }
    let mut past = [1; 9];
    disk.read_at(SIZE - 4, &mut past).expect("read");
    assert_eq!(past[4..], [0; 5]);
    assert_eq!(find(&root, "db/at/seq:9/disk.raw").map(|it| file(&it).kept()), Ok(4096));
    fake.short.store(1, Ordering::SeqCst);
    let other = file(&find(&root, "db/at/seq:8/disk.vhd").expect("found"));
    assert!(matches!(other.read_at(0, &mut [0; 9]), Err(Trouble::Failed(_))));
}

#[test]
fn another_volume_of_the_name_is_not_read() {
    let (fake, store) = store();
    let root = store.all().expect("a store");
    let before = find(&root, "db").expect("a volume");
    let at = find(&before, "at").expect("a folder");
    let found = store.details("db@seq:9");
    let state = Arc::new(State {
        store: Arc::clone(&store),
        reference: found.reference.clone(),
        id: found.id,
        size: found.size,
        modified: found.time.0,
        key: "state".to_owned(),
        believed_ns: Mutex::new(0),
    });
    let disk = file(&Disks(Arc::clone(&state)).find("disk.raw").expect("found"));
    disk.read_at(0, &mut [0; 9]).expect("read");
    fake.id.store(8, Ordering::SeqCst);
    *state.believed_ns.lock().expect("one thread") = 0;
    let read = disk.read_at(1 << 20, &mut [0; 9]);
    assert!(matches!(&read, Err(Trouble::Failed(why)) if why.contains("another")), "{read:?}");
    assert!(matches!(find(&at, "seq:9"), Err(Trouble::Absent(_))));
    assert_ne!(find(&root, "db").expect("a volume").key, before.key);
}

impl Store {
    fn details(&self, text: &str) -> VolDetails {
        self.show(&reference(text)).expect("found")
    }
}
