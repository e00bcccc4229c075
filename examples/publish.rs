//! Publishes pattern events to JetStream, and waits until the stream has stored each. A copy of this file needs
//! `anyhow`, `async-nats`, `clap`, `rmp-serde`, `serde_json` and `tokio`.
//!
//! `docs/producers.md` explains the fields of an event.

use anyhow::Context as _;
use async_nats::jetstream::{self, message::PublishMessage};
use clap::Parser;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How many times the program tries to publish an event, and the pause between two attempts.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Parser)]
struct Args {
    /// The NATS of the cluster
    #[arg(long, env = "TICKWIRE_NATS__URL", default_value = "nats://127.0.0.1:4222")]
    nats: String,
    /// The symbol that the events are about
    #[arg(long, default_value = "AAPL")]
    symbol: String,
    /// How many events to publish
    #[arg(long, default_value_t = 3)]
    count: u64,
    /// Write the events as MessagePack instead of JSON
    #[arg(long)]
    msgpack: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let client = async_nats::connect(&args.nats).await.with_context(|| format!("cannot connect to {}", args.nats))?;
    let jetstream = jetstream::new(client);
    let started = SystemTime::now().duration_since(UNIX_EPOCH)?;
    for number in 1..=args.count {
        let timestamp = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
        let event = json!({
            "symbol": args.symbol,
            "pattern": "BreakoutBO",
            "tier": "daily",
            "confidence": 0.87,
            "timestamp": timestamp,
            "id": format!("scanner-1-{number}"),
            "price": 187.25,
        });
        // The stream stores a message id only once within two minutes, for all subjects together.
        let message_id = format!("scanner-1:{}:{}-{number}", args.symbol, started.as_millis());
        publish(&jetstream, &args, &event, &message_id).await?;
    }
    Ok(())
}

/// Publishes one event until the stream acknowledges it. The stream recognises an event that it has stored already by
/// the message id.
async fn publish(jetstream: &jetstream::Context, args: &Args, event: &Value, message_id: &str) -> anyhow::Result<()> {
    let subject = format!("events.pattern.{}", encode_key(&args.symbol));
    let payload = if args.msgpack { rmp_serde::to_vec_named(event)? } else { serde_json::to_vec(event)? };
    let mut attempt = 1;
    loop {
        let mut message = PublishMessage::build().payload(payload.clone().into()).message_id(message_id);
        if args.msgpack {
            message = message.header("Content-Type", "application/msgpack");
        }
        let stored = match jetstream.send_publish(subject.clone(), message).await {
            Ok(acknowledgement) => acknowledgement.await,
            Err(error) => Err(error),
        };
        match stored {
            Ok(stored) => {
                println!("{subject} stored seq={} duplicate={}", stored.sequence, stored.duplicate);
                return Ok(());
            }
            Err(error) if attempt < ATTEMPTS => eprintln!("{subject} not acknowledged: {error}; trying again"),
            Err(error) => return Err(error).with_context(|| format!("{subject} not acknowledged")),
        }
        attempt += 1;
        tokio::time::sleep(PAUSE).await;
    }
}

/// Writes a key as a token of a subject. Every byte that is not an ASCII letter, a digit, `-` or `_` becomes `=XX`.
fn encode_key(key: &str) -> String {
    key.bytes().fold(String::new(), |mut token, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => token.push(char::from(byte)),
            // Writing to a String cannot fail.
            _ => write!(token, "={byte:02X}").unwrap_or_default(),
        }
        token
    })
}
