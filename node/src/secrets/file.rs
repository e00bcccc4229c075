//! Reads a file with a secret, as Docker and Kubernetes mount them.

use crate::config::Secret;
use rustix::fs::OFlags;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use thiserror::Error;

/// The largest file of a secret. A larger one is another file.
pub(crate) const MOST_SECRET_BYTES: u64 = 64 * 1024;

/// The largest file of certificates: those of all public authorities are a quarter of that.
pub(crate) const MOST_CERTIFICATE_BYTES: u64 = 1024 * 1024;

/// Why a file cannot be used.
#[derive(Debug, Error)]
pub enum SecretFileError {
    /// It cannot be opened or read.
    #[error("cannot be read: {0}; check the path, and that the user of this process may read it")]
    Unreadable(#[from] io::Error),
    /// It is a folder, a pipe or a device.
    #[error("is not a regular file")]
    NotAFile,
    /// It holds nothing, or only a line break.
    #[error("is empty: write the secret to it")]
    Empty,
    /// It is larger than this many bytes.
    #[error("has more than {0} bytes: is it another file?")]
    TooLarge(u64),
    /// It is not UTF-8.
    #[error("is not text in UTF-8")]
    NotText,
}

/// The content of a file of at most this many bytes. It never waits for another process, as for the writer of a pipe.
///
/// # Errors
/// When it cannot be read, is larger, or is not a regular file.
pub(crate) fn read_file(path: &Path, most: u64) -> Result<Vec<u8>, SecretFileError> {
    let flags = OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    // What was opened is asked: the path may lead to something else by now.
    if !file.metadata()?.is_file() {
        return Err(SecretFileError::NotAFile);
    }
    let mut content = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut content)?;
    match content.len() as u64 > most {
        true => Err(SecretFileError::TooLarge(most)),
        false => Ok(content),
    }
}

/// The secret in a file.
///
/// # Errors
/// When the file cannot be read, or holds no secret.
pub fn read_secret(path: &Path) -> Result<Secret, SecretFileError> {
    secret_of(&read_file(path, MOST_SECRET_BYTES)?)
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
    use std::os::unix::fs::symlink;
    use std::process::Command;

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
    fn file_is_read_up_to_its_limit_and_must_be_regular() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("secret");
        assert!(matches!(read_file(&path, 4), Err(SecretFileError::Unreadable(_))));
        fs::write(&path, "1234").unwrap();
        assert_eq!(read_file(&path, 4).unwrap(), b"1234");
        fs::write(&path, "12345").unwrap();
        assert!(matches!(read_file(&path, 4), Err(SecretFileError::TooLarge(4))));
        assert!(matches!(read_file(home.path(), 4), Err(SecretFileError::NotAFile)));
        let (pipe, ring) = (home.path().join("pipe"), home.path().join("ring"));
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert!(matches!(read_file(&pipe, 4), Err(SecretFileError::NotAFile)), "without waiting for a writer");
        symlink(&ring, &ring).unwrap();
        assert!(matches!(read_file(&ring, 4), Err(SecretFileError::Unreadable(_))));
        assert!(matches!(read_file(Path::new("/dev/zero"), 4), Err(SecretFileError::NotAFile)));
        fs::write(&path, "s\n").unwrap();
        assert_eq!(read_secret(&path).unwrap().expose(), "s");
    }
}
