//! `open` and `close`: past instants that clients may reach, and their end when nobody comes.
//!
//! What is open read-only is pinned by a record; what is open for writing is a branch. Both end a
//! while after their last client; the time begins anew when the server does.

use super::{
    past::{Found, Past},
    running::{Engine, lock},
};
use crate::data::SessionInfo;
use api::{
    Failure, Reference, codes,
    reference::Subject,
    verbs::past::{Close, Closed, Open, Opened},
};
use catalogue::{CatalogueRecord, OpeningId, Presence, TRASH_NS};
use std::collections::BTreeMap;
use units::{BranchId, Sequence};

/// Nanoseconds after the last client until what is open closes by itself.
const TTL_NS: u64 = 3_600_000_000_000;

/// Boot time at which each open thing last had a client.
pub(super) type Idle = BTreeMap<Exposed, u64>;

/// What can be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Exposed {
    /// An instant.
    Instant(OpeningId),
    /// A branch of `open --rw`.
    Branch(BranchId),
}

impl Engine {
    pub(super) fn open_past(&self, request: &Open) -> Result<Opened, Failure> {
        let begun = self.held.clock.boot_ns();
        let ttl_ns = request.ttl_ns.unwrap_or(TTL_NS);
        let (found, reference) = if request.writable {
            self.change(|past| {
                let found = past.find_instant(&request.reference, request.exact)?;
                let (volume, (branch, _)) = (found.volume.id, found.state());
                let at = found.resolved.when();
                let planned =
                    past.catalogue().plan_open_branch(volume, branch, at, Some(ttl_ns), past.now);
                let (opened, records) = planned.map_err(|error| past.teller().catalogue(error))?;
                let subject = Subject::Volume(found.name.clone());
                let branch = Some(opened.name.as_str().parse()?);
                let reference = Reference { remote: None, subject, branch, instant: None };
                Ok(((found, reference), records))
            })?
        } else if self.held.read_only {
            // Nothing can go while nothing is written: no pin is needed.
            let found = self.settled()?.find_instant(&request.reference, request.exact)?;
            let reference = found.reference.clone();
            (found, reference)
        } else {
            self.change(|past| {
                let found = past.find_instant(&request.reference, request.exact)?;
                let records = pin(past, &found, ttl_ns)?;
                let reference = found.reference.clone();
                Ok(((found, reference), records))
            })?
        };
        Ok(Opened {
            uri: self.uri(&reference),
            reference,
            seq: found.resolved.sequence.number(),
            time: found.resolved.time.into(),
            resolution: found.resolution,
            size: found.size,
            writable: request.writable,
            ttl_ns,
            took_ns: self.held.clock.boot_ns().saturating_sub(begun),
        })
    }

    pub(super) fn close_past(&self, request: &Close) -> Result<Closed, Failure> {
        let reference = &request.reference;
        if reference.instant.is_none() && reference.branch.is_some() {
            return self.close_branch(reference);
        }
        let state = self.change(|past| {
            let found = past.find_instant(reference, false)?;
            let state = found.state();
            let open: Vec<OpeningId> = past
                .catalogue()
                .openings()
                .filter(|it| (it.branch, it.at.sequence) == state)
                .map(|it| it.id)
                .collect();
            if open.is_empty() {
                return Err(Failure::new(
                    codes::NOT_OPENED,
                    format!("{} is not open", found.reference),
                )
                .doing("name it as `open` printed it"));
            }
            let mut records = Vec::new();
            for id in open {
                let planned = past.catalogue().plan_close_instant(id);
                records.extend(planned.map_err(|error| past.teller().catalogue(error))?);
            }
            Ok(((state, found.reference), records))
        })?;
        let ((branch, at), reference) = state;
        let clients = self.kick(move |info| serves(info, branch, Some(at)))?;
        Ok(Closed { reference, clients: clients as u64, trash_until: None })
    }

