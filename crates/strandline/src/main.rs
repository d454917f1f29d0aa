//! The binary: arguments → one call below → text or JSON, and an exit code.
//!
//! `cli` is the grammar, `commands` has a file for each noun, `out` prints, `backend` opens a store
//! in this process when no server runs for it.

mod backend;
mod cli;
mod commands;
mod config;
mod context;
mod out;
mod places;
#[cfg(test)]
mod testing;

use api::{Failure, codes};
use clap::{CommandFactory as _, Parser as _, error::ErrorKind};
use cli::{Cli, Color, Noun};
use out::{Output, Stop};
use std::process::ExitCode;
use tracing_subscriber::filter::LevelFilter;

fn main() -> ExitCode {
    let mut cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misunderstood(&error),
    };
    choose_colour(cli.global.color);
    start_logs(&cli);
    let json = cli.global.json;
    if let Err(failure) = config::fill_in(&mut cli) {
        out::report(&failure, json);
        return ExitCode::from(failure.exit());
    }
    let mut output = Output::of_process(json, cli.global.quiet);
    let ended = context::Context::new(cli.global, &mut output)
        .map_err(Stop::from)
        .and_then(|mut context| commands::run(cli.noun, &mut context));
    let ended = ended.and_then(|exit| output.flush().map(|()| exit));
    match ended {
        Ok(exit) => ExitCode::from(exit),
        Err(Stop::PipeClosed) => ExitCode::SUCCESS,
        Err(Stop::Failed(failure)) => {
            let _ = output.flush(); // what was printed before stands
            out::report(&failure, json);
            ExitCode::from(failure.exit())
        }
    }
}

/// Logs go to stderr, in the form that suits the journal when it reads them. A server says what
/// changes, every other command only what is odd; `-v` says more.
fn start_logs(cli: &Cli) {
    let usual = u8::from(matches!(cli.noun, Noun::Serve(_)) && !cli.global.quiet);
    let level = match usual.saturating_add(cli.global.verbose) {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let colour = anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never;
    let logs = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(level)
        .with_ansi(colour)
        .with_target(false);
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        logs.without_time().init(); // the journal knows the time
    } else {
        logs.init();
    }
}

/// Help and version go to stdout; what is no grammar goes to stderr in the one error form.
fn misunderstood(error: &clap::Error) -> ExitCode {
    choose_colour(Color::Auto);
    if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print(); // nobody is left to tell
        return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
    }
    let words: Vec<String> = std::env::args().skip(1).collect();
    let failure = usage(error, &words);
    let json = std::env::args_os().any(|argument| argument == "--json");
    out::report(&failure, json);
    ExitCode::from(failure.exit())
}

/// The parser's words as a failure: its first line is the message, its tip the hint.
fn usage(error: &clap::Error, words: &[String]) -> Failure {
    let text = error.render().to_string();
    let message: Vec<&str> =
        text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let message = message.join(" ");
    let message = message.strip_prefix("error: ").unwrap_or(&message);
    let mut failure = Failure::new(codes::USAGE, message);
    // That a value might be meant where an option stands is never what helps.
    let mut tips = text.lines().filter_map(|line| line.trim().strip_prefix("tip: "));
    if let Some(tip) = tips.find(|tip| !tip.starts_with("to pass ")) {
        failure = failure.doing(tip);
    }
    failure.seeing(format!("{} --help", command_of(words)))
}

/// The deepest command that the words name.
fn command_of(words: &[String]) -> String {
    let (mut command, mut path) = (Cli::command(), "strandline".to_owned());
    for word in words {
        let Some(below) = command.find_subcommand(word).cloned() else { continue };
        path = format!("{path} {word}");
        command = below;
    }
    path
}

fn choose_colour(color: Color) {
    match color {
        Color::Auto => anstream::ColorChoice::Auto,
        Color::Always => anstream::ColorChoice::Always,
        Color::Never => anstream::ColorChoice::Never,
    }
    .write_global();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(line: &str) -> String {
        let error = Cli::try_parse_from(line.split(' ')).expect_err("no grammar");
        let words: Vec<String> = line.split(' ').skip(1).map(str::to_owned).collect();
        usage(&error, &words).to_string()
    }

    #[test]
    fn a_wrong_word_is_refused_in_the_one_form() {
        assert_eq!(
            refused("strandline vol creatt db"),
            "error[E2001]: unrecognized subcommand 'creatt'\n  \
             do            a similar subcommand exists: 'create'\n  \
             see           strandline vol --help"
        );
    }

    #[test]
    fn a_bad_value_sends_to_the_help_of_its_command() {
        let text = refused("strandline vol create db --size -5");
        assert!(text.contains("`-5` is no size"), "{text}");
        assert!(text.ends_with("see           strandline vol create --help"), "{text}");
        let text = refused("strandline diff db@now --sectors");
        assert!(!text.contains("to pass"), "{text}");
    }

    #[test]
    fn a_missing_option_is_named() {
        let text = refused("strandline vol create db");
        assert!(text.contains("--size <SIZE>"), "{text}");
        assert!(text.ends_with("see           strandline vol create --help"), "{text}");
    }
}
