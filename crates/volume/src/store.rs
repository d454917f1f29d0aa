//! The store as a state machine: every volume's requests in, answers out, nothing that blocks.
//!
//! Who drives it (the server's loop, or a simulation) takes operations for a ring and jobs for
//! workers, and brings their ends back. All of it belongs to one thread. Invariants: a read gives the
//! newest version that its view sees, or an error; overlapping writes take effect one after the other,
//! whatever their edges; what a view's map does not know is asked of the index, never guessed.

use crate::{
    Below, Extents, HeadMap, Rest, Snapshot, SourceDone, SourceRead, View, ViewId,
    base::{AskBelow, Fill, Standings},
    read::{Fetch, Purpose, Read, Sheet},
    view::{Loading, Parked},
    write::Write,
};
use block_device::{Answer, BlockError, Completion, DeviceInfo, Ticket};
use catalogue::{Catalogue, CatalogueRecord};
use history_index::{Bound, IndexSnapshot, LeafVersions};
use manifest::Record;
use segment_log::{Event, Log, Moves, Outcome, Work, planted};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};
use units::{BranchId, Leaf, Sequence};
use world::{Done, Op, Token};

/// Tickets from here on are the store's own.
const OWN_TICKETS: u64 = 1 << 63;
/// Moved cells that maps follow in one turn.
const MOVES_A_TURN: usize = 1024;

/// See the module's head.
pub struct Store {
    pub(crate) log: Log,
    pub(crate) catalogue: Arc<Catalogue>,
    pub(crate) views: BTreeMap<ViewId, View>,
    live: BTreeMap<BranchId, ViewId>,
    /// Instants that nobody holds any more, while something in flight needs them.
    closing: Vec<ViewId>,
    pub(crate) reads: BTreeMap<u64, Read>,
    fetches: BTreeMap<u64, Fetch>,
    pub(crate) writes: BTreeMap<u64, Write>,
    pub(crate) extents: BTreeMap<u64, Extents>,
    /// Writes that wait for room in the log, in their order.
    pub(crate) stalled: VecDeque<Write>,
    /// Blocks of bases that wait for room behind those.
    pub(crate) fills: VecDeque<Fill>,
    /// Sources of bases that are not detached.
    pub(crate) standing: Standings,
    /// Reads that wait for memory, in their order.
    starved: VecDeque<u64>,
    pub(crate) next_id: u64,
    completions: Vec<Completion>,
    ops: Vec<(Token, Op)>,
    pub(crate) jobs: Vec<Job>,
    moves: VecDeque<Moves>,
    changes: BTreeMap<u64, Vec<CatalogueRecord>>,
    /// Units of bases that are recorded once what was written of them is durable.
    pub(crate) takings: BTreeMap<u64, (BranchId, Vec<(u64, u64)>)>,
    /// Ids of those who want the manifest written anew.
    rewrites: VecDeque<u64>,
    changed: Vec<(u64, bool)>,
    pub(crate) damaged: u64,
    /// The last time that the index could not answer: why.
    trouble: Option<String>,
}

/// Work for another thread: blocking, bounded, and of no effect until its end comes back.
pub enum Job {
    /// Of the log.
    Log(Work),
    /// The versions of a leaf that a view needs.
    Load(Load),
    /// Blocks of a foreign source.
    Source(SourceRead),
}

/// On which thread a job runs: jobs of one lane run one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Short, and others wait for it.
    Prompt,
    /// Long: packing and merging.
    Background,
    /// Look-ups: any number at once, in any order.
    Read,
    /// The same, and as slow as files elsewhere are.
    Source,
}

/// A question to the index.
pub struct Load {
    view: ViewId,
    chain: Vec<Bound>,
    index: IndexSnapshot,
    versions: LeafVersions,
    below: Option<AskBelow>,
}

/// The end of a job.
pub enum JobDone {
    /// Of the log.
    Log(Outcome),
    /// The versions, as far as they can be had.
    Load {
        /// Who asked.
        view: ViewId,
        /// What came.
        versions: LeafVersions,
        /// What blocks without a version are.
        rest: Rest,
        /// Why blocks without a version cannot be had.
        trouble: Option<String>,
    },
    /// Blocks of a source.
    Source(SourceDone),
}

