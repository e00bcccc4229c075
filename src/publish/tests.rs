//! The command with a real server, and the parsing of flags and lines.

use super::*;
use crate::cli::{Cli, Command};
use async_nats::jetstream::stream::{Config, Stream};
use clap::Parser;
use std::io::Write;
use tickwire_testkit::{NatsServer, eventually};

fn parse(args: &[&str]) -> Result<PublishArgs, clap::Error> {
    let cli = Cli::try_parse_from(["tickwire", "publish"].iter().chain(args))?;
    let Command::Publish(publish) = cli.command else { panic!("not publish") };
    Ok(publish)
}

async fn events(server: &NatsServer) -> Stream {
    let client = async_nats::connect(server.url()).await.unwrap();
    let subjects = vec![names::SOURCE_ALL.to_owned()];
    let config = Config { name: "EVENTS".to_owned(), subjects, ..Config::default() };
    async_nats::jetstream::new(client).create_stream(config).await.unwrap()
}

fn file_of(lines: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(lines.as_bytes()).unwrap();
    file
}

#[test]
fn wrong_flags_are_refused() {
    for args in [
        &["--kind", "a.b", "--key", "k"][..],
        &["--key", "", "--pattern", "Doji"],
        &["--key", "AAPL", "--confidence", "1.5"],
        &["--key", "AAPL", "--tier", "weekly"],
        &["--key", "AAPL", "--priority", "urgent"],
        &["--key", "AAPL", "--data", "[]"],
        &["--key", "AAPL", "--msg-id", "a\nb"],
        &["-", "--pattern", "Doji"],
        &["-", "--key", "AAPL", "--key-field", "symbol"],
        &[],
    ] {
        assert!(parse(args).is_err(), "{args:?}");
    }
    let no_pattern = parse(&["--key", "AAPL"]).unwrap();
    assert!(matches!(no_pattern.one("AAPL"), Err(PublishCommandError::NoPattern)));
}

#[test]
fn unknown_kind_is_published_only_by_force() {
    let added = [("news".to_owned(), tickwire_core::event::KindAudience::Public)];
    let events = EventsConfig { kinds: added.into() };
    let check = |args: &[&str]| parse(&[&["--key", "k"][..], args].concat()).unwrap().check_kind(&events);
    for args in [&["--kind", "alert"][..], &["--kind", "Market"], &["--kind", "news"], &["--kind", "patern", "--force"]]
    {
        assert!(check(args).is_ok(), "{args:?}");
    }
    let refused = check(&["--kind", "patern"]).unwrap_err();
    let PublishCommandError::UnknownKind { kind, known } = refused else { panic!("{refused:?}") };
    assert_eq!((kind.as_str(), known.as_str()), ("patern", "pattern, market, health, alert, backtest, news"));
}

#[test]
fn negative_values_are_refused_with_the_allowed_range() {
    for (flag, allowed) in [("--confidence", "from 0 to 1"), ("--deadline", "1..=86400")] {
        let refused = parse(&["--key", "k", "--pattern", "p", flag, "-1"]).unwrap_err().to_string();
        assert!(refused.contains(allowed), "{refused}");
    }
}

