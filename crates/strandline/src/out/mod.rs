//! Printing: text or JSON on stdout; failures, questions and progress on stderr.
//!
//! Nothing else prints. A reader that closes the pipe ends the command without a word.

mod progress;
mod spark;
mod table;

pub use progress::Progress;
pub use spark::sparkline;
pub use table::{Cell, Table};

use anstyle::{AnsiColor, Style};
use api::{Failure, failure::printable};
use std::{
    io::{self, BufRead as _, IsTerminal as _, Read as _, Write},
    process,
};
use zeroize::Zeroizing;

/// Why a command ended early.
#[derive(Debug)]
pub enum Stop {
    /// It failed.
    Failed(Failure),
    /// Nobody reads what it prints.
    PipeClosed,
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::PipeClosed;
        }
        Self::Failed(Failure::new(api::codes::TARGET_FULL, format!("cannot print: {error}")))
    }
}

/// Where a command prints.
#[expect(clippy::struct_excessive_bools, reason = "what it prints to, and how, are independent")]
pub struct Output {
    writer: Box<dyn Write>,
    terminal: bool,
    interactive: bool,
    width: usize,
    /// JSON instead of text.
    pub json: bool,
    /// Only what was asked for.
    pub quiet: bool,
}

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();

impl Output {
    /// Stdout of this process.
    pub fn of_process(json: bool, quiet: bool) -> Self {
        let stdout = anstream::AutoStream::auto(io::stdout());
        let width = rustix::termios::tcgetwinsize(io::stdout()).map_or(0, |size| size.ws_col);
        Self {
            terminal: io::stdout().is_terminal(),
            interactive: io::stdin().is_terminal() && io::stderr().is_terminal(),
            writer: Box::new(io::BufWriter::new(stdout)),
            width: if width == 0 { 100 } else { usize::from(width) },
            json,
            quiet,
        }
    }

    /// Any writer, as a terminal or a pipe, for tests.
    #[cfg(test)]
    pub fn to(writer: Box<dyn Write>, terminal: bool, json: bool) -> Self {
        Self { writer, terminal, interactive: false, width: 100, json, quiet: false }
    }

    /// Whether stdout is a terminal.
    pub const fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Whether a person can be asked.
    pub const fn is_interactive(&self) -> bool {
        self.interactive
    }

    /// Columns of the terminal.
    pub const fn width(&self) -> usize {
        self.width
    }

    /// A line; what clients and guests named is escaped.
    pub fn line(&mut self, text: &str) -> Result<(), Stop> {
        Ok(writeln!(self.writer, "{}", printable(text))?)
    }

    /// A line that is less important; not printed with `--quiet`.
    pub fn aside(&mut self, text: &str) -> Result<(), Stop> {
        if self.quiet {
            return Ok(());
        }
        Ok(writeln!(self.writer, "{DIM}{}{DIM:#}", printable(text))?)
    }

    /// What would happen, where the store was not even asked.
    pub fn plan(&mut self, text: &str) -> Result<(), Stop> {
        if self.json {
            return self.json_line(&serde_json::json!({ "schema": "plan/1", "plan": text }));
        }
        self.line(text)
    }

    /// Text as it is, with its line ends.
    pub fn text(&mut self, text: &str) -> Result<(), Stop> {
        Ok(self.writer.write_all(text.as_bytes())?)
    }

    /// A table: aligned with a head on a terminal, tab-separated without one in a pipe.
    pub fn table(&mut self, table: &Table) -> Result<(), Stop> {
        let text = if self.terminal { table.aligned(BOLD) } else { table.tabbed() };
        self.text(&text)
    }

    /// A JSON document.
    pub fn document(&mut self, value: &serde_json::Value) -> Result<(), Stop> {
        let text = serde_json::to_string_pretty(value).map_err(io::Error::from)?;
        Ok(writeln!(self.writer, "{text}")?)
    }

    /// A line of a stream of JSON documents.
    pub fn json_line(&mut self, value: &serde_json::Value) -> Result<(), Stop> {
        Ok(writeln!(self.writer, "{value}")?)
    }

    /// Asks the person at the terminal for a line.
    pub fn question(&mut self, text: &str) -> Result<String, Stop> {
        self.flush()?;
        Ok(ask(text)?)
    }

    /// Asks the person at the terminal for a secret; it is not shown.
    pub fn secret(&mut self, text: &str) -> Result<api::verbs::secret::Secret, Stop> {
        self.flush()?;
        Ok(secret(text)?)
    }

    /// Hands on what was printed.
    pub fn flush(&mut self) -> Result<(), Stop> {
        Ok(self.writer.flush()?)
    }
}

/// Asks the person at the terminal for a secret, where nothing was printed that still waits.
pub fn secret(text: &str) -> io::Result<api::verbs::secret::Secret> {
    use rustix::{
        process::{Signal, getpid, kill_process},
        termios::{LocalModes, OptionalActions, SpecialCodeIndex, tcgetattr, tcsetattr},
    };
    /// What a terminal sends for Ctrl-C.
    const INTERRUPT: u8 = 3;
    let stdin = io::stdin();
    let before = tcgetattr(&stdin)?;
    let mut silent = before.clone();
    // Ctrl-C ends the line instead of this process, which would leave the terminal mute.
    silent.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
    silent.special_codes[SpecialCodeIndex::VEOL] = INTERRUPT;
    tcsetattr(&stdin, OptionalActions::Now, &silent)?;
    let answer = prompt(text).and_then(|()| secret_line(INTERRUPT));
    tcsetattr(&stdin, OptionalActions::Now, &before)?;
    writeln!(anstream::stderr())?;
    if let Some(line) = answer? {
        return Ok(api::verbs::secret::Secret::new(line));
    }
    kill_process(getpid(), Signal::INT)?; // what Ctrl-C would have done
    Err(io::ErrorKind::Interrupted.into())
}

/// A line from the terminal; `None` if it was broken off. No byte behind it is taken.
fn secret_line(interrupt: u8) -> io::Result<Option<String>> {
    let (mut line, mut byte) = (Zeroizing::new(Vec::new()), [0]);
    let mut stdin = io::stdin().lock();
    while stdin.read(&mut byte)? == 1 {
        match byte[0] {
            b'\n' => break,
            stop if stop == interrupt => return Ok(None),
            other => line.push(other),
        }
    }
    let text = str::from_utf8(&line).map_err(io::Error::other)?;
    Ok(Some(text.trim_end_matches('\r').to_owned()))
}

fn prompt(text: &str) -> io::Result<()> {
    let mut stderr = anstream::stderr();
    write!(stderr, "{}", text.split('\n').map(printable).collect::<Vec<_>>().join("\n"))?;
    stderr.flush()
}

fn ask(text: &str) -> io::Result<String> {
    prompt(text)?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(line)
}

/// Prints a failure to stderr, as text or as JSON.
pub fn report(failure: &Failure, json: bool) {
    let mut stderr = anstream::stderr();
    let written = if json {
        serde_json::to_string(&failure.to_json())
            .map_err(io::Error::from)
            .and_then(|text| writeln!(stderr, "{text}"))
    } else {
        let red = AnsiColor::Red.on_default().bold();
        let text = failure.to_string();
        let (head, rest) = text.split_once(':').unwrap_or((&text, ""));
        writeln!(stderr, "{red}{head}{red:#}:{rest}")
    };
    if written.is_err() {
        process::exit(i32::from(failure.exit())); // nobody can be told; the exit code still says it
    }
}
