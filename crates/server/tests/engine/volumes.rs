//! Volumes as their owner sees them: sizes, names, trash; and what is said of the store.

use crate::house::{Place, reference};
use api::{
    codes,
    verbs::{
        doctor::{Doctor, Health},
        session::SessionLs,
        store::{StatusAsk, StoreCheck, StoreInfoAsk},
        trash::{TrashEmpty, TrashLs},
        vol::{VolCreate, VolLs, VolRemove, VolRename, VolResize, VolSet, VolUndelete},
    },
};
use catalogue::{Catalogue, CatalogueRecord};
use manifest::{KeyFile, Manifest, Secret, Secrets};
use server::{
    data::Exports as _,
    engine::{Anyone, OpenOptions, Settings},
};
use std::fs;
use world::{Access, Disk as _, real::RealDisk, ring::Peer};

const MIB: u64 = 1 << 20;

fn resize(size: u64, shrink: bool) -> VolResize {
    VolResize { name: "db".parse().expect("a name"), size, shrink }
}

#[test]
fn a_volume_grows_at_once_and_shrinks_when_told() {
    let place = Place::new();
    let house = place.serve();
    house.create("db", 4 * MIB + 512);
    let mut client = house.connect("db");
    client.write(0, &[1; 4096]).expect("written");
    client.write(4 * MIB, &[7; 512]).expect("written");
    let small = house.show("db@now").reference;
    let grown = house.ask(resize(8 * MIB, false)).expect("grown");
    assert_eq!((grown.size_before, grown.size, grown.clients.len()), (4 * MIB + 512, 8 * MIB, 1));
    assert_eq!(house.show("db@now").size, 8 * MIB);
    assert_eq!(house.show(&small.to_string()).size, 4 * MIB + 512);
    let mut again = house.connect("db"); // who is connected sees it only so
    again.write(8 * MIB - 4096, &[5; 4096]).expect("the new end can be written");
    assert_eq!(house.refusal(resize(MIB, true)), codes::IN_USE);
    again.end();
    client.end();
    house.wait_until_free("db");
    assert_eq!(house.refusal(resize(MIB, false)), codes::SHRINK);
    assert_eq!(house.refusal(resize(MIB + 1, true)), codes::SIZE_UNALIGNED);
    house.ask(resize(512, true)).expect("shrunk");
    assert_eq!(house.connect("db").size, 512);
    house.ask(resize(8 * MIB, false)).expect("grown again");
    let mut client = house.connect("db");
    let whole = [vec![1; 512], vec![0; 3584]].concat();
    assert_eq!(client.read(0, 4096).expect("read"), whole, "what was cut off does not come back");
    assert_eq!(client.read(8 * MIB - 4096, 4096).expect("read"), [0; 4096]);
    client.end();
    house.stop();
}

#[test]
fn names_are_free_in_the_trash_and_come_back() {
    let place = Place::new();
    let house = place.serve();
    house.create("db", MIB);
    let create =
        VolCreate { name: "db".parse().expect("a name"), size: MIB, block: 512, exclusive: false };
    let failure = house.ask(create).expect_err("it exists");
    assert_eq!(failure.code, codes::VOLUME_EXISTS);
    assert!(failure.message.starts_with("volume `db` exists (1.0 MiB, created "), "{failure}");
    let mut client = house.connect("db");
    client.write(0, &[1; 4096]).expect("written");
    let name = || "db".parse().expect("a name");
    let remove = |dry_run| VolRemove { name: name(), dry_run };
    assert_eq!(house.refusal(remove(false)), codes::IN_USE);
    client.end();
    house.wait_until_free("db");
    let removed = house.ask(remove(false)).expect("removed");
    assert_eq!(removed.history, 4128);
    assert_eq!(house.refusal(remove(false)), codes::NO_VOLUME);
    house.create("db", 2 * MIB);
    assert_eq!(house.ask(TrashLs {}).expect("listed").trash.len(), 1);
    let undelete = |new_name: Option<&str>| VolUndelete {
        name: name(),
        id: None,
        new_name: new_name.map(|name| name.parse().expect("a name")),
    };
    assert_eq!(house.refusal(undelete(None)), codes::VOLUME_EXISTS);
    house.ask(undelete(Some("old"))).expect("brought back");
    assert_eq!(house.connect("old").read(0, 4096).expect("read"), [1; 4096]);
    let rename =
        VolRename { name: "old".parse().expect("a name"), to: "older".parse().expect("a name") };
    house.ask(rename).expect("renamed");
    let names: Vec<_> =
        house.ask(VolLs {}).expect("listed").volumes.iter().map(|it| it.name.to_string()).collect();
    assert_eq!(names, ["db", "older"]);
    house
        .ask(VolRemove { name: "older".parse().expect("a name"), dry_run: false })
        .expect("removed");
    let emptied = house.ask(TrashEmpty::default()).expect("emptied");
    assert_eq!(emptied.gone.len(), 1);
    assert!(house.ask(TrashLs {}).expect("listed").trash.is_empty());
    house.stop();
    let house = place.serve();
    assert_eq!(house.ask(VolLs {}).expect("listed").volumes.len(), 1);
    house.stop();
}

