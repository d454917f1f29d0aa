//! Do images of other programs come out as they are, and damaged ones as an error?
//!
//! The corpus is made by a script that several repositories share; what is true of each image is known
//! from the model it was written from, never from a reader. Its judge runs `image convert` on each.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use e2e::{finish, need, program, said, shared};

/// Images that a reader may refuse, and that this one does.
const NOT_READ: &[&str] = &["qcow2/luks"];

#[test]
fn no_image_comes_out_wrong() {
    need(&["qemu-img"], "qemu-utils");
    let python = python();
    let corpus = tempfile::TempDir::with_prefix("strandline-corpus-").expect("temp dir");
    let made = finish(Command::new(python).arg(shared("corpus/make.py")).arg(corpus.path()));
    assert!(made.status.success(), "the corpus was not made\n{}", said(&made));
    let reader = format!(
        "cmd:{} image convert --quiet --format {{format}} --to raw {{path}} {{out}}",
        program().display()
    );
    let mut judge = Command::new(python);
    judge.arg(shared("corpus/judge.py")).arg(corpus.path());
    // One disk has 64 TiB, and files of ext4 end at 16: those in memory do not.
    if Path::new("/dev/shm").is_dir() {
        judge.env("TMPDIR", "/dev/shm");
    }
    // Other tests run beside this one: the limit finds what hangs, not what is slow.
    let judged = finish(judge.args(["--reader", &reader, "--limit-s", "120"]));
    let told = said(&judged);
    println!("{told}");
    let surprises: Vec<&str> = told
        .lines()
        .filter(|line| {
            let mut words = line.split_whitespace();
            let verdict = words.next().unwrap_or_default();
            let id = words.next().unwrap_or_default();
            match verdict {
                "WRONG" | "MISSED" | "crash" | "hang" | "memory" => true,
                "refused" => !NOT_READ.contains(&id),
                _ => false,
            }
        })
        .collect();
    assert!(surprises.is_empty(), "surprises:\n{}", surprises.join("\n"));
    for total in ["valid  all", "bad    all"] {
        assert!(told.contains(total), "the judge did not come to its end\n{told}");
    }
}

/// The first interpreter that can make images packed by Zstandard.
fn python() -> &'static str {
    let able = |python: &&str| {
        let mut probe = Command::new(python);
        probe.args(["-c", "import zstandard"]).stdin(Stdio::null()).stderr(Stdio::null());
        probe.status().is_ok_and(|status| status.success())
    };
    ["python3", "/usr/bin/python3"]
        .into_iter()
        .find(able)
        .expect("python3 with zstandard is missing: apt-get install -y python3-zstandard")
}
