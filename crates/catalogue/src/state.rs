//! What the catalogue knows, how records change it, and how it becomes records again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use units::{BranchId, ClientId, Sequence, Timestamp, VolumeId};

use crate::{
    bases::{Base, Units},
    error::{CatalogueError, RecordError},
    name::{BranchName, MarkName, Note, VolumeName, nearest},
    record::CatalogueRecord,
};

/// All volumes of a store with their branches, marks and clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalogue {
    pub(crate) volumes: BTreeMap<VolumeId, Volume>,
    pub(crate) branches: BTreeMap<BranchId, Branch>,
    sizes: BTreeMap<BranchId, Vec<(Sequence, u64)>>,
    served: BTreeMap<VolumeId, Vec<Served>>,
    pub(crate) marks: BTreeMap<MarkId, Mark>,
    clients: BTreeMap<ClientId, Who>,
    client_ids: BTreeMap<Who, ClientId>,
    attachments: BTreeMap<(VolumeId, BranchId, ClientId), Timestamp>,
    refused: BTreeMap<(VolumeId, ClientId), Timestamp>,
    pub(crate) openings: BTreeMap<OpeningId, Opening>,
    pub(crate) bases: BTreeMap<BranchId, Base>,
    /// Of bases that are not detached.
    pub(crate) taken: BTreeMap<BranchId, Units>,
    pub(crate) next: Numbers,
}

/// The next number of each kind; 0 is never given out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Numbers {
    pub volume: u32,
    pub branch: u32,
    pub mark: u64,
    pub client: u64,
    pub opening: u64,
}

impl Default for Numbers {
    fn default() -> Self {
        Self { volume: 1, branch: 1, mark: 1, client: 1, opening: 1 }
    }
}

/// One virtual disk with its whole history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its number, for ever.
    pub id: VolumeId,
    /// Its name; unique outside the trash.
    pub name: VolumeName,
    /// The block that its clients see, fixed at creation.
    pub block: LogicalBlock,
    /// Opens the cells of its branches.
    pub key: VolumeKey,
    /// When it was made; the sequence is the store's last one before it.
    pub created: When,
    /// How it is served.
    pub options: VolumeOptions,
    /// Whether it is there.
    pub presence: Presence,
}

/// A place in history by both its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct When {
    /// The last sequence that belongs to it.
    pub sequence: Sequence,
    /// History's clock.
    pub time: Timestamp,
}

/// The block size that clients see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogicalBlock {
    /// 512 bytes.
    #[default]
    B512,
    /// 4096 bytes.
    B4096,
}

impl LogicalBlock {
    /// The size.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::B512 => 512,
            Self::B4096 => 4096,
        }
    }

    /// The one of that size.
    pub const fn of_bytes(bytes: u64) -> Option<Self> {
        match bytes {
            512 => Some(Self::B512),
            4096 => Some(Self::B4096),
            _ => None,
        }
    }
}

/// The secret of a volume: 32 random bytes. What prints it prints nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct VolumeKey(pub [u8; 32]);

impl fmt::Debug for VolumeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VolumeKey(secret)")
    }
}

/// How a volume is served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VolumeOptions {
    /// When a write is answered.
    pub ack: AckPolicy,
    /// What yields when the store is full.
    pub when_full: WhenFull,
    /// A second writer is refused.
    pub exclusive: bool,
}

/// When a write is answered. Flush and FUA are honoured always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AckPolicy {
    /// The disk has it.
    #[default]
    Disk,
    /// The page cache has it.
    Page,
    /// Memory has it.
    Memory,
}

/// What yields when the store is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// The oldest history, down to the floor.
    #[default]
    History,
    /// Nothing: writes are refused.
    Stop,
}

/// Whether a volume (or a branch) is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Presence {
    /// As it should be.
    #[default]
    Live,
    /// Removed, and can be brought back until it is emptied.
    Trash {
        /// When it was removed.
        since: Timestamp,
        /// When it may be emptied by itself.
        until: Timestamp,
    },
    /// Emptied; only what clones need is left of it. Never of a branch.
    Emptied,
}

