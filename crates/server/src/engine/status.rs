//! `status` and `store info`: what a store is, holds, and does at the moment.

use super::{
    census::{bytes_after, days_left},
    failures::disk_failure,
    init::CIPHER,
    naming,
    past::{Past, moment},
    running::{Engine, lock},
};
use api::{
    Failure, Reference, amounts,
    verbs::{
        Moment,
        image::{BaseState, VolBase},
        store::{Job, Memory, Space, Status, StoreInfo},
    },
};
use catalogue::{AtTime, History as _, Presence};
use std::io;
use units::{Sequence, Timestamp};
use world::Access;

/// The format of stores on disk.
const FORMAT: u32 = 1;
const DAY_NS: i64 = 86_400_000_000_000;

/// What the log thread knows.
#[derive(Clone, Debug)]
pub(super) struct Pulse {
    pub poison: Option<String>,
    pub trouble: Option<String>,
    /// What cannot be read any more, and what it could not be read for last.
    pub faults: Vec<String>,
    pub backlog: u64,
    pub free_segments: u64,
    pub damaged: u64,
    pub head_map_bytes: u64,
    pub clients: u64,
}

impl Engine {
    pub(super) fn store_info(&self) -> Result<StoreInfo, Failure> {
        let past = self.look()?;
        let held = &self.held;
        let live = past.catalogue().volumes().filter(|it| it.presence == Presence::Live);
        Ok(StoreInfo {
            id: held.facts.store.to_string(),
            path: held.path.display().to_string(),
            format: FORMAT,
            created: Some(held.facts.created.into()),
            cipher: CIPHER.to_owned(),
            segment_size: u64::from(held.facts.segment_bytes),
            ack: self.ack().to_owned(),
            read_only: held.read_only,
            epoch: self.visit(|core| core.store.log().epoch().0)?,
            volumes: live.count() as u64,
            key_slots: lock(&held.secrets).slots().len() as u64,
            now: moment(past.now),
            oldest: oldest_of_all(&past),
            space: self.space(&past)?,
        })
    }

    pub(super) fn status(&self) -> Result<Status, Failure> {
        let past = self.look()?;
        let pulse = self.pulse()?;
        let space = self.space(&past)?;
        let held = &self.held;
        let uptime = held.clock.boot_ns().saturating_sub(self.started_boot_ns) / 1_000_000_000;
        let state = match (&pulse.poison, held.read_only, self.settings.serving) {
            (_, true, _) => "read-only",
            (Some(_), false, _) => "poisoned",
            (None, false, true) => "serving",
            (None, false, false) => "offline",
        };
        let live = past.catalogue().volumes().filter(|it| it.presence == Presence::Live);
        let bases = self.bases_told(&past)?;
        Ok(Status {
            id: held.facts.store.to_string(),
            path: held.path.display().to_string(),
            state: state.to_owned(),
            version: self.settings.version.clone(),
            pid: self.settings.serving.then(std::process::id),
            uptime_s: self.settings.serving.then_some(uptime),
            listening: self.listening().iter().map(server_uri).collect(),
            ack: self.ack().to_owned(),
            io: self.io.clone(),
            now: moment(past.now),
            oldest: oldest_of_all(&past),
            volumes: live.count() as u64,
            clients: pulse.clients,
            days_left: days_left_of(&past, space.free.saturating_sub(space.reserve)),
            space,
            memory: self.memory(&pulse),
            throttled_s: 0.0,
            damage: pulse.damaged,
            faults: faults(&pulse, &bases, &held.healed),
            jobs: self.jobs(&pulse, &bases),
        })
    }

    pub(super) fn pulse(&self) -> Result<Pulse, Failure> {
        let read_only = self.held.read_only;
        self.visit(move |core| {
            let log = core.store.log();
            let sessions = core.sessions();
            Pulse {
                // A store that is open for reading has a log that takes nothing, on purpose.
                poison: log.poison().filter(|_| !read_only).map(ToString::to_string),
                trouble: log.trouble().map(str::to_owned),
                faults: log
                    .damage()
                    .iter()
                    .cloned()
                    .chain(core.store.trouble().map(str::to_owned))
                    .collect(),
                backlog: log.backlog() as u64,
                free_segments: log.free_segments() as u64,
                damaged: core.store.damaged(),
                head_map_bytes: core.store.head_map_bytes() as u64,
                clients: sessions.iter().filter(|info| info.export.is_some()).count() as u64,
            }
        })
    }

