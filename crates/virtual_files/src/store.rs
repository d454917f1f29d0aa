//! Volumes of a store as folders: every instant under its name, its disk in every format.
//!
//! ```text
//! VOL/at/seq:93880/disk.qcow2        the folder of a state: its name and bytes never change
//! VOL/at/10:03:40 -> seq:93880       all other names are links, resolved at each look-up
//! VOL/at/now      -> seq:97311
//! VOL/at/~20261120T101231Z@seq:95000 a state of a branch that a rewind left
//! ```
//!
//! Listed are `now`, `start`, the marks by name and by time, and the states they lead to; any other
//! instant of the grammar is found by its name. Bytes come from the store's own export of the state,
//! by ranges. A file of a volume that was removed, and whose name another one has, is an I/O error.

use std::sync::{Arc, Mutex, PoisonError};

use api::{
    Caller, Chunk, Control, ControlExt as _, Failure, Reference, Zone, failure,
    reference::Subject,
    verbs::{
        export::{Describe, Described, ImageFormat, Read},
        mark::MarkLs,
        vol::{VolDetails, VolLs, VolShow},
    },
};
use images::{Form, Format, form::Naming, layout::Plan};
use units::Timestamp;
use world::{
    Clock as _,
    real::{RealClock, Stretch},
};

use crate::{
    Entry, Folder, Kind, Listed, Node, Trouble, VirtualFile,
    image::name_of,
    inodes,
    tree::{Shelf, absent},
    windows::Windows,
};

/// For how long it is believed that a volume's name means the same volume.
const BELIEVED_NS: u64 = 1_000_000_000;

/// A store, and who asks it.
pub struct Store {
    control: Arc<dyn Control>,
    who: Caller,
    /// Where bare times are read; made anew each time, for "today" moves on.
    zone: Box<dyn Fn() -> Zone + Send + Sync>,
    windows: Windows,
}

impl Store {
    /// What is asked of `control`, by `who`; each of its answers must end in bounded time.
    pub fn new(
        control: Arc<dyn Control>,
        who: Caller,
        zone: Box<dyn Fn() -> Zone + Send + Sync>,
    ) -> Arc<Self> {
        Arc::new(Self { control, who, zone, windows: Windows::default() })
    }

    /// The folder of all volumes.
    pub fn all(self: &Arc<Self>) -> Result<Entry, Failure> {
        self.control.ask(&self.who, VolLs {})?;
        Ok(Entry {
            key: String::new(),
            node: Node::Folder(Arc::new(Volumes(Arc::clone(self)))),
            modified: RealClock.wall(),
            fixed: true,
        })
    }

    /// The folder of a volume, or of a branch of it.
    pub fn volume(self: &Arc<Self>, reference: &Reference) -> Result<Entry, Failure> {
        let found = self.show(reference)?;
        Ok(self.volume_folder(&found, reference.clone()))
    }

    /// The folder of one state, and what is known of it.
    pub fn state(
        self: &Arc<Self>,
        reference: &Reference,
        exact: bool,
    ) -> Result<(Entry, VolDetails), Failure> {
        let asked = VolShow { reference: reference.clone(), exact };
        let found = self.control.ask(&self.who, asked)?;
        // What cannot be read at all shall fail now.
        self.control.ask(&self.who, describe(&found.reference, Format::Raw))?;
        Ok((self.state_folder(&found), found))
    }

    fn show(&self, reference: &Reference) -> Result<VolDetails, Failure> {
        self.control.ask(&self.who, VolShow { reference: reference.clone(), exact: false })
    }

    fn volume_folder(self: &Arc<Self>, found: &VolDetails, subject: Reference) -> Entry {
        let branch =
            subject.branch.as_ref().map_or_else(String::new, |branch| format!("~{branch}"));
        let key = format!("volume {}{branch}", found.id);
        let modified = found.time.0;
        let instants =
            Instants { store: Arc::clone(self), subject, id: found.id, key: key.clone() };
        let at = Entry {
            key: format!("{key}/at"),
            node: Node::Folder(Arc::new(instants)),
            modified,
            fixed: true,
        };
        let shelf = Shelf(vec![("at".to_owned(), at)]);
        // A name can come to mean another volume, which then has another key.
        Entry { key, node: Node::Folder(Arc::new(shelf)), modified, fixed: false }
    }

