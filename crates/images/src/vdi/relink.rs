//! Another parent for a differencing VDI: two UUIDs in the first sector. It has no name.

use super::header::{self, HEADER, Kind};
use crate::{
    FileId, Format, Identity, Input, Part,
    bytes::wide,
    relink::{Edit, Halt, Relink, SECTOR_BYTES, Steps, fresh_id, refused},
};

pub(crate) fn edit(file: FileId, input: &Input, relink: &Relink) -> Result<Edit, Halt> {
    let no = |text: String| refused(Format::Vdi, text);
    let header = header::read(file, input)?;
    if header.kind != Kind::Differencing {
        return Err(no("it has no parent".to_owned()));
    }
    let parent = &relink.parent;
    let Identity::Vdi { id, modified } = parent.identity else {
        return Err(no(format!("a parent of the format {}, it must be a VDI", parent.format)));
    };
    if parent.virtual_size != header.size {
        let (own, size) = (header.size, parent.virtual_size);
        return Err(no(format!("a disk of {own} bytes over a parent of {size}")));
    }
    let mut head = input.read_up_to(file, 0, HEADER, Part::Header)?.to_vec();
    if wide(head.len()) < SECTOR_BYTES {
        return Err(no("its header is cut".to_owned()));
    }
    let before = head.clone();
    if relink.changes_bytes {
        head[408..424].copy_from_slice(&fresh_id(&relink.fresh));
    }
    head[424..440].copy_from_slice(&id);
    head[440..456].copy_from_slice(&modified);
    let mut steps = Steps::default();
    if head != before {
        steps.write_sectors(&head, 0..SECTOR_BYTES).sync();
    }
    Ok(steps.done())
}
