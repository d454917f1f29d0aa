//! `store trash ls|empty`

use super::many;
use crate::{
    cli::TrashVerb,
    context::Context,
    out::{Cell, Output, Stop, Table},
};
use api::{
    Failure, Zone,
    amounts::size_text,
    codes,
    verbs::trash::{TrashEmpty, TrashLs, Trashed},
};

pub(super) fn run(verb: TrashVerb, context: &mut Context<'_>) -> Result<u8, Stop> {
    match verb {
        TrashVerb::Ls => {
            context.answer(TrashLs {}, |out, zone, found| say(out, zone, &found.trash))
        }
        TrashVerb::Empty { name } => empty(name.as_deref(), context),
    }
}

fn say(out: &mut Output, zone: &Zone, trash: &[Trashed]) -> Result<(), Stop> {
    let mut table = Table::new(["NAME", "ID", "SIZE", "FREES", "REMOVED", "UNTIL"]);
    for item in trash {
        table.row([
            Cell::text(&item.name),
            Cell::text(item.id),
            Cell::size(item.size),
            Cell::size(item.bytes),
            Cell::minute(item.removed, zone),
            Cell::minute(item.until, zone),
        ]);
    }
    out.table(&table)
}

fn empty(name: Option<&str>, context: &mut Context<'_>) -> Result<u8, Stop> {
    let name = name.map(|name| context.volume(name)).transpose()?;
    if !context.global.dry_run {
        let plan = context.ask(TrashEmpty { name: name.clone(), dry_run: true })?;
        if !plan.gone.is_empty() {
            let names: Vec<&str> = plan.gone.iter().map(|item| item.name.as_str()).collect();
            let text = format!(
                "{} go for good and free {}; this cannot be undone",
                names.join(", "),
                size_text(plan.freed)
            );
            let refusal = Failure::new(codes::UNCONFIRMED, format!("{text}; pass --yes"));
            let (what, word) = match &name {
                Some(name) => ("the volume's name", name.as_str()),
                None => ("`trash`", "trash"),
            };
            context.confirm(&text, what, word, refusal)?;
        }
    }
    let dry_run = context.global.dry_run;
    context.answer(TrashEmpty { name, dry_run }, |out, _, emptied| {
        let verb = if emptied.done { "freed" } else { "would free" };
        let volumes = many(emptied.gone.len() as u64, "volume", "volumes");
        out.line(&format!("{verb} {} of {volumes}", size_text(emptied.freed)))
    })
}
