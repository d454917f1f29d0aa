//! `cargo xtask soak`: the long forms, hours of them, one after the other.
//!
//! Each prints what it does; the table at the end says which failed and which could not run and why.
//! `--only NAME` runs one. Needs root for guests, FUSE and loop devices.

use crate::shell::{self, Failure, cargo, command, run, shared};
use std::{env, fs, path::PathBuf, process::Command, time::Instant};

/// A long check: its name, and how to run it; `Err` says why it cannot.
type Long = (&'static str, fn(&Places) -> Result<Command, String>);

const LONG: &[Long] = &[
    ("instants", |places| {
        Ok(places.instants(&[
            "--instants",
            "200",
            "--ops",
            "20000",
            "--kill",
            "5",
            "--size",
            "64M",
        ]))
    }),
    ("rewinds", |places| Ok(places.instants(&["--rewind", "--rewinds", "12", "--ops", "8000"]))),
    ("clones", |places| Ok(places.instants(&["--clones", "16", "--size", "16M"]))),
    ("bitflips", |places| {
        let script = shell::root().join("e2e/python/bitflips.py");
        let mut check = command("python3", &[script]);
        check.args(["--count", "200", "--program", &places.program()]);
        Ok(check)
    }),
    ("reader", |places| {
        let script = shell::root().join("e2e/python/reader_stores.py");
        let mut check = command("python3", &[script]);
        check.args(["--stores", "20", "--program", &places.program()]);
        Ok(check)
    }),
    ("whole-disk", |places| {
        let script = shell::root().join("e2e/python/whole_disk.py");
        let mut check = command("python3", &[script]);
        check.args(["--program", &places.program()]);
        Ok(check)
    }),
    ("conformance", |places| {
        places.around_server("bench/nbd_conformance.sh", "--ops 4000 --fuzz 400")
    }),
    ("iotests", |places| {
        let tree = env::var("QEMU_IOTESTS").map_err(
            |_| "QEMU_IOTESTS does not name QEMU's tests/qemu-iotests (apt-get source qemu)",
        )?;
        let mut check = command(places.shared("bench/nbd_iotests.sh")?, &["--iotests", &tree]);
        let serve = format!(
            "export STRANDLINE_KEY_FILE=\"$DIR/key\"; \
             {program} store init \"$DIR/store\" --segment-size 8M && \
             {program} -s \"$DIR/store\" vol create vol --size \"$SIZE\" && \
             exec {program} -s \"$DIR/store\" serve --nbd \"unix:$SOCK\" --default vol",
            program = places.program()
        );
        check.args(["--start", &serve]);
        Ok(check)
    }),
    ("kills", |places| {
        places.kill_test(&["--work", "host", "--rounds", "100", "--after", "0.2:3"])
    }),
    ("kills-prefix", |places| {
        places.kill_test(&["--work", "host", "--rounds", "40", "--prefix", "--depth", "1"])
    }),
    ("kills-guest-ext4", |places| places.kill_test(&["--work", "ext4", "--rounds", "10"])),
    ("kills-guest-xfs", |places| places.kill_test(&["--work", "xfs", "--rounds", "10"])),
    ("kills-survive", |places| {
        places.kill_test(&["--work", "stamp", "--rounds", "5", "--survive"])
    }),
    ("guest-boots", |places| places.guests("boots")),
    ("guest-kernel-nbd", |places| places.guests("kernel-nbd")),
    ("power-cut-ext4", |places| {
        places.power_cut("ext4", Segments::New, &["--rounds", "3", "--points", "60"])
    }),
    ("power-cut-xfs", |places| {
        places.power_cut("xfs", Segments::New, &["--rounds", "3", "--points", "60"])
    }),
    ("power-cut-used", |places| {
        places.power_cut("xfs", Segments::Used, &["--rounds", "3", "--points", "60", "--prefix"])
    }),
    ("power-cut-torn", |places| {
        let words = ["--rounds", "3", "--points", "100", "--kinds", "torn", "--prefix"];
        places.power_cut("ext4", Segments::Used, &words)
    }),
    ("power-cut-prefix", |places| {
        places.power_cut("xfs", Segments::New, &["--rounds", "2", "--points", "60", "--prefix"])
    }),
    ("power-cut-again", |places| {
        let words = ["--rounds", "2", "--points", "40", "--again", "0.5"];
        places.power_cut("ext4", Segments::Used, &words)
    }),
    ("sim", |_| {
        Ok(cargo(&["run", "--release", "--package", "strandline-sim", "--", "--minutes", "120"]))
    }),
    ("crash", |_| {
        let words = ["run", "--release", "--package", "strandline-sim", "--", "--crash"];
        let mut check = cargo(&words);
        check.args(["--images", "2000000"]);
        Ok(check)
    }),
    ("planted", |_| Ok(cargo(&["xtask", "planted"]))),
];

/// Runs all, or the one named.
fn run_named(only: Option<&str>) -> Result<(), Failure> {
    shell::install_tools()?;
    run(cargo(&["build", "--release", "--package", "strandline", "--bin", "strandline"]))?;
    let places = Places::new()?;
    let mut lines = Vec::new();
    let mut bad = 0;
    for (name, how) in LONG.iter().filter(|(name, _)| only.is_none_or(|only| only == *name)) {
        println!("\n== {name}");
        let began = Instant::now();
        let verdict = match how(&places) {
            Err(why) => format!("not run: {why}"),
            Ok(check) => match run(check) {
                Ok(()) => "ok".to_owned(),
                Err(failure) => format!("FAILED: {failure}"),
            },
        };
        bad += usize::from(verdict != "ok");
        lines.push(format!("{name:<18} {:>6} s  {verdict}", began.elapsed().as_secs()));
    }
    fs::remove_dir_all(&places.work)?;
    println!("\n{}", lines.join("\n"));
    match (lines.is_empty(), bad) {
        (true, _) => Err(Failure("no long check has that name".into())),
        (_, 0) => Ok(()),
        (_, bad) => Err(Failure(format!("{bad} of {} did not end well", lines.len()))),
    }
}

/// The verb.
pub(crate) fn soak(words: &[&str]) -> Result<(), Failure> {
    match words {
        [] => run_named(None),
        ["--only", name] => run_named(Some(name)),
        _ => Err(Failure("usage: cargo xtask soak [--only NAME]".into())),
    }
}

/// What the log of a store writes over when its power is cut.
#[derive(Clone, Copy, Debug)]
enum Segments {
    /// Blocks that were never written: file systems order their data before the file's size.
    New,
    /// Its own older records: only there are torn ones seen.
    Used,
}

/// Where things lie during a soak.
struct Places {
    work: PathBuf,
    program: PathBuf,
}

impl Places {
    fn new() -> Result<Self, Failure> {
        let target =
            env::var_os("CARGO_TARGET_DIR").map_or(shell::root().join("target"), PathBuf::from);
        let work = env::temp_dir().join(format!("strandline-soak-{}", std::process::id()));
        fs::create_dir(&work)?;
        Ok(Self { work, program: target.join("release/strandline") })
    }

    fn program(&self) -> String {
        self.program.display().to_string()
    }

    fn shared(&self, relative: &str) -> Result<PathBuf, String> {
        let _ = self;
        shared()
            .map(|root| root.join(relative))
            .ok_or_else(|| "the shared scripts are absent (../shared or $STRANDLINE_SHARED)".into())
    }

    fn instants(&self, words: &[&str]) -> Command {
        let script = shell::root().join("e2e/python/instants.py");
        let mut check = command("python3", &[script]);
        check.args(["--program", &self.program()]).args(words);
        check
    }

    /// Shell lines that make a fresh store named `name` with a volume, in `$W`.
    fn fresh(&self, name: &str) -> String {
        let (program, work) = (self.program(), self.work.display());
        format!(
            "S={work}/{name}; export STRANDLINE_KEY_FILE=$S/key; \
             {program} store init $S/store --segment-size 8M && \
             {program} -s $S/store vol create vol --size 256M"
        )
    }

    fn around_server(&self, script: &str, words: &str) -> Result<Command, String> {
        let script = self.shared(script)?;
        let lines = format!(
            "set -eu; mkdir {work}/around; {fresh}\n\
             {program} -s $S/store serve --nbd unix:$S/sock & server=$!\n\
             trap 'kill $server' EXIT\n\
             until [ -S $S/sock ]; do kill -0 $server; sleep 0.05; done\n\
             {script} --uri \"nbd+unix:///vol?socket=$S/sock\" \
             --readonly-uri \"nbd+unix:///vol@start?socket=$S/sock\" --pid $server {words}",
            work = self.work.display(),
            fresh = self.fresh("around"),
            program = self.program(),
            script = script.display(),
        );
        Ok(command("bash", &["-c", &lines]))
    }

    fn kill_test(&self, words: &[&str]) -> Result<Command, String> {
        let lab = self.shared("lab/lab")?;
        let name = words.join("").replace(|c: char| !c.is_ascii_alphanumeric(), "");
        let directory = self.work.join(&name);
        let lines = format!("mkdir {} && {}", directory.display(), self.fresh(&name));
        shell::output(command("bash", &["-c", &lines])).map_err(|failure| failure.to_string())?;
        let socket = directory.join("sock");
        let serve = format!(
            "export STRANDLINE_KEY_FILE={dir}/key; exec {} -s {dir}/store serve --nbd unix:{}",
            self.program(),
            socket.display(),
            dir = directory.display(),
        );
        let mut check = command(lab, &["kill-test", "--serve", &serve, "--uri"]);
        check.arg(format!("{}:vol", socket.display())).args(words);
        Ok(check)
    }

    fn power_cut(
        &self,
        file_system: &str,
        segments: Segments,
        words: &[&str],
    ) -> Result<Command, String> {
        let lab = self.shared("lab/lab")?;
        let program = self.program();
        let name = format!("{file_system}{segments:?}{}", words.concat());
        let key = self.work.join(format!("{name}.key"));
        let size = match segments {
            Segments::New => "8M",
            Segments::Used => "1M",
        };
        let mut init = format!(
            "{program} store init $STORE --segment-size {size} && \
             {program} -s $STORE vol create vol --size 128M"
        );
        if let Segments::Used = segments {
            let stamp = self.shared("lab/stamp.py")?;
            // Behind what the recorded writer and its second run (`--again`) write.
            let used = format!(
                " || exit 1; {program} -s $STORE serve --nbd unix:$STORE/used & server=$!; \
                 trap 'kill $server' EXIT; \
                 until [ -S $STORE/used ]; do kill -0 $server || exit 1; sleep 0.05; done; \
                 {} write \"nbd+unix:///vol?socket=$STORE/used\" --log {} \
                 --base 67108864 --span 64M --maxlen 4 --depth 8 --flush-every 16 --count 6000 && \
                 trap - EXIT && kill $server && wait $server",
                stamp.display(),
                self.work.join(format!("{name}.log")).display(),
            );
            init.push_str(&used);
        }
        let mut check = command(lab, &["power-cut", "--fs", file_system, "--size", "1G"]);
        check
            .env("STRANDLINE_KEY_FILE", key)
            .args(["--export", "vol", "--init", &init, "--server"]);
        check.arg(format!("exec {program} -s $STORE serve --nbd unix:$SOCK")).args(words);
        Ok(check)
    }

    fn guests(&self, what: &str) -> Result<Command, String> {
        let lab = self.shared("lab/lab")?;
        let script = shell::root().join("e2e/python/guests.py");
        let mut check = command("python3", &[script]);
        check.args([what, "--program", &self.program(), "--lab"]).arg(lab);
        Ok(check)
    }
}
