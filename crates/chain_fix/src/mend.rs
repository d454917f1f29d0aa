//! What is done with a child: led to a parent that was found, told to take the one that is there,
//! made independent, or saved as far as it can be read.

use std::path::{Path, PathBuf};

use chain_guard::{Book, Depth, LinkReport, SealLevel, SealOptions, Status, Survey, View};
use image_files::{Algorithm, Disk, OpenDisk, Salvaged, Target, Watch};
use images::{
    Format, Purpose,
    layout::ParentPlan,
    relink::{Edit, EditStep, Relink},
};
use lineage::Verdict;
use world::{
    Chance as _, Clock as _,
    real::{EditedFile, RealChance, RealClock},
};

use crate::{Candidate, Case, Error};

/// A child that was changed.
#[derive(Clone, Debug)]
pub struct Mended {
    /// Its parent now.
    pub parent: PathBuf,
    /// Bytes of the child that were written.
    pub written_bytes: u64,
    /// Whether its record of the parent is of now.
    pub sealed: bool,
}

/// A child that stands alone now.
#[derive(Clone, Debug)]
pub struct Absorbed {
    /// Length of its file.
    pub length_bytes: u64,
    /// BLAKE3 of what its guest sees, the same before and after.
    pub digest: String,
}

impl Case {
    /// Leads the child to another parent. `reason` is wanted where the proof does not suffice;
    /// `outside` allows a name that leads out of the child's folder.
    pub fn relink(
        &self,
        to: &Candidate,
        reason: Option<&str>,
        outside: bool,
        book: Option<&mut Book>,
        watch: &mut Watch<'_>,
    ) -> Result<Mended, Error> {
        if !to.proof.suffices() && reason.is_none() {
            let why = format!("nothing proves that {} is its parent", to.path.display());
            return Err(Error::Unproven { path: self.path.clone(), why });
        }
        let parent = ParentPlan {
            name: self.name_of(&to.path, outside)?,
            format: to.format,
            identity: to.identity,
            virtual_size: to.virtual_size,
        };
        let written_bytes = self.write(parent, !to.proof.suffices(), outside)?;
        // Looked at as everybody else will.
        let how = OpenDisk { outside: self.how.outside || outside, ..self.how.clone() };
        let view = View::open(&self.path, &how)?;
        let found = view.layers().get(1);
        if !found.is_some_and(|parent| parent.mark().is(&to.mark)) {
            let led = found.map_or("nowhere".to_owned(), |found| found.path.display().to_string());
            let why = format!("leads to {led}, not to {}", to.path.display());
            return Err(Error::Mistaken { path: self.path.clone(), why });
        }
        let sealed = match book {
            Some(book) if reason.is_some() => seal(view, reason, book, watch).map(|()| true)?,
            Some(book) => renew(view, book, watch)?,
            None => false,
        };
        Ok(Mended { parent: to.path.clone(), written_bytes, sealed })
    }

    /// Takes the parent that is there for the right one: its identifiers go into the child, and its
    /// bytes are sealed as they are. `report` is what [`Case::look`] found; without a proof that the
    /// child sees the same, a reason is wanted and kept.
    pub fn accept(
        &self,
        report: &LinkReport,
        reason: Option<&str>,
        book: &mut Book,
        watch: &mut Watch<'_>,
    ) -> Result<Mended, Error> {
        let proven = is_proven(report);
        if !proven && reason.is_none() {
            let why = format!("nothing proves that it sees the same: {}", report.text());
            return Err(Error::Unproven { path: self.path.clone(), why });
        }
        let disk =
            Disk::open(&self.path, &OpenDisk { purpose: Purpose::Examine, ..self.how.clone() })?;
        let parent = disk.chain().layers().get(1).ok_or_else(|| Error::Alone(self.path.clone()))?;
        let facts = parent.facts();
        let path = disk.files().path(parent.file()).to_owned();
        let mut written_bytes = 0;
        // qcow2 states nothing of its parent but name and format.
        if self.facts.format != Format::Qcow2 {
            let plan = ParentPlan {
                name: parent.name().unwrap_or_default().to_owned(),
                format: facts.format,
                identity: facts.identity,
                virtual_size: facts.virtual_size,
            };
            written_bytes = self.write(plan, !proven, true)?;
        }
        drop(disk);
        let view = View::open(&self.path, &self.how)?;
        let why = reason.unwrap_or("the bytes that the child sees were proven the same");
        seal(view, Some(why), book, watch)?;
        Ok(Mended { parent: path, written_bytes, sealed: true })
    }

