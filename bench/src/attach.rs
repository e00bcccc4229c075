//! `tickwire bench attach`: load for a cluster that runs already, by its addresses, with an exact ledger for each
//! socket.
//!
//! `feed` publishes numbered events, `listeners` are the sockets, `ledger` is what each of them has had, and `figures`
//! is the result. Several processes can share one feed: one of them publishes, and the last event of each symbol says
//! to the others what must have come.

mod feed;
mod figures;
mod ledger;
mod listeners;

use clap::Args;
use serde_json::json;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tickwire_client::{ClientConfig, Credentials, Network};
use tickwire_core::protocol::SubscriptionRequest;
use tickwire_node::clock::wall_clock;
use tickwire_node::config::{Config, ConfigError, Secret};
use tickwire_node::nats::NatsError;
use tickwire_node::secrets::{SecretFileError, read_secret};
use tokio::task::JoinError;
use tokio::time::sleep;

use crate::rate;
use crate::server::{BenchServerError, raise_descriptor_limit};
use feed::RunSymbols;
use figures::AttachFigures;
use listeners::{AttachedSockets, SocketPlan};
use tickwire_command::args::{NatsArgs, unused_authorities};
use tickwire_command::progress::{Progress, REDRAW_INTERVAL};
use tickwire_command::publisher::PublishError;
use tickwire_command::signing::{TokenClaims, sign};

/// How long a confirmation may take: many sockets subscribe at the same time.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a token is valid after the run should have ended.
const TOKEN_SPARE: Duration = Duration::from_secs(3600);

/// The longest name of a run, in bytes.
const LONGEST_RUN: usize = 16;

/// The flags of `tickwire bench attach`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tickwire bench attach --url wss://gw.example.com --ca ca.pem --nats nats://nats-1:4222 \\
    --sockets 17000 --rate 500
  tickwire bench attach --run LOAD7 --no-publish --url ws://gw-1:8080 --url ws://gw-2:8080 --seconds 60
  tickwire bench attach --run LOAD7 --publish-only --start-after 30 --seconds 60