impl Job {
    /// Where it runs.
    pub fn lane(&self) -> Lane {
        match self {
            Self::Log(work) if work.is_long() => Lane::Background,
            Self::Log(_) => Lane::Prompt,
            Self::Load(Load { below: Some(AskBelow { source: Some(_), .. }), .. })
            | Self::Source(_) => Lane::Source,
            Self::Load(_) => Lane::Read,
        }
    }

    /// Does it.
    pub fn run(self) -> JobDone {
        match self {
            Self::Log(work) => JobDone::Log(work.run()),
            Self::Load(mut load) => {
                let versions = &mut load.versions;
                let mut loaded =
                    load.index.complete_leaf(&load.chain, versions).map(|()| Rest::Zero);
                // What a lost run hides may lie over the base: then nobody knows.
                if let (Ok(rest), Some(below)) = (&mut loaded, load.below)
                    && !versions.is_complete()
                {
                    match below.run(&load.index, versions) {
                        Ok(found) => *rest = found,
                        Err(error) => loaded = Err(error),
                    }
                }
                let (rest, trouble) = match loaded {
                    Ok(rest) => (rest, None),
                    Err(error) => (Rest::Zero, Some(error.to_string())),
                };
                JobDone::Load { view: load.view, versions: load.versions, rest, trouble }
            }
            Self::Source(asked) => JobDone::Source(asked.run()),
        }
    }
}

impl Store {
    /// A store over a recovered log and its catalogue.
    pub fn new(log: Log, catalogue: Catalogue) -> Self {
        Self {
            log,
            catalogue: Arc::new(catalogue),
            views: BTreeMap::new(),
            live: BTreeMap::new(),
            closing: Vec::new(),
            reads: BTreeMap::new(),
            fetches: BTreeMap::new(),
            writes: BTreeMap::new(),
            extents: BTreeMap::new(),
            stalled: VecDeque::new(),
            fills: VecDeque::new(),
            standing: Standings::new(),
            starved: VecDeque::new(),
            next_id: 1,
            completions: Vec::new(),
            ops: Vec::new(),
            jobs: Vec::new(),
            moves: VecDeque::new(),
            changes: BTreeMap::new(),
            takings: BTreeMap::new(),
            rewrites: VecDeque::new(),
            changed: Vec::new(),
            damaged: 0,
            trouble: None,
        }
    }

    /// Volumes, branches, marks as they are; cheap to keep.
    pub fn catalogue(&self) -> &Arc<Catalogue> {
        &self.catalogue
    }

    /// The log, for what it tells of itself.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Blocks that could not be read because their bytes are damaged.
    pub fn damaged(&self) -> u64 {
        self.damaged
    }

    /// Why the index could not answer the last time that it could not.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Memory of the maps of all open views.
    pub fn head_map_bytes(&self) -> usize {
        self.views.values().map(|view| view.map.memory_bytes()).sum()
    }

    /// Opens a branch as it goes on, or at an instant. What many open at once they share.
    pub fn open_view(&mut self, branch: BranchId, at: Option<Sequence>) -> Option<ViewId> {
        if at.is_none()
            && let Some(id) = self.live.get(&branch)
            && let Some(view) = self.views.get_mut(id)
        {
            view.holders += 1;
            return Some(*id);
        }
        let up_to = at.unwrap_or(Sequence::MAX);
        let known = self.catalogue.branch(branch)?;
        let chain: Vec<Bound> = self
            .catalogue
            .chain(branch, up_to)
            .into_iter()
            .map(|(of, up_to)| {
                let off = planted::is(20) && of != branch;
                Bound { branch: of, up_to: if off { up_to.next() } else { up_to } }
            })
            .collect();
        let made = known.created.sequence;
        // Of a branch that ended where it began only what it came from is left in the chain.
        let alone = chain.iter().all(|bound| bound.branch == branch);
        let below = Below::of(&self.catalogue, branch);
        let fresh = at.is_none() && alone && below.is_none() && self.log.never_wrote(branch, made);
        let view = View {
            branch,
            at,
            size_bytes: self.catalogue.size_at(branch, up_to)?,
            read_only: at.is_some() || known.read_only,
            map: if fresh { HeadMap::zero() } else { HeadMap::unknown() },
            chain,
            below,
            holders: 1,
            loading: BTreeMap::new(),
            locks: Vec::new(),
            blocked: VecDeque::new(),
        };
        let id = ViewId(self.new_id());
        self.views.insert(id, view);
        if at.is_none() {
            self.live.insert(branch, id);
        }
        Some(id)
    }

