//! `log`: rows by minute, write, flush or client; marks; or a picture.
//!
//! Rows of writes and flushes are a stream: they are printed page by page, with `--json` one
//! document a line.

use super::mark;
use crate::{
    cli::{LogArgs, LogUnit},
    context::Context,
    out::{Cell, Output, Stop, Table, sparkline},
};
use api::{
    InstantSpec, Point, Time, Zone,
    amounts::{count_text, size_text},
    control::with_schema,
    verbs::log::{Flush, Log, LogBy, LogPage, Minute, Write, WriteOp, Writer},
};
use serde::Serialize;
use std::fmt::Write as _;
use units::Timestamp;

const MINUTE_NS: i64 = 60_000_000_000;

pub(super) fn run(args: &LogArgs, context: &mut Context<'_>) -> Result<u8, Stop> {
    let reference = context.line_of(&args.reference)?;
    let since = args.since.as_deref().map(|text| context.instant(text)).transpose()?;
    let until = args.until.as_deref().map(|text| context.instant(text)).transpose()?;
    let by = match args.by {
        LogUnit::Minute => LogBy::Minute,
        LogUnit::Write => LogBy::Write,
        LogUnit::Flush => LogBy::Flush,
        LogUnit::Client => LogBy::Client,
    };
    // Minutes are those of the last hour, unless more is asked for; marks are all of them.
    let since = since.or_else(|| args.marks.then_some(InstantSpec::of(Point::Start)));
    let asked = Log { reference, since, until, by, after: None, limit: None };
    match by {
        LogBy::Write | LogBy::Flush => stream(asked, context),
        LogBy::Minute | LogBy::Client => {
            let whole = gather(asked, context)?;
            say(&whole, args, context)
        }
    }
}

/// All pages as one.
fn gather(mut asked: Log, context: &mut Context<'_>) -> Result<LogPage, Stop> {
    let mut whole = context.ask(asked.clone())?;
    fix(&mut asked, &whole);
    while whole.next.is_some() {
        asked.after = whole.next;
        let page = context.ask(asked.clone())?;
        whole.minutes.extend(page.minutes);
        whole.clients.extend(page.clients);
        whole.next = page.next;
    }
    Ok(whole)
}

/// Later pages are asked by sequence, so that all are of the same stretch though time goes on.
fn fix(asked: &mut Log, page: &LogPage) {
    asked.until = units::Sequence::new(page.until.seq).map(|seq| InstantSpec::of(Point::Seq(seq)));
    asked.since = Some(InstantSpec::of(Point::At(page.since.time.0)));
}

fn say(whole: &LogPage, args: &LogArgs, context: &mut Context<'_>) -> Result<u8, Stop> {
    if context.out.json {
        let schema = if args.marks { "log.marks/1" } else { "log/1" };
        context.out.document(&with_schema(schema, whole))?;
    } else if args.marks {
        mark::say_list(context.out, &context.zone, &whole.marks)?;
    } else if args.graph {
        let text = graph(whole, &context.zone, context.out.width());
        context.out.text(&text)?;
    } else if args.by == LogUnit::Client {
        say_clients(context.out, &context.zone, &whole.clients)?;
    } else {
        say_minutes(context.out, &context.zone, &whole.minutes)?;
    }
    Ok(0)
}

fn say_minutes(out: &mut Output, zone: &Zone, minutes: &[Minute]) -> Result<(), Stop> {
    let mut table = Table::new(["MINUTE", "SEQ", "WRITES", "WRITTEN", "ENTROPY"]);
    for minute in minutes {
        table.row([
            Cell::minute(minute.time, zone),
            Cell::count(minute.seq),
            Cell::count(minute.writes),
            Cell::size(minute.bytes),
            Cell::ratio(minute.entropy),
        ]);
    }
    out.table(&table)
}

fn say_clients(out: &mut Output, zone: &Zone, clients: &[Writer]) -> Result<(), Stop> {
    let mut table = Table::new(["CLIENT", "WRITES", "WRITTEN", "FIRST", "LAST"]);
    for client in clients {
        table.row([
            Cell::text(&client.client),
            Cell::count(client.writes),
            Cell::size(client.bytes),
            Cell::time(client.first.time, zone),
            Cell::time(client.last.time, zone),
        ]);
    }
    out.table(&table)
}

