//! The text of `/metrics`, in Prometheus' form. Names no volume: who may read it need not know them.

use super::{
    running::Engine,
    status::{days_left_of, oldest_of_all},
};
use api::Failure;
use std::fmt::Write as _;

impl Engine {
    /// What is measured now; after a failure only that the store is down.
    pub fn metrics(&self) -> String {
        self.measure().unwrap_or_else(|_| {
            let mut page = Page::default();
            page.gauge("up", "Whether the store can be asked.", &[("", "0".to_owned())]);
            page.0
        })
    }

    fn measure(&self) -> Result<String, Failure> {
        let past = self.look()?;
        let pulse = self.pulse()?;
        let space = self.space(&past)?;
        let mut page = Page::default();
        let one = |value: String| [("", value)];
        page.gauge("up", "Whether the store can be asked.", &one("1".to_owned()));
        let uses = [
            ("ring", space.segments),
            ("pool", space.pool),
            ("packs", space.packs),
            ("bulk", space.bulk),
            ("index", space.index),
            ("trash", space.trash),
            ("free", space.free),
        ];
        let uses = uses.map(|(what, bytes)| (what, bytes.to_string()));
        let labelled: Vec<(String, String)> = uses
            .iter()
            .map(|(what, bytes)| (format!("{{what=\"{what}\"}}"), bytes.clone()))
            .collect();
        let labelled: Vec<(&str, String)> =
            labelled.iter().map(|(label, bytes)| (label.as_str(), bytes.clone())).collect();
        page.gauge("space_bytes", "Bytes on disk by use.", &labelled);
        if let Some(oldest) = oldest_of_all(&past) {
            let age = past.now.time.since_ns(oldest.time.0).max(0) / 1_000_000_000;
            let help = "Age of the oldest instant of any volume.";
            page.gauge("history_oldest_seconds", help, &one(age.to_string()));
        }
        if let Some(days) = days_left_of(&past, space.free.saturating_sub(space.reserve)) {
            let help = "Days until the disk is full at the pace of the last day.";
            page.gauge("days_left", help, &one(days.to_string()));
        }
        let backlog = u32::try_from(pulse.backlog).unwrap_or(u32::MAX);
        let budget = u32::try_from(self.held.config.backlog_segments).unwrap_or(u32::MAX).max(1);
        let fill = f64::from(backlog) / f64::from(budget);
        let help = "Full segments that wait to be packed, as a share of what may wait.";
        page.gauge("ring_fill_ratio", help, &one(fill.to_string()));
        page.gauge("clients", "Clients that have an export open.", &one(pulse.clients.to_string()));
        let help = "Memory of the maps of open volumes.";
        page.gauge("head_map_bytes", help, &one(pulse.head_map_bytes.to_string()));
        let help = "Sequence of the last durable write.";
        page.counter("sequence_total", help, past.now.sequence.number());
        page.counter("damage_total", "Damaged places met since the start.", pulse.damaged);
        page.counter(
            "errors_total{kind=\"poison\"}",
            "Faults after which nothing is written.",
            u64::from(pulse.poison.is_some()),
        );
        Ok(page.0)
    }
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn gauge(&mut self, name: &str, help: &str, values: &[(&str, String)]) {
        self.head(name, help, "gauge");
        for (label, value) in values {
            let _ = writeln!(self.0, "strandline_{name}{label} {value}"); // a string takes all
        }
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, help, "counter");
        let _ = writeln!(self.0, "strandline_{name} {value}");
    }

    fn head(&mut self, name: &str, help: &str, kind: &str) {
        let name = name.split('{').next().unwrap_or(name);
        let _ = writeln!(self.0, "# HELP strandline_{name} {help}");
        let _ = writeln!(self.0, "# TYPE strandline_{name} {kind}");
    }
}
