//! The smallest driver of a session: sparse disks in memory on a unix socket, one thread a client.
//!
//!     memory_disk SOCKET
//!
//! Serves `vol` (256 MiB), `sparse` (4 TiB) and `readonly` (`vol`, which takes no writes).

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use std::{env, thread};

use nbd::{Command, Event, ExportInfo, Purpose, Refusal, Request, Session, StatusExtent};

const PAGE_BYTES: u64 = 4096;

fn main() -> io::Result<()> {
    let path = env::args().nth(1).ok_or_else(|| io::Error::other("usage: memory_disk SOCKET"))?;
    let volume = Arc::new(Mutex::new(Disk::default()));
    let export = |name, size_bytes, read_only, disk: &Arc<_>| {
        (name, Export { name, size_bytes, read_only, disk: Arc::clone(disk) })
    };
    let exports = Arc::new(HashMap::from([
        export("vol", 256 << 20, false, &volume),
        export("readonly", 256 << 20, true, &volume),
        export("sparse", 4 << 40, false, &Arc::default()),
    ]));
    for socket in UnixListener::bind(path)?.incoming() {
        let (socket, exports) = (socket?, Arc::clone(&exports));
        thread::Builder::new().name("client".to_owned()).spawn(move || {
            if let Err(error) = (Client { socket, exports: &exports, export: None }).serve() {
                eprintln!("client left: {error}");
            }
        })?;
    }
    Ok(())
}

struct Export {
    name: &'static str,
    size_bytes: u64,
    read_only: bool,
    disk: Arc<Mutex<Disk>>,
}

struct Client<'e> {
    socket: UnixStream,
    exports: &'e HashMap<&'static str, Export>,
    export: Option<&'e Export>,
}

impl Client<'_> {
    fn serve(&mut self) -> io::Result<()> {
        let (mut input, mut output) = (Vec::new(), Vec::new());
        let mut session = Session::start(&mut output);
        loop {
            let (consumed, event) = session.poll(&input, &mut output).map_err(io::Error::other)?;
            let mut write = None;
            match event {
                Event::NeedMore { .. } => {
                    self.socket.write_all(&output)?;
                    output.clear();
                    input.drain(..consumed);
                    self.receive(&mut input)?;
                    continue;
                }
                Event::Handled => {}
                Event::Waiting => unreachable!("each question is answered before the next poll"),
                Event::Open(open) => match self.exports.get(open.name) {
                    Some(export) => {
                        if open.purpose == Purpose::Serve {
                            self.export = Some(export);
                        }
                        session.opened(&export.info(), &mut output);
                    }
                    None => session.refused(Refusal::Unknown, "no such export", &mut output),
                },
                Event::List => {
                    let names = self.exports.keys().map(|&name| (name, DESCRIPTION));
                    session.listed(names, &mut output);
                }
                Event::Request(request) => write = self.answer(request, &mut output),
                Event::Disconnect => return self.socket.write_all(&output),
            }
            input.drain(..consumed);
            if let Some((request, length)) = write {
                while input.len() < length {
                    self.receive(&mut input)?;
                }
                self.write(request, &input[..length], &mut output);
                input.drain(..length);
            }
        }
    }

    fn receive(&mut self, input: &mut Vec<u8>) -> io::Result<()> {
        let mut bytes = [0; 16 << 10];
        match self.socket.read(&mut bytes)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            length => {
                input.extend_from_slice(&bytes[..length]);
                Ok(())
            }
        }
    }

    /// Answers all but a write, which comes back with the length of its payload.
    fn answer(&self, request: Request, output: &mut Vec<u8>) -> Option<(Request, usize)> {
        let mut disk = self.disk();
        match request.command {
            Command::Read { offset_bytes, length_bytes } => {
                request.reply.data_header(output);
                disk.read(offset_bytes, length_bytes.into(), output);
            }
            Command::Write { length_bytes, .. } => {
                let length = usize::try_from(length_bytes).expect("at most 32 MiB");
                return Some((request, length));
            }
            Command::Flush | Command::Cache { .. } => request.reply.done(output),
            Command::Trim { offset_bytes, length_bytes, .. }
            | Command::WriteZeroes { offset_bytes, length_bytes, .. } => {
                disk.zero(offset_bytes, length_bytes);
                request.reply.done(output);
            }
            Command::BlockStatus { offset_bytes, length_bytes, .. } => {
                let extents = disk.extents(offset_bytes, length_bytes);
                request.reply.block_status(extents, output);
            }
        }
        None
    }

    fn write(&self, request: Request, data: &[u8], output: &mut Vec<u8>) {
        if let Command::Write { offset_bytes, .. } = request.command {
            self.disk().write(offset_bytes, data);
        }
        request.reply.done(output);
    }

    fn disk(&self) -> std::sync::MutexGuard<'_, Disk> {
        let export = self.export.expect("requests come after an export was opened");
        export.disk.lock().expect("no thread panics while it holds a disk")
    }
}

