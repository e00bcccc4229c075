//! Watches when the stream last got an event of each kind that should not be silent (`health.silence_kinds`), for
//! `/v1/health`. The stream is asked, since a router reads only the events of its own partitions.

use std::time::Duration;
use tickwire_core::event::{Kind, Timestamp};
use tickwire_node::clock::timestamp_now;
use tickwire_node::config::Config;
use tickwire_node::names;
use tickwire_node::nats::Nats;
use tickwire_node::status::KindLast;
use tickwire_node::stored::{self, MessageSelector};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// How often the stream is asked, unless the threshold is so low that this would be too rare.
const INTERVAL: Duration = Duration::from_secs(10);

/// Asks the stream.
#[derive(Debug)]
pub(crate) struct SilenceWatch {
    nats: Nats,
    stream: String,
    /// The subjects of the kinds, in the order of what is known.
    subjects: Vec<String>,
    every: Duration,
    known: watch::Sender<Vec<KindLast>>,
}

/// The watch of this node. Nothing is known before it began, so the time without events begins there at the earliest.
pub(crate) fn watch(nats: &Nats, config: &Config) -> (watch::Receiver<Vec<KindLast>>, SilenceWatch) {
    let since = timestamp_now();
    let kinds = config.health.silence_kinds.iter().map(|kind| Kind::from(kind.as_str()).as_str().to_owned());
    let last: Vec<KindLast> = kinds.map(|kind| KindLast { kind, since }).collect();
    let subjects = last.iter().map(|last| names::stored_kind_anywhere(&last.kind)).collect();
    let (known, receiver) = watch::channel(last);
    let every = INTERVAL.min(config.health.silence_warning / 2);
    (receiver, SilenceWatch { nats: nats.clone(), stream: config.stream.name.clone(), subjects, every, known })
}

impl SilenceWatch {
    /// Asks until the drain.
    pub(crate) async fn run(self, drain: CancellationToken) {
        while drain.run_until_cancelled(self.ask()).await.is_some() {
            drain.run_until_cancelled(sleep(self.every)).await;
        }
    }

    async fn ask(&self) {
        for (at, subject) in self.subjects.iter().enumerate() {
            match stored::get(&self.nats.jetstream, &self.stream, MessageSelector::LastOf(subject)).await {
                Ok(Some(message)) => self.note(at, Timestamp(message.stored)),
                Ok(None) => {}
                // Without an answer it is not known whether there are events; the check `nats` says what is missing.
                Err(error) => debug!(%error, subject, "last event of a kind not found"),
            }
        }
    }

    fn note(&self, at: usize, stored: Timestamp) {
        self.known.send_if_modified(|known| match known.get_mut(at) {
            Some(last) if last.since < stored => {
                last.since = stored;
                true
            }
            _ => false,
        });
    }
}
