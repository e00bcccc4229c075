//! `tickwire replay`: walks real prices in time order and publishes what the detectors find, at so many bars a second,
//! over and over. `tickwire dev` runs the same inside its own process.

use clap::Args;
use serde_json::json;
use std::io;
use std::num::NonZeroU32;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tickwire_demo::{BarTime, BarsError, FeedEvent, File, Tape};
use tickwire_node::config::ConfigError;
use tickwire_node::nats::{Nats, NatsError};
use tokio::time::{Instant, Interval, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::cli::NatsArgs;
use crate::progress::{Meter, Progress, REDRAW_INTERVAL};
use crate::publisher::{Outgoing, PublishDone, PublishError, Publisher};
use crate::stop;

/// How many events wait for the stream's word.
const WINDOW: usize = 256;

/// How far the walk may fall behind its speed and still catch up.
const CATCH_UP: Duration = Duration::from_secs(1);

/// How long the last events may take to be acknowledged once the walk is told to stop.
const LAST_WORDS: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tickwire replay                                    20 bars a second, until Ctrl-C
  tickwire replay --speed 500 --files intraday --loops 1
  tickwire replay --nats nats://nats-1:4222")]
pub(crate) struct FeedArgs {
    #[command(flatten)]
    pub(crate) pace: FeedPace,
    /// End after walking the prices so often [default: never]
    #[arg(long, value_name = "N")]
    loops: Option<NonZeroU32>,
    #[command(flatten)]
    pub(crate) nats: NatsArgs,
}

/// How fast, and over what.
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

/// Why a replay ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FeedError {
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Nats(#[from] NatsError),
    #[error("signals cannot be listened for: {0}")]
    Signals(#[from] io::Error),
    #[error(transparent)]
    Bars(#[from] BarsError),
    #[error(transparent)]
    Publish(#[from] PublishError),
}

impl FeedArgs {
    /// Publishes until told to stop or done; gives what to print.
    pub(crate) async fn run(&self) -> Result<String, FeedError> {
        let config = self.nats.load()?;
        let stop = stop::on_signal()?;
        let connecting = Nats::connect(&config.nats, "replay", "cli");
        let Some(nats) = stop.run_until_cancelled(connecting).await.transpose()? else {
            return Ok("0 events stored\n".to_owned());
        };
        let loops = self.loops.map(NonZeroU32::get);
        let events = replay(&nats, &self.pace, loops, &stop, &Progress::endless()).await?;
        nats.close().await?;
        Ok(format!("{events} events stored\n"))
    }
}

/// Publishes until `stop` is cancelled or `loops` walks are done; gives the number of events stored.
pub(crate) async fn replay(
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
        publisher: Publisher::new(nats.jetstream.clone(), WINDOW, None),
        stored: Meter::new(),
        redraw: interval(REDRAW_INTERVAL),
        progress,
        stop,
    };
    let mut due = Instant::now();
    let mut goes_on = true;
    while goes_on && loops.is_none_or(|loops| walk.number < loops) {
        walk.number += 1;
        for step in tape.replay() {
            due = due.max(Instant::now() - CATCH_UP) + Duration::from_secs_f64(step.bars as f64 / pace.speed);
            walk.at = Some(step.bar_time);
            goes_on = walk.wait(due).await?;
            for event in step.events {
                goes_on = goes_on && walk.wait(due).await?;
                if goes_on {
                    walk.publish(event).await?;
                }
            }
            if !goes_on {
                break;
            }
        }
    }
    walk.finish().await
}

/// The state of a replay.
struct FeedWalk<'a> {
    /// Tells the messages of this run from those of others.
    run: String,
    /// Which walk over the prices it is, from 1.
    number: u32,
    /// The bar that the walk is at.
    at: Option<BarTime>,
    publisher: Publisher<()>,
    stored: Meter,
    redraw: Interval,
    progress: &'a Progress,
    stop: &'a CancellationToken,
}

impl FeedWalk<'_> {
    /// Waits until `due`, and until there is room for another event. False when told to stop.
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
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        payload.insert("timestamp".to_owned(), json!(now.as_millis() as f64 / 1000.0));
        let payload = serde_json::Value::Object(payload).to_string().into_bytes();
        let outgoing = Outgoing::new(event.kind.as_str(), &event.key, msg_id, payload);
        match self.publisher.send((), outgoing).await {
            Some(done) => self.count(done),
            None => Ok(()),
        }
    }

    fn count(&mut self, ((), done): PublishDone<()>) -> Result<(), FeedError> {
        done?;
        self.stored.count += 1;
        Ok(())
    }

    fn show(&mut self) {
        let rate = self.stored.rate();
        let at = self.at.map(|at| format!(", at {at}")).unwrap_or_default();
        let late = if self.publisher.is_full() { ", waiting for the stream" } else { "" };
        let line = format!("{} events stored, {rate:.1}/s, loop {}{at}{late}", self.stored.count, self.number);
        self.progress.show(line);
    }

    /// Waits for what is under way; after a stop not for long.
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
            tokio::time::sleep(LAST_WORDS).await;
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
        let cli = Cli::try_parse_from(["tickwire", "replay"].iter().chain(args))?;
        let Command::Replay(replay) = cli.command else { panic!("not a replay") };
        Ok(replay)
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
    async fn each_walk_stores_every_event_once_and_in_order() {
        let server = NatsServer::start();
        let stream = events(&server).await;
        let tape = Tape::embedded(&[File::Intraday]).unwrap();
        let wanted: Vec<FeedEvent> = tape.replay().flat_map(|step| step.events).collect();
        let args = ["--speed", "1000000", "--files", "intraday", "--loops", "2", "--nats", &server.url()];
        let told = parse(&args).unwrap().run().await.unwrap();
        assert_eq!(told, format!("{} events stored\n", wanted.len() * 2));
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
    async fn it_ends_when_told_to_even_if_nothing_is_acknowledged() {
        let mut server = NatsServer::start();
        let stream = events(&server).await;
        let nats = Nats::connect(&NatsArgs::at(&server.url()).load().unwrap().nats, "replay", "test").await.unwrap();
        let (pace, stop) = (parse(&["--speed", "1000000"]).unwrap().pace, CancellationToken::new());
        let progress = Progress::endless();
        let scene = async {
            let started = async || (stream.get_info().await.ok()?.state.messages > 0).then_some(());
            eventually("something is stored", Duration::from_secs(10), started).await;
            server.kill();
            stop.cancel();
        };
        let (ended, ()) = tokio::join!(replay(&nats, &pace, None, &stop, &progress), scene);
        ended.unwrap();
    }
}
