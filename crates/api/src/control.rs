//! What a store can be asked: [`Request`], [`Answer`] and the trait [`Control`] that a store
//! implements.
//!
//! One table below names every verb with its path, request and answer; enums, JSON forms and the
//! OpenAPI document come from it. On the socket a verb is `POST /v1/<path>` with the request as
//! body; verbs marked `asks` change nothing and answer `GET` with no body, too. Each answer
//! carries `schema`, `<path with dots>/1`.

use crate::{
    codes,
    failure::Failure,
    verbs::{doctor, export, history, image, key, log, mark, past, session, store, trash, vol},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// Version of the requests and answers, in every path and in the header [`VERSION_HEADER`].
pub const API_VERSION: &str = "v1";

/// Header of every answer: [`API_VERSION`].
pub const VERSION_HEADER: &str = "strandline-api";

/// Who asks, as the kernel says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Caller {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Process, where it is known.
    pub pid: Option<i32>,
}

/// A store that can be asked. Calls block; several may run at the same time.
pub trait Control: Send + Sync {
    /// Does what is asked, or says why not.
    fn call(&self, who: &Caller, request: Request) -> Result<Answer, Failure>;

    /// The bytes of an instant, in order, without gaps, exactly as many as were asked.
    fn read(&self, who: &Caller, request: past::Read) -> Result<Box<dyn Chunks>, Failure>;

    /// The bytes of a file of an export: in order, without gaps, exactly as many as were asked.
    fn export(&self, who: &Caller, request: export::Read) -> Result<Box<dyn Chunks>, Failure>;
}

/// A piece of a disk's contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// These bytes; never empty, at most [`Chunk::DATA_MAX`].
    Data(Vec<u8>),
    /// So many zeroes; never 0.
    Zeroes(u64),
}

impl Chunk {
    /// The most bytes in one piece: 2 MiB, a page of the store's pools.
    pub const DATA_MAX: usize = 2 << 20;

    /// How much of the disk it covers.
    pub fn length(&self) -> u64 {
        match self {
            Self::Data(bytes) => bytes.len() as u64,
            Self::Zeroes(length) => *length,
        }
    }
}

/// A stream of pieces.
pub trait Chunks: Send {
    /// The next piece; `None` at the end. After a failure there is nothing more.
    fn next(&mut self) -> Result<Option<Chunk>, Failure>;
}

/// A request with the type of its answer.
pub trait Verb: Serialize + DeserializeOwned {
    /// What comes back.
    type Answer: Serialize;
    /// Its path below the version: `vol/create`.
    const PATH: &'static str;
    /// The request among all.
    fn into_request(self) -> Request;
    /// The answer among all; `None` for the answer to something else.
    fn from_answer(answer: Answer) -> Option<Self::Answer>;

    /// The document of its answer, with `schema` in front.
    fn document(answer: &Self::Answer) -> Value {
        with_schema(&schema_of(Self::PATH), answer)
    }
}

/// [`Control::call`] with types.
pub trait ControlExt: Control {
    /// Asks, and gives the answer that belongs to the question.
    fn ask<V: Verb>(&self, who: &Caller, verb: V) -> Result<V::Answer, Failure> {
        V::from_answer(self.call(who, verb.into_request())?).ok_or_else(|| {
            let text = format!("{} was answered by another verb", V::PATH);
            Failure::new(codes::UNEXPECTED_ANSWER, text)
        })
    }
}

impl<C: Control + ?Sized> ControlExt for C {}

/// A verb as the tables see it.
#[derive(Clone, Copy, Debug)]
pub struct VerbInfo {
    /// `vol/create`.
    pub path: &'static str,
    /// One line for the reference.
    pub summary: &'static str,
    /// Whether it changes nothing, so that `GET` may ask it.
    pub asks: bool,
}

impl VerbInfo {
    /// The value of `schema` in its answer: `vol.create/1`.
    pub fn schema(&self) -> String {
        schema_of(self.path)
    }
}

fn schema_of(path: &str) -> String {
    format!("{}/1", path.replace('/', "."))
}

/// The value as an object with `schema` in front.
pub fn with_schema(schema: &str, value: &impl Serialize) -> Value {
    let mut document = serde_json::Map::new();
    document.insert("schema".to_owned(), Value::from(schema));
    match serde_json::to_value(value).expect("answers are plain data with string keys") {
        Value::Object(fields) => document.extend(fields),
        other => {
            document.insert("value".to_owned(), other);
        }
    }
    Value::Object(document)
}

fn parse<T: DeserializeOwned>(path: &str, body: &[u8]) -> Result<T, Failure> {
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body)
        .map_err(|error| Failure::new(codes::BAD_REQUEST, format!("{path}: {error}")))
}

