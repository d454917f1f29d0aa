//! Records as bytes: tables of `docs/format.md` 10.2.
//!
//! Decoding is strict: a record has one form, so what decodes encodes to the same bytes. It takes
//! any bytes, allocates no more than a small multiple of them, and never panics.

use units::{BranchId, ClientId, Sequence, Timestamp, VolumeId};

use crate::{
    bases::{Base, SOURCE_BYTES_MAX},
    error::RecordError,
    name::{BranchName, MarkName, Note, VolumeName},
    record::CatalogueRecord,
    state::{
        AckPolicy, Attachment, Branch, Fork, LogicalBlock, Mark, MarkId, Opening, OpeningId,
        Presence, Served, Volume, VolumeKey, VolumeOptions, When, WhenFull, Who,
    },
    volumes::VOLUME_BYTES_MAX,
};

/// The layout of this version, first byte of each body.
const VERSION: u8 = 1;

const VOLUME: u16 = 0x100;
const VOLUME_GONE: u16 = 0x101;
const BRANCH: u16 = 0x102;
const BRANCH_GONE: u16 = 0x103;
const SIZE: u16 = 0x104;
const SERVED: u16 = 0x105;
const MARK: u16 = 0x106;
const MARK_GONE: u16 = 0x107;
const CLIENT: u16 = 0x108;
const ATTACHED: u16 = 0x109;
const ATTACHMENT_ENDED: u16 = 0x10a;
const REFUSED: u16 = 0x10b;
const RELEASED: u16 = 0x10c;
const OPENED: u16 = 0x10d;
const OPENING_GONE: u16 = 0x10e;
const NUMBERS: u16 = 0x10f;
const BASE: u16 = 0x110;
const TAKEN: u16 = 0x111;
const TOGETHER: u16 = 0x1ff;

impl CatalogueRecord {
    /// Kinds of the manifest that are the catalogue's.
    pub const KINDS: std::ops::RangeInclusive<u16> = 0x100..=0x1ff;

    /// Kind and body.
    pub fn encode(&self) -> (u16, Vec<u8>) {
        let mut out = Writer(vec![VERSION]);
        let kind = match self {
            Self::Volume(volume) => {
                out.volume(volume);
                VOLUME
            }
            Self::VolumeGone(id) => {
                out.u32(id.0);
                VOLUME_GONE
            }
            Self::Branch(branch) => {
                out.branch(branch);
                BRANCH
            }
            Self::BranchGone(id) => {
                out.u32(id.0);
                BRANCH_GONE
            }
            Self::Size { branch, sequence, size_bytes } => {
                out.u32(branch.0);
                out.u64(sequence.number());
                out.u64(*size_bytes);
                SIZE
            }
            Self::Served { volume, served } => {
                out.u32(volume.0);
                out.u32(served.branch.0);
                out.when(served.from);
                SERVED
            }
            Self::Mark(mark) => {
                out.mark(mark);
                MARK
            }
            Self::MarkGone(id) => {
                out.u64(id.0);
                MARK_GONE
            }
            Self::Client { client, who } => {
                out.u64(client.0);
                out.who(who);
                CLIENT
            }
            Self::Attached(it) => {
                out.u32(it.volume.0);
                out.u32(it.branch.0);
                out.u64(it.client.0);
                out.time(it.since);
                ATTACHED
            }
            Self::AttachmentEnded { volume, branch, client } => {
                out.u32(volume.0);
                out.u32(branch.0);
                out.u64(client.0);
                ATTACHMENT_ENDED
            }
            Self::Refused { volume, client, since } => {
                out.u32(volume.0);
                out.u64(client.0);
                out.time(*since);
                REFUSED
            }
            Self::Released(volume) => {
                out.u32(volume.0);
                RELEASED
            }
            Self::Opened(opening) => {
                out.u64(opening.id.0);
                out.u32(opening.volume.0);
                out.u32(opening.branch.0);
                out.when(opening.at);
                out.time(opening.since);
                out.u64(opening.ttl_ns);
                OPENED
            }
            Self::OpeningGone(id) => {
                out.u64(id.0);
                OPENING_GONE
            }
            Self::Numbers { volume, branch, mark, client, opening } => {
                out.u32(*volume);
                out.u32(*branch);
                out.u64(*mark);
                out.u64(*client);
                out.u64(*opening);
                NUMBERS
            }
            Self::Base(base) => {
                out.base(base);
                BASE
            }
            Self::Taken { base, runs } => {
                out.u32(base.0);
                for (first, end) in runs {
                    out.u64(*first);
                    out.u64(*end);
                }
                TAKEN
            }
            Self::Together(records) => {
                for record in records {
                    let (kind, body) = record.encode();
                    out.0.extend_from_slice(&kind.to_le_bytes());
                    out.u32(u32::try_from(body.len()).expect("a record has a few MiB at most"));
                    out.0.extend_from_slice(&body);
                }
                TOGETHER
            }
        };
        (kind, out.0)
    }

