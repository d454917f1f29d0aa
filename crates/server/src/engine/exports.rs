//! What names of exports mean, and who may have them: the data plane's questions.
//!
//! A name is `VOL[~BRANCH][@INSTANT]`; the answer holds its fixed form. What moves (`now`, `-5m`,
//! `10:00`, marks) is resolved at each connect, so it says no to several connections. Who may not
//! have a name hears the same as for one that does not exist.

use super::{naming::api_volume, past::Past, rights::Level, running::Engine, sessions::who_of};
use crate::data::{Export, Exports};
use api::{BranchName, Failure, Kind, Reference, Zone, codes, reference::Subject};
use block_device::BlockError;
use catalogue::{Branch, CatalogueError, Presence, Volume};
use nbd::Refusal;
use units::ClientId;
use world::ring::Peer;

impl Exports for Engine {
    fn list(&self, peer: &Peer) -> Vec<(String, String)> {
        if self.level_of(peer) < Level::Read {
            return Vec::new();
        }
        let Ok(past) = self.look() else { return Vec::new() };
        let live = past.catalogue().volumes().filter(|it| it.presence == Presence::Live);
        let mut names: Vec<(String, String)> =
            live.map(|volume| (volume.name.to_string(), describe(&past, volume))).collect();
        names.sort();
        names
    }

    fn open(&self, peer: &Peer, name: &str) -> Result<Export, (Refusal, String)> {
        let unknown = || (Refusal::Unknown, "there is no such export".to_owned());
        let level = self.level_of(peer);
        if level < Level::Read {
            return Err(unknown());
        }
        self.find_export(peer, level, name).map_err(|failure| {
            if level < Level::All && failure.kind() != Kind::Denied {
                return unknown();
            }
            let refusal = match failure.kind() {
                Kind::Denied => Refusal::Denied,
                Kind::Unreachable => Refusal::Stopping,
                _ => Refusal::Unknown,
            };
            (refusal, failure.message)
        })
    }

    fn attach(&self, peer: &Peer, export: &Export) -> Result<ClientId, BlockError> {
        self.attach_client(peer, export)
    }

    fn detach(&self, peer: &Peer, export: &Export, client: ClientId, lost: bool) {
        // On a thread of its own: while a server ends, the log thread waits for the one that calls us,
        // and would never answer.
        let Some(engine) = self.me.upgrade() else { return };
        let (peer, export) = (peer.clone(), export.clone());
        let end = move || match engine.detach_client(&peer, &export, client, lost) {
            Err(failure)
                if failure.code != codes::SERVER_GONE && failure.code != codes::READ_ONLY =>
            {
                tracing::warn!(%failure, export = %export.name, "the end of an attachment is not written down");
            }
            _ => {}
        };
        let mut threads = super::running::lock(&self.detaching);
        threads.retain(|thread| !thread.is_finished());
        match std::thread::Builder::new().name("strand-detach".to_owned()).spawn(end) {
            Ok(thread) => threads.push(thread),
            Err(error) => tracing::warn!(%error, "the end of an attachment is not written down"),
        }
    }
}

impl Engine {
    fn find_export(&self, peer: &Peer, level: Level, name: &str) -> Result<Export, Failure> {
        let reference = if name.is_empty() {
            Reference::volume(self.default_volume()?)
        } else {
            Reference::parse(name, &Zone::local(self.wall()))?
        };
        let moves = reference.instant.is_some() || reference.branch.is_some();
        if moves && level < Level::All {
            return Err(Failure::new(codes::NO_VOLUME, format!("there is no export `{name}`")));
        }
        let past = if moves { self.settled()? } else { self.look()? };
        let (volume, branch) = past.subject(&reference)?;
        may_come(&past, volume, peer)?;
        let live = match branch {
            None => past.catalogue().present(volume.id),
            Some(branch) => Some(named_branch(&past, volume, branch)?),
        };
        match live.filter(|branch| branch.ended.is_none() && reference.instant.is_none()) {
            Some(branch) => self.live_export(&past, volume, branch, level),
            None => past_export(&past, &reference),
        }
    }

    fn live_export(
        &self,
        past: &Past,
        volume: &Volume,
        branch: &Branch,
        level: Level,
    ) -> Result<Export, Failure> {
        let name = Reference {
            remote: None,
            subject: Subject::Volume(api_volume(&volume.name)?),
            branch: branch.name.as_ref().map(|name| name.as_str().parse()).transpose()?,
            instant: None,
        };
        Ok(Export {
            volume: volume.id,
            branch: branch.id,
            at: None,
            read_only: self.held.read_only || branch.read_only || level < Level::Write,
            fixed: true,
            name: name.to_string(),
            description: describe(past, volume),
        })
    }

    /// Refuses a default volume that is not there.
    pub fn check_default(&self) -> Result<(), Failure> {
        match &self.settings.default_volume {
            None => Ok(()),
            Some(name) => self.look()?.volume(name).map(|_| ()),
        }
    }

    /// What an empty name means.
    pub(super) fn default_volume(&self) -> Result<api::VolumeName, Failure> {
        if let Some(name) = &self.settings.default_volume {
            return Ok(name.clone());
        }
        let past = self.look()?;
        let mut live = past.catalogue().volumes().filter(|it| it.presence == Presence::Live);
        match (live.next(), live.next()) {
            (Some(only), None) => api_volume(&only.name),
            (None, _) => Err(Failure::new(codes::NO_DEFAULT, "the store has no volume")
                .doing("strandline vol create NAME --size 10G")),
            (Some(_), Some(_)) => {
                Err(Failure::new(codes::NO_DEFAULT, "the store has several volumes; name one")
                    .seeing("strandline vol ls"))
            }
        }
    }
}

fn past_export(past: &Past, reference: &Reference) -> Result<Export, Failure> {
    let found = past.find(reference, false)?;
    let at = Zone::local(past.now.time).show(found.resolved.time);
    let fixed = reference.instant.as_ref().is_none_or(api::InstantSpec::is_fixed);
    Ok(Export {
        volume: found.volume.id,
        branch: found.resolved.branch,
        at: Some(found.resolved.sequence),
        read_only: true,
        fixed,
        name: found.reference.to_string(),
        description: format!("{} as it was at {at}, read-only", found.name),
    })
}

fn named_branch<'a>(
    past: &'a Past,
    volume: &Volume,
    branch: &BranchName,
) -> Result<&'a Branch, Failure> {
    let found = past.catalogue().find_branch(volume.id, branch.as_str());
    let found = found.map_err(|error| past.teller().catalogue(error))?;
    if found.presence == Presence::Live {
        return Ok(found);
    }
    Err(Failure::new(codes::NO_BRANCH, format!("branch `{}~{branch}` was closed", volume.name)))
}

/// Refuses who was cut off and not let in again.
fn may_come(past: &Past, volume: &Volume, peer: &Peer) -> Result<(), Failure> {
    let client = who_of(peer).and_then(|who| past.catalogue().client_id(&who));
    let Some(client) = client else { return Ok(()) };
    match past.catalogue().may_come(volume.id, client) {
        Err(error @ CatalogueError::Refused { .. }) => Err(past.teller().catalogue(error)),
        _ => Ok(()),
    }
}

fn describe(past: &Past, volume: &Volume) -> String {
    let present = past.catalogue().present(volume.id);
    let size = present.and_then(|it| past.catalogue().size_at(it.id, units::Sequence::MAX));
    api::amounts::size_text(size.unwrap_or(0))
}
