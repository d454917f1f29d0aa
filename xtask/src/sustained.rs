//! Sixty seconds of 4 KiB random writes, where bursts end: rate, tail, and what the disk paid for it.
//!
//! Three servers in turn over the same client (fio's nbd engine): ours with packing, ours with
//! `--no-pack`, qemu-nbd on a raw file with cache=none whose blocks were written before. Device bytes
//! come from the kernel's counter of the device below, from the first write to the end of the stopped
//! server and `syncfs`, so that work put off is counted. Nothing else may write to that device
//! meanwhile; the counter cannot tell.
//!
//! Bytes stored are the growth of the store's allocated blocks for each byte written, at queue depths
//! 1 and 32, after the server stopped.

use crate::{
    machine::Device,
    shell::{self, Failure, command},
};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::{fs::MetadataExt, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Bytes of the disk that is written to.
const SIZE_BYTES: u64 = 4 << 30;
/// Length of a sustained run.
const SUSTAINED_S: u32 = 60;
/// Length of a run that only counts what is stored.
const STORED_S: u32 = 20;
/// How long a server may take to start or to stop.
const PATIENCE: Duration = Duration::from_mins(2);

/// One way to serve, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Packing,
    NoPack,
    Qemu,
}

impl Way {
    const ALL: [Self; 3] = [Self::Packing, Self::NoPack, Self::Qemu];

    fn name(self) -> &'static str {
        match self {
            Self::Packing => "strandline",
            Self::NoPack => "strandline --no-pack",
            Self::Qemu => "qemu-nbd raw, cache=none",
        }
    }
}

/// All runs, as the report reads them.
pub(crate) fn measure(program: &Path, below: &Path) -> Result<Value, Failure> {
    let device = Device::below(below)?;
    let mut sustained = Vec::new();
    for way in Way::ALL {
        println!("== sustained: {}", way.name());
        sustained.push(one(program, below, &device, way, 32, SUSTAINED_S)?);
    }
    let mut stored = Vec::new();
    for way in [Way::Packing, Way::NoPack] {
        for depth in [1, 32] {
            println!("== bytes stored: {}, depth {depth}", way.name());
            stored.push(one(program, below, &device, way, depth, STORED_S)?);
        }
    }
    Ok(json!({ "sustained": sustained, "stored": stored }))
}

fn one(
    program: &Path,
    below: &Path,
    device: &Device,
    way: Way,
    depth: u32,
    seconds: u32,
) -> Result<Value, Failure> {
    let served = Served::start(program, below, way)?;
    let base = shell_sync(&served.directory).and_then(|()| device.written_bytes())?;
    let stored_before = allocated_bytes(&served.directory)?;
    let mut fio = command("fio", &["--name=x", "--output-format=json", "--ioengine=nbd"]);
    fio.args(["--rw=randwrite", "--bs=4k", "--refill_buffers", "--randrepeat=0", "--norandommap"]);
    fio.args(["--thread", "--time_based", "--percentile_list=50:99:99.9"]);
    fio.arg(format!("--uri=nbd+unix:///?socket={}", served.socket().display()));
    fio.arg(format!("--iodepth={depth}")).arg(format!("--runtime={seconds}"));
    fio.arg(format!("--size={SIZE_BYTES}"));
    let text = shell::output(fio)?;
    let begin = text.find('{').ok_or_else(|| Failure("fio printed no JSON".into()))?;
    let told: Value =
        serde_json::from_str(&text[begin..]).map_err(|error| Failure(format!("fio: {error}")))?;
    let write = &told["jobs"][0]["write"];
    let written = write["io_bytes"].as_u64().filter(|bytes| *bytes > 0);
    let written = written.ok_or_else(|| Failure("fio wrote nothing".into()))?;
    let directory = served.stop()?;
    shell_sync(&directory)?;
    let device_bytes = device.written_bytes()?.saturating_sub(base);
    let stored_bytes = allocated_bytes(&directory)?.saturating_sub(stored_before);
    fs::remove_dir_all(&directory)?;
    Ok(json!({
        "way": way.name(),
        "depth": depth,
        "seconds": seconds,
        "iops": write["iops"],
        "p50_ns": write["clat_ns"]["percentile"]["50.000000"],
        "p999_ns": write["clat_ns"]["percentile"]["99.900000"],
        "written_bytes": written,
        "device_bytes": device_bytes,
        "stored_bytes": stored_bytes,
    }))
}

