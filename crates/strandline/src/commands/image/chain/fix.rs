//! `image chain fix`: mends the link of an image to its parent, or proposes how.
//!
//! What would be done is said first, and done after a yes (`--yes` where nobody can be asked, else
//! exit 6). Of the images that exist only the one named is ever written.

use super::{book_failure, book_folder, chain_failure, how};
use crate::{
    cli::ChainFixArgs,
    commands::{
        image::{
            INTERRUPTED, failure, no_pipe,
            salvage::{bad_json, say_bad},
            watched,
        },
        many,
    },
    context::Context,
    out::{Cell, Stop, Table},
};
use api::{Failure, Kind, amounts::size_text, codes};
use chain_fix::{Candidate, Case, Error, Mended, Trouble, mend::is_proven};
use chain_guard::{Book, LinkReport};
use image_files::{Watch, write_list};
use serde_json::json;
use std::path::{Path, PathBuf};

pub(super) fn run(args: &ChainFixArgs, context: &mut Context<'_>) -> Result<u8, Stop> {
    let image = args.image.as_path();
    no_pipe(image)?;
    let folder = book_folder(&args.open, context);
    let book = Book::open(&folder).map_err(|error| book_failure(&error, &folder))?;
    let case = Case::open(image, &how(&args.open), book.as_ref())
        .map_err(|error| told(error, image, &folder))?;
    let fixing = Fixing { args, case, folder, book };
    let Some(trouble) = fixing.look(context)? else { return Ok(INTERRUPTED) };
    let Some(found) = fixing.search(&trouble, context)? else { return Ok(INTERRUPTED) };
    let way = match fixing.way(&trouble, &found) {
        Ok(way) => way,
        Err(failure) => {
            fixing.tell(&trouble, &found, context)?;
            return Err(failure.into());
        }
    };
    let Some(way) = way else {
        let text = format!("{} stands on what it was made over: nothing to mend", image.display());
        context.out.plan(&text)?;
        return Ok(0);
    };
    if !context.out.json {
        fixing.tell(&trouble, &found, context)?;
    }
    if context.global.dry_run {
        context.out.plan(&format!("would {}", way.words(image)))?;
        return Ok(0);
    }
    agree(&way.words(image), context)?;
    fixing.carry_out(&way, context)
}

/// What is to be done.
enum Way<'f> {
    Relink(&'f Candidate),
    Accept(&'f LinkReport),
    Absorb,
    Salvage(&'f Path, Option<&'f LinkReport>),
}

impl Way<'_> {
    /// It in words, after "would".
    fn words(&self, image: &Path) -> String {
        let image = image.display();
        match self {
            Self::Relink(to) => {
                let proof = to.proof.words();
                format!("lead {image} to {} (found by {proof})", to.path.display())
            }
            Self::Accept(report) => {
                let parent = report.parent.display();
                format!("take {parent} as it is for the parent of {image}, and seal it")
            }
            Self::Absorb => format!("make {image} independent: a whole image takes its place"),
            Self::Salvage(out, _) => {
                format!("write what can be believed of {image} to {}", out.display())
            }
        }
    }
}

struct Fixing<'a> {
    args: &'a ChainFixArgs,
    case: Case,
    folder: PathBuf,
    book: Option<Book>,
}

