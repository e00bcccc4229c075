//! Reads a file with a secret, as Docker and Kubernetes mount them.

use crate::bounded_file::{self, FileError};
use crate::config::Secret;
use std::path::Path;
use thiserror::Error;

/// The largest file of a secret. A larger one is another file.
pub(crate) const MOST_SECRET_BYTES: u64 = 64 * 1024;

/// Why a file of a secret cannot be used.
#[derive(Debug, Error)]
pub enum SecretFileError {
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// It holds nothing, or only a line break.
    #[error("is empty: write the secret to it")]
    Empty,
    /// It is not UTF-8.
    #[error("is not text in UTF-8")]
    NotText,
}

/// The secret in a file.
///
/// # Errors
/// When the file cannot be read, or holds no secret.
pub fn read_secret(path: &Path) -> Result<Secret, SecretFileError> {
    secret_of(&bounded_file::read(path, MOST_SECRET_BYTES)?)
}

/// The secret in the content of a file: all of it without one line break at the end, which editors and `echo` add.
pub(crate) fn secret_of(content: &[u8]) -> Result<Secret, SecretFileError> {
    let text = std::str::from_utf8(content).map_err(|_| SecretFileError::NotText)?;
    let line = text.strip_suffix('\n').unwrap_or(text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() { Err(SecretFileError::Empty) } else { Ok(Secret::new(line)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn one_line_break_at_the_end_does_not_count() {
        for (content, secret) in [("s", "s"), ("s\n", "s"), ("s\r\n", "s"), ("s\n\n", "s\n"), (" s ", " s ")] {
            assert_eq!(secret_of(content.as_bytes()).unwrap().expose(), secret, "{content:?}");
        }
        for content in ["", "\n", "\r\n"] {
            assert!(matches!(secret_of(content.as_bytes()), Err(SecretFileError::Empty)), "{content:?}");
        }
        assert!(matches!(secret_of(b"\xff\xfe"), Err(SecretFileError::NotText)));
    }

    #[test]
    fn secret_is_read_from_its_file_and_from_no_larger_one() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("secret");
        fs::write(&path, "s\n").unwrap();
        assert_eq!(read_secret(&path).unwrap().expose(), "s");
        fs::write(&path, "s".repeat(65_537)).unwrap();
        let large = read_secret(&path);
        assert!(matches!(large, Err(SecretFileError::File(FileError::TooLarge(MOST_SECRET_BYTES)))), "{large:?}");
    }
}
