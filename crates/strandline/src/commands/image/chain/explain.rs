//! `image chain explain`: of each link, what each level shows, what that means, and what to do.

use super::{Looked, broken_json, link_json, look};
use crate::{
    cli::ChainExplainArgs,
    commands::image::INTERRUPTED,
    context::Context,
    out::{Cell, Output, Stop, Table},
};
use api::{Time, Zone};
use chain_guard::{LinkReport, SealFacts};
use lineage::{Level, Native, Scope, Sign, Verdict, Weight};
use serde_json::{Value, json};
use units::Timestamp;

/// Ranges that are listed; the rest is counted. `--json` lists all.
const RANGES_SHOWN: usize = 8;

pub(super) fn run(args: &ChainExplainArgs, context: &mut Context<'_>) -> Result<u8, Stop> {
    match look(&args.image, &args.open, args.level, context, None)? {
        Looked::Interrupted => Ok(INTERRUPTED),
        Looked::Broken(broken) => {
            if context.out.json {
                context.out.document(&document(&[broken_json(&broken)]))?;
                return Ok(broken.failure.exit());
            }
            Err(broken.failure.into())
        }
        Looked::Links(links) => {
            if context.out.json {
                let links = links.iter().map(|link| {
                    let mut value = link_json(link);
                    value["levels"] = levels(link).iter().map(level_json).collect();
                    value
                });
                context.out.document(&document(&links.collect::<Vec<_>>()))?;
                return Ok(0);
            }
            for link in &links {
                say(link, &context.zone, context.out)?;
            }
            if links.is_empty() {
                context.out.line(&format!("{} stands on no other image", args.image.display()))?;
            }
            Ok(0)
        }
    }
}

fn document(links: &[Value]) -> Value {
    json!({ "schema": "image.chain.explain/1", "links": links })
}

/// What one level shows.
struct LevelSays {
    number: u8,
    name: &'static str,
    says: String,
    means: &'static str,
}

fn say(link: &LinkReport, zone: &Zone, out: &mut Output) -> Result<(), Stop> {
    let mut facts = Table::facts();
    facts.fact("child", Cell::text(link.child.display()));
    facts.fact("parent", Cell::text(link.parent.display()));
    facts.fact("sealed", Cell::text(sealed(&link.seal, zone)));
    facts.fact("result", Cell::text(format!("{} ({})", link.status.word(), link.verdict())));
    let text = link.text();
    if !text.is_empty() {
        facts.fact("because", Cell::text(text));
    }
    if !link.advice().is_empty() {
        facts.fact("do", Cell::text(link.advice()));
    }
    out.table(&facts)?;
    let mut table = Table::new(["LEVEL", "LOOKS AT", "SAYS", "MEANS"]);
    for level in levels(link) {
        table.row([
            Cell::text(format!("L{}", level.number)),
            Cell::text(level.name),
            Cell::text(&level.says),
            Cell::text(level.means),
        ]);
    }
    out.table(&table)?;
    say_ranges(link, out)
}

fn say_ranges(link: &LinkReport, out: &mut Output) -> Result<(), Stop> {
    let ranges = link.ranges();
    if ranges.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(["OFFSET", "LENGTH", "VERDICT", "MEANS"]);
    for (range, verdict) in ranges.iter().take(RANGES_SHOWN) {
        table.row([
            Cell::count(range.start),
            Cell::count(range.end - range.start),
            Cell::text(verdict.word()),
            Cell::text(meaning(*verdict)),
        ]);
    }
    out.table(&table)?;
    match ranges.len().saturating_sub(RANGES_SHOWN) {
        0 => Ok(()),
        more => out.aside(&format!("  {more} more ranges; --json lists all")),
    }
}

const fn meaning(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Same => "as it was",
        Verdict::Beyond => "changed past the child's end: harmless until the child grows",
        Verdict::Shadowed => "changed where the child holds its own: harmless for this child",
        Verdict::Unknown => "perhaps changed where the child reads it",
        Verdict::Visible => "in here the child reads other bytes",
    }
}

