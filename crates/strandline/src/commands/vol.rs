//! `vol …`

use super::{client_line, distance, image::adopt::base_line, ways};
use crate::{
    cli::{ResizeArgs, SetArgs, ShowArgs, VolCreateArgs, VolVerb, WhenFullChoice},
    context::Context,
    out::{Cell, Output, Stop, Table},
};
use api::{
    Failure, Zone,
    amounts::{count_text, size_text},
    codes,
    verbs::vol::{
        VolCreate, VolCreated, VolDetails, VolLs, VolRelease, VolRemove, VolRename, VolResize,
        VolSet, VolShow, VolSummary, VolUndelete, WhenFull,
    },
};

pub(super) fn run(verb: VolVerb, context: &mut Context<'_>) -> Result<u8, Stop> {
    match verb {
        VolVerb::Create(args) => create(&args, context),
        VolVerb::Ls => {
            context.answer(VolLs {}, |out, zone, list| say_list(out, zone, &list.volumes))
        }
        VolVerb::Show(args) => show(&args, context),
        VolVerb::Set(args) => set(&args, context),
        VolVerb::Resize(args) => resize(&args, context),
        VolVerb::Rename { name, to } => {
            let (name, to) = (context.volume(&name)?, context.volume(&to)?);
            context.answer(VolRename { name, to }, |out, _, renamed| {
                out.line(&format!("{} is now {}", renamed.name_before, renamed.name))
            })
        }
        VolVerb::Rm { name } => remove(&name, context),
        VolVerb::Undelete { name, new_name, id } => {
            let name = context.volume(&name)?;
            let new_name = new_name.map(|name| context.volume(&name)).transpose()?;
            context
                .answer(VolUndelete { name, id, new_name }, |out, _, made| say_created(out, made))
        }
        VolVerb::Release { name } => {
            let name = context.volume(&name)?;
            context.answer(VolRelease { name }, |out, _, released| {
                let clients = match released.released.as_slice() {
                    [] => "nobody was cut off".to_owned(),
                    clients => format!("let in again: {}", clients.join(", ")),
                };
                out.line(&format!("{}: {clients}", released.name))
            })
        }
    }
}

fn create(args: &VolCreateArgs, context: &mut Context<'_>) -> Result<u8, Stop> {
    let name = context.volume(&args.name)?;
    aligned(args.size, args.block)?;
    if context.global.dry_run {
        context.out.plan(&format!("would make {name}, {}", size_text(args.size)))?;
        return Ok(0);
    }
    let asked = VolCreate { name, size: args.size, block: args.block, exclusive: args.exclusive };
    context.answer(asked, |out, _, made| say_created(out, made))
}

fn say_created(out: &mut Output, made: &VolCreated) -> Result<(), Stop> {
    let head = format!("{}  {}  keep \"{}\"", made.name, size_text(made.size), made.keep);
    match &made.uri {
        Some(uri) => out.line(&format!("{head}   {uri}")),
        None => out.line(&head),
    }
}

/// A size is taken exactly, or refused with the next one.
fn aligned(size: u64, block: u32) -> Result<(), Failure> {
    let block = u64::from(block);
    if size > 0 && size.is_multiple_of(block) {
        return Ok(());
    }
    if size == 0 {
        let failure = Failure::new(codes::SIZE, "a disk of no bytes holds nothing");
        return Err(failure.meaning(format!("{block}?")));
    }
    let next = size.div_ceil(block).max(1).saturating_mul(block);
    Err(Failure::new(
        codes::SIZE_UNALIGNED,
        format!(
            "{} no multiple of {block}",
            if size == 1 { "1 byte is".to_owned() } else { format!("{size} bytes are") }
        ),
    )
    .meaning(format!("{next}?")))
}

fn say_list(out: &mut Output, zone: &Zone, volumes: &[VolSummary]) -> Result<(), Stop> {
    let head = ["NAME", "ID", "SIZE", "BRANCH", "HISTORY", "CLIENTS", "NOW", "OLDEST", "KEEP"];
    let mut table = Table::new(head);
    for volume in volumes {
        table.row([
            Cell::text(&volume.name),
            Cell::text(volume.id),
            Cell::size(volume.size),
            Cell::text(&volume.branch),
            Cell::size(volume.history),
            Cell::count(volume.clients),
            Cell::count(volume.now.seq),
            Cell::maybe(volume.oldest.map(|oldest| Cell::minute(oldest.time, zone))),
            Cell::text(&volume.keep),
        ]);
    }
    out.table(&table)
}

fn show(args: &ShowArgs, context: &mut Context<'_>) -> Result<u8, Stop> {
    let reference = context.reference(&args.reference)?;
    let form = ways::Form::of(args);
    let asked = VolShow { reference, exact: args.exact };
    let details = context.ask(asked)?;
    match form {
        Some(form) => {
            let text = ways::print(form, &details)?;
            context.out.text(&text)?;
            Ok(0)
        }
        None => context.show::<VolShow>(&details, say_details),
    }
}