macro_rules! verbs {
    ($($variant:ident $path:literal $does:ident $request:ty => $answer:ty, $summary:literal;)*) => {
        /// Everything that a store can be asked.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(clippy::large_enum_variant, reason = "one at a time, moved twice")]
        pub enum Request {
            $(#[doc = $summary] $variant($request),)*
        }

        /// Everything that a store answers.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(clippy::large_enum_variant, reason = "one at a time, moved twice")]
        pub enum Answer {
            $(#[doc = $summary] $variant($answer),)*
        }

        /// Every verb, in the order of the manual.
        pub const VERBS: &[VerbInfo] =
            &[$(VerbInfo { path: $path, summary: $summary, asks: verbs!(@$does) }),*];

        impl Request {
            /// Its path below the version: `vol/create`.
            pub const fn path(&self) -> &'static str {
                match self { $(Self::$variant(_) => $path,)* }
            }

            /// The body on the socket.
            pub fn to_json(&self) -> Value {
                match self {
                    $(Self::$variant(request) => serde_json::to_value(request),)*
                }
                .expect("requests are plain data with string keys")
            }

            /// From the socket; an empty body asks with all defaults.
            pub fn parse(path: &str, body: &[u8]) -> Result<Self, Failure> {
                match path {
                    $($path => parse(path, body).map(Self::$variant),)*
                    _ => Err(no_such_call(path)),
                }
            }
        }

        impl Answer {
            /// Path of the request that it answers.
            pub const fn path(&self) -> &'static str {
                match self { $(Self::$variant(_) => $path,)* }
            }

            /// The JSON document, with its `schema`.
            pub fn to_json(&self) -> Value {
                let schema = schema_of(self.path());
                match self { $(Self::$variant(answer) => with_schema(&schema, answer),)* }
            }

            /// From the socket, as the answer to the request of that path.
            pub fn parse(path: &str, body: &[u8]) -> Result<Self, Failure> {
                let read = match path {
                    $($path => serde_json::from_slice(body).map(Self::$variant),)*
                    _ => return Err(no_such_call(path)),
                };
                read.map_err(|error| {
                    Failure::new(codes::UNEXPECTED_ANSWER, format!("answer to {path}: {error}"))
                        .doing("run the command line of the server's version")
                })
            }
        }

        $(
            impl Verb for $request {
                type Answer = $answer;
                const PATH: &'static str = $path;

                fn into_request(self) -> Request {
                    Request::$variant(self)
                }

                fn from_answer(answer: Answer) -> Option<Self::Answer> {
                    match answer {
                        Answer::$variant(answer) => Some(answer),
                        _ => None,
                    }
                }
            }
        )*

        /// Adds the schemas of all requests and answers.
        pub(crate) fn visit(visitor: &mut impl crate::openapi::Visitor) {
            let mut verbs = VERBS.iter();
            $(
                visitor.verb::<$request, $answer>(verbs.next().expect("one entry each"));
            )*
        }
    };
    (@asks) => { true };
    (@does) => { false };
}

/// The refusal of a path that no verb has.
pub fn no_such_call(path: &str) -> Failure {
    Failure::new(codes::NO_SUCH_CALL, format!("there is no call `{path}`"))
        .doing("compare `strandline --version` with the server's: strandline status")
}

