//! From one file to the chain of all images it is read through, and the chain's map.
//!
//! [`Opening`] opens the top, then parent after parent: name by name as the child states them, in the
//! format the child states. A format is never guessed where the guest could have written the bytes
//! that would decide. Loops are found by the file's number (same device and inode), not by name.

use std::{collections::VecDeque, ops::Range};

use crate::{
    Answer, Class, Detected, Extent, Facts, Fault, FileId, FolderQuery, Format, Image, Input, Kind,
    Mapped, Part, Report, Request, Role, Step, Stepped, Stop, Trouble, detect,
    input::Opened,
    limits,
    names::{self, FileName, Style},
    qcow2, raw, vdi, vhd, vhdx, vmdk,
};

/// How an image is opened.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Its format, if it was told; else it is detected.
    pub format: Option<Format>,
    /// Suffix of its name without the dot: evidence where the format is to be detected.
    pub suffix: Option<String>,
    /// The format of a parent where its child states none; such chains are refused without it.
    pub parent_format: Option<Format>,
    /// Internal snapshot of the top image to open in place of its present state: id or name.
    pub snapshot: Option<String>,
    /// What it is opened for.
    pub purpose: Purpose,
    /// How parents are followed whose names lead out of their child's folder.
    pub outside: Outside,
}

/// What to do with a parent's name that leads out of its child's folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outside {
    /// It is refused: images of strangers.
    #[default]
    Refuse,
    /// Its last step is asked for as a name of its own: the user told folders to look in.
    LastStep,
    /// It is followed: the user's own images.
    Follow,
}

/// What an image is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Reading guest bytes: the whole chain must be there and belong together.
    Read,
    /// Writing in place: refused for images that say they must not be.
    Write,
    /// Comparing parents with what their children were made over: as for reading, but a parent that
    /// differs (by its identifiers or its size) is opened, and that it differs is a note.
    Examine,
    /// Looking at this file alone: parents are not opened, and what they hold cannot be read.
    Inspect,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            format: None,
            suffix: None,
            parent_format: None,
            snapshot: None,
            purpose: Purpose::Read,
            outside: Outside::Refuse,
        }
    }
}

/// An image on its way to being open.
pub struct Opening {
    options: OpenOptions,
    input: Input,
    layers: Vec<Layer>,
    stage: Stage,
    failed: Option<Fault>,
}

/// An image of a chain.
pub struct Layer {
    image: Box<dyn Image>,
    file: FileId,
    name: Option<String>,
    notes: Vec<Fault>,
}

/// A chain of opened images, the top first.
pub struct Chain {
    layers: Vec<Layer>,
    input: Input,
    /// The lowest image has no parent, or its parent is not wanted.
    whole: bool,
}

#[derive(Clone, Debug)]
enum Stage {
    /// Opening the image of a file, in a format if it is known.
    Image { file: FileId, format: Option<Format>, name: Option<String> },
    /// Looking for the parent of the lowest image.
    Parent { candidate: usize, close: Option<(usize, Fault)> },
    /// The result was taken.
    Over,
}

impl Opening {
    /// Begins with the top image: `file` is its number, and `len` its length in bytes.
    pub fn new(file: FileId, len: u64, options: OpenOptions) -> Self {
        let stage = Stage::Image { file, format: options.format, name: None };
        Self { options, input: Input::new(file, len), layers: Vec::new(), stage, failed: None }
    }

    /// One stage as far as it goes; the chain when there is no further one.
    fn advance(&mut self) -> Result<Option<Chain>, Stop> {
        match self.stage.clone() {
            Stage::Image { file, format, name } => {
                let image = self.open_image(file, format)?;
                self.push(image, file, name)?;
                self.stage = Stage::Parent { candidate: 0, close: None };
                Ok(None)
            }
            Stage::Parent { candidate, close } => {
                let facts = self.lowest().image.facts();
                let whole = facts.parent.is_none();
                if whole || self.options.purpose == Purpose::Inspect {
                    self.stage = Stage::Over;
                    self.input.forget();
                    self.input.forget_answers();
                    let input = std::mem::take(&mut self.input);
                    let layers = std::mem::take(&mut self.layers);
                    return Ok(Some(Chain { layers, input, whole }));
                }
                if let Some(suffix) = facts.parent.as_ref().and_then(|parent| parent.by_identity) {
                    return self.try_candidate(suffix, candidate, close).map(|()| None);
                }
                let (file, format, name) = self.find_parent()?;
                self.stage = Stage::Image { file, format: Some(format), name: Some(name) };
                Ok(None)
            }
            Stage::Over => panic!("an operation was asked on after its end"),
        }
    }

