//! `open` and `close`

use super::{distance, say_uri};
use crate::{
    backend,
    cli::{CloseArgs, OpenArgs},
    context::Context,
    out::{Output, Stop},
};
use api::{
    Verb as _, Zone,
    amounts::{count_text, stretch_text},
    verbs::past::{Close, Open, Opened},
};

pub(super) fn run_open(args: &OpenArgs, context: &mut Context<'_>) -> Result<u8, Stop> {
    let reference = context.instant_of(&args.reference)?;
    let asked = Open { reference, writable: args.rw, ttl_ns: args.ttl, exact: args.exact };
    if context.served()? {
        return context.answer(asked, say_opened);
    }
    let (options, zone) = (context.engine_options(), context.zone.clone());
    let out = &mut *context.out;
    let mut said = Ok(());
    let exit = backend::serve_opened(&options, args.nbd.as_deref(), asked, &mut |opened| {
        said = say_serving(out, &zone, opened);
    })?;
    said.map(|()| exit)
}

fn say_serving(out: &mut Output, zone: &Zone, opened: &Opened) -> Result<(), Stop> {
    if out.json {
        out.document(&Open::document(opened))?;
    } else {
        say_opened(out, zone, opened)?;
        out.aside("  served by this process until Ctrl-C")?;
    }
    out.flush()
}

fn say_opened(out: &mut Output, zone: &Zone, opened: &Opened) -> Result<(), Stop> {
    let distance = distance(opened.resolution.as_ref());
    let time = zone.show_precise(opened.time);
    let name = &opened.reference;
    let at = if opened.writable { format!("seq {}, {time}", count_text(opened.seq)) } else { time };
    let rights = if opened.writable { "writable" } else { "read-only" };
    let took = stretch_text(opened.took_ns);
    out.line(&format!("{name} ({at}{distance})  {rights}  ready in {took}"))?;
    say_uri(out, opened.uri.as_deref())?;
    out.aside(&format!("  closes after {} idle", stretch_text(opened.ttl_ns)))?;
    out.aside(
        "  file-system and LVM ids inside are those of the present: do not mount both on one host",
    )
}

pub(super) fn run_close(args: &CloseArgs, context: &mut Context<'_>) -> Result<u8, Stop> {
    let reference = context.reference(&args.reference)?;
    if context.global.dry_run {
        context.out.plan(&format!("would close {reference}"))?;
        return Ok(0);
    }
    context.answer(Close { reference }, |out, zone, closed| {
        let clients = match closed.clients {
            0 => String::new(),
            1 => "; 1 client was cut off".to_owned(),
            clients => format!("; {clients} clients were cut off"),
        };
        out.line(&format!("closed {}{clients}", closed.reference))?;
        match closed.trash_until {
            Some(until) => {
                out.aside(&format!("  it stays in the trash until {}", zone.show_minute(until)))
            }
            None => Ok(()),
        }
    })
}
