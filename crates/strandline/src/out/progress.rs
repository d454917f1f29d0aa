//! Progress on stderr: a bar on a terminal, lines of text or JSON when asked for, else nothing.

use crate::cli::ProgressForm;
use anstream::stderr;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal as _, Write as _};

/// Progress of one piece of work over a known number of bytes.
pub struct Progress {
    bar: Option<ProgressBar>,
    lines: Option<bool>, // whether as JSON
    what: &'static str,
    total: u64,
    done: u64,
    told: u64,
}

impl Progress {
    /// Begins; `what` is a verb as in `restoring`.
    pub fn new(form: ProgressForm, quiet: bool, what: &'static str, total: u64) -> Self {
        let bars = form == ProgressForm::Auto && !quiet && std::io::stderr().is_terminal();
        let bar = bars.then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            let form = " {msg} {bar:20} {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {eta_precise}";
            if let Ok(style) = ProgressStyle::with_template(form) {
                bar.set_style(style.progress_chars("━╸─"));
            }
            bar.set_message(what);
            bar
        });
        let lines = match form {
            ProgressForm::Plain => Some(false),
            ProgressForm::Json => Some(true),
            ProgressForm::Auto | ProgressForm::None => None,
        };
        Self { bar, lines, what, total, done: 0, told: 0 }
    }

    /// So many bytes more are done.
    pub fn advance(&mut self, bytes: u64) {
        self.done += bytes;
        if let Some(bar) = &self.bar {
            bar.set_position(self.done);
        }
        let step = (self.total / 100).max(1);
        if self.done / step > self.told / step || self.done == self.total {
            self.told = self.done;
            self.tell();
        }
    }

    fn tell(&self) {
        let (what, done, total) = (self.what, self.done, self.total);
        let line = match self.lines {
            Some(true) => {
                serde_json::json!({ "progress": what, "done": done, "total": total }).to_string()
            }
            Some(false) => format!("{what} {done}/{total}"),
            None => return,
        };
        let _ = writeln!(stderr(), "{line}"); // progress that nobody reads is no failure
    }

    /// Ends, and clears the bar.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