#[test]
fn future_dead_letters_are_not_published() {
    let check = |args: &[&str]| {
        let publish = parse(args).unwrap();
        let key = publish.key.clone().unwrap();
        let event = publish.one(&key).unwrap();
        publish.checked(&publish.kinds(&EventsConfig { kinds: [].into() }), event).map_err(|error| error.to_string())
    };
    let long = "x".repeat(70);
    for (args, reason) in [
        (&["--key", "A123456789012345678901234567890123456789", "--pattern", "Doji"][..], "bad_key"),
        (&["--key", "AAPL", "--pattern", "Doji", "--data", r#"{"symbol":"MSFT"}"#], "symbol_mismatch"),
        (&["--key", "AAPL", "--pattern", &long], "missing_pattern"),
        (&["--key", "AAPL", "--pattern", "Doji", "--data", r#"{"timestamp":"yesterday"}"#], "bad_timestamp"),
        (&["--kind", "health", "--key", "db", "--data", r#"{"status":"fine"}"#], "bad_status"),
    ] {
        let refused = check(args).unwrap_err();
        assert!(refused.contains(&format!("dead letter, {reason}: ")), "{refused}");
    }
    // NATS would end the connection for a longer line, again and again.
    let refused = check(&["--kind", "health", "--key", &".".repeat(1_000)]).unwrap_err();
    assert_eq!(refused, "the key has 3000 bytes when encoded, the limit is 2048");
    // Routers may have a kind that this configuration does not have.
    assert!(check(&["--kind", "news", "--key", "AAPL"]).is_ok());
    assert!(check(&["--kind", "alert", "--key", "ann"]).is_ok());
    assert!(parse(&["--key", "AAPL", "--data", r#"{"a":1,"a":2}"#]).is_err());
}

#[test]
fn flags_win_over_data() {
    let args = ["--key", "BRK.B", "--pattern", "Doji", "--confidence", "0.5", "--tier", "COMBO", "--msg-id", "m"];
    let more = ["--data", r#"{"pattern":"Hammer","volume":7}"#];
    let event = parse(&[&args[..], &more].concat()).unwrap().one("BRK.B").unwrap();
    assert_eq!((event.subject.as_str(), event.msg_id.as_str()), ("events.pattern.BRK=2EB", "m"));
    let payload: Value = serde_json::from_slice(&event.payload).unwrap();
    assert_eq!(payload, json!({ "pattern": "Doji", "volume": 7, "confidence": 0.5, "tier": "combo" }));
}

#[test]
fn lines_become_events_or_errors() {
    let by_symbol = parse(&["-"]).unwrap();
    let event = by_symbol.event(b" {\"symbol\":\"AAPL\"}\r\n", "run", 3).unwrap().unwrap();
    assert_eq!((event.subject.as_str(), event.msg_id.as_str()), ("events.pattern.AAPL", "run-3"));
    assert_eq!(&event.payload[..], b"{\"symbol\":\"AAPL\"}");
    let named = by_symbol.event(b"{\"symbol\":\"AAPL\",\"event_id\":\"e\"}", "run", 4).unwrap().unwrap();
    assert_eq!(named.msg_id, "events.pattern.AAPL:e");
    for (line, id) in [("7", "7"), ("7.0", "7"), ("null", "e"), ("\"\"", "e"), ("[]", "e")] {
        let line = format!("{{\"symbol\":\"BRK.B\",\"id\":{line},\"event_id\":\"e\"}}");
        let event = by_symbol.event(line.as_bytes(), "run", 4).unwrap().unwrap();
        assert_eq!(event.msg_id, format!("events.pattern.BRK=2EB:{id}"), "{line}");
    }
    assert!(by_symbol.event(b"  \n", "run", 5).unwrap().is_none());
    for bad in ["{", "[1]", "{}", "{\"symbol\":7}", "{\"symbol\":\"\"}"] {
        assert!(by_symbol.event(bad.as_bytes(), "run", 6).is_err(), "{bad}");
    }
    // Events that routers can read are published, for any id and names.
    for odd in [r#"{"symbol":"A","id":""}"#, r#"{"symbol":"A","id":"a\n","x":{"$serde_json::private::RawValue":1}}"#] {
        assert_eq!(by_symbol.event(odd.as_bytes(), "run", 7).unwrap().unwrap().msg_id, "run-7");
    }
    let fixed = parse(&["-", "--kind", "market", "--key", "US"]).unwrap();
    assert_eq!(fixed.event(b"{}", "run", 1).unwrap().unwrap().subject, "events.market.US");
}

#[tokio::test]
async fn one_event_is_stored_once() {
    let server = NatsServer::start();
    let stream = events(&server).await;
    let url = server.url();
    let args = ["--nats", &url, "--key", "AAPL", "--pattern", "Doji", "--msg-id", "m"];
    let publish = parse(&args).unwrap();
    assert_eq!(publish.run().await.unwrap(), "stored as EVENTS:1\n");
    assert_eq!(publish.run().await.unwrap(), "a duplicate of EVENTS:1\n");
    assert_eq!(stream.get_info().await.unwrap().state.messages, 1);
}

#[tokio::test]
async fn bad_lines_are_skipped_and_good_ones_stored() {
    let server = NatsServer::start();
    let stream = events(&server).await;
    let lines: String = (0..1000)
        .map(|n| match n % 100 {
            7 => "{\n".to_owned(),
            // Routers would store it as a dead letter.
            8 => "{\"symbol\":\"S\"}\n".to_owned(),
            _ => format!("{{\"symbol\":\"S{}\",\"pattern\":\"Doji\",\"n\":{n}}}\n", n % 5),
        })
        .collect();
    let (file, url) = (file_of(&lines), server.url());
    let refused = parse(&[file.path().to_str().unwrap(), "--nats", &url]).unwrap().run().await;
    let Err(PublishCommandError::Incomplete { summary }) = refused else { panic!("{refused:?}") };
    assert_eq!(summary, "980 stored, 20 failed");
    assert_eq!(stream.get_info().await.unwrap().state.messages, 980);

    let good = file_of(&"{\"symbol\":\"A\",\"pattern\":\"Doji\",\"id\":\"1\"}\n".repeat(2));
    let output = parse(&[good.path().to_str().unwrap(), "--nats", &url, "--window", "1"]).unwrap().run().await;
    assert_eq!(output.unwrap(), "1 stored, 1 duplicates\n");
}

#[tokio::test]
async fn duplicates_are_found_per_kind_and_key() {
    let server = NatsServer::start();
    let stream = events(&server).await;
    let lines = ["AAPL", "TSLA", "AAPL", "BRK.B"]
        .map(|symbol| format!("{{\"symbol\":\"{symbol}\",\"pattern\":\"Doji\",\"id\":1}}\n"));
    let (file, url) = (file_of(&lines.concat()), server.url());
    let publish = |kind: &'static str| {
        parse(&[file.path().to_str().unwrap(), "--nats", &url, "--window", "1", "--kind", kind, "--force"]).unwrap()
    };
    assert_eq!(publish("pattern").run().await.unwrap(), "3 stored, 1 duplicates\n");
    assert_eq!(publish("News").run().await.unwrap(), "3 stored, 1 duplicates\n");
    assert_eq!(publish("pattern").run().await.unwrap(), "0 stored, 4 duplicates\n");
    let subjects = ["pattern.AAPL", "pattern.TSLA", "pattern.BRK=2EB", "news.AAPL", "news.TSLA", "news.BRK=2EB"];
    for (seq, subject) in (1..).zip(subjects) {
        assert_eq!(stream.get_raw_message(seq).await.unwrap().subject.as_str(), format!("events.{subject}"));
    }
}

#[tokio::test]
async fn unacknowledged_event_stops_the_command() {
    let server = NatsServer::start();
    let lines = file_of(&"{\"symbol\":\"A\",\"pattern\":\"Doji\"}\n".repeat(5));
    let url = server.url();
    let args = [lines.path().to_str().unwrap(), "--nats", &url, "--window", "1", "--deadline", "1"];
    let Err(PublishCommandError::Incomplete { summary }) = parse(&args).unwrap().run().await else { panic!("stored") };
    assert_eq!(
        summary,
        "0 stored, 1 failed, given up: the first unacknowledged line is 1, lines after 1 were not tried"
    );
    let missing = parse(&["/no/such/file", "--nats", &url]).unwrap().run().await;
    assert!(matches!(missing, Err(PublishCommandError::Read { .. })), "{missing:?}");
}

#[tokio::test]
async fn summary_names_the_line_where_nats_ended() {
    let mut server = NatsServer::start();
    let mut stream = events(&server).await;
    let lines = file_of(&"{\"symbol\":\"A\",\"pattern\":\"Doji\"}\n".repeat(400_000));
    let (path, url) = (lines.path().to_str().unwrap().to_owned(), server.url());
    let publishing =
        tokio::spawn(async move { parse(&[&path, "--nats", &url, "--deadline", "1"]).unwrap().run().await });
    eventually("some lines are stored", Duration::from_secs(60), async || {
        (stream.info().await.ok()?.state.messages > 0).then_some(())
    })
    .await;
    server.kill();
    let refused = publishing.await.unwrap();
    let Err(PublishCommandError::Incomplete { summary }) = refused else { panic!("{refused:?}") };
    assert!(summary.contains("the first unacknowledged line is "), "{summary}");
    assert!(summary.ends_with(" were not tried"), "{summary}");
}