impl Fixing<'_> {
    /// Runs work of `chain_fix` with progress; `None` if it was interrupted.
    fn watched<T>(
        &self,
        what: &'static str,
        context: &Context<'_>,
        work: impl FnOnce(&mut Watch<'_>) -> Result<T, Error>,
    ) -> Result<Option<T>, Failure> {
        let image = self.args.image.as_path();
        let quiet = context.out.quiet || context.out.json;
        let mut other = None;
        let total = self.case.facts.virtual_size;
        let done = watched(&context.global, quiet, what, total, |watch| match work(watch) {
            Ok(done) => Ok(Some(done)),
            Err(Error::Guard(chain_guard::Error::Image(error))) => Err(error),
            Err(error) => {
                other = Some(error);
                Ok(None)
            }
        });
        match other {
            Some(error) => Err(told(error, image, &self.folder)),
            None => Ok(done.map_err(|error| failure(error, image))?.flatten()),
        }
    }

    fn look(&self, context: &Context<'_>) -> Result<Option<Trouble>, Failure> {
        self.watched("comparing", context, |watch| self.case.look(self.book.as_ref(), watch))
    }

    /// Images that may be the parent, where one is wanted.
    fn search(
        &self,
        trouble: &Trouble,
        context: &Context<'_>,
    ) -> Result<Option<Vec<Candidate>>, Failure> {
        let args = self.args;
        let is_chosen = args.way.accept || args.way.absorb || args.way.salvage.is_some();
        if is_chosen
            || matches!(trouble, Trouble::Nothing(_) | Trouble::Marked(_)) && !args.way.relink
        {
            return Ok(Some(Vec::new()));
        }
        let book = self.book.as_ref();
        self.watched("searching", context, |watch| match &args.parent {
            Some(path) => Ok(self.case.candidate(path, book, watch)?.into_iter().collect()),
            None => self.case.candidates(&args.open.search, book, watch),
        })
    }

    /// The way that was chosen, or the best there is; `None` where nothing is to be done.
    fn way<'f>(
        &'f self,
        trouble: &'f Trouble,
        found: &'f [Candidate],
    ) -> Result<Option<Way<'f>>, Failure> {
        let (way, image) = (&self.args.way, self.args.image.display());
        let report = report_of(trouble);
        if let Some(out) = &way.salvage {
            return Ok(Some(Way::Salvage(out, report)));
        }
        if way.absorb {
            return match trouble {
                Trouble::Nothing(_) | Trouble::Marked(_) => Ok(Some(Way::Absorb)),
                _ => Err(self.refused("what it would take in is not what it was made over").doing(
                    "mend the link first; or --salvage OUT, which marks what is not proven",
                )),
            };
        }
        if way.accept {
            return match (report, trouble) {
                (Some(_), Trouble::Nothing(_)) => Ok(None),
                (Some(report), _) => self.may_accept(report).map(Some),
                (None, _) => Err(self
                    .refused("its parent is not found: there is nothing to accept")
                    .doing("--relink --search DIR looks for it")),
            };
        }
        let best = found.first();
        if way.relink {
            let Some(best) = best else { return Err(self.nowhere()) };
            return self.may_relink(best).map(Some);
        }
        match (trouble, best) {
            (Trouble::Nothing(_), _) => Ok(None),
            (Trouble::Marked(report), _) => Ok(Some(Way::Accept(report))),
            (_, Some(best)) if best.proof.suffices() => Ok(Some(Way::Relink(best))),
            (Trouble::Lost { .. }, Some(best)) => self.may_relink(best).map(Some),
            (Trouble::Lost { .. }, None) => Err(self.nowhere()),
            (Trouble::Differs(report), _) => {
                let text = format!("{image}: {}", report.text());
                Err(Failure::new(codes::PARENT_DIFFERS, text).doing(
                    "put the parent back as it was and look again; --search DIR, where a copy of it \
                     may be; --salvage OUT saves what is proven; --accept --reason TEXT takes it as it is",
                ))
            }
        }
    }

    fn may_accept<'f>(&self, report: &'f LinkReport) -> Result<Way<'f>, Failure> {
        if is_proven(report) || self.args.reason.is_some() {
            return Ok(Way::Accept(report));
        }
        let text = format!("{}: {}", self.args.image.display(), report.text());
        Err(Failure::new(codes::PARENT_UNPROVEN, text)
            .doing("--reason TEXT accepts it all the same; the text is kept with the seal"))
    }

    fn may_relink<'f>(&self, to: &'f Candidate) -> Result<Way<'f>, Failure> {
        if to.proof.suffices() || self.args.reason.is_some() {
            return Ok(Way::Relink(to));
        }
        let (image, path) = (self.args.image.display(), to.path.display());
        let text =
            format!("{path} has the name of the parent of {image}, and nothing proves that it is");
        Err(Failure::new(codes::PARENT_UNPROVEN, text)
            .doing("--relink --reason TEXT takes it; the text is kept with the seal"))
    }

    fn nowhere(&self) -> Failure {
        let text = format!("no parent for {} is found", self.args.image.display());
        Failure::new(codes::NO_IMAGE_PART, text).doing(
            "--search DIR looks elsewhere too; --salvage OUT saves what the image holds itself",
        )
    }

    fn refused(&self, why: &str) -> Failure {
        Failure::new(codes::PARENT_DIFFERS, format!("{}: {why}", self.args.image.display()))
    }

    /// What was found, before anything is done.
    fn tell(
        &self,
        trouble: &Trouble,
        found: &[Candidate],
        context: &mut Context<'_>,
    ) -> Result<(), Stop> {
        match trouble {
            Trouble::Nothing(_) => {}
            Trouble::Marked(report) | Trouble::Differs(report) => {
                let parent = report.parent.display();
                context.out.aside(&format!("parent {parent}: {}", report.text()))?;
            }
            Trouble::Lost { why, .. } => context.out.aside(&format!("parent lost: {why}"))?,
        }
        if !found.is_empty() {
            let mut table = Table::new(["FOUND", "BY"]);
            for candidate in found {
                table.row([
                    Cell::text(candidate.path.display()),
                    Cell::text(candidate.proof.words()),
                ]);
            }
            context.out.table(&table)?;
        }
        let siblings = match &self.book {
            Some(book) => self.case.siblings(book),
            None => Ok(Vec::new()),
        };
        // Who stands beside it is told where it is known.
        if let (Ok(siblings), false) = (siblings, matches!(trouble, Trouble::Nothing(_)))
            && !siblings.is_empty()
        {
            let count = many(siblings.len() as u64, "other image", "other images");
            let text = format!("{count} stood on the same parent: {}", siblings.join(", "));
            context.out.aside(&text)?;
        }
        Ok(())
    }

    fn carry_out(&self, way: &Way<'_>, context: &mut Context<'_>) -> Result<u8, Stop> {
        let reason = self.args.reason.as_deref();
        let image = self.args.image.display();
        match way {
            Way::Relink(to) => {
                // Records are renewed where there is a book; a reason makes one.
                let mut book = match (&self.book, reason) {
                    (None, None) => None,
                    _ => Some(self.book_for_writing()?),
                };
                let outside = self.args.open.outside;
                let mended = self.watched("mending", context, |watch| {
                    self.case.relink(to, reason, outside, book.as_mut(), watch)
                })?;
                let Some(mended) = mended else { return Ok(INTERRUPTED) };
                self.say(
                    "relink",
                    &mended,
                    &format!("{image} stands on {} now", to.path.display()),
                    context,
                )
            }
            Way::Accept(report) => {
                let mut book = self.book_for_writing()?;
                let mended = self.watched("sealing", context, |watch| {
                    self.case.accept(report, reason, &mut book, watch)
                })?;
                let Some(mended) = mended else { return Ok(INTERRUPTED) };
                let text =
                    format!("{} is sealed as the parent of {image}", mended.parent.display());
                self.say("accept", &mended, &text, context)
            }
            Way::Absorb => {
                let done = self.watched("absorbing", context, |watch| self.case.absorb(watch))?;
                let Some(done) = done else { return Ok(INTERRUPTED) };
                if let (Some(_), Some(link)) = (&self.book, &self.case.link) {
                    // What was sealed of a parent that it does not have any more.
                    let mut book = self.book_for_writing()?;
                    book.remove(link).map_err(|error| book_failure(&error, &self.folder))?;
                }
                if context.out.json {
                    context.out.document(&json!({
                        "schema": "image.chain.fix/1",
                        "file": self.args.image.to_string_lossy(),
                        "way": "absorb",
                        "length": done.length_bytes,
                        "blake3": done.digest,
                    }))?;
                    return Ok(0);
                }
                let length = size_text(done.length_bytes);
                context.out.line(&format!("{image} stands alone now ({length})"))?;
                context.out.aside(&format!("  its guest sees the same: blake3 {}", done.digest))?;
                context
                    .out
                    .aside("  images made over it may want: strandline image chain fix --accept")?;
                Ok(0)
            }
            Way::Salvage(out, report) => self.salvage(out, *report, context),
        }
    }

    fn salvage(
        &self,
        out: &Path,
        report: Option<&LinkReport>,
        context: &mut Context<'_>,
    ) -> Result<u8, Stop> {
        let args = self.args;
        let map = args.map.clone().unwrap_or_else(|| {
            let mut name = out.as_os_str().to_owned();
            name.push(".map");
            PathBuf::from(name)
        });
        if !args.force && map.exists() {
            let text = format!("{} exists", map.display());
            return Err(Failure::new(codes::TARGET_EXISTS, text)
                .doing("--force writes over it")
                .into());
        }
        let saved = self.watched("salvaging", context, |watch| {
            self.case.salvage(report, out, args.force, watch)
        })?;
        let Some(saved) = saved else { return Ok(INTERRUPTED) };
        let list = write_list(&map, saved.map_file().as_bytes(), args.force);
        list.map_err(|error| failure(error, &args.image))?;
        let (bad, size) = (saved.bad_bytes(), saved.virtual_size);
        if context.out.json {
            context.out.document(&json!({
                "schema": "image.chain.fix/1",
                "file": args.image.to_string_lossy(),
                "way": "salvage",
                "out": out.to_string_lossy(),
                "map": map.to_string_lossy(),
                "size": size,
                "bad": saved.bad.iter().map(bad_json).collect::<Vec<_>>(),
                "bad_bytes": bad,
            }))?;
            return Ok(if bad == 0 { 0 } else { Kind::Damaged.exit() });
        }
        say_bad(&saved.bad, context.out)?;
        let (good, shown) = (size_text(size - bad), out.display());
        context.out.line(&format!("saved {good} of {} to {shown}", size_text(size)))?;
        if bad == 0 {
            return Ok(0);
        }
        let text = format!("{} are not proven, and are zeroes in {shown}", size_text(bad));
        let list = format!("the ranges are in {}", map.display());
        Err(Failure::new(codes::IMAGE_DAMAGED, text).doing(list).into())
    }

    fn book_for_writing(&self) -> Result<Book, Failure> {
        Book::open_for_writing(&self.folder).map_err(|error| book_failure(&error, &self.folder))
    }

    fn say(
        &self,
        way: &str,
        mended: &Mended,
        text: &str,
        context: &mut Context<'_>,
    ) -> Result<u8, Stop> {
        if context.out.json {
            context.out.document(&json!({
                "schema": "image.chain.fix/1",
                "file": self.args.image.to_string_lossy(),
                "way": way,
                "parent": mended.parent.to_string_lossy(),
                "written": mended.written_bytes,
                "sealed": mended.sealed,
                "reason": self.args.reason,
            }))?;
            return Ok(0);
        }
        context.out.line(text)?;
        if !mended.sealed {
            let image = self.args.image.display();
            let text = format!("  not sealed: strandline image chain guard {image}");
            context.out.aside(&text)?;
        }
        Ok(0)
    }
}

