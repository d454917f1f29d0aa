//! Volumes on foreign images: usable at once, taken over through kills, and the image never written.

#![expect(
    clippy::disallowed_methods,
    reason = "the client's side has files and a clock of its own"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use e2e::{MIB, Server, Store, finish, need, noise, said, succeed};

/// Data, holes, and a size that is no multiple of 4096.
fn disk(store: &Store, mib: usize) -> (PathBuf, Vec<u8>) {
    let mut bytes = noise(11, mib << 20);
    bytes[5 << 20..9 << 20].fill(0);
    let length = bytes.len() - 1536;
    bytes.truncate(length);
    let folder = store.scratch("images");
    fs::create_dir_all(&folder).expect("scratch");
    let path = folder.join("disk.raw");
    fs::write(&path, &bytes).expect("scratch");
    (path, bytes)
}

fn image(raw: &Path, format: &[&str]) -> PathBuf {
    let image = raw.with_extension(format[0]);
    let mut convert = Command::new("qemu-img");
    succeed(convert.args(["convert", "-f", "raw", "-O"]).args(format).arg(raw).arg(&image));
    image
}

fn text(path: &Path) -> &str {
    path.to_str().expect("utf-8")
}

fn read_all(server: &Server, volume: &str, store: &Store) -> Vec<u8> {
    let got = store.scratch("got.raw");
    succeed(Command::new("nbdcopy").arg(server.uri(volume)).arg(&got));
    fs::read(got).expect("scratch")
}

fn qemu_io(server: &Server, volume: &str, line: &str) -> String {
    said(&finish(Command::new("qemu-io").args(["-f", "raw", "-c", line]).arg(server.uri(volume))))
}

/// What `vol show` says of the base.
fn shown(store: &Store, volume: &str) -> String {
    let shown = store.run(["vol", "show", volume, "--json"]);
    let base = shown.find("\"base\":").map_or("", |at| &shown[at..]);
    base.chars().filter(|letter| !letter.is_whitespace()).collect()
}

fn wait_for(store: &Store, volume: &str, state: &str) {
    let began = Instant::now();
    while !shown(store, volume).contains(&format!("\"state\":\"{state}\"")) {
        assert!(
            began.elapsed() < Duration::from_secs(90),
            "never {state}: {}",
            shown(store, volume)
        );
        thread::sleep(Duration::from_millis(50)); // between two looks at a condition
    }
}

fn need_all() {
    need(&["qemu-img", "qemu-io"], "qemu-utils");
    need(&["nbdcopy"], "libnbd-bin");
}

#[test]
fn a_volume_on_an_image_takes_writes_and_leaves_the_image_alone() {
    need_all();
    let store = Store::with_volume(MIB);
    let (raw, mut bytes) = disk(&store, 24);
    let server = store.serve(&[]);
    for (number, format) in
        [&["qcow2"][..], &["vhdx"], &["vmdk"], &["qcow2", "-c"]].into_iter().enumerate()
    {
        let image = image(&raw, format);
        let before = fs::read(&image).expect("scratch");
        let volume = format!("adopted-{number}");
        let adopted = store.run(["image", "adopt", text(&image), &volume, "--json"]);
        assert!(adopted.contains("took_ns"), "{adopted}");
        let wrote = qemu_io(&server, &volume, "write -P 0x5a 5000000 70000");
        assert!(wrote.contains("wrote 70000"), "{wrote}");
        qemu_io(&server, &volume, "discard 1M 64k");
        let mut wanted = bytes.clone();
        wanted[5_000_000..5_070_000].fill(0x5a);
        wanted[1 << 20..(1 << 20) + (64 << 10)].fill(0);
        let got = read_all(&server, &volume, &store);
        assert!(got[..wanted.len()] == wanted[..], "{format:?}: other bytes");
        // What was there before the first write is there at the start of history.
        let past = read_all(&server, &format!("{volume}@start"), &store);
        assert!(past[..bytes.len()] == bytes[..], "{format:?}: another past");
        store.run(["clone", &format!("{volume}@start"), &format!("clone-{number}")]);
        let clone = read_all(&server, &format!("clone-{number}"), &store);
        assert!(clone[..bytes.len()] == bytes[..], "{format:?}: another clone");
        assert!(fs::read(&image).expect("scratch") == before, "{format:?}: it was written");
    }
    bytes.clear();
}

#[test]
fn an_image_is_taken_over_through_a_kill_and_is_needed_no_more() {
    need_all();
    let store = Store::with_volume(MIB);
    let (raw, bytes) = disk(&store, 48);
    let image = image(&raw, &["qcow2"]);
    let before = fs::read(&image).expect("scratch");
    let server = store.serve(&[]);
    store.run(["image", "adopt", text(&image), "vm", "--fill", "--rate", "8M"]);
    let wrote = qemu_io(&server, "vm", "write -P 0x77 30000000 300000");
    assert!(wrote.contains("wrote 300000"), "{wrote}");
    succeed(Command::new("qemu-io").args(["-f", "raw", "-c", "flush"]).arg(server.uri("vm")));
    let mut wanted = bytes.clone();
    wanted[30_000_000..30_300_000].fill(0x77);
    let began = Instant::now();
    while shown(&store, "vm").contains("\"taken\":0,") {
        assert!(began.elapsed() < Duration::from_mins(1), "nothing is taken over");
        thread::sleep(Duration::from_millis(20)); // between two looks at a condition
    }
    server.kill();
    let server = store.serve(&[]);
    let now = shown(&store, "vm");
    assert!(now.contains("\"state\":\"filling\"") && !now.contains("\"taken\":0,"), "{now}");
    assert!(read_all(&server, "vm", &store)[..wanted.len()] == wanted[..], "in the middle");
    store.run(["image", "fill", "vm", "--rate", "0"]);
    wait_for(&store, "vm", "independent");
    assert!(fs::read(&image).expect("scratch") == before, "the image was written");
    fs::remove_file(&image).expect("scratch");
    assert!(read_all(&server, "vm", &store)[..wanted.len()] == wanted[..], "at the end");
    server.kill();
    let server = store.serve(&[]);
    assert!(read_all(&server, "vm", &store)[..wanted.len()] == wanted[..], "after a kill");
    let past = read_all(&server, "vm@start", &store);
    assert!(past[..bytes.len()] == bytes[..], "the past");
}

