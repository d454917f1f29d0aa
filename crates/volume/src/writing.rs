//! Writes, trims and zeroes: edges filled up, order kept, then into the log and the map.

use crate::{
    Extents, Store, ViewId,
    write::{Content, Data, Edges, Write},
};
use block_device::{BlockError, Command, MAX_REQUEST_BYTES, Payload};
use segment_log::{BULK_BYTES, Room, Shape};
use units::{BLOCK_BYTES, ClientId, Extent, Lba};

/// Flags of range records.
const TRIM: u8 = 1;
const ZEROES: u8 = 2;
const NO_HOLE: u8 = 4;

impl Store {
    /// Takes a request of a view; the answer comes with [`Store::take_completions`] under the ticket.
    pub fn submit(&mut self, view: ViewId, ticket: u64, client: ClientId, command: Command<'_>) {
        if let Err(error) = self.check(view, &command) {
            return self.complete(ticket, Err(error));
        }
        match command {
            Command::Read { offset_bytes, length_bytes } => {
                self.read(view, ticket, offset_bytes, length_bytes);
            }
            Command::Flush => {
                let open = &self.views[&view];
                let of = (!open.read_only).then_some(open.branch);
                self.log.flush(ticket, of);
            }
            Command::Extents { offset_bytes, length_bytes, count_max } => {
                let count_max = count_max.max(1);
                let question = Extents {
                    view,
                    ticket,
                    offset_bytes,
                    length_bytes,
                    count_max,
                    loads: 0,
                    refused: None,
                };
                self.ask_extents(question);
            }
            Command::Write { offset_bytes, data, fua } => {
                self.write_data(view, ticket, client, offset_bytes, data, fua);
            }
            Command::Trim { offset_bytes, length_bytes, fua } => {
                let zeros = Content::Zeros(TRIM);
                self.write(view, ticket, client, (offset_bytes, length_bytes), zeros, fua);
            }
            Command::WriteZeroes { offset_bytes, length_bytes, no_hole, fua } => {
                let zeros = Content::Zeros(if no_hole { ZEROES | NO_HOLE } else { ZEROES });
                self.write(view, ticket, client, (offset_bytes, length_bytes), zeros, fua);
            }
        }
    }

    fn check(&self, id: ViewId, command: &Command<'_>) -> Result<(), BlockError> {
        let view = self.views.get(&id).ok_or(BlockError::Stopping)?;
        let (offset, length, writes, limit) = match command {
            Command::Flush => return Ok(()),
            Command::Read { offset_bytes, length_bytes } => {
                (*offset_bytes, *length_bytes, false, MAX_REQUEST_BYTES)
            }
            Command::Extents { offset_bytes, length_bytes, .. } => {
                (*offset_bytes, *length_bytes, false, u64::MAX)
            }
            Command::Write { offset_bytes, data, .. } => {
                (*offset_bytes, data.length_bytes(), true, MAX_REQUEST_BYTES)
            }
            Command::Trim { offset_bytes, length_bytes, .. }
            | Command::WriteZeroes { offset_bytes, length_bytes, .. } => {
                (*offset_bytes, *length_bytes, true, u64::MAX)
            }
        };
        if writes && view.read_only {
            let denied = view.at.is_none();
            return Err(if denied { BlockError::Denied } else { BlockError::ReadOnly });
        }
        if writes && self.lacks_source(id) {
            return Err(BlockError::ReadOnly);
        }
        if length > limit {
            return Err(BlockError::TooLarge);
        }
        match offset.checked_add(length) {
            Some(end) if end <= view.size_bytes => Ok(()),
            _ => Err(BlockError::OutOfRange),
        }
    }