    /// Makes the child independent: all that its guest sees goes into a new file of the same format,
    /// which is compared with what was read before it takes the child's place.
    pub fn absorb(&self, watch: &mut Watch<'_>) -> Result<Absorbed, Error> {
        for (lost, what) in [
            (!self.facts.snapshots.is_empty(), "internal snapshots"),
            (!self.facts.bitmaps.is_empty(), "bitmaps of changed ranges"),
            (!self.facts.files.is_empty(), "parts in other files"),
        ] {
            if lost {
                let why = format!("it has {what}, which would be lost: convert it to another file");
                return Err(self.unsuitable(why));
            }
        }
        let own = real_path(&self.path)?;
        // From here on nobody else writes it.
        let held = EditedFile::open(&own).map_err(|error| image_files::edit_error(error, &own))?;
        let mut disk =
            Disk::open(&self.path, &OpenDisk { purpose: Purpose::Read, ..self.how.clone() })?;
        let name = own.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let new = own.with_file_name(format!(".{name}.{}.whole", std::process::id()));
        let made = self.make_whole(&mut disk, &name, &new, watch);
        let made = made.and_then(|made| {
            held.give_way_to(&new, &own).map_err(|cause| image_files::Error::Io {
                doing: "replace",
                path: own.clone(),
                cause,
            })?;
            Ok(made)
        });
        if made.is_err() {
            // Where it is gone already there is nothing to remove.
            let _ = world::real::remove_new(&new);
        }
        made
    }

    fn make_whole(
        &self,
        disk: &mut Disk,
        name: &str,
        new: &Path,
        watch: &mut Watch<'_>,
    ) -> Result<Absorbed, Error> {
        let format = self.facts.format;
        let form = images::Form::new(format, None).map_err(image_files::Error::from)?;
        let prepared = disk.prepare(form, name, watch)?;
        let made = disk.write(prepared, Target::Path { path: new, force: false }, watch)?;
        let before = disk.digest(&[Algorithm::Blake3], watch)?;
        let how = OpenDisk { format: Some(format), ..OpenDisk::default() };
        let mut whole = Disk::open(new, &how)?;
        let after = whole.digest(&[Algorithm::Blake3], watch)?;
        let is_alone = whole.chain().layers().len() == 1;
        if before != after || disk.virtual_size() != whole.virtual_size() || !is_alone {
            let why = "a whole copy of it has other bytes: nothing was replaced".to_owned();
            return Err(Error::Mistaken { path: self.path.clone(), why });
        }
        let digest = after.into_iter().next().map(|digest| digest.hex).unwrap_or_default();
        Ok(Absorbed { length_bytes: made.length_bytes, digest })
    }

    /// Writes what can be believed to a raw disk: with a seal, all but the ranges whose bytes are not
    /// proven; without one, what the child holds itself.
    pub fn salvage(
        &self,
        report: Option<&LinkReport>,
        out: &Path,
        force: bool,
        watch: &mut Watch<'_>,
    ) -> Result<Salvaged, Error> {
        let judged = report.and_then(|report| report.conclusion.as_ref()?.judgement.as_ref());
        if let Some(judgement) = judged {
            let mut distrust: Vec<_> = judgement
                .of(Verdict::Visible)
                .iter()
                .chain(judgement.of(Verdict::Unknown).iter())
                .collect();
            distrust.sort_unstable_by_key(|range| range.start);
            let how = OpenDisk { purpose: Purpose::Examine, ..self.how.clone() };
            let mut disk = Disk::open(&self.path, &how)?;
            let why = "the parent's bytes are not those that were sealed";
            return Ok(disk.salvage_but(&distrust, why, out, force, watch)?);
        }
        Ok(self.alone()?.salvage(out, force, watch)?)
    }