/// One line of a volume's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch {
    /// Its number, for ever.
    pub id: BranchId,
    /// Whose.
    pub volume: VolumeId,
    /// What it goes on from; `None` for the first one of a volume that is no clone.
    pub parent: Option<Fork>,
    /// When it was made. Its own writes have greater sequences.
    pub created: When,
    /// `None` while it is the present.
    pub name: Option<BranchName>,
    /// When it was left or closed: nothing in it is later.
    pub ended: Option<When>,
    /// Takes no writes.
    pub read_only: bool,
    /// Stays, whatever the rule says.
    pub pinned: bool,
    /// Of `open --rw`: closed after so long without a client.
    pub ttl_ns: Option<u64>,
    /// Whether it is there.
    pub presence: Presence,
}

/// Where a branch begins in another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fork {
    /// The parent.
    pub branch: BranchId,
    /// The last sequence of the parent that the child has.
    pub at: When,
}

/// Which branch was served from when on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// The branch.
    pub branch: BranchId,
    /// Writes with greater sequences went to it.
    pub from: When,
}

/// An instant with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Its number, for ever; later marks have greater ones.
    pub id: MarkId,
    /// Of which volume.
    pub volume: VolumeId,
    /// In which branch.
    pub branch: BranchId,
    /// At which place.
    pub at: When,
    /// Its name, which others of the volume may have too.
    pub name: MarkName,
    /// When the rule may take it; `None` = stays until removed.
    pub keep_until: Option<Timestamp>,
    /// Cannot be removed.
    pub pinned: bool,
    /// Who made it.
    pub made_by: ClientId,
    /// When it was made (it may mark an earlier instant).
    pub made: Timestamp,
    /// A line for people.
    pub note: Option<Note>,
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// A mark; grows, never used again.
    MarkId
);
number!(
    /// An opened instant; grows, never used again.
    OpeningId
);

/// Who a client is. Two that are equal are the same one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Who {
    /// A process of this machine; its start tells it from a later one of that number.
    Process {
        /// User.
        uid: u32,
        /// Process.
        pid: u32,
        /// When it began, as the kernel counts.
        start: u64,
    },
    /// A host, without its port: at most 255 bytes.
    Address(String),
    /// A name that was proved (certificate, IQN): at most 255 bytes.
    Name(String),
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { uid, pid, .. } => write!(f, "pid {pid} of uid {uid}"),
            Self::Address(text) | Self::Name(text) => text.escape_debug().fmt(f),
        }
    }
}

/// A client that has written to a branch and not ended cleanly since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The volume.
    pub volume: VolumeId,
    /// Its branch.
    pub branch: BranchId,
    /// The client.
    pub client: ClientId,
    /// Its first write.
    pub since: Timestamp,
}

/// An [`Attachment`] as a message names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachedClient {
    /// The client.
    pub client: ClientId,
    /// Who that is.
    pub who: Who,
    /// In which branch.
    pub branch: BranchId,
    /// Its first write.
    pub since: Timestamp,
}

/// An instant that is open read-only, and so is pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Its number, for ever: the identity of what is served.
    pub id: OpeningId,
    /// The volume.
    pub volume: VolumeId,
    /// The branch.
    pub branch: BranchId,
    /// The place.
    pub at: When,
    /// Since when.
    pub since: Timestamp,
    /// Closed after so long without a client.
    pub ttl_ns: u64,
}