    fn lowest(&self) -> &Layer {
        self.layers.last().expect("the top is open before its parent is looked for")
    }

    fn open_image(&self, file: FileId, format: Option<Format>) -> Result<Box<dyn Image>, Stop> {
        let is_top = self.layers.is_empty();
        let snapshot = self.options.snapshot.as_deref().filter(|_| is_top);
        let request = Request { file, snapshot };
        match format {
            Some(format) => open_as(format, &request, &self.input),
            None => self.open_detected(&request),
        }
    }

    /// The top image, in the format that its bytes and its name say.
    fn open_detected(&self, request: &Request<'_>) -> Result<Box<dyn Image>, Stop> {
        let suffix = self.options.suffix.as_deref().unwrap_or_default().to_ascii_lowercase();
        let is_raw = matches!(suffix.as_str(), "raw" | "dd");
        let fault = |class, text: String| Err(Fault::new(class, Part::Header, request.file, text));
        match detect(&self.input, request.file)? {
            Detected::Format(format) => {
                let text =
                    format!("it begins as {format} does, and a guest could have written that");
                if is_raw {
                    return Ok(fault(Class::FormatAmbiguous, text + ": it is called raw")?);
                }
                let image = open_as(format, request, &self.input)?;
                let facts = image.facts();
                let leads_on = facts.parent.is_some() || !facts.files.is_empty();
                if leads_on && !suits(format, &suffix) {
                    return Ok(fault(Class::FormatAmbiguous, text + ": it names other files")?);
                }
                Ok(image)
            }
            Detected::Both(head, tail) => {
                let text = format!("it begins as {head} does and ends as {tail} does");
                Ok(fault(Class::FormatAmbiguous, text)?)
            }
            Detected::Disk => open_as(Format::Raw, request, &self.input),
            Detected::Nothing if is_raw => open_as(Format::Raw, request, &self.input),
            Detected::Foreign(foreign) => {
                let text =
                    format!("{} is not read here; it can be opened as raw if told", foreign.0);
                Ok(fault(Class::UnsupportedFormat, text)?)
            }
            Detected::Nothing => {
                let text = "no known format; it can be opened as raw if told".to_owned();
                Ok(fault(Class::UnsupportedFormat, text)?)
            }
        }
    }

    /// Takes an opened image in, if it suits the one above it.
    fn push(
        &mut self,
        image: Box<dyn Image>,
        file: FileId,
        name: Option<String>,
    ) -> Result<(), Fault> {
        let layer = self.layers.len();
        if let Some(child) = self.layers.last_mut() {
            let admitted = child.image.admit(image.facts());
            let examined = self.options.purpose == Purpose::Examine;
            let admitted = admitted.or_else(|fault| match fault.class.trouble() {
                Trouble::Differs if examined => Ok(vec![fault]),
                _ => Err(fault),
            });
            let of_child = |mut fault: Fault| {
                fault.layer = layer - 1;
                fault
            };
            child.notes.extend(admitted.map_err(of_child)?.into_iter().map(of_child));
        } else if let (Purpose::Write, Some(class)) =
            (self.options.purpose, image.facts().read_only)
        {
            let text = "the image must not be written".to_owned();
            return Err(Fault::new(class, Part::Header, file, text));
        }
        let mut notes = image.facts().notes.clone();
        for note in &mut notes {
            note.layer = layer;
        }
        self.layers.push(Layer { image, file, name, notes });
        self.input.forget();
        Ok(())
    }