    fn state_folder(self: &Arc<Self>, found: &VolDetails) -> Entry {
        let key = format!("volume {}/branch {}/{}", found.id, found.branch, found.seq);
        let state = Arc::new(State {
            store: Arc::clone(self),
            reference: found.reference.clone(),
            id: found.id,
            size: found.size,
            modified: found.time.0,
            key: key.clone(),
            believed_ns: Mutex::new(RealClock.boot_ns()),
        });
        let modified = found.time.0;
        Entry { key, node: Node::Folder(Arc::new(Disks(state))), modified, fixed: true }
    }
}

/// All volumes.
struct Volumes(Arc<Store>);

impl Folder for Volumes {
    fn find(&self, name: &str) -> Result<Entry, Trouble> {
        let subject: Reference = name.parse().map_err(|_| absent(name))?;
        if subject.instant.is_some() || subject.local().is_err() {
            return Err(absent(name));
        }
        let found = self.0.show(&subject).map_err(|failure| trouble(&failure))?;
        Ok(self.0.volume_folder(&found, subject))
    }

    fn list(&self) -> Result<Vec<Listed>, Trouble> {
        let listed =
            self.0.control.ask(&self.0.who, VolLs {}).map_err(|failure| trouble(&failure))?;
        let line = |volume: api::verbs::vol::VolSummary| Listed {
            key: Some(format!("volume {}", volume.id)),
            name: volume.name.to_string(),
            kind: Kind::Folder,
        };
        Ok(listed.volumes.into_iter().map(line).collect())
    }
}

/// The instants of a volume or branch: `at/`.
struct Instants {
    store: Arc<Store>,
    /// Without an instant.
    subject: Reference,
    id: u32,
    key: String,
}

impl Instants {
    /// How a state is named here: `seq:N`, on another branch `~BRANCH@seq:N`.
    fn name(&self, found: &Reference) -> String {
        let instant = found.instant.as_ref().map_or_else(String::new, ToString::to_string);
        match &found.branch {
            Some(branch) if self.subject.branch.as_ref() != Some(branch) => {
                format!("~{branch}@{instant}")
            }
            _ => instant,
        }
    }

    /// What a name means: an instant of the subject, or of another branch.
    fn reference(&self, name: &str) -> Option<Reference> {
        let text = match (name.starts_with('~'), &self.subject.subject) {
            (true, Subject::Volume(volume)) => format!("{volume}{name}"),
            _ => format!("{}@{name}", self.subject),
        };
        let reference = Reference::parse(&text, &(self.store.zone)()).ok()?;
        reference.instant.is_some().then_some(reference)
    }

    fn resolve(&self, name: &str) -> Result<VolDetails, Trouble> {
        let reference = self.reference(name).ok_or_else(|| absent(name))?;
        let found = self.store.show(&reference).map_err(|failure| trouble(&failure))?;
        if found.id == self.id { Ok(found) } else { Err(absent(name)) }
    }
}

impl Folder for Instants {
    fn find(&self, name: &str) -> Result<Entry, Trouble> {
        let found = self.resolve(name)?;
        let fixed = self.name(&found.reference);
        if fixed == name {
            return Ok(self.store.state_folder(&found));
        }
        // Where it leads to is part of what it is: a link that moves is another one.
        let key = format!("{}/{name} -> {fixed}", self.key);
        Ok(Entry { key, node: Node::Link(fixed), modified: found.time.0, fixed: false })
    }

