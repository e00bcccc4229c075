//! `tickwire bench`: a load generator that measures what the gateway costs and how fast it is, against what a bare
//! server costs on the same machine.
//!
//! The steps of a run, in order: `scenario`, `draw` and `schedule` define the load, `server` starts the process that is
//! measured (`bare` is the yardstick), `reference` loads reference data, `sockets` connects and counts (`client`,
//! `reader`), `injector` sends the events, `oracle` computes which events are expected, `measure` and `figures` compute
//! the figures, `report` prints them.
//! `run` calls them. `failover` and `scaling` are separate benches: `failover` kills nodes, and `scaling` counts
//! messages. `attach` is a load for a cluster that runs already.

mod attach;
mod bare;
mod client;
mod cores;
mod draw;
mod failover;
mod figures;
mod injector;
mod measure;
mod oracle;
mod reader;
mod reference;
mod report;
mod run;
mod scaling;
mod scenario;
mod schedule;
mod screen;
mod server;
mod sockets;
mod through;

use clap::builder::PossibleValue;
use clap::{Args, Subcommand, ValueEnum};
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use attach::{AttachArgs, AttachError};
use cores::Cores;
use draw::SymbolsBy;
use failover::{Failover, FailoverError};
use report::{BenchReport, Machine};
use run::{BenchRun, BenchRunError};
use scaling::{Scaling, ScalingError};
use scenario::{Numbers, Placing, Plan, Scenario};
use screen::Screen;
use server::BenchServerError;
use through::Through;
use tickwire_command::{standard_error, stop};

pub use bare::BareArgs;

/// How many times a pair is run by default. A single measurement is run once.
const PAIRS: u8 = 3;

/// How many gateways exchange messages with routers by default.
const SCALED_GATEWAYS: u32 = 4;

/// The flags of `tickwire bench`.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "\
Examples:
  tickwire bench selective                           5,000 sockets, 100,000 deliveries a second
  tickwire bench selective --window 0 --against bare
  tickwire bench broadcast --rate 1000 --against bare --against-rate 100
  tickwire bench selective --through cluster --sockets 1000 --window 0 --json
  tickwire bench selective --through cluster --sockets 1000 --gateways 4 \\
    --symbols-by uniform --enrich false
  tickwire bench failover                            2,000 clients, 200 events a second
  tickwire bench scaling --gateways 4 --routers 4    messages over NATS, measured and counted
  tickwire bench attach --url ws://gw-1:8080 --nats nats://nats-1:4222   a cluster that runs

Exit codes: 0 done, 1 failed or something was lost or dropped, so that the figures do not count."
)]
pub struct BenchArgs {
    /// The load, or what else is measured
    #[arg(value_enum, required = true)]
    scenario: Option<Subject>,
    /// What is measured
    #[arg(long, value_enum, default_value = "gateway")]
    through: Through,
    /// Run the bare server and what is measured in turn, and print the ratio of their CPU per delivery
    #[arg(long, value_parser = against)]
    against: Option<Through>,
    /// How many sockets [default: the scenario's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    sockets: Option<u32>,
    /// Events a second [default: the scenario's]
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    /// Events a second for the bare server beside it [default: the same]
    #[arg(long, value_name = "N", value_parser = rate, requires = "against")]
    against_rate: Option<f64>,
    /// How long to measure, after two seconds to warm up [default: the scenario's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: Option<u32>,
    /// The window of the subscriptions, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 100, value_parser = clap::value_parser!(u16).range(0..=1000))]
    window: u16,
    /// The interval at which events are due together, as a router sends them; through a cluster each is due on its own
    #[arg(long, value_name = "MS", default_value_t = 2, value_parser = clap::value_parser!(u16).range(0..=100))]
    batch: u16,
    /// How many gateways share the sockets evenly; more than one only through a cluster [default: 1, or 4 for scaling]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=8))]
    gateways: Option<u32>,
    /// How many routers there are, for scaling
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=8))]
    routers: u32,
    /// Which sockets are at the same gateway
    #[arg(long, value_enum, default_value = "spread")]
    placing: Placing,
    /// How often events have each symbol [default: zipf through a cluster, else uniform]
    #[arg(long, value_enum)]
    symbols_by: Option<SymbolsBy>,
    /// Whether routers have reference data of all symbols, so that events have more context; only through a cluster
    /// [default: true through a cluster]
    #[arg(long, value_name = "BOOL")]
    enrich: Option<bool>,
    /// How many times to run it, or the pair of it [default: 1, or 3 pairs]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=50))]
    pairs: Option<u8>,
    /// Set one key of the gateway's configuration; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Print every figure of every run as JSON
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    other: Option<OtherBench>,
}

