//! What a server must know and settle about processes and users: its own memory and limits, whether
//! a peer of old still lives, names of users and groups.
#![expect(unsafe_code, reason = "mlock, and the look-up of users (getpwnam_r)")]

use std::{
    ffi::{CStr, CString},
    io, mem, ptr,
};

use rustix::{
    fs::{self, Mode, OFlags},
    io::Errno,
    process::{DumpableBehavior, Resource, getrlimit, set_dumpable_behavior, setrlimit},
};

/// Lifts our limit of open descriptors to what the administrator allows; the limit then.
pub fn raise_descriptor_limit() -> io::Result<Option<u64>> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        setrlimit(Resource::Nofile, limit)?;
    }
    Ok(limit.current)
}

/// Keeps memory (a key) out of swap until it is unmapped or the process ends. Whole pages are
/// locked, so what shares them is too.
pub fn lock_memory(bytes: &[u8]) -> io::Result<()> {
    let start = bytes.as_ptr().cast_mut().cast();
    // SAFETY: locking changes no contents, and the range is that of a live slice.
    Ok(unsafe { rustix::mm::mlock(start, bytes.len()) }?)
}

/// No core dumps with keys in them, and no debugger of the same user. `/proc/self` belongs to root
/// from then on; our own way through `/proc/self/fd` stays.
pub fn forbid_dumps() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// A process for good: its number is used again, number and start time are not (within one boot).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProcessId {
    /// Its number.
    pub pid: i32,
    /// When it started, in the kernel's ticks since boot.
    pub start_ticks: u64,
}

impl ProcessId {
    /// The process that has the number now; `None` if there is none or it has ended already.
    pub fn of(pid: i32) -> io::Result<Option<Self>> {
        if pid <= 0 {
            return Ok(None); // a peer outside our namespace has number 0
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = match fs::open(format!("/proc/{pid}/stat"), flags, Mode::empty()) {
            Err(Errno::NOENT | Errno::SRCH) => return Ok(None),
            other => other?,
        };
        let mut line = [0; 1024]; // a few hundred bytes: 52 numbers and a name of at most 64
        let length = match rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut line)) {
            Err(Errno::SRCH) => return Ok(None),
            other => other?,
        };
        match parse_stat(&line[..length]) {
            Some((b'Z' | b'X', _)) => Ok(None),
            Some((_, start_ticks)) => Ok(Some(Self { pid, start_ticks })),
            None => Err(io::Error::new(io::ErrorKind::InvalidData, "/proc/PID/stat")),
        }
    }

    /// Whether this very process still runs. Where /proc does not tell, it may.
    pub fn lives(self) -> bool {
        Self::of(self.pid).map_or(true, |found| found == Some(self))
    }
}

/// Name of the program that a process runs, as `ps` shows it.
pub fn program_of(pid: i32) -> Option<String> {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim_end().to_owned()).filter(|name| pid > 0 && !name.is_empty())
}

/// All groups of a process but its main one; none if it has ended.
pub fn groups_of(pid: i32) -> Vec<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:"));
    let groups = groups.unwrap_or_default().split_ascii_whitespace();
    groups.filter_map(|group| group.parse().ok()).collect()
}

/// State (field 3) and start time (field 22) of proc_pid_stat(5). The name (field 2) stands in
/// parentheses and may hold any byte, so fields count from the last `)`.
fn parse_stat(line: &[u8]) -> Option<(u8, u64)> {
    let after = line.iter().rposition(|&byte| byte == b')')? + 1;
    let mut fields = std::str::from_utf8(&line[after..]).ok()?.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let start = fields.nth(22 - 4)?.parse().ok()?;
    Some((state, start))
}

/// Name of a user, if the system knows one.
pub fn user_name(uid: u32) -> Option<String> {
    look_up(libc::passwd::default_zero(), |entry, buffer, length, found| {
        // SAFETY: as `look_up` promises.
        unsafe { libc::getpwuid_r(uid, entry, buffer, length, found) }
    })
    .ok()?
    .and_then(|found| found.1)
}

/// Number of a user.
pub fn user_id(name: &str) -> io::Result<Option<u32>> {
    let Ok(name) = CString::new(name) else { return Ok(None) };
    let found = look_up(libc::passwd::default_zero(), |entry, buffer, length, found| {
        // SAFETY: as `look_up` promises; the name ends with a zero.
        unsafe { libc::getpwnam_r(name.as_ptr(), entry, buffer, length, found) }
    });
    Ok(found?.map(|found| found.0))
}

/// Name of a group, if the system knows one.
pub fn group_name(gid: u32) -> Option<String> {
    look_up(libc::group::default_zero(), |entry, buffer, length, found| {
        // SAFETY: as `look_up` promises.
        unsafe { libc::getgrgid_r(gid, entry, buffer, length, found) }
    })
    .ok()?
    .and_then(|found| found.1)
}

