//! Marks: instants with a name.

use units::{BranchId, ClientId, Timestamp, VolumeId};

use crate::{
    error::CatalogueError,
    name::{MarkName, Note},
    record::CatalogueRecord,
    state::{Catalogue, Mark, MarkId, When},
};

/// What a new mark says.
#[derive(Clone, Debug)]
pub struct NewMark {
    /// In which branch.
    pub branch: BranchId,
    /// At which place.
    pub at: When,
    /// Its name; a mark that has it already stays, as an earlier one of that name.
    pub name: MarkName,
    /// When the rule may take it; `None` = stays until removed.
    pub keep_until: Option<Timestamp>,
    /// Cannot be removed until unpinned.
    pub pinned: bool,
    /// Who makes it.
    pub made_by: ClientId,
    /// A line for people.
    pub note: Option<Note>,
}

impl Catalogue {
    /// A mark of an instant.
    pub fn plan_mark(
        &self,
        new: NewMark,
        now: Timestamp,
    ) -> Result<(MarkId, Vec<CatalogueRecord>), CatalogueError> {
        let NewMark { branch, at, name, keep_until, pinned, made_by, note } = new;
        let volume = self.live_volume(self.some_branch(branch)?.volume)?.id;
        let (id, made) = (MarkId(self.next.mark), now);
        let mark = Mark { id, volume, branch, at, name, keep_until, pinned, made_by, made, note };
        Ok((id, vec![CatalogueRecord::Mark(mark)]))
    }

    /// The mark goes; its instant then ages as others do.
    pub fn plan_unmark(&self, mark: MarkId) -> Result<Vec<CatalogueRecord>, CatalogueError> {
        let mark = self.live_mark(mark)?;
        if mark.pinned {
            let volume = self.some_volume(mark.volume)?.name.clone();
            return Err(CatalogueError::PinnedMarks { volume, marks: vec![mark.name.clone()] });
        }
        Ok(vec![CatalogueRecord::MarkGone(mark.id)])
    }

    /// Protects a mark from being removed, or no longer.
    pub fn plan_pin(
        &self,
        mark: MarkId,
        pinned: bool,
    ) -> Result<Vec<CatalogueRecord>, CatalogueError> {
        let mark = self.live_mark(mark)?;
        if mark.pinned == pinned {
            return Ok(Vec::new());
        }
        Ok(vec![CatalogueRecord::Mark(Mark { pinned, ..mark.clone() })])
    }

    /// The mark of that name made last, or `earlier` before it.
    pub fn find_mark(&self, volume: VolumeId, name: &str, earlier: u32) -> Option<&Mark> {
        let mut named = self.marks(volume).rev().filter(|mark| mark.name.as_str() == name);
        named.nth(usize::try_from(earlier).ok()?)
    }

    fn live_mark(&self, id: MarkId) -> Result<&Mark, CatalogueError> {
        let mark = self.marks.get(&id).ok_or(CatalogueError::MarkGone(id))?;
        self.live_volume(mark.volume)?;
        Ok(mark)
    }
}
