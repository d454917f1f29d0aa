//! An instant of a volume as an image: a pure function of the state, what it holds, and options.
//!
//! ```text
//! State + Options + Base ─▶ Export ─▶ plan(ranges) ─▶ images::form ─▶ files, or a packer
//! index ─▶ Ranges ────────────────────┘              └▶ identity, tag
//! ```
//!
//! - No I/O, no clock, no chance: the same state gives the same bytes at any time on any machine that
//!   has the store or a copy of it. `docs/format.md` 12 says how identifiers follow from the state.
//! - An identity names a *state in a format*, not a file: the kind, the name and the base do not
//!   enter it. So a difference fits over the whole image of its base as it fits over a difference that
//!   ends there.
//! - What a plan holds in memory is bounded ([`ranges::RANGES_MAX`]); past that it becomes coarser,
//!   and says the same disk in more bytes.
//! - [`Export::tag`] covers all that the bytes depend on: equal tags, equal bytes.

pub mod ranges;
mod walk;

pub use ranges::Ranges;
pub use walk::Walk;

use images::{
    Form, Format, Identity,
    form::{Made, Naming},
    layout::{Held, ParentPlan, Plan, Unwritable},
};

/// Raised whenever the same export would give other bytes than before.
const WRITER: u32 = 1;

/// A state of a disk, by what never changes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The store's id.
    pub store: [u8; 16],
    /// Number of the branch, unique in the store.
    pub branch: u32,
    /// All writes of the branch, and of what it came from, up to this sequence.
    pub sequence: u64,
    /// When that was, in seconds since 1970-01-01 UTC.
    pub time_s: u64,
    /// Bytes that the guest saw.
    pub size_bytes: u64,
    /// Bytes of the logical sector that clients see.
    pub sector_bytes: u32,
}

impl State {
    /// From which identifiers of the state's image in a format are derived (`docs/format.md` 12).
    pub fn seed(&self, format: Format) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("strandline export 1 identity");
        hasher.update(&self.store);
        hasher.update(&self.branch.to_le_bytes());
        hasher.update(&self.sequence.to_le_bytes());
        hasher.update(format.word().as_bytes());
        hasher.finalize().into()
    }

    /// What is planned of the state, without ranges.
    fn plan(&self, format: Format) -> Plan {
        Plan {
            virtual_size: self.size_bytes,
            held: Vec::new(),
            parent: None,
            seed: self.seed(format),
            made_s: self.time_s,
        }
    }
}

/// The state that a difference stands on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Base {
    /// The state.
    pub state: State,
    /// File name of its image, relative to the folder of the difference.
    pub name: String,
}

/// A state as an image.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Export {
    state: State,
    form: Form,
    name: String,
    base: Option<Base>,
}

/// Why there is no such export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// The base is the state itself: its identity would be its own parent's.
    SameState,
    /// The base is of another store.
    OtherStore,
}

impl Export {
    /// A state in a form. `name` is the file name that an image may carry in itself; formats that
    /// carry none do not depend on it.
    pub fn new(state: State, form: Form, name: &str, base: Option<Base>) -> Result<Self, Unfit> {
        if let Some(base) = &base {
            let of = |state: &State| (state.branch, state.sequence);
            if base.state.store != state.store {
                return Err(Unfit::OtherStore);
            }
            if of(&base.state) == of(&state) {
                return Err(Unfit::SameState);
            }
        }
        let name = if form.format() == Format::Vmdk { name.to_owned() } else { String::new() };
        let base = base.map(|base| match form.format() {
            Format::Vdi => Base { name: String::new(), ..base }, // names no parent
            _ => base,
        });
        Ok(Self { state, form, name, base })
    }

    /// The state.
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// The form.
    pub const fn form(&self) -> Form {
        self.form
    }

    /// What it differs from.
    pub const fn base(&self) -> Option<&Base> {
        self.base.as_ref()
    }

    /// The image: `held` are the ranges of the state, or of the difference.
    pub fn make(&self, held: Vec<Held>) -> Result<Made, Unwritable> {
        let naming = Naming { name: &self.name, sector_bytes: self.state.sector_bytes };
        self.form.make(self.plan(held), naming)
    }

    /// What a child of the image states of it.
    pub fn identity(&self) -> Identity {
        self.form.identity(&self.plan(Vec::new()))
    }

    /// A digest of all that the bytes depend on.
    pub fn tag(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("strandline export 1 tag");
        let mut field = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        field(&WRITER.to_le_bytes());
        for state in [Some(&self.state), self.base.as_ref().map(|base| &base.state)] {
            let Some(state) = state else { continue };
            field(&state.seed(self.form.format()));
            for number in [state.time_s, state.size_bytes, state.sector_bytes.into()] {
                field(&number.to_le_bytes());
            }
        }
        field(self.form.word().as_bytes());
        field(self.name.as_bytes());
        field(self.base.as_ref().map_or("", |base| &base.name).as_bytes());
        hasher.finalize().into()
    }

    fn plan(&self, held: Vec<Held>) -> Plan {
        let format = self.form.format();
        let parent = self.base.as_ref().map(|base| ParentPlan {
            name: base.name.clone(),
            format,
            // As the image of the base has it, whatever that stands on itself.
            identity: self.form.identity(&base.state.plan(format)),
            virtual_size: base.state.size_bytes,
        });
        Plan { held, parent, ..self.state.plan(format) }
    }
}
