//! Who is connected, who is attached, who was cut off.
//!
//! A client is attached from its first write until its clean end; what the catalogue says of it is
//! durable before that write is answered. One client may have several connections: its attachment
//! ends with the last of them that wrote.

use super::{
    failures::missing,
    naming::{api_volume, catalogue_volume},
    past::Past,
    running::Engine,
};
use crate::data::{Export, SessionInfo};
use api::{
    Failure, VolumeName, codes,
    verbs::session::{Client, SessionKick, SessionKicked, SessionList, SessionLs},
};
use block_device::BlockError;
use catalogue::{Attachment, CatalogueError, Who};
use units::{BranchId, ClientId, VolumeId};
use world::{
    real::{ProcessId, program_of},
    ring::Peer,
};

/// Who a peer is, as the catalogue names it; `None` for a process that has ended.
pub(super) fn who_of(peer: &Peer) -> Option<Who> {
    match *peer {
        Peer::Process { uid, pid, .. } if pid > 0 => {
            let process = ProcessId::of(pid).ok().flatten()?;
            Some(Who::Process {
                uid,
                pid: u32::try_from(process.pid).ok()?,
                start: process.start_ticks,
            })
        }
        // Of another process namespace: its number says nothing here.
        Peer::Process { uid, .. } => Some(Who::Name(format!("uid {uid}"))),
        Peer::Address(address) => Some(Who::Address(address.ip().to_string())),
        Peer::Unknown => Some(Who::Address("unknown".to_owned())),
    }
}

/// Whether a process is gone for good; others may always come back.
fn is_gone(who: &Who) -> bool {
    match *who {
        Who::Process { pid, start, .. } => {
            let pid = i32::try_from(pid).unwrap_or(0);
            !ProcessId { pid, start_ticks: start }.lives()
        }
        Who::Address(_) | Who::Name(_) => false,
    }
}

impl Engine {
    /// `session ls`
    pub(super) fn session_ls(&self, request: &SessionLs) -> Result<SessionList, Failure> {
        let past = self.look()?;
        if let Some(name) = &request.volume {
            past.volume(name)?;
        }
        let mut sessions = Vec::new();
        for info in self.sessions()? {
            if let Some(client) = self.connected(&past, &info)?
                && request.volume.as_ref().is_none_or(|name| *name == client.volume)
            {
                sessions.push(client);
            }
        }
        Ok(SessionList { sessions })
    }

    /// `session kick`
    pub(super) fn session_kick(&self, request: SessionKick) -> Result<SessionKicked, Failure> {
        let past = self.look()?;
        let info = self.sessions()?.into_iter().find(|info| info.id == request.id);
        let client = info.map(|info| self.connected(&past, &info)).transpose()?.flatten();
        let Some(client) = client else {
            let text = format!("there is no session {}", request.id);
            return Err(missing(codes::NO_CLIENT, text, "strandline session ls"));
        };
        self.kick(move |info| info.id == request.id)?;
        Ok(SessionKicked { client })
    }

    /// All connections, in the order of their numbers.
    pub(super) fn sessions(&self) -> Result<Vec<SessionInfo>, Failure> {
        self.visit(|core| core.sessions())
    }

    /// Ends connections; gives how many.
    pub(super) fn kick(
        &self,
        meant: impl Fn(&SessionInfo) -> bool + Send + 'static,
    ) -> Result<usize, Failure> {
        self.visit(move |core| core.kick(meant))
    }

    /// Who is attached to a volume, each with a connection of its if it has one.
    pub(super) fn attached(&self, past: &Past, volume: VolumeId) -> Result<Vec<Client>, Failure> {
        let sessions = self.sessions()?;
        let mut clients = Vec::new();
        for it in past.catalogue().attachments(volume) {
            let Some(who) = past.catalogue().client(it.client) else { continue };
            let connection = sessions.iter().find(|info| {
                let open = info.export.as_ref().filter(|export| export.branch == it.branch);
                open.is_some() && who_of(&info.peer).as_ref() == Some(who)
            });
            let connected =
                connection.map(|info| self.connected(past, info)).transpose()?.flatten();
            clients.push(match connected {
                Some(client) => Client { since: it.since.into(), ..client },
                None => absent(past, it, who)?,
            });
        }
        Ok(clients)
    }

    /// How many connections use a volume.
    pub(super) fn connections(sessions: &[SessionInfo], volume: VolumeId) -> u64 {
        let of = |info: &&SessionInfo| info.export.as_ref().is_some_and(|it| it.volume == volume);
        sessions.iter().filter(of).count() as u64
    }

    fn connected(&self, past: &Past, info: &SessionInfo) -> Result<Option<Client>, Failure> {
        let Some(export) = &info.export else { return Ok(None) };
        let Some(volume) = past.catalogue().volume(export.volume) else { return Ok(None) };
        let (name, address, uid, pid) = describe(&info.peer);
        let ago = self.held.clock.boot_ns().saturating_sub(info.since_boot_ns);
        let ago = i64::try_from(ago).unwrap_or(i64::MAX);
        Ok(Some(Client {
            id: info.id,
            volume: api_volume(&volume.name)?,
            export: export.name.clone(),
            name,
            address,
            uid,
            pid,
            since: self.wall().plus_ns(-ago).into(),
            connected: true,
            writing: info.attached,
            read_only: export.read_only || export.at.is_some(),
            bytes_read: info.bytes_read,
            bytes_written: info.bytes_written,
        }))
    }