fn report_of(trouble: &Trouble) -> Option<&LinkReport> {
    match trouble {
        Trouble::Nothing(report) | Trouble::Marked(report) | Trouble::Differs(report) => {
            Some(report)
        }
        Trouble::Lost { .. } => None,
    }
}

/// Asks whether to go on.
fn agree(plan: &str, context: &mut Context<'_>) -> Result<(), Stop> {
    if context.global.yes {
        return Ok(());
    }
    if !context.may_ask() {
        let failure = Failure::new(codes::UNCONFIRMED, format!("would {plan}; pass --yes"));
        return Err(failure.into());
    }
    let answer = context.out.question(&format!("{plan}? [y/N] "))?;
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(Failure::new(codes::UNCONFIRMED, "nothing was changed").into())
}

/// An error in the one form.
fn told(error: Error, image: &Path, folder: &Path) -> Failure {
    match error {
        Error::Guard(error) => chain_failure(error, image, folder),
        Error::Alone(_) => Failure::new(codes::IMAGE_ALONE, error.to_string()),
        Error::Unsuitable { .. } => Failure::new(codes::IMAGE_UNWRITABLE, error.to_string()),
        Error::Unproven { .. } => Failure::new(codes::PARENT_UNPROVEN, error.to_string())
            .doing("--reason TEXT; the text is kept with the seal"),
        Error::Mistaken { .. } => Failure::new(codes::BUG, error.to_string()),
    }
}
