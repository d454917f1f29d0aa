//! Mending a link between an image and its parent: ways that were found, and their carrying out.
//!
//! ```text
//! Case (child, records) ─▶ look ─▶ Trouble ─┬▶ candidates ─▶ relink ┐
//!                                           ├▶ accept ──────────────┤ the child's few bytes, in place
//!                                           ├▶ absorb ──────────────┘ or a whole file beside it
//!                                           └▶ salvage ─▶ a new file
//! ```
//!
//! - [`search`]: images that may stand in the parent's place, each with what proves it.
//! - [`mend`]: what is done with one of them, or with the parent that is there.
//!
//! Never a blind relink: without a proof (bytes, identifiers, the very file) a reason is asked for.
//! Nothing is written but the child that was named, and new files; a parent is opened for reading only.
//! A child that somebody uses is left alone. What was written is opened again and looked at.

#![forbid(unsafe_code)]

pub mod mend;
pub mod search;

pub use mend::{Absorbed, Mended};
pub use search::{Candidate, Proof};

use std::path::{Path, PathBuf};

use chain_guard::{Book, Depth, LinkReport, Status, Survey, View};
use image_files::{Disk, OpenDisk, Watch};
use images::{Facts, Purpose};
use lineage::{Child, FileMark, Link, Native, Outcome};

/// Why a link was not mended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The guard's, or that of an image or file.
    #[error(transparent)]
    Guard(#[from] chain_guard::Error),
    /// The image stands on no other.
    #[error("{} stands on no other image", .0.display())]
    Alone(PathBuf),
    /// It cannot be done so; the text says why and what else.
    #[error("{}: {why}", path.display())]
    Unsuitable {
        /// The image.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// There is no proof, and no reason was given.
    #[error("{}: {why}", path.display())]
    Unproven {
        /// The image.
        path: PathBuf,
        /// What is not proven.
        why: String,
    },
    /// What was written is not what was wanted. It never happens, and is looked for.
    #[error("{} was changed, and {why}", path.display())]
    Mistaken {
        /// The image.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

impl From<image_files::Error> for Error {
    fn from(error: image_files::Error) -> Self {
        Self::Guard(error.into())
    }
}

impl From<chain_guard::BookError> for Error {
    fn from(error: chain_guard::BookError) -> Self {
        Self::Guard(error.into())
    }
}

/// A child, by itself.
pub struct Case {
    /// Its path, as the user named it.
    pub path: PathBuf,
    /// How images are opened.
    pub how: OpenDisk,
    /// What it says of itself.
    pub facts: Facts,
    /// Its file.
    pub mark: FileMark,
    /// What it holds.
    pub child: Child,
    /// What was sealed of its parent.
    pub link: Option<Link>,
}

/// What is wrong with a child's link.
#[derive(Debug)]
pub enum Trouble {
    /// Nothing; the report says how that is known.
    Nothing(Box<LinkReport>),
    /// The parent is there, and its bytes are proven to be what the child sees; identifiers differ,
    /// so programs of the format may refuse it.
    Marked(Box<LinkReport>),
    /// The parent is there, and is not what it was, or nobody can tell.
    Differs(Box<LinkReport>),
    /// The parent is not found, or cannot be opened.
    Lost {
        /// As the child names it; empty where it does not.
        stated: String,
        /// Why.
        why: String,
    },
}

impl Case {
    /// Opens the child alone, and looks for its record.
    pub fn open(path: &Path, how: &OpenDisk, book: Option<&Book>) -> Result<Self, Error> {
        // As everybody else finds the parent, who searches no other folders.
        let how = OpenDisk {
            purpose: Purpose::Inspect,
            snapshot: None,
            search: Vec::new(),
            ..how.clone()
        };
        let mut disk = Disk::open(path, &how)?;
        let facts = disk.chain().layers()[0].facts().clone();
        if facts.parent.is_none() {
            return Err(Error::Alone(path.to_owned()));
        }
        let stat = disk.files().stat(disk.chain().layers()[0].file())?;
        let mark = FileMark { device: stat.device, inode: stat.inode, born_ns: stat.born_ns };
        let link = match book {
            Some(book) => book.by_file(&mark)?.filter(|link| link.child.format == facts.format),
            None => None,
        };
        let (mut map, mut place) = (Vec::new(), 0);
        while place < facts.virtual_size {
            let part = disk.layer_map(0, place..facts.virtual_size)?;
            place = part.last().map_or(facts.virtual_size, images::Extent::end);
            map.extend(part);
        }
        let child = Child::of_map(facts.virtual_size, &map);
        Ok(Self { path: path.to_owned(), how, facts, mark, child, link })
    }

    /// Looks at the link as it is.
    pub fn look(&self, book: Option<&Book>, watch: &mut Watch<'_>) -> Result<Trouble, Error> {
        let view = match View::open(&self.path, &self.how) {
            Ok(view) => view,
            Err(chain_guard::Error::Image(image_files::Error::Fault { fault, path })) => {
                let is_of_chain = matches!(
                    fault.class.trouble(),
                    images::Trouble::NotFound | images::Trouble::Forbidden
                );
                if fault.layer > 0 && is_of_chain {
                    let why = format!("it stands on {}, mend that first: {fault}", path.display());
                    return Err(self.unsuitable(why));
                }
                let stated = self.facts.parent.as_ref().map(|parent| parent.stated.clone());
                let why = format!("{}: {fault}", path.display());
                return Ok(Trouble::Lost { stated: stated.unwrap_or_default(), why });
            }
            Err(error) => return Err(error.into()),
        };
        let mut survey = Survey::begin(view, book, Depth::AsNeeded)?;
        let report = survey.finish(book, watch)?.into_iter().next();
        let report = Box::new(report.ok_or_else(|| Error::Alone(self.path.clone()))?);
        let is_proven = report.conclusion.as_ref().is_some_and(|conclusion| {
            matches!(conclusion.outcome, Outcome::Same | Outcome::Beyond | Outcome::Shadowed)
        });
        Ok(match (report.status, report.native) {
            (Status::Ok, Native::Differs(_) | Native::Hint(_)) if is_proven => {
                Trouble::Marked(report)
            }
            (Status::Ok, _) => Trouble::Nothing(report),
            _ => Trouble::Differs(report),
        })
    }

    /// Other images that were sealed over the same parent, as far as the book knows: what happened to
    /// it happened to them.
    pub fn siblings(&self, book: &Book) -> Result<Vec<String>, Error> {
        let Some(link) = &self.link else { return Ok(Vec::new()) };
        let parent = |link: &Link| link.seal().witness.files.first().map(FileMark::of);
        let mut found = Vec::new();
        for name in book.links()? {
            // One that cannot be read is told by a check of its own child.
            let Ok(Some(other)) = book.link(&name) else { continue };
            let is_own = other.child.file.is(&self.mark);
            let is_over = parent(&other).zip(parent(link)).is_some_and(|(one, two)| one.is(&two));
            if is_over && !is_own {
                found.push(other.child.path);
            }
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// The child, opened alone.
    fn alone(&self) -> Result<Disk, Error> {
        Ok(Disk::open(&self.path, &self.how)?)
    }

    fn unsuitable(&self, why: impl Into<String>) -> Error {
        Error::Unsuitable { path: self.path.clone(), why: why.into() }
    }
}
