//! New records for each link of a chain.

use image_files::Watch;
use lineage::{Link, Share, Tree};

use crate::{Book, Error, LinkReport, Status, Survey, read::edges, report::SealFacts};

/// How much of a parent is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SealLevel {
    /// Signs of files and headers: nothing is read, and nothing is proven later.
    Header,
    /// A digest of the bytes that the child needs.
    Needed,
    /// A digest of all bytes.
    All,
}

/// How a chain is sealed.
#[derive(Clone, Debug)]
pub struct SealOptions {
    /// How much.
    pub level: SealLevel,
    /// Why a parent that is not what it was is sealed as it is.
    pub accept: Option<String>,
    /// Now, in ns since 1970-01-01 UTC.
    pub now_ns: i64,
}

/// A link that was sealed.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// The record.
    pub link: Link,
    /// How much of the parent's disk was digested.
    pub share: Option<Share>,
}

impl Survey {
    /// Bytes that [`Survey::seal`] will go through, about.
    pub fn total_to_seal(&self, level: SealLevel) -> u64 {
        if level == SealLevel::Header {
            return 0;
        }
        (1..self.view().layers().len()).map(|layer| self.reading.size(layer)).sum()
    }

    /// Seals every link of the chain, the top first. `reports` are those of [`Survey::finish`]: a link
    /// that is not as it was is sealed only with a reason.
    pub fn seal(
        &mut self,
        reports: &[LinkReport],
        options: &SealOptions,
        book: &mut Book,
        watch: &mut Watch<'_>,
    ) -> Result<Vec<Sealed>, Error> {
        if let Some(bad) = reports.iter().find(|report| is_refused(report))
            && options.accept.is_none()
        {
            return Err(Error::Differs {
                child: bad.child.clone(),
                parent: bad.parent.clone(),
                why: bad.text(),
            });
        }
        if self.view().links() == 0 {
            return Err(Error::Alone(self.view().layers()[0].path.clone()));
        }
        let _kept_out = self.view().bar_writers()?;
        let mut sealed = Vec::new();
        // From below, so that each tree serves the one above.
        for layer in (0..self.view().links()).rev() {
            let reason =
                reports.get(layer).map_or_else(String::new, |report| reason(report, options));
            sealed.push(self.seal_link(layer, reason, options, book, watch)?);
        }
        if self.reading.is_unsteady() {
            return Err(Error::Written(self.view().layers()[0].path.clone()));
        }
        for Sealed { link, .. } in &mut sealed {
            book.put_link(link)?;
        }
        book.sweep()?;
        sealed.reverse();
        Ok(sealed)
    }

    pub(crate) fn seal_link(
        &mut self,
        layer: usize,
        reason: String,
        options: &SealOptions,
        book: &mut Book,
        watch: &mut Watch<'_>,
    ) -> Result<Sealed, Error> {
        let child = self.mark(layer)?;
        let parent = layer + 1;
        let size = self.reading.size(parent);
        let (mut tree, mut partly): (Option<Tree>, Option<Tree>) = (None, None);
        match options.level {
            SealLevel::Header => {}
            SealLevel::Needed => {
                let mask = self.reading.child(layer)?.mask();
                tree = Some(self.reading.masked(parent, Tree::needed(size, mask), watch)?);
            }
            SealLevel::All => {
                tree = Some(self.reading.whole(parent, watch)?);
                let mask = self.reading.child(layer)?.mask();
                let nodes = edges(size, &mask);
                if !nodes.is_empty() {
                    let blank = Tree::needed(size, mask);
                    partly = Some(self.reading.some(parent, blank, &nodes, watch)?);
                }
            }
        }
        if let Some(error) = self.reading.any_damage(parent) {
            return Err(error.into());
        }
        let content = tree.as_ref().map(Tree::summary);
        let witnesses = self.view().layers()[parent..].iter().map(|below| below.witness.clone());
        let seals = Link::seals(options.now_ns, witnesses, content).map_err(|cause| {
            Error::Unsealable { parent: self.view().layers()[parent].path.clone(), cause }
        })?;
        let share = tree.as_ref().map(Tree::share);
        let tree = tree.map(|tree| book.put_tree(&tree)).transpose()?;
        let edges = partly.map(|tree| book.put_tree(&tree)).transpose()?;
        let parent_path = self.view().layers()[parent].path.to_string_lossy().into_owned();
        let link = Link { sequence: 0, child, parent_path, seals, tree, edges, reason };
        Ok(Sealed { link, share })
    }
}

/// Whether a link must not be sealed as it is without a word.
fn is_refused(report: &LinkReport) -> bool {
    match (&report.seal, report.status) {
        // What nobody sealed is what sealing is for; a copy of an empty child is one of those.
        (SealFacts::None | SealFacts::Alike, status) => status == Status::Fault,
        (SealFacts::Unreadable(_), _) => true,
        (SealFacts::Found { .. } | SealFacts::Label, status) => status != Status::Ok,
    }
}

/// The reason that goes into a record: of this acceptance, or of the last.
fn reason(report: &LinkReport, options: &SealOptions) -> String {
    match (&options.accept, &report.seal) {
        (Some(reason), _) if is_refused(report) => reason.clone(),
        (_, SealFacts::Found { reason, .. }) => reason.clone(),
        _ => String::new(),
    }
}
