//! `rewind`
//!
//! The store is asked twice: first for the plan, which refuses what the deed would refuse (clients
//! that are attached), then for the deed, once the user has agreed.

use super::{client_line, distance, many};
use crate::{cli::RewindArgs, context::Context, out::Stop};
use api::{
    Failure, Zone,
    amounts::{count_text, size_text, stretch_text},
    codes,
    verbs::history::{Rewind, Rewound},
};
use std::fmt::Write as _;

pub(super) fn run(args: &RewindArgs, context: &mut Context<'_>) -> Result<u8, Stop> {
    let reference = context.instant_of(&args.reference)?;
    let asked = Rewind { reference, detach: args.detach, dry_run: true, exact: args.exact };
    let plan = context.ask(asked.clone())?;
    if context.global.dry_run {
        return context
            .show::<Rewind>(&plan, |out, zone, plan| out.text(&(text(plan, zone) + "\n")));
    }
    let count = many(plan.writes, "write", "writes");
    let kept = if plan.kept.is_some() { " (kept as a branch)" } else { "" };
    let refusal = format!("{count} would leave the present{kept}; pass --yes");
    let refusal = Failure::new(codes::REWIND_UNCONFIRMED, refusal);
    let said = text(&plan, &context.zone);
    context.confirm(&said, "the volume's name", plan.name.as_str(), refusal)?;
    // The instant by its fixed name: what was agreed to is what is done, though `-5m` has moved.
    let deed = Rewind { reference: plan.reference, dry_run: false, ..asked };
    context.answer(deed, |out, zone, done| {
        let took = stretch_text(done.took_ns);
        let undo = match &done.kept {
            Some(kept) => format!("   undo: strandline rewind {kept}@now"),
            None => String::new(),
        };
        out.line(&format!("rewound in {took}.{undo}"))?;
        for client in &done.clients {
            out.aside(&format!("  cut off: {}", client_line(client, zone)))?;
        }
        if !done.clients.is_empty() {
            out.aside(&format!("  let them in again: strandline vol release {}", done.name))?;
        }
        Ok(())
    })
}

/// What going back changes, as lines for people.
fn text(plan: &Rewound, zone: &Zone) -> String {
    let back = u64::try_from(plan.from.time.0.since_ns(plan.to.time.0)).unwrap_or(0);
    let kept = match &plan.kept {
        Some(kept) if plan.writes == 0 => format!("; it stays as {kept}, too"),
        Some(kept) if plan.writes == 1 => format!("; it stays as {kept}"),
        Some(kept) => format!("; they stay as {kept}"),
        None => String::new(),
    };
    let mut text = format!(
        "{} goes back {} to {}{} (seq {} -> {}). {}{kept}",
        plan.name,
        stretch_text(back),
        zone.show_precise(plan.to.time),
        distance(plan.resolution.as_ref()),
        count_text(plan.from.seq),
        count_text(plan.to.seq),
        match plan.writes {
            0 => "Nothing leaves the present".to_owned(),
            1 => "1 write leaves the present".to_owned(),
            count => format!("{} writes leave the present", count_text(count)),
        },
    );
    if plan.size != plan.size_before {
        let (before, size) = (size_text(plan.size_before), size_text(plan.size));
        write!(text, "\nits size goes from {before} to {size}").expect("a string takes all");
    }
    for client in &plan.clients {
        write!(text, "\nis cut off: {}", client_line(client, zone)).expect("a string takes all");
    }
    text
}
