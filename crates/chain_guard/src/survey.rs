//! Each link of a chain against what was sealed of it.
//!
//! Begun, a survey has looked at signs only, and knows how much there is to read; finished, it has
//! read that. The lowest link comes first, so that what was read of it serves the links above.

use image_files::Watch;
use lineage::{
    Changes, ChildMark, Conclusion, FileMark, Label, Link, Native, Notice, Outcome, Ranges,
    Summary, Tree, digest::NODE_BYTES,
};

use crate::{
    Book, BookError, Error, LinkReport, View,
    book::Found,
    read::Reading,
    report::{SealFacts, status_of},
    seal::{SealLevel, SealOptions},
};

/// How far to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Depth {
    /// At files and headers only.
    Signs,
    /// At bytes where a sign differs.
    AsNeeded,
    /// At all bytes that were sealed.
    Always,
}

/// The links of a chain, being compared.
pub struct Survey {
    pub(crate) reading: Reading,
    depth: Depth,
    looks: Vec<Look>,
}

/// What is known of a link before anything is read.
struct Look {
    native: Native,
    kept: Result<Found, BookError>,
    /// What the child carries in itself, where there is no record.
    label: Option<Summary>,
}

impl Survey {
    /// Looks for the records of each link, and at the signs.
    pub fn begin(view: View, book: Option<&Book>, depth: Depth) -> Result<Self, Error> {
        let mut reading = Reading::new(view);
        let mut looks = Vec::new();
        for layer in 0..reading.view.links() {
            let [child, parent] = [layer, layer + 1].map(|at| &reading.view.layers()[at]);
            let native = Native::between(&child.facts, &parent.facts);
            let kept = match book {
                Some(book) => look_up(&mut reading, book, layer)?,
                None => Ok(Found::None),
            };
            let label = of_label(&reading.view.layers()[layer].facts);
            let label = label.filter(|_| matches!(kept, Ok(Found::None)));
            looks.push(Look { native, kept, label });
        }
        Ok(Self { reading, depth, looks })
    }

    /// The chain.
    pub fn view(&self) -> &View {
        &self.reading.view
    }

    /// Bytes that [`Survey::finish`] will go through, about.
    pub fn total_bytes(&self) -> u64 {
        let reads = |layer: &usize| {
            let links = self.links(*layer);
            links.iter().any(|link| self.reads(link, &self.notice(link, *layer)))
                || self.reads_label(*layer)
        };
        (0..self.looks.len()).filter(reads).map(|layer| self.reading.size(layer + 1)).sum()
    }

    /// Reads what is to be read, and judges. Reports of the links, that of the top first.
    pub fn finish(
        &mut self,
        book: Option<&Book>,
        watch: &mut Watch<'_>,
    ) -> Result<Vec<LinkReport>, Error> {
        let mut reports = Vec::new();
        for layer in (0..self.looks.len()).rev() {
            reports.push(self.report(layer, book, watch)?);
        }
        reports.reverse();
        Ok(reports)
    }

    /// Records of a link, the likeliest first.
    fn links(&self, layer: usize) -> Vec<Link> {
        match &self.looks[layer].kept {
            Ok(Found::ByFile(link)) => vec![(**link).clone()],
            Ok(Found::ByPrint(links)) => links.clone(),
            Ok(Found::None) | Err(_) => Vec::new(),
        }
    }

    /// What file system and headers show against a record.
    fn notice(&self, link: &Link, layer: usize) -> Notice {
        let layers = self.reading.view.layers();
        let mut notice = Notice::between(link.seal(), &layers[layer + 1].witness);
        let below: Vec<_> = layers[layer + 2..].iter().map(|below| &below.witness).collect();
        notice.see_below(&link.seals[1..], below.into_iter());
        notice
    }

    fn reads(&self, link: &Link, notice: &Notice) -> bool {
        link.tree.is_some()
            && match self.depth {
                Depth::Signs => false,
                Depth::AsNeeded => !notice.is_quiet(),
                Depth::Always => true,
            }
    }

    /// A label has no signs of files: its digest is asked at once.
    fn reads_label(&self, layer: usize) -> bool {
        self.looks[layer].label.is_some() && self.depth != Depth::Signs
    }

