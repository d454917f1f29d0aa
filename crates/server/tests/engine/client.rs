//! An NBD client of the plainest kind: one request at a time, simple replies.

use std::{
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
};

const OPT_GO: u32 = 7;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const INFO_EXPORT: u16 = 0;
const INFO_NAME: u16 = 1;
const OPTION_MAGIC: &[u8] = b"IHAVEOPT";
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;

/// A connection that has chosen its export.
pub struct Client {
    stream: UnixStream,
    pub size: u64,
    pub flags: u16,
    /// What the server calls the export.
    pub name: String,
}

impl Client {
    /// Connects; the error is the server's message, or the number of its refusal.
    pub fn connect(socket: &Path, name: &str) -> io::Result<Self> {
        let mut stream = UnixStream::connect(socket)?;
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting)?;
        assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
        stream.write_all(&3_u32.to_be_bytes())?; // fixed newstyle, no zeroes
        let name_length = u32::try_from(name.len()).expect("short");
        let mut option = Vec::new();
        option.extend(OPTION_MAGIC);
        option.extend(OPT_GO.to_be_bytes());
        option.extend((name_length + 8).to_be_bytes());
        option.extend(name_length.to_be_bytes());
        option.extend(name.as_bytes());
        option.extend(1_u16.to_be_bytes());
        option.extend(INFO_NAME.to_be_bytes());
        stream.write_all(&option)?;
        let mut client = Self { stream, size: 0, flags: 0, name: String::new() };
        loop {
            let head = client.bytes(20)?;
            let kind = u32::from_be_bytes(head[12..16].try_into().expect("four"));
            let length = u32::from_be_bytes(head[16..20].try_into().expect("four"));
            let data = client.bytes(length as usize)?;
            match kind {
                REP_ACK => return Ok(client),
                REP_INFO => client.learn(&data),
                other => {
                    let text = format!("{:#x} {}", other, String::from_utf8_lossy(&data));
                    return Err(io::Error::other(text));
                }
            }
        }
    }

    fn learn(&mut self, data: &[u8]) {
        match u16::from_be_bytes([data[0], data[1]]) {
            INFO_EXPORT => {
                self.size = u64::from_be_bytes(data[2..10].try_into().expect("eight"));
                self.flags = u16::from_be_bytes([data[10], data[11]]);
            }
            INFO_NAME => self.name = String::from_utf8(data[2..].to_vec()).expect("text"),
            _ => {}
        }
    }

    pub fn multi_conn(&self) -> bool {
        self.flags & 1 << 8 != 0
    }

    pub fn read_only(&self) -> bool {
        self.flags & 1 << 1 != 0
    }

    pub fn read(&mut self, offset: u64, length: usize) -> Result<Vec<u8>, u32> {
        self.ask(0, offset, u32::try_from(length).expect("short"), &[])?;
        Ok(self.bytes(length).expect("data of the read"))
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), u32> {
        self.ask(1, offset, u32::try_from(data.len()).expect("short"), data)
    }

    pub fn flush(&mut self) -> Result<(), u32> {
        self.ask(3, 0, 0, &[])
    }

    pub fn trim(&mut self, offset: u64, length: u32) -> Result<(), u32> {
        self.ask(4, offset, length, &[])
    }

    /// Ends as the protocol says, and waits for the server's end.
    pub fn end(mut self) {
        self.stream.write_all(&header(2, 0, 0)).expect("sent");
        let _ = self.stream.read(&mut [0]);
    }

    /// The answer's error number; [`u32::MAX`] when the connection is gone.
    fn ask(&mut self, command: u16, offset: u64, length: u32, data: &[u8]) -> Result<(), u32> {
        let sent = self.stream.write_all(&header(command, offset, length));
        sent.and_then(|()| self.stream.write_all(data)).map_err(|_| u32::MAX)?;
        let reply = self.bytes(16).map_err(|_| u32::MAX)?;
        assert_eq!(reply[..4], REPLY_MAGIC.to_be_bytes());
        match u32::from_be_bytes(reply[4..8].try_into().expect("four")) {
            0 => Ok(()),
            error => Err(error),
        }
    }

    fn bytes(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

fn header(command: u16, offset: u64, length: u32) -> Vec<u8> {
    let mut header = Vec::new();
    header.extend(REQUEST_MAGIC.to_be_bytes());
    header.extend(0_u16.to_be_bytes());
    header.extend(command.to_be_bytes());
    header.extend(7_u64.to_be_bytes());
    header.extend(offset.to_be_bytes());
    header.extend(length.to_be_bytes());
    header
}
