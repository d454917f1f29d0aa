//! Other people's clients against the real binary: what the tests beside this file share.
//!
//! A [`Store`] is one temporary directory with a store, its key file and sockets; a [`Server`] is one
//! `strandline serve` over it. Both clean up when dropped, and only ever end processes they began.
//!
//! Rules: the binary is the one `cargo` builds from this checkout ([`program`]), or `$STRANDLINE_BIN`.
//! A tool that is missing fails the test with the line that installs it; nothing is skipped in
//! silence. Scripts shared with the other repositories are found beside the checkout or at
//! `$STRANDLINE_SHARED` ([`shared`]); `cargo xtask test` leaves out the tests that need them where
//! they are absent, and says so.

#![expect(
    clippy::disallowed_methods,
    reason = "outside the product: this is the client's side, with its own clock, files and processes"
)]

use std::{
    env,
    ffi::OsStr,
    fs,
    io::Read,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// The name of the volume that most tests use.
pub const VOLUME: &str = "vol";

/// The variable that names the key file to every command.
pub const KEY_FILE: &str = "STRANDLINE_KEY_FILE";

/// How long a server may take until it greets.
const START_MAX: Duration = Duration::from_mins(1);

/// One mebibyte.
pub const MIB: u64 = 1 << 20;

/// The binary under test; built once for each process that asks.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if let Some(given) = env::var_os("STRANDLINE_BIN") {
            return PathBuf::from(given);
        }
        // This test lies in <target>/<profile>/deps.
        let test = env::current_exe().expect("the test knows its own path");
        let profile = test.ancestors().nth(2).expect("a test lies two levels below its profile");
        let mut build = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        build.args(["build", "--quiet", "--package", "strandline", "--bin", "strandline"]);
        build.arg("--target-dir").arg(profile.parent().expect("a profile lies in a target dir"));
        if profile.ends_with("release") {
            build.arg("--release");
        }
        succeed(build.current_dir(workspace()));
        profile.join("strandline")
    })
}

/// The root of this checkout.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("e2e lies in the workspace")
}

/// The path of `relative` among the scripts that several repositories share.
///
/// Fails, naming both places looked at, where they are absent.
pub fn shared(relative: &str) -> PathBuf {
    let beside = workspace().join("../shared");
    let root = env::var_os("STRANDLINE_SHARED").map_or(beside.clone(), PathBuf::from);
    let path = root.join(relative);
    assert!(
        path.exists(),
        "{} is not there: set STRANDLINE_SHARED, or put the shared scripts at {}",
        path.display(),
        beside.display()
    );
    path
}

/// Fails with the line that installs `package` unless all of `tools` are on the path.
pub fn need(tools: &[&str], package: &str) {
    let path = env::var_os("PATH").unwrap_or_default();
    for tool in tools {
        let found = env::split_paths(&path)
            .chain(["/usr/sbin".into(), "/sbin".into()])
            .any(|directory| directory.join(tool).exists());
        assert!(found, "{tool} is missing: apt-get install -y {package}");
    }
}

/// A Python script of this crate, ready for arguments.
///
/// The interpreter is the first that has `cryptography`, which the reader of the format needs.
pub fn python(script: &str) -> Command {
    static INTERPRETER: OnceLock<&str> = OnceLock::new();
    let interpreter = INTERPRETER.get_or_init(|| {
        let able = |python: &&str| {
            let mut probe = Command::new(python);
            probe.args(["-c", "import cryptography"]).stdin(Stdio::null()).stderr(Stdio::null());
            probe.status().is_ok_and(|status| status.success())
        };
        ["python3", "/usr/bin/python3"]
            .into_iter()
            .find(able)
            .expect("python3 with cryptography is missing: apt-get install -y python3-cryptography")
    });
    let mut command = Command::new(interpreter);
    command.arg(workspace().join("e2e/python").join(script));
    command
}