#[test]
fn settings_hold_for_writers() {
    let place = Place::new();
    let house = place.serve();
    house.create("db", MIB);
    let set = |read_only, exclusive| VolSet {
        name: "db".parse().expect("a name"),
        exclusive,
        read_only,
        when_full: None,
    };
    assert!(house.ask(set(Some(true), Some(true))).expect("set").exclusive);
    let mut client = house.connect("db");
    assert!(client.read_only());
    assert!(client.write(0, &[1; 512]).is_err());
    client.end();
    assert!(!house.ask(set(Some(false), None)).expect("set").read_only);
    house.connect("db").write(0, &[1; 512]).expect("writable again");
    house.stop();
}

#[test]
fn strangers_learn_no_names() {
    let place = Place::new();
    let house = place.serve();
    house.create("db", MIB);
    let stranger = Peer::Process { uid: 54_321, gid: 54_321, pid: 0 };
    let address = Peer::Address("127.0.0.1:9".parse().expect("an address"));
    for peer in [&stranger, &address, &Peer::Unknown] {
        assert!(house.engine.list(peer).is_empty());
        let known = house.engine.open(peer, "db").expect_err("no rights");
        assert_eq!(known, house.engine.open(peer, "no-such").expect_err("no rights"));
    }
    house.stop();

    let settings = Settings {
        serving: true,
        anyone: Some(Anyone::Read),
        socket_group: Some(777),
        ..Settings::default()
    };
    let house = place.serve_with(&place.options(), settings);
    let read = house.engine.open(&address, "db").expect("anyone may read");
    assert!(read.read_only && read.at.is_none());
    assert!(house.engine.open(&address, "db@now").is_err(), "but not the past");
    let member = Peer::Process { uid: 54_321, gid: 777, pid: 0 };
    assert!(!house.engine.open(&member, "db").expect("members may write").read_only);
    assert!(house.engine.open(&member, "db@start").is_err());
    assert_eq!(house.engine.open(&member, "").expect("the only volume").name, "db");
    house.create("second", MIB);
    assert!(house.engine.open(&member, "").is_err(), "which one?");
    house.stop();
}

#[test]
fn a_check_names_the_damaged_block() {
    let place = Place::new();
    // Segments stay where they are: a packer would move the cells before they are spoiled.
    let options = OpenOptions { pack: false, ..place.options() };
    let serve = || place.serve_with(&options, Settings { serving: true, ..Settings::default() });
    let house = serve();
    house.create("db", 8 * MIB);
    let mut client = house.connect("db");
    for block in 0..16_u64 {
        client.write(block * 4096, &[1; 4096]).expect("written");
    }
    client.flush().expect("flushed");
    let whole = house.ask(StoreCheck::default()).expect("checked");
    assert_eq!((whole.cells, whole.damage.len()), (16, 0));
    house.stop();
    let disk = RealDisk::open(&place.store()).expect("opened");
    let used = disk.list("log").expect("listed").into_iter().find_map(|name| {
        let file = disk.open(&format!("log/{name}"), Access::WRITE).expect("opened");
        let mut magic = [0; 8];
        let read = file.read_at(0, &mut magic);
        (read.is_ok() && &magic == b"SLSEGMT1").then_some(file)
    });
    let segment = used.expect("a segment that was used");
    let house = serve(); // its cells are indexed now
    let spoiled = 4096 + 96 + 100;
    segment.write_at(spoiled, &[0xff; 8]).expect("spoiled");
    segment.sync_data().expect("written");
    let found = house.ask(StoreCheck::default()).expect("checked");
    assert_eq!(found.damage.len(), 1, "{found:?}");
    assert_eq!(found.damage[0].volume.as_ref().map(api::VolumeName::as_str), Some("db"));
    assert_eq!((found.damage[0].offset, found.damage[0].seq), (Some(0), Some(1)));
    house.stop();
}

#[test]
fn a_store_says_how_it_is() {
    let place = Place::new();
    let house = place.serve();
    house.create("db", 8 * MIB);
    let mut client = house.connect("db");
    client.write(0, &[1; 4096]).expect("written");
    client.flush().expect("flushed");
    let status = house.ask(StatusAsk {}).expect("told");
    assert_eq!((status.state.as_str(), status.volumes, status.clients), ("serving", 1, 1));
    assert_eq!(status.listening, [format!("nbd+unix:///?socket={}", house.socket.display())]);
    assert!(status.space.segments >= 8 << 20 && status.space.total > status.space.free);
    assert!(status.days_left.is_some() && status.memory.head_maps > 0);
    let info = house.ask(StoreInfoAsk {}).expect("told");
    assert_eq!((info.epoch, info.key_slots, info.segment_size), (1, 2, 8 << 20));
    assert_eq!(info.now.seq, 1);
    let checks = house.ask(Doctor {}).expect("told").checks;
    assert!(checks.iter().all(|check| check.health != Health::Fail), "{checks:?}");
    let metrics = house.engine.metrics();
    for line in
        ["strandline_up 1", "strandline_clients 1", "strandline_space_bytes{what=\"packs\"} 0"]
    {
        assert!(metrics.lines().any(|found| found == line), "{metrics}");
    }
    assert_eq!(house.show("db").reference, reference("db"));
    house.stop();
}