    /// The record of that kind and body.
    pub fn decode(kind: u16, body: &[u8]) -> Result<Self, RecordError> {
        let mut input = Reader { kind, rest: body };
        let record = match kind {
            VOLUME..=TAKEN | TOGETHER => {
                let version = input.u8("version")?;
                if version != VERSION {
                    return Err(RecordError::UnknownVersion { kind, version });
                }
                if kind == TOGETHER { input.together()? } else { input.record()? }
            }
            _ => return Err(RecordError::UnknownKind { kind }),
        };
        match input.rest.len() {
            0 => Ok(record),
            bytes => Err(RecordError::Long { kind, bytes }),
        }
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn time(&mut self, value: Timestamp) {
        self.0.extend_from_slice(&value.0.to_le_bytes());
    }

    fn when(&mut self, value: When) {
        self.u64(value.sequence.number());
        self.time(value.time);
    }

    /// Names have at most 63 bytes; a longer text of a client is cut at a character.
    fn text(&mut self, text: &str) {
        let text = &text[..text.floor_char_boundary(usize::from(u8::MAX))];
        self.u8(u8::try_from(text.len()).expect("cut above"));
        self.0.extend_from_slice(text.as_bytes());
    }

    fn presence(&mut self, presence: Presence) {
        let (state, since, until) = match presence {
            Presence::Live => (0, Timestamp(0), Timestamp(0)),
            Presence::Trash { since, until } => (1, since, until),
            Presence::Emptied => (2, Timestamp(0), Timestamp(0)),
        };
        self.u8(state);
        self.time(since);
        self.time(until);
    }

    fn volume(&mut self, volume: &Volume) {
        self.u32(volume.id.0);
        self.u16(match volume.block {
            LogicalBlock::B512 => 512,
            LogicalBlock::B4096 => 4096,
        });
        self.when(volume.created);
        self.0.extend_from_slice(&volume.key.0);
        self.u8(match volume.options.ack {
            AckPolicy::Disk => 0,
            AckPolicy::Page => 1,
            AckPolicy::Memory => 2,
        });
        self.u8(match volume.options.when_full {
            WhenFull::History => 0,
            WhenFull::Stop => 1,
        });
        self.u8(u8::from(volume.options.exclusive));
        self.presence(volume.presence);
        self.text(volume.name.as_str());
    }

    fn branch(&mut self, branch: &Branch) {
        let nowhere = When { sequence: Sequence::ZERO, time: Timestamp(0) };
        self.u32(branch.id.0);
        self.u32(branch.volume.0);
        self.u32(branch.parent.map_or(0, |fork| fork.branch.0));
        self.when(branch.parent.map_or(nowhere, |fork| fork.at));
        self.when(branch.created);
        let flags =
            [branch.read_only, branch.pinned, branch.ended.is_some(), branch.ttl_ns.is_some()];
        self.u8(flags.iter().rev().fold(0, |bits, &flag| bits << 1 | u8::from(flag)));
        self.when(branch.ended.unwrap_or(nowhere));
        self.u64(branch.ttl_ns.unwrap_or(0));
        self.presence(branch.presence);
        self.text(branch.name.as_ref().map_or("", BranchName::as_str));
    }

    fn base(&mut self, base: &Base) {
        self.u32(base.id.0);
        self.u32(base.root.0);
        self.u64(base.size_bytes);
        self.when(base.made);
        self.u8(u8::from(base.fill) | u8::from(base.detached) << 1);
        self.u64(base.rate_bytes);
        for bytes in [&base.origin, &base.seal] {
            let bytes = &bytes[..bytes.len().min(SOURCE_BYTES_MAX)];
            self.u32(u32::try_from(bytes.len()).expect("cut above"));
            self.0.extend_from_slice(bytes);
        }
    }

    fn mark(&mut self, mark: &Mark) {
        self.u64(mark.id.0);
        self.u32(mark.volume.0);
        self.u32(mark.branch.0);
        self.when(mark.at);
        self.u64(mark.made_by.0);
        self.time(mark.made);
        let flags = u8::from(mark.pinned) | u8::from(mark.keep_until.is_some()) << 1;
        self.u8(flags | u8::from(mark.note.is_some()) << 2);
        self.time(mark.keep_until.unwrap_or(Timestamp(0)));
        self.text(mark.name.as_str());
        if let Some(note) = &mark.note {
            self.text(note.as_str());
        }
    }

    fn who(&mut self, who: &Who) {
        match who {
            Who::Process { uid, pid, start } => {
                self.u8(1);
                self.u32(*uid);
                self.u32(*pid);
                self.u64(*start);
            }
            Who::Address(text) => {
                self.u8(2);
                self.text(text);
            }
            Who::Name(text) => {
                self.u8(3);
                self.text(text);
            }
        }
    }
}

struct Reader<'a> {
    kind: u16,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn record(&mut self) -> Result<CatalogueRecord, RecordError> {
        Ok(match self.kind {
            VOLUME => CatalogueRecord::Volume(self.volume()?),
            VOLUME_GONE => CatalogueRecord::VolumeGone(self.volume_id()?),
            BRANCH => CatalogueRecord::Branch(self.branch()?),
            BRANCH_GONE => CatalogueRecord::BranchGone(self.branch_id()?),
            SIZE => CatalogueRecord::Size {
                branch: self.branch_id()?,
                sequence: self.sequence("sequence")?,
                size_bytes: self.u64("size")?,
            },
            SERVED => CatalogueRecord::Served {
                volume: self.volume_id()?,
                served: Served { branch: self.branch_id()?, from: self.when("from")? },
            },
            MARK => CatalogueRecord::Mark(self.mark()?),
            MARK_GONE => CatalogueRecord::MarkGone(MarkId(self.id("mark")?)),
            CLIENT => {
                let client = self.client_id()?;
                CatalogueRecord::Client { client, who: self.who()? }
            }
            ATTACHED => CatalogueRecord::Attached(Attachment {
                volume: self.volume_id()?,
                branch: self.branch_id()?,
                client: self.client_id()?,
                since: self.time("since")?,
            }),
            ATTACHMENT_ENDED => CatalogueRecord::AttachmentEnded {
                volume: self.volume_id()?,
                branch: self.branch_id()?,
                client: self.client_id()?,
            },
            REFUSED => CatalogueRecord::Refused {
                volume: self.volume_id()?,
                client: self.client_id()?,
                since: self.time("since")?,
            },
            RELEASED => CatalogueRecord::Released(self.volume_id()?),
            OPENED => CatalogueRecord::Opened(Opening {
                id: OpeningId(self.id("opening")?),
                volume: self.volume_id()?,
                branch: self.branch_id()?,
                at: self.when("at")?,
                since: self.time("since")?,
                ttl_ns: self.u64("ttl")?,
            }),
            OPENING_GONE => CatalogueRecord::OpeningGone(OpeningId(self.id("opening")?)),
            NUMBERS => CatalogueRecord::Numbers {
                volume: self.u32("volume")?,
                branch: self.u32("branch")?,
                mark: self.u64("mark")?,
                client: self.u64("client")?,
                opening: self.u64("opening")?,
            },
            BASE => CatalogueRecord::Base(self.base()?),
            TAKEN => CatalogueRecord::Taken { base: self.branch_id()?, runs: self.runs()? },
            kind => return Err(RecordError::UnknownKind { kind }),
        })
    }

