//! `tickwire top`: a live view of the whole cluster in a terminal. One admin server is asked for `/v1/nodes`, and asks
//! all other nodes over NATS.
//!
//! The modules in the order of the flow: `ask` asks admin servers, whose `answer` has the shape, `reading` joins the
//! answers and keeps those before, `screen` computes rows and rates from two readings, `problems` says what is wrong,
//! `render` makes lines of all that, and `live` draws these on a `terminal`. `reading`, `screen`, `problems` and
//! `render` are pure.

mod answer;
mod ask;
mod live;
mod numbers;
mod problems;
mod reading;
mod render;
mod screen;
mod table;
mod terminal;
#[cfg(test)]
mod tests;

use clap::Args;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::ops::RangeInclusive;
use std::time::Duration;
use tickwire_node::config::ConfigError;
use tokio::time::sleep;

use crate::values;
use ask::{AdminUrl, Asker, Credentials};
use reading::Trend;
use render::Page;
use screen::{Screen, SortKey};
use tickwire_command::args::ConfigArgs;
use tickwire_command::stop::on_signal;
use tickwire_node::terminal_text::in_json;

/// The environment variable with the token, if no flag has one.
const TOKEN_VARIABLE: &str = "TICKWIRE_TOKEN";

/// The shortest and the longest interval. Nodes read their numbers twice a second at most.
const INTERVALS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3_600);

#[derive(Debug, Args)]
#[command(after_help = "\
Keys: s, d, l and n sort by sessions, drops, lag and name; p pauses; q or Ctrl-C ends.

Where admin servers ask for a token, it needs the role `operator` or `producer`. With
auth.jwt_secret, from the environment or the file, the command signs one itself.

Examples:
  tickwire top
  tickwire top --admin http://gw-1:9090 --admin http://gw-2:9090 --config gateway.toml
  TICKWIRE_AUTH__JWT_SECRET=… tickwire top --admin http://gw-1:9090
  tickwire top --once --json --interval 5s           one reading, for scripts")]
pub(crate) struct TopArgs {
    /// The admin server of any node, which asks all others; give several in case one is away
    #[arg(long = "admin", value_name = "URL", default_value = "http://127.0.0.1:9090", value_parser = ask::admin_url)]
    admins: Vec<AdminUrl>,
    /// A token for the admin servers; other users can see flags, so prefer TICKWIRE_TOKEN
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// How often to ask, such as 1s or 5s
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval, allow_hyphen_values = true)]
    interval: Duration,
    /// Print one reading as text, with the rates over one interval, and end; also if the output is not a terminal
    #[arg(long)]
    once: bool,
    /// Print it as one JSON object
    #[arg(long, requires = "once")]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Why the command ended with an error.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TopError {
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error("{0}; --admin names the admin server of a running node")]
    NoAnswer(String),
    #[error("cannot listen for signals: {0}")]
    Signals(io::Error),
    #[error("cannot use the terminal: {0}; --once prints one reading as text")]
    Terminal(io::Error),
    #[error("cannot write to standard output: {0}")]
    Write(io::Error),
    #[error("the reading has no form in JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl TopArgs {
    /// Shows the cluster until a key or a signal ends it, or prints one reading.
    pub(crate) async fn run(self) -> Result<(), TopError> {
        let stop = on_signal().map_err(TopError::Signals)?;
        let token = self.token.or_else(|| std::env::var(TOKEN_VARIABLE).ok().filter(|token| !token.is_empty()));
        let credentials = match token {
            Some(token) => Credentials::Token(token),
            None => Credentials::signing(self.config.load()?.auth)?,
        };
        let asker = Asker::new(self.admins, credentials);
        let first = asker.ask().await.map_err(|faults| TopError::NoAnswer(faults.join("; ")))?;
        let mut trend = Trend::new(first);
        if !self.once && io::stdin().is_terminal() && io::stdout().is_terminal() {
            return live::run(&asker, trend, self.interval, &stop).await;
        }
        tokio::select! {
            () = sleep(self.interval) => {}
            () = stop.cancelled() => return Ok(()),
        }
        match asker.ask().await {
            Ok(reading) => trend.note(reading),
            Err(faults) => return Err(TopError::NoAnswer(faults.join("; "))),
        }
        let screen = Screen::of(&trend, SortKey::Name);
        let text =
            if self.json { in_json(&serde_json::to_string(&screen)?).into_owned() + "\n" } else { printed(&screen) };
        match io::stdout().write_all(text.as_bytes()) {
            // The reader has closed its end of the pipe.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            written => written.map_err(TopError::Write),
        }
    }
}

/// The text of one reading. Only on a terminal it has a width and colours.
fn printed(screen: &Screen) -> String {
    let is_terminal = io::stdout().is_terminal();
    let width = terminal::size().filter(|_| is_terminal).map_or(usize::MAX, |(width, _)| width);
    let page = Page { width, height: None, sort: SortKey::Name, is_paused: false };
    let colours = is_terminal && has_colours();
    render::lines(screen, &page).iter().map(|line| line.styled(colours) + "\n").collect()
}

/// Whether the environment allows colours.
fn has_colours() -> bool {
    std::env::var_os("NO_COLOR").is_none()
}

fn interval(text: &str) -> Result<Duration, String> {
    values::duration(text, &INTERVALS, "1s to 1h", "1s or 5s")
}