impl Catalogue {
    /// Of a new store: nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a record that is durable. After an error the catalogue is in doubt and must be dropped:
    /// the bytes of the store contradict themselves.
    pub fn apply(&mut self, record: CatalogueRecord) -> Result<(), RecordError> {
        match record {
            CatalogueRecord::Together(records) => {
                records.into_iter().try_for_each(|record| self.apply(record))
            }
            CatalogueRecord::Volume(volume) => self.put_volume(volume),
            CatalogueRecord::VolumeGone(id) => self.drop_volume(id),
            CatalogueRecord::Branch(branch) => self.put_branch(branch),
            CatalogueRecord::BranchGone(id) => self.drop_branch(id),
            CatalogueRecord::Size { branch, sequence, size_bytes } => {
                self.must_have_branch(branch)?;
                let sizes = self.sizes.entry(branch).or_default();
                if sizes.last().is_some_and(|&(last, _)| last > sequence) {
                    return Err(contradiction("branch", branch.0, "sizes go on in order"));
                }
                sizes.push((sequence, size_bytes));
                Ok(())
            }
            CatalogueRecord::Served { volume, served } => {
                self.must_have_volume(volume)?;
                let history = self.served.entry(volume).or_default();
                if history.last().is_some_and(|last| last.from.sequence > served.from.sequence) {
                    return Err(contradiction("volume", volume.0, "presents go on in order"));
                }
                history.push(served);
                Ok(())
            }
            CatalogueRecord::Mark(mark) => {
                self.must_have_volume(mark.volume)?;
                self.must_have_branch(mark.branch)?;
                raise(&mut self.next.mark, mark.id.0);
                self.marks.insert(mark.id, mark);
                Ok(())
            }
            CatalogueRecord::MarkGone(id) => taken(self.marks.remove(&id), "mark", id.0),
            CatalogueRecord::Client { client, who } => {
                raise(&mut self.next.client, client.0);
                self.client_ids.insert(who.clone(), client);
                match self.clients.insert(client, who) {
                    None => Ok(()),
                    Some(_) => Err(contradiction("client", client.0, "a client never changes")),
                }
            }
            CatalogueRecord::Attached(it) => {
                self.must_have_volume(it.volume)?;
                self.must_have_branch(it.branch)?;
                self.must_have_client(it.client)?;
                self.attachments.insert((it.volume, it.branch, it.client), it.since);
                Ok(())
            }
            CatalogueRecord::AttachmentEnded { volume, branch, client } => {
                taken(self.attachments.remove(&(volume, branch, client)), "client", client.0)
            }
            CatalogueRecord::Refused { volume, client, since } => {
                self.must_have_volume(volume)?;
                self.must_have_client(client)?;
                self.refused.insert((volume, client), since);
                Ok(())
            }
            CatalogueRecord::Released(volume) => {
                self.must_have_volume(volume)?;
                self.refused.retain(|&(of, _), _| of != volume);
                Ok(())
            }
            CatalogueRecord::Opened(opening) => {
                self.must_have_volume(opening.volume)?;
                self.must_have_branch(opening.branch)?;
                raise(&mut self.next.opening, opening.id.0);
                self.openings.insert(opening.id, opening);
                Ok(())
            }
            CatalogueRecord::OpeningGone(id) => {
                taken(self.openings.remove(&id), "opened instant", id.0)
            }
            CatalogueRecord::Base(base) => self.put_base(base),
            CatalogueRecord::Taken { base, runs } => {
                // Recorded beside other changes: it may come behind the base's end, and means nothing then.
                let attached = self.bases.get(&base).filter(|base| !base.detached);
                let Some(units) = attached.map(Base::units) else { return Ok(()) };
                let taken = self.taken.entry(base).or_default();
                for (first, end) in runs {
                    if end > units {
                        return Err(contradiction("base", base.0, "it has no such unit"));
                    }
                    taken.insert(first, end);
                }
                Ok(())
            }
            CatalogueRecord::Numbers { volume, branch, mark, client, opening } => {
                let next = &mut self.next;
                next.volume = next.volume.max(volume);
                next.branch = next.branch.max(branch);
                next.mark = next.mark.max(mark);
                next.client = next.client.max(client);
                next.opening = next.opening.max(opening);
                Ok(())
            }
        }
    }

