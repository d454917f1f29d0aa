//! What every command has at hand: the globals, the zone, the output, and the store's control.

use crate::{
    backend::{self, EngineOptions},
    cli::Global,
    out::{Output, Stop},
    places,
};
use api::{
    Caller, Control, ControlExt as _, Failure, InstantSpec, Reference, Verb, VolumeName, Zone,
    codes,
};
use server::control::Client;
use std::{path::PathBuf, sync::Arc, time::Duration};
use world::{Clock as _, real::RealClock};

/// The surroundings of one command.
pub struct Context<'a> {
    /// The options that may stand anywhere.
    pub global: Global,
    /// Directory of the store.
    pub store: PathBuf,
    /// The zone of bare times, and the present.
    pub zone: Zone,
    /// Where to print.
    pub out: &'a mut Output,
    /// Who asks.
    pub who: Caller,
    control: Option<Arc<dyn Control>>,
}

impl<'a> Context<'a> {
    /// Surroundings as the command line says.
    pub fn new(global: Global, out: &'a mut Output) -> Result<Self, Failure> {
        let now = RealClock.wall();
        let zone = match &global.tz {
            Some(name) => Zone::named(name, now)?,
            None => Zone::local(now),
        };
        let store = global.store.clone().unwrap_or_else(places::default_store);
        if let Some(url) = store.to_str().filter(|text| text.contains("://")) {
            let failure = format!("this version reaches no store over the network: {url}");
            return Err(Failure::new(codes::NO_REMOTES, failure)
                .doing("name a directory of this host, or run the command at that host"));
        }
        Ok(Self { global, store, zone, out, who: places::caller(), control: None })
    }

    /// The same with a store at hand, for tests.
    #[cfg(test)]
    pub fn with_control(
        global: Global,
        zone: Zone,
        out: &'a mut Output,
        control: Box<dyn Control>,
    ) -> Self {
        let who = Caller { uid: 1000, gid: 1000, pid: None };
        Self {
            global,
            store: PathBuf::from("/srv/strand"),
            zone,
            out,
            who,
            control: Some(control.into()),
        }
    }

    /// Asks the store: the server that runs for it, else an engine in this process.
    pub fn ask<V: Verb>(&mut self, verb: V) -> Result<V::Answer, Failure> {
        let who = self.who;
        self.control()?.ask(&who, verb)
    }

    /// The store's control.
    pub fn control(&mut self) -> Result<&dyn Control, Failure> {
        if self.control.is_none() {
            let control: Box<dyn Control> = match self.client()? {
                Some(client) => Box::new(client),
                None => backend::open(&self.engine_options())?,
            };
            self.control = Some(control.into());
        }
        self.control.as_deref().ok_or_else(|| Failure::bug("the store was not kept"))
    }

    /// The store's control, for who keeps it beside this context or on several threads; each of its
    /// answers ends within the time limit.
    pub fn shared_control(&mut self) -> Result<Arc<dyn Control>, Failure> {
        self.control()?;
        self.control.clone().ok_or_else(|| Failure::bug("the store was not kept"))
    }

    /// Opens the store in this process, though flushed data at its log's end is missing.
    pub fn accept_loss(&mut self) -> Result<(), Failure> {
        if let Some(_server) = self.client()? {
            return Ok(()); // a store that is served has lost nothing
        }
        let options = EngineOptions { accept_loss: true, ..self.engine_options() };
        self.control = Some(backend::open(&options)?.into());
        Ok(())
    }

    /// A client of the server that runs for the store; `None` when none does.
    pub fn client(&self) -> Result<Option<Client>, Failure> {
        let named = self.global.socket.clone();
        let socket = named.clone().unwrap_or_else(|| places::control_socket(&self.store));
        let timeout = self.global.timeout.map(Duration::from_nanos);
        let client = Client::new(socket, places::trusted(&self.store), timeout);
        match named {
            Some(_) => Ok(Some(client)),
            None => client.probe().map(|live| live.then_some(client)),
        }
    }

