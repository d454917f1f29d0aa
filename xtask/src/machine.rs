//! What was measured on: processor, memory, kernel, disk, versions. Read, never guessed.

use crate::shell::{self, Failure, command};
use std::{fs, os::unix::fs::MetadataExt, path::Path};

/// The block device below a directory, for its counters.
#[derive(Debug)]
pub(crate) struct Device {
    counters: String,
    /// `MAJOR:MINOR`, as the kernel names it.
    pub(crate) number: String,
}

impl Device {
    /// The device that holds `directory`; fails on file systems without one (tmpfs, overlay).
    pub(crate) fn below(directory: &Path) -> Result<Self, Failure> {
        let device = fs::metadata(directory)?.dev();
        let major = (device >> 8) & 0xfff;
        let minor = (device & 0xff) | ((device >> 12) & 0xfff00);
        let number = format!("{major}:{minor}");
        let counters = format!("/sys/dev/block/{number}/stat");
        if Path::new(&counters).exists() {
            Ok(Self { counters, number })
        } else {
            Err(Failure(format!("{}: no block device counts its writes", directory.display())))
        }
    }

    /// Bytes written to the device since the machine started.
    pub(crate) fn written_bytes(&self) -> Result<u64, Failure> {
        let text = fs::read_to_string(&self.counters)?;
        let sectors = text.split_whitespace().nth(6).and_then(|word| word.parse::<u64>().ok());
        sectors
            .map(|sectors| sectors * 512)
            .ok_or_else(|| Failure(format!("{}: not as expected", self.counters)))
    }
}

/// Lines of a table: what, which.
pub(crate) fn facts(directory: &Path, program: &Path) -> Vec<(&'static str, String)> {
    let first = |program: &str, arguments: &[&str]| {
        shell::output(command(program, arguments))
            .ok()
            .and_then(|text| text.lines().find(|line| !line.trim().is_empty()).map(str::to_owned))
            .unwrap_or_else(|| "not told".into())
    };
    let of = |path: &str, key: &str| {
        fs::read_to_string(path)
            .unwrap_or_default()
            .lines()
            .find(|line| line.starts_with(key))
            .and_then(|line| line.split_once(':').map(|(_, value)| value.trim().to_owned()))
            .unwrap_or_else(|| "not told".into())
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let mount =
        first("findmnt", &["-no", "SOURCE,FSTYPE,OPTIONS", "-T", &directory.to_string_lossy()]);
    vec![
        ("processor", format!("{} ({cores} cores)", of("/proc/cpuinfo", "model name"))),
        ("memory", of("/proc/meminfo", "MemTotal")),
        ("kernel", first("uname", &["-sr"])),
        ("system", of_release()),
        ("disk", format!("{mount}; {}", scheduler(directory))),
        ("strandline", first(&program.to_string_lossy(), &["--version"])),
        ("compiler", first("rustc", &["--version"])),
        ("qemu-nbd", first("qemu-nbd", &["--version"])),
        ("nbdkit", first("nbdkit", &["--version"])),
        ("fio", first("fio", &["--version"])),
    ]
}

fn of_release() -> String {
    fs::read_to_string("/etc/os-release")
        .unwrap_or_default()
        .lines()
        .find_map(|line| {
            line.strip_prefix("PRETTY_NAME=").map(|name| name.trim_matches('"').to_owned())
        })
        .unwrap_or_else(|| "not told".into())
}

fn scheduler(directory: &Path) -> String {
    let Ok(device) = Device::below(directory) else { return "no block device of its own".into() };
    let queue = format!("/sys/dev/block/{}/queue", device.number);
    let read = |name: &str| {
        fs::read_to_string(format!("{queue}/{name}"))
            .map_or("?".into(), |text| text.trim().to_owned())
    };
    format!(
        "scheduler {}, write cache {}, fua {}",
        read("scheduler"),
        read("write_cache"),
        read("fua")
    )
}

/// Of the checkout that a program is built from.
pub(crate) fn revision() -> String {
    let short = shell::output(command("git", &["rev-parse", "--short=12", "HEAD"]));
    // The pages that report it are written by the measuring itself.
    let but = [":/", ":!/docs/measurements.md", ":!/docs/measurements-images.md"];
    let mut changed = command("git", &["status", "--porcelain", "--untracked-files=no", "--"]);
    changed.args(but);
    let changed = shell::output(changed);
    match (short, changed) {
        (Ok(short), Ok(changed)) if changed.trim().is_empty() => short.trim().to_owned(),
        (Ok(short), _) => format!("{} and uncommitted changes", short.trim()),
        _ => "revision not told".into(),
    }
}
