//! `cargo xtask test`: every test in its short form, and the totals.
//!
//! The workspace's own tests run first, then those of `e2e/`, one file each, because a file may need
//! what is not here: the shared scripts, or root with FUSE and loop devices. Such a file is counted
//! and named as not run, never passed over in silence.

use crate::shell::{self, Failure, cargo, on_path, root, shared, succeeds_quietly, watched};
use std::{fs, path::Path, process::Command};

/// What a file of `e2e/tests` needs beyond installed tools.
const NEEDS: &[(&str, &[Need])] = &[
    ("conformance", &[Need::Shared]),
    ("guest_mounts", &[Need::Root, Need::Devices]),
    ("images", &[Need::Shared]),
    ("kills", &[Need::Shared]),
    ("mount", &[Need::Root, Need::Fuse]),
    ("power_cut", &[Need::Shared, Need::Root, Need::Devices]),
];

#[derive(Clone, Copy, Debug)]
enum Need {
    Shared,
    Root,
    Fuse,
    Devices,
}

impl Need {
    /// Why it is missing, or `None` if it is there.
    fn missing(self) -> Option<&'static str> {
        match self {
            Self::Shared => shared()
                .is_none()
                .then_some("the shared scripts are absent (../shared or $STRANDLINE_SHARED)"),
            Self::Root => (!shell::is_root()).then_some("not root"),
            Self::Fuse => (!Path::new("/dev/fuse").exists()).then_some("no /dev/fuse"),
            Self::Devices => {
                let there =
                    ["/dev/fuse", "/dev/loop-control"].iter().all(|path| Path::new(path).exists());
                (!there).then_some("no /dev/fuse or /dev/loop-control")
            }
        }
    }
}

/// Results of all runs, summed.
#[derive(Debug, Default)]
struct Totals {
    passed: u64,
    failed: u64,
    ignored: u64,
    failing_steps: Vec<String>,
}

/// Runs everything; an error if a test failed, or with `--strict` if one could not run.
pub(crate) fn test(arguments: &[&str]) -> Result<(), Failure> {
    let strict = match arguments {
        [] => false,
        ["--strict"] => true,
        _ => return Err(Failure("usage: cargo xtask test [--strict]".into())),
    };
    shell::install_tools()?;
    let nextest = on_path("cargo-nextest") || succeeds_quietly(cargo(&["nextest", "--version"]));
    let mut totals = Totals::default();
    let (mut files, mut not_run) = (Vec::new(), Vec::new());
    for file in e2e_files()? {
        let needs =
            NEEDS.iter().find(|(name, _)| *name == file).map_or(&[][..], |(_, needs)| *needs);
        match needs.iter().find_map(|need| need.missing()) {
            None => files.push(file),
            Some(why) => not_run.push(format!("e2e/tests/{file}.rs: {why}")),
        }
    }
    totals.step(
        "tests of the workspace",
        tests(nextest, &["--workspace", "--exclude", "strandline-e2e"], &[]),
    )?;
    let library = ["test", "--quiet", "--doc", "--workspace", "--exclude", "strandline-e2e"];
    totals.step("examples in documentation", cargo(&library))?;
    let mut chosen = vec!["--package", "strandline-e2e"];
    for file in &files {
        chosen.extend(["--test", file]);
    }
    // Two at a time: each drives a server and a client of its own.
    totals.step("other people's clients", tests(nextest, &chosen, &["--test-threads", "2"]))?;
    totals.close(&not_run, strict)
}

/// The files of `e2e/tests`, by name.
fn e2e_files() -> Result<Vec<String>, Failure> {
    let mut names = Vec::new();
    for entry in fs::read_dir(root().join("e2e/tests"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

/// The runner that is there, over `chosen`; `limits` are words that both runners know.
fn tests(nextest: bool, chosen: &[&str], limits: &[&str]) -> Command {
    let mut command = if nextest {
        let mut command = cargo(&["nextest", "run", "--no-fail-fast", "--status-level", "slow"]);
        command.args(["--final-status-level", "fail"]).args(chosen).args(limits);
        command
    } else {
        let mut command = cargo(&["test", "--no-fail-fast", "--lib", "--bins", "--tests"]);
        if chosen.contains(&"--test") {
            command = cargo(&["test", "--no-fail-fast"]);
        }
        command.args(chosen).arg("--").args(limits);
        command
    };
    command.env("CARGO_TERM_COLOR", "never");
    command
}

impl Totals {
    fn step(&mut self, name: &str, mut command: Command) -> Result<(), Failure> {
        println!("\n== {name}");
        let (mut passed, mut failed, mut ignored) = (0, 0, 0);
        let done = watched(&mut command, |line| {
            if let Some([p, f, i]) = counts(line) {
                passed += p;
                failed += f;
                ignored += i;
            }
        })?;
        self.passed += passed;
        self.failed += failed;
        self.ignored += ignored;
        if !done {
            self.failing_steps.push(name.to_owned());
        }
        Ok(())
    }

    fn close(self, not_run: &[String], strict: bool) -> Result<(), Failure> {
        println!("\n== totals");
        println!(
            "{} passed, {} failed, {} ignored, {} files not run",
            self.passed,
            self.failed,
            self.ignored,
            not_run.len()
        );
        for line in not_run {
            println!("not run: {line}");
        }
        if !self.failing_steps.is_empty() {
            return Err(Failure(format!("failed: {}", self.failing_steps.join(", "))));
        }
        if self.ignored > 0 {
            return Err(Failure("a test is ignored: mend it or remove it".into()));
        }
        if strict && !not_run.is_empty() {
            return Err(Failure("--strict, and not everything could run".into()));
        }
        Ok(())
    }
}

/// (passed, failed, ignored) of a summary line of cargo-nextest or of cargo test.
fn counts(line: &str) -> Option<[u64; 3]> {
    let line = line.trim();
    let summary = line.strip_prefix("Summary").or_else(|| line.strip_prefix("test result:"))?;
    let mut found = [0; 3];
    let words: Vec<&str> =
        summary.split(|c: char| c.is_whitespace() || c == ',' || c == ';').collect();
    let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
    for pair in words.windows(2) {
        let place = match pair[1] {
            "passed" => 0,
            "failed" | "timed" => 1,
            "ignored" => 2,
            _ => continue,
        };
        found[place] += pair[0].parse::<u64>().unwrap_or(0);
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::counts;

    #[test]
    fn both_runners_summaries_are_counted() {
        let nextest =
            "     Summary [   1.234s] 12 tests run: 10 passed (1 slow), 2 failed, 3 skipped";
        assert_eq!(counts(nextest), Some([10, 2, 0]));
        let cargo = "test result: ok. 7 passed; 0 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.1s";
        assert_eq!(counts(cargo), Some([7, 0, 1]));
        assert_eq!(counts("running 7 tests"), None);
    }
}