    /// The file of the lowest image's parent, and the format to open it in.
    fn find_parent(&self) -> Result<(FileId, Format, String), Stop> {
        let child = self.lowest();
        let parent = child.image.facts().parent.as_ref().expect("asked for a parent");
        let mut refused = None;
        for name in &parent.names {
            let led = match name {
                Err(fault) if fault.class == Class::ParentNameForbidden => {
                    self.outside(child.image.facts().format, &parent.stated)
                }
                _ => None,
            };
            let name = match (name, &led) {
                (Ok(name), _) | (_, Some(name)) => name,
                (Err(fault), None) => {
                    let is_worse = fault.class == Class::ParentNameForbidden;
                    refused = refused.filter(|_| !is_worse).or_else(|| Some(fault.clone()));
                    continue;
                }
            };
            match self.input.file(child.file, Role::Parent, name)? {
                Opened::File(file) => {
                    self.may_follow(file)?;
                    let format = self.parent_format(file, parent.format, name)?;
                    return Ok((file, format, name.as_str().to_owned()));
                }
                Opened::Missing => {}
                Opened::Refused(why) => {
                    let text = format!("{name}: {why}");
                    let class = names::forbidden(Role::Parent);
                    refused = Some(Fault::new(class, Part::Chain, child.file, text));
                }
            }
        }
        Err(refused.unwrap_or_else(|| missing_parent(child)).into())
    }

    /// What stands for a name that leads out of the child's folder, where that is allowed.
    fn outside(&self, format: Format, stated: &str) -> Option<FileName> {
        let style = match format {
            Format::Qcow2 | Format::Raw => Style::Unix,
            _ => Style::Windows,
        };
        let name = names::outside(stated, style)?;
        match self.options.outside {
            Outside::Refuse => None,
            Outside::Follow => Some(name),
            Outside::LastStep => {
                let last = name.as_str().rsplit('/').next()?;
                names::check(last, Style::Unix).ok()
            }
        }
    }

    /// Whether the file may come next: it is not in the chain yet, and the chain not too long.
    fn may_follow(&self, file: FileId) -> Result<(), Fault> {
        if let Some(place) = self.layers.iter().position(|layer| layer.file == file) {
            let text = format!("image {} of the chain is its own ancestor", place + 1);
            return Err(Fault::new(Class::ChainLoop, Part::Chain, file, text));
        }
        if self.layers.len() >= limits::DEPTH_MAX {
            let text = format!("a chain of more than {} images", limits::DEPTH_MAX);
            return Err(Fault::new(Class::Limit, Part::Chain, file, text));
        }
        Ok(())
    }

    fn parent_format(
        &self,
        file: FileId,
        stated: Option<Format>,
        name: &FileName,
    ) -> Result<Format, Stop> {
        if let Some(format) = stated.or(self.options.parent_format) {
            return Ok(format);
        }
        let looks = match detect(&self.input, file)? {
            Detected::Format(format) => format!("it looks like {format}"),
            _ => "it looks like raw".to_owned(),
        };
        let text = format!("the format of the parent {name} is not stated; {looks}");
        Err(Fault::new(Class::FormatAmbiguous, Part::Chain, file, text).into())
    }