/// What the disk holds of the catalogue.
/// What the manifest on disk holds of the catalogue.
fn catalogue_records(place: &Place) -> Vec<CatalogueRecord> {
    let disk = RealDisk::open(&place.store()).expect("a directory");
    let secrets = Secrets::read(&disk).expect("super blocks");
    let file = fs::read(place.key()).expect("a key");
    let file = KeyFile::parse(&file).expect("a key file");
    let master = secrets.unlock(Secret::KeyFile(&file)).expect("its key");
    let store = secrets.facts().store;
    let opened = Manifest::open(&disk, &master, store, manifest::Mode::Read);
    let (_, records) = opened.expect("whole");
    let records = records.iter().filter(|it| CatalogueRecord::KINDS.contains(&it.kind));
    records.map(|it| CatalogueRecord::decode(it.kind, &it.body).expect("ours")).collect()
}

fn catalogue(place: &Place) -> Catalogue {
    let mut catalogue = Catalogue::new();
    for record in catalogue_records(place) {
        catalogue.apply(record).expect("in order");
    }
    catalogue
}

/// Copies a store as a kill of its server would leave it.
fn killed(place: &Place) -> Place {
    let copy = Place::empty();
    for directory in ["", "manifest", "log", "bulk", "pack", "run"] {
        fs::create_dir_all(copy.store().join(directory)).expect("made");
        for file in fs::read_dir(place.store().join(directory)).expect("listed") {
            let file = file.expect("listed").path();
            if file.is_file() {
                let name = file.file_name().expect("a name");
                fs::copy(&file, copy.store().join(directory).join(name)).expect("copied");
            }
        }
    }
    fs::create_dir_all(copy.key().parent().expect("one")).expect("made");
    fs::copy(place.key(), copy.key()).expect("copied");
    copy
}

/// The key once stayed until the next start.
#[test]
fn an_emptied_volume_loses_its_key_at_once() {
    let place = Place::new();
    let house = place.serve();
    for name in ["gone", "stays"] {
        house.create(name, 64 << 20);
        let mut client = house.connect(name);
        client.write(0, &vec![7; 128 << 10]).expect("written");
        client.write(1 << 20, &vec![7; 512 << 10]).expect("a bulk write");
        client.end();
        house.wait_until_free(name);
    }
    let gone = VolRemove { name: "gone".parse().expect("a name"), dry_run: false };
    house.ask(gone).expect("removed");
    assert_eq!(catalogue(&place).volumes().count(), 2);
    house.ask(TrashEmpty { name: None, dry_run: false }).expect("emptied");
    let left: Vec<String> =
        catalogue(&place).volumes().map(|volume| volume.name.to_string()).collect();
    assert_eq!(left, ["stays"]);
    let keys = catalogue_records(&place).into_iter().filter_map(|record| match record {
        CatalogueRecord::Volume(volume) => Some(volume.name.to_string()),
        _ => None,
    });
    assert!(keys.eq(["stays".to_owned()]), "the record with its key is gone from the disk too");
    assert_eq!(house.ask(StoreCheck { sample_ppm: None }).expect("checked").damage, []);
    // Recovery can do without it.
    let copy = killed(&place);
    house.stop();
    for place in [&copy, &place] {
        let house = place.serve();
        let mut client = house.connect("stays");
        assert_eq!(client.read(1 << 20, 4096).expect("read"), [7; 4096]);
        assert_eq!(house.ask(StoreCheck { sample_ppm: None }).expect("checked").damage, []);
        house.stop();
    }
}

#[test]
fn requests_are_counted_by_volume_and_kind() {
    let place = Place::new();
    let house = place.serve();
    house.create("db", 1 << 20);
    let mut client = house.connect("db");
    client.write(0, &[1; 4096]).expect("written");
    client.write(4096, &[1; 4096]).expect("written");
    client.read(0, 8192).expect("read");
    client.flush().expect("flushed");
    let metrics = house.engine.metrics();
    for line in [
        "strandline_requests_total{volume=\"db\",op=\"write\"} 2",
        "strandline_bytes_total{volume=\"db\",op=\"write\"} 8192",
        "strandline_requests_total{volume=\"db\",op=\"read\"} 1",
        "strandline_bytes_total{volume=\"db\",op=\"read\"} 8192",
        "strandline_ack_seconds_count{volume=\"db\",op=\"flush\"} 1",
        "strandline_errors_total{kind=\"request\"} 0",
    ] {
        assert!(metrics.lines().any(|it| it == line), "{line}\n{metrics}");
    }
    let sessions = house.ask(SessionLs::default()).expect("listed").sessions;
    assert_eq!((sessions[0].bytes_read, sessions[0].bytes_written), (8192, 8192));
    house.stop();
}
