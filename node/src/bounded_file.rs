//! Reads the small files that a configuration names: those of secrets, of certificates and of ports. A path may be
//! mistyped, so no more is read than such a file has, and a pipe or a device is not read at all.

use rustix::fs::OFlags;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use thiserror::Error;

/// Why a file cannot be read.
#[derive(Debug, Error)]
pub enum FileError {
    /// It cannot be opened or read.
    #[error("cannot be read: {0}; check the path, and that the user of this process may read it")]
    Unreadable(#[from] io::Error),
    /// It is a folder, a pipe or a device.
    #[error("is not a regular file")]
    NotAFile,
    /// It is larger than this many bytes.
    #[error("has more than {0} bytes: is it another file?")]
    TooLarge(u64),
}

/// The content of a file of at most this many bytes. It never waits for another process, as for the writer of a pipe.
///
/// # Errors
/// When it cannot be read, is larger, or is not a regular file.
pub(crate) fn read(path: &Path, most: u64) -> Result<Vec<u8>, FileError> {
    let flags = OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    // What was opened is asked: the path may lead to something else by now.
    if !file.metadata()?.is_file() {
        return Err(FileError::NotAFile);
    }
    let mut content = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut content)?;
    match content.len() as u64 > most {
        true => Err(FileError::TooLarge(most)),
        false => Ok(content),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::process::Command;

    #[test]
    fn file_is_read_up_to_its_limit_and_must_be_regular() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("file");
        assert!(matches!(read(&path, 4), Err(FileError::Unreadable(_))));
        fs::write(&path, "1234").unwrap();
        assert_eq!(read(&path, 4).unwrap(), b"1234");
        fs::write(&path, "12345").unwrap();
        assert!(matches!(read(&path, 4), Err(FileError::TooLarge(4))));
        assert!(matches!(read(home.path(), 4), Err(FileError::NotAFile)));
        let (pipe, ring) = (home.path().join("pipe"), home.path().join("ring"));
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert!(matches!(read(&pipe, 4), Err(FileError::NotAFile)), "without waiting for a writer");
        symlink(&ring, &ring).unwrap();
        assert!(matches!(read(&ring, 4), Err(FileError::Unreadable(_))));
        assert!(matches!(read(Path::new("/dev/zero"), 4), Err(FileError::NotAFile)));
    }
}
