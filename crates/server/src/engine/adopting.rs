//! `image adopt`: volumes that stand on foreign images; their sources opened, watched and let go of.
//!
//! The server opens an image itself, by the path that the store keeps, at adoption and again at each start.
//! So only who may do all may ask, and who is not the server's own user must be able to read it by
//! itself: that is the command line's to see to. A source that is missing or not what it was keeps
//! nothing from opening: its volumes give what they have themselves, and it is looked for again and
//! again.

use super::{
    naming::{api_volume, catalogue_volume},
    past::Past,
    running::{Engine, lock},
    volumes::{new_key, present},
};
use api::{
    Caller, Failure, Reference, codes,
    verbs::image::{BaseState, ImageAdopt, ImageAdopted, ImageFill, ImageFilled, VolBase},
};
use catalogue::{Base, LogicalBlock, NewBase, NewVolume, Presence, UNIT_BYTES, VolumeOptions};
use image_source::{Error, Origin, Source, SourceFault};
use rustix::process::geteuid;
use std::{
    collections::BTreeMap,
    fmt,
    ops::Range,
    path::Path,
    sync::{Arc, Mutex},
};
use units::BranchId;
use volume::SourceError;

/// The sources that are open.
#[derive(Debug, Default)]
pub(super) struct Sources(Mutex<BTreeMap<BranchId, Arc<OnImage>>>);

/// An image as volumes see it.
pub(super) struct OnImage(pub Source);

impl fmt::Debug for OnImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl volume::Source for OnImage {
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        self.0.read(offset, into).map_err(told)
    }

    fn zeros(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, SourceError> {
        self.0.zeros(range).map_err(told)
    }
}

/// Damage concerns the bytes; all else the whole source.
fn told(fault: SourceFault) -> SourceError {
    match fault {
        SourceFault::Damaged(error) => {
            tracing::warn!(%error, "part of an adopted image cannot be read");
            SourceError::Damaged(error.to_string())
        }
        other => SourceError::Lost(other.to_string()),
    }
}

impl Sources {
    pub(super) fn get(&self, base: BranchId) -> Option<Arc<OnImage>> {
        lock(&self.0).get(&base).cloned()
    }

    fn put(&self, base: BranchId, source: Arc<OnImage>) {
        lock(&self.0).insert(base, source);
    }

    pub(super) fn drop(&self, base: BranchId) {
        lock(&self.0).remove(&base);
    }
}

impl Engine {
    /// Opens the sources of all bases that need theirs and have none; sees that the others are as they
    /// were.
    pub(super) fn look_at_sources(&self) -> Result<(), Failure> {
        let past = self.look()?;
        let attached = |base: &&Base| !base.detached;
        lock(&self.sources.0)
            .retain(|id, _| past.catalogue().base(*id).as_ref().is_some_and(attached));
        for base in past.catalogue().bases().filter(attached) {
            match self.sources.get(base.id) {
                Some(source) => match source.0.look() {
                    // A read may have found a change that went away again.
                    Ok(()) => self.give_source(base.id, source)?,
                    Err(fault) => self.lose_source(base.id, &fault)?,
                },
                None => self.find_source(base)?,
            }
        }
        Ok(())
    }

    fn find_source(&self, base: &Base) -> Result<(), Failure> {
        let Some(origin) = Origin::decode(&base.origin) else {
            let why = "what was kept of where the image is cannot be read".to_owned();
            let id = base.id;
            return self.visit(move |core| core.store.lose_source(id, why));
        };
        match Source::find(origin, &base.seal) {
            Ok(source) => self.give_source(base.id, Arc::new(OnImage(source))),
            Err(fault) => self.lose_source(base.id, &fault),
        }
    }

    fn give_source(&self, base: BranchId, source: Arc<OnImage>) -> Result<(), Failure> {
        self.sources.put(base, source.clone());
        self.visit(move |core| {
            if core.store.source(base).is_none() {
                core.store.set_source(base, source);
            }
        })
    }

