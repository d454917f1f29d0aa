//! `image check`: everything that is wrong with an image and those it stands on.
//!
//! Exit 1 where rules are broken and every byte is still known, 7 where bytes are lost or in doubt.

use super::{
    INTERRUPTED, failure, fault_json, how, no_pipe,
    salvage::{bad_json, say_bad},
    watched,
};
use crate::{
    cli::ImageCheckArgs,
    context::Context,
    out::{Cell, Output, Stop, Table},
};
use api::{Failure, Kind, amounts::count_text, codes};
use image_files::{BadRange, Disk, Error, OpenDisk};
use images::{Fault, Purpose, Report, Severity, Trouble};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Something that is wrong.
struct Found {
    severity: Severity,
    fault: Fault,
    path: PathBuf,
}

/// What a check of one image of the chain counted.
struct Counted {
    path: PathBuf,
    report: Report,
}

pub(super) fn run(args: &ImageCheckArgs, context: &mut Context<'_>) -> Result<u8, Stop> {
    let image = args.of.image.as_path();
    no_pipe(image)?;
    let (mut found, mut counted) = (Vec::new(), Vec::new());
    let mut disk = match open(args) {
        Ok(disk) => Some(disk),
        Err(Error::Fault { fault, path }) if is_finding(&fault) => {
            found.push(Found { severity: of_opening(&fault), fault: *fault, path });
            None
        }
        Err(error) => return Err(failure(error, image).into()),
    };
    if disk.is_none() && !args.alone {
        // What lies below cannot be opened; the image itself may be.
        disk = Disk::open(image, &alone(args)).ok();
    }
    let mut lost = Vec::new();
    if let Some(disk) = &mut disk {
        let told = |error| failure(error, image);
        walk(disk, &mut found, &mut counted).map_err(told)?;
        if args.data {
            let (quiet, size) = (context.out.quiet || context.out.json, disk.virtual_size());
            let read =
                watched(&context.global, quiet, "reading", size, |watch| disk.unreadable(watch));
            let Some(bad) = read.map_err(told)? else { return Ok(INTERRUPTED) };
            lost = bad;
        }
    }
    found.sort_by(|one, other| {
        (one.fault.layer, other.severity).cmp(&(other.fault.layer, one.severity))
    });
    say(image, (&found, &counted, &lost), context.out)?;
    let of_data = (!lost.is_empty()).then_some(Severity::Error);
    let worst = found.iter().map(|found| found.severity).chain(of_data).max();
    let count = lost.len() + found.iter().filter(|found| found.severity > Severity::Note).count();
    let (code, what) = match worst {
        Some(Severity::Error) => (codes::IMAGE_DAMAGED, "damage was found"),
        Some(Severity::Warning) => (codes::NO, "rules of the format are broken, no byte is lost"),
        _ => return Ok(0),
    };
    if context.out.json {
        return Ok(code.kind().exit());
    }
    let failure = Failure::new(code, format!("{}: {what} ({count} in all)", image.display()));
    Err(match code.kind() {
        Kind::Damaged => failure
            .doing("what can be read is saved by the command below")
            .seeing(format!("strandline image salvage {} OUT --map BAD", image.display())),
        _ => failure,
    }
    .into())
}

fn alone(args: &ImageCheckArgs) -> OpenDisk {
    OpenDisk { purpose: Purpose::Inspect, ..how(&args.of) }
}

fn open(args: &ImageCheckArgs) -> Result<Disk, Error> {
    Disk::open(&args.of.image, &if args.alone { alone(args) } else { how(&args.of) })
}

/// Whether a fault that keeps an image from being opened is what a check looks for. Others say that
/// the question was wrong: another format, a file that is not there.
fn is_finding(fault: &Fault) -> bool {
    matches!(
        fault.class.trouble(),
        Trouble::Damaged | Trouble::Differs | Trouble::OverLimit | Trouble::ReadOnly
    )
}

