//! `image chain guard`: seals every link of a chain as it is now.

use super::{book_failure, book_folder, broken, chain_failure, how, now_ns, scope_word};
use crate::{
    cli::{ChainGuardArgs, GuardLevel},
    commands::image::{INTERRUPTED, failure, no_pipe, watched},
    context::Context,
    out::{Cell, Stop, Table},
};
use chain_guard::{Book, Depth, Error, SealLevel, SealOptions, Sealed, Survey, View};
use image_files::Watch;
use serde_json::{Value, json};
use std::path::Path;
use world::{Chance as _, real::RealChance};

pub(super) fn run(args: &ChainGuardArgs, context: &mut Context<'_>) -> Result<u8, Stop> {
    let image = args.image.as_path();
    no_pipe(image)?;
    let folder = book_folder(&args.open, context);
    let view = View::open(image, &how(&args.open))
        .map_err(|error| broken(error, image, &args.open, &folder).failure)?;
    if view.links() == 0 {
        return Err(chain_failure(Error::Alone(image.to_owned()), image, &folder).into());
    }
    if context.global.dry_run {
        let text = format!("would seal {} links of {}", view.links(), image.display());
        context.out.plan(&text)?;
        return Ok(0);
    }
    let mut book =
        Book::open_for_writing(&folder).map_err(|error| book_failure(&error, &folder))?;
    let told = |error| chain_failure(error, image, &folder);
    let mut survey = Survey::begin(view, Some(&book), Depth::AsNeeded).map_err(told)?;
    let options =
        SealOptions { level: level(args.level), accept: args.accept.clone(), now_ns: now_ns() };
    let generation = args.label.then(|| RealChance.bytes());
    let total = survey.total_bytes().saturating_add(survey.total_to_seal(options.level));
    let quiet = context.out.quiet || context.out.json;
    // A failure of the guard's own comes out beside what the progress knows of.
    let mut trouble = None;
    let mut work = |watch: &mut Watch<'_>| {
        let reports = survey.finish(Some(&book), watch)?;
        let sealed = survey.seal(&reports, &options, &mut book, watch)?;
        if let Some(generation) = generation {
            survey.label(generation, watch)?;
        }
        Ok(sealed)
    };
    let done = watched(&context.global, quiet, "sealing", total, |watch| match work(watch) {
        Ok(sealed) => Ok(sealed),
        Err(Error::Image(error)) => Err(error),
        Err(error) => {
            trouble = Some(error);
            Ok(Vec::new())
        }
    });
    if let Some(error) = trouble {
        return Err(chain_failure(error, image, &folder).into());
    }
    let Some(sealed) = done.map_err(|error| failure(error, image))? else {
        return Ok(INTERRUPTED);
    };
    say(&sealed, &folder, context)
}

fn say(sealed: &[Sealed], folder: &Path, context: &mut Context<'_>) -> Result<u8, Stop> {
    if context.out.json {
        context.out.document(&json!({
            "schema": "image.chain.guard/1",
            "book": folder.to_string_lossy(),
            "links": sealed.iter().map(sealed_json).collect::<Vec<_>>(),
        }))?;
        return Ok(0);
    }
    let mut table = Table::new(["", "CHILD", "PARENT", "LEVEL", "SIZE"]);
    for Sealed { link, .. } in sealed {
        let content = link.seal().content;
        table.row([
            Cell::text("sealed"),
            Cell::text(&link.child.path),
            Cell::text(format!("<- {}", link.parent_path)),
            Cell::text(scope_word(content.map(|content| content.scope))),
            Cell::size(link.seal().witness.virtual_size),
        ]);
    }
    context.out.table(&table)?;
    context.out.aside(&format!("  kept in {}", folder.display()))?;
    Ok(0)
}

fn sealed_json(sealed: &Sealed) -> Value {
    let Sealed { link, share } = sealed;
    let content = link.seal().content;
    json!({
        "child": link.child.path,
        "parent": link.parent_path,
        "level": scope_word(content.map(|content| content.scope)),
        "size": link.seal().witness.virtual_size,
        "root": content.map(|content| content.root.to_string()),
        "verified_percent": share.map(|share| share.percent()),
        "reason": (!link.reason.is_empty()).then_some(&link.reason),
    })
}

const fn level(level: GuardLevel) -> SealLevel {
    match level {
        GuardLevel::Header => SealLevel::Header,
        GuardLevel::Needed => SealLevel::Needed,
        GuardLevel::All => SealLevel::All,
    }
}
