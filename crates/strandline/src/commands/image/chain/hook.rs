//! `image chain hook`: what libvirt asks before it starts a machine.
//!
//! libvirt runs `/etc/libvirt/hooks/qemu DOMAIN OPERATION PHASE EXTRA` with the machine's XML on stdin,
//! and does not start it if the hook fails at `prepare`. The file is a script of three lines
//! (`--script`); everything else is here. Other operations are none of ours and pass.
//!
//! Only disks in files are looked at (`<disk type='file'>`, or `type='block'`), in the format that the
//! XML states: the one that QEMU will use. Parents may have absolute names, as libvirt writes them. An
//! image that nobody sealed passes: the hook is for what was.

use super::run::sound;
use crate::{
    cli::{ChainHookArgs, ChainOpenArgs, CheckLevel, GivenFormat},
    commands::image::INTERRUPTED,
    context::Context,
    out::Stop,
};
use api::{Failure, codes};
use std::{
    io::{self, Read as _},
    path::PathBuf,
};

/// Bytes of a machine's XML, at most.
const XML_BYTES_MAX: u64 = 16 << 20;

/// What stands in the hooks' folder.
const SCRIPT: &str = "#!/bin/sh\n\
    # Keeps a machine from starting on images whose parents changed (strandline image chain guard).\n\
    exec strandline image chain hook \"$@\"\n";

pub(super) fn run(args: &ChainHookArgs, context: &mut Context<'_>) -> Result<u8, Stop> {
    if args.script {
        context.out.text(SCRIPT)?;
        return Ok(0);
    }
    let Some(operation) = &args.operation else {
        let failure = Failure::new(codes::USAGE, "libvirt gives DOMAIN OPERATION PHASE EXTRA");
        let doing =
            "--script prints what libvirt runs: put it at /etc/libvirt/hooks/qemu, mode 0755";
        return Err(failure.doing(doing).into());
    };
    if operation != "prepare" {
        return Ok(0);
    }
    let mut xml = String::new();
    let read = io::stdin().lock().take(XML_BYTES_MAX + 1).read_to_string(&mut xml);
    let is_whole = read.is_ok_and(|bytes| bytes as u64 <= XML_BYTES_MAX);
    let disks = if is_whole { disks(&xml) } else { None };
    let Some(disks) = disks else {
        let text = "what stands on stdin is no XML of a machine";
        return Err(Failure::new(codes::USAGE, text).into());
    };
    for disk in disks {
        let open = ChainOpenArgs {
            format: disk.format,
            parent_format: None,
            search: Vec::new(),
            devices: true,
            outside: true,
            book: args.book.clone(),
        };
        if sound(&disk.path, &open, (CheckLevel::Auto, true), context)?.is_none() {
            return Ok(INTERRUPTED);
        }
    }
    Ok(0)
}

/// A disk of a machine.
#[derive(Debug, PartialEq, Eq)]
struct Disk {
    path: PathBuf,
    format: GivenFormat,
}

/// The disks that stand in a machine's XML; `None` if it is none.
fn disks(xml: &str) -> Option<Vec<Disk>> {
    let (mut found, mut path, mut format) = (Vec::new(), None, GivenFormat::Raw);
    let (mut depth, mut in_domain) = (0_u32, false);
    let mut inside: Option<u32> = None;
    for tag in Tags(xml) {
        let tag = tag?;
        in_domain |= tag.name == "domain";
        let at = depth;
        match tag.kind {
            TagKind::Open => depth += 1,
            TagKind::Close => depth = depth.checked_sub(1)?,
            TagKind::Empty => {}
        }
        match (tag.name, tag.kind, inside) {
            ("disk", TagKind::Open, None) => {
                (path, format) = (None, GivenFormat::Raw);
                let kind = tag.attribute("type");
                let is_disk =
                    matches!(tag.attribute("device").as_deref(), None | Some("disk" | "lun"));
                if matches!(kind.as_deref(), Some("file" | "block")) && is_disk {
                    inside = Some(at);
                }
            }
            // Its own source and driver: those of a <mirror> or <backingStore> within are others'.
            ("source", TagKind::Open | TagKind::Empty, Some(disk)) if at == disk + 1 => {
                path = tag.attribute("file").or_else(|| tag.attribute("dev")).map(PathBuf::from);
            }
            ("driver", TagKind::Open | TagKind::Empty, Some(disk)) if at == disk + 1 => {
                format = tag.attribute("type").map_or(GivenFormat::Raw, |word| format_of(&word));
            }
            ("disk", TagKind::Close, Some(disk)) if depth == disk => {
                inside = None;
                found.extend(path.take().map(|path| Disk { path, format }));
            }
            _ => {}
        }
    }
    (in_domain && depth == 0).then_some(found)
}

