//! `demo`: a disk is lost to ransomware and comes back, played with real commands.
//!
//! Each command is printed, then run as a process of this very binary, so that what is seen can be
//! typed. A client that is installed (`nbdcopy`, `qemu-img`) writes an ext4 file system with files
//! to the disk; where tools are missing, the client in here does the same job, without a file
//! system if need be. All lies in one directory, which goes at the end unless it is to be kept.

mod client;
mod documents;
mod place;

use crate::cli::DemoArgs;
use api::{Failure, Time, codes};
use client::Client;
use documents::{BLOCK, Document};
use place::{Place, Tools};
use std::{
    env,
    ffi::OsStr,
    io::{self, BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    time::Duration,
};
use world::{
    Chance as _, Clock as _, Waker,
    real::{RealChance, RealClock, StopSignals},
};

const VOLUME: &str = "disk";
/// The present to look at: who may write it counts as its user until the end of the connection.
const PRESENT: &str = "disk@now";
const SIZE: &str = "64M";
const SIZE_BYTES: usize = 64 << 20;
const SOCKET: &str = "nbd.sock";
const FILES: &str = "files";
const IMAGE: &str = "disk.img";
const LOG: &str = "serve.log";
/// How often it is looked whether the server still runs.
const TICK: Duration = Duration::from_secs(1);

/// Why the play ends early.
enum Halt {
    Failed(Failure),
    Interrupted,
}

impl From<Failure> for Halt {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Plays; `say` prints a line.
pub fn run(args: &DemoArgs, say: &mut dyn FnMut(&str)) -> Result<u8, Failure> {
    let binary = env::current_exe().map_err(|error| {
        Failure::bug(format!("the program does not know its own path: {error}"))
    })?;
    let (tell, told) = mpsc::channel();
    let waker = Waker(Arc::new(move || {
        let _ = tell.send(()); // nobody waits any more: the play has ended
    }));
    let signals = StopSignals::install(waker)
        .map_err(|error| Failure::bug(format!("signals cannot be caught: {error}")))?;
    let tools = if args.built_in { Tools::default() } else { Tools::find() };
    let place = Place::make(args.keep.as_deref())?;
    let mut play = Play { place, binary, tools, signals, told, say, server: None };
    match play.all(args) {
        Ok(()) => Ok(0),
        Err(Halt::Interrupted) => Ok(130),
        Err(Halt::Failed(failure)) => Err(failure),
    }
}

struct Play<'a> {
    place: Place,
    binary: PathBuf,
    tools: Tools,
    signals: StopSignals,
    told: Receiver<()>,
    say: &'a mut dyn FnMut(&str),
    server: Option<Server>,
}

struct Server {
    process: Child,
    uri: String,
    /// Open while the server may print.
    _stdout: BufReader<ChildStdout>,
}

impl Play<'_> {
    fn all(&mut self, args: &DemoArgs) -> Result<(), Halt> {
        self.say(
            "Strandline keeps every write. Here a disk is lost to ransomware, and comes back.",
        );
        for line in if args.built_in { Vec::new() } else { self.tools.missing() } {
            self.say(&format!("  not installed, so this demo does it itself:  {line}"));
        }
        self.serve()?;
        let documents = documents::all();
        let has_file_system = self.fill(&documents)?;
        let (digest, held) = self.look(PRESENT, &documents)?;
        self.say(&format!("  {held} blocks hold the files; sha256 of the disk {digest}"));
        self.strandline(&["mark", "add", VOLUME, "before-attack"])?;
        let before = Time(RealClock.wall());

        self.attack(&documents)?;
        let (lost, held) = self.look(PRESENT, &documents)?;
        self.say(&format!("  {held} blocks hold the files; sha256 of the disk {lost}"));
        if lost == digest || held > 0 {
            return Err(Failure::bug("the attack did not reach the disk").into());
        }

        self.head("3", "What happened, and when");
        self.strandline(&["log", VOLUME, "--by", "client"])?;
        self.strandline(&["log", VOLUME, "--graph"])?;

        self.head("4", "The moment before, beside the present: nothing is copied");
        let printed = self.strandline(&["open", "disk@mark:before-attack"])?;
        let uri = uri_in(&printed).ok_or_else(|| Failure::bug("`open` printed no address"))?;
        self.prove("disk@mark:before-attack", &digest, &documents)?;
        self.list(has_file_system, &uri, &documents)?;

        self.head("5", "The disk itself goes back; the attack stays as a branch, as evidence");
        let target = format!("{VOLUME}@{before}");
        self.strandline(&["rewind", &target, "--yes"])?;
        self.prove(PRESENT, &digest, &documents)?;
        self.strandline(&["log", VOLUME, "--graph"])?;
        self.say("");
        self.say("Every file is back, byte for byte.");
        self.end(args.once)
    }

    /// Makes a store and a volume, and serves them.
    fn serve(&mut self) -> Result<(), Halt> {
        self.head("1", "A store, a disk in it, a server, and files on the disk");
        self.say(&format!("$ cd {}", self.place.path().display()));
        self.say("$ export STRANDLINE_STORE=$PWD/store STRANDLINE_KEY_FILE=$PWD/store.key");
        self.strandline(&["store", "init"])?;
        self.strandline(&["vol", "create", VOLUME, "--size", SIZE])?;
        let line = ["serve", "--nbd", "unix:./nbd.sock"];
        self.say(&format!("$ strandline {} &", line.join(" ")));
        let mut command = self.command(&self.binary.clone(), &line);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(self.place.create(LOG)?);
        command.process_group(0); // Ctrl-C is ours: the server ends after us
        let mut process = command.spawn().map_err(|error| not_run("strandline", &error))?;
        let stdout = process.stdout.take().map(BufReader::new);
        let mut stdout = stdout.ok_or_else(|| Failure::bug("the server has no output"))?;
        let mut printed = String::new();
        let read = stdout.read_line(&mut printed);
        let uri = uri_in(&printed);
        let server = Server { process, uri: uri.clone().unwrap_or_default(), _stdout: stdout };
        self.server = Some(server);
        if read.is_err() || uri.is_none() {
            let log = self.place.read(LOG).unwrap_or_default();
            let text = format!("the server did not start: {}", String::from_utf8_lossy(&log));
            return Err(Failure::new(codes::NO_SERVER, text.trim_end()).into());
        }
        self.say(&format!("  {}", printed.trim_end()));
        self.go_on()
    }

    /// Writes the files to the disk; whether in a file system.
    fn fill(&mut self, documents: &[Document]) -> Result<bool, Halt> {
        let Some(mke2fs) = self.tools.mke2fs.clone() else {
            self.say("  (the demo's own client writes the files to the disk, as a plain archive)");
            self.copy(&documents::pack(documents))?;
            return Ok(false);
        };
        self.place.make_directory(FILES)?;
        for Document { name, bytes } in documents {
            self.place.write(&format!("{FILES}/{name}"), bytes)?;
        }
        self.run(&mke2fs, &["-q", "-t", "ext4", "-b", "4096", "-d", FILES, IMAGE, SIZE])?;
        let uri = self.server.as_ref().map(|server| server.uri.clone()).unwrap_or_default();
        let (nbdcopy, qemu_img) = (self.tools.nbdcopy.clone(), self.tools.qemu_img.clone());
        if let Some(nbdcopy) = nbdcopy {
            self.run(&nbdcopy, &["--flush", IMAGE, &uri])?;
        } else if let Some(qemu_img) = qemu_img {
            self.run(&qemu_img, &["convert", "-n", "-f", "raw", "-O", "raw", IMAGE, &uri])?;
        } else {
            self.say("  (the demo's own client copies disk.img to the disk)");
            let image = self.place.read(IMAGE)?;
            self.copy(&image)?;
        }
        Ok(true)
    }

    /// What ransomware does: every block of every file, in place, with bytes that look like noise.
    fn attack(&mut self, documents: &[Document]) -> Result<(), Halt> {
        self.head("2", "Ransomware: noise over every block of every file, in place");
        let disk = self.read(PRESENT)?;
        let places = documents::places(&disk, documents);
        let write = || -> io::Result<()> {
            let mut client = self.connect(VOLUME)?;
            for offset in &places {
                let mut noise = [0; BLOCK];
                RealChance.fill(&mut noise);
                client.write(*offset, &noise)?;
            }
            client.finish()
        };
        write().map_err(|error| no_nbd("write", &error))?;
        self.say(&format!("  (the demo's own client overwrote {} blocks)", places.len()));
        self.go_on()
    }

    /// Fails unless an export is the disk as it was, with all its files.
    fn prove(&mut self, export: &str, digest: &str, files: &[Document]) -> Result<(), Halt> {
        let (found, held) = self.look(export, files)?;
        let blocks: usize = files.iter().map(|file| file.bytes.len().div_ceil(BLOCK)).sum();
        self.say(&format!("  {held} blocks hold the files; sha256 of {export} {found}"));
        if found != digest || held < blocks {
            let text = format!("{export} is not the disk as it was: wanted sha256 {digest}");
            return Err(Failure::new(codes::NO, text).into());
        }
        self.say("  equal to the disk before the attack");
        Ok(())
    }

    /// Shows the files of the opened instant, and compares each.
    fn list(
        &mut self,
        has_file_system: bool,
        uri: &str,
        documents: &[Document],
    ) -> Result<(), Halt> {
        if !has_file_system {
            let disk = self.read("disk@mark:before-attack")?;
            let found = documents::unpack(&disk).unwrap_or_default();
            return self.compare(documents, &found);
        }
        let Some(debugfs) = self.tools.debugfs.clone() else { return Ok(()) };
        let (nbdcopy, qemu_img) = (self.tools.nbdcopy.clone(), self.tools.qemu_img.clone());
        if let Some(nbdcopy) = nbdcopy {
            self.run(&nbdcopy, &[uri, "before.img"])?;
        } else if let Some(qemu_img) = qemu_img {
            self.run(&qemu_img, &["convert", "-f", "raw", "-O", "raw", uri, "before.img"])?;
        } else {
            self.say("  (the demo's own client copies it to before.img)");
            let disk = self.read("disk@mark:before-attack")?;
            self.place.write("before.img", &disk)?;
        }
        self.run(&debugfs, &["-R", "ls -l /", "before.img"])?;
        let mut found = Vec::new();
        for Document { name, .. } in documents {
            let (request, file) = (format!("dump /{name} back-{name}"), format!("back-{name}"));
            let mut command = self.command(&debugfs, &["-R", &request, "before.img"]);
            finish(&mut command, "debugfs")?;
            found.push(Document { name: name.clone(), bytes: self.place.read(&file)? });
        }
        self.compare(documents, &found)
    }

    fn compare(&mut self, wanted: &[Document], found: &[Document]) -> Result<(), Halt> {
        for file in found {
            let equal = if wanted.contains(file) { "as it was" } else { "DIFFERENT" };
            self.say(&format!("  {:>9} bytes  {:<22} {equal}", file.bytes.len(), file.name));
        }
        if wanted == found {
            return Ok(());
        }
        Err(Failure::new(codes::NO, "the files are not as they were").into())
    }

    /// Says what comes next; serves until Ctrl-C.
    fn end(&mut self, once: bool) -> Result<(), Halt> {
        let kept = self.place.is_kept();
        let place = self.place.path().display().to_string();
        if once {
            if kept {
                self.say(&format!("The store stays in {place}: strandline serve"));
            }
            self.say("Next, with a store of your own:  strandline store init ./store");
            return Ok(());
        }
        self.say("");
        self.say("The server goes on until Ctrl-C. To try in another terminal:");
        for line in [
            &format!("cd {place}"),
            "export STRANDLINE_STORE=$PWD/store STRANDLINE_KEY_FILE=$PWD/store.key",
            "strandline vol show disk                       branches, clients, how it is reached",
            "strandline log disk --by write --since -10m    every single write",
            "strandline diff disk@mark:before-attack disk@now",
            "strandline clone disk@-1m copy                 a new disk from a minute ago",
            "strandline vol show disk --qemu                the same disk for a virtual machine",
        ] {
            self.say(&format!("  {line}"));
        }
        let goes = if kept { "stops the server" } else { "ends it and removes everything" };
        self.say(&format!("Ctrl-C {goes}."));
        loop {
            match self.told.recv_timeout(TICK) {
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(server) = &mut self.server
                        && let Ok(Some(status)) = server.process.try_wait()
                    {
                        self.say(&format!("the server has ended: {status}"));
                        return Ok(());
                    }
                }
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    /// Digest of an export, and how many of its blocks hold contents of the files.
    fn look(&self, export: &str, documents: &[Document]) -> Result<(String, usize), Halt> {
        let disk = self.read(export)?;
        Ok((documents::sha256(&disk), documents::places(&disk, documents).len()))
    }

    fn read(&self, export: &str) -> Result<Vec<u8>, Halt> {
        let read = || -> io::Result<Vec<u8>> {
            let mut client = self.connect(export)?;
            let mut disk = vec![0; usize::try_from(client.size()).map_err(io::Error::other)?];
            client.read(0, &mut disk)?;
            client.end()?;
            Ok(disk)
        };
        let disk = read().map_err(|error| no_nbd("read", &error))?;
        self.go_on()?;
        Ok(disk)
    }

    fn copy(&self, bytes: &[u8]) -> Result<(), Halt> {
        let write = || -> io::Result<()> {
            let mut client = self.connect(VOLUME)?;
            client.write(0, bytes)?;
            client.finish()
        };
        write().map_err(|error| no_nbd("write", &error))?;
        self.go_on()
    }

    fn connect(&self, export: &str) -> io::Result<Client> {
        let client = Client::connect(&self.place.path().join(SOCKET), export)?;
        if client.size() != SIZE_BYTES as u64 {
            return Err(io::Error::other(format!("`{export}` has {} bytes", client.size())));
        }
        Ok(client)
    }

    /// A command of ours: prints it, runs it, prints what it prints.
    fn strandline(&mut self, line: &[&str]) -> Result<String, Halt> {
        let binary = self.binary.clone();
        self.run_as("strandline", &binary, line)
    }

    /// A command of others.
    fn run(&mut self, program: &Path, line: &[&str]) -> Result<String, Halt> {
        let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy();
        self.run_as(&name, program, line)
    }

    fn run_as(&mut self, name: &str, program: &Path, line: &[&str]) -> Result<String, Halt> {
        let words: Vec<String> = line.iter().map(|word| quoted(word)).collect();
        self.say(&format!("$ {name} {}", words.join(" ")));
        let mut command = self.command(program, line);
        let printed = finish(&mut command, name);
        self.go_on()?; // Ctrl-C reaches the command, too
        let printed = printed?;
        for line in printed.lines().filter(|line| !line.trim().is_empty()) {
            self.say(&format!("  {}", line.replace('\t', "  "))); // a table, as pipes get it
        }
        Ok(printed)
    }

    fn command(&self, program: &Path, line: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new(program);
        command.args(line).current_dir(self.place.path());
        command.env("STRANDLINE_STORE", self.place.path().join("store"));
        command.env("STRANDLINE_KEY_FILE", self.place.path().join("store.key"));
        for other in ["STRANDLINE_SOCKET", "STRANDLINE_PASSPHRASE_FILE", "LISTEN_FDS"] {
            command.env_remove(other);
        }
        command.env_remove("NOTIFY_SOCKET");
        command
    }

    fn head(&mut self, number: &str, text: &str) {
        self.say("");
        self.say(&format!("{number}. {text}"));
    }

    fn say(&mut self, line: &str) {
        (self.say)(line);
    }

    fn go_on(&self) -> Result<(), Halt> {
        if self.signals.count() == 0 { Ok(()) } else { Err(Halt::Interrupted) }
    }
}

impl Drop for Play<'_> {
    /// The server ends before its directory goes.
    fn drop(&mut self) {
        let Some(server) = &mut self.server else { return };
        let pid = i32::try_from(server.process.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let (Some(pid), Ok(None)) = (pid, server.process.try_wait()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = server.process.wait(); // ours, and told to end
    }
}

/// Runs a command to its end; what it printed.
fn finish(command: &mut Command, name: &str) -> Result<String, Failure> {
    let ran = command.stdin(Stdio::null()).output().map_err(|error| not_run(name, &error))?;
    if ran.status.success() {
        return Ok(String::from_utf8_lossy(&ran.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&ran.stderr);
    Err(Failure::new(codes::NO, format!("{name} ended with {}: {}", ran.status, said.trim_end())))
}

/// The first NBD address in a text.
fn uri_in(text: &str) -> Option<String> {
    text.split_whitespace().find(|word| word.starts_with("nbd")).map(str::to_owned)
}

/// As one word of a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,=:@%+~".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_owned() } else { format!("'{word}'") }
}

fn not_run(name: &str, error: &io::Error) -> Failure {
    Failure::new(codes::NO_FILE, format!("cannot run {name}: {error}"))
}

fn no_nbd(verb: &str, error: &io::Error) -> Failure {
    Failure::new(codes::SERVER_GONE, format!("cannot {verb} the disk: {error}"))
}