    /// Whether a server does the work; `false` for an engine in this process.
    pub fn served(&self) -> Result<bool, Failure> {
        Ok(self.control.is_some() || self.client()?.is_some())
    }

    /// What an engine in this process needs.
    pub fn engine_options(&self) -> EngineOptions {
        EngineOptions::new(&self.global, &self.store, self.may_ask())
    }

    /// Whether a person is there to be asked.
    pub fn may_ask(&self) -> bool {
        !self.global.no_input && self.out.is_interactive()
    }

    /// Asks and prints the answer as JSON if that is wanted; else `say` prints it.
    pub fn answer<V: Verb>(
        &mut self,
        verb: V,
        say: impl FnOnce(&mut Output, &Zone, &V::Answer) -> Result<(), Stop>,
    ) -> Result<u8, Stop> {
        let answer = self.ask(verb)?;
        self.show::<V>(&answer, say)
    }

    /// Prints an answer as JSON if that is wanted; else `say` prints it.
    pub fn show<V: Verb>(
        &mut self,
        answer: &V::Answer,
        say: impl FnOnce(&mut Output, &Zone, &V::Answer) -> Result<(), Stop>,
    ) -> Result<u8, Stop> {
        if self.out.json {
            self.out.document(&V::document(answer))?;
        } else {
            say(self.out, &self.zone, answer)?;
        }
        Ok(0)
    }

    /// A reference as the user typed it.
    pub fn reference(&self, text: &str) -> Result<Reference, Failure> {
        Reference::parse(text, &self.zone)
    }

    /// A reference that must name an instant.
    pub fn instant_of(&self, text: &str) -> Result<Reference, Failure> {
        let reference = self.reference(text)?;
        if reference.instant.is_some() {
            return Ok(reference);
        }
        Err(Failure::new(codes::INSTANT_WANTED, format!("`{text}` names no instant"))
            .meaning(format!("{text}@now, {text}@-5m, {text}@10:03:40?")))
    }

    /// A reference that must not name an instant.
    pub fn line_of(&self, text: &str) -> Result<Reference, Failure> {
        let reference = self.reference(text)?;
        if reference.instant.is_none() {
            return Ok(reference);
        }
        let whole = Reference { instant: None, ..reference };
        Err(Failure::new(codes::INSTANT_UNWANTED, format!("`{text}` names an instant"))
            .meaning(format!("{whole}?")))
    }

    /// An instant as the user typed it.
    pub fn instant(&self, text: &str) -> Result<InstantSpec, Failure> {
        InstantSpec::parse(text, &self.zone)
    }

    /// The name of a volume of this store, without branch and instant.
    pub fn volume(&self, text: &str) -> Result<VolumeName, Failure> {
        let reference = self.line_of(text)?;
        let (name, branch) = reference.local()?;
        match branch {
            None => Ok(name.clone()),
            Some(_) => Err(Failure::new(
                codes::VOLUME_NAME,
                format!("`{text}` is a branch, and a whole volume is wanted"),
            )
            .meaning(format!("{name}?"))),
        }
    }

    /// Goes on only if the user agrees: by `--yes`, or by typing `word` at a terminal after
    /// reading `plan`. Else fails with `refusal`, which says what would happen.
    pub fn confirm(
        &mut self,
        plan: &str,
        what: &str,
        word: &str,
        refusal: Failure,
    ) -> Result<(), Stop> {
        if self.global.yes {
            return Ok(());
        }
        if !self.may_ask() {
            return Err(refusal.into());
        }
        let typed = self.out.question(&format!("{plan}\nType {what} to go on: "))?;
        if typed.trim() == word {
            return Ok(());
        }
        let message = format!("`{}` is not `{word}`; nothing was changed", typed.trim());
        Err(Failure::new(refusal.code, message).into())
    }
}
