//! `cargo xtask bench images`: conversions and reads of images beside QEMU's tools, in one run.
//!
//! One disk of known content in every format that is read; each task is done by us and by the peer in
//! turns, the first alternating, so that neither always meets a warmer cache. A run ends when what it
//! wrote is on the device (`sync` of the file), whoever writes it: one tool syncs by itself, the other
//! does not. The sources lie in the page cache, as both read them by way of it. What was written is
//! compared with the source by `qemu-img compare` once, before anything is timed.

use crate::{
    machine,
    shell::{self, Failure, command},
};
use serde_json::{Value, json};
use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Bytes that the guest sees.
const DISK_BYTES: u64 = 4 << 30;
/// Of these, so many hold something: half random, half text-like.
const DATA_BYTES: u64 = 1 << 30;
/// Length of a stretch of data of one kind.
const STRETCH_BYTES: u64 = 4 << 20;
/// Runs of each task by each program.
const ROUNDS: usize = 5;
/// How long a server may take to start or to stop.
const PATIENCE: Duration = Duration::from_mins(1);
/// The most memory a conversion of ours may hold.
const MEMORY_MOST_BYTES: u64 = 128 << 20;

/// Something that both can do.
struct Task {
    name: &'static str,
    from: &'static str,
    what: What,
    /// Least ratio of speeds, ours / theirs.
    required: f64,
}

