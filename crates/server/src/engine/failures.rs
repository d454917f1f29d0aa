//! From what went wrong below to what a user is told: one function for each kind of error.
//!
//! A message says what was wrong, in the words of the manual; its hint is the one thing that helps.
//! Who has no right to know of a name is refused before anything here is asked.

use super::open::no_store;
use crate::data::ChangeError;
use api::{
    Failure, Zone,
    amounts::{count_text, size_text, stretch_text},
    codes::{self, Code},
    failure::Label,
};
use block_device::BlockError;
use catalogue::{
    AttachedClient, CatalogueError, InstantError, RecordError, Rounding, SizeError, When, Who,
};
use manifest::{ManifestError, SecretsError};
use segment_log::OpenError;
use std::{io, path::Path};
use units::Timestamp;
use world::real::program_of;

/// The disk refused something of ours.
pub(super) fn disk_failure(doing: &str, error: &io::Error) -> Failure {
    let code = match error.kind() {
        io::ErrorKind::NotFound => codes::NO_FILE,
        io::ErrorKind::AlreadyExists
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::IsADirectory => codes::TARGET_EXISTS,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => codes::STORE_FULL,
        io::ErrorKind::PermissionDenied => codes::FILE_DENIED,
        io::ErrorKind::ReadOnlyFilesystem => codes::READ_ONLY,
        _ => codes::DISK_ERROR,
    };
    let failure = Failure::new(code, format!("cannot {doing}: {error}"));
    match code {
        codes::FILE_DENIED => {
            failure.doing("run the command as its owner, or name a place of your own")
        }
        codes::STORE_FULL => failure.doing("make room on that file system: df -h"),
        _ => failure,
    }
}

/// Super blocks and key slots.
pub(super) fn secrets_failure(dir: &Path, error: SecretsError) -> Failure {
    let text = error.to_string();
    match error {
        SecretsError::Io { doing, source } => denied_in(dir, disk_failure(doing, &source)),
        SecretsError::Missing => no_store(dir),
        SecretsError::Exists => Failure::new(
            codes::STORE_EXISTS,
            format!("there is a store in {} already", dir.display()),
        ),
        SecretsError::Damaged | SecretsError::TwoStores { .. } | SecretsError::Forged { .. } => {
            Failure::new(codes::STORE_DAMAGED, text)
                .doing("put super.a or super.b back from a copy of the store")
        }
        SecretsError::Format { .. } => Failure::new(codes::STORE_DAMAGED, text)
            .doing("use the version that made the store, or a newer one"),
        SecretsError::NoSlot { .. }
        | SecretsError::WrongSecret { .. }
        | SecretsError::OtherStore { .. }
        | SecretsError::NoKeyFile => Failure::new(codes::WRONG_KEY, text).doing(
            "name the right one: --key-file FILE, or --passphrase-file FILE with the recovery key",
        ),
        SecretsError::LastSlot { .. } => Failure::new(codes::LAST_KEY, text)
            .doing("add another one first: strandline store key add"),
        SecretsError::UnknownSlot { .. } => {
            Failure::new(codes::NO_KEY_SLOT, text).seeing("strandline store key ls")
        }
        SecretsError::Full => Failure::new(codes::NOT_ALLOWED, text)
            .doing("remove one that nobody uses: strandline store key rm"),
        SecretsError::BadLabel | SecretsError::BadPassphrase => Failure::new(codes::USAGE, text),
    }
}

/// With what finds the files in the way, where a store is not all ours.
pub(super) fn denied_in(dir: &Path, failure: Failure) -> Failure {
    if failure.code != codes::FILE_DENIED {
        return failure;
    }
    let find = format!("find {} ! -readable -o ! -writable", dir.display());
    failure
        .doing("run it as the store's owner; all that is in it must belong to that user")
        .seeing(find)
}

