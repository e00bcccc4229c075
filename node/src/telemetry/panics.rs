//! A panic becomes a line of the log. Rust itself would write plain text to standard error, each time that somebody
//! causes it. Whoever catches the panic says what has ended by it.

use crate::shutdown::panic_text;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::{PanicHookInfo, set_hook};
use tracing::error;
use tracing::field::display;

/// Logs each panic of this process from now on.
pub(super) fn install() {
    set_hook(Box::new(log));
}

/// With `RUST_BACKTRACE=1` the line has a backtrace.
fn log(info: &PanicHookInfo<'_>) {
    let place = info.location().map(display);
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| display(backtrace));
    error!(place, panic = panic_text(info.payload()), backtrace, "panic; this is a bug, please report it");
}

#[cfg(test)]
mod tests {
    use super::super::tests::Captured;
    use super::*;
    use std::panic::{catch_unwind, take_hook};
    use tracing_subscriber::fmt::format::JsonFields;

    fn fail() {
        panic!("on\npurpose");
    }

    #[test]
    fn panic_is_one_json_line_with_its_place() {
        let captured = Captured::default();
        let writer = captured.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .fmt_fields(JsonFields::new())
            .event_format(super::super::Stamped::new("router", "r1"))
            .finish();
        let former = take_hook();
        install();
        let ended = tracing::subscriber::with_default(subscriber, || catch_unwind(fail));
        set_hook(former);
        assert!(ended.is_err());
        let text = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["level"], "ERROR");
        assert_eq!(line["panic"], "on\npurpose");
        assert!(line["place"].as_str().unwrap().contains("panics.rs:"), "{line}");
    }
}
