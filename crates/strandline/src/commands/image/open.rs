//! `image open`: an image served as it is.

use super::{info::kind, no_pipe, open};
use crate::{
    backend,
    cli::ImageOpenArgs,
    context::Context,
    out::{Output, Stop},
};
use api::amounts::{size_text, stretch_text};
use image_files::Disk;
use serde_json::json;
use server::{engine::Listening, image::Served};
use std::sync::Arc;
use world::{Clock as _, real::RealClock};

pub(super) fn run(args: &ImageOpenArgs, context: &mut Context<'_>) -> Result<u8, Stop> {
    let image = &args.state.of.image;
    no_pipe(image)?;
    let begun = RealClock.boot_ns();
    let disk = open(&args.state)?;
    let name = image.file_name().unwrap_or(image.as_os_str()).to_string_lossy().into_owned();
    let description = description(&disk);
    let size = disk.virtual_size();
    let disk = Arc::new(disk.into());
    let served =
        Served { disk, name: name.clone(), description: description.clone(), anyone: args.anyone };
    let shown = Shown { name: &name, description: &description, size, begun };
    let (quiet, out) = (context.out.quiet, &mut *context.out);
    let mut said = Ok(());
    let exit = backend::serve_image(served, &args.nbd, args.insecure_lan, &mut |listening| {
        said = shown.say(out, listening, quiet);
    })?;
    match said {
        // Who started us may have stopped reading; that is no reason not to serve.
        Ok(()) | Err(Stop::PipeClosed) => Ok(exit),
        Err(stop) => Err(stop),
    }
}

/// `VHDX, differencing; 2 images`.
fn description(disk: &Disk) -> String {
    let layers = disk.chain().layers();
    let top = kind(layers[0].facts());
    match layers.len() {
        1 => top,
        count => format!("{top}; {count} images"),
    }
}

struct Shown<'a> {
    name: &'a str,
    description: &'a str,
    size: u64,
    begun: u64,
}

impl Shown<'_> {
    fn say(&self, out: &mut Output, listening: &[Listening], quiet: bool) -> Result<(), Stop> {
        let Self { name, description, size, .. } = *self;
        // The empty name is the image, too, and every client can say it.
        let uris: Vec<String> =
            listening.iter().map(|door| server::engine::uri_of(door, "")).collect();
        let took_ns = RealClock.boot_ns().saturating_sub(self.begun);
        if out.json {
            out.json_line(&json!({
                "schema": "image.open/1",
                "name": name,
                "kind": description,
                "size": size,
                "writable": false,
                "took_ns": took_ns,
                "uri": uris.first(),
                "uris": uris,
            }))?;
            return out.flush();
        }
        let took = stretch_text(took_ns);
        out.line(&format!(
            "{}  {}  {description}  read-only  served in {took}, nothing copied",
            name.escape_debug(),
            size_text(size)
        ))?;
        for uri in &uris {
            out.line(&format!("  {uri}"))?;
        }
        if !quiet {
            out.aside("  served by this process until Ctrl-C")?;
        }
        out.flush()
    }
}
