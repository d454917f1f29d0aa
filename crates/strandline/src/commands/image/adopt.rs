//! `image adopt`, `image import`, `image fill`, and `image open --rw`: volumes on images.

use super::{INTERRUPTED, no_pipe, open};
use crate::{
    backend,
    cli::{
        ImageAdoptArgs, ImageFillArgs, ImageFormat, ImageImportArgs, ImageOpenArgs, ImageStateArgs,
    },
    commands::{say_uri, vol},
    context::Context,
    out::{Output, Progress, Stop},
};
use api::{
    Failure, Reference, VolumeName,
    amounts::{size_text, stretch_text},
    codes,
    verbs::{
        image::{BaseState, ImageAdopt, ImageAdopted, ImageFill, VolBase},
        vol::VolShow,
    },
};
use images::Format;
use std::{path::Path, sync::Arc, thread, time::Duration};
use world::{Waker, real::StopSignals};

/// How often it is looked how far an import is.
const LOOK: Duration = Duration::from_millis(200);

/// Names that are tried for a volume that was given none.
const NAMES_MAX: u32 = 99;

pub(super) fn run_adopt(args: &ImageAdoptArgs, context: &mut Context<'_>) -> Result<u8, Stop> {
    if let Some(name) = &args.cancel {
        return cancel(name, context);
    }
    let (Some(state), Some(volume)) = (args.state(), &args.volume) else {
        return Err(Failure::bug("an image and a volume were asked for").into());
    };
    let name = context.volume(volume)?;
    let request = request(&state, name, args.fill, args.rate.unwrap_or(0))?;
    if context.global.dry_run {
        let fill = if args.fill { ", and take it over in the background" } else { "" };
        let plan = format!("would make {} on {}{fill}", request.name, request.path);
        context.out.plan(&plan)?;
        return Ok(0);
    }
    let served = context.served()?;
    let fill = args.fill;
    context.answer(request, |out, _, made| {
        say_adopted(out, made)?;
        say_uri(out, made.uri.as_deref())?;
        match (fill, served) {
            (true, true) => out.aside(&format!(
                "  taken over in the background: strandline vol show {}",
                made.name
            )),
            (true, false) => out.aside("  taken over while a server runs: strandline serve"),
            (false, _) => out.aside(&format!(
                "  it needs the image as it is until: strandline image fill {}",
                made.name
            )),
        }
    })
}

pub(super) fn run_import(args: &ImageImportArgs, context: &mut Context<'_>) -> Result<u8, Stop> {
    let name = context.volume(&args.volume)?;
    let request = request(&args.state, name.clone(), true, 0)?;
    if context.global.dry_run {
        context.out.plan(&format!("would copy {} into {name}", request.path))?;
        return Ok(0);
    }
    let signals = StopSignals::install(Waker(Arc::new(|| ()))).ok();
    let made = context.ask(request)?;
    let size = made.base.size;
    let mut progress = Progress::new(context.global.progress, context.out.quiet, "importing", size);
    let mut done = 0;
    let ended = loop {
        let base = base_of(&name, context)?;
        progress.advance(base.taken.saturating_sub(done));
        done = base.taken;
        if base.state == BaseState::Independent {
            break None;
        }
        if let Some(trouble) = base.trouble {
            break Some(trouble);
        }
        if signals.as_ref().is_some_and(|signals| signals.count() > 0) {
            progress.finish();
            context.out.aside(&format!("{name} is there; a server goes on with what is left"))?;
            return Ok(INTERRUPTED);
        }
        thread::park_timeout(LOOK); // there is no event for the end of a server's work
    };
    progress.finish();
    if let Some(trouble) = ended {
        let failure = Failure::new(codes::IMAGE_DAMAGED, format!("{name} is not whole: {trouble}"));
        let hint =
            format!("mend the image: a server goes on; or: strandline image adopt --cancel {name}");
        return Err(failure.doing(hint).into());
    }
    context.answer(VolShow { reference: Reference::volume(name), exact: false }, |out, _, found| {
        out.line(&format!("{}  {}  copied whole", found.name, size_text(found.size)))?;
        say_uri(out, found.uri.as_deref())
    })
}

