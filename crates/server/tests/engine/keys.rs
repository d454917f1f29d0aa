//! Making stores, opening them, and being refused.

use crate::house::Place;
use api::{
    ControlExt as _, codes,
    verbs::{
        key::{KeyAdd, KeyKind, KeyLs, KeyRemove, KeyRotate},
        secret::Secret,
        vol::{VolCreate, VolLs},
    },
};
use server::engine::{self, Engine, InitKey, InitOptions, KeySource, OpenOptions, Settings};
use std::{fs, os::unix::fs::PermissionsExt as _};
use world::real::RingChoice;
use zeroize::Zeroizing;

fn code(place: &Place, options: &OpenOptions) -> api::Failure {
    match engine::open(&place.store(), options) {
        Ok(_) => panic!("it opened"),
        Err(failure) => failure,
    }
}

#[test]
fn a_store_is_made_once_in_an_empty_directory() {
    let place = Place::new();
    let mode = fs::metadata(place.key()).expect("written").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let options = || InitOptions { network_fs: true, ..InitOptions::default() };
    let again = engine::init(&place.store(), &options()).expect_err("there is one");
    assert_eq!(again.code, codes::STORE_EXISTS);
    let place = Place::empty();
    fs::create_dir_all(place.store().join("holiday")).expect("made");
    let full = engine::init(&place.store(), &options()).expect_err("not empty");
    assert_eq!(full.code, codes::NOT_EMPTY);
    let place = Place::empty();
    let odd = InitOptions { segment_bytes: Some(5000), ..options() };
    assert_eq!(engine::init(&place.store(), &odd).expect_err("no size").code, codes::SIZE);
}

#[test]
fn what_does_not_open_says_why() {
    let place = Place::empty();
    assert_eq!(code(&place, &place.options()).code, codes::NO_STORE);
    let place = Place::new();
    let nowhere = OpenOptions {
        key: KeySource::Search,
        key_dirs: vec![place.store().join("a"), place.store().join("b")],
        ..place.options()
    };
    let failure = code(&place, &nowhere);
    assert_eq!(failure.code, codes::KEY_MISSING);
    assert!(failure.message.contains("/a/") && failure.message.contains("/b/"), "{failure}");
    let passphrase = KeySource::Passphrase(Zeroizing::new("wrong".to_owned()));
    let failure = code(&place, &OpenOptions { key: passphrase, ..place.options() });
    assert_eq!(failure.code, codes::WRONG_KEY, "the store has no passphrase");
    let directory = OpenOptions { key: KeySource::File(place.store()), ..place.options() };
    assert_eq!(code(&place, &directory).code, codes::KEY_MISSING, "a directory is no key file");
    let other = Place::new();
    let foreign = OpenOptions { key: KeySource::File(other.key()), ..place.options() };
    let failure = code(&place, &foreign);
    assert_eq!(failure.code, codes::WRONG_KEY);
    assert!(failure.to_string().contains("--key-file FILE"), "{failure}");

    let house = place.serve();
    let failure = code(&place, &place.options());
    assert_eq!(failure.code, codes::STORE_LOCKED);
    assert!(failure.message.contains(&format!("pid {}", std::process::id())), "{failure}");
    house.stop();
}

#[test]
fn slots_are_added_used_and_removed() {
    let place = Place::new();
    let house = place.serve();
    let text = "correct horse";
    let passphrase = Some(Secret::new(text.to_owned()));
    let added = house.ask(KeyAdd { kind: KeyKind::Passphrase, passphrase }).expect("added");
    let recovery = house.ask(KeyAdd { kind: KeyKind::Recovery, passphrase: None }).expect("added");
    let slots = house.ask(KeyLs {}).expect("listed").slots;
    assert_eq!(slots.len(), 4);
    assert_eq!(slots.iter().filter(|slot| slot.in_use).count(), 1);
    house.create("db", 1 << 20);
    assert_eq!(house.ask(KeyRotate::default()).expect("rotated").volumes, 1);
    house.stop();

    let key = KeySource::Passphrase(Zeroizing::new(text.to_owned()));
    let options = OpenOptions { key, ..place.options() };
    let house = place.serve_with(&options, Settings::default());
    house.ask(KeyRemove { slot: added.slot.slot }).expect("removed");
    assert_eq!(house.refusal(KeyRemove { slot: 99 }), codes::NO_KEY_SLOT);
    house.stop();
    let failure = code(&place, &options);
    assert_eq!(failure.code, codes::WRONG_KEY);
    let secret = recovery.secret.expect("shown once");
    let key = KeySource::Recovery(Zeroizing::new(secret.expose().to_owned()));
    let house = place.serve_with(&OpenOptions { key, ..place.options() }, Settings::default());
    house.stop();
}

#[test]
fn a_store_with_a_passphrase_has_no_key_file() {
    let place = Place::empty();
    let text = Zeroizing::new("correct horse".to_owned());
    let options = InitOptions {
        key: InitKey::Passphrase(text.clone()),
        segment_bytes: None,
        network_fs: true,
    };
    let made = engine::init(&place.store(), &options).expect("made");
    assert_eq!(made.key_file, None);
    let wrong = KeySource::Passphrase(Zeroizing::new("Correct horse".to_owned()));
    let failure = code(&place, &OpenOptions { key: wrong, ..place.options() });
    let wanted = format!("this passphrase opens no key of store {}", made.id);
    assert_eq!((failure.code, failure.message), (codes::WRONG_KEY, wanted));
    let right = OpenOptions { key: KeySource::Passphrase(text), ..place.options() };
    engine::open(&place.store(), &right).expect("opened");
}

#[test]
fn a_store_open_for_reading_takes_no_changes() {
    let place = Place::new();
    let house = place.serve();
    house.create("db", 1 << 20);
    house.connect("db").write(0, &[1; 4096]).expect("written");
    house.stop();
    let options = OpenOptions { read_only: true, ..place.options() };
    let house = place.serve_with(&options, Settings::default());
    let mut client = house.connect("db");
    assert!(client.read_only());
    assert_eq!(client.read(0, 4096).expect("read"), [1; 4096]);
    assert!(client.write(0, &[2; 4096]).is_err());
    let name = "new".parse().expect("a name");
    let create = VolCreate { name, size: 512, block: 512, exclusive: false };
    assert_eq!(house.refusal(create), codes::READ_ONLY);
    assert_eq!(house.connect("db@now").read(0, 4096).expect("read"), [1; 4096]);
    house.stop();
}

#[test]
fn only_the_owner_manages_a_served_store() {
    let place = Place::new();
    let opened = engine::open(&place.store(), &place.options()).expect("opened");
    let settings = Settings { serving: true, ..Settings::default() };
    let (engine, running) = Engine::start(opened, settings, RingChoice::Threads).expect("started");
    let stranger = api::Caller { uid: 54_321, gid: 54_321, pid: None };
    let failure = engine.ask(&stranger, VolLs {}).expect_err("no rights");
    assert_eq!(failure.code, codes::NOT_ALLOWED);
    engine.hub().visit(server::data::Core::stop).expect("runs");
    running.join().expect("ended");
}
