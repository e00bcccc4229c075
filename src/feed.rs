//! `tickwire feed`: walks real prices in time order at a given number of bars a second, and publishes the events that
//! the detectors find, over and over. `tickwire dev` runs the same inside its own process.

use clap::Args;
use serde_json::json;
use std::io;
use std::num::NonZeroU32;
use std::time::Duration;
use tickwire_feed::{BarTime, BarsError, FeedEvent, File, Tape};
use tickwire_node::clock::wall_clock;
use tickwire_node::config::ConfigError;
use tickwire_node::nats::{Nats, NatsError};
use tokio::time::{Instant, Interval, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use tickwire_command::args::NatsArgs;
use tickwire_command::progress::{Meter, Progress, REDRAW_INTERVAL};
use tickwire_command::publisher::{NewEvent, PublishDone, PublishError, Publisher};
use tickwire_command::stop;

/// How many events may wait for the acknowledgement of the stream.
const WINDOW: usize = 256;

/// How far the walk may fall behind its schedule and still make up for it.
const MOST_BEHIND: Duration = Duration::from_secs(1);

/// How long all events that wait may go without an acknowledgement before the progress says where to look.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the last events may take to be acknowledged after a stop.
const LAST_ACKS: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tickwire feed                                    20 bars a second, until Ctrl-C
  tickwire feed --speed 500 --files intraday --loops 1
  tickwire feed --nats nats://nats-1:4222")]
pub(crate) struct FeedArgs {
    #[command(flatten)]
    pub(crate) pace: FeedPace,
    /// End after this number of walks over the prices [default: never]
    #[arg(long, value_name = "N")]
    loops: Option<NonZeroU32>,
    #[command(flatten)]
    pub(crate) nats: NatsArgs,
}

/// The speed, and the prices.
#[derive(Debug, Clone, Args)]
pub(crate) struct FeedPace {
    /// Bars a second
    #[arg(long, value_name = "N", default_value_t = 20.0, value_parser = speed)]
    speed: f64,
    /// Which prices: daily, intraday or both
    #[arg(long, value_name = "FILES", value_delimiter = ',', default_value = "daily,intraday")]
    files: Vec<File>,
}

fn speed(text: &str) -> Result<f64, String> {
    let speed = text.parse().ok().filter(|speed| (0.01..=1e6).contains(speed));
    speed.ok_or_else(|| "must be 0.01 to 1000000 bars a second".to_owned())
}

/// Why the feed ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FeedError {
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Nats(#[from] NatsError),
    #[error("cannot listen for signals: {0}")]
    Signals(#[from] io::Error),
    #[error(transparent)]
    Bars(#[from] BarsError),
    #[error(transparent)]
    Publish(#[from] PublishError),
}

impl FeedArgs {
    /// Publishes until a signal stops it or all walks are done. Returns the text to print.
    pub(crate) async fn run(&self) -> Result<String, FeedError> {
        let config = self.nats.load()?;
        let stop = stop::on_signal()?;
        let connecting = Nats::connect(&config.nats, "feed", "cli");
        let Some(nats) = stop.run_until_cancelled(connecting).await.transpose()? else {
            return Ok("0 events stored\n".to_owned());
        };
        let loops = self.loops.map(NonZeroU32::get);
        let events = feed(&nats, &self.pace, loops, &stop, &Progress::endless()).await?;
        nats.close().await?;
        Ok(format!("{events} events stored\n"))
    }
}

/// Publishes until `stop` is cancelled or `loops` walks are done. Returns the number of stored events.
pub(crate) async fn feed(
    nats: &Nats,
    pace: &FeedPace,
    loops: Option<u32>,
    stop: &CancellationToken,
    progress: &Progress,
) -> Result<u64, FeedError> {
    let tape = Tape::embedded(&pace.files)?;
    let mut walk = FeedWalk {
        run: format!("{:08x}", rand::random::<u32>()),
        number: 0,
        at: None,
        publisher: Publisher::new(nats, WINDOW, None),
        waiting_since: None,
        stored: Meter::new(),
        redraw: interval(REDRAW_INTERVAL),
        progress,
        stop,
    };
    let mut due = Instant::now();
    let mut continues = true;
    while continues && loops.is_none_or(|loops| walk.number < loops) {
        walk.number += 1;
        for step in tape.feed() {
            due = due.max(Instant::now() - MOST_BEHIND) + Duration::from_secs_f64(step.bars as f64 / pace.speed);
            walk.at = Some(step.bar_time);
            continues = walk.wait(due).await?;
            for event in step.events {
                continues = continues && walk.wait(due).await?;
                if continues {
                    walk.publish(event).await?;
                }
            }
            if !continues {
                break;
            }
        }
    }
    walk.finish().await
}

/// The state of a feed.
struct FeedWalk<'a> {
    /// A prefix of message ids that differs between runs.
    run: String,
    /// The number of the walk over the prices, from 1.
    number: u32,
    /// The current bar.
    at: Option<BarTime>,
    publisher: Publisher<()>,
    /// If events wait: when one was acknowledged last, or the first of them was sent.
    waiting_since: Option<Instant>,
    stored: Meter,
    redraw: Interval,
    progress: &'a Progress,
    stop: &'a CancellationToken,
}

impl FeedWalk<'_> {
    /// Waits until `due`, and until there is room for another event. Returns false after a stop.
    async fn wait(&mut self, due: Instant) -> Result<bool, FeedError> {
        loop {
            let done = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(false),
                _ = self.redraw.tick() => None,
                Some(done) = self.publisher.done() => Some(done),
                () = sleep_until(due), if !self.publisher.is_full() => return Ok(true),
            };
            match done {
                Some(done) => self.count(done)?,
                None => self.show(),
            }
        }
    }

    async fn publish(&mut self, event: FeedEvent) -> Result<(), FeedError> {
        let msg_id = format!("{}-{}:{}", self.run, self.number, event.id);
        let mut payload = event.payload;
        payload.insert("timestamp".to_owned(), json!(wall_clock().as_millis() as f64 / 1000.0));
        let payload = serde_json::Value::Object(payload).to_string().into_bytes();
        let outgoing = NewEvent::new(event.kind.as_str(), &event.key, msg_id, payload);
        if let Some(done) = self.publisher.send((), outgoing).await {
            self.count(done)?;
        }
        self.waiting_since.get_or_insert_with(Instant::now);
        Ok(())
    }

    fn count(&mut self, ((), done): PublishDone<()>) -> Result<(), FeedError> {
        done?;
        self.stored.count += 1;
        self.waiting_since = (!self.publisher.is_empty()).then(Instant::now);
        Ok(())
    }

    fn show(&mut self) {
        let rate = self.stored.rate();
        let at = self.at.map(|at| format!(", at {at}")).unwrap_or_default();
        let late = match self.waiting_since.map(|since| since.elapsed()) {
            Some(waited) if waited >= PATIENCE => ", waiting for the stream: `tickwire doctor` says why",
            Some(_) if self.publisher.is_full() => ", waiting for the stream",
            _ => "",
        };
        let line = format!("{} events stored, {rate:.1}/s, loop {}{at}{late}", self.stored.count, self.number);
        self.progress.show(line);
    }

    /// Waits for the outstanding acknowledgements, after a stop only for a short time.
    async fn finish(mut self) -> Result<u64, FeedError> {
        let stop = self.stop;
        let all = async {
            while let Some(done) = self.publisher.done().await {
                self.count(done)?;
            }
            Ok::<(), FeedError>(())
        };
        let hurried = async {
            stop.cancelled().await;
            tokio::time::sleep(LAST_ACKS).await;
        };
        tokio::select! {
            ended = all => ended?,
            () = hurried => {}
        }
        Ok(self.stored.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use async_nats::jetstream::stream::{Config, Stream};
    use clap::Parser;
    use tickwire_node::names;
    use tickwire_testkit::{NatsServer, eventually};

    fn parse(args: &[&str]) -> Result<FeedArgs, clap::Error> {
        let cli = Cli::try_parse_from(["tickwire", "feed"].iter().chain(args))?;
        let Command::Feed(feed) = cli.command else { panic!("not a feed") };
        Ok(feed)
    }

    async fn events(server: &NatsServer) -> Stream {
        let client = async_nats::connect(server.url()).await.unwrap();
        let subjects = vec![names::SOURCE_ALL.to_owned()];
        let config = Config { name: "EVENTS".to_owned(), subjects, ..Config::default() };
        async_nats::jetstream::new(client).create_stream(config).await.unwrap()
    }

    #[test]
    fn wrong_flags_are_refused() {
        for args in [["--speed", "0"], ["--speed", "NaN"], ["--files", "weekly"], ["--loops", "0"]] {
            assert!(parse(&args).is_err(), "{args:?}");
        }
    }

    #[tokio::test]
    async fn every_walk_stores_all_events_once_in_order() {
        let server = NatsServer::start();
        let stream = events(&server).await;
        let tape = Tape::embedded(&[File::Intraday]).unwrap();
        let wanted: Vec<FeedEvent> = tape.feed().flat_map(|step| step.events).collect();
        let args = ["--speed", "1000000", "--files", "intraday", "--loops", "2", "--nats", &server.url()];
        let output = parse(&args).unwrap().run().await.unwrap();
        assert_eq!(output, format!("{} events stored\n", wanted.len() * 2));
        let mut seq = 0;
        for walk in 1..=2 {
            for event in &wanted {
                seq += 1;
                let stored = stream.get_raw_message(seq).await.unwrap();
                assert_eq!(stored.subject.as_str(), format!("events.{}.{}", event.kind.as_str(), event.key));
                let msg_id = stored.headers.get("Nats-Msg-Id").unwrap().as_str();
                assert!(msg_id.ends_with(&format!("-{walk}:{}", event.id)), "{msg_id}");
                let mut payload: serde_json::Map<_, _> = serde_json::from_slice(&stored.payload).unwrap();
                let age = stored.time.unix_timestamp() - payload.remove("timestamp").unwrap().as_f64().unwrap() as i64;
                assert!((0..60).contains(&age), "{age}");
                assert_eq!(payload, event.payload);
            }
        }
        assert_eq!(stream.get_info().await.unwrap().state.messages, seq);
    }

    #[tokio::test]
    async fn stop_ends_the_feed_without_acknowledgements() {
        let mut server = NatsServer::start();
        let stream = events(&server).await;
        let nats = Nats::connect(&NatsArgs::at(&server.url()).load().unwrap().nats, "feed", "test").await.unwrap();
        let (pace, stop) = (parse(&["--speed", "1000000"]).unwrap().pace, CancellationToken::new());
        let progress = Progress::endless();
        let scene = async {
            let started = async || (stream.get_info().await.ok()?.state.messages > 0).then_some(());
            eventually("something is stored", Duration::from_secs(60), started).await;
            server.kill();
            stop.cancel();
        };
        let (ended, ()) = tokio::join!(feed(&nats, &pace, None, &stop, &progress), scene);
        ended.unwrap();
    }
}
