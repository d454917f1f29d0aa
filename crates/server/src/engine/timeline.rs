//! `log`: a volume's history by minute, write, flush or client.
//!
//! Everything is derived from the index: cells and ranges say what was written, clock points when,
//! client runs by whom. Lengths are those of whole blocks, for that is what history keeps. Memory: a
//! page of rows, and one bit for each sequence of the run that is looked at.

use super::{
    failures::{index_failure, told},
    naming::without_instant,
    past::{Found, Past, moment},
    running::Engine,
    volumes::{branches, marks_between, present},
    writes::{self, overlap, spans_of},
};
use api::{
    Failure, InstantSpec, Point, Reference, codes,
    verbs::{
        Moment,
        log::{Flush, Log, LogBy, LogPage, Minute, Write, WriteOp, Writer},
    },
};
use catalogue::When;
use history_index::{ClientRun, Source, Span};
use std::{collections::BTreeMap, ops::RangeInclusive};
use units::{BLOCK_BYTES, ClientId, Lba, Sequence, Timestamp};

/// Rows in a page, unless fewer are asked for.
const ROWS_MAX: usize = 1 << 15;
const MINUTE_NS: i64 = 60_000_000_000;
/// Where minutes begin by default.
const HOUR_NS: u64 = 3_600_000_000_000;
/// Flag of a range record that is a trim.
const TRIM: u8 = 1;

impl Engine {
    pub(super) fn log(&self, request: &Log) -> Result<LogPage, Failure> {
        without_instant(&request.reference)?;
        let past = self.settled()?;
        let mut until = at(&past, &request.reference, request.until.clone())?;
        if request.until.is_none() && request.reference.branch.is_none() {
            // The line that is written now, though the last write on it may be its parent's.
            until.resolved.branch = present(&past, &until.volume)?.id;
            until.resolved.left = None;
        }
        let since = since(&past, request, &until)?;
        let volume = &until.volume;
        let chain = past.catalogue().chain(until.resolved.branch, until.resolved.sequence);
        let first_page = request.after.is_none();
        let after = request.after.and_then(Sequence::new).unwrap_or(since.sequence);
        let spans = spans_of(&chain, after.max(since.sequence));
        let rows =
            request.limit.map_or(ROWS_MAX, |limit| usize::try_from(limit).unwrap_or(ROWS_MAX));
        let search = Search { past: &past, spans, rows: rows.clamp(1, ROWS_MAX), size: until.size };
        let mut page = LogPage {
            name: until.name.clone(),
            since: moment(since),
            until: until.moment(),
            now: moment(past.now),
            minutes: Vec::new(),
            writes: Vec::new(),
            flushes: Vec::new(),
            clients: Vec::new(),
            marks: Vec::new(),
            branches: Vec::new(),
            next: None,
        };
        let found = match request.by {
            LogBy::Minute => search.minutes(&mut page),
            LogBy::Write => search.writes(&mut page),
            LogBy::Flush => search.flushes(&mut page),
            LogBy::Client => search.clients(&mut page),
        };
        found.map_err(|error| index_failure(&error))?;
        if first_page {
            page.marks = marks_between(&past, volume, since, until.resolved.when())?;
            page.branches = branches(&past, volume, since.sequence)?;
        }
        Ok(page)
    }
}

fn at(past: &Past, reference: &Reference, instant: Option<InstantSpec>) -> Result<Found, Failure> {
    past.find(&reference.clone().at(instant.unwrap_or(InstantSpec::NOW)), false)
}

/// Where the stretch begins: what is older than the volume begins with it.
fn since(past: &Past, request: &Log, until: &Found) -> Result<When, Failure> {
    let start = past.catalogue().start(until.volume.id);
    let start = start.map_err(|error| past.teller().catalogue(error))?;
    let spec = match (&request.since, request.by) {
        (Some(spec), _) => spec.clone(),
        (None, LogBy::Minute) => {
            let hour = i64::try_from(HOUR_NS).unwrap_or(i64::MAX);
            InstantSpec::of(Point::At(
                until.resolved.asked.unwrap_or(until.resolved.time).plus_ns(-hour),
            ))
        }
        (None, _) => return Ok(start),
    };
    // Along the line that is shown, not along what was served.
    let mut reference = request.reference.clone();
    if reference.branch.is_none()
        && let Some(left) = &until.resolved.left
    {
        reference.branch = Some(left.as_str().parse()?);
    }
    match at(past, &reference, Some(spec)) {
        Ok(found) => Ok(found.resolved.when().max(start)),
        Err(failure) if failure.code == codes::TOO_OLD => Ok(start),
        Err(failure) => Err(failure),
    }
}

struct Search<'a> {
    past: &'a Past,
    spans: Vec<Span>,
    rows: usize,
    size: u64,
}

