//! Keeps its position in a file, and resumes from it after a restart, at any gateway: no event is lost, even if the
//! program crashed. A copy of this file needs `anyhow`, `clap`, `serde_json`, `tickwire-client` and `tokio`.
//!
//! The client resumes by itself as long as the program runs. For the time between two runs the file holds the last
//! position, and `<partition> <sequence>` of each event that was handled since. A new run asks for the events `since`
//! the position, and skips those that the file names. The program first handles an event, and then writes it into the
//! file. So it may handle one event again after a crash.

use anyhow::Context as _;
use clap::Parser;
use serde_json::json;
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tickwire_client::{
    Client, ClientConfig, ClientError, Credentials, Heartbeat, Message, Messages, Since, SubscribeOptions,
};

/// The pause before a new connection, if the client cannot resume by itself.
const PAUSE: Duration = Duration::from_secs(1);

/// A request that is refused with this error may be sent again later.
const TRY_AGAIN: u16 = 503;

#[derive(Debug, Parser)]
struct Args {
    /// The gateways, tried in turn
    #[arg(long, value_delimiter = ',', default_value = "ws://127.0.0.1:8080/v1/stream")]
    url: Vec<String>,
    /// The token of the client. Other users can see flags: better set the environment variable
    #[arg(long, env = "TICKWIRE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// A user's name instead of a token, for a gateway with auth.mode = "dev"
    #[arg(long)]
    user: Option<String>,
    /// The symbols to subscribe to; another list needs another file
    #[arg(long, value_delimiter = ',', default_value = "AAPL,NVDA,SPY")]
    symbols: Vec<String>,
    /// The file that keeps the position
    #[arg(long, default_value = "position.txt")]
    file: PathBuf,
    /// End after this many events [default: with Ctrl-C]
    #[arg(long)]
    count: Option<u64>,
}

/// The file and its content.
struct Place {
    path: PathBuf,
    file: Option<File>,
    position: Option<String>,
    /// The partition and sequence of each event that was handled and lies beyond the position.
    handled: BTreeSet<(u16, u64)>,
}

impl Place {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            text => text.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let mut place = Self { path: path.to_owned(), file: None, position: None, handled: BTreeSet::new() };
        // A crash can leave half a line at the end.
        let mut lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        if let Some(position) = lines.next() {
            place.position = Some(position.to_owned());
            place.handled = lines.filter_map(|line| line.split_once(' ')).map(numbers).collect::<Result<_, _>>()?;
            place.write()?;
        }
        Ok(place)
    }

    /// Writes that everything up to this position was handled.
    fn reach(&mut self, position: &str) -> anyhow::Result<()> {
        if let Since::Position(position) = position.parse()? {
            self.handled.retain(|(p, seq)| position.seqs.get(usize::from(*p)).is_none_or(|reached| *seq > reached.0));
        }
        self.position = Some(position.to_owned());
        self.write()
    }

    /// Writes that this event was handled.
    fn handle(&mut self, event: (u16, u64)) -> anyhow::Result<()> {
        self.handled.insert(event);
        match &mut self.file {
            Some(file) => file.write_all(format!("{} {}\n", event.0, event.1).as_bytes())?,
            None => self.write()?,
        }
        Ok(())
    }

    /// Replaces the file in one step: a crash leaves either the old one or the new one.
    fn write(&mut self) -> anyhow::Result<()> {
        let Some(position) = &self.position else { return Ok(()) };
        let events = self.handled.iter().map(|(p, seq)| format!("{p} {seq}\n"));
        let new = self.path.with_extension("new");
        fs::write(&new, format!("{position}\n{}", events.collect::<String>()))?;
        fs::rename(&new, &self.path)?;
        self.file = Some(OpenOptions::new().append(true).open(&self.path)?);
        Ok(())
    }
}

fn numbers((p, seq): (&str, &str)) -> anyhow::Result<(u16, u64)> {
    Ok((p.parse()?, seq.parse()?))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut place = Place::read(&args.file)?;
    let mut received = 0;
    while !follow(&args, &mut place, &mut received).await? {
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// A connection with a subscription.
struct Subscribed {
    client: Client,
    messages: Messages,
    /// Whether past events come first. The positions that arrive before their end do not cover them.
    is_past: bool,
}

/// Subscribes to the events from the place on. Returns `None` if that may be tried again later.
async fn subscribe(args: &Args, place: &mut Place) -> anyhow::Result<Option<Subscribed>> {
    let credentials = match (&args.user, &args.token) {
        (Some(user), _) => Credentials::DevUser(user.clone()),
        (None, Some(token)) => Credentials::Token(token.clone()),
        (None, None) => anyhow::bail!("no credentials: set TICKWIRE_TOKEN, or give --token or --user"),
    };
    let config = ClientConfig { urls: args.url.clone(), credentials, ..ClientConfig::default() };
    let (client, messages) = Client::connect(config).await?;
    let since = place.position.as_deref().map(str::parse).transpose()?;
    let options = SubscribeOptions { since: since.clone(), ..SubscribeOptions::default() };
    match client.subscribe("mine", json!({ "symbols": args.symbols }), options).await {
        Ok(list) if since.is_none() => place.reach(&list.position)?,
        Ok(_) => {}
        Err(ClientError::Refused { code: TRY_AGAIN, .. } | ClientError::TimedOut { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let is_past = since.is_some();
    eprintln!("{}", if is_past { "resumed" } else { "subscribed" });
    Ok(Some(Subscribed { client, messages, is_past }))
}

/// Prints events from the place on. Returns `false` if a new connection has to continue at the place.
async fn follow(args: &Args, place: &mut Place, received: &mut u64) -> anyhow::Result<bool> {
    let Some(Subscribed { client, mut messages, mut is_past }) = subscribe(args, place).await? else {
        return Ok(false);
    };
    let mut is_lost = false;
    while args.count.is_none_or(|count| *received < count) {
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
                let (symbol, data) = (event.symbol.as_ref().map_or("-", |symbol| symbol.as_str()), &event.data);
                if !place.handled.contains(&(event.p.0, event.seq.0)) {
                    *received += 1;
                    println!("{}:{} {} {symbol} {}", event.p, event.seq, event.id, json!(data));
                    place.handle((event.p.0, event.seq.0))?;
                }
            }
            Some(Message::Heartbeat(Heartbeat { position: Some(position) })) if !is_past => place.reach(&position)?,
            Some(Message::Past { complete, .. }) => {
                if is_lost {
                    return Ok(false);
                }
                is_past = false;
                eprintln!("caught up{}", if complete { "" } else { ", but for the gaps" });
            }
            // Events may be missing after the place in the file.
            Some(Message::Interrupted) => return Ok(false),
            Some(Message::Gap(gap)) => {
                eprintln!("gap: {} p={} from={} to={}", gap.reason, gap.p, gap.from, gap.to);
                if gap.reason == "reset" {
                    place.handled.retain(|(p, _)| *p != gap.p.0);
                }
            }
            Some(Message::Notice(notice)) => eprintln!("notice: {} dropped={}", notice.code, notice.dropped),
            Some(Message::Disconnected { reason, retry_in: Some(_), .. }) => {
                is_lost = is_past;
                eprintln!("disconnected: {reason}");
            }
            Some(Message::Disconnected { reason, retry_in: None, .. }) => anyhow::bail!("disconnected: {reason}"),
            Some(_) => {}
            None => break,
        }
    }
    client.close().await;
    Ok(true)
}
