//! `image chain watch`: looks again whenever a file of a chain changes, until Ctrl-C.
//!
//! Files are asked for their times and sizes every so often, which also sees changes made over the
//! network. A file that changes between two looks is being written: bytes are compared once it rests.

use super::{Looked, broken_json, check::what, how, link_json, look};
use crate::{
    cli::{ChainWatchArgs, CheckLevel},
    commands::image::INTERRUPTED,
    context::Context,
    out::Stop,
};
use api::{Failure, Time};
use chain_guard::{LinkReport, Status, View};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::Duration,
};
use world::{
    Clock as _, Waker,
    real::{FileStat, RealClock, StopSignals},
};

pub(super) fn run(args: &ChainWatchArgs, context: &mut Context<'_>) -> Result<u8, Stop> {
    let (told, asked) = mpsc::channel();
    let waker = Waker(Arc::new(move || {
        let _ = told.send(()); // nobody listens any more: the command ends
    }));
    let signals = StopSignals::install(waker)
        .map_err(|error| Failure::bug(format!("signals cannot be caught: {error}")))?;
    let mut chains: Vec<Chain> =
        args.images.iter().map(|image| Chain::new(image.clone())).collect();
    loop {
        for chain in &mut chains {
            match chain.turn(args, &|| signals.count() > 0, context)? {
                Some(INTERRUPTED) => return Ok(0),
                _ if signals.count() > 0 => return Ok(0),
                _ => {}
            }
        }
        context.out.flush()?;
        if asked.recv_timeout(Duration::from_nanos(args.every)).is_ok() {
            return Ok(0);
        }
    }
}

/// A chain that is watched.
struct Chain {
    image: PathBuf,
    /// What the files said when they were looked at last.
    seen: Option<Vec<(PathBuf, Option<FileStat>)>>,
    /// What they said when the chain was compared last.
    compared: Option<Vec<(PathBuf, Option<FileStat>)>>,
    /// What was printed last of each link.
    told: Vec<String>,
}

impl Chain {
    fn new(image: PathBuf) -> Self {
        Self { image, seen: None, compared: None, told: Vec::new() }
    }

    /// Looks whether files changed, and at the chain once they rest.
    fn turn(
        &mut self,
        args: &ChainWatchArgs,
        stopped: &dyn Fn() -> bool,
        context: &mut Context<'_>,
    ) -> Result<Option<u8>, Stop> {
        let now = stats(&self.image, args);
        if self.compared.as_ref() == Some(&now) {
            self.seen = Some(now);
            return Ok(None);
        }
        let rests = self.compared.is_none() || self.seen.as_ref() == Some(&now);
        self.seen = Some(now.clone());
        if !rests {
            return Ok(None);
        }
        let looked = look(&self.image, &args.open, CheckLevel::Auto, context, Some(stopped))?;
        self.compared = Some(now);
        match looked {
            Looked::Interrupted => return Ok(Some(INTERRUPTED)),
            Looked::Links(links) => self.tell(&links, context)?,
            Looked::Broken(broken) => {
                // What is missing may come back without a change of what is there.
                self.compared = None;
                let value = broken_json(&broken);
                let words = format!("FAULT {}: {}", broken.child.display(), broken.failure.message);
                self.tell_new(0, words, value, context)?;
            }
        }
        Ok(None)
    }

    fn tell(&mut self, links: &[LinkReport], context: &mut Context<'_>) -> Result<(), Stop> {
        for (place, link) in links.iter().enumerate() {
            let says = what(link, &context.zone);
            let says = if says.is_empty() { String::new() } else { format!(": {says}") };
            let (child, parent) = (link.child.display(), link.parent.display());
            let words = match link.status {
                // That an unchanged chain was sealed at another time is no news.
                Status::Ok => format!("ok {child} <- {parent} ({})", link.verdict()),
                status => format!("{} {child} <- {parent}{says}", status.word()),
            };
            self.tell_new(place, words, link_json(link), context)?;
        }
        Ok(())
    }

    /// Prints what was not printed last of this link.
    fn tell_new(
        &mut self,
        place: usize,
        words: String,
        mut value: Value,
        context: &mut Context<'_>,
    ) -> Result<(), Stop> {
        if self.told.get(place) == Some(&words) {
            return Ok(());
        }
        let time = Time(RealClock.wall());
        if context.out.json {
            value["schema"] = "image.chain.watch/1".into();
            value["time"] = time.to_string().into();
            context.out.json_line(&value)?;
        } else {
            context.out.line(&format!("{}  {words}", context.zone.show_precise(time)))?;
        }
        self.told.resize(self.told.len().max(place + 1), String::new());
        self.told[place] = words;
        Ok(())
    }
}

/// What the file system says of each file of a chain; of those that it can be opened as far as to.
fn stats(image: &Path, args: &ChainWatchArgs) -> Vec<(PathBuf, Option<FileStat>)> {
    let files: Vec<PathBuf> = match View::open(image, &how(&args.open)) {
        Ok(view) => view.layers().iter().flat_map(|layer| layer.files.clone()).collect(),
        Err(_) => vec![image.to_owned()],
    };
    files.into_iter().map(|path| (path.clone(), FileStat::at(&path).ok())).collect()
}
