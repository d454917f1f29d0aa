//! One file after the other: segments that are full make way for prepared ones, bulk files too.

use crate::{
    batch::SegmentHeader,
    bulk,
    files::{CellFile, Home},
    log::{Log, random},
    terms::Room,
    work::PreparedSegment,
    writer::OpenSegment,
};
use seal::{Tag, TagKey};
use std::sync::Arc;
use units::{Epoch, FileId, Sequence};
use world::{File, Image};

/// A segment that takes no more batches.
pub struct FullSegment {
    pub cells: Arc<CellFile>,
    pub file: File,
    pub slot: u64,
    /// Its contents, while there is memory for them.
    pub image: Option<Image>,
    pub end_bytes: u64,
    pub last_tag: Tag,
    pub run: Arc<history_index::MemoryRun>,
    pub bulk: Vec<(FileId, Sequence)>,
    /// Its run on disk, once it is sealed.
    pub sealed: Option<units::RunId>,
    pub busy: bool,
    /// It could not be packed: it is only indexed, and stays where it is.
    pub stays: bool,
}

impl Log {
    /// Closes the open segment, if any, and begins the next one.
    pub(crate) fn roll(&mut self) -> Room {
        let Some(next) = self.background.prepared_segment() else {
            return self.background.room_for_segments();
        };
        self.close_segment();
        let (first, previous) = (self.last.next(), self.chain_tag());
        self.begin_segment(next, first, previous);
        Room::Yes
    }

    /// Begins a segment whose first request will be `first`, behind the batch with tag `previous`.
    pub(crate) fn begin_segment(&mut self, next: PreparedSegment, first: Sequence, previous: Tag) {
        let image = self.spare.pop().unwrap_or_else(|| {
            Image::new(usize::try_from(self.config.segment_bytes).expect("a 64-bit machine"))
        });
        let salt = random(&*self.env.chance);
        let id = self.new_file_id();
        let epoch = self.state.epoch().map_or(Epoch(0), |epoch| epoch.epoch);
        let (wall, _) = self.clock.now(&*self.env.clock);
        let store = self.env.store;
        let header = SegmentHeader { epoch, file: id, store, salt, first, previous, wall };
        let key = TagKey::new(&self.env.master.derive("segment", &salt));
        let cells = CellFile::new(id, Home::Slot(next.slot), first, Some(next.file.clone()));
        self.files.insert(cells.clone());
        let sector = self.config.sector;
        self.segment =
            Some(OpenSegment::begin(cells, next.file, next.slot, image, &header, key, sector));
        self.background.prepare_segment(&self.config);
    }

    /// Cuts the open batch and hands the segment to the background.
    pub(crate) fn close_segment(&mut self) {
        if self.segment.is_none() {
            return;
        }
        self.cut();
        let Some(segment) = self.segment.take() else { return };
        let end_bytes = segment.image.length_bytes() as u64;
        let run = Arc::new(history_index::MemoryRun::new(segment.run.finish()));
        self.background.add_memory_run(run.clone());
        self.full.push_back(FullSegment {
            cells: segment.cells,
            file: segment.file,
            slot: segment.slot,
            image: Some(segment.image),
            end_bytes,
            last_tag: segment.last_tag,
            run,
            bulk: segment.bulk,
            sealed: None,
            busy: false,
            stays: false,
        });
        self.flushing.want(self.last);
    }

    /// Tag of the last batch that was cut, where the next segment's chain begins.
    pub(crate) fn chain_tag(&self) -> Tag {
        let open = self.segment.as_ref().map(|segment| segment.last_tag);
        // What is sealed already was found at the start: it belongs to an epoch before this one.
        let full = self.full.back().filter(|full| full.sealed.is_none());
        let full = full.map(|full| full.last_tag);
        open.or(full).or_else(|| self.state.chain()).unwrap_or_default()
    }

    pub(crate) fn file_of(&self, segment: FileId) -> Option<File> {
        let open = self.segment.as_ref().filter(|open| open.id() == segment);
        open.map(|open| open.file.clone()).or_else(|| {
            let full = self.full.iter().find(|full| full.cells.id == segment)?;
            Some(full.file.clone())
        })
    }

    /// Goes on in another bulk file that takes `blocks` and whose cells have sequences from `first` on.
    pub(crate) fn next_bulk_file(&mut self, first: Sequence, blocks: u64) -> Room {
        let needed_bytes = bulk::file_bytes(blocks);
        if self.background.has_bulk(needed_bytes)
            && let Some(next) = self.background.prepared_bulk()
        {
            let file = Some(next.file.clone());
            self.files.insert(CellFile::new(next.id, Home::Bulk(next.id), first, file));
            if let Some(full) = self.bulk.use_file(next) {
                self.files.close(full);
            }
            self.prepare_bulk(0);
            return Room::Yes;
        }
        self.prepare_bulk(needed_bytes);
        self.background.room_for_bulk(needed_bytes)
    }

    /// Has a bulk file made for at least so many bytes, if none is ready or being made.
    pub(crate) fn prepare_bulk(&mut self, needed_bytes: u64) {
        if !self.background.is_preparing_bulk() {
            let id = self.new_file_id();
            self.background.prepare_bulk(id, needed_bytes, &self.config);
        }
    }
}
