//! A store for tests: it answers what it was told to answer and remembers what it was asked.

use crate::{
    cli::{Cli, Global},
    commands,
    context::Context,
    out::{Output, Stop},
};
use api::{
    Answer, Caller, Chunk, Chunks, Control, Failure, Request, Time, Zone,
    verbs::{
        Moment, export,
        mark::Mark,
        past,
        session::Client,
        vol::{VolDetails, WhenFull},
    },
};
use clap::Parser as _;
use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Arc, Mutex},
};

/// Answers in the order in which they will be given.
#[derive(Clone, Default)]
pub struct Script {
    answers: Arc<Mutex<VecDeque<Result<Answer, Failure>>>>,
    asked: Arc<Mutex<Vec<Request>>>,
}

impl Script {
    pub fn of(answers: impl IntoIterator<Item = Result<Answer, Failure>>) -> Self {
        let script = Self::default();
        script.answers.lock().expect("one thread").extend(answers);
        script
    }

    /// What was asked, as paths and bodies.
    pub fn asked(&self) -> Vec<String> {
        let asked = self.asked.lock().expect("one thread");
        asked.iter().map(|request| format!("{} {}", request.path(), request.to_json())).collect()
    }
}

impl Control for Script {
    fn call(&self, _who: &Caller, request: Request) -> Result<Answer, Failure> {
        self.asked.lock().expect("one thread").push(request);
        let answer = self.answers.lock().expect("one thread").pop_front();
        answer.unwrap_or_else(|| Err(Failure::bug("the script has no more answers")))
    }

    fn read(&self, _who: &Caller, request: past::Read) -> Result<Box<dyn Chunks>, Failure> {
        let length = request.length.expect("a whole disk is asked by its size");
        Ok(Box::new(Once(Some(Chunk::Zeroes(length)))))
    }

    fn export(&self, _who: &Caller, request: export::Read) -> Result<Box<dyn Chunks>, Failure> {
        let length = request.length.expect("a file is asked by its length");
        Ok(Box::new(Once(Some(Chunk::Zeroes(length)))))
    }
}

struct Once(Option<Chunk>);

impl Chunks for Once {
    fn next(&mut self) -> Result<Option<Chunk>, Failure> {
        Ok(self.0.take())
    }
}

/// How a command ended.
#[derive(Debug)]
pub struct Ran {
    pub exit: u8,
    pub stdout: String,
    pub stderr: String,
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("one thread").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs a command line against a script; the present is 2026-11-20 10:12:31 UTC.
pub fn run(line: &[&str], script: &Script, terminal: bool) -> Ran {
    let cli = Cli::try_parse_from([&["strandline"], line].concat()).expect("well formed");
    let Cli { global, noun } = cli;
    let shared = Shared::default();
    let mut output = Output::to(Box::new(shared.clone()), terminal, global.json);
    let ended = {
        let zone = zone(&global);
        let control = Box::new(script.clone());
        let mut context = Context::with_control(global, zone, &mut output, control);
        commands::run(noun, &mut context)
    };
    let (exit, stderr) = match ended {
        Ok(exit) => (exit, String::new()),
        Err(Stop::PipeClosed) => (0, String::new()),
        Err(Stop::Failed(failure)) => (failure.exit(), failure.to_string()),
    };
    let stdout = String::from_utf8(shared.0.lock().expect("one thread").clone()).expect("text");
    let stdout = anstream::adapter::strip_str(&stdout).to_string();
    Ran { exit, stdout, stderr }
}

fn zone(global: &Global) -> Zone {
    let now = time("2026-11-20T10:12:31Z").0;
    Zone::named(global.tz.as_deref().unwrap_or("UTC"), now).expect("known")
}

pub fn time(text: &str) -> Time {
    text.parse().expect("RFC 3339")
}

pub fn moment(text: &str, seq: u64) -> Moment {
    Moment { seq, time: time(text) }
}

pub fn mark(volume: &str, name: &str, at: &str, seq: u64) -> Mark {
    Mark {
        volume: volume.parse().expect("a name"),
        name: name.parse().expect("a name"),
        reference: format!("{volume}@mark:{name}").parse().expect("well formed"),
        seq,
        time: time(at),
        created: time(at),
        until: None,
        pinned: false,
        consistency: "crash".to_owned(),
        note: None,
    }
}

pub fn client(name: &str, pid: u32) -> Client {
    Client {
        id: 3,
        volume: "db".parse().expect("a name"),
        export: "db".to_owned(),
        name: name.to_owned(),
        address: "unix".to_owned(),
        uid: Some(1000),
        pid: Some(pid),
        since: time("2026-11-20T09:51:40Z"),
        connected: true,
        writing: true,
        read_only: false,
        bytes_read: 0,
        bytes_written: 4096,
    }
}

pub fn details(name: &str) -> VolDetails {
    VolDetails {
        id: 1,
        name: name.parse().expect("a name"),
        size: 40 << 30,
        branch: "1".to_owned(),
        reference: name.parse().expect("well formed"),
        seq: 97_311,
        time: time("2026-11-20T10:12:31Z"),
        resolution: None,
        block: 512,
        created: Some(time("2026-11-20T09:00:00Z")),
        origin: None,
        ack: "disk".to_owned(),
        keep: "all".to_owned(),
        exclusive: false,
        read_only: false,
        when_full: WhenFull::Thin,
        history: 184 << 20,
        oldest: Some(moment("2026-11-20T09:00:00Z", 1)),
        serial: "7f3a19c2-1".to_owned(),
        uri: Some("nbd+unix:///db?socket=/run/strandline/nbd.sock".to_owned()),
        clients: vec![client("qemu", 4121)],
        branches: vec![],
        marks: 1,
        base: None,
    }
}
