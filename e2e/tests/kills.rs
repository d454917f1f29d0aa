//! Is every acknowledged write there after the server was killed under load? (shared script)
//!
//! A kill leaves the page cache, so this proves nothing about flushes: that is `power_cut.rs`. The
//! writer and the verifier are those of `lab kill-test --work host`, which `cargo xtask soak` runs;
//! that one builds a guest first, which is too much for here.

#![expect(clippy::disallowed_methods, reason = "the client's side watches a file of its own")]

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use e2e::{MIB, Store, VOLUME, need, shared, succeed};

#[test]
fn five_kills_lose_nothing_acknowledged() {
    need(&["python3"], "python3");
    let store = Store::with_volume(64 * MIB);
    for round in 0..5_u64 {
        let server = store.serve(&[]);
        let log = store.scratch(&format!("stamp.{round}"));
        let mut writer = Command::new("python3");
        writer
            .arg(shared("lab/stamp.py"))
            .arg("write")
            .arg(server.uri(VOLUME))
            .arg("--log")
            .arg(&log);
        writer.args([
            "--seconds",
            "600",
            "--depth",
            "8",
            "--flush-every",
            "16",
            "--pattern",
            "hot",
        ]);
        writer.args(["--maxlen", "8", "--mix", "write=90,zero=7,trim=3", "--span", "32M"]);
        writer.args(["--seed", &round.to_string(), "--run", &(round + 1).to_string()]);
        let mut child = writer.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("python3");
        wait_for_bytes(&log, 20_000 * (round + 1));
        server.kill();
        let _ = child.kill(); // it may have noticed and ended by itself
        child.wait().expect("own child");
        let server = store.serve(&[]);
        let mut verify = Command::new("python3");
        verify.arg(shared("lab/stamp.py")).arg("verify").arg(server.uri(VOLUME));
        println!("round {round}: {}", succeed(verify.arg("--log").arg(&log)).trim());
        assert!(server.stop().success(), "a planned stop ends with 0");
    }
}

/// Waits until the writer has logged so much: then it is in full run.
fn wait_for_bytes(log: &Path, bytes: u64) {
    let began = Instant::now();
    while fs::metadata(log).map_or(0, |about| about.len()) < bytes {
        assert!(began.elapsed() < Duration::from_mins(1), "the writer does not get on");
        thread::sleep(Duration::from_millis(2)); // between two looks at a condition
    }
}
