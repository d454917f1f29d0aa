//! Does the guard notice each change of a parent that a child sees, and no other?
//!
//! Chains are made and changed by QEMU's tools, as people do it by accident, and by the corpus. Whether the
//! child's guest sees other bytes is known from the way, and for raw and qcow2 asked of qemu-img too.

#![expect(clippy::disallowed_methods, reason = "the test's own files")]

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use e2e::{finish, need, program, said, shared, succeed};
use serde_json::Value;
use tempfile::TempDir;

/// A folder with a chain: `p.img`, and over it `child.img` and `sibling.img`.
struct Chain {
    folder: TempDir,
    /// Format of the parent, and of its children.
    formats: (&'static str, &'static str),
}

/// What a check said.
#[derive(Debug)]
struct Says {
    exit: Option<i32>,
    status: String,
    verdict: String,
    document: Value,
    all: String,
}

impl Chain {
    fn new(parent: &'static str, child: &'static str) -> Self {
        let folder = TempDir::with_prefix("strandline-guard-").expect("temp dir");
        let chain = Self { folder, formats: (parent, child) };
        chain.img(&["create", "-q", "-f", parent, "p.img", "16M"]);
        chain.io(parent, "p.img", &["write -P 17 0 8M"]);
        for name in ["child.img", "sibling.img"] {
            chain.img(&["create", "-q", "-f", child, "-b", "p.img", "-F", parent, name]);
        }
        chain.io(child, "child.img", &["write -P 34 4M 1M"]);
        chain.io(child, "sibling.img", &["write -P 51 6M 1M"]);
        chain
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run<A: AsRef<OsStr>>(&self, program: &str, arguments: impl IntoIterator<Item = A>) {
        succeed(Command::new(program).current_dir(self.folder.path()).args(arguments));
    }

    fn img(&self, arguments: &[&str]) {
        self.run("qemu-img", arguments);
    }

    fn io(&self, format: &str, name: &str, commands: &[&str]) {
        let commands = commands.iter().flat_map(|command| ["-c", *command]);
        self.run("qemu-io", ["-f", format].into_iter().chain(commands).chain([name]));
    }

    fn guard(&self, name: &str) {
        let mut guard = self.strandline("guard", name);
        let ended = finish(&mut guard);
        assert!(ended.status.success(), "{guard:?}\n{}", said(&ended));
    }

    fn check(&self, name: &str) -> Says {
        says(self.strandline("check", name).arg("--json"))
    }

    fn strandline(&self, verb: &str, name: &str) -> Command {
        let mut command = Command::new(program());
        command.args(["image", "chain", verb, name, "--format", self.formats.1]);
        command.arg("--book").arg(self.path("book")).current_dir(self.folder.path());
        command
    }

    /// Guest bytes that the child shows, by qemu-img.
    fn shown(&self, name: &str) -> Option<Vec<u8>> {
        let raw = self.path("shown.raw");
        let _ = fs::remove_file(&raw);
        let mut convert = Command::new("qemu-img");
        convert.args(["convert", "-f", self.formats.1, "-O", "raw", name]).arg(&raw);
        convert.current_dir(self.folder.path());
        finish(&mut convert).status.success().then(|| fs::read(&raw).expect("read"))
    }
}

fn says(command: &mut Command) -> Says {
    let ended = finish(command);
    let all = format!("{command:?}\n{}", said(&ended));
    let document: Value =
        serde_json::from_slice(&ended.stdout).unwrap_or_else(|error| panic!("{error}\n{all}"));
    let link = document["links"][0].clone();
    let word = |name: &str| link[name].as_str().unwrap_or_default().to_owned();
    Says {
        exit: ended.status.code(),
        status: word("status"),
        verdict: word("verdict"),
        document,
        all,
    }
}

const SAME: (&str, &str) = ("ok", "same");
const VISIBLE: (&str, &str) = ("fault", "visible");

/// Ways in which something happens to a parent, and what is to be said of the child then.
const WAYS: &[(&str, (&str, &str))] = &[
    ("nothing", ("ok", "quiet")),
    ("touch", SAME),
    ("copy-back", SAME),
    ("move-folder", SAME),
    ("rw-open", SAME),
    ("recompress", SAME),
    ("grow", SAME),
    ("write-shadowed", ("ok", "shadowed")),
    ("write-beyond", ("ok", "beyond")),
    ("write-visible", VISIBLE),
    ("write-mtime-restored", VISIBLE),
    ("dd-mtime-restored", VISIBLE),
    ("commit-sibling", VISIBLE),
    ("rebase-unsafe", VISIBLE),
    ("replaced", VISIBLE),
    ("shrink", VISIBLE),
];

/// Does one of them. `None` where the format has no such thing.
fn happen(chain: &Chain, way: &str) -> Option<()> {
    let (parent, child) = chain.formats;
    let io = |commands: &[&str]| chain.io(parent, "p.img", commands);
    let resizes = parent != "vmdk";
    match way {
        "nothing" => {}
        "touch" => chain.run("touch", ["p.img"]),
        "copy-back" => {
            chain.run("cp", ["p.img", "x"]);
            chain.run("rm", ["p.img"]);
            chain.run("mv", ["x", "p.img"]);
        }
        "move-folder" => {
            fs::create_dir(chain.path("new")).expect("made");
            chain.run("mv", ["p.img", "child.img", "new/"]);
            chain.run("ln", ["new/child.img", "child.img"]);
            chain.run("ln", ["new/p.img", "p.img"]);
        }
        "rw-open" => io(&["read 0 512", "flush"]),
        "recompress" => {
            let packs: &[&str] = if parent == "raw" { &[] } else { &["-c"] };
            let kind: &[&str] =
                if parent == "vmdk" { &["-o", "subformat=streamOptimized"] } else { &[] };
            let line = [&["convert", "-f", parent, "-O", parent], packs, kind, &["p.img", "x"]];
            chain.img(&line.concat());
            chain.run("mv", ["x", "p.img"]);
        }
        "grow" if resizes => chain.img(&["resize", "-q", "-f", parent, "p.img", "24M"]),
        "shrink" if resizes => {
            chain.img(&["resize", "-q", "--shrink", "-f", parent, "p.img", "2M"]);
        }
        "write-beyond" if resizes => {
            chain.img(&["resize", "-q", "-f", parent, "p.img", "24M"]);
            io(&["write -P 9 20M 64k"]);
        }
        "grow" | "shrink" | "write-beyond" => return None,
        "write-shadowed" => io(&["write -P 99 4M 64k"]),
        "write-visible" => io(&["write -P 99 1M 64k"]),
        "write-mtime-restored" => {
            chain.run("cp", ["-p", "--attributes-only", "p.img", "times"]);
            io(&["write -P 99 1M 64k"]);
            chain.run("touch", ["-r", "times", "p.img"]);
        }
        "dd-mtime-restored" => {
            chain.run("cp", ["-p", "--attributes-only", "p.img", "times"]);
            // The guest's first MiB lies somewhere in the first two of the file, after its tables.
            let mut bytes = fs::read(chain.path("p.img")).expect("read");
            let data = bytes.windows(512).position(|run| run.iter().all(|byte| *byte == 17));
            let at = data.expect("the guest's bytes are in the file") + 700;
            bytes[at] ^= 1;
            let seek = format!("seek={at}");
            fs::write(chain.path("byte"), &bytes[at..=at]).expect("written");
            let line =
                ["if=byte", "of=p.img", "bs=1", "count=1", &seek, "conv=notrunc", "status=none"];
            chain.run("dd", line);
            chain.run("touch", ["-r", "times", "p.img"]);
        }
        "commit-sibling" => chain.img(&["commit", "-q", "-f", child, "sibling.img"]),
        "rebase-unsafe" if parent == "vmdk" => return None,
        "rebase-unsafe" => {
            chain.img(&["create", "-q", "-f", parent, "other.img", "16M"]);
            chain.img(&["rebase", "-u", "-b", "other.img", "-F", parent, "-f", child, "child.img"]);
        }
        "replaced" => {
            chain.run("rm", ["p.img"]);
            chain.img(&["create", "-q", "-f", parent, "p.img", "16M"]);
            io(&["write -P 5 0 8M"]);
        }
        other => panic!("no such way: {other}"),
    }
    Some(())
}

fn all_ways(parent: &'static str, child: &'static str) {
    need(&["qemu-img", "qemu-io"], "qemu-utils");
    let mut wrong = Vec::new();
    for (way, wanted) in WAYS {
        let chain = Chain::new(parent, child);
        chain.guard("child.img");
        let before = chain.shown("child.img").expect("it was fine");
        if happen(&chain, way).is_none() {
            continue;
        }
        let says = chain.check("child.img");
        let exit = i32::from(wanted.0 != "ok");
        // An unchanged inode may have been touched within one tick of its clock.
        let is_right = (says.status.as_str(), says.verdict.as_str()) == *wanted
            || (*wanted == SAME && says.status == "ok" && says.verdict == "quiet");
        if !is_right || says.exit != Some(exit) {
            wrong.push(format!("{way}: wanted {wanted:?}, exit {exit}\n{}", says.all));
        }
        if let Some(after) = chain.shown("child.img").filter(|_| parent != "vmdk") {
            assert_eq!(before != after, wanted.0 == "fault", "{way}: qemu-img sees otherwise");
        }
        println!("{parent:6} {way:22} {} {}", says.status, says.verdict);
    }
    assert!(wrong.is_empty(), "{parent}:\n{}", wrong.join("\n"));
}

#[test]
fn qcow2_parents() {
    all_ways("qcow2", "qcow2");
}

#[test]
fn raw_parents() {
    all_ways("raw", "qcow2");
}

#[test]
fn vmdk_parents() {
    all_ways("vmdk", "vmdk");
}

/// A copy of both in another folder: the same bytes, other files; then that copy's parent changes.
#[test]
fn a_copied_folder_is_known_again() {
    need(&["qemu-img", "qemu-io"], "qemu-utils");
    let chain = Chain::new("qcow2", "qcow2");
    chain.guard("child.img");
    fs::create_dir(chain.path("copy")).expect("made");
    chain.run("cp", ["p.img", "child.img", "copy/"]);
    let says = chain.check("copy/child.img");
    assert_eq!((says.exit, says.verdict.as_str()), (Some(0), "same"), "{}", says.all);
    chain.io("qcow2", "copy/p.img", &["write -P 1 2M 512"]);
    let says = chain.check("copy/child.img");
    assert_eq!((says.exit, says.verdict.as_str()), (Some(1), "visible"), "{}", says.all);
    assert_eq!(says.document["links"][0]["ranges"][0]["offset"], 2 << 20);
    let says = chain.check("child.img");
    assert_eq!((says.exit, says.status.as_str()), (Some(0), "ok"), "{}", says.all);
}

/// What the child was given since it was sealed counts: it is judged as it is now.
#[test]
fn a_child_that_was_written_since_is_judged_as_it_is() {
    need(&["qemu-img", "qemu-io"], "qemu-utils");
    let chain = Chain::new("qcow2", "qcow2");
    chain.guard("child.img");
    chain.io("qcow2", "child.img", &["write -P 60 1M 64k"]);
    chain.io("qcow2", "p.img", &["write -P 61 1M 64k"]);
    let says = chain.check("child.img");
    assert_eq!((says.exit, says.verdict.as_str()), (Some(0), "shadowed"), "{}", says.all);
}

#[test]
fn a_parent_that_is_gone_is_said_so() {
    need(&["qemu-img", "qemu-io"], "qemu-utils");
    let chain = Chain::new("qcow2", "qcow2");
    chain.guard("child.img");
    chain.run("mv", ["p.img", "elsewhere.img"]);
    let says = chain.check("child.img");
    assert_eq!((says.exit, says.status.as_str()), (Some(3), "fault"), "{}", says.all);
    assert_eq!(says.document["links"][0]["class"], "parent-missing");
    assert_eq!(says.document["links"][0]["parent"], "p.img");
}

/// Each change of what there is to say is told, once the files rest; Ctrl-C is no failure.
#[test]
fn watch_tells_what_changes() {
    need(&["qemu-img", "qemu-io"], "qemu-utils");
    let chain = Chain::new("qcow2", "qcow2");
    chain.guard("child.img");
    let mut watch = chain.strandline("watch", "child.img");
    watch.args(["--every", "50ms", "--json"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut watching = watch.spawn().expect("started");
    let mut lines = BufReader::new(watching.stdout.take().expect("piped")).lines();
    let mut next = || -> Value {
        let line = lines.next().expect("it goes on").expect("text");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    };
    let first = next();
    assert_eq!((&first["schema"], &first["status"]), (&"image.chain.watch/1".into(), &"ok".into()));
    chain.io("qcow2", "p.img", &["write -P 99 1M 64k"]);
    let second = next();
    assert_eq!((&second["status"], &second["verdict"]), (&"fault".into(), &"visible".into()));
    chain.io("qcow2", "p.img", &["write -P 17 1M 64k"]);
    assert_eq!(next()["status"], "ok", "it is as it was");
    chain.run("mv", ["p.img", "away.img"]);
    assert_eq!(next()["class"], "parent-missing");
    chain.run("mv", ["away.img", "p.img"]);
    assert_eq!(next()["status"], "ok", "it is back");
    succeed(Command::new("kill").args(["-INT", &watching.id().to_string()]));
    let status = watching.wait().expect("ended");
    assert_eq!(status.code(), Some(0));
}

/// A label goes with the child: another machine has no book, and knows the same. QEMU reads and writes the
/// child as before, and an unsafe rebase is found out by it.
#[test]
fn a_label_goes_with_the_child() {
    need(&["qemu-img", "qemu-io"], "qemu-utils");
    let chain = Chain::new("qcow2", "qcow2");
    let before = chain.shown("child.img");
    let mut guard = chain.strandline("guard", "child.img");
    let ended = finish(guard.arg("--label"));
    assert!(ended.status.success(), "{}", said(&ended));
    chain.img(&["check", "-q", "child.img"]);
    assert_eq!(chain.shown("child.img"), before, "the same disk");
    chain.io("qcow2", "child.img", &["write -P 88 9M 64k"]); // QEMU clears the mark, and keeps the rest
    let elsewhere = |name: &str| {
        let book = TempDir::with_prefix("strandline-book-").expect("temp dir");
        let mut check = Command::new(program());
        check.args(["image", "chain", "check", name, "--format", "qcow2", "--json", "--book"]);
        says(check.arg(book.path()).current_dir(chain.folder.path()))
    };
    let says = elsewhere("child.img");
    assert_eq!((says.exit, says.verdict.as_str()), (Some(0), "same"), "{}", says.all);
    assert_eq!(says.document["links"][0]["seal"]["found"], "label");
    // Labelled once more, in place.
    let mut guard = chain.strandline("guard", "child.img");
    let ended = finish(guard.arg("--label"));
    assert!(ended.status.success(), "{}", said(&ended));
    assert_eq!(elsewhere("child.img").exit, Some(0));
    chain.io("qcow2", "p.img", &["write -P 99 1M 64k"]);
    let says = elsewhere("child.img");
    assert_eq!((says.exit, says.status.as_str()), (Some(1), "unknown"), "{}", says.all);
    // While a guest runs on it, it is not written.
    let mut guard = chain.strandline("guard", "sibling.img");
    let mut holder = Command::new("qemu-io");
    holder.args(["-f", "qcow2", "sibling.img"]).current_dir(chain.folder.path());
    let mut holder = holder.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("started");
    let mut greeted = [0];
    holder.stdout.as_mut().expect("piped").read_exact(&mut greeted).expect("its prompt");
    let ended = finish(guard.arg("--label"));
    assert_eq!(ended.status.code(), Some(4), "{}", said(&ended));
    drop(holder.stdin.take());
    holder.wait().expect("ended");
    let mut guard = chain.strandline("guard", "sibling.img");
    assert!(finish(guard.arg("--label")).status.success());
}

/// What nobody sealed, and no identifiers: unknown, and never "ok".
#[test]
fn an_unsealed_chain_without_identifiers_is_unknown() {
    need(&["qemu-img", "qemu-io"], "qemu-utils");
    let chain = Chain::new("qcow2", "qcow2");
    let says = chain.check("child.img");
    assert_eq!((says.exit, says.status.as_str()), (Some(1), "unknown"), "{}", says.all);
}

/// The corpus' cases: guarded as they were before, looked at as they are after; in the same files and in
/// copies, and by identifiers alone.
#[test]
fn the_corpus_is_judged_right() {
    let python = python();
    let folder = TempDir::with_prefix("strandline-corpus-").expect("temp dir");
    let corpus = if let Some(made) = std::env::var_os("STRANDLINE_CORPUS") {
        PathBuf::from(made)
    } else {
        need(&["qemu-img"], "qemu-utils");
        succeed(Command::new(python).arg(shared("corpus/make.py")).arg(folder.path()));
        folder.path().to_owned()
    };
    let manifest = fs::read(corpus.join("manifest.json")).expect("a manifest");
    let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
    let cases = manifest["linkage"].as_array().expect("a list");
    assert!(cases.len() >= 14, "{} cases", cases.len());
    let mut wrong = Vec::new();
    for case in cases {
        let id = case["id"].as_str().expect("an id");
        let child = case["child"].as_str().expect("a name");
        for (way, place) in [("in place", "work"), ("a copy", "copy")] {
            let folder = TempDir::with_prefix("strandline-linkage-").expect("temp dir");
            let work = folder.path().join("work");
            copy_all(&corpus.join(id).join("before"), &work);
            let strandline = |verb: &str, place: &str| {
                let mut command = Command::new(program());
                command.args(["image", "chain", verb]).arg(folder.path().join(place).join(child));
                command.arg("--book").arg(folder.path().join("book")).arg("--json");
                command
            };
            succeed(&mut strandline("guard", "work"));
            copy_all(&corpus.join(id).join("after"), &folder.path().join(place));
            let says = says(&mut strandline("check", place));
            let differs = case["bytes_differ"] == true;
            let status = if differs { "fault" } else { "ok" };
            let header = case["must_notice"].as_array().expect("a list").contains(&"header".into());
            let signs = says.document["links"][0]["signs"].as_array().cloned().unwrap_or_default();
            let noticed = signs.iter().any(|sign| sign["level"] == 1);
            if says.status != status || says.exit != Some(i32::from(differs)) || header && !noticed
            {
                wrong.push(format!("{id}, {way}: wanted {status}\n{}", says.all));
            }
            println!("{id} {way}: {} {}", says.status, says.verdict);
        }
        wrong.extend(by_identifiers(&corpus.join(id).join("after"), child, case));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Without a seal: what the format's rule proves is a fault, and no change passes as compared.
fn by_identifiers(after: &Path, child: &str, case: &Value) -> Option<String> {
    let empty = TempDir::with_prefix("strandline-book-").expect("temp dir");
    let mut check = Command::new(program());
    check.args(["image", "chain", "check", "--json", "--book"]).arg(empty.path());
    let says = says(check.arg(after.join(child)));
    let header = case["must_notice"].as_array().expect("a list").contains(&"header".into());
    let is_right = match says.verdict.as_str() {
        "differs" => header && says.exit == Some(1),
        "agrees" => !header && says.exit == Some(0),
        "unknown" => !header && says.exit == Some(1),
        _ => false,
    };
    (!is_right).then(|| format!("{}, by identifiers:\n{}", case["id"], says.all))
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    let mut copy = Command::new("cp");
    copy.arg("-p");
    for entry in fs::read_dir(from).expect("listed") {
        copy.arg(entry.expect("listed").path());
    }
    succeed(copy.arg(to));
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
