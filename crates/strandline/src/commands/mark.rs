//! `mark add|ls|rm|pin|unpin`

use crate::{
    cli::MarkVerb,
    context::Context,
    out::{Cell, Output, Stop, Table},
};
use api::{
    Failure, InstantSpec, MarkName, Point, VolumeName, Zone,
    amounts::count_text,
    codes,
    verbs::mark::{Mark, MarkAdd, MarkLs, MarkPin, MarkRemove},
};

pub(super) fn run(verb: MarkVerb, context: &mut Context<'_>) -> Result<u8, Stop> {
    match verb {
        MarkVerb::Add { reference, name, keep, pin, note } => {
            let reference = context.reference(&reference)?;
            let name: MarkName = name.parse()?;
            if context.global.dry_run {
                context.out.plan(&format!("would mark {reference} as {name}"))?;
                return Ok(0);
            }
            let asked = MarkAdd { reference, name, keep_ns: keep, pinned: pin, note };
            context.answer(asked, say_added)
        }
        MarkVerb::Ls { volume } => {
            let volume = volume.map(|name| context.volume(&name)).transpose()?;
            context.answer(MarkLs { volume }, |out, zone, list| say_list(out, zone, &list.marks))
        }
        MarkVerb::Rm { volume, name } => remove(&volume, &name, context),
        MarkVerb::Pin { volume, name } => pin(&volume, &name, true, context),
        MarkVerb::Unpin { volume, name } => pin(&volume, &name, false, context),
    }
}

fn say_added(out: &mut Output, zone: &Zone, mark: &Mark) -> Result<(), Stop> {
    let kept = match (mark.until, mark.pinned) {
        (_, true) => "pinned: kept until `mark unpin` and `mark rm`".to_owned(),
        (Some(until), _) => format!("kept until {}", zone.show_minute(until)),
        (None, _) => "kept until `mark rm`".to_owned(),
    };
    out.line(&format!(
        "marked {}  seq {}  {}  {}-consistent  {kept}",
        mark.reference,
        count_text(mark.seq),
        zone.show_precise(mark.time),
        mark.consistency,
    ))
}

pub(super) fn say_list(out: &mut Output, zone: &Zone, marks: &[Mark]) -> Result<(), Stop> {
    let mut table = Table::new(["MARK", "SEQ", "TIME", "PINNED", "UNTIL", "NOTE"]);
    for mark in marks {
        table.row([
            Cell::text(&mark.reference),
            Cell::count(mark.seq),
            Cell::time(mark.time, zone),
            Cell::text(if mark.pinned { "yes" } else { "no" }),
            Cell::maybe(mark.until.map(|until| Cell::minute(until, zone))),
            Cell::text(mark.note.as_deref().unwrap_or("")),
        ]);
    }
    out.table(&table)
}

/// The mark that `NAME`, `NAME~2` or `mark:NAME` names.
fn named(text: &str) -> Result<(MarkName, u32), Failure> {
    let whole = if text.starts_with("mark:") { text.to_owned() } else { format!("mark:{text}") };
    match whole.parse()? {
        InstantSpec { point: Point::Mark { name, back }, round: None } => Ok((name, back)),
        _ => Err(Failure::new(codes::MARK_NAME, format!("`{text}` is no name of a mark"))),
    }
}

fn remove(volume: &str, name: &str, context: &mut Context<'_>) -> Result<u8, Stop> {
    let (volume, (name, back)) = (context.volume(volume)?, named(name)?);
    let dry_run = context.global.dry_run;
    if !dry_run {
        confirm_removal(&volume, &name, back, context)?;
    }
    context.answer(MarkRemove { volume, name, back, dry_run }, |out, zone, removed| {
        let verb = if removed.done { "removed" } else { "would remove" };
        let time = zone.show_precise(removed.mark.time);
        out.line(&format!("{verb} {}  seq {}  {time}", removed.mark.reference, removed.mark.seq))?;
        let volume = &removed.mark.volume;
        let (seq, name) = (removed.mark.seq, &removed.mark.name);
        out.aside(&format!("  undo: strandline mark add {volume}@seq:{seq} {name}"))
    })
}

fn confirm_removal(
    volume: &VolumeName,
    name: &MarkName,
    back: u32,
    context: &mut Context<'_>,
) -> Result<(), Stop> {
    let asked = MarkRemove { volume: volume.clone(), name: name.clone(), back, dry_run: true };
    let plan = context.ask(asked)?;
    let time = context.zone.show_precise(plan.mark.time);
    let text =
        format!("{} ({time}) loses its name and ages by the volume's rule", plan.mark.reference);
    let refusal = Failure::new(codes::REMOVAL_UNCONFIRMED, format!("{text}; pass --yes"));
    context.confirm(&text, "the volume's name", volume.as_str(), refusal)
}

fn pin(volume: &str, name: &str, pinned: bool, context: &mut Context<'_>) -> Result<u8, Stop> {
    let (volume, (name, back)) = (context.volume(volume)?, named(name)?);
    context.answer(MarkPin { volume, name, back, pinned }, |out, _, mark| {
        let verb = if mark.pinned { "pinned" } else { "unpinned" };
        out.line(&format!("{verb} {}", mark.reference))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_named_with_or_without_their_prefix() {
        for text in ["nightly~2", "mark:nightly~2"] {
            let (name, back) = named(text).expect(text);
            assert_eq!((name.as_str(), back), ("nightly", 2));
        }
        assert!(named("nightly^flush").is_err());
        assert!(named("").is_err());
    }
}
