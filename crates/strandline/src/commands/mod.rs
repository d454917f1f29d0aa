//! What each noun does: ask the store, print the answer. A file for each noun.
//!
//! A command returns its exit code: 0, or 1 where the answer itself is a no.

mod clone;
mod demo;
mod diff;
mod doctor;
mod guest;
mod image;
mod key;
mod log;
mod mark;
mod mount;
mod open;
mod pages;
mod restore;
mod rewind;
mod serve;
mod session;
mod status;
mod store;
mod trash;
mod vol;
mod ways;

pub use key::read_secret;

use crate::{
    cli::Noun,
    context::Context,
    out::{Output, Stop},
};
use api::{
    Zone,
    amounts::{count_text, stretch_text},
    verbs::Resolution,
};

/// Runs a command.
pub fn run(noun: Noun, context: &mut Context<'_>) -> Result<u8, Stop> {
    match noun {
        Noun::Store(verb) => store::run(verb, context),
        Noun::Vol(verb) => vol::run(verb, context),
        Noun::Serve(args) => serve::run(&args, context),
        Noun::Log(args) => log::run(&args, context),
        Noun::Mark(verb) => mark::run(verb, context),
        Noun::Open(args) => open::run_open(&args, context),
        Noun::Close(args) => open::run_close(&args, context),
        Noun::Clone(args) => clone::run(&args, context),
        Noun::Rewind(args) => rewind::run(&args, context),
        Noun::Diff(args) => diff::run(&args, context),
        Noun::Restore(args) => restore::run(&args, context),
        Noun::Mount(args) => mount::run(&args, context),
        Noun::Image(verb) => image::run(verb, context),
        Noun::Session(verb) => session::run(verb, context),
        Noun::Status => status::run(context),
        Noun::Doctor => doctor::run(context),
        Noun::Demo(args) => demo::run(&args, context),
        Noun::Completions(args) => pages::completions(&args, context),
        Noun::Man(args) => pages::manual(&args, context),
    }
}

/// A pause that looks as if something were missing, if nothing is said of it.
const PAUSE_NS: u64 = 1_000_000_000;

/// A count with its noun: `1 file`, `97 311 files`.
fn many(count: u64, one: &str, several: &str) -> String {
    let noun = if count == 1 { one } else { several };
    format!("{} {noun}", count_text(count))
}

/// How far from what was asked an instant lies: `, 2 ms before`; empty when it is just that.
fn distance(resolution: Option<&Resolution>) -> String {
    match resolution {
        Some(found) if found.before_ns > 0 && found.thinned => {
            format!(", {} before, the nearest that is kept", stretch_text(found.before_ns))
        }
        // The state is that of the time asked for, whenever its last write was.
        Some(found) if found.asked == "now" => ", nothing written since".to_owned(),
        Some(found) if found.before_ns >= PAUSE_NS => {
            format!(", {} before; nothing written between", stretch_text(found.before_ns))
        }
        Some(found) if found.before_ns > 0 => format!(", {} before", stretch_text(found.before_ns)),
        _ => String::new(),
    }
}

/// One line per client: `qemu, pid 4121, since 09:51:40`.
fn client_line(client: &api::verbs::session::Client, zone: &Zone) -> String {
    let process = client.pid.map(|pid| format!(", pid {pid}")).unwrap_or_default();
    let gone = if client.connected { "" } else { ", not connected, no clean end" };
    format!("{}{process}, since {}{gone}", client.name, zone.show(client.since))
}

/// Prints where clients reach something, or how to make it so.
fn say_uri(out: &mut Output, uri: Option<&str>) -> Result<(), Stop> {
    match uri {
        Some(uri) => out.line(&format!("  {uri}")),
        None => out.aside("  no server offers it; start one: strandline serve"),
    }
}

#[cfg(test)]
mod tests;