verbs! {
    StoreInfo "store/info" asks store::StoreInfoAsk => store::StoreInfo, "What a store is and holds.";
    StoreCheck "store/check" does store::StoreCheck => store::StoreChecked, "Reads what the store holds and compares it with its seals.";
    StoreRepair "store/repair" does store::StoreRepair => store::StoreRepaired, "Rebuilds what is derived.";
    StoreGc "store/gc" does store::StoreGc => store::StoreCollected, "Frees what no kept instant needs.";
    KeyAdd "store/key/add" does key::KeyAdd => key::KeyAdded, "Adds a key slot.";
    KeyLs "store/key/ls" asks key::KeyLs => key::KeySlots, "Lists the key slots.";
    KeyRotate "store/key/rotate" does key::KeyRotate => key::KeyRotated, "Wraps the volumes' keys anew.";
    KeyRemove "store/key/rm" does key::KeyRemove => key::KeyRemoved, "Removes a key slot.";
    TrashLs "store/trash/ls" asks trash::TrashLs => trash::TrashList, "Lists what was removed.";
    TrashEmpty "store/trash/empty" does trash::TrashEmpty => trash::TrashEmptied, "Removes for good.";
    VolCreate "vol/create" does vol::VolCreate => vol::VolCreated, "Makes a volume.";
    VolLs "vol/ls" asks vol::VolLs => vol::VolList, "Lists the volumes.";
    VolShow "vol/show" does vol::VolShow => vol::VolDetails, "Shows a volume, or how an instant is understood.";
    VolSet "vol/set" does vol::VolSet => vol::VolDetails, "Changes settings of a volume.";
    VolResize "vol/resize" does vol::VolResize => vol::VolResized, "Changes the size of a volume.";
    VolRename "vol/rename" does vol::VolRename => vol::VolRenamed, "Gives a volume another name.";
    VolRemove "vol/rm" does vol::VolRemove => vol::VolRemoved, "Puts a volume into the trash.";
    VolUndelete "vol/undelete" does vol::VolUndelete => vol::VolCreated, "Brings a volume back from the trash.";
    VolRelease "vol/release" does vol::VolRelease => vol::VolReleased, "Lets clients in again that were cut off.";
    Log "log" does log::Log => log::LogPage, "Shows a volume's history.";
    MarkAdd "mark/add" does mark::MarkAdd => mark::Mark, "Names an instant.";
    MarkLs "mark/ls" asks mark::MarkLs => mark::MarkList, "Lists marks.";
    MarkRemove "mark/rm" does mark::MarkRemove => mark::MarkRemoved, "Removes a mark.";
    MarkPin "mark/pin" does mark::MarkPin => mark::Mark, "Pins a mark or lets it go.";
    Open "open" does past::Open => past::Opened, "Makes an instant reachable for clients.";
    Close "close" does past::Close => past::Closed, "Closes an opened instant.";
    Clone "clone" does history::VolClone => history::Cloned, "Makes a volume that begins at an instant.";
    Rewind "rewind" does history::Rewind => history::Rewound, "Puts a volume back at an instant.";
    Diff "diff" does history::Diff => history::DiffPage, "Shows what differs between two instants.";
    ImageAdopt "image/adopt" does image::ImageAdopt => image::ImageAdopted, "Makes a volume on a foreign image.";
    ImageFill "image/fill" does image::ImageFill => image::ImageFilled, "Has the image that a volume stands on taken over, or opened anew.";
    ExportDescribe "export/describe" does export::Describe => export::Described, "Says which files an instant is as an image.";
    SessionLs "session/ls" asks session::SessionLs => session::SessionList, "Lists who is connected.";
    SessionKick "session/kick" does session::SessionKick => session::SessionKicked, "Ends a session.";
    Status "status" asks store::StatusAsk => store::Status, "Shows how a store and its server are.";
    Doctor "doctor" asks doctor::Doctor => doctor::Checks, "Makes the checks that only the server can make.";
    Stop "stop" does store::Stop => store::Stopping, "Ends the server as if by SIGTERM.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verbs::doctor::{Check, Health};

    #[test]
    fn paths_are_unique_and_questions_need_no_body() {
        for (index, verb) in VERBS.iter().enumerate() {
            assert!(VERBS[..index].iter().all(|other| other.path != verb.path), "{}", verb.path);
            if verb.asks {
                assert!(Request::parse(verb.path, b"").is_ok(), "{}", verb.path);
            }
        }
    }

    #[test]
    fn a_request_is_read_back_from_its_json() {
        let reference = "db@-5m^flush".parse().expect("well formed");
        let request = past::Open { reference, writable: true, ttl_ns: None, exact: false };
        let request = request.into_request();
        let json = request.to_json();
        assert_eq!(json["reference"], "db@-5m^flush");
        let back = Request::parse(request.path(), json.to_string().as_bytes());
        assert_eq!(back, Ok(request));
    }

    #[test]
    fn an_answer_carries_its_schema_and_is_read_back() {
        let check = Check { health: Health::Warn, what: "full".to_owned(), remedy: None };
        let answer = Answer::Doctor(doctor::Checks { checks: vec![check] });
        let json = answer.to_json().to_string();
        let expected =
            r#"{"checks":[{"do":null,"health":"warn","what":"full"}],"schema":"doctor/1"}"#;
        assert_eq!(json, expected);
        assert_eq!(Answer::parse("doctor", json.as_bytes()), Ok(answer));
    }

    #[test]
    fn nonsense_is_refused_with_its_place() {
        let code = |path: &str, body: &[u8]| {
            Request::parse(path, body).map_or_else(|failure| failure.code, |_| codes::BUG)
        };
        assert_eq!(code("vol/create", b""), codes::BAD_REQUEST);
        assert_eq!(code("vol/create", br#"{"name":"DB","size":1}"#), codes::BAD_REQUEST);
        assert_eq!(code("vol/ls", br#"{"colour":1}"#), codes::BAD_REQUEST);
        assert_eq!(code("vol/fly", b"{}"), codes::NO_SUCH_CALL);
        assert_eq!(code("vol/show", br#"{"reference":"db@10:00"}"#), codes::BAD_REQUEST);
    }
}
