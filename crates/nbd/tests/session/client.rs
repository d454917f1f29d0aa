//! A client's bytes, put together by hand.

/// One option.
pub fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).expect("short");
    [b"IHAVEOPT", &number.to_be_bytes()[..], &length.to_be_bytes(), data].concat()
}

/// The data of INFO and GO.
pub fn export(name: &str, infos: &[u16]) -> Vec<u8> {
    let count = u16::try_from(infos.len()).expect("few");
    let infos: Vec<u8> = infos.iter().flat_map(|info| info.to_be_bytes()).collect();
    [&counted(name)[..], &count.to_be_bytes(), &infos].concat()
}

/// The data of LIST and SET_META_CONTEXT.
pub fn contexts(name: &str, queries: &[&str]) -> Vec<u8> {
    let count = u32::try_from(queries.len()).expect("few");
    let queries: Vec<u8> = queries.iter().flat_map(|query| counted(query)).collect();
    [&counted(name)[..], &count.to_be_bytes(), &queries].concat()
}

fn counted(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len()).expect("short");
    [&length.to_be_bytes()[..], text.as_bytes()].concat()
}

/// How a client wants its replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replies {
    Simple,
    Structured,
    Extended,
}

impl Replies {
    /// Flags and options up to the transmission phase on `name`, with `base:allocation` if there can be.
    pub fn handshake(self, name: &str) -> Vec<u8> {
        let mut bytes = vec![0, 0, 0, 3];
        let set_contexts = option(10, &contexts(name, &["base:allocation"]));
        match self {
            Self::Simple => {}
            Self::Structured => bytes.extend([option(8, b""), set_contexts].concat()),
            Self::Extended => bytes.extend([option(11, b""), set_contexts].concat()),
        }
        bytes.extend(option(7, &export(name, &[3])));
        bytes
    }

    /// One request.
    pub fn request(self, flags: u16, command: u16, cookie: u64, at: u64, length: u64) -> Vec<u8> {
        let fields = |magic: u32| {
            [
                &magic.to_be_bytes()[..],
                &flags.to_be_bytes(),
                &command.to_be_bytes(),
                &cookie.to_be_bytes(),
                &at.to_be_bytes(),
            ]
            .concat()
        };
        match self {
            Self::Simple | Self::Structured => {
                let length = u32::try_from(length).expect("compact");
                [fields(0x2560_9513), length.to_be_bytes().to_vec()].concat()
            }
            Self::Extended => [fields(0x21e4_1c71), length.to_be_bytes().to_vec()].concat(),
        }
    }
}
