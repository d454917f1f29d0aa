//! Does `docs/format.md` say enough? A reader written from it alone finds the same bytes as the server.

#![expect(clippy::disallowed_methods, reason = "the client's side has files of its own")]

use std::{fs, process::Command};

use e2e::{MIB, Store, VOLUME, need, noise, program, python, succeed};

#[test]
fn reader_of_the_format_agrees_after_stops_and_kills() {
    let mut check = python("reader_stores.py");
    println!("{}", succeed(check.arg("--program").arg(program()).args(["--stores", "4"])));
}

#[test]
fn reader_of_the_format_sees_every_instant() {
    need(&["qemu-img", "qemu-io"], "qemu-utils");
    let store = Store::with_volume(16 * MIB);
    let server = store.serve(&[]);
    let mut wanted = Vec::new();
    for stretch in 0..4 {
        let put = store.scratch("put.raw");
        fs::write(&put, noise(stretch, 16 << 20)).expect("scratch");
        let mut convert = Command::new("qemu-img");
        convert.args(["convert", "-n", "-f", "raw", "-O", "raw"]).arg(&put);
        succeed(convert.arg(server.uri(VOLUME)));
        let mut edges = Command::new("qemu-io");
        edges.args(["-f", "raw", "-c", "discard 100000 3000000", "-c", "write -z 5M 777k"]);
        succeed(edges.args(["-c", "write -P 7 12345 54321"]).arg(server.uri(VOLUME)));
        let mark = store.run(["mark", "add", VOLUME, &format!("m{stretch}"), "--json"]);
        let seq = mark
            .split("\"seq\":")
            .nth(1)
            .map(|rest| {
                rest.trim_start().chars().take_while(char::is_ascii_digit).collect::<String>()
            })
            .expect("`mark add --json` names the sequence");
        let instant = format!("{VOLUME}@seq:{seq}");
        let served = store.scratch(&format!("served.{stretch}"));
        let mut convert = Command::new("qemu-img");
        convert.args(["convert", "-f", "raw", "-O", "raw"]).arg(server.uri(&instant)).arg(&served);
        succeed(&mut convert);
        wanted.push((instant, served));
    }
    assert!(server.stop().success(), "a planned stop ends with 0");
    for (instant, served) in wanted {
        let read = store.scratch("read.raw");
        let mut reader = python("reader/strandline_reader.py");
        reader.arg(store.path()).arg("--key").arg(store.key());
        succeed(reader.args(["extract", &instant]).arg(&read));
        let same = fs::read(&read).expect("scratch") == fs::read(&served).expect("scratch");
        assert!(same, "{instant}: the reader of docs/format.md sees other bytes than the server");
    }
}
