//! A small NBD client over a unix socket: fixed newstyle, one request at a time, simple replies.
//!
//! It reads and writes what the demo needs where no other client is installed. What a server sends
//! is checked; nothing of it makes this panic.

use std::{
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

const GREETING: &[u8] = b"NBDMAGICIHAVEOPT";
const OPTION_MAGIC: &[u8] = b"IHAVEOPT";
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const FIXED_NO_ZEROES: u32 = 3;
const OPT_GO: u32 = 7;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const REP_ERROR: u32 = 1 << 31;
const INFO_EXPORT: u16 = 0;
const REQUEST: u32 = 0x2560_9513;
const REPLY: u32 = 0x6744_6698;
const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;

/// Longer replies to an option are no replies.
const OPTION_REPLY_MAX: u32 = 64 << 10;
/// Bytes of a request; every server takes so many.
const REQUEST_BYTES: usize = 1 << 20;
/// A server that is silent for so long will not answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to one export.
#[derive(Debug)]
pub(super) struct Client {
    stream: UnixStream,
    size: u64,
}

impl Client {
    /// Connects to an export.
    pub(super) fn connect(socket: &Path, export: &str) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut client = Self { stream, size: 0 };
        let greeting: [u8; 18] = client.take()?;
        if !greeting.starts_with(GREETING) {
            return Err(io::Error::other("it is no NBD server"));
        }
        client.stream.write_all(&FIXED_NO_ZEROES.to_be_bytes())?;
        client.go(export)?;
        Ok(client)
    }

    /// Bytes of the disk.
    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    /// Reads from the disk.
    pub(super) fn read(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let mut at = offset;
        for part in bytes.chunks_mut(REQUEST_BYTES) {
            self.ask(READ, at, part.len(), &[])?;
            self.stream.read_exact(part)?;
            at += part.len() as u64;
        }
        Ok(())
    }

    /// Writes to the disk.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut at = offset;
        for part in bytes.chunks(REQUEST_BYTES) {
            self.ask(WRITE, at, part.len(), part)?;
            at += part.len() as u64;
        }
        Ok(())
    }

    /// Makes what was written durable, and ends as the protocol says.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.ask(FLUSH, 0, 0, &[])?;
        self.end()
    }

    /// Ends as the protocol says; returns when the server has hung up.
    pub(super) fn end(mut self) -> io::Result<()> {
        self.stream.write_all(&request(DISCONNECT, 0, 0))?;
        match self.stream.read(&mut [0]) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn go(&mut self, export: &str) -> io::Result<()> {
        let name = u32::try_from(export.len()).map_err(io::Error::other)?;
        let mut option = OPTION_MAGIC.to_vec();
        option.extend(OPT_GO.to_be_bytes());
        option.extend((name + 6).to_be_bytes());
        option.extend(name.to_be_bytes());
        option.extend(export.as_bytes());
        option.extend(0_u16.to_be_bytes()); // no further questions
        self.stream.write_all(&option)?;
        loop {
            let magic = u64::from_be_bytes(self.take()?);
            let _option = self.take::<4>()?;
            let kind = u32::from_be_bytes(self.take()?);
            let length = u32::from_be_bytes(self.take()?);
            if magic != REPLY_MAGIC || length > OPTION_REPLY_MAX {
                return Err(io::Error::other("it is no NBD server"));
            }
            let mut data = Vec::new();
            (&self.stream).take(u64::from(length)).read_to_end(&mut data)?;
            match kind {
                REP_ACK => return Ok(()),
                REP_INFO => self.learn(&data),
                kind if kind & REP_ERROR != 0 => {
                    let text = String::from_utf8_lossy(&data);
                    return Err(io::Error::other(format!("the server refuses `{export}`: {text}")));
                }
                _ => {}
            }
        }
    }

    fn learn(&mut self, info: &[u8]) {
        let Some((kind, rest)) = info.split_first_chunk() else { return };
        if u16::from_be_bytes(*kind) == INFO_EXPORT
            && let Some(size) = rest.first_chunk()
        {
            self.size = u64::from_be_bytes(*size);
        }
    }

    fn ask(&mut self, command: u16, offset: u64, length: usize, data: &[u8]) -> io::Result<()> {
        let length = u32::try_from(length).map_err(io::Error::other)?;
        self.stream.write_all(&request(command, offset, length))?;
        self.stream.write_all(data)?;
        let magic = u32::from_be_bytes(self.take()?);
        let error = i32::from_be_bytes(self.take()?);
        let _cookie = self.take::<8>()?;
        match (magic, error) {
            (REPLY, 0) => Ok(()),
            (REPLY, error) => Err(io::Error::from_raw_os_error(error)),
            _ => Err(io::Error::other("the server's answer is none")),
        }
    }

    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

fn request(command: u16, offset: u64, length: u32) -> Vec<u8> {
    let mut bytes = REQUEST.to_be_bytes().to_vec();
    bytes.extend(0_u16.to_be_bytes());
    bytes.extend(command.to_be_bytes());
    bytes.extend(0_u64.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes
}