    /// A write of data. Whole blocks that need not wait are sealed from where they lie.
    fn write_data(
        &mut self,
        id: ViewId,
        ticket: u64,
        client: ClientId,
        offset_bytes: u64,
        data: Payload<'_>,
        fua: bool,
    ) {
        let view = &self.views[&id];
        let length = data.length_bytes();
        let Some(edges) = Edges::of(offset_bytes, length, view.size_bytes) else {
            return self.empty(ticket);
        };
        let branch = view.branch;
        let whole = edges.is_aligned() && length.is_multiple_of(BLOCK_BYTES);
        let small = length < BULK_BYTES;
        if let Payload::Borrowed(bytes) = &data
            && whole
            && small
            && self.stalled.is_empty()
            && !self.views[&id].is_locked(edges.extent)
            && self.log.room(Shape { cells: blocks_of(edges.extent), records: 0 }, 0) == Room::Yes
        {
            self.log.begin(branch, client);
            let view = self.views.get_mut(&id).expect("seen above");
            for (lba, block) in edges.extent.lbas().zip(bytes.chunks_exact(units::BLOCK)) {
                view.map.set(lba, self.log.cell(lba, block));
            }
            return self.log.end(ticket, fua);
        }
        let content = Content::Data(Data::own(data, whole));
        self.write(id, ticket, client, (offset_bytes, length), content, fua);
    }

    /// Any write: waits for who writes the same blocks, reads its edges, then is logged.
    fn write(
        &mut self,
        id: ViewId,
        ticket: u64,
        client: ClientId,
        (offset_bytes, length_bytes): (u64, u64),
        content: Content,
        fua: bool,
    ) {
        let write_id = self.new_id();
        let view = &self.views[&id];
        let Some(edges) = Edges::of(offset_bytes, length_bytes, view.size_bytes) else {
            return self.empty(ticket);
        };
        let write = Write {
            id: write_id,
            view: id,
            ticket,
            client,
            offset_bytes,
            length_bytes,
            content,
            fua,
            extent: edges.extent,
            head: None,
            tail: None,
            pending: 0,
            failed: false,
        };
        if view.is_locked(edges.extent) {
            let view = self.views.get_mut(&id).expect("seen above");
            return view.blocked.push_back(write);
        }
        self.begin_write(write);
    }

    /// Nothing overlaps the write any more.
    fn begin_write(&mut self, mut write: Write) {
        let Some(view) = self.views.get_mut(&write.view) else {
            return self.complete(write.ticket, Err(BlockError::Stopping));
        };
        let edges = Edges::of(write.offset_bytes, write.length_bytes, view.size_bytes);
        let edges = edges.expect("checked when it came");
        if edges.is_aligned() {
            return self.append(write);
        }
        let (id, asked) = (write.id, write.view);
        view.locks.push((id, write.extent));
        let lbas: Vec<Lba> = [edges.head, edges.tail].into_iter().flatten().collect();
        write.pending = lbas.len();
        self.writes.insert(id, write);
        for lba in lbas {
            self.read_edge(asked, id, lba);
        }
    }

    /// What an edge block holds is known.
    pub(crate) fn edge_read(&mut self, id: u64, lba: Lba, block: Result<Box<[u8]>, BlockError>) {
        let Some(write) = self.writes.get_mut(&id) else { return };
        write.pending -= 1;
        match block {
            Err(_) => write.failed = true,
            Ok(mut block) => {
                write.overlay(lba, &mut block);
                if lba == write.extent.start() {
                    write.head = Some(block);
                } else {
                    write.tail = Some(block);
                }
            }
        }
        if write.pending > 0 {
            return;
        }
        let write = self.writes.remove(&id).expect("just seen");
        if write.failed {
            self.complete(write.ticket, Err(BlockError::Io));
            return self.unlock(write.view, id);
        }
        self.append(write);
    }

    /// Logs a write that is complete, or lets it wait for room; who overlaps it then waits too.
    fn append(&mut self, write: Write) {
        let refused = if self.stalled.is_empty() { self.try_append(write) } else { Some(write) };
        let Some(write) = refused else { return };
        if let Some(view) = self.views.get_mut(&write.view)
            && !view.locks.iter().any(|(id, _)| *id == write.id)
        {
            view.locks.push((write.id, write.extent));
        }
        self.stalled.push_back(write);
    }

