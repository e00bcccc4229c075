//! Connects with a token, subscribes, and prints events, one a line. The client connects again after a break and
//! resumes by itself. A copy of this file needs `anyhow`, `clap`, `serde_json`, `tickwire-client` and `tokio`.

use clap::Parser;
use serde_json::{Value, json};
use tickwire_client::{Client, ClientConfig, Credentials, Message, ReceivedEvent, SubscribeOptions};

#[derive(Debug, Parser)]
struct Args {
    /// The gateway
    #[arg(long, default_value = "ws://127.0.0.1:8080/v1/stream")]
    url: String,
    /// The token of the client. Other users can see flags: better set the environment variable
    #[arg(long, env = "TICKWIRE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// A user's name instead of a token, for a gateway with auth.mode = "dev"
    #[arg(long)]
    user: Option<String>,
    /// The symbols to subscribe to
    #[arg(long, value_delimiter = ',', default_value = "AAPL,NVDA,SPY")]
    symbols: Vec<String>,
    /// End after this many events [default: with Ctrl-C]
    #[arg(long)]
    count: Option<u64>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut config = ClientConfig::new(args.url);
    config.credentials = match (args.user, args.token) {
        (Some(user), _) => Credentials::DevUser(user),
        (None, Some(token)) => Credentials::Token(token),
        (None, None) => anyhow::bail!("no credentials: set TICKWIRE_TOKEN, or give --token or --user"),
    };
    let (client, mut messages) = Client::connect(config).await?;
    client.subscribe("mine", json!({ "symbols": args.symbols }), SubscribeOptions::default()).await?;
    eprintln!("subscribed");

    let mut received = 0;
    while args.count.is_none_or(|count| received < count) {
        let message = tokio::select! {
            message = messages.recv() => message,
            pressed = tokio::signal::ctrl_c() => {
                pressed?;
                break;
            }
        };
        match message {
            // Events are alerts if a saved subscription of the user asks for that.
            Some(Message::Event(event) | Message::Alert(event)) => {
                received += 1;
                println!("{}", line(&event));
            }
            // Events that are missing, and why. A program that depends on every event must show these messages.
            Some(Message::Gap(gap)) => eprintln!("gap: {} p={} from={} to={}", gap.reason, gap.p, gap.from, gap.to),
            Some(Message::Notice(notice)) => eprintln!("notice: {} dropped={}", notice.code, notice.dropped),
            Some(Message::Interrupted) => eprintln!("events of the time without a connection may be missing"),
            Some(Message::Disconnected { reason, retry_in: Some(pause), .. }) => {
                eprintln!("disconnected: {reason}; trying again in {pause:?}");
            }
            Some(Message::Disconnected { reason, retry_in: None, .. }) => anyhow::bail!("disconnected: {reason}"),
            Some(_) => {}
            None => break,
        }
    }
    client.close().await;
    Ok(())
}

/// An event as one line: partition and sequence, id, the fields of a pattern, and the data.
fn line(event: &ReceivedEvent) -> String {
    let symbol = event.symbol.as_ref().map_or("-", |symbol| symbol.as_str());
    let pattern = event.pattern.as_ref().map_or("-", |pattern| pattern.as_str());
    let tier = event.tier.map_or("-", |tier| tier.as_str());
    let confidence = event.confidence.map_or_else(|| "-".to_owned(), |confidence| format!("{:.2}", confidence.get()));
    let (priority, data) = (event.priority, Value::Object(event.data.clone()));
    format!("{}:{} {} {symbol} {pattern} {tier} {confidence} {priority} {data}", event.p, event.seq, event.id)
}