    /// Its clients are cut off first: `close` is how a branch that was opened ends.
    fn close_branch(&self, reference: &Reference) -> Result<Closed, Failure> {
        let find = |past: &Past| {
            let (volume, branch) = past.subject(reference)?;
            let name = branch.map(api::BranchName::as_str).unwrap_or_default();
            let found = past.catalogue().find_branch(volume.id, name);
            found.map(|it| it.id).map_err(|error| past.teller().catalogue(error))
        };
        let branch = find(&self.look()?)?;
        let planning = self.planning()?;
        // Those that have ended it are told nothing more; what they had written is in the log.
        let clients = self.kick(move |info| serves(info, branch, None))?;
        let past = self.settled()?;
        let mut records: Vec<CatalogueRecord> = Vec::new();
        for it in past.catalogue().all_attachments().filter(|it| it.branch == branch) {
            records.extend(past.catalogue().plan_end_attachment(branch, it.client));
        }
        self.commit(&planning, records)?;
        let past = self.settled()?;
        let planned = past.catalogue().plan_close(branch, past.now);
        self.commit(&planning, planned.map_err(|error| past.teller().catalogue(error))?)?;
        Ok(Closed {
            reference: reference.clone(),
            clients: clients as u64,
            trash_until: Some(past.now.time.plus_ns(TRASH_NS).into()),
        })
    }

    /// Closes what had no client for its time.
    pub(super) fn close_idle(&self) -> Result<(), Failure> {
        let past = self.look()?;
        let exposed = exposed(&past);
        if exposed.is_empty() {
            lock(&self.idle).clear();
            return Ok(());
        }
        let sessions = self.sessions()?;
        let boot_ns = self.held.clock.boot_ns();
        let mut due = Vec::new();
        {
            let mut idle = lock(&self.idle);
            idle.retain(|it, _| exposed.iter().any(|known| known.what == *it));
            for it in &exposed {
                let since = idle.entry(it.what).or_insert(boot_ns);
                if sessions.iter().any(|info| serves(info, it.branch, it.at)) {
                    *since = boot_ns;
                } else if boot_ns.saturating_sub(*since) >= it.ttl_ns {
                    due.push(it.what);
                }
            }
        }
        if due.is_empty() {
            return Ok(());
        }
        self.change(|past| {
            let mut records = Vec::new();
            for it in due {
                let planned = match it {
                    Exposed::Instant(id) => past.catalogue().plan_close_instant(id),
                    Exposed::Branch(id) => past.catalogue().plan_close(id, past.now),
                };
                // What is held by a mark or a client that may come back stays open.
                records.extend(planned.unwrap_or_default());
            }
            Ok(((), records))
        })
    }
}

/// Something open, and when it closes.
struct Exposure {
    what: Exposed,
    branch: BranchId,
    at: Option<Sequence>,
    ttl_ns: u64,
}

fn exposed(past: &Past) -> Vec<Exposure> {
    let catalogue = past.catalogue();
    let instants = catalogue.openings().map(|it| Exposure {
        what: Exposed::Instant(it.id),
        branch: it.branch,
        at: Some(it.at.sequence),
        ttl_ns: it.ttl_ns,
    });
    let branches = catalogue.volumes().flat_map(|volume| catalogue.branches(volume.id));
    let branches = branches.filter(|it| it.presence == Presence::Live && it.ended.is_none());
    let branches = branches.filter_map(|it| {
        let what = Exposed::Branch(it.id);
        Some(Exposure { what, branch: it.id, at: None, ttl_ns: it.ttl_ns? })
    });
    instants.chain(branches).collect()
}

fn serves(info: &SessionInfo, branch: BranchId, at: Option<Sequence>) -> bool {
    info.export.as_ref().is_some_and(|export| export.branch == branch && export.at == at)
}

/// Records that pin a state for at least so long; an opening of the same that ends sooner goes.
fn pin(past: &Past, found: &Found, ttl_ns: u64) -> Result<Vec<CatalogueRecord>, Failure> {
    let catalogue = past.catalogue();
    let same: Vec<_> =
        catalogue.openings().filter(|it| (it.branch, it.at.sequence) == found.state()).collect();
    if same.iter().any(|it| it.ttl_ns >= ttl_ns) {
        return Ok(Vec::new());
    }
    let (branch, at) = (found.resolved.branch, found.resolved.when());
    let planned = catalogue.plan_open_instant(branch, at, ttl_ns, past.now.time);
    let (_, mut records) = planned.map_err(|error| past.teller().catalogue(error))?;
    for old in same {
        let planned = catalogue.plan_close_instant(old.id);
        records.extend(planned.map_err(|error| past.teller().catalogue(error))?);
    }
    Ok(records)
}
