//! Images that may stand in a lost parent's place, found by what proves them.
//!
//! Looked at are files of the folders that were named (the child's own where none was), not of those
//! below. Of each only the header is read, unless bytes were sealed: then all that the child needs is
//! compared, and an image with other bytes is none, whatever its name and identifiers say.

use std::path::{Path, PathBuf};

use chain_guard::{Book, View, candidate};
use image_files::{OpenDisk, Watch};
use images::{Format, Identity, Purpose};
use lineage::{FileMark, Native, Notice, Outcome, Sign};
use world::real::Folder;

use crate::{Case, Error};

/// Files that one search looks at.
const FILES_MAX: usize = 4096;

/// An image that may be the parent.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Where it is.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
    /// Its own identifiers.
    pub identity: Identity,
    /// Bytes that its guest sees.
    pub virtual_size: u64,
    /// Its file.
    pub mark: FileMark,
    /// How it is known.
    pub proof: Proof,
}

/// What makes an image the parent of a child; the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Proof {
    /// All bytes that the child needs are those that were sealed.
    Bytes,
    /// It is the file that was sealed, under another name, with the same length and times.
    File,
    /// It has the identifiers that the child states.
    Identity,
    /// It has the parent's name and nothing speaks against it: no proof.
    Name,
}

impl Proof {
    /// It in words, after "found by".
    pub const fn words(self) -> &'static str {
        match self {
            Self::Bytes => "the bytes that were sealed",
            Self::File => "its file: renamed or moved",
            Self::Identity => "the identifiers that the child states",
            Self::Name => "its name alone",
        }
    }

    /// Whether it suffices without a reason.
    pub const fn suffices(self) -> bool {
        !matches!(self, Self::Name)
    }
}

impl Case {
    /// Images in these folders that may be the parent, the best proven first.
    pub fn candidates(
        &self,
        folders: &[PathBuf],
        book: Option<&Book>,
        watch: &mut Watch<'_>,
    ) -> Result<Vec<Candidate>, Error> {
        let Some(format) = self.parent_format() else { return Ok(Vec::new()) };
        let mut found: Vec<Candidate> = Vec::new();
        for path in self.files(folders, format)? {
            let known = self.weigh(&path, (format, false), book, watch)?;
            let is_new = |new: &Candidate| found.iter().all(|other| !other.mark.is(&new.mark));
            found.extend(known.filter(is_new));
        }
        found.sort_by_key(|candidate| candidate.proof);
        Ok(found)
    }

    /// The file that the user names as the parent, if nothing speaks against it.
    pub fn candidate(
        &self,
        path: &Path,
        book: Option<&Book>,
        watch: &mut Watch<'_>,
    ) -> Result<Option<Candidate>, Error> {
        match self.parent_format() {
            Some(format) => self.weigh(path, (format, true), book, watch),
            None => Ok(None),
        }
    }

    /// The parent's format: as it was sealed, as the child states it, as the user told.
    fn parent_format(&self) -> Option<Format> {
        let sealed = self.link.as_ref().map(|link| link.seal().witness.format);
        let stated = self.facts.parent.as_ref().and_then(|parent| parent.format);
        sealed.or(stated).or(self.how.parent_format)
    }

    /// The last step of the parent's name, as the child states it or as it was when it was sealed.
    fn names(&self) -> Vec<String> {
        let stated = self.facts.parent.as_ref().map(|parent| parent.stated.as_str());
        let sealed = self.link.as_ref().map(|link| link.parent_path.as_str());
        let last = |name: &str| name.rsplit(['/', '\\']).next().unwrap_or(name).to_owned();
        stated.into_iter().chain(sealed).map(last).filter(|name| !name.is_empty()).collect()
    }

    fn files(&self, folders: &[PathBuf], format: Format) -> Result<Vec<PathBuf>, Error> {
        let own = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let own = vec![own.unwrap_or(Path::new(".")).to_owned()];
        let mut paths = Vec::new();
        for folder in if folders.is_empty() { &own } else { folders } {
            let cannot = |cause| image_files::Error::Io {
                doing: "look through",
                path: folder.clone(),
                cause,
            };
            let listed = Folder::open(folder).map_err(cannot)?;
            let mut names = self.names();
            for suffix in suffixes(format) {
                names.extend(listed.names(suffix).map_err(cannot)?);
            }
            paths.extend(names.into_iter().map(|name| folder.join(name)));
        }
        paths.sort_unstable();
        paths.dedup();
        paths.truncate(FILES_MAX);
        Ok(paths)
    }

    /// What makes a file the parent, if anything does. One that cannot be read is not.
    fn weigh(
        &self,
        path: &Path,
        (format, is_told): (Format, bool),
        book: Option<&Book>,
        watch: &mut Watch<'_>,
    ) -> Result<Option<Candidate>, Error> {
        let purpose = Purpose::Examine;
        let how = OpenDisk { format: Some(format), purpose, ..self.how.clone() };
        let Ok(view) = View::open(path, &how) else { return Ok(None) };
        // Neither the child itself nor what stands on it.
        if view.layers().iter().any(|layer| layer.mark().is(&self.mark)) {
            return Ok(None);
        }
        let top = &view.layers()[0];
        let (facts, mark) = (top.facts.clone(), top.mark());
        let native = Native::between(&self.facts, &facts);
        let notice = self.link.as_ref().map(|link| Notice::between(link.seal(), &top.witness));
        let is_named = is_told || self.names().iter().any(|name| path.ends_with(name));
        let proof = match (&self.link, book) {
            (Some(link), Some(book)) if link.tree.is_some() => {
                let judged = candidate::judge(view, link, &self.child, book, watch);
                match judged {
                    Ok(judged) if is_same(judged.outcome) => Some(Proof::Bytes),
                    Err(chain_guard::Error::Image(image_files::Error::Interrupted)) => {
                        return Err(image_files::Error::Interrupted.into());
                    }
                    // Other bytes, or bytes that cannot be read or told.
                    Ok(_) | Err(_) => None,
                }
            }
            _ => {
                // A rename leaves all as it was but the inode's own time.
                let is_file = notice
                    .is_some_and(|notice| notice.signs().iter().all(|sign| *sign == Sign::Changed));
                match native {
                    Native::Differs(_) => None,
                    _ if is_file => Some(Proof::File),
                    Native::Agrees | Native::Hint(_) => Some(Proof::Identity),
                    Native::Untold if is_named => Some(Proof::Name),
                    Native::Untold => None,
                }
            }
        };
        Ok(proof.map(|proof| Candidate {
            path: path.to_owned(),
            format,
            identity: facts.identity,
            virtual_size: facts.virtual_size,
            mark,
            proof,
        }))
    }
}

fn is_same(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Same | Outcome::Beyond | Outcome::Shadowed)
}

/// How files of a format are called.
const fn suffixes(format: Format) -> &'static [&'static str] {
    match format {
        Format::Raw => &["raw", "img", "dd", "bin"],
        Format::Qcow2 => &["qcow2", "img", "qcow", "snap"],
        Format::Vhd => &["vhd", "avhd", "vpc"],
        Format::Vhdx => &["vhdx", "avhdx"],
        Format::Vmdk => &["vmdk"],
        Format::Vdi => &["vdi"],
    }
}
