//! `clone`

use super::{distance, say_uri};
use crate::{cli::CloneArgs, context::Context, out::Stop};
use api::{
    amounts::{count_text, size_text},
    verbs::history::VolClone,
};

pub(super) fn run(args: &CloneArgs, context: &mut Context<'_>) -> Result<u8, Stop> {
    let reference = context.reference(&args.reference)?;
    let name = context.volume(&args.name)?;
    if context.global.dry_run {
        context.out.plan(&format!("would make {name} from {reference}"))?;
        return Ok(0);
    }
    context.answer(VolClone { reference, name, exact: args.exact }, |out, zone, made| {
        out.line(&format!(
            "{}  {}  begins at {}  (seq {}, {}{})",
            made.name,
            size_text(made.size),
            made.origin,
            count_text(made.seq),
            zone.show_precise(made.time),
            distance(made.resolution.as_ref()),
        ))?;
        say_uri(out, made.uri.as_deref())
    })
}
