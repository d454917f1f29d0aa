//! `diff --files`: which files differ between two instants, and how much of them is new.
//!
//! The blocks that differ are known first; what they do not touch is read once for both instants, and
//! contents are read only where a block of them was written between.

use super::super::{
    guest::{Guest, Ranges, failure, kind_word, name_text},
    many,
};
use crate::{
    context::Context,
    out::{Cell, Stop, Table},
};
use api::{
    Failure, Kind as Outcome,
    amounts::size_text,
    codes,
    verbs::history::{DiffPage, Difference},
};
use guest_files::{Change, Changed, Comparison, Facets, Volume, compare};
use serde_json::{Value, json};
use std::rc::Rc;

/// Paths that could not be read and are told one by one.
const TOLD: usize = 20;

/// One file system of the disk, and how it differs.
struct Compared<'g> {
    volume: &'g Volume,
    name: &'static str,
    found: Comparison,
    /// Bytes of its blocks that differ.
    blocks: u64,
    notes: Vec<String>,
}

pub(super) fn run(whole: &DiffPage, context: &mut Context<'_>) -> Result<u8, Stop> {
    let range = |one: &Difference| one.offset..one.offset.saturating_add(one.length);
    let ranges = Rc::new(Ranges::new(whole.ranges.iter().map(range).collect()));
    let before = Guest::open(whole.from.clone(), false, context)?;
    let after = before.open_beside(whole.to.clone(), Rc::clone(&ranges), context)?;
    let mut compared = Vec::new();
    let mut beside = Vec::new();
    for volume in &after.volumes {
        let twin = before
            .volumes
            .iter()
            .find(|other| other.label == volume.label && other.start == volume.start);
        match twin.map(|twin| (&twin.file_system, &volume.file_system)) {
            Some((Ok(one), Ok(other))) if one.name() == other.name() => {
                let start = volume.start;
                let differs = |range: std::ops::Range<u64>| {
                    ranges
                        .meet(&(start.saturating_add(range.start)..start.saturating_add(range.end)))
                };
                let found = compare(&**one, &**other, &differs)
                    .map_err(|error| failure(&error, &volume.label))?;
                let mut notes: Vec<String> = Vec::new();
                for (instant, file_system) in [(&whole.from, one), (&whole.to, other)] {
                    let told = file_system.notes().iter();
                    notes.extend(told.map(|note| format!("{instant}: {note}")));
                }
                let blocks = ranges.bytes_in(&(start..start.saturating_add(volume.length)));
                compared.push(Compared { volume, name: other.name(), found, blocks, notes });
            }
            Some((Ok(one), Ok(other))) => {
                beside.push(format!("{} was {} and is {}", volume.label, one.name(), other.name()));
            }
            Some((Err(error), _) | (_, Err(error))) => {
                if !matches!(error, guest_files::Error::Unsupported(_)) {
                    return Err(failure(error, &volume.label).into());
                }
                beside.push(format!("{}: {error}", volume.label));
            }
            None => beside.push(format!("{} was not there, or elsewhere", volume.label)),
        }
    }
    for volume in &before.volumes {
        let stays = after.volumes.iter().any(|other| other.label == volume.label);
        if !stays {
            beside.push(format!("{} is not there any more", volume.label));
        }
    }
    if compared.is_empty() {
        let text = format!("there are no two file systems to compare: {}", beside.join("; "));
        return Err(Failure::new(codes::GUEST_UNREAD, text)
            .doing("leave --files away: ranges are compared whatever they hold")
            .into());
    }
    if context.out.json {
        context.out.document(&document(whole, &compared, &beside))?;
    } else {
        say(&compared, &beside, context)?;
    }
    unread(&compared)?;
    let same = compared.iter().all(|one| one.found.changed.is_empty());
    Ok(if same { 0 } else { Outcome::No.exit() })
}