/// The manifest.
pub(super) fn manifest_failure(error: &ManifestError) -> Failure {
    match error {
        ManifestError::Io { doing, source } => disk_failure(doing, source),
        _ => Failure::new(codes::STORE_DAMAGED, error.to_string())
            .doing("put the directory `manifest` back from a copy of the store"),
    }
}

/// A record of the catalogue.
pub(super) fn record_failure(error: &RecordError) -> Failure {
    Failure::new(codes::STORE_DAMAGED, error.to_string())
}

/// The log does not open.
pub(super) fn log_failure(error: OpenError) -> Failure {
    match error {
        OpenError::Disk(error) => disk_failure("open the log", &error),
        OpenError::Missing(missing) => {
            let text = format!(
                "flushed data is missing: the log ends at seq {}, and all up to seq {} was on disk",
                count_text(missing.last.number()),
                count_text(missing.durable.number())
            );
            Failure::new(codes::STORE_DAMAGED, text)
                .doing("look for the missing files in log/; or go on without: --accept-loss")
        }
        other => Failure::new(codes::STORE_DAMAGED, with_causes(&other)),
    }
}

/// A page of the index cannot be had.
pub(super) fn index_failure(error: &history_index::Error) -> Failure {
    Failure::new(codes::DAMAGED, with_causes(error)).seeing("strandline store check")
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// What was to become durable did not.
pub(super) fn change_failure(error: ChangeError) -> Failure {
    match error {
        ChangeError::Refused => {
            Failure::new(codes::DISK_ERROR, "the store could not write it, and takes no more")
                .seeing("strandline status")
        }
        ChangeError::Stopped => Failure::new(codes::SERVER_GONE, "the server is stopping"),
    }
}

/// A block could not be read.
pub(super) fn block_failure(error: BlockError, what: &str) -> Failure {
    match error {
        BlockError::Stopping => change_failure(ChangeError::Stopped),
        BlockError::NoSpace => Failure::new(codes::STORE_FULL, "the store has no room"),
        BlockError::Io => {
            Failure::new(codes::DAMAGED, format!("{what} cannot be read: its bytes are damaged"))
                .seeing("strandline store check")
        }
        other => Failure::bug(format!("{what}: {other}")),
    }
}

/// Nothing is written here.
pub(super) fn read_only_failure() -> Failure {
    Failure::new(codes::READ_ONLY, "the store is open for reading only")
        .doing("make its directory writable, or serve it without --read-only")
}

/// What failures say of times is said with this: the zone of the server, and its present.
#[derive(Clone, Copy)]
pub(super) struct Teller {
    pub now: Timestamp,
}

impl Teller {
    /// A change is refused.
    pub(super) fn catalogue(self, error: CatalogueError) -> Failure {
        let text = error.to_string();
        match error {
            CatalogueError::NoVolume { name, near, in_trash } => {
                let failure =
                    Failure::new(codes::NO_VOLUME, format!("there is no volume `{name}`"));
                if in_trash {
                    failure.doing(format!(
                        "bring it back from the trash: strandline vol undelete {name}"
                    ))
                } else if near.is_empty() {
                    failure.seeing("strandline vol ls")
                } else {
                    failure.meaning(format!("{}?", near.join(", "))).seeing("strandline vol ls")
                }
            }
            CatalogueError::VolumeGone(_) => {
                Failure::new(codes::NO_VOLUME, text).seeing("strandline vol ls")
            }
            CatalogueError::NoBranch { volume, near, .. } => {
                let failure = Failure::new(codes::NO_BRANCH, text)
                    .seeing(format!("strandline log {volume} --graph"));
                match near.first() {
                    Some(near) => failure.meaning(format!("{volume}~{near}?")),
                    None => failure,
                }
            }
            CatalogueError::BranchGone(_) | CatalogueError::ForeignBranch { .. } => {
                Failure::new(codes::NO_BRANCH, text)
            }
            CatalogueError::MarkGone(_) => Failure::new(codes::NO_INSTANT, text),
            CatalogueError::OpeningGone(_) | CatalogueError::NotOpened { .. } => {
                Failure::new(codes::NOT_OPENED, text)
            }
            CatalogueError::NoClient(_) => Failure::new(codes::NO_CLIENT, text),
            CatalogueError::VolumeExists { name, size_bytes, created } => {
                let facts = format!("{}, created {}", size_text(size_bytes), self.ago(created));
                Failure::new(codes::VOLUME_EXISTS, format!("volume `{name}` exists ({facts})"))
            }
            CatalogueError::Name(_) => Failure::new(codes::VOLUME_NAME, text),
            CatalogueError::Size(SizeError::NotWholeBlocks { next_bytes, .. }) => {
                Failure::new(codes::SIZE_UNALIGNED, text).doing(format!("use {next_bytes}"))
            }
            CatalogueError::Size(SizeError::TooLarge { .. }) => Failure::new(codes::SIZE, text),
            CatalogueError::WouldShrink { volume, from_bytes, to_bytes } => {
                let (from, to) = (size_text(from_bytes), size_text(to_bytes));
                let text = format!(
                    "volume `{volume}` would shrink from {from} to {to}; what lies behind leaves the present"
                );
                Failure::new(codes::SHRINK, text).doing("pass --shrink")
            }
            CatalogueError::Busy { volume, clients } => self.busy(volume.as_str(), &clients),
            CatalogueError::InTrash { volume, .. } => Failure::new(codes::NO_VOLUME, text)
                .doing(format!("bring it back: strandline vol undelete {volume}")),
            CatalogueError::NotInTrash { .. } => {
                Failure::new(codes::NOT_IN_TRASH, text).seeing("strandline store trash ls")
            }
            CatalogueError::PinnedMarks { volume, marks } => {
                let names: Vec<_> = marks.iter().map(ToString::to_string).collect();
                Failure::new(
                    codes::PINNED,
                    format!("pinned marks hold volume `{volume}`: {}", names.join(", ")),
                )
                .doing(format!(
                    "strandline mark unpin {volume} {}",
                    names.first().map_or("", |it| it)
                ))
            }
            CatalogueError::BranchPinned { .. } => Failure::new(codes::PINNED, text),
            CatalogueError::Refused { volume, .. } => {
                Failure::new(codes::CUT_OFF, text).doing(format!("strandline vol release {volume}"))
            }
            CatalogueError::ReadOnly { .. } => Failure::new(codes::READ_ONLY, text),
            CatalogueError::SequenceUsed { .. } => {
                Failure::new(codes::IN_USE, "another change of the size is under way")
                    .doing("try again")
            }
            CatalogueError::NumbersUsedUp(_) => Failure::new(codes::STORE_FULL, text),
            CatalogueError::NotAllTaken { .. } => Failure::bug(text),
        }
    }

    fn busy(self, volume: &str, clients: &[AttachedClient]) -> Failure {
        let names: Vec<String> = clients
            .iter()
            .map(|client| format!("{}, since {}", told(&client.who), self.clock(client.since)))
            .collect();
        let count = match clients.len() {
            1 => "1 client".to_owned(),
            count => format!("{count} clients"),
        };
        let text = format!("volume `{volume}` is in use by {count} ({})", names.join("; "));
        Failure::new(codes::IN_USE, text).doing(format!(
            "shut the guest down; or --detach, which cuts it off and refuses it until `strandline vol release {volume}`"
        ))
    }

    /// An instant cannot be had. `asked` is what the user named, for a time also which one.
    pub(super) fn instant(self, error: InstantError, asked_time: Option<Timestamp>) -> Failure {
        let text = error.to_string();
        match error {
            InstantError::Catalogue(error) => self.catalogue(error),
            InstantError::AfterNow { volume, now } => {
                let failure =
                    Failure::new(codes::NOT_YET, format!("volume `{volume}` is not that far yet"));
                let mut near = self.place(now);
                if asked_time.is_some_and(|asked| asked.since_ns(self.now) < DAY_NS) {
                    let yesterday = asked_time.map_or(self.now, |asked| asked.plus_ns(-DAY_NS));
                    near =
                        format!("{near}; yesterday's is {}", Zone::local(self.now).show(yesterday));
                }
                failure.hinting(Label::Nearest, near)
            }
            InstantError::AfterEnd { volume, branch, end } => {
                let text = format!("branch `{volume}~{branch}` ends before that");
                Failure::new(codes::NOT_YET, text).hinting(Label::Nearest, self.place(end))
            }
            InstantError::BeforeOldest { volume, oldest } => {
                let at = Zone::local(self.now).show_minute(oldest.time);
                let text = format!("{volume} keeps nothing that old; oldest is {at}");
                Failure::new(codes::TOO_OLD, text).hinting(Label::Oldest, self.place(oldest))
            }
            InstantError::Ambiguous { readings, .. } => {
                let places: Vec<String> = readings.iter().map(|at| self.place(*at)).collect();
                Failure::new(codes::TIME_AMBIGUOUS, text)
                    .doing(format!("name one by its sequence: {}", places.join(", ")))
            }
            InstantError::NoMark { volume, near, .. } => {
                let failure = Failure::new(codes::NO_INSTANT, text)
                    .seeing(format!("strandline log {volume} --marks"));
                match near.first() {
                    Some((name, at)) => failure.meaning(format!(
                        "mark:{name}  ({}, {})?",
                        self.date(at.time),
                        self.ago(at.time)
                    )),
                    None => failure,
                }
            }
            InstantError::TooFewMarks { volume, .. }
            | InstantError::MarkElsewhere { volume, .. } => Failure::new(codes::NO_INSTANT, text)
                .seeing(format!("strandline log {volume} --marks")),
            InstantError::NothingBefore { volume, rounding, before } => {
                let what = match rounding {
                    Rounding::Flush => "flush".to_owned(),
                    Rounding::Mark => "mark".to_owned(),
                    Rounding::Quiet(ns) => format!("pause of {}", stretch_text(ns)),
                };
                let at = self.place(before);
                Failure::new(
                    codes::NO_INSTANT,
                    format!("volume `{volume}` has no {what} at or before {at}"),
                )
            }
            InstantError::NoAlarm { .. } => Failure::new(codes::NO_ALARMS, text),
        }
    }

    /// `seq:93880 (2026-11-20 10:03:39)`.
    fn place(self, at: When) -> String {
        format!("seq:{} ({})", at.sequence, self.date(at.time))
    }

    fn date(self, time: Timestamp) -> String {
        Zone::local(self.now).show(time)
    }

    /// Time of day, with its date unless that is today's.
    fn clock(self, time: Timestamp) -> String {
        let text = Zone::local(self.now).show_precise(time);
        text.split_once('.').map_or(text.clone(), |(seconds, _)| seconds.to_owned())
    }

    fn ago(self, time: Timestamp) -> String {
        format!("{} ago", stretch_text(self.now.since_ns(time).max(0).unsigned_abs()))
    }
}

const DAY_NS: i64 = 86_400_000_000_000;

/// A client as messages name it: `qemu, pid 4121`.
pub(super) fn told(who: &Who) -> String {
    match who {
        Who::Process { uid, pid, .. } => match i32::try_from(*pid).ok().and_then(program_of) {
            Some(program) => format!("{}, pid {pid}", program.escape_debug()),
            None => format!("pid {pid} of uid {uid}"),
        },
        Who::Address(_) | Who::Name(_) => who.to_string(),
    }
}

/// A failure with that code and text that tells where to look for all of a kind.
pub(super) fn missing(code: Code, text: impl Into<String>, see: &str) -> Failure {
    Failure::new(code, text).seeing(see)
}
