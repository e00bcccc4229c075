//! The scripts that get the programs of the tests.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use tickwire_testkit::NatsServer;

#[test]
fn tools_find_the_server_on_path_also_if_path_has_their_own_link() {
    let folder = tempfile::tempdir().unwrap();
    let [tools, system] = ["tools", "system"].map(|name| folder.path().join(name));
    for folder in [&tools, &system] {
        fs::create_dir(folder).unwrap();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/get-nats-server");
    fs::copy(script, tools.join("get-nats-server")).unwrap();
    symlink(fs::canonicalize(NatsServer::binary()).unwrap(), system.join("nats-server")).unwrap();
    let own = folder.path().join(".tools/bin");
    let link = own.join("nats-server");
    // The folder of the link is added to PATH after the first run, as a newcomer does.
    for further in [system.clone(), own] {
        let path = [further.as_path(), &system, Path::new("/usr/bin"), Path::new("/bin")].map(Path::to_string_lossy);
        let made = Command::new(tools.join("get-nats-server")).env("PATH", path.join(":")).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let version = Command::new(&link).arg("--version").output().unwrap();
        assert!(version.status.success(), "{version:?}");
        assert_eq!(fs::read_link(&link).unwrap(), system.join("nats-server"));
    }
}
