//! Lines for people on standard error. A command goes on, and ends with its own exit code, if they cannot be written:
//! the reader may have closed its end of the pipe, or the disk of the file may be full.

use std::io::{self, Write};

/// Writes a line, or several.
pub fn line(text: &str) {
    // There is no other place to say that it failed.
    writeln!(io::stderr(), "{text}").ok();
}