type Outcome = history_index::Result<()>;

impl Search<'_> {
    fn sources(&self) -> impl Iterator<Item = (&Source, RangeInclusive<Sequence>)> {
        let sources = self.past.snapshot.index.sources().iter();
        sources.filter_map(|source| Some((source, overlap(source, &self.spans)?)))
    }

    fn minutes(&self, page: &mut LogPage) -> Outcome {
        for (source, interval) in self.sources() {
            let minutes = minutes_of(source, &interval)?;
            let of = |sequence: Sequence| {
                minutes
                    .partition_point(|(last, _)| *last < sequence)
                    .min(minutes.len().saturating_sub(1))
            };
            let mut counts = vec![(0_u64, 0_u64, Sequence::ZERO); minutes.len()];
            if counts.is_empty() {
                continue;
            }
            writes::each_cell(source, &self.spans, &interval, |entry| {
                counts[of(entry.sequence)].1 += BLOCK_BYTES;
            })?;
            for sequence in writes::written(source, &self.spans, &interval)?.iter() {
                let count = &mut counts[of(sequence)];
                count.0 += 1;
                count.2 = sequence;
            }
            for ((_, time), (writes, bytes, last)) in minutes.into_iter().zip(counts) {
                if writes > 0 {
                    add_minute(&mut page.minutes, time, writes, bytes, last);
                }
            }
            if page.minutes.len() > self.rows {
                page.minutes.truncate(self.rows);
                page.next = page.minutes.last().map(|minute| minute.seq);
                break;
            }
        }
        Ok(())
    }

    fn writes(&self, page: &mut LogPage) -> Outcome {
        let mut names = Names::new(self.past);
        for (source, interval) in self.sources() {
            let left = self.rows - page.writes.len();
            let (found, more) = self.first_writes(source, &interval, left)?;
            for (sequence, write) in found {
                let time = source.clock_of(sequence)?.map(|point| point.wall);
                let client = names.of(self.past.snapshot.index.client_of(sequence)?);
                let offset = write.first.offset_bytes();
                let end = ((write.last.number() + 1) * BLOCK_BYTES)
                    .min(self.size.max(offset + BLOCK_BYTES));
                page.writes.push(Write {
                    seq: sequence.number(),
                    time: time.unwrap_or(self.past.now.time).into(),
                    op: write.op,
                    offset,
                    length: end - offset,
                    client,
                });
            }
            if more || page.writes.len() == self.rows {
                page.next = page.writes.last().map(|write| write.seq);
                break;
            }
        }
        Ok(())
    }

    /// The first so many requests of a source, and whether it has more.
    fn first_writes(
        &self,
        source: &Source,
        interval: &RangeInclusive<Sequence>,
        limit: usize,
    ) -> history_index::Result<(BTreeMap<Sequence, Written>, bool)> {
        let (mut found, mut more) = (BTreeMap::<Sequence, Written>::new(), false);
        let mut add = |sequence: Sequence, first: Lba, last: Lba, op: WriteOp| {
            if found.len() == limit
                && found.last_key_value().is_some_and(|(last, _)| *last < sequence)
            {
                more = true;
                return;
            }
            let new = Written { first, last, op };
            found
                .entry(sequence)
                .and_modify(|written| {
                    written.first = written.first.min(first);
                    written.last = written.last.max(last);
                    if op != WriteOp::Write {
                        written.op = op;
                    }
                })
                .or_insert(new);
            if found.len() > limit {
                found.pop_last();
                more = true;
            }
        };
        writes::each_cell(source, &self.spans, interval, |entry| {
            add(entry.sequence, entry.lba, entry.lba, WriteOp::Write);
        })?;
        for range in writes::ranges(source, &self.spans, interval)? {
            let first = range.extent.start();
            let last = first.plus(range.extent.blocks() - 1).unwrap_or(Lba::MAX);
            let op = if range.kind & TRIM == 0 { WriteOp::Zero } else { WriteOp::Trim };
            add(range.sequence, first, last, op);
        }
        Ok((found, more))
    }

    fn flushes(&self, page: &mut LogPage) -> Outcome {
        let mut names = Names::new(self.past);
        let reach = writes::reach(&self.spans);
        let Some(reach) = reach else { return Ok(()) };
        // A flush is written down in the run of what it covers, or a later one.
        let sources = self.past.snapshot.index.sources();
        for source in sources.iter().filter(|source| source.last() >= *reach.start()) {
            let flushes = match source {
                Source::Memory(run) => run.flushes_of(&reach),
                Source::File(run) => run.flushes_of(&reach)?,
            };
            for flush in flushes {
                let shown = self.spans.iter().any(|span| {
                    span.branch == flush.branch
                        && span.after < flush.sequence
                        && flush.sequence <= span.up_to
                });
                if !shown {
                    continue;
                }
                let time = self.past.snapshot.index.time_of(flush.sequence)?;
                let client = names.of(self.past.snapshot.index.client_of(flush.sequence)?);
                page.flushes.push(Flush {
                    seq: flush.sequence.number(),
                    time: time.map_or(self.past.now.time, |point| point.wall).into(),
                    client,
                });
            }
            if page.flushes.len() > self.rows {
                page.flushes.truncate(self.rows);
                page.next = page.flushes.last().map(|flush| flush.seq);
                break;
            }
        }
        Ok(())
    }

    fn clients(&self, page: &mut LogPage) -> Outcome {
        let mut all: BTreeMap<ClientId, Share> = BTreeMap::new();
        for (source, interval) in self.sources() {
            let runs = self.client_runs(source, &interval)?;
            let of = |sequence: Sequence| {
                let at = runs.partition_point(|run| run.first <= sequence);
                at.checked_sub(1).map_or(ClientId(0), |at| runs[at].client)
            };
            for sequence in writes::written(source, &self.spans, &interval)?.iter() {
                let share = all.entry(of(sequence)).or_insert(Share::beginning(sequence));
                share.writes += 1;
                share.last = sequence;
            }
            writes::each_cell(source, &self.spans, &interval, |entry| {
                if let Some(share) = all.get_mut(&of(entry.sequence)) {
                    share.bytes += BLOCK_BYTES;
                }
            })?;
        }
        let mut names = Names::new(self.past);
        for (client, share) in all {
            page.clients.push(Writer {
                client: names.of(Some(client)),
                writes: share.writes,
                bytes: share.bytes,
                first: self.moment_of(share.first),
                last: self.moment_of(share.last),
            });
        }
        page.clients.sort_by_key(|writer| writer.first.seq);
        Ok(())
    }

    fn client_runs(
        &self,
        source: &Source,
        interval: &RangeInclusive<Sequence>,
    ) -> history_index::Result<Vec<ClientRun>> {
        let mut runs = source.clients_of(interval)?;
        if runs.first().is_none_or(|run| run.first > *interval.start()) {
            let first = *interval.start();
            if let Some(client) = self.past.snapshot.index.client_of(first)? {
                runs.insert(0, ClientRun { first, client });
            }
        }
        Ok(runs)
    }

    fn moment_of(&self, sequence: Sequence) -> Moment {
        moment(self.past.when(sequence))
    }
}

