//! `tickwire publish`: publishes one event from flags, or many from JSON lines. The command reports every event that the
//! stream did not acknowledge.

use clap::Args;
use serde_json::{Map, Value, json};
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tickwire_core::event::decode::{RawMessage, Undecodable, decode};
use tickwire_core::event::{Kind, KindAudience, Kinds, Priority, Tier, Timestamp, key};
use tickwire_core::ids::{Confidence, Seq};
use tickwire_node::clock::{millis, wall_clock};
use tickwire_node::config::{ConfigError, EventsConfig};
use tickwire_node::names;
use tickwire_node::nats::{Nats, NatsError};

use crate::values;
use tickwire_command::args::NatsArgs;
use tickwire_command::publisher::{NewEvent, PublishError, Publisher};

mod lines;

type Payload = Map<String, Value>;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tickwire publish --key AAPL --pattern BreakoutBO --confidence 0.87 --tier daily
  tickwire publish --kind alert --key ann --data '{\"alert_id\":\"a-1\"}'
  tickwire publish events.jsonl                      one object a line, its key in `symbol`
  tickwire publish - --kind health --key-field service < reports.jsonl")]
pub(crate) struct PublishArgs {
    /// A file of JSON lines, each the payload of one event; `-` is standard input
    #[arg(value_name = "FILE", conflicts_with_all = ["pattern", "confidence", "tier", "priority", "data", "msg_id"])]
    lines: Option<PathBuf>,
    /// The kind: pattern, market, health, alert, backtest, or one that the cluster is configured for
    #[arg(long, default_value = "pattern", value_parser = kind)]
    kind: String,
    /// Also publish a kind that is not in this configuration: routers may have it
    #[arg(long)]
    force: bool,
    /// The key: the symbol of a pattern, the user of an alert or backtest, the service of a health report
    #[arg(long, required_unless_present = "lines", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    key: Option<String>,
    /// The field of each line that holds its key
    #[arg(long, value_name = "FIELD", default_value = "symbol", conflicts_with = "key")]
    key_field: String,
    /// The pattern
    #[arg(long)]
    pattern: Option<String>,
    /// The confidence, 0 to 1
    #[arg(long, value_parser = values::confidence, allow_negative_numbers = true)]
    confidence: Option<Confidence>,
    /// The tier: daily, intraday or combo
    #[arg(long)]
    tier: Option<Tier>,
    /// The priority: low, medium, high or critical
    #[arg(long)]
    priority: Option<Priority>,
    /// More fields of the payload, as a JSON object; the flags win over them
    #[arg(long, value_name = "JSON", value_parser = values::object)]
    data: Option<Payload>,
    /// The message id; repeating it within two minutes is a duplicate [default: random]
    #[arg(long, value_name = "ID", value_parser = msg_id)]
    msg_id: Option<String>,
    /// How many events may wait for their acknowledgement; 1 keeps the order even if some have to be sent again
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=4096))]
    window: u16,
    /// How long to try to connect to NATS, and to send an event, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=86400),
        allow_negative_numbers = true)]
    deadline: u32,
    #[command(flatten)]
    nats: NatsArgs,
}

/// Why an event was not published.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PublishCommandError {
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Nats(#[from] NatsError),
    #[error("an event of kind pattern needs --pattern NAME (or a `pattern` in --data)")]
    NoPattern,
    #[error(
        "not published: the kind {kind:?} is not in this configuration ({known}); routers that do not have it either \
         store its events as dead letters; add it to events.kinds, or publish it with --force"
    )]
    UnknownKind { kind: String, known: String },
    #[error("not published: {0}")]
    Unfit(#[from] UnfitEvent),
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error("{}: cannot be read: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot listen for signals: {0}")]
    Signals(io::Error),
    #[error("not everything was published: {summary}")]
    Incomplete { summary: String },
    #[error("{denied}; {summary}")]
    Denied { denied: PublishError, summary: String },
}

/// Why an event is not sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnfitEvent {
    /// Routers could not read it.
    #[error("routers would store it as a dead letter, {}: {}", .0.reason, .0.detail)]
    DeadLetter(Undecodable),
    /// NATS would end the connection.
    #[error("the key has {len} bytes when encoded, the limit is {}", key::MAX_SENT)]
    LongKey { len: usize },
}

