//! `restore`: an instant's whole disk, or files out of it.

mod disk;
mod files;

use crate::{cli::RestoreArgs, context::Context, out::Stop};
use api::{Failure, codes};
use std::{
    io::{self, ErrorKind},
    path::Path,
};

pub(super) fn run(args: &RestoreArgs, context: &mut Context<'_>) -> Result<u8, Stop> {
    match (&args.to_disk, &args.to) {
        (Some(path), _) => disk::run(args, path, context),
        (None, Some(folder)) => files::run(args, folder, context),
        (None, None) => Err(Failure::new(codes::USAGE, "say where to: --to or --to-disk").into()),
    }
}

/// The system's refusal to do something with a file that the user named.
pub(super) fn cannot(verb: &str, path: &Path, error: &io::Error) -> Failure {
    let code = match error.kind() {
        ErrorKind::NotFound => codes::NO_FILE,
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => codes::FILE_DENIED,
        ErrorKind::AlreadyExists => codes::TARGET_EXISTS,
        ErrorKind::ResourceBusy => codes::IN_USE,
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            codes::TARGET_FULL
        }
        _ => codes::DISK_ERROR,
    };
    Failure::new(code, format!("cannot {verb} {}: {error}", path.display()))
}