/// Number of a group.
pub fn group_id(name: &str) -> io::Result<Option<u32>> {
    let Ok(name) = CString::new(name) else { return Ok(None) };
    let found = look_up(libc::group::default_zero(), |entry, buffer, length, found| {
        // SAFETY: as `look_up` promises; the name ends with a zero.
        unsafe { libc::getgrnam_r(name.as_ptr(), entry, buffer, length, found) }
    });
    Ok(found?.map(|found| found.0))
}

/// An entry of the user or group database, as C has it.
trait Entry: Sized {
    /// All zeros: no pointer points anywhere.
    fn default_zero() -> Self {
        // SAFETY: implemented for structs of integers and raw pointers only.
        unsafe { mem::zeroed() }
    }
    /// Number and name.
    fn named(&self) -> (u32, *const libc::c_char);
}

impl Entry for libc::passwd {
    fn named(&self) -> (u32, *const libc::c_char) {
        (self.pw_uid, self.pw_name)
    }
}

impl Entry for libc::group {
    fn named(&self) -> (u32, *const libc::c_char) {
        (self.gr_gid, self.gr_name)
    }
}

/// Calls one of the `get…_r` functions with an entry, a buffer and its length, and a place for the
/// result, with longer buffers until the entry fits.
fn look_up<E: Entry>(
    mut entry: E,
    call: impl Fn(*mut E, *mut libc::c_char, usize, *mut *mut E) -> libc::c_int,
) -> io::Result<Option<(u32, Option<String>)>> {
    let mut buffer: Vec<libc::c_char> = vec![0; 1024];
    loop {
        let mut found = ptr::null_mut();
        match call(&raw mut entry, buffer.as_mut_ptr(), buffer.len(), &raw mut found) {
            0 if found.is_null() => return Ok(None),
            0 => {
                let (id, name) = entry.named();
                // SAFETY: a found entry's name ends with a zero and lies in the buffer.
                let name = unsafe { CStr::from_ptr(name) };
                return Ok(Some((id, name.to_str().ok().map(str::to_owned))));
            }
            libc::EINTR => (),
            libc::ERANGE if buffer.len() < 1 << 24 => buffer.resize(buffer.len() * 4, 0),
            // What some systems say for "no such name".
            libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM => return Ok(None),
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_lives_until_it_is_reaped() {
        let own = i32::try_from(std::process::id()).expect("a pid");
        let own = ProcessId::of(own).expect("read").expect("we live");
        assert!(own.lives());
        assert!(
            !ProcessId { start_ticks: own.start_ticks + 1, ..own }.lives(),
            "number used again"
        );

        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("cat runs");
        let found = ProcessId::of(i32::try_from(child.id()).expect("a pid")).expect("read");
        let found = found.expect("waits for its input");
        assert!(found.lives());
        drop(child.stdin.take());
        child.wait().expect("ends");
        assert!(!found.lives());
        assert_eq!(ProcessId::of(0).expect("no such process"), None);
    }

    #[test]
    fn a_process_name_may_look_like_fields() {
        let mut line = b"17 (a) S 1 (b) R".to_vec();
        for number in 4..=52 {
            line.extend(format!(" {number}").into_bytes());
        }
        assert_eq!(parse_stat(&line), Some((b'R', 22)));
        assert_eq!(parse_stat(b"17 (a) S 1 2"), None);
        assert_eq!(parse_stat(b""), None);
    }

    #[test]
    fn a_process_tells_its_program_and_groups() {
        let own = i32::try_from(std::process::id()).expect("a pid");
        assert!(program_of(own).is_some_and(|name| !name.contains('\n')));
        let kernel: Vec<u32> =
            rustix::process::getgroups().expect("ours").iter().map(|gid| gid.as_raw()).collect();
        let (mut told, mut known) = (groups_of(own), kernel);
        told.sort_unstable();
        known.sort_unstable();
        assert_eq!(told, known);
        assert_eq!((program_of(0), groups_of(0)), (None, Vec::new()));
    }

    #[test]
    fn root_has_number_zero() {
        assert_eq!(user_name(0).as_deref(), Some("root"));
        assert_eq!(user_id("root").expect("looked up"), Some(0));
        assert_eq!(group_id("root").expect("looked up"), Some(0));
        assert_eq!(group_name(0).as_deref(), Some("root"));
        assert_eq!(user_id("no such user").expect("looked up"), None);
        assert_eq!(group_id("nul\0").expect("looked up"), None);
    }

    #[test]
    fn the_descriptor_limit_reaches_its_maximum() {
        let limit = raise_descriptor_limit().expect("raised");
        assert_eq!(limit, getrlimit(Resource::Nofile).maximum);
    }

    #[test]
    fn a_key_can_be_locked() {
        lock_memory(&[1; 64]).expect("one page is allowed to everybody");
    }
}
