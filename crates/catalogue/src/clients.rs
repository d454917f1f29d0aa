//! Clients: who they are, who is attached, who may not come back.

use units::{BranchId, ClientId, Timestamp, VolumeId};

use crate::{
    error::CatalogueError,
    record::CatalogueRecord,
    state::{AttachedClient, Attachment, Catalogue, Volume, Who},
};

impl Catalogue {
    /// The number by which the log names a client: the old one if it came before.
    pub fn plan_client(&self, who: &Who) -> (ClientId, Vec<CatalogueRecord>) {
        let who = who.clone().cut();
        if let Some(client) = self.client_id(&who) {
            return (client, Vec::new());
        }
        let client = ClientId(self.next.client);
        (client, vec![CatalogueRecord::Client { client, who }])
    }

    /// Before the first write's answer: the client may hold unwritten caches from now on. Nothing to
    /// write down if it is attached already.
    pub fn plan_attach(
        &self,
        branch: BranchId,
        client: ClientId,
        now: Timestamp,
    ) -> Result<Vec<CatalogueRecord>, CatalogueError> {
        let branch = self.some_branch(branch)?;
        let volume = self.live_volume(branch.volume)?;
        if branch.read_only {
            let (volume, branch) = (volume.name.clone(), branch.id);
            return Err(CatalogueError::ReadOnly { volume, branch });
        }
        self.may_come(volume.id, client)?;
        let mut there = self.attached(volume.id, |of| of == branch.id);
        if there.iter().any(|it| it.client == client) {
            return Ok(Vec::new());
        }
        if volume.options.exclusive && !there.is_empty() {
            there.sort_by_key(|it| it.since);
            return Err(CatalogueError::Busy { volume: volume.name.clone(), clients: there });
        }
        let (volume, branch, since) = (volume.id, branch.id, now);
        Ok(vec![CatalogueRecord::Attached(Attachment { volume, branch, client, since })])
    }

    /// A client has ended cleanly, or its process is gone. Nothing to write down if it was not
    /// attached.
    pub fn plan_end_attachment(&self, branch: BranchId, client: ClientId) -> Vec<CatalogueRecord> {
        let ended = |it: &Attachment| it.branch == branch && it.client == client;
        let record = |it: Attachment| CatalogueRecord::AttachmentEnded {
            volume: it.volume,
            branch: it.branch,
            client: it.client,
        };
        self.all_attachments().filter(ended).map(record).collect()
    }

    /// Cuts off all who are attached to a branch of the volume (`None`: to any), and refuses just them
    /// until [`Self::plan_release`]. The caller drops their connections.
    pub fn plan_detach(
        &self,
        volume: VolumeId,
        branch: Option<BranchId>,
        now: Timestamp,
    ) -> Result<(Vec<AttachedClient>, Vec<CatalogueRecord>), CatalogueError> {
        let volume = self.live_volume(volume)?.id;
        let clients = self.attached(volume, |of| branch.is_none_or(|branch| of == branch));
        let mut records = Vec::new();
        for &AttachedClient { client, branch, .. } in &clients {
            records.push(CatalogueRecord::AttachmentEnded { volume, branch, client });
            records.push(CatalogueRecord::Refused { volume, client, since: now });
        }
        Ok((clients, CatalogueRecord::as_one_step(records)))
    }

    /// Those who were detached may come back.
    pub fn plan_release(&self, volume: VolumeId) -> Result<Vec<CatalogueRecord>, CatalogueError> {
        let volume = self.live_volume(volume)?.id;
        if self.refused(volume).next().is_none() {
            return Ok(Vec::new());
        }
        Ok(vec![CatalogueRecord::Released(volume)])
    }

    /// Whether a client may connect to a volume: not while it is refused.
    pub fn may_come(&self, volume: VolumeId, client: ClientId) -> Result<(), CatalogueError> {
        let who = self.client(client).ok_or(CatalogueError::NoClient(client))?;
        if self.refused(volume).any(|(refused, _)| refused == client) {
            let volume = self.some_volume(volume)?.name.clone();
            return Err(CatalogueError::Refused { volume, who: who.clone() });
        }
        Ok(())
    }

    /// Who is attached to some branches of a volume, in the order of their numbers.
    pub fn attached(&self, volume: VolumeId, of: impl Fn(BranchId) -> bool) -> Vec<AttachedClient> {
        let known = |it: Attachment| {
            let who = self.client(it.client)?.clone();
            Some(AttachedClient { client: it.client, who, branch: it.branch, since: it.since })
        };
        self.attachments(volume).filter(|it| of(it.branch)).filter_map(known).collect()
    }

    pub(crate) fn nobody_may_be_attached(
        &self,
        volume: &Volume,
        of: impl Fn(BranchId) -> bool,
    ) -> Result<(), CatalogueError> {
        let clients = self.attached(volume.id, of);
        if clients.is_empty() {
            return Ok(());
        }
        Err(CatalogueError::Busy { volume: volume.name.clone(), clients })
    }
}

impl Who {
    /// As it can be written down: texts of at most 255 bytes, so that the same client is the same one
    /// after a restart.
    fn cut(self) -> Self {
        let cut = |mut text: String| {
            text.truncate(text.floor_char_boundary(usize::from(u8::MAX)));
            text
        };
        match self {
            Self::Process { .. } => self,
            Self::Address(text) => Self::Address(cut(text)),
            Self::Name(text) => Self::Name(cut(text)),
        }
    }
}