    pub(super) fn lose_source(&self, base: BranchId, fault: &SourceFault) -> Result<(), Failure> {
        self.sources.drop(base);
        let why = fault.to_string();
        let said = why.clone();
        let was = self.visit(move |core| {
            let was = core.store.source_trouble(base).map(str::to_owned);
            core.store.lose_source(base, why);
            was
        })?;
        if was.as_ref() != Some(&said) {
            tracing::warn!(
                fault = said,
                "an adopted image is not there: what stands on it takes no writes"
            );
        }
        Ok(())
    }

    pub(super) fn image_adopt(
        &self,
        who: &Caller,
        request: ImageAdopt,
    ) -> Result<ImageAdopted, Failure> {
        let begun = self.held.clock.boot_ns();
        self.must_read_files(who)?;
        let ImageAdopt { name, path, format, parent_format, snapshot, search, devices, fill, rate } =
            request;
        for path in search.iter().chain([&path]) {
            must_be_absolute(path)?;
        }
        let origin = Origin { path, format, parent_format, snapshot, search, devices };
        let new = NewVolume {
            name: catalogue_volume(&name)?,
            key: new_key(&*self.held.chance),
            options: VolumeOptions::default(),
        };
        let source = Source::adopt(origin, self.wall().0).map_err(|fault| failure(&fault))?;
        let below = NewBase {
            size_bytes: source.virtual_size(),
            fill,
            rate_bytes: rate,
            origin: source.origin().encode(),
            seal: source.seal(),
        };
        let (id, base) = self.change(|past| {
            let plan = past.catalogue().plan_adopt(new, LogicalBlock::B512, below, past.now);
            let (id, base, records) = plan.map_err(|error| past.teller().catalogue(error))?;
            Ok(((id, base), records))
        })?;
        self.give_source(base.id, Arc::new(OnImage(source)))?;
        if fill {
            self.begin_filling();
        }
        let past = self.look()?;
        Ok(ImageAdopted {
            id: id.0,
            size: base.size_bytes.next_multiple_of(LogicalBlock::B512.bytes()),
            base: self.base_told(&past, &base)?,
            took_ns: self.held.clock.boot_ns().saturating_sub(begun),
            uri: self.uri(&Reference::volume(name.clone())),
            name,
        })
    }

    pub(super) fn image_fill(
        &self,
        who: &Caller,
        request: ImageFill,
    ) -> Result<ImageFilled, Failure> {
        let ImageFill { name, fill, rate, path, accept } = request;
        let base = self.base_named(&name)?;
        if !base.detached && (path.is_some() || accept) {
            self.must_read_files(who)?;
            self.move_source(&base, path, accept)?;
        }
        self.change(|past| {
            let known = past.catalogue().base(base.id).unwrap_or(&base);
            let (fill, rate) = (fill.unwrap_or(known.fill), rate.unwrap_or(known.rate_bytes));
            let records = past.catalogue().plan_fill(base.id, fill, rate);
            Ok(((), records.map_err(|error| past.teller().catalogue(error))?))
        })?;
        self.look_at_sources()?;
        let base = self.base_named(&name)?;
        if base.fill && !base.detached {
            self.begin_filling();
        }
        Ok(ImageFilled { base: self.base_told(&self.look()?, &base)?, name })
    }

    /// Opens the image at another place, or as it is now.
    fn move_source(&self, base: &Base, path: Option<String>, accept: bool) -> Result<(), Failure> {
        let malformed = || Failure::bug("what was kept of where the image is cannot be read");
        let mut origin = Origin::decode(&base.origin).ok_or_else(malformed)?;
        if let Some(path) = path {
            must_be_absolute(&path)?;
            origin.path = path;
        }
        let source = match Source::find(origin.clone(), &base.seal) {
            Err(SourceFault::Changed { .. }) if accept => Source::adopt(origin, self.wall().0),
            other => other,
        };
        let source = source.map_err(|fault| failure(&fault))?;
        if source.virtual_size() != base.size_bytes {
            let text = format!(
                "the image has {} bytes now, and {} were adopted",
                source.virtual_size(),
                base.size_bytes
            );
            return Err(Failure::new(codes::PARENT_DIFFERS, text));
        }
        self.change(|past| {
            let (origin, seal) = (source.origin().encode(), source.seal());
            let records = past.catalogue().plan_source(base.id, origin, seal);
            Ok(((), records.map_err(|error| past.teller().catalogue(error))?))
        })?;
        let id = base.id;
        self.visit(move |core| core.store.lose_source(id, "it is opened anew".to_owned()))?;
        self.give_source(id, Arc::new(OnImage(source)))
    }

