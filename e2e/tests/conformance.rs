//! Does the server keep to the NBD protocol, also with a hostile client? (shared script)

use std::process::Command;

use e2e::{MIB, Store, VOLUME, finish, need, said, shared};

#[test]
fn nbd_conformance_has_no_failure() {
    need(&["qemu-io", "qemu-img"], "qemu-utils");
    need(&["nbdinfo", "nbdcopy"], "libnbd-bin");
    need(&["file"], "file"); // nbdinfo asks it what a disk holds
    need(&["fio"], "fio");
    // As users have them: in small segments the many packs that reads open are taken for a leak.
    let store = Store::in_segments(256 * MIB, "64M");
    store.run(["vol", "create", "sparse", "--size", "2T"]);
    let server = store.serve(&[]);
    let mut script = Command::new(shared("bench/nbd_conformance.sh"));
    script.args(["--uri", &server.uri(VOLUME), "--readonly-uri", &server.uri("vol@start")]);
    script.args(["--sparse-uri", &server.uri("sparse"), "--pid", &server.pid().to_string()]);
    script.args(["--ops", "400", "--fuzz", "40"]);
    let output = finish(&mut script);
    let told = said(&output);
    assert!(output.status.success(), "{told}\n{}", server.log());
    println!("{}", told.lines().last().unwrap_or_default());
}