pub(super) fn run_fill(args: &ImageFillArgs, context: &mut Context<'_>) -> Result<u8, Stop> {
    let name = context.volume(&args.volume)?;
    let path = args.image.as_deref().map(absolute).transpose()?;
    let looks = args.off || args.rate.is_some() || path.is_some() || args.accept;
    let fill = if args.off { Some(false) } else { (!looks || args.rate.is_some()).then_some(true) };
    if args.accept {
        let said = format!("{name} takes the image as it is now for what it was adopted from");
        let refusal =
            format!("nothing proves that the image of `{name}` is what it was; pass --yes");
        let refusal = Failure::new(codes::UNCONFIRMED, refusal);
        context.confirm(&said, "the volume's name", name.as_str(), refusal)?;
    }
    let asked = ImageFill { name, fill, rate: args.rate, path, accept: args.accept };
    context.answer(asked, |out, _, filled| {
        out.line(&format!("{}  {}", filled.name, base_line(&filled.base)))
    })
}

/// `image open --rw`: a volume on the image, named after it, served by this process if by no other.
pub(super) fn run_open(args: &ImageOpenArgs, context: &mut Context<'_>) -> Result<u8, Stop> {
    let image = &args.state.of.image;
    let stem = image.file_stem().unwrap_or(image.as_os_str()).to_string_lossy();
    let name = match &args.name {
        Some(name) => context.volume(name)?,
        None => name_after(&stem)?,
    };
    let mut asked = request(&args.state, name, false, 0)?;
    let (base_name, chosen) = (asked.name.to_string(), args.name.is_some());
    if context.served()? {
        for number in 2..=NAMES_MAX {
            match context.ask(asked.clone()) {
                Err(failure) if failure.code == codes::VOLUME_EXISTS && !chosen => {
                    asked.name = format!("{base_name}-{number}").parse()?;
                }
                Err(failure) => return Err(failure.into()),
                Ok(made) => {
                    return context.show::<ImageAdopt>(&made, |out, _, made| {
                        say_adopted(out, made)?;
                        say_uri(out, made.uri.as_deref())?;
                        say_stays(out, made)
                    });
                }
            }
        }
        return Err(Failure::new(codes::VOLUME_EXISTS, format!("`{base_name}` exists")).into());
    }
    let options = context.engine_options();
    let out = &mut *context.out;
    let mut said = Ok(());
    let exit = backend::serve_adopted(&options, &args.nbd, asked, chosen, &mut |made| {
        said = say_serving(out, made);
    })?;
    said.map(|()| exit)
}

fn say_serving(out: &mut Output, made: &ImageAdopted) -> Result<(), Stop> {
    use api::Verb as _;
    if out.json {
        out.document(&ImageAdopt::document(made))?;
    } else {
        say_adopted(out, made)?;
        say_uri(out, made.uri.as_deref())?;
        say_stays(out, made)?;
        out.aside("  served by this process until Ctrl-C")?;
    }
    out.flush()
}

fn say_stays(out: &mut Output, made: &ImageAdopted) -> Result<(), Stop> {
    out.aside(&format!("  writes go to volume {0}, which stays: strandline vol rm {0}", made.name))
}

fn say_adopted(out: &mut Output, made: &ImageAdopted) -> Result<(), Stop> {
    let (name, size) = (&made.name, size_text(made.size));
    let took = stretch_text(made.took_ns);
    let image = Path::new(&made.base.image).display();
    out.line(&format!("{name}  {size}  on {image}  ready in {took}, nothing copied"))
}

/// What a volume stands on, in a line.
pub(in crate::commands) fn base_line(base: &VolBase) -> String {
    let image = &base.image;
    let percent = base.taken.saturating_mul(100).checked_div(base.size).unwrap_or(100);
    let left = size_text(base.left);
    let trouble = base.trouble.as_ref().map(|why| format!("; {why}")).unwrap_or_default();
    match base.state {
        BaseState::Independent => format!("independent of {image}"),
        state => format!("{} {percent} %, {left} left in {image}{trouble}", state.word()),
    }
}