/// What is no load of a process that the bench starts.
#[derive(Debug, Subcommand)]
enum OtherBench {
    /// Load a cluster that runs already, and check that every socket gets exactly its events
    Attach(Box<AttachArgs>),
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct BenchError(#[from] BenchFailure);

#[derive(Debug, thiserror::Error)]
enum BenchFailure {
    #[error(
        "{}: the bare server has neither subscriptions that come and go nor an outbox for slow readers; \
         use --through gateway",
        scenario.name()
    )]
    NotBare { scenario: Scenario },
    #[error("idle has no events, so there is no CPU per delivery to compare; leave --against out")]
    NothingToCompare,
    #[error("--through bare cannot be run against itself; leave --against out")]
    Itself,
    #[error("only a router that reads the stream gives events their context; use --through cluster")]
    NotEnriched,
    #[error("{gateways} gateways need a router that knows what each wants; use --through cluster")]
    OneGateway { gateways: u32 },
    #[error(transparent)]
    Server(#[from] BenchServerError),
    #[error("run {number} ({}): {source}", through.name())]
    Run { number: usize, through: Through, source: BenchRunError },
    #[error("the processors cannot be distinguished: {0}")]
    Cores(io::Error),
    #[error("cannot listen for signals: {0}")]
    Signals(io::Error),
    #[error("failover: {0}")]
    Failover(#[from] FailoverError),
    #[error("scaling: {0}")]
    Scaling(#[from] ScalingError),
    #[error("attach: {0}")]
    Attach(#[from] AttachError),
    #[error("name a load, such as `selective`, or `attach`")]
    NoScenario,
    #[error("stopped by a signal")]
    Stopped,
    #[error("the report cannot be written: {0}")]
    Report(io::Error),
}

impl BenchArgs {
    /// Runs the bench and prints its report. The exit code shows whether its figures count.
    ///
    /// # Errors
    /// When the flags do not fit together, or something that is measured cannot run.
    pub async fn run(&self) -> Result<ExitCode, BenchError> {
        Ok(self.measure().await?)
    }

    async fn measure(&self) -> Result<ExitCode, BenchFailure> {
        let stop = stop::on_signal().map_err(BenchFailure::Signals)?;
        if let Some(OtherBench::Attach(attach)) = &self.other {
            return tokio::select! {
                done = attach.run() => Ok(done?),
                () = stop.cancelled() => Err(BenchFailure::Stopped),
            };
        }
        let cores = Cores::split().map_err(BenchFailure::Cores)?;
        cores.settle().map_err(BenchFailure::Cores)?;
        let scenario = match self.scenario.ok_or(BenchFailure::NoScenario)? {
            Subject::Load(scenario) => scenario,
            other => {
                return tokio::select! {
                    done = self.run_other(other, &cores) => done,
                    () = stop.cancelled() => Err(BenchFailure::Stopped),
                };
            }
        };
        self.check(scenario)?;
        let plan = Arc::new(self.plan(scenario, self.through, self.rate));
        server::raise_descriptor_limit(plan.sockets + 10 * plan.churn())?;
        let beside = Arc::new(self.plan(scenario, Through::Bare, self.against_rate.or(self.rate)));
        let mut order = Vec::new();
        for _ in 0..self.pairs.unwrap_or(if self.against.is_some() { PAIRS } else { 1 }) {
            order.extend(self.against.map(|through| (through, &beside)));
            order.push((self.through, &plan));
        }

        let (mut runs, total) = (Vec::new(), order.len());
        for (number, (through, plan)) in (1..).zip(order) {
            let screen = Screen::new(number, total, through, plan);
            let plan = Arc::clone(plan);
            let run =
                BenchRun { through, plan, number: number as u8, cores: &cores, sets: &self.sets, screen: &screen };
            let figures = tokio::select! {
                figures = run.run() => figures,
                () = stop.cancelled() => return Err(BenchFailure::Stopped),
            };
            runs.push(figures.map_err(|source| BenchFailure::Run { number, through, source })?);
        }
        let machine = Machine::here(cores.count(), cores.are_apart());
        let report = BenchReport::new(&plan, self.through, self.against.is_some(), machine, runs);
        let text = if self.json { report.json().map_err(io::Error::from) } else { Ok(report.table()) };
        let written = text.and_then(|text| io::stdout().write_all(text.as_bytes()));
        written.map_err(BenchFailure::Report)?;
        for fault in report.faults.iter().filter(|_| self.json) {
            standard_error::line(&format!("tickwire: this does not count: {fault}"));
        }
        Ok(if report.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Runs a bench that is not a load. The exit code shows whether its figures count.
    async fn run_other(&self, subject: Subject, cores: &Cores) -> Result<ExitCode, BenchFailure> {
        let machine = Machine::here(cores.count(), cores.are_apart());
        let (json, table, counts) = if subject == Subject::Scaling {
            let gateways = self.gateways.unwrap_or(SCALED_GATEWAYS);
            let &Self { routers, rate, seconds, ref sets, .. } = self;
            let figures = Scaling { gateways, routers, rate, seconds, cores, sets }.run().await?;
            (serde_json::to_string_pretty(&figures), figures.table(&machine), true)
        } else {
            let failover = Failover { clients: self.sockets, rate: self.rate, cores, sets: &self.sets };
            let figures = failover.run().await?;
            (serde_json::to_string_pretty(&figures), figures.table(&machine), figures.is_whole())
        };
        let text = if self.json { json.map(|json| json + "\n").map_err(io::Error::from) } else { Ok(table) };
        let written = text.and_then(|text| io::stdout().write_all(text.as_bytes()));
        written.map_err(BenchFailure::Report)?;
        Ok(if counts { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Refuses options that contradict each other.
    fn check(&self, scenario: Scenario) -> Result<(), BenchFailure> {
        let with_bare = self.through == Through::Bare || self.against.is_some();
        if with_bare && matches!(scenario, Scenario::Slow | Scenario::Churn) {
            return Err(BenchFailure::NotBare { scenario });
        }
        if let Some(gateways) = self.gateways.filter(|gateways| *gateways > 1)
            && self.through != Through::Cluster
        {
            return Err(BenchFailure::OneGateway { gateways });
        }
        if self.enrich == Some(true) && self.through != Through::Cluster {
            return Err(BenchFailure::NotEnriched);
        }
        match self.against {
            Some(_) if scenario == Scenario::Idle => Err(BenchFailure::NothingToCompare),
            Some(against) if against == self.through => Err(BenchFailure::Itself),
            _ => Ok(()),
        }
    }

    fn plan(&self, scenario: Scenario, through: Through, rate: Option<f64>) -> Plan {
        // A router gathers batches by itself.
        let batch = if through == Through::Cluster { 0 } else { self.batch };
        // A run beside another one has the same events.
        let is_cluster = self.through == Through::Cluster;
        let symbols_by = if is_cluster { SymbolsBy::Zipf } else { SymbolsBy::Uniform };
        let numbers = Numbers {
            sockets: self.sockets,
            rate,
            seconds: self.seconds,
            window_ms: self.window,
            batch: Duration::from_millis(batch.into()),
            gateways: self.gateways.unwrap_or(1),
            placing: self.placing,
            symbols_by: self.symbols_by.unwrap_or(symbols_by),
            enrich: self.enrich.unwrap_or(is_cluster),
        };
        Plan::new(scenario, numbers)
    }
}

/// What a bench is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    Load(Scenario),
    Failover,
    Scaling,
}

impl ValueEnum for Subject {
    fn value_variants<'a>() -> &'a [Self] {
        use Scenario::{Broadcast, Burst, Churn, Idle, Selective, Slow};
        const ALL: [Subject; 8] = [
            Subject::Load(Idle),
            Subject::Load(Broadcast),
            Subject::Load(Selective),
            Subject::Load(Burst),
            Subject::Load(Slow),
            Subject::Load(Churn),
            Subject::Failover,
            Subject::Scaling,
        ];
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Self::Load(scenario) => scenario.to_possible_value(),
            Self::Failover => {
                Some(PossibleValue::new("failover").help("Nodes die while clients listen: how long, and what is lost"))
            }
            Self::Scaling => Some(
                PossibleValue::new("scaling")
                    .help("How many messages gateways and routers exchange, measured and counted"),
            ),
        }
    }
}

fn against(text: &str) -> Result<Through, String> {
    if text == "bare" { Ok(Through::Bare) } else { Err("only `bare` can be compared with".to_owned()) }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (0.1..=1e6).contains(rate));
    rate.ok_or_else(|| "must be 0.1 to 1000000 events a second".to_owned())
}
