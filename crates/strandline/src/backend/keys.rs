//! What opens a store, from what the command line, the service manager and the user give.
//!
//! A typed or stored secret that has the form of a recovery key is one: a user who has lost the key
//! file writes it where a passphrase would stand.

use super::EngineOptions;
use crate::{commands::read_secret, out};
use api::{Failure, codes};
use manifest::{RecoveryKey, SlotKind};
use server::engine::{InitKey, KeySource, slot_kinds};
use std::{env, path::PathBuf};
use zeroize::Zeroizing;

/// Name of the credential that a service manager may pass.
const CREDENTIAL: &str = "strandline.passphrase";
/// How recovery keys begin; with it a mistyped one is told as such.
const RECOVERY: &str = "SL1-";

/// What opens the store that exists. With `ask`, the user is asked for a passphrase in any case.
pub(super) fn source(options: &EngineOptions, ask: bool) -> Result<KeySource, Failure> {
    if let Some(file) = &options.key_file {
        return Ok(KeySource::File(file.clone()));
    }
    if let Some(file) = options.passphrase_file.clone().or_else(credential) {
        return Ok(secret(read(&file)?));
    }
    // A store that is not there, or damaged, is told by who opens it.
    let kinds = slot_kinds(&options.store).map(|(_, kinds)| kinds).unwrap_or_default();
    let has = |kind| kinds.contains(&kind);
    if !ask && (has(SlotKind::KeyFile) || !has(SlotKind::Passphrase)) {
        return Ok(KeySource::Search);
    }
    if !options.may_ask {
        let text = "the store wants a passphrase, and nobody is there to type it";
        return Err(Failure::new(codes::KEY_MISSING, text).doing(
            "pass --passphrase-file FILE, or a systemd credential `strandline.passphrase`",
        ));
    }
    Ok(secret(typed("Passphrase or recovery key: ")?))
}

/// What shall open a store that is made.
pub(super) fn for_new_store(options: &EngineOptions, passphrase: bool) -> Result<InitKey, Failure> {
    if !passphrase {
        return Ok(InitKey::File(options.key_file.clone()));
    }
    if let Some(file) = &options.passphrase_file {
        return match read(file)? {
            text if text.is_empty() => Err(empty()),
            text => Ok(InitKey::Passphrase(text)),
        };
    }
    if !options.may_ask {
        return Err(Failure::new(codes::KEY_MISSING, "nobody is there to type a passphrase")
            .doing("pass --passphrase-file FILE"));
    }
    let first = typed("New passphrase: ")?;
    if first.is_empty() {
        return Err(empty());
    }
    if typed("Once more: ")? != first {
        return Err(Failure::new(codes::USAGE, "the passphrases differ; nothing was made"));
    }
    Ok(InitKey::Passphrase(first))
}

fn secret(text: Zeroizing<String>) -> KeySource {
    let looks = text.trim_start().get(..RECOVERY.len()).is_some_and(|start| start == RECOVERY);
    if looks || RecoveryKey::parse(&text).is_ok() {
        return KeySource::Recovery(text);
    }
    KeySource::Passphrase(text)
}

fn read(file: &std::path::Path) -> Result<Zeroizing<String>, Failure> {
    // It goes to the key slots and is wiped there.
    read_secret(file).map(|secret| Zeroizing::new(secret.expose().to_owned()))
}

fn typed(question: &str) -> Result<Zeroizing<String>, Failure> {
    let secret = out::secret(question).map_err(|error| {
        Failure::new(codes::KEY_MISSING, format!("no passphrase could be read: {error}"))
    })?;
    Ok(Zeroizing::new(secret.expose().to_owned()))
}

fn credential() -> Option<PathBuf> {
    let file = PathBuf::from(env::var_os("CREDENTIALS_DIRECTORY")?).join(CREDENTIAL);
    file.is_file().then_some(file)
}

fn empty() -> Failure {
    Failure::new(codes::USAGE, "the passphrase is empty")
}
