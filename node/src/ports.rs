//! The ports file: the addresses that a node listens on, for a program that started it with port 0.

use crate::bounded_file::{self, FileError};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::path::Path;
use tempfile::NamedTempFile;

/// The largest file that is read: one of a node has a few addresses.
const MOST_BYTES: u64 = 64 * 1024;

/// Writes a JSON object of name to "ip:port" in place of the old file. A reader sees the complete old or new file.
///
/// # Errors
/// When the folder cannot be created or written to.
pub fn write(path: &Path, ports: &BTreeMap<&str, SocketAddr>) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut file = NamedTempFile::new_in(folder)?;
    serde_json::to_writer(&mut file, ports)?;
    file.write_all(b"\n")?;
    file.persist(path)?;
    Ok(())
}

/// The addresses in the file by name; none if its text is no such object.
///
/// # Errors
/// When the file cannot be read, as before the node listens.
pub fn read(path: &Path) -> io::Result<BTreeMap<String, SocketAddr>> {
    let content = bounded_file::read(path, MOST_BYTES).map_err(|error| match error {
        FileError::Unreadable(source) => source,
        other => io::Error::new(ErrorKind::InvalidData, other.to_string()),
    })?;
    Ok(serde_json::from_slice(&content).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_is_an_object_of_name_to_address() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("run/ports.json");
        let ports =
            BTreeMap::from([("admin", "127.0.0.1:9090".parse().unwrap()), ("gateway", "[::1]:80".parse().unwrap())]);
        assert!(read(&path).is_err());
        write(&path, &BTreeMap::new()).unwrap();
        write(&path, &ports).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"admin\":\"127.0.0.1:9090\",\"gateway\":\"[::1]:80\"}\n");
        assert_eq!(fs::read_dir(home.path().join("run")).unwrap().count(), 1);
        let written = ports.iter().map(|(name, address)| ((*name).to_owned(), *address));
        assert_eq!(read(&path).unwrap(), written.collect::<BTreeMap<_, _>>());
        fs::write(&path, "{").unwrap();
        assert!(read(&path).unwrap().is_empty());
    }
}