    fn list(&self) -> Result<Vec<Listed>, Trouble> {
        let link = |name: String| Listed { name, key: None, kind: Kind::Link };
        let mut listed = vec![link("now".to_owned()), link("start".to_owned())];
        let mut states = Vec::new();
        for name in ["now", "start"] {
            if let Ok(found) = self.resolve(name) {
                states.push(self.name(&found.reference));
            }
        }
        if let (Subject::Volume(volume), None) = (&self.subject.subject, &self.subject.branch) {
            let asked = MarkLs { volume: Some(volume.clone()) };
            let marks = self.store.control.ask(&self.store.who, asked);
            for mark in marks.map_err(|failure| trouble(&failure))?.marks {
                let name = mark.reference.instant.as_ref().map(ToString::to_string);
                listed.extend(name.map(link));
                listed.push(link(mark.time.to_string()));
                if let Ok(found) = self.store.show(&mark.reference) {
                    states.push(self.name(&found.reference));
                }
            }
        }
        let state = |name: String| Listed { name, key: None, kind: Kind::Folder };
        listed.extend(states.into_iter().map(state));
        listed.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        listed.dedup_by(|a, b| a.name == b.name);
        Ok(listed)
    }
}

/// A state of a volume, by its fixed name.
struct State {
    store: Arc<Store>,
    reference: Reference,
    /// Of the volume that had the name when the state was found.
    id: u32,
    size: u64,
    modified: Timestamp,
    key: String,
    /// When the name was last seen to mean that volume.
    believed_ns: Mutex<u64>,
}

impl State {
    /// Fails once the volume's name means another volume.
    fn still(&self) -> Result<(), Trouble> {
        let now_ns = RealClock.boot_ns();
        let mut believed_ns = self.believed_ns.lock().unwrap_or_else(PoisonError::into_inner);
        if now_ns.saturating_sub(*believed_ns) < BELIEVED_NS {
            return Ok(());
        }
        let found = self.store.show(&self.reference).map_err(|failure| lost(&failure))?;
        if found.id != self.id {
            return Err(Trouble::Failed(format!("{} is another volume now", self.reference)));
        }
        *believed_ns = now_ns;
        Ok(())
    }

    fn described(&self, format: Format) -> Result<Described, Trouble> {
        self.still()?;
        let asked = describe(&self.reference, format);
        self.store.control.ask(&self.store.who, asked).map_err(|failure| trouble(&failure))
    }

    /// Whether the format can hold a disk of this size.
    fn fits(&self, format: Format) -> bool {
        let plan = Plan {
            virtual_size: self.size,
            held: Vec::new(),
            parent: None,
            seed: [0; 32],
            made_s: 0,
        };
        let naming = Naming { name: "disk", sector_bytes: 512 };
        Form::new(format, None).and_then(|form| form.make(plan, naming)).is_ok()
    }
}

/// A state's disk in every format.
struct Disks(Arc<State>);

impl Folder for Disks {
    fn find(&self, name: &str) -> Result<Entry, Trouble> {
        let state = &self.0;
        let format = name.rsplit_once('.').and_then(|(_, word)| Format::of_word(word));
        let format = format.filter(|_| name.starts_with("disk")).ok_or_else(|| absent(name))?;
        if !state.fits(format) {
            return Err(absent(name));
        }
        let described = state.described(format)?;
        let mut files = (0..).zip(&described.files);
        let found = files.find(|(_, file)| name_of(&file.suffix, format) == name);
        let (number, file) = found.ok_or_else(|| absent(name))?;
        let Some(length) = file.length else { return Err(absent(name)) };
        // The raw disk is not looked at to be described; what it holds is what another format does.
        let data = match format {
            Format::Raw => state.described(Format::Qcow2)?.data,
            _ => described.data,
        };
        let key = format!("{}/{name}", state.key);
        let exported = Exported {
            state: Arc::clone(state),
            read: describe(&state.reference, format).read(number),
            number: inodes::number_of(&key),
            length,
            kept: data.map_or(length, |data| data.min(length)),
        };
        let node = Node::File(Arc::new(exported));
        Ok(Entry { key, node, modified: state.modified, fixed: true })
    }