    fn base(&mut self) -> Result<Base, RecordError> {
        let (id, root) = (self.branch_id()?, self.branch_id()?);
        let size_bytes = self.u64("size")?;
        if size_bytes > VOLUME_BYTES_MAX {
            return Err(self.bad("size"));
        }
        let made = self.when("made")?;
        let flags = self.flags(0b11, "flags")?;
        let rate_bytes = self.u64("rate")?;
        let (origin, seal) = (self.long("origin")?, self.long("seal")?);
        let (fill, detached) = (flags & 1 != 0, flags & 2 != 0);
        Ok(Base { id, root, size_bytes, made, fill, rate_bytes, detached, origin, seal })
    }

    fn long(&mut self, what: &'static str) -> Result<Vec<u8>, RecordError> {
        let length = usize::try_from(self.u32(what)?).map_err(|_| self.bad(what))?;
        if length > SOURCE_BYTES_MAX {
            return Err(self.bad(what));
        }
        Ok(self.bytes(length, what)?.to_vec())
    }

    /// Until the end of the record.
    fn runs(&mut self) -> Result<Vec<(u64, u64)>, RecordError> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        while !self.rest.is_empty() {
            let (first, end) = (self.u64("first unit")?, self.u64("end of units")?);
            if first >= end || runs.last().is_some_and(|&(_, stop)| stop >= first) {
                return Err(self.bad("units"));
            }
            runs.push((first, end));
        }
        Ok(runs)
    }

    /// Not nested: a change is flat, and so is the stack that reads it.
    fn together(&mut self) -> Result<CatalogueRecord, RecordError> {
        let mut records = Vec::new();
        while !self.rest.is_empty() {
            let kind = u16::from_le_bytes(self.array("kind")?);
            if kind == TOGETHER {
                return Err(self.bad("kind"));
            }
            let length = usize::try_from(self.u32("length")?).map_err(|_| self.bad("length"))?;
            records.push(CatalogueRecord::decode(kind, self.bytes(length, "body")?)?);
        }
        Ok(CatalogueRecord::Together(records))
    }

    fn volume(&mut self) -> Result<Volume, RecordError> {
        let id = self.volume_id()?;
        let block = u64::from(u16::from_le_bytes(self.array("block")?));
        let block = LogicalBlock::of_bytes(block).ok_or_else(|| self.bad("block"))?;
        let created = self.when("created")?;
        let key = VolumeKey(self.array("key")?);
        let ack = match self.u8("ack")? {
            0 => AckPolicy::Disk,
            1 => AckPolicy::Page,
            2 => AckPolicy::Memory,
            _ => return Err(self.bad("ack")),
        };
        let when_full = match self.u8("when full")? {
            0 => WhenFull::History,
            1 => WhenFull::Stop,
            _ => return Err(self.bad("when full")),
        };
        let exclusive = self.flags(1, "exclusive")? == 1;
        let presence = self.presence()?;
        let name = VolumeName::parse(self.text("name")?).map_err(|_| self.bad("name"))?;
        let options = VolumeOptions { ack, when_full, exclusive };
        Ok(Volume { id, name, block, key, created, options, presence })
    }

    fn branch(&mut self) -> Result<Branch, RecordError> {
        let (id, volume) = (self.branch_id()?, self.volume_id()?);
        let (parent, at) = (self.u32("parent")?, self.when("fork")?);
        let parent = (parent != 0).then_some(Fork { branch: BranchId(parent), at });
        self.unused(parent.is_none(), at, "fork")?;
        let created = self.when("created")?;
        let flags = self.flags(0b1111, "flags")?;
        let ended = self.when("ended")?;
        self.unused(flags & 4 == 0, ended, "ended")?;
        let ttl_ns = self.u64("ttl")?;
        if flags & 8 == 0 && ttl_ns != 0 {
            return Err(self.bad("ttl"));
        }
        let presence = self.presence()?;
        if presence == Presence::Emptied {
            return Err(self.bad("presence"));
        }
        let name = match self.text("name")? {
            "" => None,
            name => Some(BranchName::parse(name).map_err(|_| self.bad("name"))?),
        };
        Ok(Branch {
            id,
            volume,
            parent,
            created,
            name,
            ended: (flags & 4 != 0).then_some(ended),
            read_only: flags & 1 != 0,
            pinned: flags & 2 != 0,
            ttl_ns: (flags & 8 != 0).then_some(ttl_ns),
            presence,
        })
    }

    fn mark(&mut self) -> Result<Mark, RecordError> {
        let id = MarkId(self.id("mark")?);
        let (volume, branch) = (self.volume_id()?, self.branch_id()?);
        let at = self.when("at")?;
        let made_by = ClientId(self.u64("made by")?);
        let made = self.time("made")?;
        let flags = self.flags(0b111, "flags")?;
        let until = self.time("keep until")?;
        if flags & 2 == 0 && until != Timestamp(0) {
            return Err(self.bad("keep until"));
        }
        let keep_until = (flags & 2 != 0).then_some(until);
        let name = MarkName::parse(self.text("name")?).map_err(|_| self.bad("name"))?;
        let note = match flags & 4 {
            0 => None,
            _ => Some(Note::parse(self.text("note")?).ok_or_else(|| self.bad("note"))?),
        };
        let pinned = flags & 1 != 0;
        Ok(Mark { id, volume, branch, at, name, keep_until, pinned, made_by, made, note })
    }

    fn who(&mut self) -> Result<Who, RecordError> {
        Ok(match self.u8("who")? {
            1 => Who::Process {
                uid: self.u32("uid")?,
                pid: self.u32("pid")?,
                start: self.u64("start")?,
            },
            2 => Who::Address(self.text("address")?.to_owned()),
            3 => Who::Name(self.text("name")?.to_owned()),
            _ => return Err(self.bad("who")),
        })
    }

    fn presence(&mut self) -> Result<Presence, RecordError> {
        let state = self.u8("presence")?;
        let (since, until) = (self.time("removed")?, self.time("until")?);
        match state {
            1 => Ok(Presence::Trash { since, until }),
            0 | 2 if (since, until) != (Timestamp(0), Timestamp(0)) => Err(self.bad("removed")),
            0 => Ok(Presence::Live),
            2 => Ok(Presence::Emptied),
            _ => Err(self.bad("presence")),
        }
    }

    fn unused(&self, unused: bool, value: When, field: &'static str) -> Result<(), RecordError> {
        let zero = value.sequence == Sequence::ZERO && value.time == Timestamp(0);
        if unused && !zero { Err(self.bad(field)) } else { Ok(()) }
    }

    fn when(&mut self, field: &'static str) -> Result<When, RecordError> {
        Ok(When { sequence: self.sequence(field)?, time: self.time(field)? })
    }

    fn sequence(&mut self, field: &'static str) -> Result<Sequence, RecordError> {
        let number = self.u64(field)?;
        Sequence::new(number).ok_or_else(|| self.bad(field))
    }

    fn time(&mut self, field: &'static str) -> Result<Timestamp, RecordError> {
        self.array(field).map(i64::from_le_bytes).map(Timestamp)
    }

    fn volume_id(&mut self) -> Result<VolumeId, RecordError> {
        match self.u32("volume")? {
            0 | u32::MAX => Err(self.bad("volume")),
            id => Ok(VolumeId(id)),
        }
    }

    fn branch_id(&mut self) -> Result<BranchId, RecordError> {
        match self.u32("branch")? {
            0 | u32::MAX => Err(self.bad("branch")),
            id => Ok(BranchId(id)),
        }
    }

    fn client_id(&mut self) -> Result<ClientId, RecordError> {
        self.id("client").map(ClientId)
    }

    /// Numbers begin at 1, and the last one is never given out.
    fn id(&mut self, field: &'static str) -> Result<u64, RecordError> {
        match self.u64(field)? {
            0 | u64::MAX => Err(self.bad(field)),
            id => Ok(id),
        }
    }

    fn flags(&mut self, known: u8, field: &'static str) -> Result<u8, RecordError> {
        let flags = self.u8(field)?;
        if flags & !known == 0 { Ok(flags) } else { Err(self.bad(field)) }
    }

    fn u8(&mut self, field: &'static str) -> Result<u8, RecordError> {
        self.array::<1>(field).map(|[byte]| byte)
    }

    fn u32(&mut self, field: &'static str) -> Result<u32, RecordError> {
        self.array(field).map(u32::from_le_bytes)
    }

    fn u64(&mut self, field: &'static str) -> Result<u64, RecordError> {
        self.array(field).map(u64::from_le_bytes)
    }

    fn text(&mut self, field: &'static str) -> Result<&'a str, RecordError> {
        let length = self.u8(field)?.into();
        std::str::from_utf8(self.bytes(length, field)?).map_err(|_| self.bad(field))
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], RecordError> {
        let short = RecordError::Short { kind: self.kind, field };
        let (array, rest) = self.rest.split_first_chunk().ok_or(short)?;
        self.rest = rest;
        Ok(*array)
    }

    fn bytes(&mut self, length: usize, field: &'static str) -> Result<&'a [u8], RecordError> {
        let short = RecordError::Short { kind: self.kind, field };
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(short)?;
        self.rest = rest;
        Ok(bytes)
    }

    fn bad(&self, field: &'static str) -> RecordError {
        RecordError::Value { kind: self.kind, field }
    }
}