    /// A peer is about to write for the first time.
    pub(super) fn attach_client(
        &self,
        peer: &Peer,
        export: &Export,
    ) -> Result<ClientId, BlockError> {
        if self.held.read_only || export.read_only || export.at.is_some() {
            return Err(BlockError::ReadOnly);
        }
        let who = who_of(peer).ok_or(BlockError::Denied)?;
        let attach = || -> Result<Result<ClientId, CatalogueError>, Failure> {
            let planning = self.planning()?;
            let past = self.look()?;
            let (client, records) = past.catalogue().plan_client(&who);
            let past = if records.is_empty() {
                past
            } else {
                self.commit(&planning, records)?;
                self.look()?
            };
            match past.catalogue().plan_attach(export.branch, client, past.now.time) {
                Ok(records) => self.commit(&planning, records).map(|()| Ok(client)),
                Err(error) => Ok(Err(error)),
            }
        };
        match attach() {
            Ok(Ok(client)) => Ok(client),
            Ok(Err(CatalogueError::ReadOnly { .. })) => Err(BlockError::ReadOnly),
            Ok(Err(error)) => {
                tracing::info!(%error, export = %export.name, "a client may not write");
                Err(BlockError::Denied)
            }
            Err(failure) => {
                tracing::warn!(%failure, export = %export.name, "a client cannot be attached");
                Err(if failure.code == codes::SERVER_GONE {
                    BlockError::Stopping
                } else {
                    BlockError::Io
                })
            }
        }
    }

    /// A connection that had written has ended.
    pub(super) fn detach_client(
        &self,
        peer: &Peer,
        export: &Export,
        client: ClientId,
        lost: bool,
    ) -> Result<(), Failure> {
        let planning = self.planning()?;
        let past = self.look()?;
        let gone = past.catalogue().client(client).is_none_or(is_gone);
        if lost && !gone {
            return Ok(());
        }
        let another = |info: &SessionInfo| {
            let open = info.export.as_ref();
            info.attached
                && info.peer == *peer
                && open.is_some_and(|it| it.branch == export.branch && it.at.is_none())
        };
        if !gone && self.sessions()?.iter().any(another) {
            return Ok(());
        }
        let records = past.catalogue().plan_end_attachment(export.branch, client);
        self.commit(&planning, records)
    }

    /// Processes that have ended hold no caches any more.
    pub(super) fn end_dead_attachments(&self) -> Result<(), Failure> {
        let dead = |past: &Past| -> Vec<(BranchId, ClientId)> {
            let all = past.catalogue().all_attachments();
            let of_dead = |it: &Attachment| past.catalogue().client(it.client).is_none_or(is_gone);
            all.filter(of_dead).map(|it| (it.branch, it.client)).collect()
        };
        if dead(&self.look()?).is_empty() {
            return Ok(());
        }
        let planning = self.planning()?;
        let past = self.look()?;
        let records = dead(&past)
            .into_iter()
            .flat_map(|(branch, client)| past.catalogue().plan_end_attachment(branch, client))
            .collect();
        self.commit(&planning, records)
    }

    /// `vol release`
    pub(super) fn release(&self, name: &VolumeName) -> Result<Vec<String>, Failure> {
        catalogue_volume(name)?;
        self.change(|past| {
            let volume = past.volume(name)?.id;
            let catalogue = past.catalogue();
            let released = catalogue.refused(volume);
            let released: Vec<String> = released
                .filter_map(|(client, _)| catalogue.client(client))
                .map(super::failures::told)
                .collect();
            let records = catalogue.plan_release(volume);
            let records = records.map_err(|error| past.teller().catalogue(error))?;
            Ok((released, records))
        })
    }
}

/// An attached client that is not connected.
fn absent(past: &Past, it: Attachment, who: &Who) -> Result<Client, Failure> {
    let volume = past.catalogue().volume(it.volume);
    let volume = volume.ok_or_else(|| Failure::bug("an attachment without a volume"))?;
    let (address, uid, pid) = match who {
        Who::Process { uid, pid, .. } => ("unix".to_owned(), Some(*uid), Some(*pid)),
        Who::Address(text) | Who::Name(text) => (text.escape_debug().to_string(), None, None),
    };
    let name = shown_name(who, pid.and_then(|pid| program_of(i32::try_from(pid).ok()?)));
    Ok(Client {
        id: 0,
        volume: api_volume(&volume.name)?,
        export: volume.name.to_string(),
        name,
        address,
        uid,
        pid,
        since: it.since.into(),
        connected: false,
        writing: true,
        read_only: false,
        bytes_read: 0,
        bytes_written: 0,
    })
}

/// What is shown of a client that went: the number of its process stands beside it.
fn shown_name(who: &Who, program: Option<String>) -> String {
    match (who, program) {
        (_, Some(program)) => program.escape_debug().to_string(),
        (Who::Process { uid, .. }, None) => format!("uid {uid}"),
        (Who::Address(_) | Who::Name(_), None) => who.to_string(),
    }
}

/// Name, address, user and process of a peer.
fn describe(peer: &Peer) -> (String, String, Option<u32>, Option<u32>) {
    match *peer {
        Peer::Process { uid, pid, .. } => {
            let name = program_of(pid).map(|name| name.escape_debug().to_string());
            let name = name.unwrap_or_else(|| format!("uid {uid}"));
            (name, "unix".to_owned(), Some(uid), u32::try_from(pid).ok().filter(|pid| *pid > 0))
        }
        Peer::Address(address) => (address.ip().to_string(), address.to_string(), None, None),
        Peer::Unknown => ("unknown".to_owned(), "unknown".to_owned(), None, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_ended_is_numbered_once() {
        let gone = Who::Process { uid: 1000, pid: 4121, start: 1 };
        assert_eq!(shown_name(&gone, None), "uid 1000");
        assert_eq!(shown_name(&gone, Some("qe\nmu".to_owned())), "qe\\nmu");
        assert_eq!(shown_name(&Who::Address("192.0.2.7".to_owned()), None), "192.0.2.7");
    }
}
