//! `store key add|ls|rotate|rm`

use super::many;
use crate::{
    cli::{KeyAddKind, KeyVerb},
    context::Context,
    out::{Cell, Output, Stop, Table},
};
use api::{
    Failure, Zone, codes,
    verbs::{
        key::{KeyAdd, KeyKind, KeyLs, KeyRemove, KeyRotate, KeySlot},
        secret::Secret,
    },
};
use rustix::fs::{Mode, OFlags};
use std::{
    fs::File,
    io::{Read as _, Write as _},
    path::Path,
};

/// The longest passphrase that a file may hold.
const PASSPHRASE_MAX_BYTES: u64 = 4096;

pub(super) fn run(verb: KeyVerb, context: &mut Context<'_>) -> Result<u8, Stop> {
    match verb {
        KeyVerb::Add { kind, out } => add(kind, out.as_deref(), context),
        KeyVerb::Ls => context.answer(KeyLs {}, |out, zone, found| say(out, zone, &found.slots)),
        KeyVerb::Rotate { volume } => {
            let volume = volume.map(|name| context.volume(&name)).transpose()?;
            context.answer(KeyRotate { volume }, |out, _, rotated| {
                let keys = many(rotated.volumes, "key", "keys");
                out.line(&format!("wrapped {keys} anew; no data was rewritten"))
            })
        }
        KeyVerb::Rm { slot } => remove(slot, context),
    }
}

fn say(out: &mut Output, zone: &Zone, slots: &[KeySlot]) -> Result<(), Stop> {
    let mut table = Table::new(["SLOT", "KIND", "CREATED", "IN USE"]);
    for slot in slots {
        table.row([
            Cell::text(slot.slot),
            Cell::text(word(slot.kind)),
            Cell::maybe(slot.created.map(|time| Cell::minute(time, zone))),
            Cell::text(if slot.in_use { "yes" } else { "no" }),
        ]);
    }
    out.table(&table)
}

const fn word(kind: KeyKind) -> &'static str {
    match kind {
        KeyKind::File => "file",
        KeyKind::Passphrase => "passphrase",
        KeyKind::Recovery => "recovery",
    }
}

fn add(kind: KeyAddKind, file: Option<&Path>, context: &mut Context<'_>) -> Result<u8, Stop> {
    let (kind, passphrase) = match kind {
        KeyAddKind::File if file.is_none() => {
            let failure = Failure::new(codes::USAGE, "a new key file needs a place");
            return Err(failure.doing("store key add file --out FILE").into());
        }
        KeyAddKind::File => (KeyKind::File, None),
        KeyAddKind::Recovery => (KeyKind::Recovery, None),
        KeyAddKind::Passphrase => (KeyKind::Passphrase, Some(new_passphrase(context)?)),
    };
    // Made before the slot: a slot whose key could not be kept would be of no use.
    let made = file.filter(|_| kind == KeyKind::File).map(make_private).transpose()?;
    let added = context.ask(KeyAdd { kind, passphrase })?;
    let mut shown = added.clone();
    if let (Some(mut to), Some(secret)) = (made, &added.secret) {
        to.write_all(secret.expose().as_bytes())?;
        to.sync_all()?;
        shown.secret = None;
    }
    context.show::<KeyAdd>(&shown, |out, _, shown| {
        out.line(&format!("added slot {}, {}", shown.slot.slot, word(shown.slot.kind)))?;
        match (&shown.secret, file) {
            (Some(secret), _) => {
                let text = secret.expose(); // a recovery key: shown once, kept nowhere
                out.line(&format!("  Write this recovery key down; it is shown once:  {text}"))
            }
            (None, Some(file)) => out.line(&format!("  key file {}", file.display())),
            (None, None) => Ok(()),
        }
    })
}

/// A passphrase from `--passphrase-file`, or typed twice.
fn new_passphrase(context: &mut Context<'_>) -> Result<Secret, Stop> {
    if let Some(path) = &context.global.passphrase_file {
        return Ok(read_secret(path)?);
    }
    if !context.may_ask() {
        let failure = Failure::new(codes::KEY_MISSING, "nobody is there to type a passphrase");
        return Err(failure.doing("pass --passphrase-file FILE").into());
    }
    let first = context.out.secret("New passphrase: ")?;
    let second = context.out.secret("Once more: ")?;
    if first == second && !first.expose().is_empty() {
        return Ok(first);
    }
    let what = if first == second { "the passphrase is empty" } else { "the passphrases differ" };
    Err(Failure::new(codes::USAGE, what).into())
}

/// A passphrase or recovery key from a file, without the end of its line.
pub fn read_secret(path: &Path) -> Result<Secret, Failure> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let file =
        File::from(file.map_err(|error| super::restore::cannot("open", path, &error.into()))?);
    let mut text = String::new();
    file.take(PASSPHRASE_MAX_BYTES)
        .read_to_string(&mut text)
        .map_err(|error| super::restore::cannot("read", path, &error))?;
    text.truncate(text.trim_end_matches(['\n', '\r']).len());
    Ok(Secret::new(text))
}

/// A new file that only its owner reads.
fn make_private(path: &Path) -> Result<File, Failure> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)
        .map(File::from)
        .map_err(|error| super::restore::cannot("make", path, &error.into()))
}

fn remove(slot: u32, context: &mut Context<'_>) -> Result<u8, Stop> {
    let plan = format!("slot {slot} will open the store no more; this cannot be undone");
    if context.global.dry_run {
        context.out.plan(&plan)?;
        return Ok(0);
    }
    let refusal = Failure::new(codes::UNCONFIRMED, format!("{plan}; pass --yes"));
    context.confirm(&plan, "the slot's number", &slot.to_string(), refusal)?;
    context.answer(KeyRemove { slot }, |out, zone, left| {
        out.line(&format!("removed slot {slot}"))?;
        say(out, zone, &left.slots)
    })
}