    /// Lets go of a view. The present of a branch stays in memory; an instant is forgotten with its
    /// last holder, once nothing in flight needs it.
    pub fn close_view(&mut self, id: ViewId) {
        let Some(view) = self.views.get_mut(&id) else { return };
        view.holders = view.holders.saturating_sub(1);
        if view.holders == 0 && view.at.is_some() {
            self.closing.push(id);
            self.forget_closed();
        }
    }

    /// Drops closed views that nothing in flight needs.
    fn forget_closed(&mut self) {
        let Self { closing, reads, extents, views, .. } = self;
        closing.retain(|id| {
            let read = reads.values().any(|read| read.view == *id);
            let needed = read || extents.values().any(|question| question.view == *id);
            let needed = needed && !planted::is(35);
            if !needed {
                views.remove(id);
            }
            needed
        });
    }

    /// The store as it stands, for questions on any thread.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            catalogue: self.catalogue.clone(),
            index: self.log.whole_index(),
            head: self.log.last(),
            durable: self.log.durable(),
        }
    }

    /// What a view is now.
    pub fn info(&self, id: ViewId) -> Option<DeviceInfo> {
        let view = self.views.get(&id)?;
        Some(DeviceInfo {
            size_bytes: view.size_bytes,
            read_only: view.read_only,
            frozen: view.at.is_some(),
        })
    }

    /// Makes all that was begun durable; [`Store::take_changed`] tells by the same id.
    pub fn flush_all(&mut self) -> u64 {
        let id = self.new_id() | OWN_TICKETS;
        self.log.flush_all(id);
        id
    }

    /// Ends the log cleanly once nothing is written any more; [`Store::take_changed`] tells by the same id.
    /// A store that ends without is recovered as after a crash.
    pub fn finish(&mut self) -> u64 {
        let id = self.new_id() | OWN_TICKETS;
        self.log.finish(id);
        id
    }

    /// Makes changes of the catalogue durable and then takes them in; [`Store::take_changed`] tells.
    /// They must have been planned on the present catalogue.
    pub fn change(&mut self, records: Vec<CatalogueRecord>) -> u64 {
        let id = self.own_id();
        self.change_as(id, records);
        id
    }

    pub(crate) fn change_as(&mut self, id: u64, records: Vec<CatalogueRecord>) {
        self.log.record(id, encode(&records));
        self.changes.insert(id, records);
    }

    pub(crate) fn own_id(&mut self) -> u64 {
        self.new_id() | OWN_TICKETS
    }

    /// Writes the manifest anew: what was overtaken is gone from the disk then, keys that were given up
    /// too. [`Store::take_changed`] tells by the id.
    pub fn rewrite_manifest(&mut self) -> u64 {
        let id = self.new_id() | OWN_TICKETS;
        self.rewrites.push_back(id);
        id
    }

    /// Begins to write the manifest anew if that is wanted or due, once all that is on its way there is
    /// known here too.
    fn keep_manifest_short(&mut self) {
        let due = self.log.manifest_is_long() || !self.rewrites.is_empty();
        if !due || self.log.is_recording() {
            return;
        }
        let wanted = self.rewrites.pop_front();
        let id = wanted.unwrap_or_else(|| self.new_id() | OWN_TICKETS);
        self.log.rewrite(id, encode(&self.catalogue.snapshot()));
    }

    /// Takes the ids of flushes and changes that have ended, and whether well.
    pub fn take_changed(&mut self) -> Vec<(u64, bool)> {
        std::mem::take(&mut self.changed)
    }

    /// Appends the answers that are due.
    pub fn take_completions(&mut self, completions: &mut Vec<Completion>) {
        completions.append(&mut self.completions);
    }

    /// Appends the operations that are to be started.
    pub fn take_ops(&mut self, ops: &mut Vec<(Token, Op)>) {
        ops.append(&mut self.ops);
    }

    /// Appends the jobs that are to be run.
    pub fn take_jobs(&mut self, jobs: &mut Vec<Job>) {
        jobs.append(&mut self.jobs);
    }

    /// Whether anything is under way that will come back by itself.
    pub fn is_idle(&self) -> bool {
        let waiting = !(self.stalled.is_empty() && self.fills.is_empty());
        self.log.is_idle() && self.fetches.is_empty() && !waiting
    }

    /// Whether there is more to do at once, without waiting for anything.
    pub fn has_more(&self) -> bool {
        !self.moves.is_empty()
    }

    /// Does what is due: call it once a turn, after the turn's requests and ends.
    pub fn advance(&mut self) {
        self.follow_moves();
        self.retry_starved();
        self.retry_stalled();
        self.retry_fills();
        self.log.advance();
        self.hear();
        self.keep_manifest_short();
        self.retry_stalled();
        self.retry_fills();
        self.forget_closed();
        let mut ops = Vec::new();
        self.log.take_ops(&mut ops);
        self.ops.extend(ops.into_iter().map(|(io, op)| (Token(io << 1), op)));
        self.jobs.extend(self.log.take_works().into_iter().map(Job::Log));
    }

    /// An operation of [`Store::take_ops`] has ended.
    pub fn done(&mut self, mut done: Done) {
        let id = done.token.0 >> 1;
        if done.token.0 & 1 == 0 {
            done.token = Token(id);
            self.log.done(id, done);
        } else if let Some(fetch) = self.fetches.remove(&id) {
            self.fetched(&fetch, done);
        }
    }

    /// A job of [`Store::take_jobs`] has ended.
    pub fn job_done(&mut self, done: JobDone) {
        match done {
            JobDone::Log(outcome) => {
                if let Some(moves) = self.log.work_done(outcome) {
                    self.moves.push_back(moves);
                }
            }
            JobDone::Load { view, versions, rest, trouble } => {
                self.loaded(view, &versions, &rest, trouble);
            }
            JobDone::Source(done) => self.source_read(done),
        }
    }

    pub(crate) fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(crate) fn complete(&mut self, ticket: u64, result: Result<Answer, BlockError>) {
        self.completions.push(Completion { ticket: Ticket(ticket), result });
    }

    pub(crate) fn push_fetch(&mut self, fetch: Fetch, page: world::Page) {
        let id = self.new_id();
        let op = Op::Read {
            file: fetch.file.clone(),
            offset_bytes: fetch.offset_bytes,
            page,
            length_bytes: fetch.length_bytes,
        };
        self.ops.push((Token(id << 1 | 1), op));
        self.fetches.insert(id, fetch);
    }

    pub(crate) fn starve(&mut self, read: u64) {
        self.starved.push_back(read);
    }

    /// Asks the index for a leaf that the view's map does not know.
    pub(crate) fn load(&mut self, id: ViewId, leaf: Leaf, parked: Parked) {
        let Some(view) = self.views.get_mut(&id) else { return };
        let parked_before = &mut view.loading.entry(leaf).or_default().parked;
        parked_before.push(parked);
        if parked_before.len() > 1 {
            return;
        }
        let chain = view.chain.clone();
        let below = view.below.filter(|below| leaf.extent().start().number() < below.blocks);
        let mut versions = LeafVersions::new(leaf);
        self.log.load_open_leaf(&chain, leaf, &mut versions);
        let below = below.map(|below| {
            let mut versions = LeafVersions::new(leaf);
            self.log.load_open_leaf(&[below.bound()], leaf, &mut versions);
            let source = if below.attached { self.source(below.id) } else { None };
            AskBelow { below, catalogue: self.catalogue.clone(), versions, source }
        });
        let index = self.log.index();
        self.jobs.push(Job::Load(Load { view: id, chain, index, versions, below }));
    }

    /// The index has answered. If it could not in full, those fail who need what stays unknown; who
    /// comes later asks again, for the disk may be better by then.
    fn loaded(
        &mut self,
        id: ViewId,
        versions: &LeafVersions,
        rest: &Rest,
        trouble: Option<String>,
    ) {
        let Some(view) = self.views.get_mut(&id) else { return };
        let leaf = versions.leaf();
        let Loading { parked, stale } = view.loading.remove(&leaf).unwrap_or_default();
        if stale && !planted::is(36) {
            for parked in parked {
                self.load(id, leaf, parked);
            }
            return;
        }
        let whole = trouble.is_none();
        if let Some(trouble) = trouble {
            view.map.fill_known(versions);
            self.damaged += 1;
            self.trouble = Some(trouble);
        } else {
            view.map.fill_over(versions, rest);
        }
        for parked in parked {
            match parked {
                Parked::Read(read) if whole || self.knows(read, leaf) => self.start_read(read),
                Parked::Read(read) => self.fail_read(read, BlockError::Io),
                Parked::Extents(question) if whole => self.start_extents(question),
                Parked::Extents(question) => self.start_extents_without(question, leaf),
            }
        }
    }

    /// Takes what the log has to say.
    fn hear(&mut self) {
        while let Some(event) = self.log.next_event() {
            match event {
                Event::Written { ticket, sequence } => {
                    self.complete(ticket, Ok(Answer::Written(sequence)));
                }
                Event::Flushed { ticket } if ticket & OWN_TICKETS != 0 => {
                    match self.takings.remove(&ticket) {
                        Some((base, runs)) => self.record_taken(ticket, base, runs),
                        None => self.changed.push((ticket, true)),
                    }
                }
                Event::Flushed { ticket } => self.complete(ticket, Ok(Answer::Flushed)),
                Event::Failed { ticket, .. } if ticket & OWN_TICKETS != 0 => {
                    self.takings.remove(&ticket);
                    self.changed.push((ticket, false));
                }
                Event::Failed { ticket, full } => {
                    let error = if full { BlockError::NoSpace } else { BlockError::Io };
                    self.complete(ticket, Err(error));
                }
                Event::Recorded { ticket, durable } => self.recorded(ticket, durable),
            }
        }
    }

    fn recorded(&mut self, id: u64, durable: bool) {
        if let Some(records) = self.changes.remove(&id)
            && durable
        {
            let catalogue = Arc::make_mut(&mut self.catalogue);
            for record in records {
                catalogue.apply(record).expect("planned on this catalogue");
            }
            self.learn();
        }
        self.changed.push((id, durable));
    }

    /// Brings keys and open views up to what the catalogue says now.
    fn learn(&mut self) {
        crate::learn_keys(&self.catalogue, &self.log.environment().keyring);
        self.learn_bases();
        for view in self.views.values_mut().filter(|view| view.at.is_none()) {
            if let Some(branch) = self.catalogue.branch(view.branch) {
                view.read_only = branch.read_only;
            }
            let size = self.catalogue.size_at(view.branch, Sequence::MAX);
            view.size_bytes = size.unwrap_or(view.size_bytes);
        }
    }

    fn follow_moves(&mut self) {
        let mut left = MOVES_A_TURN;
        while left > 0
            && let Some(moves) = self.moves.front_mut()
        {
            let count = left.min(moves.cells.len());
            for moved in moves.cells.drain(..count) {
                if let Some(view) = self.live.get(&moved.branch)
                    && let Some(view) = self.views.get_mut(view)
                {
                    if planted::is(24) {
                        view.map.set(moved.lba, moved.to);
                    }
                    view.map.moved(moved.lba, moved.from, moved.to);
                }
            }
            left -= count;
            if moves.cells.is_empty()
                && let Some(moves) = self.moves.pop_front()
            {
                self.log.moves_followed(moves.segment);
            }
        }
    }

    /// Tries reads that waited for memory, in their order, as long as there is some.
    fn retry_starved(&mut self) {
        for _ in 0..self.starved.len() {
            let Some(read) = self.starved.pop_front() else { break };
            let behind = self.starved.len();
            self.start_read(read);
            if self.starved.len() > behind {
                self.starved.rotate_right(1);
                break;
            }
        }
    }
}

fn encode(records: &[CatalogueRecord]) -> Vec<Record> {
    let encoded = records.iter().map(CatalogueRecord::encode);
    encoded.map(|(kind, body)| Record { kind, body }).collect()
}

impl Read {
    /// The blocks of this read in the order they were asked for, before anything is known.
    pub(crate) fn begun(
        view: ViewId,
        ticket: u64,
        purpose: Purpose,
        extent: units::Extent,
    ) -> Self {
        Self {
            view,
            ticket,
            purpose,
            extent,
            sheet: None,
            pending: 0,
            rest: Vec::new(),
            below: Vec::new(),
            apart: false,
            error: None,
            again: false,
            tries: 0,
        }
    }

    /// Where its blocks gather.
    pub(crate) fn sheet(&mut self) -> &mut Sheet {
        self.sheet.get_or_insert(Sheet::Zeros)
    }
}