    fn report(
        &mut self,
        layer: usize,
        book: Option<&Book>,
        watch: &mut Watch<'_>,
    ) -> Result<LinkReport, Error> {
        let mut seal = match &self.looks[layer].kept {
            Err(error) => SealFacts::Unreadable(error.to_string()),
            Ok(_) => SealFacts::None,
        };
        let by_file = matches!(self.looks[layer].kept, Ok(Found::ByFile(_)));
        let mut best: Option<(Conclusion, Ranges)> = None;
        for link in self.links(layer) {
            let notice = self.notice(&link, layer);
            let read = if self.reads(&link, &notice) {
                match self.compare(&link, layer, book, watch) {
                    Err(Error::Book(error)) => {
                        seal = SealFacts::Unreadable(error.to_string());
                        continue;
                    }
                    other => Some(other?),
                }
            } else {
                None
            };
            let (changes, share) = read.unzip();
            let child = self.reading.child(layer);
            let judgement = match &changes {
                Some(changes) => Some(changes.judge(&child?)),
                None => None,
            };
            let unknown = judgement.as_ref().map(|found| found.of(lineage::Verdict::Unknown));
            let conclusion = Conclusion::new(notice, judgement);
            let fits = matches!(conclusion.outcome, Outcome::Same | Outcome::Quiet);
            if !fits && !by_file && !link.child.print.telling {
                // All children that hold nothing look alike: this record may be of another one.
                seal = SealFacts::Alike;
                continue;
            }
            if best.is_none() || fits {
                seal = SealFacts::Found {
                    made_ns: link.seal().made_ns,
                    by_file,
                    scope: link.seal().content.map(|content| content.scope),
                    share,
                    reason: link.reason.clone(),
                };
                best = Some((conclusion, unknown.unwrap_or_default()));
            }
            if fits {
                break;
            }
        }
        if let Some(sealed) = self.looks[layer].label.filter(|_| self.reads_label(layer)) {
            seal = SealFacts::Label;
            best = Some((self.by_label(sealed, layer, watch)?, Ranges::new()));
        }
        let native = self.looks[layer].native;
        let (conclusion, unknown) = best.unzip();
        let damage = unknown.and_then(|unknown| self.reading.damage_in(layer + 1, &unknown));
        let unsteady = self.reading.is_unsteady();
        let status = status_of(&seal, native, conclusion.as_ref(), damage.is_some() || unsteady);
        let layers = self.reading.view.layers();
        Ok(LinkReport {
            layer,
            child: layers[layer].path.clone(),
            parent: layers[layer + 1].path.clone(),
            status,
            seal,
            native,
            conclusion,
            damage,
            unsteady,
        })
    }

    /// What the digest that a child carries says: that nothing changed, or that something did.
    fn by_label(
        &mut self,
        sealed: Summary,
        layer: usize,
        watch: &mut Watch<'_>,
    ) -> Result<Conclusion, Error> {
        let now = self.reading.whole(layer + 1, watch)?;
        let holds_nothing = self.reading.child(layer)?.held().is_empty();
        let outcome = match now.summary() {
            now if now == sealed => Outcome::Same,
            // Where it changed nobody knows: only a child that holds nothing sees all of it.
            now if holds_nothing && now.cover == sealed.cover && now.size == sealed.size => {
                Outcome::Visible
            }
            _ => Outcome::Unknown,
        };
        Ok(Conclusion { outcome, notice: Notice::default(), judgement: None })
    }

    /// Which bytes of the parent's disk are not what they were, and how much of it was sealed.
    fn compare(
        &mut self,
        link: &Link,
        layer: usize,
        book: Option<&Book>,
        watch: &mut Watch<'_>,
    ) -> Result<(Changes, lineage::Share), Error> {
        let book = book.expect("a record comes from a book");
        let sealed = book.tree_of(link)?.expect("asked for where there is a tree");
        let parent = layer + 1;
        let now = if sealed.mask().is_empty() {
            self.reading.whole(parent, watch)?
        } else {
            let blank = sealed.again(self.reading.size(parent));
            self.reading.masked(parent, blank, watch)?
        };
        let share = sealed.share();
        let mut changes = Changes::between(&sealed, &now);
        if let Some(edges) = &link.edges {
            self.sharpen(&mut changes, &book.tree(edges)?, parent, watch)?;
        }
        Ok((changes, share))
    }

