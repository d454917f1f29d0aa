//! What is left of a store when the power fails? On a real file system, cut at recorded moments.
//! (shared script; needs root, /dev/fuse and loop devices)

use std::process::Command;

use e2e::{KEY_FILE, need, program, shared, succeed};

fn twenty_cuts_on(file_system: &str, disk_size: &str) {
    need(&["losetup", "mount"], "mount");
    let program = program().display();
    let keys = tempfile::TempDir::with_prefix("strandline-power-").expect("temp dir");
    let init = format!(
        "{program} store init $STORE --segment-size 8M && \
         {program} -s $STORE vol create vol --size 64M"
    );
    let mut cut = Command::new(shared("lab/lab"));
    cut.env(KEY_FILE, keys.path().join("key"));
    cut.args(["power-cut", "--rounds", "1", "--points", "20", "--export", "vol"]);
    cut.args(["--fs", file_system, "--size", disk_size, "--init", &init, "--server"]);
    cut.arg(format!("exec {program} -s $STORE serve --nbd unix:$SOCK"));
    println!("{}", succeed(&mut cut));
}

#[test]
fn flushed_writes_survive_power_cuts_on_ext4() {
    need(&["mkfs.ext4"], "e2fsprogs");
    twenty_cuts_on("ext4", "512M");
}

#[test]
fn flushed_writes_survive_power_cuts_on_xfs() {
    need(&["mkfs.xfs"], "xfsprogs");
    twenty_cuts_on("xfs", "512M");
}