/// A server over a directory of its own.
struct Served {
    directory: PathBuf,
    child: Child,
}

impl Served {
    fn start(program: &Path, below: &Path, way: Way) -> Result<Self, Failure> {
        let directory = below.join(format!("strandline-bench-{}", std::process::id()));
        fs::create_dir(&directory)?;
        let (store, key) = (directory.join("store"), directory.join("key"));
        let socket = directory.join("nbd.sock");
        let mut serve = if way == Way::Qemu {
            let raw = directory.join("disk.raw");
            let mut fill =
                command("dd", &["if=/dev/urandom", "bs=1M", "oflag=direct", "status=none"]);
            fill.arg(format!("of={}", raw.display())).arg(format!("count={}", SIZE_BYTES >> 20));
            shell::run(fill)?;
            let mut serve = command("qemu-nbd", &["-t", "-e", "16", "-f", "raw", "--cache=none"]);
            serve.args(["--aio=native", "-k"]).arg(&socket).arg(raw);
            serve
        } else {
            let ours = |words: &[&str]| -> Command {
                let mut command = command(program, &["-s"]);
                command.arg(&store).args(words).env("STRANDLINE_KEY_FILE", &key);
                command
            };
            let mut init = command(program, &["store", "init"]);
            init.arg(&store).env("STRANDLINE_KEY_FILE", &key).stdout(Stdio::null());
            shell::run(init)?;
            shell::output(ours(&["vol", "create", "vol", "--size", &SIZE_BYTES.to_string()]))?;
            let mut serve = ours(&["serve", "--default", "vol", "--nbd"]);
            serve.arg(format!("unix:{}", socket.display()));
            if way == Way::NoPack {
                serve.arg("--no-pack");
            }
            serve
        };
        let log = fs::File::create(directory.join("log"))?;
        let child = serve.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let mut served = Self { directory, child };
        let began = Instant::now();
        while UnixStream::connect(served.socket()).is_err() {
            if served.child.try_wait()?.is_some() || began.elapsed() > PATIENCE {
                let said = fs::read_to_string(served.directory.join("log")).unwrap_or_default();
                return Err(Failure(format!("{} did not start:\n{said}", way.name())));
            }
            thread::sleep(Duration::from_millis(20)); // between two looks at a condition
        }
        Ok(served)
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("nbd.sock")
    }

    /// Ends the server as an operator would; its directory stays.
    fn stop(mut self) -> Result<PathBuf, Failure> {
        shell::run(command("kill", &["-TERM", &self.child.id().to_string()]))?;
        let began = Instant::now();
        while self.child.try_wait()?.is_none() {
            if began.elapsed() > PATIENCE {
                return Err(Failure("the server does not stop after SIGTERM".into()));
            }
            thread::sleep(Duration::from_millis(20)); // between two looks at a condition
        }
        Ok(self.directory.clone())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Both fail after `stop`, as they should.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes out the file system that holds `directory`.
fn shell_sync(directory: &Path) -> Result<(), Failure> {
    shell::run(command("sync", &["-f", &directory.to_string_lossy()]))
}

/// Blocks allocated to all files below `directory`.
fn allocated_bytes(directory: &Path) -> Result<u64, Failure> {
    let mut sum = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let about = entry.metadata()?;
        sum += if about.is_dir() { allocated_bytes(&entry.path())? } else { about.blocks() * 512 };
    }
    Ok(sum)
}