impl PublishArgs {
    /// Publishes. Returns the text to print.
    pub(crate) async fn run(&self) -> Result<String, PublishCommandError> {
        let mut config = self.nats.load()?;
        config.nats.connect_timeout = config.nats.connect_timeout.min(Duration::from_secs(self.deadline.into()));
        let kinds = self.kinds(&config.events);
        self.check_kind(&config.events)?;
        let one = match (&self.lines, &self.key) {
            (None, Some(key)) => Some(self.checked(&kinds, self.one(key)?)?),
            _ => None,
        };
        let nats = Nats::connect(&config.nats, "publish", "cli").await?;
        let published = match one {
            Some(event) => self.publish_one(&nats, event).await,
            None => self.publish_lines(&nats, &kinds).await,
        };
        let closed = nats.close().await;
        let published = published?;
        closed?;
        Ok(published)
    }

    /// Refuses a kind that this configuration does not have: it is probably misspelled. `--force` allows it, since
    /// routers may have another configuration.
    fn check_kind(&self, events: &EventsConfig) -> Result<(), PublishCommandError> {
        let built_in = Kind::BUILT_IN.iter().map(Kind::as_str);
        let known: Vec<&str> = built_in.chain(events.kinds.keys().map(String::as_str)).collect();
        if self.force || known.contains(&self.kind.as_str()) {
            return Ok(());
        }
        Err(PublishCommandError::UnknownKind { kind: self.kind.clone(), known: known.join(", ") })
    }

    /// The kinds of this configuration, and the one to publish: routers may have it.
    fn kinds(&self, events: &EventsConfig) -> Kinds {
        let mut events = events.clone();
        events.kinds.entry(self.kind.clone()).or_insert(KindAudience::Public);
        events.taken()
    }

    /// Returns the event if it can be sent, and routers of this version can read it.
    fn checked(&self, kinds: &Kinds, event: NewEvent) -> Result<NewEvent, UnfitEvent> {
        let key_token = event.subject.rsplit('.').next().unwrap_or_default();
        if key_token.len() > key::MAX_SENT {
            return Err(UnfitEvent::LongKey { len: key_token.len() });
        }
        let raw = RawMessage {
            kind_token: &self.kind,
            key_token,
            content_type: None,
            msg_id: Some(&event.msg_id),
            payload: &event.payload,
            stream: "",
            seq: Seq(0),
            stored: now(),
        };
        decode(&raw, kinds).map_err(UnfitEvent::DeadLetter)?;
        Ok(event)
    }

    /// Builds the event from the flags.
    fn one(&self, key: &str) -> Result<NewEvent, PublishCommandError> {
        let mut payload = self.data.clone().unwrap_or_default();
        let flags = [
            ("pattern", self.pattern.as_ref().map(|pattern| json!(pattern))),
            ("confidence", self.confidence.map(|confidence| json!(confidence.get()))),
            ("tier", self.tier.map(|tier| json!(tier.as_str()))),
            ("priority", self.priority.map(|priority| json!(priority.as_str()))),
        ];
        payload.extend(flags.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        if self.kind == "pattern" && !["pattern", "pattern_type"].iter().any(|name| payload.contains_key(*name)) {
            return Err(PublishCommandError::NoPattern);
        }
        let msg_id = self.msg_id.clone().unwrap_or_else(|| format!("cli-{:016x}", rand::random::<u64>()));
        Ok(NewEvent::new(&self.kind, key, msg_id, Value::Object(payload).to_string().into_bytes()))
    }

    async fn publish_one(&self, nats: &Nats, event: NewEvent) -> Result<String, PublishCommandError> {
        let mut publisher = self.publisher(nats);
        publisher.send((), event).await;
        let mut output = String::new();
        while let Some(((), done)) = publisher.done().await {
            let stored = done?;
            let how = if stored.duplicate { "a duplicate of" } else { "stored as" };
            output = format!("{how} {}:{}\n", stored.stream, stored.sequence);
        }
        Ok(output)
    }

    fn publisher<T: Send + 'static>(&self, nats: &Nats) -> Publisher<T> {
        let deadline = Duration::from_secs(self.deadline.into());
        Publisher::new(nats, self.window.into(), Some(deadline))
    }
}

/// The time at which the stream would store an event. The event contains it, so it counts for the size limit.
fn now() -> Timestamp {
    Timestamp(millis(wall_clock()).cast_signed())
}

/// Parses a kind. It may be in any case, as in filters; the stream only takes lower case.
pub(crate) fn kind(text: &str) -> Result<String, String> {
    let fits = names::is_token(text);
    fits.then(|| text.to_ascii_lowercase()).ok_or_else(|| names::TOKEN_RULE.to_owned())
}

fn msg_id(text: &str) -> Result<String, String> {
    let fits = (1..=128).contains(&text.len()) && !text.contains(char::is_control);
    fits.then(|| text.to_owned()).ok_or_else(|| "must be 1 to 128 bytes without control characters".to_owned())
}

#[cfg(test)]
mod tests;
