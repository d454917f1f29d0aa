//! `diff`: exit 1 when anything differs.

mod files;

use crate::{
    cli::DiffArgs,
    context::Context,
    out::{Cell, Stop, Table},
};
use api::{
    InstantSpec, Kind, Reference,
    amounts::{count_text, size_text},
    control::with_schema,
    verbs::history::{Diff, DiffPage, Difference, DifferenceKind},
};

pub(super) fn run(args: &DiffArgs, context: &mut Context<'_>) -> Result<u8, Stop> {
    let from = context.instant_of(&args.from)?;
    let to = match &args.to {
        Some(text) => context.instant_of(text)?,
        None => Reference { branch: None, ..from.clone() }.at(InstantSpec::NOW),
    };
    let mut asked = Diff { from, to, after: None, limit: None, exact: args.exact };
    let mut whole = context.ask(asked.clone())?;
    // Pages after the first are asked by fixed names, so that all are of the same two states.
    asked.from = whole.from.clone();
    asked.to = whole.to.clone();
    while whole.next.is_some() {
        asked.after = whole.next;
        let page = context.ask(asked.clone())?;
        whole.ranges.extend(page.ranges);
        whole.next = page.next;
    }
    if args.files {
        return files::run(&whole, context);
    }
    let same = whole.ranges.is_empty() && whole.size_from == whole.size_to;
    if context.out.json {
        context.out.document(&with_schema("diff/1", &whole))?;
    } else {
        say(&whole, context)?;
    }
    Ok(if same { 0 } else { Kind::No.exit() })
}

fn say(found: &DiffPage, context: &mut Context<'_>) -> Result<(), Stop> {
    let mut table = Table::new(["OFFSET", "LENGTH", "KIND"]);
    for range in &found.ranges {
        let kind = match range.kind {
            DifferenceKind::Data => "data",
            DifferenceKind::Zero => "zero",
        };
        table.row([Cell::count(range.offset), Cell::size(range.length), Cell::text(kind)]);
    }
    if !found.ranges.is_empty() {
        context.out.table(&table)?;
    }
    if context.out.is_terminal() {
        let bytes: u64 = found.ranges.iter().map(|Difference { length, .. }| length).sum();
        let ranges = match found.ranges.len() as u64 {
            1 => "1 range differs".to_owned(),
            count => format!("{} ranges differ", count_text(count)),
        };
        let line = format!("{} in {ranges}: {} -> {}", size_text(bytes), found.from, found.to);
        context.out.aside(&line)?;
        if found.size_from != found.size_to {
            let (from, to) = (size_text(found.size_from), size_text(found.size_to));
            context.out.aside(&format!("size {from} -> {to}"))?;
        }
    }
    Ok(())
}