    fn list(&self) -> Result<Vec<Listed>, Trouble> {
        let listed = |format| {
            let name = name_of("", format);
            let key = Some(format!("{}/{name}", self.0.key));
            Listed { name, key, kind: Kind::File }
        };
        Ok(Format::ALL.into_iter().filter(|format| self.0.fits(*format)).map(listed).collect())
    }
}

/// A file of a state's image.
struct Exported {
    state: Arc<State>,
    read: Read,
    /// Tells it from others among the windows.
    number: u64,
    length: u64,
    kept: u64,
}

impl Exported {
    fn fetch(&self, offset: u64, into: &mut [u8]) -> Result<(), Trouble> {
        self.state.still()?;
        let failed = |failure: Failure| lost(&failure);
        let asked = self.read.clone().range(offset, into.len() as u64);
        let store = &self.state.store;
        let mut chunks = store.control.export(&store.who, asked).map_err(failed)?;
        let mut rest = into;
        while let Some(chunk) = chunks.next().map_err(failed)? {
            let length =
                usize::try_from(chunk.length()).ok().filter(|length| *length <= rest.len());
            let Some(length) = length else {
                return Err(Trouble::Failed("the store sent more than was asked".to_owned()));
            };
            let (now, later) = rest.split_at_mut(length);
            match chunk {
                Chunk::Data(bytes) => now.copy_from_slice(&bytes),
                Chunk::Zeroes(_) => now.fill(0),
            }
            rest = later;
        }
        if rest.is_empty() {
            return Ok(());
        }
        Err(Trouble::Failed(format!("the store sent {} bytes too few", rest.len())))
    }
}

impl VirtualFile for Exported {
    fn len(&self) -> u64 {
        self.length
    }

    fn kept(&self) -> u64 {
        self.kept
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), Trouble> {
        let there = self.length.saturating_sub(offset).min(into.len() as u64);
        let (within, beyond) = into.split_at_mut(usize::try_from(there).unwrap_or(usize::MAX));
        beyond.fill(0);
        let windows = &self.state.store.windows;
        let fetch = |offset: u64, into: &mut [u8]| self.fetch(offset, into);
        windows.read((self.number, self.length), offset, within, &fetch)
    }

    fn stretch(&self, offset: u64) -> Result<Stretch, Trouble> {
        self.state.still()?;
        let failed = |failure: Failure| lost(&failure);
        let left = self.length - offset;
        let asked = self.read.clone().range(offset, left);
        let store = &self.state.store;
        // The first piece says it; what follows is not waited for.
        let first = store.control.export(&store.who, asked).map_err(failed)?.next();
        Ok(match first.map_err(failed)? {
            Some(Chunk::Zeroes(length)) => Stretch::Hole(length.min(left)),
            Some(Chunk::Data(bytes)) => Stretch::Data((bytes.len() as u64).min(left)),
            None => Stretch::Data(left),
        })
    }
}

/// The question for a state in a format; the name is that of the file here.
fn describe(reference: &Reference, format: Format) -> Describe {
    let told = match format {
        Format::Raw => ImageFormat::Raw,
        Format::Qcow2 => ImageFormat::Qcow2,
        Format::Vhd => ImageFormat::Vhd,
        Format::Vhdx => ImageFormat::Vhdx,
        Format::Vmdk => ImageFormat::Vmdk,
        Format::Vdi => ImageFormat::Vdi,
    };
    let name = Some(name_of("", format));
    Describe { name, ..Describe::of(reference.clone(), told) }
}

/// A failure of the store to give bytes of what was found before.
fn lost(failure: &Failure) -> Trouble {
    match trouble(failure) {
        Trouble::Absent(text) => Trouble::Failed(text),
        other => other,
    }
}

/// A failure of the store as who looks something up meets it.
fn trouble(failure: &Failure) -> Trouble {
    let text = format!("{}: {}", failure.code, failure.message);
    match failure.kind() {
        failure::Kind::NotFound | failure::Kind::Usage => Trouble::Absent(text),
        failure::Kind::Denied => Trouble::Denied(text),
        _ => Trouble::Failed(text),
    }
}

#[cfg(test)]
mod tests;
