//! The text of `/metrics`, in Prometheus' form. It names volumes: only who manages the store reads it.

use super::{
    running::Engine,
    status::{days_left_of, oldest_of_all},
};
use crate::data::{BUCKETS_NS, Count, Counts, Kind};
use api::Failure;
use catalogue::Catalogue;
use std::fmt::Write as _;
use units::VolumeId;

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
        let counts = self.visit(|core| core.counts())?;
        page.requests(&answered(past.catalogue(), &counts));
        let failed = counts.iter().flat_map(|(_, kinds)| kinds).map(|count| count.errors).sum();
        page.head(
            "errors_total",
            "Requests that failed, and faults after which nothing is written.",
            "counter",
        );
        page.value("errors_total{kind=\"request\"}", failed);
        page.value("errors_total{kind=\"poison\"}", u64::from(pulse.poison.is_some()));
        Ok(page.0)
    }
}

/// Labels and counts of each kind of request that a volume ever answered.
fn answered(catalogue: &Catalogue, counts: &[(VolumeId, Counts)]) -> Vec<(String, Count)> {
    let mut all = Vec::new();
    for (volume, kinds) in counts {
        // Names of volumes need no escape; one that is gone has its number.
        let name = catalogue
            .volume(*volume)
            .map_or_else(|| format!("#{}", volume.0), |volume| volume.name.to_string());
        for (kind, count) in Kind::ALL.into_iter().zip(kinds).filter(|(_, it)| it.requests > 0) {
            all.push((format!("volume=\"{name}\",op=\"{}\"", kind.name()), *count));
        }
    }
    all
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

    fn requests(&mut self, all: &[(String, Count)]) {
        self.head("requests_total", "Requests of clients that were answered.", "counter");
        for (labels, count) in all {
            self.value(&format!("requests_total{{{labels}}}"), count.requests);
        }
        self.head("bytes_total", "Bytes that requests covered.", "counter");
        for (labels, count) in all {
            self.value(&format!("bytes_total{{{labels}}}"), count.bytes);
        }
        self.head("ack_seconds", "Time until a request was answered.", "histogram");
        for (labels, count) in all {
            let mut so_far = 0;
            for (end_ns, more) in BUCKETS_NS.iter().zip(count.buckets) {
                so_far += more;
                let end = seconds(*end_ns);
                self.value(&format!("ack_seconds_bucket{{{labels},le=\"{end}\"}}"), so_far);
            }
            let all = count.requests;
            self.value(&format!("ack_seconds_bucket{{{labels},le=\"+Inf\"}}"), all);
            let sum = seconds(count.total_ns);
            let _ = writeln!(self.0, "strandline_ack_seconds_sum{{{labels}}} {sum}"); // a string takes all
            self.value(&format!("ack_seconds_count{{{labels}}}"), all);
        }
    }

    fn value(&mut self, name: &str, value: u64) {
        let _ = writeln!(self.0, "strandline_{name} {value}"); // a string takes all
    }

    fn head(&mut self, name: &str, help: &str, kind: &str) {
        let name = name.split('{').next().unwrap_or(name);
        let _ = writeln!(self.0, "# HELP strandline_{name} {help}");
        let _ = writeln!(self.0, "# TYPE strandline_{name} {kind}");
    }
}

/// Nanoseconds as seconds, exactly and without trailing zeros: `0.00025`.
fn seconds(ns: u64) -> String {
    let text = format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_add_up_and_are_labelled() {
        let mut count = Count { requests: 3, bytes: 8192, total_ns: 1_500_000, ..Count::default() };
        (count.buckets[0], count.buckets[BUCKETS_NS.len()]) = (2, 1);
        let mut page = Page::default();
        page.requests(&[("volume=\"db\",op=\"write\"".to_owned(), count)]);
        for line in [
            "strandline_requests_total{volume=\"db\",op=\"write\"} 3",
            "strandline_bytes_total{volume=\"db\",op=\"write\"} 8192",
            "strandline_ack_seconds_bucket{volume=\"db\",op=\"write\",le=\"0.00005\"} 2",
            "strandline_ack_seconds_bucket{volume=\"db\",op=\"write\",le=\"2\"} 2",
            "strandline_ack_seconds_bucket{volume=\"db\",op=\"write\",le=\"+Inf\"} 3",
            "strandline_ack_seconds_sum{volume=\"db\",op=\"write\"} 0.0015",
            "strandline_ack_seconds_count{volume=\"db\",op=\"write\"} 3",
        ] {
            assert!(page.0.lines().any(|it| it == line), "{line}\n{}", page.0);
        }
    }
}