    /// Writes another parent into the child; gives the bytes that were written.
    fn write(&self, parent: ParentPlan, changes_bytes: bool, outside: bool) -> Result<u64, Error> {
        let disk = self.alone()?;
        let relink = Relink {
            parent,
            changes_bytes,
            fresh: RealChance.bytes(),
            outside,
            autoclear_known: lineage::label::AUTOCLEAR,
            now_s: u64::try_from(RealClock.wall().0 / 1_000_000_000).unwrap_or(0),
        };
        let edit = disk.relink(relink).map_err(|error| match error {
            image_files::Error::Unwritable(why) => self.unsuitable(format!(
                "{why}; it can be made independent (--absorb), or converted to another file"
            )),
            other => other.into(),
        })?;
        let written = match &edit {
            Edit::Whole(bytes) => bytes.len() as u64,
            Edit::InPlace(steps) => steps
                .iter()
                .map(|step| match step {
                    EditStep::Write { bytes, .. } => bytes.len() as u64,
                    EditStep::Sync => 0,
                })
                .sum(),
        };
        if written > 0 {
            disk.carry_out(&real_path(&self.path)?, &edit)?;
        }
        Ok(written)
    }

    /// How the child shall call a file.
    fn name_of(&self, parent: &Path, outside: bool) -> Result<String, Error> {
        let (own, parent) = (real_path(&self.path)?, real_path(parent)?);
        let folder = own.parent().unwrap_or(Path::new("/"));
        let text = |path: &Path| {
            let text = path.to_str().map(ToOwned::to_owned);
            text.ok_or_else(|| self.unsuitable("the parent's path is not UTF-8"))
        };
        if self.facts.format == Format::Vdi {
            // It has no name in the file; it is found in the child's folder by its UUIDs.
            if parent.parent() != Some(folder) {
                return Err(self.unsuitable(format!(
                    "a VDI is found in the folder of its child only: put {} there",
                    parent.display()
                )));
            }
        }
        match parent.strip_prefix(folder) {
            Ok(name) => text(name),
            Err(_) if outside => text(&parent),
            Err(_) => Err(self.unsuitable(format!(
                "{} lies outside its folder: move it there, or write its whole path (--outside)",
                parent.display()
            ))),
        }
    }
}

/// Whether the child was proven to see the same.
pub fn is_proven(report: &LinkReport) -> bool {
    report.status == Status::Ok && matches!(report.verdict(), "same" | "beyond" | "shadowed")
}

/// Seals the first link of a chain as it is now. What is wrong further down is not accepted with it.
fn seal(
    view: View,
    reason: Option<&str>,
    book: &mut Book,
    watch: &mut Watch<'_>,
) -> Result<(), Error> {
    let mut survey = Survey::begin(view, Some(book), Depth::AsNeeded)?;
    let reports = survey.finish(Some(book), watch)?;
    if let Some(below) = reports.iter().skip(1).find(|report| report.status == Status::Fault) {
        let (path, why) = (below.child.clone(), below.text());
        return Err(Error::Unproven { path, why: format!("mend this link first: {why}") });
    }
    let now_ns = RealClock.wall().0;
    let accept = reason.map(ToOwned::to_owned);
    let options = SealOptions { level: SealLevel::All, accept, now_ns };
    survey.seal(&reports, &options, book, watch)?;
    Ok(())
}

/// Renews the record of a child whose parent was proven the same under another name.
fn renew(view: View, book: &mut Book, watch: &mut Watch<'_>) -> Result<bool, Error> {
    let mut survey = Survey::begin(view, Some(book), Depth::AsNeeded)?;
    let reports = survey.finish(Some(book), watch)?;
    survey.renew(&reports, book, RealClock.wall().0)?;
    Ok(reports.first().is_some_and(|report| report.status == Status::Ok))
}

/// A path without links: what is replaced is the file, not a link to it.
fn real_path(path: &Path) -> Result<PathBuf, Error> {
    let cannot = |cause| image_files::Error::Io { doing: "find", path: path.to_owned(), cause };
    Ok(std::fs::canonicalize(path).map_err(cannot)?)
}
