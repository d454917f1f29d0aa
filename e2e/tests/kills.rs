//! Is every acknowledged write there after the server was killed under load? (shared script)
//!
//! A kill leaves the page cache, so this proves nothing about flushes: that is `power_cut.rs`.

use std::process::Command;

use e2e::{MIB, Store, program, shared, succeed};

#[test]
fn five_kills_lose_nothing_acknowledged() {
    let store = Store::with_volume(64 * MIB);
    let socket = store.scratch("nbd.sock");
    let serve = format!(
        "exec {} -s {} serve --nbd unix:{}",
        program().display(),
        store.path().display(),
        socket.display()
    );
    let mut kills = Command::new(shared("lab/lab"));
    kills.args(["kill-test", "--work", "host", "--rounds", "5", "--after", "0.3:1.0"]);
    kills.args(["--span", "32M", "--serve", &serve, "--uri"]);
    println!("{}", succeed(kills.arg(format!("{}:vol", socket.display()))));
}
