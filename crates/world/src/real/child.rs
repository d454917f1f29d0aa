//! A program run to its end in the foreground, as if it had been started in our place.
//!
//! Signals that end programs are passed on to it and do not end us: what we hold for it (locks) stays
//! until it has ended. Those that a terminal sends (Ctrl-C) reach the whole foreground group by
//! themselves and are not passed on a second time.
#![expect(unsafe_code, reason = "sets signal handlers")]

use std::{
    io, mem,
    os::unix::process::ExitStatusExt as _,
    process::{Command, ExitStatus},
    ptr,
    sync::atomic::{AtomicBool, AtomicI32, Ordering},
};

use rustix::{
    io::retry_on_intr,
    process::{Pid, WaitId, WaitIdOptions, waitid},
};

/// What is passed on.
const SIGNALS: [libc::c_int; 6] =
    [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2];

/// Whom the handler passes signals to; 0 while there is nobody.
static CHILD: AtomicI32 = AtomicI32::new(0);

/// A signal that came before there was anybody.
static EARLY: AtomicI32 = AtomicI32::new(0);

/// One program at a time.
static RUNNING: AtomicBool = AtomicBool::new(false);

/// Starts a program and waits until it has ended.
pub fn run_to_end(command: &mut Command) -> io::Result<ExitStatus> {
    if RUNNING.swap(true, Ordering::SeqCst) {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a program is run already"));
    }
    let passing = Passing::install();
    let ended = run(command);
    drop(passing);
    RUNNING.store(false, Ordering::SeqCst);
    ended
}

/// The exit code that a shell gives for how a program ended.
pub fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    // The kernel keeps eight bits of an exit code, and signals end at 64.
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

fn run(command: &mut Command) -> io::Result<ExitStatus> {
    let mut child = command.spawn()?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.expect("a child has a number");
    CHILD.store(pid.as_raw_nonzero().get(), Ordering::SeqCst);
    let early = EARLY.swap(0, Ordering::SeqCst);
    if early != 0 {
        send(pid.as_raw_nonzero().get(), early);
    }
    // Its number stays taken until it is reaped below: the handler never meets a stranger.
    let wait = || waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
    let ended = retry_on_intr(wait);
    CHILD.store(0, Ordering::SeqCst);
    ended?;
    child.wait()
}

/// The handlers, while they are in force.
struct Passing {
    before: [libc::sigaction; SIGNALS.len()],
}

impl Passing {
    fn install() -> Self {
        EARLY.store(0, Ordering::SeqCst);
        // SAFETY: an action without handler, mask and flags is all zeros.
        let mut passing = Self { before: unsafe { mem::zeroed() } };
        for (signal, before) in SIGNALS.into_iter().zip(&mut passing.before) {
            // SAFETY: the handler does only what handlers may do; `before` is ours.
            unsafe {
                libc::sigaction(signal, ptr::null(), &raw mut *before);
                if before.sa_sigaction == libc::SIG_IGN {
                    continue; // nohup: what was ignored stays so, for the program too
                }
                let mut action: libc::sigaction = mem::zeroed();
                let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                    on_signal;
                action.sa_sigaction = handler as usize;
                action.sa_flags = libc::SA_RESTART | libc::SA_SIGINFO;
                libc::sigaction(signal, &raw const action, ptr::null_mut());
            }
        }
        passing
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        for (signal, before) in SIGNALS.into_iter().zip(&self.before) {
            // SAFETY: an action that the system gave us.
            unsafe { libc::sigaction(signal, &raw const *before, ptr::null_mut()) };
        }
    }
}

extern "C" fn on_signal(
    signal: libc::c_int,
    told: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    // SAFETY: with SA_SIGINFO the kernel gives a siginfo that lives as long as the handler runs.
    let of_kernel = unsafe { (*told).si_code } > 0;
    let child = CHILD.load(Ordering::SeqCst);
    if child == 0 {
        EARLY.store(signal, Ordering::SeqCst);
    } else if !of_kernel {
        send(child, signal);
    }
}

fn send(child: i32, signal: libc::c_int) {
    // SAFETY: `kill` may be called in handlers, and what it does to `errno` is undone before the
    // interrupted code can see it.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        libc::kill(child, signal);
        *errno = before;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Signal, getpid, kill_process};
    use std::{io::BufRead as _, process::Stdio, sync::Mutex, thread};

    /// Signals and the one program are of the whole process.
    static ALONE: Mutex<()> = Mutex::new(());

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn the_end_of_the_program_is_told() {
        let _alone = ALONE.lock();
        assert_eq!(exit_code(run_to_end(&mut shell("exit 7")).expect("runs")), 7);
        assert_eq!(exit_code(run_to_end(&mut shell("kill -9 $$")).expect("runs")), 137);
        let error = run_to_end(&mut Command::new("/nonexistent")).expect_err("no program");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_signal_goes_to_the_program_and_not_to_us() {
        let _alone = ALONE.lock();
        let (told, heard) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let mut command = shell("trap 'exit 42' TERM; echo ready; while :; do read x; done");
        // Its input stays open and empty: it waits there, and the trap interrupts it.
        let (input, _keep) = std::os::unix::net::UnixStream::pair().expect("a pair");
        command.stdin(Stdio::from(std::os::fd::OwnedFd::from(input)));
        command.stdout(Stdio::from(std::os::fd::OwnedFd::from(told)));
        let sender = thread::Builder::new().spawn(move || {
            let mut line = String::new();
            std::io::BufReader::new(heard).read_line(&mut line).expect("heard");
            assert_eq!(line, "ready\n");
            kill_process(getpid(), Signal::TERM).expect("sent");
        });
        let status = run_to_end(&mut command).expect("runs");
        sender.expect("a thread").join().expect("sent");
        assert_eq!(exit_code(status), 42);
    }
}
