//! Threads that do the store's jobs and answer the sessions' questions.
//!
//! One for what others wait for, one for packing and merging, a few for look-ups, a few for foreign
//! images, a few for questions
//! (which may wait for look-ups, so they have threads of their own). Each kind takes from a queue of
//! its own and brings the end back through the hub.

use super::hub::Hub;
use crossbeam_channel::{Sender, unbounded};
use std::{io, thread};
use volume::{Job, Lane};

/// Threads for look-ups.
const READERS: usize = 2;
/// Threads for foreign images, which may be as slow as they like.
const SOURCES: usize = 4;
/// Threads for questions.
const ASKERS: usize = 4;

type Task = Box<dyn FnOnce() + Send>;

/// See the module's head. Dropping it lets the threads end after what they have.
pub(super) struct Workers {
    prompt: Sender<Task>,
    background: Sender<Task>,
    readers: Sender<Task>,
    sources: Sender<Task>,
    askers: Sender<Task>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Workers {
    pub(super) fn start() -> io::Result<Self> {
        let mut threads = Vec::new();
        let mut lane = |name: &str, count: usize| -> io::Result<Sender<Task>> {
            let (sender, receiver) = unbounded::<Task>();
            for _ in 0..count {
                let receiver = receiver.clone();
                let run = move || receiver.iter().for_each(|task| task());
                threads.push(thread::Builder::new().name(format!("strand-{name}")).spawn(run)?);
            }
            Ok(sender)
        };
        let prompt = lane("prompt", 1)?;
        let background = lane("pack", 1)?;
        let readers = lane("read", READERS)?;
        let sources = lane("source", SOURCES)?;
        let askers = lane("ask", ASKERS)?;
        Ok(Self { prompt, background, readers, sources, askers, threads })
    }

    /// Does a job and brings its end back.
    pub(super) fn run(&self, hub: &Hub, job: Job) {
        let lane = match job.lane() {
            Lane::Prompt => &self.prompt,
            Lane::Background => &self.background,
            Lane::Read => &self.readers,
            Lane::Source => &self.sources,
        };
        let hub = hub.clone();
        let task: Task = Box::new(move || {
            let done = job.run();
            let _ = hub.send(Box::new(move |core| core.store.job_done(done)));
        });
        let _ = lane.send(task); // the threads end after this sender
    }

    /// Asks something that may block.
    pub(super) fn ask(&self, question: impl FnOnce() + Send + 'static) {
        let _ = self.askers.send(Box::new(question));
    }

    /// Waits until all that was begun has ended; `meanwhile` serves what they ask for.
    pub(super) fn finish(self, mut meanwhile: impl FnMut()) {
        let Self { prompt, background, readers, sources, askers, threads } = self;
        drop((prompt, background, readers, sources, askers));
        while threads.iter().any(|thread| !thread.is_finished()) {
            meanwhile();
        }
    }
}
