//! The order in which a layer with dependants is written: *its identifier is durable as another one
//! before the first changed byte can be*.
//!
//! ```text
//! Lease ▶ WriteLabel (open, new generation) ▶ SyncFile ▶ [SyncFolder] ▶ Writing … close()
//!       ▶ SyncFile (the guest's bytes) ▶ WriteLabel (closed, digest) ▶ SyncFile ▶ Release ▶ Done
//! ```
//!
//! A driver carries out [`Order::next`] and says [`Order::done`]. Cut off before `Writing`, a new
//! identifier stands over old bytes: a false alarm, which a digest resolves to "same". Cut off later,
//! the label says open under the new generation. An old identifier over new bytes does not occur.
//! A label is never written over the last one ([`Label::place`]).
//!
//! Not here: who holds the lease and how; the locks that keep foreign programs out; that a layer which
//! is open is not sealed as a parent ([`Seal::new`](crate::Seal::new) refuses it).

use crate::{Label, LabelState, Summary, label::COPY_BYTES};

/// A layer being opened for writing, written, and closed.
#[derive(Clone, Debug)]
pub struct Order {
    label: Label,
    stage: Stage,
    has_new_name: bool,
}

/// What a driver does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Take the lease to write; give up if another has it.
    Lease,
    /// Write this copy of the label at this offset of the extension's content (or of the record that
    /// stands for it), and nothing else.
    WriteLabel {
        /// From the start of the content, in bytes.
        at: usize,
        /// The copy.
        copy: Box<[u8; COPY_BYTES]>,
    },
    /// Make all that was written to the file durable. An error ends the opening: what is durable then
    /// is not known.
    SyncFile,
    /// Make the file's name durable.
    SyncFolder,
    /// Guest's writes may go through now, and not before; then [`Order::close`].
    Writing,
    /// Give the lease back.
    Release,
    /// Nothing more.
    Done,
}

/// Who depends on a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dependants {
    /// Children that are known and not given up.
    pub living: u64,
    /// The user said that they may break (`--break-children`).
    pub may_break: bool,
}

/// Why a layer is not opened for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// Its children would see other bytes (exit 6).
    #[error("{0} images are made over this layer")]
    Dependants(u64),
    /// The generation offered is the present one, the one before, or zero.
    #[error("the new generation is none")]
    Generation,
    /// The label's count is at its end.
    #[error("the label of the layer cannot be written once more")]
    Sequence,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Lease,
    OpenLabel,
    OpenSync,
    OpenFolder,
    Writing,
    DataSync,
    CloseLabel,
    CloseSync,
    Release,
    Done,
}

impl Order {
    /// Begins to open a layer for writing. `label` is the one that counts now; `generation` is 16
    /// random bytes. `has_new_name`: the file was made or renamed just now.
    pub fn open(
        label: &Label,
        generation: [u8; 16],
        dependants: Dependants,
        has_new_name: bool,
    ) -> Result<Self, OrderError> {
        if dependants.living > 0 && !dependants.may_break {
            return Err(OrderError::Dependants(dependants.living));
        }
        if [label.generation, label.was, [0; 16]].contains(&generation) {
            return Err(OrderError::Generation);
        }
        // Two labels are written: this one and that of the close.
        let sequence = label.sequence.checked_add(1).filter(|sequence| *sequence < u64::MAX);
        let label = Label {
            sequence: sequence.ok_or(OrderError::Sequence)?,
            state: LabelState::Open,
            generation,
            was: label.generation,
            content: None,
            ..*label
        };
        Ok(Self { label, stage: Stage::Lease, has_new_name })
    }

    /// What to do next. The same until [`Order::done`].
    pub fn next(&self) -> Step {
        match self.stage {
            Stage::Lease => Step::Lease,
            Stage::OpenLabel | Stage::CloseLabel => {
                Step::WriteLabel { at: self.label.place(), copy: Box::new(self.label.encode()) }
            }
            Stage::OpenSync | Stage::DataSync | Stage::CloseSync => Step::SyncFile,
            Stage::OpenFolder => Step::SyncFolder,
            Stage::Writing => Step::Writing,
            Stage::Release => Step::Release,
            Stage::Done => Step::Done,
        }
    }

    /// What [`Order::next`] said was done, and its success seen. Not said while writing.
    pub fn done(&mut self) {
        self.stage = match self.stage {
            Stage::Lease => Stage::OpenLabel,
            Stage::OpenLabel => Stage::OpenSync,
            Stage::OpenSync if self.has_new_name => Stage::OpenFolder,
            Stage::OpenSync | Stage::OpenFolder => Stage::Writing,
            Stage::Writing => panic!("writing ends by a close"),
            Stage::DataSync => Stage::CloseLabel,
            Stage::CloseLabel => Stage::CloseSync,
            Stage::CloseSync => Stage::Release,
            Stage::Release | Stage::Done => Stage::Done,
        };
    }

    /// Ends the writing: no guest's write is under way any more. `size` is that of the disk now, and
    /// `content` the digest of its bytes, if there is one.
    pub fn close(&mut self, size: u64, content: Option<Summary>) {
        assert!(self.stage == Stage::Writing, "a close of what is not being written");
        self.label.sequence += 1;
        self.label.state = LabelState::Closed;
        self.label.size = size;
        self.label.content = content;
        self.stage = Stage::DataSync;
    }

    /// The label as it is or is being written.
    pub fn label(&self) -> &Label {
        &self.label
    }
}
