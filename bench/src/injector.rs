//! The source of the events. A thread sends them when they are due, even if the server does not keep up. How they are
//! sent depends on what is measured.

mod bare;
mod published;
mod routed;

use std::ops::Range;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use tickwire_core::event::Timestamp;
use tickwire_node::bucket::BucketError;
use tickwire_node::clock::wall_clock;
use tickwire_node::config::ConfigError;
use tickwire_node::nats::NatsError;
use tickwire_node::start::StartError;
use tokio::task::{JoinError, JoinHandle};

use super::scenario::Plan;
use tickwire_command::publisher::PublishError;

pub(crate) use bare::BareFeed;
pub(crate) use published::PacedProducer;
pub(crate) use routed::InjectingRouter;

/// Why events could not be sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InjectError {
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error("the bench cannot join as a router: {0}")]
    Join(#[from] StartError),
    #[error("the bench has no connection to NATS: {0}")]
    Nats(#[from] NatsError),
    #[error("NATS no longer accepts messages: {0}")]
    Send(String),
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error("the reference data cannot be loaded: {0}")]
    Reference(#[from] BucketError),
    #[error("the bare server no longer accepts events: {0}")]
    Bare(#[from] std::io::Error),
    #[error("an event of the bench cannot be made: {0}")]
    Event(String),
    #[error("the injector has panicked: {0}")]
    Panicked(#[from] JoinError),
}

/// How the events of a run are sent.
#[derive(Debug)]
pub(crate) enum Injector {
    /// In batches to one gateway, by the bench in the role of a router.
    Routed(Box<InjectingRouter>),
    /// To the stream, by the bench in the role of a producer.
    Published(PacedProducer),
    /// As ready bytes to the bare server.
    Bare(BareFeed),
}

impl Injector {
    /// Sends all events of the plan, event 0 at `first_due`. Returns by how much the latest of them was late.
    pub(crate) fn start(&self, plan: &Arc<Plan>, first_due: Instant) -> JoinHandle<Result<Duration, InjectError>> {
        let plan = Arc::clone(plan);
        match self {
            Self::Routed(router) => {
                let due = router.due();
                pacer(plan, first_due, move |numbers| {
                    due.send(numbers).map_err(|_| InjectError::Send("the injecting router has ended".to_owned()))
                })
            }
            Self::Published(producer) => {
                let due = producer.due();
                pacer(plan, first_due, move |numbers| {
                    due.send(numbers).map_err(|_| InjectError::Send("the producer has ended".to_owned()))
                })
            }
            Self::Bare(feed) => {
                let feed = feed.clone();
                pacer(plan, first_due, move |numbers| feed.send(numbers))
            }
        }
    }

    /// Waits until all that was sent has been taken.
    pub(crate) async fn finish(self) -> Result<(), InjectError> {
        match self {
            Self::Routed(router) => router.finish().await,
            Self::Published(producer) => producer.finish().await,
            Self::Bare(_) => Ok(()),
        }
    }
}

/// A thread that calls `send` with the events that are due. It sleeps more exactly than a timer of the runtime does.
fn pacer(
    plan: Arc<Plan>,
    first_due: Instant,
    mut send: impl FnMut(Range<u64>) -> Result<(), InjectError> + Send + 'static,
) -> JoinHandle<Result<Duration, InjectError>> {
    tokio::task::spawn_blocking(move || {
        let (schedule, mut next, mut latest) = (&plan.schedule, 0, Duration::ZERO);
        let due = |number| first_due + Duration::from_nanos(schedule.due_ns(number));
        while next < schedule.total() {
            let now = Instant::now();
            let first = next;
            while next < schedule.total() && due(next) <= now {
                next += 1;
            }
            if first == next {
                thread::sleep(due(next) - now);
                continue;
            }
            latest = latest.max(now - due(first));
            send(first..next)?;
        }
        Ok(latest)
    })
}

/// The time by which events are stamped.
fn now() -> Timestamp {
    Timestamp(wall_clock().as_millis() as i64)
}