    /// What a volume stands on by its name.
    fn base_named(&self, name: &api::VolumeName) -> Result<Base, Failure> {
        let past = self.look()?;
        let volume = past.volume(name)?;
        let branch = present(&past, volume)?.id;
        past.catalogue().base_of(branch).cloned().ok_or_else(|| {
            Failure::new(codes::NO_BASE, format!("volume `{name}` stands on no image"))
        })
    }

    /// What a branch stands on, as answers say it.
    pub(super) fn base_of(
        &self,
        past: &Past,
        branch: BranchId,
    ) -> Result<Option<VolBase>, Failure> {
        let base = past.catalogue().base_of(branch);
        base.map(|base| self.base_told(past, base)).transpose()
    }

    fn base_told(&self, past: &Past, base: &Base) -> Result<VolBase, Failure> {
        let id = base.id;
        let trouble = self.visit(move |core| core.store.source_trouble(id).map(str::to_owned))?;
        let trouble = trouble.filter(|_| !base.detached);
        let unread = self.filling.unread(id);
        let state = match (base.detached, &trouble, base.fill) {
            (true, ..) => BaseState::Independent,
            (false, Some(_), _) => BaseState::Lost,
            (false, None, true) => BaseState::Filling,
            (false, None, false) => BaseState::Attached,
        };
        let taken = if base.detached {
            base.size_bytes
        } else {
            (past.catalogue().taken(id).count() * UNIT_BYTES).min(base.size_bytes)
        };
        let damaged =
            (unread > 0 && !base.detached).then(|| format!("{unread} MiB of it cannot be read"));
        Ok(VolBase {
            image: Origin::decode(&base.origin).map_or_else(String::new, |origin| origin.path),
            size: base.size_bytes,
            state,
            taken,
            left: base.size_bytes - taken,
            fill: base.fill,
            rate: base.rate_bytes,
            trouble: trouble.or(damaged),
        })
    }

    /// The bases of volumes that are there, with the names of those.
    pub(super) fn bases_told(&self, past: &Past) -> Result<Vec<(String, VolBase)>, Failure> {
        let mut found = Vec::new();
        for base in past.catalogue().bases().filter(|base| !base.detached) {
            let volume = past.catalogue().branch(base.root).map(|root| root.volume);
            let volume = volume.and_then(|volume| past.catalogue().volume(volume));
            let Some(volume) = volume.filter(|volume| volume.presence == Presence::Live) else {
                continue;
            };
            found.push((api_volume(&volume.name)?.to_string(), self.base_told(past, base)?));
        }
        Ok(found)
    }

    /// A server with more rights than its caller must not open files for it.
    fn must_read_files(&self, who: &Caller) -> Result<(), Failure> {
        if !self.settings.serving || who.uid == 0 || who.uid == geteuid().as_raw() {
            return Ok(());
        }
        let text = format!("user {} may not have the server open files", who.uid);
        Err(Failure::new(codes::NOT_ALLOWED, text).doing("ask as root or as the server's own user"))
    }
}

fn must_be_absolute(path: &str) -> Result<(), Failure> {
    if Path::new(path).is_absolute() {
        return Ok(());
    }
    Err(Failure::new(codes::BAD_REQUEST, format!("`{path}` is no absolute path")))
}

/// Why an image cannot be adopted.
fn failure(fault: &SourceFault) -> Failure {
    let text = fault.to_string();
    let code = match fault {
        SourceFault::Changed { .. } => codes::PARENT_DIFFERS,
        SourceFault::Open { .. } => codes::IN_USE,
        SourceFault::Malformed(_) => codes::BAD_REQUEST,
        SourceFault::Damaged(error) | SourceFault::Gone(error) => match error {
            Error::Missing(_) => codes::NO_FILE,
            Error::Unfit { .. } => codes::IMAGE_UNFIT,
            Error::Io { .. } => codes::FILE_DENIED,
            _ => codes::IMAGE_DAMAGED,
        },
    };
    Failure::new(code, text)
}