const DESCRIPTION: &str = "a disk in memory";

impl Export {
    fn info(&self) -> ExportInfo<'_> {
        ExportInfo {
            size_bytes: self.size_bytes,
            read_only: self.read_only,
            multi_conn: true,
            name: self.name,
            description: DESCRIPTION,
        }
    }
}

/// Pages by number; what is not there reads as zero.
#[derive(Default)]
struct Disk(BTreeMap<u64, Box<[u8; 4096]>>);

impl Disk {
    fn read(&self, offset_bytes: u64, length_bytes: u64, output: &mut Vec<u8>) {
        for (page, from, to) in pages(offset_bytes, length_bytes) {
            match self.0.get(&page) {
                Some(bytes) => output.extend_from_slice(&bytes[from..to]),
                None => output.resize(output.len() + to - from, 0),
            }
        }
    }

    fn write(&mut self, offset_bytes: u64, mut data: &[u8]) {
        for (page, from, to) in pages(offset_bytes, data.len() as u64) {
            let (part, rest) = data.split_at(to - from);
            self.0.entry(page).or_insert_with(|| Box::new([0; 4096]))[from..to]
                .copy_from_slice(part);
            data = rest;
        }
    }

    fn zero(&mut self, offset_bytes: u64, length_bytes: u64) {
        let end_bytes = offset_bytes + length_bytes;
        let there: Vec<u64> = self
            .0
            .range(offset_bytes / PAGE_BYTES..end_bytes.div_ceil(PAGE_BYTES))
            .map(|(&page, _)| page)
            .collect();
        for page in there {
            let from_bytes = offset_bytes.max(page * PAGE_BYTES);
            let to_bytes = end_bytes.min((page + 1) * PAGE_BYTES);
            if to_bytes - from_bytes == PAGE_BYTES {
                self.0.remove(&page);
            } else {
                let zeroes = vec![0; usize::try_from(to_bytes - from_bytes).expect("in a page")];
                self.write(from_bytes, &zeroes);
            }
        }
    }

    fn extents(&self, offset_bytes: u64, length_bytes: u64) -> Vec<StatusExtent> {
        let end_bytes = offset_bytes + length_bytes;
        let (mut at_bytes, mut extents) = (offset_bytes, Vec::new());
        for &page in
            self.0.range(offset_bytes / PAGE_BYTES..end_bytes.div_ceil(PAGE_BYTES)).map(|(p, _)| p)
        {
            let from_bytes = at_bytes.max(page * PAGE_BYTES);
            let to_bytes = end_bytes.min((page + 1) * PAGE_BYTES);
            extents.push(StatusExtent { length_bytes: from_bytes - at_bytes, hole: true });
            extents.push(StatusExtent { length_bytes: to_bytes - from_bytes, hole: false });
            at_bytes = to_bytes;
        }
        extents.push(StatusExtent { length_bytes: end_bytes - at_bytes, hole: true });
        extents
    }
}

/// The pages that a run of bytes touches: number, and the part of each.
fn pages(offset_bytes: u64, length_bytes: u64) -> impl Iterator<Item = (u64, usize, usize)> {
    let end_bytes = offset_bytes + length_bytes;
    (offset_bytes / PAGE_BYTES..end_bytes.div_ceil(PAGE_BYTES)).map(move |page| {
        let within = |at_bytes: u64| {
            usize::try_from(at_bytes - page * PAGE_BYTES).expect("below the size of a page")
        };
        let from = within(offset_bytes.max(page * PAGE_BYTES));
        (page, from, within(end_bytes.min((page + 1) * PAGE_BYTES)))
    })
}
