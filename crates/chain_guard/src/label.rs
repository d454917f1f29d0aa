//! A child of qcow2 that carries in itself what it stands on: for chains that go to other machines.
//!
//! The child's file is written into, so this is done only where the user asks for it: a header extension and a
//! feature bit (`lineage::label`), put there by `images::qcow2::extend` so that a cut anywhere leaves
//! the same disk. Any QEMU opens such a file; its guest's bytes stay where they are.
//!
//! A label knows the digest of all the parent's bytes, not the tree: it proves that nothing changed, or
//! that something did, never where. What it proves once gets a record in the book.

use std::path::{Path, PathBuf};

use image_files::Watch;
use images::{
    Format,
    layout::Unwritable,
    qcow2::extend::{Extension, extend},
    relink::{Edit, EditStep},
};
use lineage::{
    Label, LabelState, ParentLabel,
    label::{AUTOCLEAR, COPY_BYTES, EXTENSION_TYPE},
};
use world::real::{EditError, EditedFile, FileStat, ForeignFile, Kinds};

use crate::{Error, Survey, view::stat_of};

/// Bytes of a first cluster, at most: QEMU's largest.
const CLUSTER_MAX: usize = 2 << 20;

/// Why a child got no label.
#[derive(Debug, thiserror::Error)]
pub enum LabelError {
    /// Only qcow2 has a place for one.
    #[error("an image of format {0} has no place for a label; the book of seals has")]
    Format(Format),
    /// This image has no room, or is of a version without feature bits.
    #[error(transparent)]
    Unwritable(#[from] Unwritable),
    /// Somebody who keeps labels writes it, or went down while writing.
    #[error("its label says that it is being written")]
    Open,
    /// Its file cannot be changed now.
    #[error(transparent)]
    File(#[from] EditError),
    /// The system's answer.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl Survey {
    /// Writes a label into the top image: what it stands on now. `generation` is 16 random bytes, for
    /// an image that has none yet or was written by a program that keeps none.
    pub fn label(&mut self, generation: [u8; 16], watch: &mut Watch<'_>) -> Result<PathBuf, Error> {
        if self.view().links() == 0 {
            return Err(Error::Alone(self.view().layers()[0].path.clone()));
        }
        let content = self.reading.whole(1, watch)?.summary();
        if let Some(error) = self.reading.any_damage(1) {
            return Err(error.into());
        }
        let [child, parent] = [0, 1].map(|layer| &self.view().layers()[layer]);
        let path = child.path.clone();
        if self.reading.is_unsteady() {
            return Err(Error::Written(parent.path.clone()));
        }
        let of_parent = Label::in_qcow2(&parent.facts).filter(|(_, is_intact)| *is_intact);
        let parent = ParentLabel {
            generation: of_parent.map_or([0; 16], |(label, _)| label.generation),
            size: parent.facts.virtual_size,
            content: Some(content),
        };
        let refused = |cause: LabelError| Error::Unlabelled { path: path.clone(), cause };
        if child.facts.format != Format::Qcow2 {
            return Err(refused(LabelError::Format(child.facts.format)));
        }
        let size = child.facts.virtual_size;
        let extension = extension(&child.facts, size, parent, generation).map_err(refused)?;
        let mark = child.mark();
        let edited = EditedFile::open(&path).map_err(|error| refused(error.into()))?;
        // The file that was looked at is the one that was taken.
        let now = FileStat::at(&path).map_err(|error| refused(error.into()))?;
        if lineage::FileMark::of(&stat_of(&now)) != mark
            || edited.inode() != (now.device, now.inode)
            || stat_of(&now) != child.witness.files[0]
        {
            return Err(Error::Replaced(path));
        }
        let written = head(&path).and_then(|head| Ok(extend(&head, &extension)?));
        let written = written.and_then(|edit| apply(&edited, &edit));
        written.map_err(refused)?;
        Ok(path)
    }
}

/// What goes into the child.
fn extension(
    facts: &images::Facts,
    size: u64,
    parent: ParentLabel,
    generation: [u8; 16],
) -> Result<Extension, LabelError> {
    let content = match Label::in_qcow2(facts) {
        None => Label::first(generation, size, Some(parent)).1,
        Some((label, true)) if label.state == LabelState::Open => return Err(LabelError::Open),
        Some((old, is_intact)) => {
            let label = Label {
                sequence: old.sequence.saturating_add(1),
                state: LabelState::Closed,
                // A program that keeps no labels may have changed anything since the last one.
                generation: if is_intact { old.generation } else { generation },
                was: if is_intact { old.was } else { old.generation },
                size,
                parent: Some(parent),
                content: old.content.filter(|content| is_intact && content.size == size),
            };
            let before = facts.extensions.iter().find(|(kind, _)| *kind == EXTENSION_TYPE);
            let mut content = before.map(|(_, bytes)| bytes.clone()).unwrap_or_default();
            let place = label.place()..label.place() + COPY_BYTES;
            if let Some(copy) = content.get_mut(place) {
                copy.copy_from_slice(&label.encode());
            }
            content
        }
    };
    Ok(Extension { kind: EXTENSION_TYPE, content, autoclear: AUTOCLEAR })
}

/// The first cluster, as far as the file goes.
fn head(path: &Path) -> Result<Vec<u8>, LabelError> {
    let file = ForeignFile::open(path, Kinds::Files).map_err(EditError::from)?;
    let mut head = vec![0; CLUSTER_MAX];
    let read = file.read_at(0, &mut head)?;
    head.truncate(read);
    let bits = head
        .get(20..24)
        .and_then(|bytes| bytes.first_chunk())
        .map_or(0, |bytes| u32::from_be_bytes(*bytes));
    if let Some(cluster) = 1_usize.checked_shl(bits) {
        head.truncate(cluster);
    }
    Ok(head)
}

fn apply(file: &EditedFile, edit: &Edit) -> Result<(), LabelError> {
    let Edit::InPlace(steps) = edit else { unreachable!("a header is changed in place") };
    for step in steps {
        match step {
            EditStep::Write { at, bytes } => file.write_at(*at, bytes)?,
            EditStep::Sync => file.sync()?,
        }
    }
    Ok(())
}
