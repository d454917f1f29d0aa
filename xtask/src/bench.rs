//! `cargo xtask bench nbd`: speed beside other servers, and the page that reports it.
//!
//! The shared script measures; reads and writes each on a fresh store, because a store grows. What it
//! found is kept in `target/bench/*.json`; `--report` writes the page from there alone.

use crate::{
    machine, report,
    shell::{self, Failure, cargo, run, shared},
    sustained,
};
use serde_json::Value;
use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// Rounds of each row; a ratio is the median of the rounds' ratios.
pub(crate) const ROUNDS: &str = "5";
/// Seconds of each run of a row.
pub(crate) const SECONDS: &str = "3";
/// Servers measured beside us: qemu-nbd on a raw file with cache=none, nbdkit in memory.
pub(crate) const PEERS: &str = "qraw,kmem";

/// Two halves, each on a fresh store: name and regular expression of rows.
pub(crate) const HALVES: [(&str, &str); 2] = [("reads", "read"), ("writes", "write|mixed")];

/// Runs all measurements, or those named by `--only reads|writes|sustained`, then writes the page.
fn measure(words: &Options) -> Result<(), Failure> {
    let program = build()?;
    let kept = results();
    fs::create_dir_all(&kept)?;
    for (name, rows) in HALVES {
        if words.wants(name) {
            half(&program, words, name, rows)?;
            note_revision(&kept.join(format!("{name}.json")))?;
        }
    }
    if words.wants("sustained") {
        let measured = sustained::measure(&program, &words.directory())?;
        let kept = kept.join("sustained.json");
        fs::write(&kept, measured.to_string())?;
        note_revision(&kept)?;
    }
    Ok(())
}

/// Parts of the page may be measured at different times: each says of which revision.
fn note_revision(kept: &Path) -> Result<(), Failure> {
    let mut measured: Value = serde_json::from_str(&fs::read_to_string(kept)?)
        .map_err(|error| Failure(format!("{}: {error}", kept.display())))?;
    measured["revision"] = machine::revision().into();
    Ok(fs::write(kept, measured.to_string())?)
}

/// Arguments of `bench nbd`.
#[derive(Debug, Default)]
struct Options {
    directory: Option<PathBuf>,
    only: Option<String>,
    report: bool,
}

impl Options {
    fn parse(arguments: &[&str]) -> Result<Self, Failure> {
        let mut options = Self::default();
        let mut rest = arguments.iter();
        while let Some(word) = rest.next() {
            match (*word, rest.as_slice().first()) {
                ("--report", _) => options.report = true,
                ("--dir", Some(directory)) => {
                    options.directory = Some(directory.into());
                    rest.next();
                }
                ("--only", Some(name)) => {
                    options.only = Some((*name).to_owned());
                    rest.next();
                }
                _ => return Err(Failure(format!("bench nbd knows no `{word}`"))),
            }
        }
        Ok(options)
    }

    fn wants(&self, name: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == name)
    }

    /// Where the servers' data lie: the disk that is measured.
    fn directory(&self) -> PathBuf {
        self.directory.clone().unwrap_or_else(env::temp_dir)
    }
}

/// The verb.
pub(crate) fn nbd(arguments: &[&str]) -> Result<(), Failure> {
    let options = Options::parse(arguments)?;
    if !options.report {
        shell::install_tools()?;
        measure(&options)?;
    }
    let read = |name: &str| -> Option<Value> {
        let text = fs::read_to_string(results().join(format!("{name}.json"))).ok()?;
        serde_json::from_str(&text).ok()
    };
    let halves: Vec<(&str, Option<Value>)> =
        HALVES.iter().map(|(name, _)| (*name, read(name))).collect();
    let program = release_program();
    let page = report::page(&options.directory(), &program, &halves, read("sustained").as_ref())?;
    let path = shell::root().join("docs/measurements.md");
    fs::write(&path, page.text)?;
    println!("wrote {}", path.display());
    if page.short.is_empty() {
        Ok(())
    } else {
        Err(Failure(format!("below what is required: {}", page.short.join(", "))))
    }
}

/// The command that the script starts as the server under test.
pub(crate) fn candidate(program: &Path) -> String {
    let program = program.display();
    format!(
        "export STRANDLINE_KEY_FILE=\"$DIR/key\"; {program} store init \"$DIR/store\" && \
         {program} -s \"$DIR/store\" vol create vol --size \"${{SIZE}}\" && \
         exec {program} -s \"$DIR/store\" serve --nbd \"unix:$SOCK\" --default vol"
    )
}

fn half(program: &Path, options: &Options, name: &str, rows: &str) -> Result<(), Failure> {
    let script = shared()
        .ok_or_else(|| {
            Failure(
                "not run: the shared scripts are absent (../shared or $STRANDLINE_SHARED)".into(),
            )
        })?
        .join("bench/nbd_perf.sh");
    let kept = results().join(format!("{name}.json"));
    println!("== {name}");
    let mut measure = shell::command(script, &["--rows", "full", "--seconds", SECONDS]);
    measure.args(["--rounds", ROUNDS, "--peers", PEERS, "--only", rows]);
    measure.arg("--dir").arg(options.directory()).arg("--json").arg(kept);
    measure.args(["--candidate", &candidate(program)]);
    run(measure)
}

/// Builds the program as it is delivered.
pub(crate) fn build() -> Result<PathBuf, Failure> {
    run(cargo(&["build", "--release", "--package", "strandline", "--bin", "strandline"]))?;
    Ok(release_program())
}

fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or(shell::root().join("target"), PathBuf::from)
}

fn release_program() -> PathBuf {
    target().join("release/strandline")
}

fn results() -> PathBuf {
    target().join("bench")
}
