//! An image as a [`BlockDevice`] that takes no writes.
//!
//! A read takes its memory when its turn comes and goes to a worker; while there is none it waits, and
//! those behind it too. Damage in the image fails the requests that need the damaged bytes, and no
//! others.

use block_device::{
    Answer, BlockDevice, BlockError, BlockExtent, Command, Completion, DeviceInfo,
    MAX_REQUEST_BYTES, Ticket,
};
use crossbeam_channel::{Receiver, Sender, unbounded};
use image_files::SharedDisk;
use std::{collections::VecDeque, io, sync::Arc, thread};
use units::ClientId;
use world::{Bytes, Page, Pool, Waker, memory::HUGE_BYTES};

/// Memory for what was read and is not sent yet, and for receive buffers.
pub(super) const POOL_BYTES: usize = 96 << 20;

/// Threads that read.
const READERS: usize = 4;

/// See the module's head. Dropping it ends its threads.
pub struct ImageDevice {
    size_bytes: u64,
    pool: Pool,
    work: Option<Sender<Work>>,
    ended: Receiver<Completion>,
    /// What was refused at once.
    refused: Vec<Completion>,
    /// Reads that wait for memory, in their order.
    waiting: VecDeque<(Ticket, u64, usize)>,
    threads: Vec<thread::JoinHandle<()>>,
}

enum Work {
    Read { ticket: Ticket, offset_bytes: u64, pages: Vec<Page> },
    Extents { ticket: Ticket, offset_bytes: u64, length_bytes: u64, count_max: usize },
}

impl ImageDevice {
    /// A device over an open image; the waker is called when something was answered.
    pub fn start(disk: &Arc<SharedDisk>, waker: &Waker) -> io::Result<Self> {
        let size_bytes = disk.virtual_size();
        let (work, todo) = unbounded::<Work>();
        let (answers, ended) = unbounded();
        let mut threads = Vec::new();
        for _ in 0..READERS {
            let (todo, answers) = (todo.clone(), answers.clone());
            let (disk, waker) = (disk.clone(), waker.clone());
            let run = move || {
                for work in todo {
                    let _ = answers.send(work.run(&disk)); // who asked may have gone
                    waker.wake();
                }
            };
            threads.push(thread::Builder::new().name("strand-image".to_owned()).spawn(run)?);
        }
        let pool = Pool::new(POOL_BYTES);
        let (refused, waiting) = (Vec::new(), VecDeque::new());
        Ok(Self { size_bytes, pool, work: Some(work), ended, refused, waiting, threads })
    }

    /// The memory that it takes.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    fn check(&self, command: &Command<'_>) -> Result<(), BlockError> {
        let (offset, length, limit) = match command {
            Command::Flush => return Ok(()),
            _ if command.writes() => return Err(BlockError::ReadOnly),
            Command::Read { offset_bytes, length_bytes } => {
                (*offset_bytes, *length_bytes, MAX_REQUEST_BYTES)
            }
            Command::Extents { offset_bytes, length_bytes, .. } => {
                (*offset_bytes, *length_bytes, u64::MAX)
            }
            _ => return Err(BlockError::ReadOnly),
        };
        if length > limit {
            return Err(BlockError::TooLarge);
        }
        match offset.checked_add(length) {
            Some(end) if end <= self.size_bytes => Ok(()),
            _ => Err(BlockError::OutOfRange),
        }
    }

    fn begin(&self, work: Work) {
        if let Some(sender) = &self.work {
            let _ = sender.send(work); // the threads end after this sender
        }
    }

    /// Begins reads that waited for memory, as far as there is some.
    fn begin_waiting(&mut self) {
        while let Some((ticket, offset_bytes, length_bytes)) = self.waiting.front().copied() {
            let Some(pages) = pages(&self.pool, length_bytes) else { return };
            self.waiting.pop_front();
            self.begin(Work::Read { ticket, offset_bytes, pages });
        }
    }
}

/// Pages for so many bytes, all full but the last; `None` while the pool is used up.
fn pages(pool: &Pool, length_bytes: usize) -> Option<Vec<Page>> {
    let starts = (0..length_bytes).step_by(HUGE_BYTES);
    starts.map(|at| pool.take(HUGE_BYTES.min(length_bytes - at))).collect()
}

impl BlockDevice for ImageDevice {
    fn info(&self) -> DeviceInfo {
        DeviceInfo { size_bytes: self.size_bytes, read_only: true, frozen: true }
    }

    fn submit(&mut self, ticket: Ticket, _client: ClientId, command: Command<'_>) {
        if let Err(error) = self.check(&command) {
            return self.refused.push(Completion { ticket, result: Err(error) });
        }
        match command {
            Command::Read { offset_bytes, length_bytes } => {
                let length_bytes = usize::try_from(length_bytes).expect("within the limit");
                self.waiting.push_back((ticket, offset_bytes, length_bytes));
                self.begin_waiting();
            }
            Command::Extents { offset_bytes, length_bytes, count_max } => {
                self.begin(Work::Extents { ticket, offset_bytes, length_bytes, count_max });
            }
            _ => self.refused.push(Completion { ticket, result: Ok(Answer::Flushed) }),
        }
    }

    fn take_completions(&mut self, completions: &mut Vec<Completion>) {
        completions.append(&mut self.refused);
        completions.extend(self.ended.try_iter());
        self.begin_waiting();
    }
}

impl Drop for ImageDevice {
    fn drop(&mut self) {
        self.work = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // a panic of theirs was told already
        }
    }
}

impl Work {
    fn run(self, disk: &SharedDisk) -> Completion {
        match self {
            Self::Read { ticket, offset_bytes, mut pages } => {
                let mut at = offset_bytes;
                let mut read = Ok(());
                for page in &mut pages {
                    read = read.and_then(|()| disk.read(at, page));
                    at += page.len() as u64;
                }
                let result = match read {
                    Ok(()) => Ok(Answer::Data(
                        pages.into_iter().map(Page::freeze).collect::<Vec<Bytes>>(),
                    )),
                    Err(error) => Err(unreadable(&error)),
                };
                Completion { ticket, result }
            }
            Self::Extents { ticket, offset_bytes, length_bytes, count_max } => {
                let range = offset_bytes..offset_bytes + length_bytes;
                let result = match disk.pieces(range, count_max.max(1)) {
                    Ok(pieces) => Ok(Answer::Extents(
                        pieces
                            .into_iter()
                            .map(|piece| BlockExtent {
                                length_bytes: piece.range.end - piece.range.start,
                                hole: piece.is_zero,
                            })
                            .collect(),
                    )),
                    Err(error) => Err(unreadable(&error)),
                };
                Completion { ticket, result }
            }
        }
    }
}

fn unreadable(error: &image_files::Error) -> BlockError {
    tracing::warn!(%error, "part of the image cannot be read");
    BlockError::Io
}