    /// Logs writes that waited for room, as far as there is some now.
    pub(crate) fn retry_stalled(&mut self) {
        while let Some(write) = self.stalled.pop_front() {
            if let Some(write) = self.try_append(write) {
                self.stalled.push_front(write);
                break;
            }
        }
    }

    /// Gives the write back if there is no room for it yet.
    fn try_append(&mut self, write: Write) -> Option<Write> {
        let bulk = matches!(write.content, Content::Data(_)) && write.extent.bytes() >= BULK_BYTES;
        let (shape, bulk_blocks) = match &write.content {
            Content::Zeros(_) => (Shape { cells: 2, records: 1 }, 0),
            Content::Data(_) if bulk => (Shape { cells: 0, records: 1 }, write.extent.blocks()),
            Content::Data(_) => (Shape { cells: blocks_of(write.extent), records: 0 }, 0),
        };
        let refused = match self.log.room(shape, bulk_blocks) {
            Room::Yes => None,
            Room::Wait => return Some(write),
            Room::Full => Some(BlockError::NoSpace),
            Room::Failing | Room::Poisoned => Some(BlockError::Io),
        };
        let writable = self.views.get(&write.view).is_some_and(|view| !view.read_only);
        if let Some(error) = refused.or((!writable).then_some(BlockError::Denied)) {
            self.complete(write.ticket, Err(error));
            self.unlock(write.view, write.id);
            return None;
        }
        self.log_write(&write, bulk);
        self.unlock(write.view, write.id);
        None
    }

    /// There is room: the write becomes part of history.
    fn log_write(&mut self, write: &Write, bulk: bool) {
        let view = self.views.get_mut(&write.view).expect("checked by the caller");
        self.log.begin(view.branch, write.client);
        match &write.content {
            Content::Zeros(kind) => {
                let (mut start, mut end) = (write.extent.start().number(), write.extent.end());
                if let Some(head) = &write.head {
                    let lba = write.extent.start();
                    view.map.set(lba, self.log.cell(lba, head));
                    start += 1;
                }
                if let Some(tail) = &write.tail {
                    end -= 1;
                    let lba = Lba::new(end).expect("inside the extent");
                    view.map.set(lba, self.log.cell(lba, tail));
                }
                let inner =
                    Lba::new(start).and_then(|lba| Extent::new(lba, end.checked_sub(start)?));
                if let Some(inner) = inner {
                    self.log.range(inner, *kind);
                    view.map.set_zero(inner);
                }
            }
            Content::Data(_) => {
                let spare = write.spare();
                if bulk {
                    let first = self.log.bulk(write.extent, |index| write.block(index, &spare));
                    view.map.set_row(write.extent, first.expect("there was room"));
                } else {
                    for (index, lba) in write.extent.lbas().enumerate() {
                        view.map.set(lba, self.log.cell(lba, write.block(index, &spare)));
                    }
                }
            }
        }
        self.log.end(write.ticket, write.fua);
    }

    /// Lets those go on who waited for this write's blocks.
    fn unlock(&mut self, id: ViewId, write: u64) {
        let Some(view) = self.views.get_mut(&id) else { return };
        view.locks.retain(|(locked, _)| *locked != write);
        let waiting = std::mem::take(&mut view.blocked);
        for write in waiting {
            let Some(view) = self.views.get_mut(&id) else { return };
            if view.is_locked(write.extent) {
                view.blocked.push_back(write);
            } else {
                self.begin_write(write);
            }
        }
    }

    fn empty(&mut self, ticket: u64) {
        let last = self.log.last();
        self.complete(ticket, Ok(block_device::Answer::Written(last)));
    }
}

fn blocks_of(extent: Extent) -> usize {
    usize::try_from(extent.blocks()).unwrap_or(usize::MAX)
}