fn sealed(seal: &SealFacts, zone: &Zone) -> String {
    match seal {
        SealFacts::None => "no".to_owned(),
        SealFacts::Alike => "no; one that looks like it was, over another parent".to_owned(),
        SealFacts::Label => {
            "no record; the child carries a digest of all bytes in itself".to_owned()
        }
        SealFacts::Unreadable(why) => format!("yes, and it cannot be read: {why}"),
        SealFacts::Found { made_ns, by_file, scope, reason, .. } => {
            let time = zone.show_precise(Time(Timestamp(*made_ns)));
            let bytes = match scope {
                None => "signs only",
                Some(Scope::Needed) => "the bytes that the child needs",
                Some(Scope::All) => "all bytes",
            };
            let found = if *by_file { "" } else { ", found by what the child holds" };
            let reason =
                if reason.is_empty() { String::new() } else { format!(", accepted: {reason}") };
            format!("{time}, {bytes}{found}{reason}")
        }
    }
}

/// Levels 0 to 4, as the manual numbers them.
fn levels(link: &LinkReport) -> [LevelSays; 5] {
    let scope = match link.seal {
        SealFacts::Found { scope, .. } => scope,
        _ => None,
    };
    [
        of_signs(link, Level::Stat, "size, times, inode of files"),
        of_header(link),
        LevelSays {
            number: 2,
            name: "samples of bytes",
            says: "not used".to_owned(),
            means: "a change of one block among many would be missed",
        },
        of_bytes(link, Level::Needed, "bytes that the child needs", scope == Some(Scope::Needed)),
        of_bytes(link, Level::All, "all bytes of the parent", scope == Some(Scope::All)),
    ]
}

fn of_signs(link: &LinkReport, level: Level, name: &'static str) -> LevelSays {
    let number = level.number();
    if link.conclusion.is_none() {
        let says = "nothing was sealed".to_owned();
        return LevelSays { number, name, says, means: "nothing to compare with" };
    }
    let signs: Vec<&Sign> = link.signs().iter().filter(|sign| sign.level() == level).collect();
    let words: Vec<&str> = signs.iter().map(|sign| sign.words()).collect();
    let means = match signs.iter().map(|sign| sign.weight()).max() {
        None => "no sign of a change; proves nothing",
        Some(Weight::Trigger) => "reason to compare bytes; a copy or a touch shows it, too",
        Some(Weight::Proof) => "by the format's rule it was written, or is another one",
    };
    let says = if words.is_empty() {
        "as it was".to_owned()
    } else {
        format!("changed: {}", words.join(", "))
    };
    LevelSays { number, name, says, means }
}

/// Signs of headers against the seal, and the child's own copy of the parent's identifiers.
fn of_header(link: &LinkReport) -> LevelSays {
    let mut level = of_signs(link, Level::Header, "identifiers and size in headers");
    let own = match link.native {
        Native::Untold => return level,
        Native::Agrees => "the child's copy of the identifiers agrees".to_owned(),
        Native::Hint(what) | Native::Differs(what) => what.words().to_owned(),
    };
    level.says = if link.conclusion.is_none() { own } else { format!("{}; {own}", level.says) };
    level.means = match (link.native, link.conclusion.is_some()) {
        (Native::Differs(_), _) => "by the format's rule it was written, or is another one",
        (Native::Hint(_), _) => "reason to compare bytes; a copy shows it, too",
        (_, false) => "no sign of a change; proves nothing",
        (_, true) => level.means,
    };
    level
}

fn of_bytes(link: &LinkReport, level: Level, name: &'static str, is_sealed: bool) -> LevelSays {
    let number = level.number();
    let judgement = link.conclusion.as_ref().and_then(|found| found.judgement.as_ref());
    let (says, means) = match judgement {
        _ if !is_sealed => ("not sealed".to_owned(), "nothing to compare with"),
        None => ("not compared".to_owned(), "image chain check --level bytes compares"),
        Some(judgement) if judgement.ranges().is_empty() => {
            ("as they were".to_owned(), "decides: nothing changed")
        }
        Some(judgement) => {
            let bytes: u64 = judgement.ranges().iter().map(|(run, _)| run.end - run.start).sum();
            let says = format!("changes within {bytes} bytes: {}", judgement.overall().word());
            (says, meaning(judgement.overall()))
        }
    };
    LevelSays { number, name, says, means }
}

fn level_json(level: &LevelSays) -> Value {
    json!({
        "level": level.number,
        "looks_at": level.name,
        "says": level.says,
        "means": level.means,
    })
}