    /// Of nodes that differ and that the child held in part: which part it is.
    fn sharpen(
        &mut self,
        changes: &mut Changes,
        sealed: &Tree,
        parent: usize,
        watch: &mut Watch<'_>,
    ) -> Result<(), Error> {
        let blank = sealed.again(self.reading.size(parent));
        let nodes: Ranges = changes
            .to_refine()
            .map(|run| run.start / NODE_BYTES..run.end.div_ceil(NODE_BYTES))
            .collect();
        let nodes: Ranges = nodes.both(sealed.known()).within(0..blank.nodes()).collect();
        let now = self.reading.some(parent, blank, &nodes, watch)?;
        changes.sharpen(sealed, &now);
        Ok(())
    }

    /// Writes records anew of links whose bytes were proven the same while signs changed: next time
    /// nothing need be read. Also for a copy of a child, which has no record of its own yet.
    pub fn renew(
        &mut self,
        reports: &[LinkReport],
        book: &mut Book,
        now_ns: i64,
    ) -> Result<usize, Error> {
        let mut renewed = 0;
        for report in reports {
            if !report.is_to_renew() {
                continue;
            }
            let SealFacts::Found { made_ns, .. } = report.seal else {
                // A label that was proven: from here on the signs of files are known, too.
                let level = SealLevel::All;
                let options = SealOptions { level, accept: None, now_ns };
                let mut silent = |_| ();
                let mut watch = Watch { progress: &mut silent, stopped: &|| false };
                let layer = report.layer;
                let mut sealed =
                    self.seal_link(layer, String::new(), &options, book, &mut watch)?;
                book.put_link(&mut sealed.link)?;
                renewed += 1;
                continue;
            };
            let Some(old) =
                self.links(report.layer).into_iter().find(|link| link.seal().made_ns == made_ns)
            else {
                continue;
            };
            // What was not read now is known good since it was sealed, and no later.
            let is_proven = !report.signs().is_empty();
            let good_ns = if is_proven { now_ns } else { made_ns };
            let Some(mut link) = self.record(report.layer, &old, good_ns)? else { continue };
            book.put_link(&mut link)?;
            renewed += 1;
        }
        if renewed > 0 {
            book.sweep()?;
        }
        Ok(renewed)
    }

    /// A record with the old digests and reason, and the signs of now. `None` where the digests are
    /// of a disk of another size.
    fn record(&mut self, layer: usize, old: &Link, good_ns: i64) -> Result<Option<Link>, Error> {
        let child = self.mark(layer)?;
        let layers = self.reading.view.layers();
        let witnesses = layers[layer + 1..].iter().map(|below| below.witness.clone());
        let Ok(seals) = Link::seals(good_ns, witnesses, old.seal().content) else {
            return Ok(None);
        };
        Ok(Some(Link {
            child,
            parent_path: layers[layer + 1].path.to_string_lossy().into_owned(),
            seals,
            ..old.clone()
        }))
    }

    /// By what a child of the chain is known again.
    pub(crate) fn mark(&mut self, layer: usize) -> Result<ChildMark, Error> {
        let print = self.reading.print(layer)?;
        let view = &self.reading.view.layers()[layer];
        Ok(ChildMark {
            path: view.path.to_string_lossy().into_owned(),
            format: view.facts.format,
            size: view.facts.virtual_size,
            file: view.mark(),
            print,
        })
    }
}

/// What a child carries in itself of its parent's bytes.
fn of_label(facts: &images::Facts) -> Option<Summary> {
    Label::in_qcow2(facts).and_then(|(label, _)| label.parent?.content)
}

/// The records of a child, by its file or else by what it holds.
fn look_up(
    reading: &mut Reading,
    book: &Book,
    layer: usize,
) -> Result<Result<Found, BookError>, Error> {
    let child = &reading.view.layers()[layer];
    let (mark, format): (FileMark, _) = (child.mark(), child.facts.format);
    match book.by_file(&mark) {
        // Another format: the file was written over by another image.
        Ok(Some(link)) if link.child.format == format => Ok(Ok(Found::ByFile(Box::new(link)))),
        Ok(_) => {
            if book.links().map_or(true, |links| links.is_empty()) {
                return Ok(Ok(Found::None));
            }
            let print = reading.print(layer)?;
            Ok(book
                .by_print(&print)
                .map(|links| if links.is_empty() { Found::None } else { Found::ByPrint(links) }))
        }
        Err(error) => Ok(Err(error)),
    }
}
