//! `serve`

use crate::{backend, cli::ServeArgs, context::Context, out::Stop};
use api::{Failure, codes, verbs::store::Stop as StopServer};

pub(super) fn run(args: &ServeArgs, context: &mut Context<'_>) -> Result<u8, Stop> {
    if args.stop {
        return stop(context);
    }
    for address in &args.nbd {
        listenable(address)?;
    }
    if let Some(name) = &args.default {
        context.volume(name)?;
    }
    backend::serve(&context.engine_options(), args)?;
    Ok(0)
}

fn stop(context: &mut Context<'_>) -> Result<u8, Stop> {
    if !context.served()? {
        let place = context.store.display();
        return Err(Failure::new(codes::NO_SERVER, format!("no server runs for {place}")).into());
    }
    if context.global.dry_run {
        context.out.plan("would stop the server")?;
        return Ok(0);
    }
    context.answer(StopServer {}, |out, _, stopping| {
        out.line(&match stopping.clients {
            0 => "stopping".to_owned(),
            1 => "stopping; 1 client is connected".to_owned(),
            clients => format!("stopping; {clients} clients are connected"),
        })
    })
}

/// `unix:PATH`, `HOST`, `HOST:PORT`, `[V6]` or `[V6]:PORT`.
fn listenable(address: &str) -> Result<(), Failure> {
    let good = if let Some(path) = address.strip_prefix("unix:") {
        path.starts_with('/') || path.starts_with("./") || path.starts_with("../")
    } else {
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port),
            _ => (address, "10809"),
        };
        !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok()
    };
    if good {
        return Ok(());
    }
    Err(Failure::new(codes::ADDRESS, format!("`{address}` is no address to listen at"))
        .doing("write unix:/run/strandline/nbd.sock, 127.0.0.1:10809 or [::1]:10809"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked_before_anything_is_opened() {
        for good in ["unix:/run/x.sock", "unix:./x", "127.0.0.1", "host:10809", "[::1]:1", "[::1]"]
        {
            assert_eq!(listenable(good), Ok(()), "{good}");
        }
        for bad in ["", "unix:", "unix:x", "host:99999", ":1", "/run/x.sock"] {
            assert_eq!(
                listenable(bad).map_err(|failure| failure.code),
                Err(codes::ADDRESS),
                "{bad}"
            );
        }
    }
}
