//! What is done to an image's own files: writers kept out of its parents, another parent written into
//! it, another file put in its place.
//!
//! Only the file that the user named is ever changed. It is taken as QEMU takes what it writes, so a
//! guest that runs on it is not disturbed, and is the very file that was looked at.

use std::path::Path;

use images::relink::{Edit, EditStep, Relink, Relinking};
use world::real::{BarError, EditError, EditedFile, NewFile, Refusal};

use crate::{Disk, Error};

impl Disk {
    /// Keeps programs that look at QEMU's locks from writing to all that lies below the top image,
    /// for as long as this disk is open.
    pub fn bar_parents(&self) -> Result<(), Error> {
        for layer in &self.chain.layers()[1..] {
            let others = layer.facts().files.iter().map(|other| other.file);
            for file in std::iter::once(layer.file()).chain(others) {
                self.files.bar(file)?;
            }
        }
        Ok(())
    }

    /// The changes that lead the top image to another parent; nothing is written.
    pub fn relink(&self, relink: Relink) -> Result<Edit, Error> {
        let top = &self.chain.layers()[0];
        let (file, format) = (top.file(), top.facts().format);
        let len = self.files.length_bytes(file);
        Ok(self.files.read_for(Relinking::new(file, len, format, relink))??)
    }

    /// Carries changes of the top image out, its file being at `path`. Fails, changing nothing, if
    /// another file is there now, or somebody uses it.
    pub fn carry_out(&self, path: &Path, edit: &Edit) -> Result<(), Error> {
        let file = self.chain.layers()[0].file();
        let edited = EditedFile::open(path).map_err(|error| edit_error(error, path))?;
        let is_same = edited.inode() == self.files.inode(file)
            && edited.length_bytes() == self.files.length_bytes(file);
        if !is_same {
            return Err(Error::InUse { path: path.to_owned(), why: "it is being changed" });
        }
        let cannot = |doing| move |cause| Error::Io { doing, path: path.to_owned(), cause };
        match edit {
            Edit::InPlace(steps) => {
                for step in steps {
                    match step {
                        EditStep::Write { at, bytes } => {
                            edited.write_at(*at, bytes).map_err(cannot("write"))?;
                        }
                        EditStep::Sync => edited.sync().map_err(cannot("flush"))?,
                    }
                }
                Ok(())
            }
            Edit::Whole(bytes) => {
                let new = NewFile::beside(path).map_err(cannot("make a file beside"))?;
                new.write_at(0, bytes).map_err(cannot("write a file beside"))?;
                new.take_owner_of(&edited).map_err(cannot("take owner and mode of"))?;
                new.place(true).map_err(cannot("replace"))
            }
        }
    }
}

/// Why a file was not opened for changing it.
pub fn edit_error(error: EditError, path: &Path) -> Error {
    let path = path.to_owned();
    match error {
        EditError::InUse(error) => bar_error(error, &path),
        EditError::Refused(Refusal::Missing) => Error::Missing(path),
        EditError::Refused(Refusal::Forbidden(why)) => Error::Unfit { path, why },
        EditError::Refused(Refusal::Io(cause)) => {
            Error::Io { doing: "open for writing", path, cause }
        }
    }
}

/// Why a lock was not taken.
pub(crate) fn bar_error(error: BarError, path: &Path) -> Error {
    let path = path.to_owned();
    match error {
        BarError::Written => Error::InUse { path, why: "a program has it open for writing" },
        BarError::Held => Error::InUse { path, why: "a program has it open" },
        BarError::Io(cause) => Error::Io { doing: "lock", path, cause },
    }
}