/// Runs `command` and returns its standard output; fails with all it said if it does not end with 0.
pub fn succeed(command: &mut Command) -> String {
    let output = finish(command);
    assert!(output.status.success(), "{command:?} ended with {}\n{}", output.status, said(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs `command` to its end, whatever that is.
pub fn finish(command: &mut Command) -> Output {
    command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{command:?} did not start: {error}"))
}

/// Both outputs of a command, for a message.
pub fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// A temporary store with one volume.
#[derive(Debug)]
pub struct Store {
    directory: TempDir,
}

impl Store {
    /// A fresh store in small segments, with [`VOLUME`] of `size_bytes`.
    pub fn with_volume(size_bytes: u64) -> Self {
        Self::in_segments(size_bytes, "8M")
    }

    /// The same in segments of that length.
    pub fn in_segments(size_bytes: u64, segment: &str) -> Self {
        let store = Self { directory: TempDir::with_prefix("strandline-e2e-").expect("temp dir") };
        let mut init = Command::new(program());
        init.args(["store", "init"]).arg(store.path()).env(KEY_FILE, store.key());
        succeed(init.args(["--segment-size", segment]));
        store.run(["vol", "create", VOLUME, "--size", &size_bytes.to_string()]);
        store
    }

    /// The store's own directory.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    /// The key file, which lies beside the store.
    pub fn key(&self) -> PathBuf {
        self.directory.path().join("key")
    }

    /// A path for a file of the test's own.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `strandline -s STORE`, ready for arguments.
    pub fn command(&self) -> Command {
        let mut command = Command::new(program());
        command.arg("-s").arg(self.path()).env(KEY_FILE, self.key());
        command
    }

    /// Runs one command that must succeed; its standard output.
    pub fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> String {
        succeed(self.command().args(arguments))
    }

    /// Starts a server over this store and waits until it greets.
    pub fn serve(&self, arguments: &[&str]) -> Server {
        let mut serve = self.command();
        serve.arg("serve").args(arguments);
        Server::start(serve, self.directory.path())
    }
}

/// Serves an image as it is, without a store, and waits until it greets; its socket and what it says
/// lie in `directory`.
pub fn open_image(image: &Path, arguments: &[&str], directory: &Path) -> Server {
    let mut open = Command::new(program());
    open.args(["image", "open"]).arg(image).args(arguments);
    Server::start(open, directory)
}

impl Server {
    fn start(mut serve: Command, directory: &Path) -> Self {
        let socket = directory.join("nbd.sock");
        let log_path = directory.join("server.log");
        let log = fs::File::options().create(true).append(true).open(&log_path).expect("log");
        serve.arg("--nbd").arg(format!("unix:{}", socket.display()));
        serve.stdin(Stdio::null()).stdout(log.try_clone().expect("log")).stderr(log);
        let child = serve.spawn().unwrap_or_else(|error| panic!("{serve:?}: {error}"));
        let mut server = Server { child, socket, log_path };
        let began = Instant::now();
        while !server.greets() {
            if let Some(status) = server.child.try_wait().expect("own child") {
                panic!("{serve:?} ended with {status}\n{}", server.log());
            }
            assert!(began.elapsed() < START_MAX, "no greeting\n{}", server.log());
            thread::sleep(Duration::from_millis(5)); // between two looks at a condition
        }
        server
    }
}

/// One running `strandline serve`; killed when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    socket: PathBuf,
    log_path: PathBuf,
}

impl Server {
    /// The NBD address of `export`, as its clients take it.
    pub fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.socket.display())
    }

    /// The server's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and the process is gone when this returns.
    pub fn kill(mut self) {
        self.child.kill().expect("own child");
        self.child.wait().expect("own child");
    }

    /// A planned stop: SIGTERM, then its exit status.
    pub fn stop(mut self) -> ExitStatus {
        succeed(Command::new("kill").arg("-TERM").arg(self.pid().to_string()));
        self.child.wait().expect("own child")
    }

    /// What the server has said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log_path).unwrap_or_default()
    }

    fn greets(&self) -> bool {
        let mut magic = [0; 8];
        UnixStream::connect(&self.socket).is_ok_and(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_secs(5))).is_ok()
                && stream.read_exact(&mut magic).is_ok()
                && &magic == b"NBDMAGIC"
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already gone after `kill` or `stop`: then both calls fail, and that is right.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Bytes that differ at every place and in every file of another `seed`.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