    /// Bytes on disk by use.
    pub(super) fn space(&self, past: &Past) -> Result<Space, Failure> {
        let failed = |error: io::Error| disk_failure("measure the store", &error);
        let files = |directory: &str| self.bytes_in(directory).map_err(failed);
        let room = self.held.disk.space().map_err(failed)?;
        let free_segments = self.pulse()?.free_segments;
        let pool = free_segments * self.held.config.segment_bytes;
        Ok(Space {
            segments: files("log")?.saturating_sub(pool),
            packs: files("pack")?,
            bulk: files("bulk")?,
            index: files("run")? + files("manifest")?,
            pool,
            trash: self.history(past).of_trash(past),
            reserve: self.held.config.reserve_bytes,
            free: room.free_bytes,
            total: room.total_bytes,
        })
    }

    fn bytes_in(&self, directory: &str) -> io::Result<u64> {
        let disk = &self.held.disk;
        let mut bytes = 0;
        for name in disk.list(directory)? {
            bytes += match disk.open(&format!("{directory}/{name}"), Access::READ) {
                Ok(file) => file.length_bytes()?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => 0, // gone meanwhile
                Err(error) => return Err(error),
            };
        }
        Ok(bytes)
    }

    fn memory(&self, pulse: &Pulse) -> Memory {
        let pages = self.held.pages.used_bytes() as u64;
        Memory {
            cap: self.held.pages.limit_bytes() as u64
                + self.held.config.images as u64 * self.held.config.segment_bytes,
            pages,
            head_maps: pulse.head_map_bytes,
            cache: 0,
        }
    }

    fn jobs(&self, pulse: &Pulse, bases: &[(String, VolBase)]) -> Vec<Job> {
        let mut jobs = Vec::new();
        for (volume, base) in bases.iter().filter(|(_, base)| base.state == BaseState::Filling) {
            let left = amounts::size_text(base.left);
            let note = format!("{volume} from {}, {left} left", base.image);
            let part = |bytes: u64| f64::from(u32::try_from(bytes >> 20).unwrap_or(u32::MAX));
            let progress = Some(part(base.taken) / part(base.size).max(1.0));
            jobs.push(Job { job: "fill".to_owned(), progress, note: Some(note) });
        }
        if self.held.config.pack && pulse.backlog > 0 {
            let note = format!("{} segments wait", pulse.backlog);
            jobs.push(Job { job: "pack".to_owned(), progress: None, note: Some(note) });
        }
        if let Some(trouble) = &pulse.trouble {
            let note = Some(format!("failed last: {trouble}"));
            jobs.push(Job { job: "background".to_owned(), progress: None, note });
        }
        jobs
    }
}

/// What a person should look at, the worst first.
fn faults(pulse: &Pulse, bases: &[(String, VolBase)], healed: &[String]) -> Vec<String> {
    let poison = pulse.poison.iter().map(|why| format!("takes no writes: {why}"));
    let background = pulse.trouble.iter().map(|why| format!("background work failed: {why}"));
    let images = bases.iter().filter_map(|(volume, base)| {
        base.trouble.as_ref().map(|why| format!("volume {volume}: {why}"))
    });
    let healed = healed.iter().map(|what| format!("mended at the start: {what}"));
    let damage = pulse.faults.iter().cloned();
    poison.chain(damage).chain(images).chain(background).chain(healed).collect()
}

/// Where a server is reached, with no export named.
fn server_uri(listening: &super::running::Listening) -> String {
    let any: Result<Reference, _> = "x".parse();
    any.map_or_else(|_| String::new(), |any| naming::uri(listening, &any).replacen("/x", "/", 1))
}

/// The oldest instant of any volume.
pub(super) fn oldest_of_all(past: &Past) -> Option<Moment> {
    let live = past.catalogue().volumes().filter(|it| it.presence == Presence::Live);
    live.filter_map(|volume| past.catalogue().start(volume.id).ok()).min().map(moment)
}

/// Days until so many bytes are written, at the pace of the last day.
pub(super) fn days_left_of(past: &Past, free: u64) -> Option<f64> {
    let (first, _) = past.snapshot.index.clock_ends()?;
    let day_ago = past.now.time.plus_ns(-DAY_NS);
    let (since, after): (Timestamp, Sequence) = if first.wall >= day_ago {
        (first.wall, Sequence::ZERO)
    } else {
        match past.sequence_at(day_ago) {
            AtTime::One(sequence) => (day_ago, sequence),
            AtTime::Ambiguous(readings) => {
                let last = readings.last()?;
                (last.time, last.sequence)
            }
        }
    };
    days_left(bytes_after(past, after), since, past.now.time, free)
}