    /// Records that make an equal catalogue out of an empty one, always in the same order.
    pub fn snapshot(&self) -> Vec<CatalogueRecord> {
        use CatalogueRecord as Record;
        let Numbers { volume, branch, mark, client, opening } = self.next;
        let mut records = vec![Record::Numbers { volume, branch, mark, client, opening }];
        records.extend(self.volumes.values().cloned().map(Record::Volume));
        records.extend(self.branches.values().cloned().map(Record::Branch));
        records.extend(self.bases.values().cloned().map(Record::Base));
        records.extend(self.taken.iter().map(|(&base, taken)| {
            let runs = taken.runs().to_vec();
            Record::Taken { base, runs }
        }));
        records.extend(self.sizes.iter().flat_map(|(&branch, sizes)| {
            let record =
                move |&(sequence, size_bytes): &_| Record::Size { branch, sequence, size_bytes };
            sizes.iter().map(record)
        }));
        records.extend(self.served.iter().flat_map(|(&volume, history)| {
            history.iter().map(move |&served| Record::Served { volume, served })
        }));
        let client =
            |(&client, who): (&ClientId, &Who)| Record::Client { client, who: who.clone() };
        records.extend(self.clients.iter().map(client));
        records.extend(self.marks.values().cloned().map(Record::Mark));
        records.extend(self.all_attachments().map(Record::Attached));
        let refused =
            |(&(volume, client), &since): (&_, &_)| Record::Refused { volume, client, since };
        records.extend(self.refused.iter().map(refused));
        records.extend(self.openings.values().copied().map(Record::Opened));
        records
    }

    fn put_volume(&mut self, volume: Volume) -> Result<(), RecordError> {
        if volume.presence == Presence::Live
            && self.find(volume.name.as_str()).is_some_and(|other| other.id != volume.id)
        {
            return Err(contradiction("volume", volume.id.0, "another one has its name"));
        }
        self.next.volume = self.next.volume.max(volume.id.0.saturating_add(1));
        self.volumes.insert(volume.id, volume);
        Ok(())
    }

    fn drop_volume(&mut self, id: VolumeId) -> Result<(), RecordError> {
        if self.branches.values().any(|branch| branch.volume == id) {
            return Err(contradiction("volume", id.0, "it still has branches"));
        }
        self.served.remove(&id);
        self.refused.retain(|&(volume, _), _| volume != id);
        taken(self.volumes.remove(&id), "volume", id.0.into())
    }

    fn put_branch(&mut self, branch: Branch) -> Result<(), RecordError> {
        self.must_have_volume(branch.volume)?;
        if let Some(fork) = branch.parent {
            self.must_have_branch(fork.branch)?;
            if fork.branch >= branch.id {
                return Err(contradiction("branch", branch.id.0, "its parent is not older"));
            }
        }
        if let Some(known) = self.branches.get(&branch.id)
            && (known.parent, known.volume) != (branch.parent, branch.volume)
        {
            return Err(contradiction("branch", branch.id.0, "origin and volume never change"));
        }
        if self.bases.contains_key(&branch.id) {
            return Err(contradiction("branch", branch.id.0, "a base has its number"));
        }
        self.next.branch = self.next.branch.max(branch.id.0.saturating_add(1));
        self.branches.insert(branch.id, branch);
        Ok(())
    }

    fn put_base(&mut self, base: Base) -> Result<(), RecordError> {
        let wrong = |why| Err(contradiction("base", base.id.0, why));
        match self.branches.get(&base.root) {
            None => return Err(RecordError::Unknown { what: "branch", id: base.root.0.into() }),
            Some(root) if root.parent.is_some() => return wrong("its branch is not the first"),
            Some(_) => {}
        }
        if self.branches.contains_key(&base.id) {
            return wrong("a branch has its number");
        }
        let other = |other: &Base| other.root == base.root && other.id != base.id;
        if self.bases.values().any(other) {
            return wrong("its branch stands on another one");
        }
        if let Some(known) = self.bases.get(&base.id) {
            if (known.root, known.size_bytes) != (base.root, base.size_bytes) {
                return wrong("root and size never change");
            }
            if known.detached && !base.detached {
                return wrong("it does not come back");
            }
        }
        if base.detached {
            self.taken.remove(&base.id);
        }
        self.next.branch = self.next.branch.max(base.id.0.saturating_add(1));
        self.bases.insert(base.id, base);
        Ok(())
    }