/// QEMU's word for a format; what is not read here is looked at by its bytes.
fn format_of(word: &str) -> GivenFormat {
    match word {
        "raw" => GivenFormat::Raw,
        "qcow2" => GivenFormat::Qcow2,
        "vpc" => GivenFormat::Vhd,
        "vhdx" => GivenFormat::Vhdx,
        "vmdk" => GivenFormat::Vmdk,
        "vdi" => GivenFormat::Vdi,
        _ => GivenFormat::Auto,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TagKind {
    Open,
    Close,
    Empty,
}

#[derive(Debug)]
struct Tag<'x> {
    name: &'x str,
    kind: TagKind,
    attributes: &'x str,
}

impl Tag<'_> {
    /// The value of an attribute, entities replaced.
    fn attribute(&self, wanted: &str) -> Option<String> {
        let mut rest = self.attributes.trim_start();
        while let Some((name, after)) = rest.split_once('=') {
            let after = after.trim_start();
            let quote = after.chars().next().filter(|first| matches!(first, '"' | '\''))?;
            let (value, behind) = after[1..].split_once(quote)?;
            if name.trim() == wanted {
                return unescaped(value);
            }
            rest = behind.trim_start();
        }
        None
    }
}

/// The tags of a document, in order; `None` where it is no XML. Comments, instructions and text are
/// passed over: libvirt writes the document itself.
struct Tags<'x>(&'x str);

impl<'x> Iterator for Tags<'x> {
    type Item = Option<Tag<'x>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let start = self.0.find('<')?;
            let rest = &self.0[start..];
            let passed = [("<!--", "-->"), ("<![CDATA[", "]]>"), ("<?", "?>"), ("<!", ">")];
            if let Some((_, end)) = passed.iter().find(|(begin, _)| rest.starts_with(begin)) {
                let Some(length) = rest.find(end) else {
                    self.0 = "";
                    return Some(None);
                };
                self.0 = &rest[length + end.len()..];
                continue;
            }
            let Some(end) = end_of_tag(rest) else {
                self.0 = "";
                return Some(None);
            };
            let inner = &rest[1..end];
            self.0 = &rest[end + 1..];
            let (inner, kind) = match (inner.strip_prefix('/'), inner.strip_suffix('/')) {
                (Some(inner), _) => (inner, TagKind::Close),
                (None, Some(inner)) => (inner, TagKind::Empty),
                (None, None) => (inner, TagKind::Open),
            };
            let name_end = inner.find(char::is_whitespace).unwrap_or(inner.len());
            let (name, attributes) = inner.split_at(name_end);
            return Some((!name.is_empty()).then_some(Tag { name, kind, attributes }));
        }
    }
}

/// Where the `>` of a tag is that stands in no quotes.
fn end_of_tag(rest: &str) -> Option<usize> {
    let mut quote = None;
    for (at, letter) in rest.char_indices() {
        match (quote, letter) {
            (None, '>') => return Some(at),
            (None, '"' | '\'') => quote = Some(letter),
            (Some(open), letter) if open == letter => quote = None,
            _ => {}
        }
    }
    None
}

/// A value with its entities replaced.
fn unescaped(value: &str) -> Option<String> {
    let mut text = String::with_capacity(value.len());
    let mut rest = value;
    while let Some((before, after)) = rest.split_once('&') {
        text.push_str(before);
        let (entity, behind) = after.split_once(';')?;
        text.push(match entity {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            other => {
                let digits = other.strip_prefix('#')?;
                let code = match digits.strip_prefix(['x', 'X']) {
                    Some(hex) => u32::from_str_radix(hex, 16),
                    None => digits.parse(),
                };
                char::from_u32(code.ok()?)?
            }
        });
        rest = behind;
    }
    text.push_str(rest);
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, format: GivenFormat) -> Disk {
        Disk { path: PathBuf::from(path), format }
    }

    #[test]
    fn disks_of_a_machine_are_found_in_its_xml() {
        let xml = r#"<?xml version="1.0"?>
            <!-- <disk type='file'><source file='/commented'/></disk> -->
            <domain type='kvm'><name>a &amp; b</name><devices>
              <disk type='file' device='disk'>
                <driver name='qemu' type='qcow2' cache="none"/>
                <source file='/srv/a &amp; "b" &#x21;.qcow2' index='1'/>
                <backingStore type='file'><format type='raw'/><source file='/srv/base.raw'/></backingStore>
                <mirror type='file'><source file='/srv/mirror'/></mirror>
              </disk>
              <disk type='block' device='disk'><driver name='qemu'/><source dev='/dev/vg/lv'/></disk>
              <disk type='file' device='cdrom'><source file='/srv/cd.iso'/></disk>
              <disk type='file' device='disk'><driver type='vpc'/></disk>
              <disk type='network' device='disk'><source protocol='nbd' name='x'/></disk>
              <disk type='file'><driver type='vmdk'/><source file="/srv/x > y.vmdk"></source></disk>
            </devices></domain>"#;
        let wanted = vec![
            found("/srv/a & \"b\" !.qcow2", GivenFormat::Qcow2),
            found("/dev/vg/lv", GivenFormat::Raw),
            found("/srv/x > y.vmdk", GivenFormat::Vmdk),
        ];
        assert_eq!(disks(xml), Some(wanted));
    }

    #[test]
    fn what_is_no_machine_is_told() {
        for xml in
            ["", "hello", "<domain>", "<domain><disk></domain", "</domain>", "<network/>", "< >"]
        {
            assert_eq!(disks(xml), None, "{xml:?}");
        }
        assert_eq!(disks("<domain/>"), Some(vec![]));
    }
}