#[test]
fn a_missing_or_changed_image_stops_what_needs_it_and_nothing_else() {
    need_all();
    let store = Store::with_volume(MIB);
    let (raw, bytes) = disk(&store, 16);
    let image = image(&raw, &["qcow2"]);
    let server = store.serve(&[]);
    store.run(["image", "adopt", text(&image), "vm"]);
    assert!(qemu_io(&server, "vm", "write -P 0x33 1M 64k").contains("wrote 65536"));
    let (folder, away) = (store.scratch("images"), store.scratch("away"));
    fs::rename(&folder, &away).expect("scratch");
    let read = |place: &str| qemu_io(&server, "vm", &format!("read {place} 64k"));
    assert!(read("12M").contains("Input/output error"), "{}", read("12M"));
    assert!(qemu_io(&server, "vm", "read -P 0x33 1M 64k").contains("read 65536"));
    assert!(!qemu_io(&server, "vm", "write 2M 4k").contains("wrote 4096"));
    assert!(shown(&store, "vm").contains("\"state\":\"lost\""), "{}", shown(&store, "vm"));
    assert!(store.run(["status"]).contains("not there"), "{}", store.run(["status"]));
    // Another volume goes on, and so does the store without the image.
    assert!(qemu_io(&server, e2e::VOLUME, "write 0 4k").contains("wrote 4096"));
    assert!(server.stop().success());
    let server = store.serve(&[]);
    assert!(qemu_io(&server, "vm", "read -P 0x33 1M 64k").contains("read 65536"));
    fs::rename(&away, &folder).expect("scratch");
    wait_for(&store, "vm", "attached");
    assert!(qemu_io(&server, "vm", "write -P 0x33 2M 4k").contains("wrote 4096"));
    let mut wanted = bytes.clone();
    wanted[1 << 20..(1 << 20) + (64 << 10)].fill(0x33);
    wanted[2 << 20..(2 << 20) + 4096].fill(0x33);
    assert!(read_all(&server, "vm", &store)[..wanted.len()] == wanted[..]);
    // Somebody writes to the image: what was not read before is not shown.
    let mut changed = fs::read(&image).expect("scratch");
    let last = changed.len() - 1;
    changed[last] ^= 1;
    fs::write(&image, &changed).expect("scratch");
    assert!(qemu_io(&server, "vm", "read 12M 64k").contains("Input/output error"));
    wait_for(&store, "vm", "lost");
    let mut accept = store.command();
    let refused = finish(accept.args(["image", "fill", "vm", "--accept"]));
    assert_eq!(refused.status.code(), Some(6), "{}", said(&refused));
    changed[last] ^= 1;
    fs::write(&image, &changed).expect("scratch");
    store.run(["image", "fill", "vm", "--accept", "--yes"]);
    assert!(read_all(&server, "vm", &store)[..wanted.len()] == wanted[..], "accepted");
}

#[test]
fn import_copies_whole_without_a_server() {
    need_all();
    let store = Store::with_volume(MIB);
    let (raw, bytes) = disk(&store, 20);
    let image = image(&raw, &["vhdx"]);
    store.run(["image", "import", text(&image), "whole"]);
    fs::remove_file(&image).expect("scratch");
    let server = store.serve(&[]);
    assert!(read_all(&server, "whole", &store)[..bytes.len()] == bytes[..]);
    assert!(shown(&store, "whole").contains("\"state\":\"independent\""));
    let mut cancel = store.command();
    let refused = finish(cancel.args(["image", "adopt", "--cancel", "whole", "--yes"]));
    assert_eq!(refused.status.code(), Some(3), "{}", said(&refused));
}

#[test]
fn an_adoption_is_cancelled_at_no_cost_and_can_be_undone() {
    need_all();
    let store = Store::with_volume(MIB);
    let (raw, bytes) = disk(&store, 12);
    let image = image(&raw, &["qcow2"]);
    let server = store.serve(&[]);
    store.run(["image", "adopt", text(&image), "vm"]);
    let mut cancel = store.command();
    let asked = finish(cancel.args(["image", "adopt", "--cancel", "vm"]));
    assert_eq!(asked.status.code(), Some(6), "{}", said(&asked));
    store.run(["image", "adopt", "--cancel", "vm", "--yes"]);
    store.run(["vol", "undelete", "vm"]);
    assert!(read_all(&server, "vm", &store)[..bytes.len()] == bytes[..]);
}