    /// Looks at one file of the folder, whether it is the parent; goes on to the next if not.
    fn try_candidate(
        &mut self,
        suffix: &'static str,
        candidate: usize,
        close: Option<(usize, Fault)>,
    ) -> Result<(), Stop> {
        let child = self.lowest();
        let found = self.input.names(FolderQuery { beside: child.file, suffix })?;
        let Some(name) = found.get(candidate) else {
            return match close {
                Some((place, fault)) => {
                    let name = found[place].clone();
                    self.take_close(&name, fault)
                }
                None => Err(missing_parent(child).into()),
            };
        };
        let next = |close| Stage::Parent { candidate: candidate + 1, close };
        let opened = match FileName::listed(name) {
            Some(name) => self.input.file(child.file, Role::Parent, &name)?,
            None => Opened::Missing,
        };
        let format = child.image.facts().format;
        let stage = match opened {
            Opened::File(file) if self.layers.iter().all(|layer| layer.file != file) => {
                match open_as(format, &Request { file, snapshot: None }, &self.input) {
                    Ok(image) => match child.image.admit(image.facts()) {
                        Ok(_) => {
                            self.may_follow(file)?;
                            let (format, name) = (Some(format), Some(name.clone()));
                            Stage::Image { file, format, name }
                        }
                        // Its identity is right and something else is not: the fault to tell.
                        Err(fault) if fault.class != Class::ParentMissing => {
                            next(close.or(Some((candidate, fault))))
                        }
                        Err(_) => next(close),
                    },
                    Err(Stop::Fault(_)) => next(close), // some other file of that suffix
                    Err(stop) => return Err(stop),
                }
            }
            _ => next(close),
        };
        self.stage = stage;
        self.input.forget();
        Ok(())
    }

    /// No file of the folder is the parent as it was: the one that was it, or the fault of that.
    fn take_close(&mut self, name: &str, fault: Fault) -> Result<(), Stop> {
        if self.options.purpose != Purpose::Examine {
            return Err(fault.into());
        }
        let child = self.lowest();
        let Some(known) = FileName::listed(name) else { return Err(fault.into()) };
        let Opened::File(file) = self.input.file(child.file, Role::Parent, &known)? else {
            return Err(fault.into());
        };
        self.may_follow(file)?;
        let format = Some(child.image.facts().format);
        self.stage = Stage::Image { file, format, name: Some(name.to_owned()) };
        self.input.forget();
        Ok(())
    }

    /// A fault with its place in the chain.
    fn placed(&self, mut fault: Fault) -> Fault {
        let open = self.layers.len();
        fault.layer = match self.stage {
            Stage::Image { file, .. } if fault.file == file => open,
            _ => fault.layer.max(open.saturating_sub(1)),
        };
        fault
    }
}

/// The fault of a parent that no name leads to.
fn missing_parent(child: &Layer) -> Fault {
    let stated = child.image.facts().parent.as_ref().map_or("", |parent| parent.stated.as_str());
    let text = if stated.is_empty() {
        "no parent is found in the image's folder".to_owned()
    } else {
        format!("the parent {stated:?} is not found")
    };
    Fault::new(Class::ParentMissing, Part::Chain, child.file, text)
}

/// Whether a name's suffix agrees with a format, so that its magic is no guest's work.
fn suits(format: Format, suffix: &str) -> bool {
    match format {
        Format::Raw => false,
        Format::Qcow2 => matches!(suffix, "qcow2" | "qcow" | "snap"),
        Format::Vhd => matches!(suffix, "vhd" | "vpc" | "avhd"),
        Format::Vhdx => matches!(suffix, "vhdx" | "avhdx"),
        Format::Vmdk => suffix == "vmdk",
        Format::Vdi => suffix == "vdi",
    }
}

fn open_as(format: Format, request: &Request<'_>, input: &Input) -> Result<Box<dyn Image>, Stop> {
    match format {
        Format::Raw => raw::open(request, input),
        Format::Qcow2 => qcow2::open(request, input),
        Format::Vhd => vhd::open(request, input),
        Format::Vhdx => vhdx::open(request, input),
        Format::Vmdk => vmdk::open(request, input),
        Format::Vdi => vdi::open(request, input),
    }
}

impl Stepped for Opening {
    type Output = Chain;

    fn next(&mut self) -> Step<Chain> {
        loop {
            if let Some(fault) = self.failed.take() {
                return Step::Fail(fault);
            }
            match self.advance() {
                Ok(Some(chain)) => return Step::Done(chain),
                Ok(None) => {}
                Err(Stop::Fault(fault)) => return Step::Fail(self.placed(fault)),
                Err(stop) => return self.input.step(Err(stop)),
            }
        }
    }

    fn supply(&mut self, bytes: Vec<u8>) {
        self.failed = self.input.supply(bytes).err();
    }

