//! The bench in the role of a producer: every event is published to the stream on its own, and acknowledged.

use std::ops::Range;
use std::time::Duration;
use tickwire_node::nats::Nats;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

use super::{InjectError, now};
use crate::draw::Draw;
use tickwire_command::args::NatsArgs;
use tickwire_command::publisher::{NewEvent, Publisher};

/// How many events wait for the acknowledgement of the stream.
const WINDOW: usize = 4096;

/// How long an event is sent again before the run has failed.
const DEADLINE: Duration = Duration::from_secs(10);

/// A producer in a task of its own.
#[derive(Debug)]
pub(crate) struct PacedProducer {
    due: UnboundedSender<Range<u64>>,
    task: JoinHandle<Result<(), InjectError>>,
}

impl PacedProducer {
    /// Connects.
    pub(crate) async fn start(nats_url: &str, draw: Draw) -> Result<Self, InjectError> {
        let config = NatsArgs::at(nats_url).load()?;
        let nats = Nats::connect(&config.nats, "publish", "bench").await?;
        let (due, inbox) = unbounded_channel();
        Ok(Self { due, task: tokio::spawn(publish(nats, draw, inbox)) })
    }

    /// Where to send the numbers of the events that are due.
    pub(super) fn due(&self) -> UnboundedSender<Range<u64>> {
        self.due.clone()
    }

    /// Waits until all events are stored.
    pub(super) async fn finish(self) -> Result<(), InjectError> {
        drop(self.due);
        self.task.await?
    }
}

async fn publish(nats: Nats, draw: Draw, mut due: UnboundedReceiver<Range<u64>>) -> Result<(), InjectError> {
    let mut publisher = Publisher::new(&nats, WINDOW, Some(DEADLINE));
    let run: u32 = rand::random();
    loop {
        let numbers = tokio::select! {
            biased;
            numbers = due.recv() => numbers,
            Some(((), stored)) = publisher.done() => {
                stored?;
                continue;
            }
        };
        let Some(numbers) = numbers else { break };
        for number in numbers {
            let class = draw.class(number);
            let payload = class.payload(number, now());
            let event = NewEvent::new("pattern", &class.symbol(), format!("{run:08x}-{number}"), payload);
            if let Some(((), stored)) = publisher.send((), event).await {
                stored?;
            }
        }
    }
    while let Some(((), stored)) = publisher.done().await {
        stored?;
    }
    Ok(nats.close().await?)
}