/// What a request covers.
struct Written {
    first: Lba,
    last: Lba,
    op: WriteOp,
}

/// What one client wrote.
struct Share {
    writes: u64,
    bytes: u64,
    first: Sequence,
    last: Sequence,
}

impl Share {
    fn beginning(first: Sequence) -> Self {
        Self { writes: 0, bytes: 0, first, last: first }
    }
}

/// Names of clients, each looked up once.
struct Names<'a> {
    past: &'a Past,
    known: BTreeMap<ClientId, String>,
}

impl<'a> Names<'a> {
    fn new(past: &'a Past) -> Self {
        Self { past, known: BTreeMap::new() }
    }

    fn of(&mut self, client: Option<ClientId>) -> String {
        let client = client.unwrap_or(ClientId(0));
        let catalogue = self.past.catalogue();
        let name = || catalogue.client(client).map_or_else(|| "strandline".to_owned(), told);
        self.known.entry(client).or_insert_with(name).clone()
    }
}

/// The minutes of a part of a source: of each the last sequence and its beginning.
fn minutes_of(
    source: &Source,
    interval: &RangeInclusive<Sequence>,
) -> history_index::Result<Vec<(Sequence, Timestamp)>> {
    let mut minutes = Vec::new();
    let mut next = *interval.start();
    while next <= *interval.end() {
        let Some(point) = source.clock_of(next)? else { break };
        let begin = Timestamp(point.wall.0.div_euclid(MINUTE_NS) * MINUTE_NS);
        let within = begin.plus_ns(MINUTE_NS - 1);
        let last = source.clock_at(within, point.era)?.map_or(point.sequence, |it| it.sequence);
        let last = last.max(point.sequence).max(next);
        minutes.push((last.min(*interval.end()), begin));
        next = last.next();
    }
    Ok(minutes)
}

fn add_minute(minutes: &mut Vec<Minute>, time: Timestamp, writes: u64, bytes: u64, last: Sequence) {
    if let Some(minute) = minutes.last_mut()
        && minute.time.0 == time
    {
        minute.writes += writes;
        minute.bytes += bytes;
        minute.seq = last.number();
        return;
    }
    minutes.push(Minute { time: time.into(), seq: last.number(), writes, bytes, entropy: None });
}
