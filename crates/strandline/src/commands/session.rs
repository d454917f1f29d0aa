//! `session ls|kick`

use super::client_line;
use crate::{
    cli::SessionVerb,
    context::Context,
    out::{Cell, Output, Stop, Table},
};
use api::{
    Zone,
    verbs::session::{Client, SessionKick, SessionLs},
};

pub(super) fn run(verb: SessionVerb, context: &mut Context<'_>) -> Result<u8, Stop> {
    match verb {
        SessionVerb::Ls { volume } => {
            let volume = volume.map(|name| context.volume(&name)).transpose()?;
            context.answer(SessionLs { volume }, |out, zone, list| say(out, zone, &list.sessions))
        }
        SessionVerb::Kick { id } => {
            if context.global.dry_run {
                context.out.plan(&format!("would end session {id}"))?;
                return Ok(0);
            }
            context.answer(SessionKick { id }, |out, zone, kicked| {
                out.line(&format!("ended session {id}: {}", client_line(&kicked.client, zone)))
            })
        }
    }
}

fn say(out: &mut Output, zone: &Zone, sessions: &[Client]) -> Result<(), Stop> {
    let head = ["ID", "EXPORT", "CLIENT", "ADDRESS", "PID", "SINCE", "STATE", "READ", "WRITTEN"];
    let mut table = Table::new(head);
    for client in sessions {
        let state = match (client.connected, client.writing) {
            (false, _) => "attached",
            (true, true) => "writing",
            (true, false) => "connected",
        };
        table.row([
            Cell::count(client.id),
            Cell::text(&client.export),
            Cell::text(&client.name),
            Cell::text(&client.address),
            Cell::maybe(client.pid.map(Cell::text)),
            Cell::time(client.since, zone),
            Cell::text(state),
            Cell::size(client.bytes_read),
            Cell::size(client.bytes_written),
        ]);
    }
    out.table(&table)
}