fn stream(mut asked: Log, context: &mut Context<'_>) -> Result<u8, Stop> {
    loop {
        let page = context.ask(asked.clone())?;
        if asked.after.is_none() {
            fix(&mut asked, &page);
        }
        let (out, zone) = (&mut *context.out, &context.zone);
        if out.json {
            json_lines(out, "log.write/1", &page.writes)?;
            json_lines(out, "log.flush/1", &page.flushes)?;
        } else if asked.by == LogBy::Write {
            say_writes(out, zone, &page.writes)?;
        } else {
            say_flushes(out, zone, &page.flushes)?;
        }
        asked.after = page.next;
        if asked.after.is_none() {
            return Ok(0);
        }
    }
}

fn json_lines<T: Serialize>(out: &mut Output, schema: &str, rows: &[T]) -> Result<(), Stop> {
    rows.iter().try_for_each(|row| out.json_line(&with_schema(schema, row)))
}

fn say_writes(out: &mut Output, zone: &Zone, writes: &[Write]) -> Result<(), Stop> {
    let mut table = Table::new(["SEQ", "TIME", "OP", "OFFSET", "LENGTH", "CLIENT"]);
    for write in writes {
        table.row([
            Cell::count(write.seq),
            Cell::time(write.time, zone),
            Cell::text(match write.op {
                WriteOp::Write => "write",
                WriteOp::Trim => "trim",
                WriteOp::Zero => "zero",
                WriteOp::Resize => "resize",
            }),
            Cell::count(write.offset),
            Cell::size(write.length),
            Cell::text(&write.client),
        ]);
    }
    out.table(&table)
}

fn say_flushes(out: &mut Output, zone: &Zone, flushes: &[Flush]) -> Result<(), Stop> {
    let mut table = Table::new(["SEQ", "TIME", "CLIENT"]);
    for flush in flushes {
        table.row([
            Cell::count(flush.seq),
            Cell::time(flush.time, zone),
            Cell::text(&flush.client),
        ]);
    }
    out.table(&table)
}

/// The picture: writes and entropy as bars, marks and branches under their columns.
fn graph(log: &LogPage, zone: &Zone, width: usize) -> String {
    let columns = Columns::of(log, width.saturating_sub(8).clamp(10, 240));
    let mut bytes = vec![0_u64; columns.count];
    let mut entropy = vec![(0.0, 0.0); columns.count];
    for minute in &log.minutes {
        let column = columns.at(minute.time);
        bytes[column] += minute.bytes;
        if let Some(bits) = minute.entropy {
            let (sum, weight) = &mut entropy[column];
            *sum += bits * size_as_f64(minute.bytes);
            *weight += size_as_f64(minute.bytes);
        }
    }
    let peak = bytes.iter().copied().max().unwrap_or(0);
    let values: Vec<f64> = bytes.iter().map(|bytes| size_as_f64(*bytes)).collect();
    let minutes = columns.step_ns / MINUTE_NS;
    let mut text = format!(
        "{}  {}-{}   {minutes} min per column   peak {}/min   now seq {}\nwrites  {}\n",
        log.name,
        zone.show_clock(log.since.time),
        zone.show_clock(log.until.time),
        size_text(peak / minutes.unsigned_abs().max(1)),
        count_text(log.now.seq),
        sparkline(&values, size_as_f64(peak)),
    );
    if entropy.iter().any(|(_, weight)| *weight > 0.0) {
        let mean = |(sum, weight): &(f64, f64)| if *weight > 0.0 { sum / weight } else { 0.0 };
        let bits: Vec<f64> = entropy.iter().map(mean).collect();
        writeln!(text, "entropy {}", sparkline(&bits, 8.0)).expect("a string takes all");
    }
    let clock = |time: Time| {
        let text = zone.show_precise(time);
        text.split_once('.').map_or(text.clone(), |(seconds, _)| seconds.to_owned())
    };
    let marks = log
        .marks
        .iter()
        .map(|mark| (columns.at(mark.time), format!("{} {}", mark.name, clock(mark.time))));
    let (open, left): (Vec<_>, Vec<_>) = log.branches.iter().partition(|branch| branch.writable);
    // A branch that was left ends where its volume went back; one that is open begins where it does.
    let left = left.into_iter().map(|branch| {
        let name = format!("~{} left {}", branch.name, clock(branch.end.time));
        (columns.at(branch.end.time), name)
    });
    let open = open.into_iter().map(|branch| {
        let name = format!("~{} from {}", branch.name, clock(branch.from.time));
        (columns.at(branch.from.time), name)
    });
    let rows: [(_, Vec<_>); 3] =
        [("marks", marks.collect()), ("left", left.collect()), ("open", open.collect())];
    for (head, rows) in rows {
        for (index, (column, name)) in rows.into_iter().enumerate() {
            let head = if index == 0 { head } else { "" };
            let gap = " ".repeat(column);
            writeln!(text, "{head:<8}{gap}^{name}").expect("a string takes all");
        }
    }
    text
}

