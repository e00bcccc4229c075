//! `tickwire watch`: prints the events that a client with this filter gets, live: one table row or one JSON object for
//! each event. Messages about the connection or delivery go to standard error.

use clap::{ArgGroup, Args};
use serde_json::{Map, Value, json};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use tickwire_client::{
    CertificateProblem, Client, ClientConfig, ClientError, Credentials, FilterRequest, Message, Preset, PresetError,
    PresetRequest, Since, SubscribeOptions, TokenProvider,
};
use tickwire_core::event::{Priority, Tier};
use tickwire_core::ids::{Confidence, UserId};

use crate::values;
use tickwire_command::args::unused_authorities;
use tickwire_command::{standard_error, stop};
use tickwire_node::secrets::read_secret;
use tokio::task::spawn_blocking;

mod backfill;
mod table;

/// The environment variable with the token, if no flag names the user.
const TOKEN_VARIABLE: &str = "TICKWIRE_TOKEN";

/// The flags of the subscription that the command makes itself.
const FILTERS: [&str; 10] =
    ["symbols", "patterns", "preset", "kinds", "tiers", "min_confidence", "min_priority", "since", "filter", "alert"];

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("identity").required(std::env::var_os(TOKEN_VARIABLE).is_none()), after_help = "\
Examples:
  tickwire watch --user ann --symbols AAPL,NVDA --min-confidence 0.7
  tickwire watch --user ann --kinds pattern,market --json
  tickwire watch --user ann --symbols AAPL --since 5m
  tickwire watch --user ann --preset swing_trading --symbols AAPL,NVDA --alert
  tickwire watch --user ann --saved
  tickwire watch --url wss://gw.example.com --ca ca.pem --token-file token
  tickwire watch --token \"$(tickwire token --user ann)\" --filter '{\"tags\":[\"high_confidence\"]}'")]
pub(crate) struct WatchArgs {
    /// The gateway
    #[arg(long, default_value = "ws://127.0.0.1:8080/v1/stream", value_parser = values::gateway_url)]
    url: String,
    /// A PEM file with the authorities that may sign the gateway's certificate, for wss:// [default: the system's]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The user name, for a gateway with auth.mode = "dev"
    #[arg(long, value_name = "NAME", value_parser = values::user, group = "identity")]
    user: Option<UserId>,
    /// A token, for any other gateway; other users can see flags, so prefer TICKWIRE_TOKEN
    #[arg(long, group = "identity")]
    token: Option<String>,
    /// A file that holds the token, read again for each connection and when the token expires
    #[arg(long, value_name = "FILE", group = "identity")]
    token_file: Option<PathBuf>,
    /// Only these symbols
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    symbols: Vec<String>,
    /// Only these patterns
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    patterns: Vec<String>,
    /// A filter with a name: daily, high_confidence, specific, intraday_scalping, swing_trading or risk_monitoring;
    /// takes symbols, and specific needs patterns
    #[arg(long, value_name = "NAME", conflicts_with_all = ["kinds", "tiers", "min_confidence", "min_priority", "filter"])]
    preset: Option<Preset>,
    /// Only these kinds [default: pattern]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    kinds: Vec<String>,
    /// Only these tiers: daily, intraday, combo
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    tiers: Vec<Tier>,
    /// Only from this confidence on, 0 to 1
    #[arg(long, value_name = "X", value_parser = values::confidence, allow_negative_numbers = true)]
    min_confidence: Option<Confidence>,
    /// Only from this priority on: low, medium, high, critical
    #[arg(long, value_name = "P")]
    min_priority: Option<Priority>,
    /// First print the stored events from here on, by time: a length of time like 90s, 5m, 1h or 1d, a day, a time, or a
    /// position
    #[arg(long, value_name = "WHEN", value_parser = values::since, allow_hyphen_values = true)]
    since: Option<Since>,
    /// A whole filter as JSON; the other flags win over its fields
    #[arg(long, value_name = "JSON", value_parser = values::object)]
    filter: Option<Map<String, Value>>,
    /// Get the events as alerts: confidence raises their priority
    #[arg(long)]
    alert: bool,
    /// The events of the saved subscriptions of the user, in place of a filter
    #[arg(long, conflicts_with_all = FILTERS)]
    saved: bool,
    /// Print the events as JSON, one object a line
    #[arg(long)]
    json: bool,
}