Exit codes: 0 every socket has had exactly its events, 1 it has not, or the run failed.")]
pub(crate) struct AttachArgs {
    /// A gateway or a load balancer, ws:// or wss://; may be repeated, and sockets use them in turn
    #[arg(long = "url", value_name = "URL", required_unless_present = "publish_only")]
    urls: Vec<String>,
    /// A PEM file with the authorities that may sign the certificate, for wss:// [default: the system's]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// How many sockets, each of a user of its own
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    sockets: u32,
    /// Events a second
    #[arg(long, value_name = "N", default_value_t = 200.0, value_parser = rate)]
    rate: f64,
    /// For how long events are published
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=604_800))]
    seconds: u32,
    /// How many symbols the events are about, in turn
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    symbols: u32,
    /// To how many of the symbols each socket subscribes
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    symbols_each: u32,
    /// The window of the subscriptions, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 100, value_parser = clap::value_parser!(u16).range(0..=1000))]
    window: u16,
    /// Ask for the home gateway of each user at each connect, and connect there: for clusters with
    /// `gateway.connect_url`
    #[arg(long)]
    home: bool,
    /// The name of the run, with which its symbols begin; processes that share a feed have the same, and the same
    /// --symbols [default: drawn at random]
    #[arg(long, value_name = "NAME", value_parser = run_name)]
    run: Option<String>,
    /// Only publish, for other processes
    #[arg(long, requires = "run", conflicts_with_all = ["no_publish", "urls", "sockets"])]
    publish_only: bool,
    /// Only listen: another process publishes
    #[arg(long, requires = "run")]
    no_publish: bool,
    /// How long to wait, in seconds, before events are published: until the sockets of other processes are ready
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=86_400))]
    start_after: u32,
    /// How long to wait, in seconds, for what is still missing after events should have ended
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(0..=86_400))]
    settle: u32,
    /// A file with the secret of the gateways, to sign a token for each user [default: users without proof, for
    /// auth.mode = "dev"]
    #[arg(long, value_name = "FILE")]
    jwt_secret_file: Option<PathBuf>,
    /// Print the result as one line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    nats: NatsArgs,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttachError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Nats(#[from] NatsError),
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error(transparent)]
    Descriptors(#[from] BenchServerError),
    #[error("--jwt-secret-file {}: {error}", file.display())]
    SecretFile { file: PathBuf, error: SecretFileError },
    #[error("a token cannot be signed: {0}")]
    Sign(String),
    #[error("{symbols_each} symbols each are more than the {symbols} there are; raise --symbols")]
    TooFewSymbols { symbols: u32, symbols_each: u32 },
    #[error("--ca: {0}")]
    UnusedAuthorities(String),
    #[error("a socket cannot connect: {0}")]
    Refused(String),
    #[error("{ready} of {wanted} sockets were ready, and then none for {within:?}")]
    Stuck { ready: u64, wanted: u64, within: Duration },
    #[error("latencies cannot be recorded: {0}")]
    Histogram(String),
    #[error("a socket has panicked: {0}")]
    Panicked(#[from] JoinError),
    #[error("the result cannot be written: {0}")]
    Write(io::Error),
}

impl AttachArgs {
    /// Runs the load and prints the result. The exit code shows whether every ledger is exact.
    pub(crate) async fn run(&self) -> Result<ExitCode, AttachError> {
        let &Self { symbols, symbols_each, .. } = self;
        if symbols_each > symbols {
            return Err(AttachError::TooFewSymbols { symbols, symbols_each });
        }
        // A home gateway may be with TLS although the one that names it is not.
        if !self.home
            && let Some(problem) = unused_authorities(self.ca.as_deref(), &self.urls)
        {
            return Err(AttachError::UnusedAuthorities(problem));
        }
        let config = self.nats.load()?;
        let wanted = if self.publish_only { 0 } else { self.sockets };
        raise_descriptor_limit(wanted)?;
        let process: u32 = rand::random();
        let run = self.run.clone().unwrap_or_else(|| format!("B{process:08X}"));
        let symbols = RunSymbols { run, count: symbols };
        let secret = self.secret()?;
        let network = Arc::new(Network::new(self.ca.clone()));
        let plan = |number| self.plan(number, process, &symbols, (&config, secret.as_ref()));
        let sockets = AttachedSockets::open(&network, &symbols, wanted, plan)?;
        let progress = Progress::endless();
        sockets.ready(|ready| progress.show(format!("{ready} of {wanted} sockets ready"))).await?;
        if wanted > 0 {
            progress.warn(&format!("{wanted} sockets are ready"));
        }
        let start_after = Duration::from_secs(self.start_after.into());
        let length = Duration::from_secs(self.seconds.into());
        let deadline = Instant::now() + start_after + length + Duration::from_secs(self.settle.into());
        let events = async {
            if self.no_publish {
                return Ok(0);
            }
            sleep(start_after).await;
            feed::publish(&config, &symbols, self.rate, length).await
        };
        let load = async {
            let published = events.await?;
            sockets.complete(deadline).await;
            Ok::<u64, AttachError>(published)
        };
        let show = async {
            loop {
                progress.show(format!("{} deliveries", sockets.deliveries()));
                sleep(REDRAW_INTERVAL).await;
            }
        };
        let published = tokio::select! {
            published = load => published?,
            () = show => 0,
        };
        drop(progress);
        let harvest = sockets.close().await?;
        let figures = AttachFigures::new(symbols.run, wanted, symbols.count, published, harvest);
        let text = if self.json {
            serde_json::to_string(&figures).map(|json| json + "\n").map_err(|error| AttachError::Write(error.into()))?
        } else {
            figures.table()
        };
        io::stdout().write_all(text.as_bytes()).map_err(AttachError::Write)?;
        Ok(if figures.exact { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn secret(&self) -> Result<Option<Secret>, AttachError> {
        let Some(file) = &self.jwt_secret_file else { return Ok(None) };
        let secret = read_secret(file).map_err(|error| AttachError::SecretFile { file: file.clone(), error })?;
        Ok(Some(secret))
    }

    /// Socket `number` of this process.
    fn plan(
        &self,
        number: u32,
        process: u32,
        symbols: &RunSymbols,
        (config, secret): (&Config, Option<&Secret>),
    ) -> Result<SocketPlan, AttachError> {
        let user = format!("{}-{process:08x}-{number}", symbols.run);
        let credentials = match secret {
            Some(secret) => Credentials::Token(self.token(&user, config, secret)?),
            None => Credentials::DevUser(user),
        };
        let mut urls = self.urls.clone();
        let first = number as usize % urls.len().max(1);
        urls.rotate_left(first);
        let first = u64::from(number) * u64::from(self.symbols_each);
        let wanted = (first..first + u64::from(self.symbols_each)).map(|at| (at % u64::from(symbols.count)) as u32);
        let wanted: Vec<u32> = wanted.collect();
        let names: Vec<String> = wanted.iter().map(|symbol| symbols.name(*symbol)).collect();
        Ok(SocketPlan {
            config: ClientConfig {
                urls,
                credentials,
                saved: false,
                ask_home: self.home,
                request_timeout: REQUEST_TIMEOUT,
                ..ClientConfig::default()
            },
            wanted: SubscriptionRequest {
                filter: json!({ "symbols": names }).into(),
                window_ms: Some(self.window),
                max_events_per_hour: None,
                alert: false,
            },
            symbols: wanted,
        })
    }

    fn token(&self, user: &str, config: &Config, secret: &Secret) -> Result<String, AttachError> {
        let iat = wall_clock().as_secs();
        let run = u64::from(self.start_after) + u64::from(self.seconds) + u64::from(self.settle);
        let claims = TokenClaims {
            sub: user,
            plan: None,
            weight: None,
            role: None,
            aud: config.auth.audience.first().map(String::as_str),
            iss: config.auth.issuer.first().map(String::as_str),
            iat,
            exp: iat + run + TOKEN_SPARE.as_secs(),
        };
        sign(secret, &claims).map_err(|error| AttachError::Sign(error.to_string()))
    }
}

/// The name of a run becomes a part of symbols.
fn run_name(text: &str) -> Result<String, String> {
    let is_name = !text.is_empty()
        && text.len() <= LONGEST_RUN
        && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    if is_name {
        Ok(text.to_owned())
    } else {
        Err(format!("must be 1 to {LONGEST_RUN} upper-case letters and digits, such as LOAD7"))
    }
}