fn cancel(text: &str, context: &mut Context<'_>) -> Result<u8, Stop> {
    let name = context.volume(text)?;
    if base_of(&name, context)?.state == BaseState::Independent {
        let failure =
            format!("volume `{name}` needs its image no more: there is nothing to cancel");
        return Err(Failure::new(codes::NO_BASE, failure)
            .doing(format!("strandline vol rm {name}"))
            .into());
    }
    vol::remove(text, context)
}

fn base_of(name: &VolumeName, context: &mut Context<'_>) -> Result<VolBase, Failure> {
    let found =
        context.ask(VolShow { reference: Reference::volume(name.clone()), exact: false })?;
    found
        .base
        .ok_or_else(|| Failure::new(codes::NO_BASE, format!("volume `{name}` stands on no image")))
}

/// The request, once it was seen that the caller can read all of the chain.
fn request(
    state: &ImageStateArgs,
    name: VolumeName,
    fill: bool,
    rate: u64,
) -> Result<ImageAdopt, Failure> {
    let of = &state.of;
    no_pipe(&of.image)?;
    drop(open(state)?);
    let word = |format: Format| format.word().to_owned();
    Ok(ImageAdopt {
        name,
        path: absolute(&of.image)?,
        format: super::told(of.format).map(word),
        parent_format: of.parent_format.map(|format: ImageFormat| word(super::format_of(format))),
        snapshot: state.snapshot.clone(),
        search: of.search.iter().map(|path| absolute(path)).collect::<Result<_, _>>()?,
        devices: of.devices,
        fill,
        rate,
    })
}

/// The path as the server finds it.
fn absolute(path: &Path) -> Result<String, Failure> {
    let found = std::fs::canonicalize(path).map_err(|cause| super::cannot("find", path, &cause))?;
    found.into_os_string().into_string().map_err(|_| {
        let text = format!("{} is no text, and the store keeps the path as such", path.display());
        Failure::new(codes::USAGE, text).doing("rename it")
    })
}

/// A volume's name out of a file's.
pub(super) fn name_after(stem: &str) -> Result<VolumeName, Failure> {
    let plain = |letter: char| match letter.to_ascii_lowercase() {
        letter if letter.is_ascii_lowercase() || letter.is_ascii_digit() => letter,
        _ => '-',
    };
    let name: String = stem.chars().map(plain).take(56).collect();
    let name = name.trim_matches('-');
    if name.is_empty() { "image".parse() } else { name.parse() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_named_after_its_image() {
        let name = |stem: &str| name_after(stem).expect("a name").to_string();
        assert_eq!(name("win11"), "win11");
        assert_eq!(name("Debian 12 (x64)"), "debian-12--x64");
        assert_eq!(name("..."), "image");
        assert_eq!(name(&"ä".repeat(200)), "image");
        assert_eq!(name(&"a".repeat(200)).len(), 56);
    }

    #[test]
    fn a_base_is_told_in_a_line() {
        let base = VolBase {
            image: "/srv/a.vhdx".to_owned(),
            size: 4 << 30,
            state: BaseState::Filling,
            taken: 1 << 30,
            left: 3 << 30,
            fill: true,
            rate: 0,
            trouble: None,
        };
        assert_eq!(base_line(&base), "filling 25 %, 3.0 GiB left in /srv/a.vhdx");
        let lost = VolBase {
            state: BaseState::Lost,
            trouble: Some("/srv/a.vhdx is not there".to_owned()),
            ..base.clone()
        };
        let line = "lost 25 %, 3.0 GiB left in /srv/a.vhdx; /srv/a.vhdx is not there";
        assert_eq!(base_line(&lost), line);
        let free = VolBase { state: BaseState::Independent, ..base };
        assert_eq!(base_line(&free), "independent of /srv/a.vhdx");
    }
}
