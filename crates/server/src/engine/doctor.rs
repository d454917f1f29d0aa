//! `doctor`: the checks that only who has the store open can make.

use super::{
    rights::Anyone,
    running::{Engine, Listening},
    status::days_left_of,
};
use api::{
    Failure,
    amounts::{days_text, size_text},
    verbs::doctor::{Check, Checks, Health},
};
use segment_log::AckPolicy;
use std::os::unix::fs::MetadataExt as _;
use world::real::FileSystemKind;

/// Days at which a disk is nearly full.
const DAYS_FEW: f64 = 14.0;
/// Mode bits that let others write.
const OTHERS_WRITE: u32 = 0o002;

impl Engine {
    pub(super) fn doctor(&self) -> Result<Checks, Failure> {
        let checks = [
            self.check_store()?,
            self.check_ground(),
            self.check_key(),
            self.check_clock(),
            self.check_room()?,
            self.check_rights(),
        ];
        let checks = checks.into_iter().chain(self.check_sockets()).collect();
        Ok(Checks { checks })
    }

    fn check_store(&self) -> Result<Check, Failure> {
        let pulse = self.pulse()?;
        let path = self.held.path.display();
        if let Some(poison) = pulse.poison {
            return Ok(fail(
                format!("store {path} takes no writes: {poison}"),
                "look at the disk, then start the server again",
            ));
        }
        if let Some(fault) = pulse.faults.first() {
            let more = match pulse.faults.len() - 1 {
                0 => String::new(),
                more => format!("; and {more} more: strandline status"),
            };
            return Ok(fail(format!("store {path}: {fault}{more}"), "strandline store check"));
        }
        if pulse.damaged > 0 {
            let text = format!("store {path}: {} damaged places were met", pulse.damaged);
            return Ok(fail(text, "strandline store check"));
        }
        if let Some(trouble) = pulse.trouble {
            return Ok(warn(
                format!("store {path}: background work failed: {trouble}"),
                "look at the disk",
            ));
        }
        if !self.held.healed.is_empty() {
            let text =
                format!("store {path} was mended at its start: {}", self.held.healed.join("; "));
            return Ok(warn(text, "strandline store check"));
        }
        Ok(ok(format!("store {path}: clean, {}", self.held.file_system.name)))
    }

    fn check_ground(&self) -> Check {
        let name = self.held.file_system.name;
        let policy = format!("ack policy {}, {}", self.ack(), self.io);
        match (self.held.file_system.kind, self.held.config.ack) {
            (FileSystemKind::Network, _) => warn(
                format!("{name} is a network file system: {policy}"),
                "move the store to a local disk",
            ),
            (FileSystemKind::Memory, _) => warn(
                format!("{name} is memory: a power cut takes the store: {policy}"),
                "move the store to a disk",
            ),
            (FileSystemKind::CopyOnWrite, _) => warn(
                format!("{name} writes each block anew: {policy}, slower"),
                "use ext4 or xfs where speed counts",
            ),
            (_, AckPolicy::Page | AckPolicy::Memory) => warn(
                format!("{policy}: a power cut takes what was answered and not flushed"),
                "serve --ack disk",
            ),
            (_, AckPolicy::Disk) => ok(policy),
        }
    }

    fn check_key(&self) -> Check {
        let Some(file) = &self.held.key_file else {
            return ok("the store was opened without a key file".to_owned());
        };
        let beside =
            std::fs::canonicalize(file).is_ok_and(|file| file.starts_with(&self.held.path));
        if beside {
            return warn(
                format!(
                    "the key file {} lies in the store: who has the disk has the key",
                    file.display()
                ),
                "move it away and name it with --key-file",
            );
        }
        let open = std::fs::metadata(file).is_ok_and(|metadata| metadata.mode() & 0o077 != 0);
        if open {
            return fail(
                format!("others may read the key file {}", file.display()),
                &format!("chmod 600 {}", file.display()),
            );
        }
        ok("the key file lies outside the store".to_owned())
    }

    fn check_clock(&self) -> Check {
        if self.held.clock.synchronised() {
            return ok("clock: synchronised".to_owned());
        }
        warn(
            "clock: the kernel does not call it synchronised".to_owned(),
            "run chrony or systemd-timesyncd",
        )
    }

    fn check_room(&self) -> Result<Check, Failure> {
        let past = self.look()?;
        let space = self.space(&past)?;
        let room = space.free.saturating_sub(space.reserve);
        let text = format!("{} of {} are free", size_text(space.free), size_text(space.total));
        Ok(match days_left_of(&past, room) {
            _ if room == 0 => {
                fail(format!("the disk is full: {text}"), "make room, or move the store")
            }
            Some(days) if days < DAYS_FEW => warn(
                format!("{text}: {} at the pace of the last day", days_text(days)),
                "make room; nothing of history is thinned yet",
            ),
            Some(days) => ok(format!("{text}: {} at the pace of the last day", days_text(days))),
            None => ok(text),
        })
    }

    fn check_rights(&self) -> Check {
        match self.settings.anyone {
            None => ok("who is not known may do nothing".to_owned()),
            Some(Anyone::Read) => {
                warn("who is not known may read every volume".to_owned(), "serve without --anyone")
            }
            Some(Anyone::Write) => {
                warn("who is not known may write every volume".to_owned(), "serve without --anyone")
            }
        }
    }

    fn check_sockets(&self) -> Vec<Check> {
        let unix = self.listening().into_iter().filter_map(|listening| match listening {
            Listening::Unix(path) => Some(path),
            Listening::Tcp(_) => None,
        });
        unix.map(|path| {
            let mode = std::fs::metadata(&path).map(|metadata| metadata.mode());
            match mode {
                Ok(mode) if mode & OTHERS_WRITE != 0 => fail(
                    format!("{} is world-writable", path.display()),
                    "serve --socket-group kvm",
                ),
                Ok(_) => ok(format!("{} is closed to others", path.display())),
                Err(error) => {
                    fail(format!("{}: {error}", path.display()), "start the server again")
                }
            }
        })
        .collect()
    }
}

fn ok(what: String) -> Check {
    Check { health: Health::Ok, what, remedy: None }
}

fn warn(what: String, remedy: &str) -> Check {
    Check { health: Health::Warn, what, remedy: Some(remedy.to_owned()) }
}

fn fail(what: String, remedy: &str) -> Check {
    Check { health: Health::Fail, what, remedy: Some(remedy.to_owned()) }
}