enum What {
    /// Suffix of the output; our options; theirs.
    Convert(&'static str, &'static [&'static str], &'static [&'static str]),
    /// The whole disk over NBD, to nowhere.
    Serve(&'static str),
}

const TASKS: [Task; 6] = [
    Task {
        name: "qcow2 to raw",
        from: "qcow2",
        what: What::Convert("raw", &["--to", "raw"], &["-O", "raw"]),
        required: 1.0,
    },
    Task {
        name: "VHDX to raw",
        from: "vhdx",
        what: What::Convert("raw", &["--to", "raw"], &["-O", "raw"]),
        required: 1.0,
    },
    Task {
        name: "raw to qcow2, zstd",
        from: "raw",
        what: What::Convert(
            "qcow2",
            &["--to", "qcow2", "--subformat", "zstd"],
            &["-O", "qcow2", "-c", "-o", "compression_type=zstd"],
        ),
        required: 1.0,
    },
    Task {
        name: "raw to VHDX",
        from: "raw",
        what: What::Convert("vhdx", &["--to", "vhdx"], &["-O", "vhdx"]),
        required: 1.0,
    },
    Task {
        name: "raw to VMDK, streamOptimized",
        from: "raw",
        what: What::Convert(
            "vmdk",
            &["--to", "vmdk", "--subformat", "streamOptimized"],
            &["-O", "vmdk", "-o", "subformat=streamOptimized"],
        ),
        required: 1.7,
    },
    Task {
        name: "VHDX read whole over NBD",
        from: "vhdx",
        what: What::Serve("vhdx"),
        required: 5.0,
    },
];

/// The verb.
pub(crate) fn images(arguments: &[&str]) -> Result<(), Failure> {
    let below = match arguments {
        [] => std::env::temp_dir(),
        ["--dir", directory] => PathBuf::from(directory),
        _ => return Err(Failure("bench images [--dir D]".into())),
    };
    shell::install_tools()?;
    let program = crate::bench::build()?;
    let bench = Bench { program, directory: Scratch::new(&below)? };
    bench.make_sources()?;
    let mut measured = Vec::new();
    for task in &TASKS {
        println!("== {}", task.name);
        measured.push(bench.measure(task)?);
    }
    let page = page(&below, &bench.program, &measured);
    let path = shell::root().join("docs/measurements-images.md");
    fs::write(&path, page.text)?;
    println!("wrote {}", path.display());
    match page.short.as_slice() {
        [] => Ok(()),
        short => Err(Failure(format!("below what is required: {}", short.join(", ")))),
    }
}

struct Bench {
    program: PathBuf,
    directory: Scratch,
}

/// One run: seconds, and the most memory it held.
struct Run {
    seconds: f64,
    memory_bytes: u64,
}

impl Bench {
    fn source(&self, format: &str) -> PathBuf {
        self.directory.0.join(format!("source.{format}"))
    }

    fn make_sources(&self) -> Result<(), Failure> {
        println!("== sources: {} GiB, {} GiB of it data", DISK_BYTES >> 30, DATA_BYTES >> 30);
        let raw = self.source("raw");
        write_disk(&raw)?;
        for format in ["qcow2", "vhdx"] {
            let mut convert = command("qemu-img", &["convert", "-f", "raw", "-O", format]);
            convert.arg(&raw).arg(self.source(format));
            shell::run(convert)?;
        }
        Ok(())
    }

    fn measure(&self, task: &Task) -> Result<Value, Failure> {
        if let What::Convert(suffix, ..) = task.what {
            let out = self.out(suffix);
            for ours in [true, false] {
                self.once(task, ours)?;
                let mut content = command("qemu-img", &["compare", "-f", "raw", "-F", suffix]);
                content.arg(self.source("raw")).arg(&out).stdout(Stdio::null());
                shell::run(content)?;
            }
        }
        let (mut ours, mut theirs, mut memory) = (Vec::new(), Vec::new(), 0);
        for round in 0..ROUNDS {
            for first in [true, false] {
                let own = first == (round % 2 == 0);
                let run = self.once(task, own)?;
                println!(
                    "  {:<10} {:>7.2} s  {:>4} MiB",
                    if own { "strandline" } else { "peer" },
                    run.seconds,
                    run.memory_bytes >> 20
                );
                if own {
                    ours.push(run.seconds);
                    memory = memory.max(run.memory_bytes);
                } else {
                    theirs.push(run.seconds);
                }
            }
        }
        Ok(json!({ "name": task.name, "required": task.required, "ours_s": ours,
            "theirs_s": theirs, "memory_bytes": memory }))
    }

    fn out(&self, suffix: &str) -> PathBuf {
        self.directory.0.join(format!("out.{suffix}"))
    }

    fn once(&self, task: &Task, own: bool) -> Result<Run, Failure> {
        let source = self.source(task.from);
        match task.what {
            What::Convert(suffix, ours, theirs) => {
                let out = self.out(suffix);
                if out.exists() {
                    fs::remove_file(&out)?;
                }
                shell::run(command("sync", &["-f", &self.directory.0.to_string_lossy()]))?;
                let convert = if own {
                    let mut convert = command(&self.program, &["image", "convert"]);
                    convert.args(["--format", task.from, "--progress", "none"]).args(ours);
                    convert.arg(source).arg(&out);
                    convert
                } else {
                    let mut convert = command("qemu-img", &["convert", "-f", task.from]);
                    convert.args(theirs).arg(source).arg(&out);
                    convert
                };
                let began = Instant::now();
                let memory_bytes = peak_of(convert)?;
                shell::run(command("sync", &[&out]))?;
                Ok(Run { seconds: began.elapsed().as_secs_f64(), memory_bytes })
            }
            What::Serve(format) => self.serve(&source, format, own),
        }
    }

    /// Serves an image and reads all of it by nbdcopy; the server's start is not timed.
    fn serve(&self, source: &Path, format: &str, own: bool) -> Result<Run, Failure> {
        let socket = self.directory.0.join("s");
        let mut serve = if own {
            let mut serve = command(&self.program, &["image", "open"]);
            serve.arg(source).args(["--format", format, "--nbd"]);
            serve.arg(format!("unix:{}", socket.display()));
            serve
        } else {
            let mut serve = command("qemu-nbd", &["-r", "-t", "-e", "16", "-f", format, "-k"]);
            serve.arg(&socket).arg(source);
            serve
        };
        let log = fs::File::create(self.directory.0.join("log"))?;
        let child = serve.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let mut server = Server(child);
        let began = Instant::now();
        while UnixStream::connect(&socket).is_err() {
            if server.0.try_wait()?.is_some() || began.elapsed() > PATIENCE {
                let said = fs::read_to_string(self.directory.0.join("log")).unwrap_or_default();
                return Err(Failure(format!("the server of {format} did not start:\n{said}")));
            }
            thread::sleep(Duration::from_millis(5)); // between two looks at a condition
        }
        let uri = format!("nbd+unix:///?socket={}", socket.display());
        let began = Instant::now();
        shell::run(command("nbdcopy", &[&uri, "null:"]))?;
        let seconds = began.elapsed().as_secs_f64();
        let memory_bytes = peak(server.0.id()).unwrap_or(0);
        drop(server);
        if socket.exists() {
            fs::remove_file(&socket)?;
        }
        Ok(Run { seconds, memory_bytes })
    }
}

/// Writes the disk that all sources hold: stretches spread over it, every second of random bytes.
fn write_disk(path: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::FileExt as _;
    let file = fs::File::create(path)?;
    file.set_len(DISK_BYTES)?;
    let stretches = DATA_BYTES / STRETCH_BYTES;
    let step = DISK_BYTES / stretches;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for stretch in 0..stretches {
        let mut bytes = Vec::new();
        let mut line = 0_u64;
        while bytes.len() < usize::try_from(STRETCH_BYTES).unwrap_or(usize::MAX) {
            // xorshift64: noise that no packer makes smaller, the same in every run.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            if stretch % 2 == 0 {
                bytes.extend_from_slice(&state.to_le_bytes());
            } else {
                line += 1;
                writeln!(bytes, "{line:08} host{} GET /item/{} 200", state % 64, state % 9973)?;
            }
        }
        bytes.truncate(usize::try_from(STRETCH_BYTES).unwrap_or(usize::MAX));
        file.write_all_at(&bytes, stretch * step)?;
    }
    Ok(file.sync_all()?)
}

/// Runs to its end; the most memory the process held, in bytes, as looked at every few milliseconds.
fn peak_of(mut command: Command) -> Result<u64, Failure> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    let mut most = 0;
    loop {
        most = peak(child.id()).unwrap_or(0).max(most);
        if let Some(status) = child.try_wait()? {
            return if status.success() {
                Ok(most)
            } else {
                Err(Failure(format!("{}: {status}", command.get_program().to_string_lossy())))
            };
        }
        thread::sleep(Duration::from_millis(5)); // between two looks at a condition
    }
}

/// The kernel's high-water mark of a process' resident memory, in bytes.
fn peak(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

/// A server that ends with us.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let pid = self.0.id().to_string();
        let _ = shell::run(command("kill", &["-TERM", &pid]));
        let began = Instant::now();
        while matches!(self.0.try_wait(), Ok(None)) && began.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(5)); // between two looks at a condition
        }
        // Both fail when it has ended, as they should.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A directory that goes with us.
struct Scratch(PathBuf);

impl Scratch {
    fn new(below: &Path) -> Result<Self, Failure> {
        let directory = below.join(format!("strandline-images-{}", std::process::id()));
        fs::create_dir_all(&directory)?;
        Ok(Self(directory))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

struct Page {
    text: String,
    short: Vec<String>,
}

fn page(directory: &Path, program: &Path, measured: &[Value]) -> Page {
    let mut page = Page { text: String::new(), short: Vec::new() };
    page.text.push_str(
        "# Measurements of images\n\nGenerated by `cargo xtask bench images`; do not edit. Times until what was written is on the device.\n\
         Ratios are speeds, ours / theirs, within a round; beside the median: least-greatest.\n\n| | |\n|---|---|\n",
    );
    let mut line = |text: &str| {
        page.text.push_str(text);
        page.text.push('\n');
    };
    for (what, which) in machine::facts(directory, program) {
        line(&format!("| {what} | {which} |"));
    }
    line(&format!("| revision | {} |", machine::revision()));
    line(&format!(
        "\nA disk of {} GiB with {} GiB of data, {ROUNDS} rounds in turns. Peer: qemu-img, qemu-nbd.\n",
        DISK_BYTES >> 30,
        DATA_BYTES >> 30
    ));
    line("| task | ours | theirs | ratio | required | our memory |\n|---|---|---|---|---|---|");
    for task in measured {
        let times = |key: &str| -> Vec<f64> {
            task[key].as_array().into_iter().flatten().filter_map(Value::as_f64).collect()
        };
        let (ours, theirs) = (times("ours_s"), times("theirs_s"));
        let mut ratios: Vec<f64> = theirs.iter().zip(&ours).map(|(t, o)| t / o).collect();
        ratios.sort_by(f64::total_cmp);
        let middle = |values: &[f64]| {
            let mut values = values.to_vec();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
        };
        let (ratio, required) = (middle(&ratios), task["required"].as_f64().unwrap_or(f64::NAN));
        let memory = task["memory_bytes"].as_u64().unwrap_or(u64::MAX);
        let name = task["name"].as_str().unwrap_or("?");
        let mut verdict = format!("{required:.1}");
        if ratio.is_nan() || ratio < required {
            verdict.push_str(" **missed**");
            page.short.push(name.to_owned());
        }
        let mut held = format!("{} MiB", memory >> 20);
        if memory >= MEMORY_MOST_BYTES {
            held.push_str(" **too much**");
            page.short.push(format!("{name}: memory"));
        }
        // Writing to a String cannot fail.
        let _ = writeln!(
            page.text,
            "| {name} | {:.2} s | {:.2} s | {ratio:.2} ({:.2}-{:.2}) | {verdict} | {held} |",
            middle(&ours),
            middle(&theirs),
            ratios.first().copied().unwrap_or(f64::NAN),
            ratios.last().copied().unwrap_or(f64::NAN),
        );
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_that_is_slow_or_holds_much_is_named() {
        let slow = json!({ "name": "slow", "required": 1.0, "ours_s": [2.0, 2.0, 9.0],
            "theirs_s": [1.0, 1.0, 1.0], "memory_bytes": 1 });
        let large = json!({ "name": "large", "required": 1.0, "ours_s": [1.0], "theirs_s": [1.0],
            "memory_bytes": MEMORY_MOST_BYTES });
        let page = page(Path::new("/"), Path::new("true"), &[slow, large]);
        assert_eq!(page.short, ["slow", "large: memory"]);
        assert!(
            page.text.contains("| slow | 2.00 s | 1.00 s | 0.50 (0.11-0.50) | 1.0 **missed** |")
        );
    }

    #[test]
    fn our_own_memory_is_told() {
        assert!(peak(std::process::id()).is_some_and(|bytes| bytes > 1 << 16));
    }
}
