//! `serve`

use crate::{
    backend,
    cli::ServeArgs,
    context::Context,
    out::{Output, Stop},
};
use api::{
    Caller, ControlExt as _, Failure, VolumeName,
    amounts::size_text,
    codes,
    verbs::{store::Stop as StopServer, vol},
};
use serde_json::json;
use server::serving::Serving;

/// Volumes that are named when a server starts.
const SHOWN_MAX: usize = 32;

pub(super) fn run(args: &ServeArgs, context: &mut Context<'_>) -> Result<u8, Stop> {
    if args.stop {
        return stop(context);
    }
    if let Some(name) = &args.default {
        context.volume(name)?;
    }
    let (options, who) = (context.engine_options(), context.who);
    let out = &mut *context.out;
    let mut said = Ok(());
    let exit = backend::serve(&options, args, &mut |serving| said = say(out, &who, serving))?;
    match said {
        // Who started us may have stopped reading; that is no reason not to serve.
        Ok(()) | Err(Stop::PipeClosed) => Ok(exit),
        Err(stop) => Err(stop),
    }
}

/// A line for each volume: where its clients find it.
fn say(out: &mut Output, who: &Caller, serving: &Serving) -> Result<(), Stop> {
    let engine = serving.engine();
    let volumes = engine.ask(who, vol::VolLs {})?.volumes;
    // A volume of which not all can be told (its history is damaged, say) is served all the same.
    let uri = |name: &VolumeName| {
        let reference = name.as_str().parse().ok()?;
        engine.ask(who, vol::VolShow { reference, exact: false }).ok()?.uri
    };
    if out.json {
        let uris: Vec<_> = volumes
            .iter()
            .map(|volume| {
                let uri = uri(&volume.name);
                json!({ "name": volume.name, "size": volume.size, "uri": uri })
            })
            .collect();
        out.json_line(&json!({ "schema": "serve/1", "volumes": uris }))?;
        return out.flush();
    }
    for volume in volumes.iter().take(SHOWN_MAX) {
        let uri = uri(&volume.name).unwrap_or_default();
        let (size, keep) = (size_text(volume.size), &volume.keep);
        out.line(&format!("{}  {size}  keep \"{keep}\"   {uri}", volume.name))?;
    }
    match volumes.len() {
        0 => out.aside("no volumes yet: strandline vol create NAME --size 10G")?,
        count if count > SHOWN_MAX => {
            out.aside(&format!("and {} more: strandline vol ls", count - SHOWN_MAX))?;
        }
        _ => {}
    }
    out.flush()
}

fn stop(context: &mut Context<'_>) -> Result<u8, Stop> {
    if !context.served()? {
        let place = context.store.display();
        return Err(Failure::new(codes::NO_SERVER, format!("no server runs for {place}")).into());
    }
    if context.global.dry_run {
        context.out.plan("would stop the server")?;
        return Ok(0);
    }
    context.answer(StopServer {}, |out, _, stopping| {
        out.line(&match stopping.clients {
            0 => "stopping".to_owned(),
            1 => "stopping; 1 client is connected".to_owned(),
            clients => format!("stopping; {clients} clients are connected"),
        })
    })
}
