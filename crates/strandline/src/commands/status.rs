//! `status`

use super::{many, store::say_space};
use crate::{
    context::Context,
    out::{Cell, Output, Stop, Table},
};
use api::{
    Zone,
    amounts::{count_text, days_text, stretch_text},
    verbs::store::{Status, StatusAsk},
};

pub(super) fn run(context: &mut Context<'_>) -> Result<u8, Stop> {
    context.answer(StatusAsk {}, say)
}

fn say(out: &mut Output, zone: &Zone, status: &Status) -> Result<(), Stop> {
    let mut table = Table::facts();
    table.fact("store", Cell::text(format!("{}  {}", status.id, status.path)));
    let pid = status.pid.map(|pid| format!(", pid {pid}")).unwrap_or_default();
    let uptime = status.uptime_s.map(|seconds| seconds.saturating_mul(1_000_000_000));
    let uptime = match uptime {
        None => String::new(),
        Some(0) => ", just started".to_owned(),
        Some(ns) => format!(", for {}", stretch_text(ns)),
    };
    table.fact("state", Cell::text(format!("{}{pid}{uptime}", status.state)));
    table.fact("version", Cell::text(&status.version));
    for uri in &status.listening {
        table.fact("listening", Cell::text(uri));
    }
    table.fact("ack", Cell::text(&status.ack));
    table.fact("io", Cell::text(&status.io));
    let now = zone.show_precise(status.now.time);
    table.fact("now", Cell::text(format!("seq {}  {now}", count_text(status.now.seq))));
    if let Some(oldest) = status.oldest {
        table.fact("oldest", Cell::time(oldest.time, zone));
    }
    table.fact("volumes", Cell::count(status.volumes));
    table.fact("clients", Cell::count(status.clients));
    say_space(&mut table, &status.space);
    if let Some(days) = status.days_left {
        let pace = "at the pace of the last day";
        table.fact("disk lasts", Cell::text(format!("{} {pace}", days_text(days))));
    }
    table.fact("memory cap", Cell::size(status.memory.cap));
    table.fact("pages", Cell::size(status.memory.pages));
    table.fact("cache", Cell::size(status.memory.cache));
    table.fact("head maps", Cell::size(status.memory.head_maps));
    if status.throttled_s > 0.0 {
        table.fact("throttled", Cell::text(format!("{:.1} s", status.throttled_s)));
    }
    if status.damage > 0 {
        table.fact(
            "damage",
            Cell::text(format!(
                "{}: strandline store check",
                many(status.damage, "place", "places")
            )),
        );
    }
    for fault in &status.faults {
        table.fact("fault", Cell::text(fault));
    }
    for job in &status.jobs {
        let progress = job.progress.map(|done| format!(" {:.0} %", done * 100.0));
        let note = job.note.as_ref().map(|note| format!("  {note}"));
        let text =
            format!("{}{}{}", job.job, progress.unwrap_or_default(), note.unwrap_or_default());
        table.fact("job", Cell::text(text));
    }
    out.table(&table)
}
