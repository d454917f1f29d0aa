//! `store init|info|check|repair|gc`, and the way to `key` and `trash`.

use super::{key, many, trash};
use crate::{
    backend::{self, EngineOptions},
    cli::{InitArgs, StoreVerb},
    context::Context,
    out::{Cell, Output, Stop, Table},
};
use api::{
    Failure, Zone,
    amounts::{count_text, size_text, stretch_text},
    codes,
    control::with_schema,
    verbs::{
        Damage,
        store::{self, Space},
    },
};

pub(super) fn run(verb: StoreVerb, context: &mut Context<'_>) -> Result<u8, Stop> {
    match verb {
        StoreVerb::Init(args) => init(&args, context),
        StoreVerb::Info => context.answer(store::StoreInfoAsk {}, say_info),
        StoreVerb::Check { sample } => check(sample, context),
        StoreVerb::Repair { new_id, accept_loss } => repair(new_id, accept_loss, context),
        StoreVerb::Gc { now } => gc(now, context),
        StoreVerb::Key(verb) => key::run(verb, context),
        StoreVerb::Trash(verb) => trash::run(verb, context),
    }
}

fn init(args: &InitArgs, context: &mut Context<'_>) -> Result<u8, Stop> {
    let store = args.dir.clone().unwrap_or_else(|| context.store.clone());
    let options = EngineOptions::new(&context.global, &store, context.may_ask());
    if context.global.dry_run {
        context.out.plan(&format!("would make a store in {}", store.display()))?;
        return Ok(0);
    }
    let created = backend::init(&options, args)?;
    if context.out.json {
        context.out.document(&with_schema("store.init/1", &created))?;
    } else {
        say_created(context.out, &created)?;
    }
    Ok(0)
}

fn say_created(out: &mut Output, created: &store::StoreCreated) -> Result<(), Stop> {
    let key = match &created.key_file {
        Some(file) => format!("key file {file}"),
        None => "passphrase".to_owned(),
    };
    let store::StoreCreated { id, path, cipher, recovery_key, .. } = created;
    out.line(&format!("Created store {id} in {path} ({cipher}; {key})"))?;
    // Shown once, because the user asked for the store and nothing keeps it.
    let recovery = recovery_key.expose();
    out.line(&format!("  Write this recovery key down; it is shown once:  {recovery}"))
}

fn say_info(out: &mut Output, zone: &Zone, info: &store::StoreInfo) -> Result<(), Stop> {
    let mut table = Table::facts();
    table.fact("store", Cell::text(&info.id));
    table.fact("directory", Cell::text(&info.path));
    table.fact("format", Cell::text(info.format));
    if let Some(created) = info.created {
        table.fact("created", Cell::minute(created, zone));
    }
    table.fact("cipher", Cell::text(&info.cipher));
    table.fact("key slots", Cell::count(info.key_slots));
    table.fact("segments", Cell::size(info.segment_size));
    table.fact("ack", Cell::text(&info.ack));
    table.fact("writable", Cell::text(if info.read_only { "no" } else { "yes" }));
    table.fact("volumes", Cell::count(info.volumes));
    table.fact("now", Cell::text(format!("seq {}", info.now.seq)));
    if let Some(oldest) = info.oldest {
        table.fact("oldest", Cell::time(oldest.time, zone));
    }
    say_space(&mut table, &info.space);
    out.table(&table)
}

/// Bytes on disk by use; what is nothing is left out.
pub(super) fn say_space(table: &mut Table, space: &Space) {
    for (name, bytes) in [
        ("log segments", space.segments),
        ("packs", space.packs),
        ("bulk files", space.bulk),
        ("index", space.index),
        ("recycled files", space.pool),
        ("trash", space.trash),
    ] {
        if bytes > 0 {
            table.fact(name, Cell::size(bytes));
        }
    }
    table.fact("free", Cell::size(space.free));
}

fn check(sample_ppm: Option<u32>, context: &mut Context<'_>) -> Result<u8, Stop> {
    let found = context.ask(store::StoreCheck { sample_ppm })?;
    context.show::<store::StoreCheck>(&found, |out, _, found| {
        let took = match found.took_ms {
            0 => "less than 1 ms".to_owned(),
            ms => stretch_text(ms.saturating_mul(1_000_000)),
        };
        let (cells, bytes) = (count_text(found.cells), size_text(found.bytes));
        out.line(&format!("checked {cells} cells, {bytes}, in {took}"))?;
        say_damage(out, &found.damage)
    })?;
    if found.damage.is_empty() {
        return Ok(0);
    }
    if context.out.json {
        return Ok(api::Kind::Damaged.exit());
    }
    let count = found.damage.len();
    let places = if count == 1 { "place" } else { "places" };
    Err(Failure::new(codes::CHECK_FOUND, format!("{count} damaged {places} found"))
        .doing("nothing else is hit; what is derived comes back by: strandline store repair")
        .into())
}

fn say_damage(out: &mut Output, damage: &[Damage]) -> Result<(), Stop> {
    if damage.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(["VOLUME", "OFFSET", "LENGTH", "SEQ", "FILE", "WHAT"]);
    for place in damage {
        table.row([
            Cell::maybe(place.volume.as_ref().map(Cell::text)),
            Cell::maybe(place.offset.map(Cell::count)),
            Cell::maybe(place.length.map(Cell::size)),
            Cell::maybe(place.seq.map(Cell::count)),
            Cell::text(&place.file),
            Cell::text(&place.what),
        ]);
    }
    out.table(&table)
}

fn repair(new_id: bool, accept_loss: bool, context: &mut Context<'_>) -> Result<u8, Stop> {
    let dry_run = context.global.dry_run;
    if accept_loss {
        let text = "what was flushed and is missing, and all behind it, leaves history for good";
        let refusal = Failure::new(codes::UNCONFIRMED, format!("{text}; pass --yes"));
        context.confirm(text, "`loss`", "loss", refusal)?;
        context.accept_loss()?;
    }
    context.answer(store::StoreRepair { new_id, dry_run }, |out, _, repaired| {
        let verb = if repaired.done { "rebuilt" } else { "would rebuild" };
        for line in &repaired.rebuilt {
            out.line(&format!("{verb} {line}"))?;
        }
        if repaired.rebuilt.is_empty() {
            out.line("nothing to rebuild")?;
        }
        out.line(&format!("store {}", repaired.id))?;
        say_damage(out, &repaired.lost)
    })
}

fn gc(now: bool, context: &mut Context<'_>) -> Result<u8, Stop> {
    let dry_run = context.global.dry_run;
    if now && !dry_run {
        let plan = context.ask(store::StoreGc { now, dry_run: true })?;
        let text = format!("{} would be freed; this cannot be undone", size_text(plan.freed));
        let refusal = Failure::new(codes::UNCONFIRMED, format!("{text}; pass --yes"));
        context.confirm(&text, "`gc`", "gc", refusal)?;
    }
    context.answer(store::StoreGc { now, dry_run }, |out, _, freed| {
        let verb = if freed.done { "freed" } else { "would free" };
        let files = many(freed.files, "file", "files");
        out.line(&format!("{verb} {} in {files}", size_text(freed.freed)))
    })
}