    fn drop_branch(&mut self, id: BranchId) -> Result<(), RecordError> {
        let is_parent = |branch: &Branch| branch.parent.is_some_and(|fork| fork.branch == id);
        if self.branches.values().any(is_parent) {
            return Err(contradiction("branch", id.0, "others go on from it"));
        }
        if self.marks.values().any(|mark| mark.branch == id)
            || self.openings.values().any(|opening| opening.branch == id)
            || self.attachments.keys().any(|&(_, branch, _)| branch == id)
        {
            return Err(contradiction("branch", id.0, "marks or clients hold it"));
        }
        self.sizes.remove(&id);
        let base = self.bases.values().find(|base| base.root == id).map(|base| base.id);
        if let Some(base) = base {
            self.bases.remove(&base);
            self.taken.remove(&base);
        }
        taken(self.branches.remove(&id), "branch", id.0.into())
    }

    fn must_have_volume(&self, id: VolumeId) -> Result<(), RecordError> {
        taken(self.volumes.get(&id), "volume", id.0.into())
    }

    fn must_have_branch(&self, id: BranchId) -> Result<(), RecordError> {
        taken(self.branches.get(&id), "branch", id.0.into())
    }

    fn must_have_client(&self, id: ClientId) -> Result<(), RecordError> {
        taken(self.clients.get(&id), "client", id.0)
    }
}

/// Questions that change nothing.
impl Catalogue {
    /// All volumes by number, also those in the trash and what is left of emptied ones.
    pub fn volumes(&self) -> impl Iterator<Item = &Volume> {
        self.volumes.values()
    }

    /// A volume, wherever it lies.
    pub fn volume(&self, id: VolumeId) -> Option<&Volume> {
        self.volumes.get(&id)
    }

    /// The volume of that name outside the trash.
    pub fn find(&self, name: &str) -> Option<&Volume> {
        self.live().find(|volume| volume.name.as_str() == name)
    }

    /// [`Self::find`], or the error that names what may have been meant.
    pub fn find_volume(&self, name: &str) -> Result<&Volume, CatalogueError> {
        self.find(name).ok_or_else(|| CatalogueError::NoVolume {
            name: name.to_owned(),
            near: nearest(name, self.live().map(|volume| volume.name.as_str())),
            in_trash: self.find_in_trash(name).is_some(),
        })
    }

    /// The volume of that name that was thrown away last.
    pub fn find_in_trash(&self, name: &str) -> Option<&Volume> {
        let since = |volume: &&Volume| match volume.presence {
            Presence::Trash { since, .. } => Some((since, volume.id)),
            Presence::Live | Presence::Emptied => None,
        };
        let named = |volume: &&Volume| volume.name.as_str() == name && since(volume).is_some();
        self.volumes.values().filter(named).max_by_key(since)
    }

    /// A branch, wherever it lies.
    pub fn branch(&self, id: BranchId) -> Option<&Branch> {
        self.branches.get(&id)
    }

    /// The branches of a volume in the order in which they were made.
    pub fn branches(&self, volume: VolumeId) -> impl Iterator<Item = &Branch> {
        self.branches.values().filter(move |branch| branch.volume == volume)
    }

    /// The branch of that name, or the error that names what may have been meant.
    pub fn find_branch(&self, volume: VolumeId, name: &str) -> Result<&Branch, CatalogueError> {
        let named = |branch: &&Branch| branch.name.as_ref().is_some_and(|it| it.as_str() == name);
        if let Some(branch) = self.branches(volume).find(named) {
            return Ok(branch);
        }
        let names = self.branches(volume).filter_map(|branch| branch.name.as_ref());
        Err(CatalogueError::NoBranch {
            volume: self.some_volume(volume)?.name.clone(),
            name: name.to_owned(),
            near: nearest(name, names.map(BranchName::as_str)),
        })
    }

    /// What clients of the volume see.
    pub fn present(&self, volume: VolumeId) -> Option<&Branch> {
        self.branches.get(&self.served(volume).last()?.branch)
    }

    /// Which branch was served from when on, in order; the last one is the present.
    pub fn served(&self, volume: VolumeId) -> &[Served] {
        self.served.get(&volume).map_or(&[], Vec::as_slice)
    }

