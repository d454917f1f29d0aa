//! `completions` and `man`, from the definition that also parses.

use crate::{
    cli::{Cli, CompletionsArgs, ManArgs},
    context::Context,
    out::Stop,
};
use clap::CommandFactory as _;
use std::{
    fs::File,
    io::{self, Write as _},
    path::Path,
};

pub(super) fn completions(args: &CompletionsArgs, context: &mut Context<'_>) -> Result<u8, Stop> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "strandline", &mut text);
    context.out.text(&String::from_utf8_lossy(&text))?;
    Ok(0)
}

pub(super) fn manual(args: &ManArgs, context: &mut Context<'_>) -> Result<u8, Stop> {
    let pages = pages()?;
    let Some(dir) = &args.dir else {
        context.out.text(&pages[0].1)?;
        return Ok(0);
    };
    std::fs::create_dir_all(dir)?;
    for (name, text) in &pages {
        write(&dir.join(name), text)?;
    }
    context.out.aside(&format!("wrote {} pages into {}", pages.len(), dir.display()))?;
    Ok(0)
}

/// All pages with their file names, `strandline.1` first.
fn pages() -> io::Result<Vec<(String, String)>> {
    let mut root = Cli::command().disable_help_subcommand(true);
    root.build();
    let mut pages = Vec::new();
    add(&root, "strandline", &mut pages)?;
    Ok(pages)
}

fn add(command: &clap::Command, name: &str, pages: &mut Vec<(String, String)>) -> io::Result<()> {
    let mut text = Vec::new();
    let page = command.clone().name(name.to_owned()).display_name(name.to_owned());
    clap_mangen::Man::new(page).date("").render(&mut text)?;
    let text = String::from_utf8_lossy(&text).into_owned();
    pages.push((format!("{name}.1"), text));
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        add(below, &format!("{name}-{}", below.get_name()), pages)?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o644))?;
    File::from(file).write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/man");

    #[test]
    fn the_checked_in_manual_is_current() {
        let pages = pages().expect("pages are text");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::create_dir_all(DIR).expect("docs can be written");
            for (name, text) in &pages {
                write(&Path::new(DIR).join(name), text).expect("docs can be written");
            }
        }
        for (name, text) in &pages {
            let found = std::fs::read_to_string(Path::new(DIR).join(name)).unwrap_or_default();
            assert!(found == *text, "docs/man/{name} is stale: strandline man docs/man");
        }
        let files = std::fs::read_dir(DIR).expect("docs/man is checked in").count();
        assert_eq!(files, pages.len(), "a page of docs/man has no command any more");
    }
}