/// Stretches of whole minutes, one for each character.
struct Columns {
    first: Timestamp,
    step_ns: i64,
    count: usize,
}

impl Columns {
    fn of(log: &LogPage, most: usize) -> Self {
        let first = Timestamp(log.since.time.0.0.div_euclid(MINUTE_NS).saturating_mul(MINUTE_NS));
        let minutes = log.until.time.0.since_ns(first).max(0) / MINUTE_NS + 1;
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let step = (minutes + most - 1) / most;
        let count = usize::try_from((minutes + step - 1) / step).unwrap_or(1);
        Self { first, step_ns: step * MINUTE_NS, count }
    }

    /// The column of a time; the first or last for what lies outside.
    fn at(&self, time: Time) -> usize {
        let column = time.0.since_ns(self.first).max(0) / self.step_ns;
        usize::try_from(column).unwrap_or(usize::MAX).min(self.count - 1)
    }
}

#[expect(clippy::cast_precision_loss, reason = "the height of a bar has eight steps")]
const fn size_as_f64(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{mark, moment};
    use api::verbs::vol::Branch;

    fn page() -> LogPage {
        let minute = |number: u8, bytes| Minute {
            time: moment(&format!("2026-11-20T09:{number}:00Z"), 1).time,
            seq: 1,
            writes: 1,
            bytes,
            entropy: Some(4.0),
        };
        LogPage {
            name: "db".parse().expect("a name"),
            since: moment("2026-11-20T09:52:00Z", 1),
            until: moment("2026-11-20T10:01:30Z", 97_311),
            now: moment("2026-11-20T10:01:30Z", 97_311),
            minutes: vec![minute(52, 1 << 20), minute(55, 8 << 20), minute(56, 4 << 20)],
            writes: vec![],
            flushes: vec![],
            clients: vec![],
            marks: vec![mark("db", "before-upgrade", "2026-11-20T09:58:02Z", 81_204)],
            branches: vec![],
            next: None,
        }
    }

    #[test]
    fn a_picture_has_a_column_for_each_minute() {
        let zone = Zone::utc(page().now.time.0);
        assert_eq!(
            graph(&page(), &zone, 100),
            "db  09:52-10:01   1 min per column   peak 8.0 MiB/min   now seq 97 311\n\
             writes  ▁▁▁█▄▁▁▁▁▁\n\
             entropy ▄▁▁▄▄▁▁▁▁▁\n\
             marks         ^before-upgrade 09:58:02\n"
        );
    }

    /// The time of a branch was once that of its last write, so that it differed from its name.
    #[test]
    fn a_branch_was_left_when_its_volume_went_back() {
        let branch = |name: &str, writable| Branch {
            name: name.parse().expect("a name"),
            from: moment("2026-11-20T09:53:10Z", 4),
            end: moment("2026-11-20T09:57:31Z", 8),
            writable,
        };
        let mut page = page();
        page.branches =
            vec![branch("20261120T095731Z", false), branch("open-20261120T095312Z", true)];
        let text = graph(&page, &Zone::utc(page.now.time.0), 100);
        let wanted = "left         ^~20261120T095731Z left 09:57:31\n\
                      open     ^~open-20261120T095312Z from 09:53:10\n";
        assert!(text.ends_with(wanted), "{text}");
    }

    #[test]
    fn a_long_history_gets_wider_columns() {
        let mut page = page();
        page.since = moment("2026-08-20T09:52:00Z", 1);
        let columns = Columns::of(&page, 80);
        assert!(columns.count <= 80 && columns.count > 40, "{}", columns.count);
        assert_eq!(columns.at(page.until.time), columns.count - 1);
        assert_eq!(columns.at(Time(Timestamp(0))), 0);
    }
}
