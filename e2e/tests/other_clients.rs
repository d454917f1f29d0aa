//! Do the NBD clients that people have work, each with one thing it is used for?

#![expect(clippy::disallowed_methods, reason = "the client's side has files of its own")]

use std::{fs, process::Command};

use e2e::{MIB, Store, VOLUME, need, noise, succeed};

#[test]
fn nbdinfo_shows_size_and_flags() {
    need(&["nbdinfo"], "libnbd-bin");
    let store = Store::with_volume(64 * MIB);
    let server = store.serve(&[]);
    let told = succeed(Command::new("nbdinfo").arg(server.uri(VOLUME)));
    for line in
        ["export-size: 67108864", "can_multi_conn: true", "can_fua: true", "can_flush: true"]
    {
        assert!(told.contains(line), "`{line}` is not in\n{told}");
    }
    let listed = succeed(Command::new("nbdinfo").args(["--list", &server.uri("")]));
    assert!(listed.contains("export=\"vol\""), "{listed}");
}

#[test]
fn nbdcopy_brings_back_what_it_put() {
    need(&["nbdcopy"], "libnbd-bin");
    let store = Store::with_volume(32 * MIB);
    let server = store.serve(&[]);
    let (put, got) = (store.scratch("put.raw"), store.scratch("got.raw"));
    let mut bytes = noise(1, 32 << 20);
    bytes[8 << 20..20 << 20].fill(0);
    fs::write(&put, &bytes).expect("scratch");
    succeed(Command::new("nbdcopy").arg(&put).arg(server.uri(VOLUME)));
    succeed(Command::new("nbdcopy").arg(server.uri(VOLUME)).arg(&got));
    assert!(fs::read(&got).expect("scratch") == bytes, "nbdcopy read other bytes than it wrote");
}

#[test]
fn qemu_img_converts_and_compares() {
    need(&["qemu-img"], "qemu-utils");
    let store = Store::with_volume(32 * MIB);
    let server = store.serve(&[]);
    let (raw, qcow) = (store.scratch("disk.raw"), store.scratch("disk.qcow2"));
    fs::write(&raw, noise(2, 32 << 20)).expect("scratch");
    let uri = server.uri(VOLUME);
    let qemu_img = |arguments: &[&str]| succeed(Command::new("qemu-img").args(arguments));
    let (raw, qcow) = (raw.to_str().expect("utf-8"), qcow.to_str().expect("utf-8"));
    qemu_img(&["convert", "-n", "-f", "raw", "-O", "raw", raw, &uri]);
    qemu_img(&["compare", "-f", "raw", "-F", "raw", raw, &uri]);
    qemu_img(&["convert", "-f", "raw", "-O", "qcow2", &uri, qcow]);
    qemu_img(&["compare", "-f", "raw", "-F", "qcow2", raw, qcow]);
}

#[test]
fn qemu_io_flush_then_kill() {
    need(&["qemu-io"], "qemu-utils");
    let store = Store::with_volume(64 * MIB);
    let server = store.serve(&[]);
    let qemu_io = |uri: &str, commands: &[&str]| {
        let mut command = Command::new("qemu-io");
        command.args(["-f", "raw"]);
        for line in commands {
            command.args(["-c", line]);
        }
        succeed(command.arg(uri))
    };
    let uri = server.uri(VOLUME);
    qemu_io(&uri, &["write -P 0x5a 1M 1M", "write -P 0x11 1000 3000", "discard 1M 64k", "flush"]);
    server.kill();
    let server = store.serve(&[]);
    let told = qemu_io(
        &server.uri(VOLUME),
        &[
            "read -P 0 1M 64k",
            "read -P 0x5a 1088k 960k",
            "read -P 0x11 1000 3000",
            "read -P 0 0 1000",
        ],
    );
    assert!(!told.contains("failed"), "{told}");
}

#[test]
fn fio_verifies_what_it_wrote() {
    need(&["fio"], "fio");
    let store = Store::with_volume(64 * MIB);
    let server = store.serve(&[]);
    let mut fio = Command::new("fio");
    fio.current_dir(store.scratch("").as_path()).args(["--name=verify", "--ioengine=nbd"]);
    fio.arg(format!("--uri={}", server.uri(VOLUME))); // known only once the engine is named
    fio.args(["--thread", "--rw=randwrite", "--iodepth=16", "--bsrange=512-128k"]);
    fio.args(["--blockalign=512", "--size=64m", "--fsync=64"]);
    fio.args(["--verify=crc32c", "--do_verify=1", "--verify_fatal=1"]);
    succeed(&mut fio);
}

#[test]
fn a_planned_stop_ends_with_zero() {
    let store = Store::with_volume(MIB);
    let status = store.serve(&[]).stop();
    assert!(status.success(), "serve ended with {status} after SIGTERM");
}