/// Why the command ended with an error.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WatchError {
    #[error(transparent)]
    Client(ClientError),
    #[error("--url: {0}")]
    Url(String),
    #[error("--ca: {0}")]
    Authorities(String),
    #[error("{0}; `--ca FILE` names it")]
    Untrusted(ClientError),
    #[error("{0}; is a gateway running there? `tickwire dev` starts a cluster")]
    Unreachable(ClientError),
    #[error("--{0}")]
    Preset(#[from] PresetError),
    #[error("cannot listen for signals: {0}")]
    Signals(io::Error),
    #[error("cannot write to standard output: {0}")]
    Write(io::Error),
    #[error("the connection has ended: {0}")]
    Ended(String),
}

impl From<ClientError> for WatchError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::BadConfig { field: "urls", problem } => Self::Url(problem),
            ClientError::BadConfig { field: "tls_ca", problem } => Self::Authorities(problem),
            ClientError::Certificate { problem: CertificateProblem::Untrusted, .. } => Self::Untrusted(error),
            ClientError::Unreachable { .. } => Self::Unreachable(error),
            _ => Self::Client(error),
        }
    }
}

impl WatchArgs {
    /// Prints messages until a signal stops it.
    pub(crate) async fn run(self) -> Result<(), WatchError> {
        if let Some(problem) = unused_authorities(self.ca.as_deref(), &[&self.url]) {
            return Err(WatchError::Authorities(problem));
        }
        let filter = self.wanted()?;
        let stop = stop::on_signal().map_err(WatchError::Signals)?;
        let mut config = ClientConfig { saved: self.saved, tls_ca: self.ca, ..ClientConfig::new(self.url) };
        config.credentials = match (self.token, self.token_file, self.user) {
            (Some(token), ..) => Credentials::Token(token),
            (None, Some(file), _) => Credentials::Provider(token_of(file)),
            (None, None, Some(user)) => Credentials::DevUser(user.as_str().to_owned()),
            // Flags win over the environment.
            (None, None, None) => std::env::var(TOKEN_VARIABLE).map_or(Credentials::None, Credentials::Token),
        };
        let Some(connected) = stop.run_until_cancelled(Client::connect(config)).await else { return Ok(()) };
        let (client, mut messages) = connected?;
        let subscribing = client.clone();
        let mut printer = table::Printer::new(self.json, self.since.is_some());
        let options = SubscribeOptions { alert: self.alert, since: self.since, ..SubscribeOptions::default() };
        let is_saved = self.saved;
        let mut subscribed = tokio::spawn(async move {
            match is_saved {
                true => subscribing.list().await,
                false => subscribing.subscribe("watch", filter, options).await,
            }
        });
        let (mut is_connected, mut confirmed) = (false, false);
        let ended = loop {
            let message = tokio::select! {
                () = stop.cancelled() => break Ok(()),
                // The first message is that of the connection, which is told before the subscription on it.
                answer = &mut subscribed, if is_connected && !confirmed => {
                    if let Ok(answer) = answer {
                        let is_empty = answer?.subscriptions.is_empty();
                        standard_error::line(if is_empty { "nothing is saved yet" } else { "subscribed" });
                    }
                    confirmed = true;
                    continue;
                }
                message = messages.recv() => message,
            };
            is_connected = true;
            match message {
                None => break Ok(()),
                Some(Message::Disconnected { reason, retry_in: None, .. }) => break Err(WatchError::Ended(reason)),
                Some(Message::SubscriptionLost { error, .. }) => break Err(WatchError::Ended(error.msg)),
                Some(message) => {
                    if let Err(error) = printer.print(&message) {
                        break Err(WatchError::Write(error));
                    }
                }
            }
        };
        // A backfill that has not ended is printed as far as it came.
        let released = printer.release().map_err(WatchError::Write);
        match ended.and(released) {
            // The reader has closed its end of the pipe.
            Err(WatchError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => {}
            ended => ended?,
        }
        client.close().await;
        Ok(())
    }

    /// The events that the flags ask for.
    fn wanted(&self) -> Result<FilterRequest, PresetError> {
        let Some(preset) = self.preset else { return Ok(self.filter().into()) };
        let [symbols, patterns] = [&self.symbols, &self.patterns].map(|values| list(values));
        PresetRequest::new(preset, symbols.as_ref(), patterns.as_ref()).map(FilterRequest::from)
    }

    /// Builds the filter from the flags.
    fn filter(&self) -> Value {
        let tiers: Vec<_> = self.tiers.iter().map(|tier| tier.as_str()).collect();
        let flags = [
            ("kinds", list(&self.kinds)),
            ("symbols", list(&self.symbols)),
            ("patterns", list(&self.patterns)),
            ("tiers", (!tiers.is_empty()).then(|| json!(tiers))),
            ("min_confidence", self.min_confidence.map(|least| json!(least.get()))),
            ("min_priority", self.min_priority.map(|least| json!(least.as_str()))),
        ];
        let mut filter = self.filter.clone().unwrap_or_default();
        filter.extend(flags.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        Value::Object(filter)
    }
}

/// The values of a flag as a list of a frame; `None` if the flag is not used.
fn list(values: &[String]) -> Option<Value> {
    // Users write a space behind a comma.
    let trimmed = values.iter().map(|value| value.trim()).collect::<Vec<_>>();
    (!trimmed.is_empty()).then(|| json!(trimmed))
}

/// Returns a provider that reads the token from a file each time.
fn token_of(file: PathBuf) -> TokenProvider {
    let file = Arc::new(file);
    TokenProvider::new(move || {
        let file = Arc::clone(&file);
        async move {
            let path = Arc::clone(&file);
            let read = spawn_blocking(move || read_secret(&path)).await.map_err(|error| error.to_string())?;
            let token = read.map_err(|error| format!("{}: {error}", file.display()))?;
            Ok::<_, String>(token.expose().trim().to_owned())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn parse(args: &[&str]) -> Result<WatchArgs, clap::Error> {
        let cli = Cli::try_parse_from(["tickwire", "watch"].iter().chain(args))?;
        let Command::Watch(watch) = cli.command else { panic!("not watch") };
        Ok(watch)
    }

    #[test]
    fn flags_build_a_filter_and_override_its_fields() {
        let flags = ["--user", "u", "--symbols", "AAPL, BRK.B", "--tiers", "Daily,combo", "--min-priority", "HIGH"];
        let filter = ["--min-confidence", "0.7", "--filter", r#"{"symbols":["X"],"tags":["t"]}"#];
        let made = parse(&[&flags[..], &filter].concat()).unwrap().filter();
        let wanted = json!({
            "symbols": ["AAPL", "BRK.B"], "tiers": ["daily", "combo"], "min_priority": "high",
            "min_confidence": 0.7, "tags": ["t"],
        });
        assert_eq!(made, wanted);
        assert_eq!(parse(&["--user", "u"]).unwrap().filter(), json!({}));
    }

    #[test]
    fn preset_takes_symbols_and_only_specific_takes_patterns() {
        let wanted = |flags: &[&str]| parse(&[&["--user", "u"][..], flags].concat()).unwrap().wanted();
        let request = PresetRequest::new(Preset::SwingTrading, Some(&json!(["AAPL", "BRK.B"])), None).unwrap();
        assert_eq!(wanted(&["--preset", "swing_trading", "--symbols", "AAPL, BRK.B"]), Ok(request.into()));
        let request = PresetRequest::new(Preset::Specific, None, Some(&json!(["Doji"]))).unwrap();
        assert_eq!(wanted(&["--preset", "specific", "--patterns", "Doji"]), Ok(request.into()));
        assert_eq!(wanted(&["--preset", "specific"]), Err(PresetError::MissingPatterns));
        let fixed = PresetError::FixedPatterns { preset: Preset::Daily };
        assert_eq!(wanted(&["--preset", "daily", "--patterns", "Doji"]), Err(fixed));
    }

    #[test]
    fn since_takes_every_time_format_of_the_protocol() {
        let since = |text| parse(&["--user", "u", "--since", text]).unwrap().since.unwrap();
        assert_eq!(since("1795444200"), since("2026-11-23T14:30:00Z"));
        assert_eq!(since("1795444200500"), since("2026-11-23T14:30:00.5Z"));
        assert_eq!(since("5m"), since("300s"));
    }

    #[test]
    fn number_that_is_no_usual_time_is_refused_with_how_to_write_what_was_meant() {
        let refused = |text| parse(&["--user", "u", "--since", text]).unwrap_err().to_string();
        for (text, problem) in [
            ("5", "1970-01-01T00:00:05.000Z"),
            ("0.5", "1970-01-01T00:00:00.500Z"),
            ("20261123", "1970-08-23T"),
            ("202611231430", "8390-"),
            ("-5", "no time from then to 9999"),
            ("+5", "no time"),
            ("05", "no time"),
            ("1e999", "no time"),
            ("inf", "no time"),
        ] {
            let refused = refused(text);
            assert!(refused.contains(problem) && refused.contains("such as 90s, 5m"), "{refused}");
        }
        assert!(refused("5min").contains("a duration like 90s, 5m"));
    }

    #[test]
    fn refused_url_names_the_flag_and_what_to_do() {
        for (url, advice) in [("http://h:80", "ws://127.0.0.1:8080/v1/stream"), ("https://h", "wss://")] {
            let refused = parse(&["--user", "u", "--url", url]).unwrap_err();
            assert_eq!(refused.exit_code(), 2);
            let refused = refused.to_string();
            assert!(refused.contains("--url") && refused.contains(advice), "{refused}");
        }
        let bad = ClientError::BadConfig { field: "urls", problem: "\"ws://\" has no host".to_owned() };
        assert_eq!(WatchError::from(bad).to_string(), "--url: \"ws://\" has no host");
    }

    #[test]
    fn certificate_error_names_the_flag_for_the_authority() {
        let (url, problem) = ("wss://h".to_owned(), CertificateProblem::Untrusted);
        let text = WatchError::from(ClientError::Certificate { url, problem }).to_string();
        assert!(text.starts_with("cannot trust wss://h: ") && text.contains("--ca FILE"), "{text}");
        let problem = "ca.pem: no such file".to_owned();
        let text = WatchError::from(ClientError::BadConfig { field: "tls_ca", problem }).to_string();
        assert_eq!(text, "--ca: ca.pem: no such file");
        let secure = parse(&["--user", "u", "--url", "wss://h", "--ca", "ca.pem"]).unwrap();
        assert_eq!((secure.url.as_str(), secure.ca), ("wss://h", Some(PathBuf::from("ca.pem"))));
    }

    #[tokio::test]
    async fn authorities_without_tls_are_refused_before_anything_is_connected() {
        let plain = parse(&["--user", "u", "--url", "ws://127.0.0.1:1", "--ca", "ca.pem"]).unwrap();
        let refused = plain.run().await.unwrap_err();
        assert!(matches!(&refused, WatchError::Authorities(problem) if problem.contains("wss://")), "{refused}");
    }

    #[test]
    fn unreachable_gateway_error_says_how_to_start_one() {
        let error = ClientError::Unreachable { url: "ws://h".to_owned(), problem: "refused".to_owned() };
        let text = WatchError::from(error).to_string();
        assert!(text.starts_with("cannot connect to ws://h: refused; ") && text.contains("`tickwire dev`"), "{text}");
    }

    #[test]
    fn missing_identity_error_lists_all_identity_flags() {
        let error = parse(&[]).unwrap_err().to_string();
        for flag in ["--user", "--token", "--token-file"] {
            assert!(error.contains(flag), "{error}");
        }
    }

    #[test]
    fn wrong_flags_are_refused() {
        for args in [
            &["--user", "u", "--token", "t"][..],
            &["--token", "t", "--token-file", "f"],
            &["--user", ""],
            &["--user", "u", "--tiers", "weekly"],
            &["--user", "u", "--min-confidence", "NaN"],
            &["--user", "u", "--filter", "[]"],
            &["--user", "u", "--since", "5min"],
            &["--user", "u", "--since", "1e999"],
            &["--user", "u", "--url", "http://127.0.0.1:8080"],
            &["--user", "u", "--url", "127.0.0.1:8080"],
            &["--user", "u", "--preset", "weekly"],
            &["--user", "u", "--preset", "daily", "--tiers", "daily"],
            &["--user", "u", "--preset", "daily", "--filter", "{}"],
            &["--user", "u", "--saved", "--symbols", "AAPL"],
            &["--user", "u", "--saved", "--alert"],
        ] {
            assert!(parse(args).is_err(), "{args:?}");
        }
        assert_eq!(parse(&[]).is_err(), std::env::var_os(TOKEN_VARIABLE).is_none(), "the variable has a token");
    }
}