/// The path as it is named on the command line: with its partition where there are several.
fn shown(compared: &[Compared<'_>], one: &Compared<'_>, path: &[u8]) -> String {
    if compared.len() > 1 {
        return format!("{}:{}", one.volume.label, name_text(path));
    }
    name_text(path)
}

fn say(
    compared: &[Compared<'_>],
    beside: &[String],
    context: &mut Context<'_>,
) -> Result<(), Stop> {
    let mut table = Table::new(["KIND", "PATH", "SIZE", "NEW", "WHAT"]);
    let mut count = 0_u64;
    for one in compared {
        for changed in &one.found.changed {
            count += 1;
            let size = changed.size_after.or(changed.size_before).unwrap_or(0);
            table.row([
                Cell::text(letter(&changed.change)),
                Cell::text(shown(compared, one, &changed.path)),
                Cell::size(size),
                Cell::size(changed.written),
                Cell::text(what(compared, one, changed)),
            ]);
        }
    }
    if count > 0 {
        context.out.table(&table)?;
    }
    if !context.out.is_terminal() {
        return Ok(());
    }
    for one in compared {
        let written = one.found.changed.iter().map(|changed| changed.written);
        let written = written.fold(0, u64::saturating_add);
        let place = match one.volume.partition {
            Some(partition) => format!("{} on partition {}", one.name, partition.number),
            None => format!("{} on the whole disk", one.name),
        };
        context.out.aside(&format!(
            "{} changed, {} written, {} of blocks differ ({place})",
            many(one.found.changed.len() as u64, "file", "files"),
            size_text(written),
            size_text(one.blocks),
        ))?;
        for note in &one.notes {
            context.out.aside(note)?;
        }
    }
    for line in beside {
        context.out.aside(&format!("not compared: {line}"))?;
    }
    Ok(())
}

const fn letter(change: &Change) -> &'static str {
    match change {
        Change::Added => "A",
        Change::Deleted => "D",
        Change::Modified(_) => "M",
        Change::Renamed { .. } => "R",
    }
}

/// What there is to say beside: the kind of what is no file, where it was, in what it differs.
fn what(compared: &[Compared<'_>], one: &Compared<'_>, changed: &Changed) -> String {
    let mut words = Vec::new();
    if changed.kind != guest_files::Kind::File {
        words.push(kind_word(changed.kind).to_owned());
    }
    match &changed.change {
        Change::Added | Change::Deleted => {}
        Change::Renamed { from } => words.push(format!("was {}", shown(compared, one, from))),
        Change::Modified(facets) => words.extend(facet_words(facets).map(str::to_owned)),
    }
    words.join(", ")
}

fn facet_words(facets: &Facets) -> impl Iterator<Item = &'static str> {
    let all = [
        (facets.content, "content"),
        (facets.mode, "mode"),
        (facets.owner, "owner"),
        (facets.time, "time"),
    ];
    all.into_iter().filter(|(is, _)| *is).map(|(_, word)| word)
}

fn document(whole: &DiffPage, compared: &[Compared<'_>], beside: &[String]) -> Value {
    let change = |one: &Compared<'_>, changed: &Changed| {
        let (word, from, facets) = match &changed.change {
            Change::Added => ("added", None, Vec::new()),
            Change::Deleted => ("deleted", None, Vec::new()),
            Change::Renamed { from } => ("renamed", Some(shown(compared, one, from)), Vec::new()),
            Change::Modified(facets) => ("modified", None, facet_words(facets).collect()),
        };
        json!({
            "kind": word,
            "path": shown(compared, one, &changed.path),
            "from": from,
            "type": kind_word(changed.kind),
            "size_from": changed.size_before,
            "size_to": changed.size_after,
            "written": changed.written,
            "differs": facets,
        })
    };
    let systems = compared.iter().map(|one| {
        json!({
            "partition": one.volume.partition.map(|partition| partition.number),
            "file_system": one.name,
            "files_changed": one.found.changed.len(),
            "written": one.found.changed.iter().fold(0_u64, |sum, c| sum.saturating_add(c.written)),
            "blocks_differ": one.blocks,
            "unread": one.found.unread.len(),
            "notes": one.notes,
        })
    });
    let changes = compared
        .iter()
        .flat_map(|one| one.found.changed.iter().map(move |changed| change(one, changed)));
    json!({
        "schema": "diff.files/1",
        "from": whole.from,
        "to": whole.to,
        "file_systems": systems.collect::<Vec<_>>(),
        "changes": changes.collect::<Vec<_>>(),
        "not_compared": beside,
    })
}

/// Fails if anything could not be read: what is told is right, and not all.
fn unread(compared: &[Compared<'_>]) -> Result<(), Failure> {
    let all = compared.iter().flat_map(|one| {
        one.found
            .unread
            .iter()
            .map(move |(path, why)| format!("{}: {why}", shown(compared, one, path)))
    });
    let all: Vec<String> = all.collect();
    if all.is_empty() {
        return Ok(());
    }
    let text = format!(
        "{} could not be read; {}",
        many(all.len() as u64, "path", "paths"),
        all[..all.len().min(TOLD)].join("; ")
    );
    Err(Failure::new(codes::GUEST_DAMAGED, text))
}