/// A parent that is another one is the answer no; all else that bars the way is damage.
fn of_opening(fault: &Fault) -> Severity {
    match fault.class.trouble() {
        Trouble::Differs => Severity::Warning,
        _ => Severity::Error,
    }
}

/// Checks each image of the chain. A fault that ends the check of one is a finding, too.
fn walk(disk: &mut Disk, found: &mut Vec<Found>, counted: &mut Vec<Counted>) -> Result<(), Error> {
    for layer in 0..disk.chain().layers().len() {
        let notes: Vec<Fault> = disk.chain().layers()[layer].notes().to_vec();
        let file = disk.chain().layers()[layer].file();
        match disk.check(layer) {
            Ok(report) => {
                for finding in &report.findings {
                    let path = disk.files().path(finding.fault.file).to_owned();
                    let fault = finding.fault.clone();
                    add(found, Found { severity: finding.severity, fault, path });
                }
                counted.push(Counted { path: disk.files().path(file).to_owned(), report });
            }
            Err(Error::Fault { fault, path }) => {
                add(found, Found { severity: Severity::Error, fault: *fault, path });
            }
            Err(error) => return Err(error),
        }
        for fault in notes {
            let path = disk.files().path(fault.file).to_owned();
            add(found, Found { severity: Severity::Note, fault, path });
        }
    }
    Ok(())
}

/// Adds what is not there yet: an opening's note and a check's finding may be the same.
fn add(found: &mut Vec<Found>, new: Found) {
    let same = |known: &Found| {
        (known.fault.class, known.fault.at, &known.path)
            == (new.fault.class, new.fault.at, &new.path)
    };
    if !found.iter().any(|known| same(known) && known.severity >= new.severity) {
        found.push(new);
    }
}

fn say(
    image: &Path,
    (found, counted, lost): (&[Found], &[Counted], &[BadRange]),
    out: &mut Output,
) -> Result<(), Stop> {
    if out.json {
        let findings = found.iter().map(|found| {
            let mut fault = fault_json(&found.fault, &found.path);
            fault["severity"] = word(found.severity).into();
            fault
        });
        let checked = counted.iter().map(|Counted { path, report }| {
            json!({
                "file": path.to_string_lossy(),
                "units_data": report.units_data,
                "units_packed": report.units_packed,
                "units_zero": report.units_zero,
                "units_leaked": report.units_leaked,
                "more_findings": report.dropped,
                "unchecked": report.unchecked,
            })
        });
        return out.document(&json!({
            "schema": "image.check/1",
            "file": image.to_string_lossy(),
            "findings": findings.collect::<Vec<_>>(),
            "checked": checked.collect::<Vec<_>>(),
            "unreadable": lost.iter().map(bad_json).collect::<Vec<_>>(),
        }));
    }
    let mut table = Table::new(["SEVERITY", "CLASS", "PART", "FILE", "AT", "WHAT"]);
    for Found { severity, fault, path } in found {
        table.row([
            Cell::text(word(*severity)),
            Cell::text(fault.class),
            Cell::text(fault.part),
            Cell::text(path.display()),
            Cell::maybe(fault.at.map(Cell::count)),
            Cell::text(&fault.text),
        ]);
    }
    if !found.is_empty() {
        out.table(&table)?;
    }
    say_bad(lost, out)?;
    for Counted { path, report } in counted {
        let count = |number, what| format!("{} {what}", count_text(number));
        out.aside(&format!(
            "checked {}: {}, {}, {}, {}",
            path.display(),
            count(report.units_data, "with data"),
            count(report.units_packed, "packed"),
            count(report.units_zero, "zero"),
            count(report.units_leaked, "leaked"),
        ))?;
        if report.dropped > 0 {
            out.aside(&format!("  {} more findings", count_text(report.dropped)))?;
        }
        for text in &report.unchecked {
            out.aside(&format!("  not checked: {text}"))?;
        }
    }
    Ok(())
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Note => "note",
        Severity::Warning => "warning",
        Severity::Error => "error",
    }
}