    fn answer(&mut self, answer: Answer) {
        self.input.answer(answer);
    }
}

impl Layer {
    /// What the image says of itself.
    pub fn facts(&self) -> &Facts {
        self.image.facts()
    }

    /// Its file; parts in other files are in [`Facts::files`].
    pub fn file(&self) -> FileId {
        self.file
    }

    /// The name by which its child led to it; `None` for the top.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// What is odd or damaged and did not keep it from being opened, its parent included.
    pub fn notes(&self) -> &[Fault] {
        &self.notes
    }
}

impl Chain {
    /// The images, the top first; never none.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Bytes that the guest sees.
    pub fn virtual_size(&self) -> u64 {
        self.layers[0].facts().virtual_size
    }

    /// Every file in use, with its length as it was told; an opener may close the others.
    pub fn files(&self) -> Vec<FileId> {
        let of_layer = |layer: &Layer| {
            let others = layer.facts().files.iter().map(|other| other.file);
            std::iter::once(layer.file).chain(others).collect::<Vec<_>>()
        };
        let mut files: Vec<FileId> = self.layers.iter().flat_map(of_layer).collect();
        files.sort_unstable();
        files.dedup();
        files
    }

    /// Where the guest bytes of `range` are, through all images. The answer covers a beginning of
    /// the range, without gaps: ask again from its end. What lies past the virtual size is left out.
    pub fn map(&mut self, range: Range<u64>) -> Mapping<'_> {
        let end = range.end.min(self.virtual_size());
        let known = self.layers.iter().map(|_| VecDeque::new()).collect();
        Mapping { chain: self, place: range.start, end, known, mapped: Vec::new(), failed: None }
    }

    /// What one image itself holds of `range`, as [`Chain::map`] answers; `layer` is its place.
    pub fn layer_map(&mut self, layer: usize, range: Range<u64>) -> LayerMap<'_> {
        let end = range.end.min(self.layers[layer].facts().virtual_size);
        LayerMap { chain: self, layer, range: range.start..end, failed: None }
    }

    /// Walks all of one image, `layer` being its place.
    pub fn check(&mut self, layer: usize) -> Checking<'_> {
        Checking { chain: self, layer, report: Report::default(), failed: None }
    }

    /// One answer of one image, in bounds and with damage at its place.
    fn ask(&mut self, layer: usize, range: Range<u64>) -> Result<Vec<Extent>, Stop> {
        let image = &mut self.layers[layer].image;
        let mut extents = image.map(range.clone(), &self.input)?;
        let mut place = range.start;
        for extent in &mut extents {
            assert!(extent.start == place && extent.len > 0, "a map with a gap at {place}");
            place = extent.end();
            if let Kind::Corrupt(fault) = &mut extent.kind {
                fault.layer = layer;
            }
        }
        assert!(place > range.start && place <= range.end, "a map that ends at {place}");
        self.input.forget();
        Ok(extents)
    }
}

/// [`Chain::map`] under way.
pub struct Mapping<'c> {
    chain: &'c mut Chain,
    place: u64,
    end: u64,
    /// What each image answered and was not used yet.
    known: Vec<VecDeque<Extent>>,
    mapped: Vec<Mapped>,
    failed: Option<Fault>,
}