fn say_details(out: &mut Output, zone: &Zone, found: &VolDetails) -> Result<(), Stop> {
    let mut table = Table::facts();
    table.fact("name", Cell::text(&found.reference));
    table.fact("id", Cell::text(found.id));
    table.fact("size", Cell::size(found.size));
    table.fact("branch", Cell::text(&found.branch));
    let distance = distance(found.resolution.as_ref());
    let seq = count_text(found.seq);
    table.fact(
        "instant",
        Cell::text(format!("seq {seq}  {}{distance}", zone.show_precise(found.time))),
    );
    table.fact("block", Cell::text(found.block));
    if let Some(created) = found.created {
        table.fact("created", Cell::minute(created, zone));
    }
    if let Some(origin) = &found.origin {
        table.fact("clone of", Cell::text(origin));
    }
    table.fact("ack", Cell::text(&found.ack));
    table.fact("keep", Cell::text(&found.keep));
    table.fact("exclusive", Cell::text(if found.exclusive { "yes" } else { "no" }));
    table.fact("writable", Cell::text(if found.read_only { "no" } else { "yes" }));
    table.fact(
        "when full",
        Cell::text(match found.when_full {
            // What it is set to, and what this version does instead.
            WhenFull::Thin => "thin the oldest history (nothing is thinned yet: stop writes)",
            WhenFull::Stop => "stop writes",
        }),
    );
    table.fact("history", Cell::size(found.history));
    if let Some(oldest) = found.oldest {
        table.fact("oldest", Cell::time(oldest.time, zone));
    }
    table.fact("marks", Cell::count(found.marks));
    if let Some(base) = &found.base {
        table.fact("image", Cell::text(base_line(base)));
    }
    table.fact("serial", Cell::text(&found.serial));
    table.fact("uri", Cell::maybe(found.uri.as_ref().map(Cell::text)));
    for branch in &found.branches {
        let end = zone.show(branch.end.time);
        table.fact("branch", Cell::text(format!("{}~{}, up to {end}", found.name, branch.name)));
    }
    for client in &found.clients {
        table.fact("client", Cell::text(client_line(client, zone)));
    }
    out.table(&table)
}

fn set(args: &SetArgs, context: &mut Context<'_>) -> Result<u8, Stop> {
    let name = context.volume(&args.name)?;
    let when_full = args.settings.when_full.map(|choice| match choice {
        WhenFullChoice::Thin => WhenFull::Thin,
        WhenFullChoice::Stop => WhenFull::Stop,
    });
    let asked = VolSet {
        name,
        exclusive: args.settings.exclusive,
        read_only: args.settings.read_only,
        when_full,
    };
    context.answer(asked, say_details)
}

fn resize(args: &ResizeArgs, context: &mut Context<'_>) -> Result<u8, Stop> {
    let name = context.volume(&args.name)?;
    if context.global.dry_run {
        context.out.plan(&format!("would make {name} {}", size_text(args.size)))?;
        return Ok(0);
    }
    context.answer(
        VolResize { name, size: args.size, shrink: args.shrink },
        |out, zone, resized| {
            let (before, size) = (size_text(resized.size_before), size_text(resized.size));
            out.line(&format!("{}  {before} -> {size}", resized.name))?;
            for client in &resized.clients {
                out.aside(&format!("  sees it when it reconnects: {}", client_line(client, zone)))?;
            }
            Ok(())
        },
    )
}

/// Into the trash, once that is confirmed.
pub(super) fn remove(text: &str, context: &mut Context<'_>) -> Result<u8, Stop> {
    let name = context.volume(text)?;
    let plan = context.ask(VolRemove { name: name.clone(), dry_run: true })?;
    if !context.global.dry_run {
        let until = context.zone.show_minute(plan.until);
        let said = format!(
            "{name} ({}, {} of history) goes into the trash; until {until}: strandline vol undelete {name}",
            size_text(plan.size),
            size_text(plan.history)
        );
        let refusal = format!("`{name}` would go into the trash until {until}; pass --yes");
        let refusal = Failure::new(codes::REMOVAL_UNCONFIRMED, refusal);
        context.confirm(&said, "the volume's name", name.as_str(), refusal)?;
    }
    let removed = if context.global.dry_run {
        plan
    } else {
        context.ask(VolRemove { name, dry_run: false })?
    };
    context.show::<VolRemove>(&removed, |out, zone, removed| {
        let verb = if removed.done { "removed" } else { "would remove" };
        let until = zone.show_minute(removed.until);
        out.line(&format!("{verb} {}; it stays in the trash until {until}", removed.name))?;
        for clone in &removed.clones {
            out.line(&format!("  its clone {clone} lives on"))?;
        }
        out.aside(&format!("  undo: strandline vol undelete {}", removed.name))
    })
}
