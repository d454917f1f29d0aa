//! `demo`: the first five minutes, played in a store of its own.

use crate::{backend::demo, cli::DemoArgs, context::Context, out::Stop};

pub(super) fn run(args: &DemoArgs, context: &mut Context<'_>) -> Result<u8, Stop> {
    let mut said = Ok(());
    let out = &mut *context.out;
    let exit = demo::run(args, &mut |line| {
        if said.is_ok() {
            said = out.line(line).and_then(|()| out.flush());
        }
    })?;
    said.map(|()| exit)
}
