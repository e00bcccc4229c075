//! Logins and certificates in files, with a real nats-server: refusals at the start, and connections anew.

use crate::nats::{SOON, certificates, config};
use futures_util::StreamExt;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tickwire_node::nats::{Nats, NatsError};
use tickwire_testkit::{Authority, NatsServer, eventually};

fn path(home: &Path, name: &str) -> String {
    home.join(name).to_str().unwrap().to_owned()
}

fn write_users(home: &Path, password: &str) {
    let users = format!("authorization {{ users: [ {{ user: bob, password: {password:?} }} ] }}\n");
    fs::write(home.join("nats.conf"), users).unwrap();
}

#[tokio::test]
async fn refused_login_names_the_user_and_the_file_of_the_password() {
    let home = tempfile::tempdir().unwrap();
    write_users(home.path(), "right");
    let server = NatsServer::start_with(&["-c", &path(home.path(), "nats.conf")]);
    let file = path(home.path(), "password");
    fs::write(&file, "hush\n").unwrap();
    let bob = config(&server.url(), &[("nats.user", "bob"), ("nats.password_file", &file)]);
    match Nats::connect(&bob, "router", "r1").await {
        Err(error @ NatsError::Login { .. }) => {
            let text = error.to_string();
            assert!(text.contains("bob") && text.contains(&file) && !text.contains("hush"), "{text}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn connections_are_replaced_only_if_the_server_accepts_what_the_files_hold() {
    let home = tempfile::tempdir().unwrap();
    write_users(home.path(), "first");
    let server = NatsServer::start_with(&["-c", &path(home.path(), "nats.conf")]);
    let file = path(home.path(), "password");
    fs::write(&file, "first\n").unwrap();
    let bob = config(&server.url(), &[("nats.user", "bob"), ("nats.password_file", &file)]);
    let nats = Nats::connect(&bob, "router", "r1").await.unwrap();
    let mut by_client = nats.client.subscribe("x").await.unwrap();
    let mut by_link = nats.link.subscribe("test", "x", None, 1 << 20).unwrap();
    nats.check().await.unwrap();

    fs::write(&file, "second\n").unwrap();
    let refused = nats.renew().await.unwrap_err();
    assert!(refused.contains("Authorization Violation"), "{refused}");
    assert!(nats.is_connected());
    nats.check().await.unwrap();

    fs::write(&file, "first\n").unwrap();
    let connects = |nats: &Nats| nats.client.statistics().connects.load(std::sync::atomic::Ordering::Relaxed);
    let before = connects(&nats);
    nats.renew().await.unwrap();
    eventually("the client has connected anew", SOON, async || (connects(&nats) > before).then_some(())).await;
    eventually("both are up", SOON, async || nats.is_connected().then_some(())).await;
    nats.check().await.unwrap();
    nats.client.publish("x", "one".into()).await.unwrap();
    assert_eq!(tokio::time::timeout(SOON, by_client.next()).await.unwrap().unwrap().payload, "one");
    assert_eq!(&*tokio::time::timeout(SOON, by_link.next()).await.unwrap().unwrap().payload_bytes(), b"one");

    // The server ends the connections of a user that it changes. They come back when the file is right.
    write_users(home.path(), "third");
    let mut connected = nats.connected();
    server.reload();
    tokio::time::timeout(SOON, connected.wait_for(|up| !up)).await.unwrap().unwrap();
    fs::write(&file, "third\n").unwrap();
    tokio::time::timeout(SOON, connected.wait_for(|up| *up)).await.unwrap().unwrap();
    nats.check().await.unwrap();
}

/// The flags of a server with the certificates in this folder, which asks for one.
fn secure(home: &Path) -> NatsServer {
    let (authority, certificate, key) = (path(home, "ca.pem"), path(home, "cert.pem"), path(home, "key.pem"));
    NatsServer::start_with(&["--tlsverify", "--tlscert", &certificate, "--tlskey", &key, "--tlscacert", &authority])
}

#[tokio::test]
async fn certificates_that_are_not_accepted_end_the_start_at_once() {
    let (good, other, expired) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    certificates(good.path());
    certificates(other.path());
    Authority::new().write_expired_files(&["127.0.0.1"], expired.path());
    let server = secure(good.path());
    let expired_server = secure(expired.path());
    let of = |home: &TempDir, name: &str| path(home.path(), name);
    let authorities = [&good, &other, &expired].map(|home| of(home, "ca.pem"));
    let [authority, wrong_authority, expired_authority] = authorities.each_ref().map(String::as_str);
    let own = [of(&good, "cert.pem"), of(&good, "key.pem")];
    let foreign = [of(&other, "cert.pem"), of(&other, "key.pem")];
    let ours = |[certificate, key]: &[String; 2]| Some((certificate.clone(), key.clone()));
    let cases = [
        ("another authority", &server, wrong_authority, ours(&own)),
        ("no certificate of ours", &server, authority, None),
        ("a certificate of another authority", &server, authority, ours(&foreign)),
        ("an expired certificate", &expired_server, expired_authority, None),
    ];
    for (what, server, authority, ours) in cases {
        let (certificate, key) = ours.unwrap_or_default();
        let sets = [
            ("nats.connect_timeout", "60s"),
            ("nats.tls_ca", authority),
            ("nats.tls_cert", certificate.as_str()),
            ("nats.tls_key", key.as_str()),
        ];
        let start = Instant::now();
        let refused = Nats::connect(&config(&server.url(), &sets), "router", "r1").await;
        assert!(matches!(refused, Err(NatsError::Tls { .. })), "{what}: {refused:?}");
        assert!(start.elapsed() < Duration::from_secs(30), "{what}: after {:?}", start.elapsed());
    }
}

#[tokio::test]
async fn file_without_a_certificate_is_named_before_anything_is_tried() {
    let home = tempfile::tempdir().unwrap();
    certificates(home.path());
    let paths = ["ca.pem", "cert.pem", "key.pem"].map(|name| path(home.path(), name));
    let [authority, certificate, key] = paths.each_ref().map(String::as_str);
    // Nothing listens on port 1.
    let reason =
        async |sets: [(&str, &str); 3]| match Nats::connect(&config("nats://127.0.0.1:1", &sets), "router", "r1").await
        {
            Err(NatsError::Tls { reason, .. }) => reason,
            other => panic!("{other:?}"),
        };
    let [ca, cert] = ["nats.tls_ca", "nats.tls_cert"];
    let swapped = reason([(ca, authority), (cert, key), ("nats.tls_key", certificate)]).await;
    assert_eq!(swapped, format!("nats.tls_cert = {key}: has no certificate"));
    let of_key = reason([(ca, key), (cert, certificate), ("nats.tls_key", key)]).await;
    assert_eq!(of_key, format!("nats.tls_ca = {key}: has no certificate"));
}

#[tokio::test]
async fn file_of_certificates_that_is_a_pipe_or_huge_is_named_and_nobody_waits_for_it() {
    let (server_home, node_home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    certificates(server_home.path());
    let server = NatsServer::start_with(&[
        "--tls",
        "--tlscert",
        &path(server_home.path(), "cert.pem"),
        "--tlskey",
        &path(server_home.path(), "key.pem"),
    ]);
    let authority = node_home.path().join("ca.pem");
    let connect = async || {
        let sets = [("nats.tls_ca", authority.to_str().unwrap()), ("nats.connect_timeout", "60s")];
        Nats::connect(&config(&server.url(), &sets), "router", "r1").await
    };
    let refused = async |nats: Option<&Nats>, problem: &str| {
        let start = Instant::now();
        let reason = match nats {
            Some(nats) => nats.renew().await.unwrap_err(),
            None => match connect().await {
                Err(NatsError::Tls { reason, .. }) => reason,
                other => panic!("{other:?}"),
            },
        };
        assert!(reason.contains("nats.tls_ca = ") && reason.contains(problem), "{reason}");
        assert!(start.elapsed() < Duration::from_secs(30), "after {:?}", start.elapsed());
    };
    let make_pipe = || assert!(Command::new("mkfifo").arg(&authority).status().unwrap().success());
    make_pipe();
    refused(None, "is not a regular file").await;
    fs::remove_file(&authority).unwrap();
    // It takes no room on the disk.
    fs::File::create(&authority).unwrap().set_len(1 << 32).unwrap();
    refused(None, "has more than").await;

    fs::remove_file(&authority).unwrap();
    fs::copy(server_home.path().join("ca.pem"), &authority).unwrap();
    let nats = connect().await.unwrap();
    fs::remove_file(&authority).unwrap();
    make_pipe();
    refused(Some(&nats), "is not a regular file").await;
    assert!(nats.is_connected());
    nats.check().await.unwrap();
}

#[tokio::test]
async fn certificates_of_the_next_connect_are_those_on_disk() {
    let (server_home, node_home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    certificates(server_home.path());
    let mut server = secure(server_home.path());
    let put = || {
        for name in ["ca.pem", "cert.pem", "key.pem"] {
            fs::copy(server_home.path().join(name), node_home.path().join(name)).unwrap();
        }
    };
    put();
    let (authority, certificate) = (path(node_home.path(), "ca.pem"), path(node_home.path(), "cert.pem"));
    let key = path(node_home.path(), "key.pem");
    let sets =
        [("nats.tls_ca", authority.as_str()), ("nats.tls_cert", certificate.as_str()), ("nats.tls_key", key.as_str())];
    let nats = Nats::connect(&config(&server.url(), &sets), "router", "r1").await.unwrap();
    nats.check().await.unwrap();
    let mut connected = nats.connected();
    // Another authority for both sides.
    certificates(server_home.path());
    server.kill();
    tokio::time::timeout(SOON, connected.wait_for(|up| !up)).await.unwrap().unwrap();
    server.restart();
    put();
    tokio::time::timeout(SOON, connected.wait_for(|up| *up)).await.unwrap().unwrap();
    nats.check().await.unwrap();
    nats.renew().await.unwrap();
}