impl Mapping<'_> {
    /// The extent at `place`, of the image that decides there.
    fn advance(&mut self) -> Result<(), Stop> {
        let (place, mut end) = (self.place, self.end);
        for layer in 0..self.chain.layers.len() {
            let size = self.chain.layers[layer].facts().virtual_size;
            if place >= size {
                self.add(layer, Extent { start: place, len: end - place, kind: Kind::Hole });
                return Ok(());
            }
            end = end.min(size);
            let extent = self.extent_of(layer, size)?.cut(place, end);
            end = extent.end();
            if extent.kind != Kind::Parent {
                self.add(layer, extent);
                return Ok(());
            }
        }
        let layer = self.chain.layers.len() - 1;
        let file = self.chain.layers[layer].file;
        let kind = if self.chain.whole {
            Kind::Hole
        } else {
            let text = "the parent that holds these bytes was not opened";
            let mut fault = Fault::new(Class::ParentMissing, Part::Chain, file, text);
            fault.layer = layer;
            Kind::Corrupt(Box::new(fault))
        };
        self.add(layer, Extent { start: place, len: end - place, kind });
        Ok(())
    }

    fn add(&mut self, layer: usize, extent: Extent) {
        self.place = extent.end();
        let joined = self
            .mapped
            .last_mut()
            .is_some_and(|last| last.layer == layer && last.extent.join(&extent));
        if !joined {
            self.mapped.push(Mapped { layer, extent });
        }
    }

    /// What an image says at `place`, from its last answer or a new one.
    fn extent_of(&mut self, layer: usize, size: u64) -> Result<Extent, Stop> {
        let known = &mut self.known[layer];
        while known.front().is_some_and(|extent| extent.end() <= self.place) {
            known.pop_front();
        }
        if known.front().is_none_or(|extent| extent.start > self.place) {
            let extents = self.chain.ask(layer, self.place..self.end.min(size))?;
            self.known[layer] = extents.into();
        }
        Ok(self.known[layer].front().cloned().expect("an answer has an extent"))
    }
}

impl Stepped for Mapping<'_> {
    type Output = Vec<Mapped>;

    fn next(&mut self) -> Step<Vec<Mapped>> {
        if let Some(fault) = self.failed.take() {
            return Step::Fail(fault);
        }
        while self.place < self.end && self.mapped.len() < limits::EXTENTS_MAX {
            if let Err(stop) = self.advance() {
                return self.chain.input.step(Err(stop));
            }
        }
        Step::Done(std::mem::take(&mut self.mapped))
    }

    fn supply(&mut self, bytes: Vec<u8>) {
        self.failed = self.chain.input.supply(bytes).err();
    }

    fn answer(&mut self, answer: Answer) {
        self.chain.input.answer(answer);
    }
}

/// [`Chain::layer_map`] under way.
pub struct LayerMap<'c> {
    chain: &'c mut Chain,
    layer: usize,
    range: Range<u64>,
    failed: Option<Fault>,
}

impl Stepped for LayerMap<'_> {
    type Output = Vec<Extent>;

    fn next(&mut self) -> Step<Vec<Extent>> {
        if let Some(fault) = self.failed.take() {
            return Step::Fail(fault);
        }
        if self.range.is_empty() {
            return Step::Done(Vec::new());
        }
        let result = self.chain.ask(self.layer, self.range.clone());
        self.chain.input.step(result)
    }

    fn supply(&mut self, bytes: Vec<u8>) {
        self.failed = self.chain.input.supply(bytes).err();
    }

    fn answer(&mut self, answer: Answer) {
        self.chain.input.answer(answer);
    }
}

/// [`Chain::check`] under way.
pub struct Checking<'c> {
    chain: &'c mut Chain,
    layer: usize,
    report: Report,
    failed: Option<Fault>,
}

impl Stepped for Checking<'_> {
    type Output = Report;

    fn next(&mut self) -> Step<Report> {
        if let Some(fault) = self.failed.take() {
            return Step::Fail(fault);
        }
        loop {
            let image = &mut self.chain.layers[self.layer].image;
            match image.check(&self.chain.input, &mut self.report) {
                Ok(false) => self.chain.input.forget(),
                Ok(true) => break,
                Err(Stop::Fault(mut fault)) => {
                    fault.layer = self.layer;
                    return self.chain.input.step(Err(fault.into()));
                }
                Err(stop) => return self.chain.input.step(Err(stop)),
            }
        }
        self.chain.input.forget();
        for finding in &mut self.report.findings {
            finding.fault.layer = self.layer;
        }
        Step::Done(std::mem::take(&mut self.report))
    }

    fn supply(&mut self, bytes: Vec<u8>) {
        self.failed = self.chain.input.supply(bytes).err();
    }

    fn answer(&mut self, answer: Answer) {
        self.chain.input.answer(answer);
    }
}
