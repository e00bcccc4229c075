//! What tokio-console looks at: the tasks of this process, and what they wait for. For developers alone, behind the
//! feature
//! `console`. It listens on 127.0.0.1:6669, or where `TOKIO_CONSOLE_BIND` says.

use console_subscriber::ConsoleLayer;
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::registry::LookupSpan;

#[cfg(not(tokio_unstable))]
compile_error!("the feature `console` needs RUSTFLAGS=\"--cfg tokio_unstable\"");

/// The layer that serves it.
pub(super) fn layer<S>() -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    ConsoleLayer::builder().with_default_env().spawn()
}