    /// Sizes that a branch itself was given, in order; before the first it has its parent's.
    pub fn sizes(&self, branch: BranchId) -> &[(Sequence, u64)] {
        self.sizes.get(&branch).map_or(&[], Vec::as_slice)
    }

    /// The marks of a volume in the order in which they were made.
    pub fn marks(&self, volume: VolumeId) -> impl DoubleEndedIterator<Item = &Mark> {
        self.marks.values().filter(move |mark| mark.volume == volume)
    }

    /// Who a client is.
    pub fn client(&self, id: ClientId) -> Option<&Who> {
        self.clients.get(&id)
    }

    /// The number of a client that came before.
    pub fn client_id(&self, who: &Who) -> Option<ClientId> {
        self.client_ids.get(who).copied()
    }

    /// Who is attached to a volume, all branches.
    pub fn attachments(&self, volume: VolumeId) -> impl Iterator<Item = Attachment> {
        self.all_attachments().filter(move |it| it.volume == volume)
    }

    /// Who is attached to whatever volume.
    pub fn all_attachments(&self) -> impl Iterator<Item = Attachment> {
        let attachment = |(&(volume, branch, client), &since): (&_, &_)| Attachment {
            volume,
            branch,
            client,
            since,
        };
        self.attachments.iter().map(attachment)
    }

    /// Who may not come back to a volume, and since when.
    pub fn refused(&self, volume: VolumeId) -> impl Iterator<Item = (ClientId, Timestamp)> {
        let of_it = move |(&(of, client), &since): (&(VolumeId, ClientId), &Timestamp)| {
            (of == volume).then_some((client, since))
        };
        self.refused.iter().filter_map(of_it)
    }

    /// The instants that are open, oldest opening first.
    pub fn openings(&self) -> impl Iterator<Item = &Opening> {
        self.openings.values()
    }

    /// The volume if it takes changes.
    pub(crate) fn live_volume(&self, id: VolumeId) -> Result<&Volume, CatalogueError> {
        let volume = self.some_volume(id)?;
        match volume.presence {
            Presence::Live => Ok(volume),
            Presence::Trash { until, .. } => {
                Err(CatalogueError::InTrash { volume: volume.name.clone(), until })
            }
            Presence::Emptied => Err(CatalogueError::VolumeGone(id)),
        }
    }

    pub(crate) fn some_volume(&self, id: VolumeId) -> Result<&Volume, CatalogueError> {
        self.volumes.get(&id).ok_or(CatalogueError::VolumeGone(id))
    }

    pub(crate) fn some_branch(&self, id: BranchId) -> Result<&Branch, CatalogueError> {
        self.branches.get(&id).ok_or(CatalogueError::BranchGone(id))
    }

    /// The present of a volume that takes changes. Only a store that was cut off between two records
    /// of no change of ours lacks it.
    pub(crate) fn present_branch(&self, volume: VolumeId) -> Result<&Branch, CatalogueError> {
        self.present(volume).ok_or(CatalogueError::VolumeGone(volume))
    }

    fn live(&self) -> impl Iterator<Item = &Volume> {
        self.volumes.values().filter(|volume| volume.presence == Presence::Live)
    }

    /// The branches of `from` and all that they go on from, up to the roots.
    pub(crate) fn with_ancestors(
        &self,
        from: impl Iterator<Item = BranchId>,
    ) -> BTreeSet<BranchId> {
        let mut all = BTreeSet::new();
        for start in from {
            let mut next = Some(start);
            while let Some(id) = next.filter(|&id| all.insert(id)) {
                next = self.branches.get(&id).and_then(|branch| branch.parent).map(|it| it.branch);
            }
        }
        all
    }
}

fn raise(next: &mut u64, used: u64) {
    *next = (*next).max(used.saturating_add(1));
}

fn taken<T>(found: Option<T>, what: &'static str, id: u64) -> Result<(), RecordError> {
    found.map(|_| ()).ok_or(RecordError::Unknown { what, id })
}

fn contradiction(what: &'static str, id: impl Into<u64>, why: &'static str) -> RecordError {
    RecordError::Contradiction { what, id: id.into(), why }
}
