//! `image chain check`: a line for each link.
//!
//! Exit 1 where a child sees other bytes or nobody can tell; where a chain cannot be opened, the exit
//! of that. Of several, a link's 1 comes before the exits of what could not be opened, damage before
//! all.

use super::{Broken, Looked, broken_json, link_json, look};
use crate::{
    cli::ChainCheckArgs,
    commands::image::INTERRUPTED,
    context::Context,
    out::{Cell, Output, Stop, Table},
};
use api::{Failure, Kind, Time, Zone, codes};
use chain_guard::{LinkReport, SealFacts, Status};
use serde_json::json;
use std::{collections::HashSet, path::PathBuf};
use units::Timestamp;

pub(super) fn run(args: &ChainCheckArgs, context: &mut Context<'_>) -> Result<u8, Stop> {
    let mut told = Told::default();
    for image in &args.images {
        match look(image, &args.open, args.level, context, None)? {
            Looked::Links(links) if links.is_empty() => told.alone.push(image.clone()),
            Looked::Links(links) => links.into_iter().for_each(|link| told.add(link)),
            Looked::Broken(broken) => told.broken.push(broken),
            Looked::Interrupted => return Ok(INTERRUPTED),
        }
    }
    told.say(&context.zone, context.out)?;
    match told.failure() {
        None => Ok(0),
        Some(failure) if context.out.json => Ok(failure.exit()),
        Some(failure) => Err(failure.into()),
    }
}

/// What there is to say of all images together.
#[derive(Default)]
struct Told {
    links: Vec<LinkReport>,
    /// Pairs that were told: images named together may share links.
    known: HashSet<(PathBuf, PathBuf)>,
    broken: Vec<Broken>,
    alone: Vec<PathBuf>,
}

impl Told {
    fn add(&mut self, link: LinkReport) {
        if self.known.insert((link.child.clone(), link.parent.clone())) {
            self.links.push(link);
        }
    }

    fn say(&self, zone: &Zone, out: &mut Output) -> Result<(), Stop> {
        if out.json {
            let links = self.links.iter().map(link_json);
            let all = links.chain(self.broken.iter().map(broken_json)).collect::<Vec<_>>();
            let alone = self.alone.iter().map(|path| path.to_string_lossy()).collect::<Vec<_>>();
            return out.document(&json!({
                "schema": "image.chain.check/1",
                "links": all,
                "alone": alone,
            }));
        }
        let mut table = Table::new(["", "CHILD", "PARENT", "VERDICT", "WHAT"]);
        for link in &self.links {
            table.row([
                Cell::text(link.status.word()),
                Cell::text(link.child.display()),
                Cell::text(format!("<- {}", link.parent.display())),
                Cell::text(link.verdict()),
                Cell::text(what(link, zone)),
            ]);
        }
        for broken in &self.broken {
            let parent = broken.parent.as_ref().map(|name| Cell::text(format!("<- {name}")));
            table.row([
                Cell::text(Status::Fault.word()),
                Cell::text(broken.child.display()),
                Cell::maybe(parent),
                Cell::text(broken.class.unwrap_or("-")),
                Cell::text(&broken.failure.message),
            ]);
        }
        if !self.links.is_empty() || !self.broken.is_empty() {
            out.table(&table)?;
        }
        for path in &self.alone {
            out.aside(&format!("{} stands on no other image", path.display()))?;
        }
        Ok(())
    }

    /// How the command fails, if it does.
    fn failure(&self) -> Option<Failure> {
        let count = |status| self.links.iter().filter(|link| link.status == status).count();
        let (faults, unknown) = (count(Status::Fault), count(Status::Unknown));
        let bad = self.links.iter().filter(|link| link.status != Status::Ok);
        let damaged = bad.clone().find(|link| link.damage.is_some());
        let unread = bad.clone().find(|link| matches!(link.seal, SealFacts::Unreadable(_)));
        let is_damage = |broken: &&Broken| broken.failure.code.kind() == Kind::Damaged;
        if let Some(link) = damaged {
            return Some(Failure::new(codes::IMAGE_DAMAGED, link.text()));
        }
        if let Some(link) = unread {
            let text = format!("{}: {}", link.child.display(), link.text());
            return Some(Failure::new(codes::BOOK_DAMAGED, text).doing(
                "guard --accept REASON seals anew, after you have made sure of the parent",
            ));
        }
        let mut broken = self.broken.iter();
        if let Some(broken) = broken.clone().find(is_damage) {
            return Some(broken.failure.clone());
        }
        let first = || bad.clone().next().map(|link| link.child.display().to_string());
        if faults > 0 {
            let text = format!("{} {} not what {}", parents(faults), is(faults), made(faults));
            return Some(explained(Failure::new(codes::NO, text), first()));
        }
        if let Some(broken) = broken.next() {
            return Some(broken.failure.clone());
        }
        if unknown > 0 {
            let unsealed = bad.clone().all(|link| link.conclusion.is_none());
            let text = format!("of {} nobody can tell whether it changed", parents(unknown));
            let failure = Failure::new(codes::NO, text);
            return Some(match first() {
                Some(child) if unsealed => failure
                    .doing("seal it while all is well")
                    .seeing(format!("strandline image chain guard {child}")),
                child => explained(failure, child),
            });
        }
        None
    }
}

/// What is to be said of a link; the time is that of its seal.
pub(super) fn what(link: &LinkReport, zone: &Zone) -> String {
    let text = link.text();
    match &link.seal {
        SealFacts::Found { made_ns, .. } if !text.is_empty() => {
            let sealed = zone.show_minute(Time(Timestamp(*made_ns)));
            format!("{text} (sealed {sealed})")
        }
        _ => text,
    }
}

fn explained(failure: Failure, child: Option<String>) -> Failure {
    match child {
        Some(child) => failure.seeing(format!("strandline image chain explain {child}")),
        None => failure,
    }
}

fn parents(count: usize) -> String {
    if count == 1 { "1 parent".to_owned() } else { format!("{count} parents") }
}

const fn is(count: usize) -> &'static str {
    if count == 1 { "is" } else { "are" }
}

const fn made(count: usize) -> &'static str {
    if count == 1 { "its image was made over" } else { "their images were made over" }
}
