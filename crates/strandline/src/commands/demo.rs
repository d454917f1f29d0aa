//! `demo`: the first five minutes, played in a store of its own.

use crate::{backend::demo, cli::DemoArgs, context::Context, out::Stop};
use serde_json::json;

pub(super) fn run(args: &DemoArgs, context: &mut Context<'_>) -> Result<u8, Stop> {
    // Where nobody is at a terminal, nobody would end it.
    let once = args.once || !context.out.is_interactive();
    let args = DemoArgs { once, keep: args.keep.clone(), ..*args };
    let mut said = Ok(());
    let out = &mut *context.out;
    let exit = demo::run(&args, &mut |line| {
        if said.is_ok() {
            let told = if out.json {
                out.json_line(&json!({ "schema": "demo.line/1", "line": line }))
            } else {
                out.line(line)
            };
            said = told.and_then(|()| out.flush());
        }
    })?;
    said.map(|()| exit)
}
