//! What a router knows, and every decision that follows from it. Everything that changes it comes here, one thing after
//! the other: orders of the ownership, what gateways say, what intakes read, the time. No I/O: what is to be done waits
//! for the [driver](self::driver).
//!
//! ```text
//! intakes ──▶ match ──▶ batch ──▶ dispatch ──▶ checkpoint ──▶ floors, for the leases
//! ```
//!
//! * A checkpoint tells every gateway how far every partition was read, and hands on the floors when that has left the
//!   process.
//! * Without a connection nothing is taken out of the claims: it leaves when NATS is back.

pub(crate) mod driver;
mod flush;
mod routing;
mod sources;

pub use flush::LONGEST_WINDOW;

use crate::dispatch::RoutedEvent;
use crate::intake::IntakeReport;
use crate::interest::InterestMessage;
use crate::ownership::SourceProgress;
use crate::ownership::tenancy::Checkpoint;
use crate::source::{Source, Tenure};
use flush::Flush;
use routing::Routing;
use std::collections::BTreeMap;
use std::sync::Arc;
use tickwire_core::coverage::section::Section;
use tickwire_core::ids::{Epoch, EpochId, Millis, NodeRef, Revision, Seq};
use tickwire_core::interest::SnapshotPart;
use tickwire_core::interest::table::SharedInterest;
use tickwire_core::placement::View;
use tickwire_node::clock::millis;
use tickwire_node::config::RouterConfig;
use tracing::info;

/// How far each source was read, in its tenure.
pub type SourceCheckpoints = BTreeMap<Tenure, SourceProgress>;

/// What the ownership wants of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// A tenure begins.
    Own {
        /// Which.
        tenure: Tenure,
        /// After this.
        checkpoint: Seq,
    },
    /// A tenure has ended: another router owns it.
    Disown(Tenure),
    /// These tenures end: publish what was read, and tell up to where by [`Output::Released`].
    Release(Vec<Tenure>),
    /// The stream was made anew, and every tenure has ended.
    Renew(Epoch),
}

/// What is to be done, in this order.
#[derive(Debug)]
pub enum Output {
    /// Read a source.
    Read {
        /// For this tenure.
        tenure: Tenure,
        /// In this life of the stream.
        epoch_id: EpochId,
        /// What comes after this.
        checkpoint: Seq,
    },
    /// Read no more for this tenure, if anything was.
    Stop(Tenure),
    /// Publish sections.
    Send {
        /// To this gateway.
        gateway: NodeRef,
        /// The life of the stream that they are of.
        epoch: Epoch,
        /// What was read.
        sections: Vec<Section<RoutedEvent>>,
    },
    /// Ask a gateway for its whole interest; then [`Engine::hear_snapshot`].
    AskSnapshot {
        /// Which.
        gateway: NodeRef,
        /// How often that was done in vain.
        attempts: u32,
    },
    /// When all that was sent so far has left this process, leases may say so.
    Checkpoint(SourceCheckpoints),
    /// When all that was sent so far has left this process, tenures are over.
    Released {
        /// These.
        tenures: Vec<Tenure>,
        /// How far they came; what is missing here was not reached for sure.
        checkpoints: SourceCheckpoints,
    },
}

/// What the rest of the node is to know of the engine.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct EngineReport {
    /// The gateways whose interest is not known as new as it is.
    pub lacking: Vec<NodeRef>,
    /// The sources that are owned and cannot be read, each with the reason.
    pub unread: BTreeMap<Source, String>,
    /// What was read last of sources, and is not in the stream any more.
    pub missing: Vec<Checkpoint>,
}

/// The state.
#[derive(Debug)]
pub struct Engine {
    routing: Routing,
    epoch: Epoch,
    /// The gateways that were asked for a snapshot, and how often in vain.
    asked: BTreeMap<NodeRef, u32>,
    /// Whether there is a connection to NATS.
    is_connected: bool,
    outputs: Vec<Output>,
    /// When the next batch is due.
    wake: Option<Millis>,
}

impl Engine {
    /// An engine that owns nothing yet, in this life of the stream.
    #[must_use]
    pub fn new(config: &RouterConfig, epoch: Epoch) -> Self {
        let flush = Flush::new(millis(config.flush_window), config.batch_rate, config.flush_bytes);
        Self {
            routing: Routing::new(flush, millis(config.interest_retention)),
            epoch,
            asked: BTreeMap::new(),
            is_connected: true,
            outputs: Vec::new(),
            wake: None,
        }
    }

    /// Whether there is a connection to NATS. What is published without one would pile up, and come late.
    pub fn set_connected(&mut self, is_connected: bool) {
        self.is_connected = is_connected;
    }

    /// Another view of the members.
    pub fn set_view(&mut self, view: Arc<View>) {
        self.routing.set_view(view);
    }

    /// The ownership has decided something.
    pub fn obey(&mut self, now: Millis, order: Order) {
        match order {
            Order::Own { tenure, checkpoint } => {
                self.routing.own(tenure, checkpoint);
                let epoch_id = self.epoch.epoch_id;
                self.outputs.push(Output::Read { tenure, epoch_id, checkpoint });
            }
            Order::Disown(tenure) => self.disown(tenure),
            Order::Release(tenures) => {
                let checkpoints = self.publish_all(now);
                tenures.iter().for_each(|tenure| self.disown(*tenure));
                self.outputs.push(Output::Released { tenures, checkpoints });
            }
            Order::Renew(epoch) => {
                self.epoch = epoch;
                self.outputs.extend(self.routing.checkpoints().into_keys().map(Output::Stop));
                self.routing.renew();
            }
        }
    }

    fn disown(&mut self, tenure: Tenure) {
        self.routing.disown(tenure);
        self.outputs.push(Output::Stop(tenure));
    }

    /// A gateway said something of its interest.
    pub fn hear(&mut self, now: Millis, said: InterestMessage) {
        let needed = self.routing.hear(now, said);
        self.ask(needed);
    }

    /// The furthest that a gateway was heard to have come in the stream since the last call.
    pub fn take_witnessed(&mut self) -> Option<Checkpoint> {
        self.routing.take_witnessed()
    }

    /// A gateway that was asked told its whole interest, or did not.
    pub fn hear_snapshot(&mut self, now: Millis, gateway: NodeRef, parts: Option<Vec<SnapshotPart>>) {
        if let Some(parts) = parts {
            self.routing.hear_snapshot(now, gateway.clone(), parts);
        }
        // Forgotten, or known by now: nothing more to ask.
        let Some(attempts) = self.asked.remove(&gateway) else { return };
        if self.routing.lags(&gateway) {
            self.request_snapshot(gateway, attempts.saturating_add(1));
        }
    }

    /// Asks for the snapshot that is needed, unless it was asked for already.
    fn ask(&mut self, needed: Option<NodeRef>) {
        if let Some(gateway) = needed
            && !self.asked.contains_key(&gateway)
        {
            self.request_snapshot(gateway, 0);
        }
    }

    fn request_snapshot(&mut self, gateway: NodeRef, attempts: u32) {
        self.asked.insert(gateway.clone(), attempts);
        self.outputs.push(Output::AskSnapshot { gateway, attempts });
    }

    /// What a gateway wants, as of `least` or later; if that is not known, it is asked for, so that a later inquiry is
    /// answered.
    pub fn interest(&mut self, gateway: &NodeRef, least: Revision) -> Option<(Revision, SharedInterest)> {
        let known = self.routing.interest(gateway, least);
        // Nobody answers for a name that whoever asks has made up.
        if known.is_none() && self.routing.is_known(gateway) {
            self.ask(Some(gateway.clone()));
        }
        known
    }

    /// An intake has read something, or cannot.
    pub fn read(&mut self, heard: IntakeReport) {
        self.routing.read(heard);
    }

    /// Sends what is due. To be called after anything that was heard.
    pub fn settle(&mut self, now: Millis) {
        let (ready, next) = self.routing.due(now);
        self.wake = next;
        self.send(now, ready, false);
    }

    /// When something is due next that nothing but time brings, beside checkpoints.
    #[must_use]
    pub fn next_turn(&self) -> Option<Millis> {
        self.wake
    }

    /// Takes what is to be sent to these gateways. Returns whether that is all; what is not waits in the claims for a
    /// connection.
    fn send(&mut self, now: Millis, gateways: Vec<NodeRef>, heartbeat: bool) -> bool {
        if !self.is_connected {
            return gateways.is_empty();
        }
        for gateway in gateways {
            let sections = self.routing.take(now, &gateway, heartbeat);
            if !sections.is_empty() {
                self.outputs.push(Output::Send { gateway, epoch: self.epoch, sections });
            }
        }
        true
    }

    /// Tells every gateway how far everything was read. Returns how far that is; nothing without a connection.
    fn publish_all(&mut self, now: Millis) -> SourceCheckpoints {
        let gateways = self.routing.gateways();
        if self.send(now, gateways, true) { self.routing.checkpoints() } else { SourceCheckpoints::new() }
    }

    /// Publishes everything, and hands on the floors when it has left.
    pub fn checkpoint(&mut self, now: Millis) {
        for gateway in self.routing.expire(now) {
            info!(%gateway, "forgot the interest of a gateway that has been silent for too long");
            self.asked.remove(&gateway);
        }
        let checkpoints = self.publish_all(now);
        self.outputs.push(Output::Checkpoint(checkpoints));
    }

    /// What is to be done since the last call.
    pub fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    /// What the rest of the node is to know, if it may be something else than at the last call.
    pub fn take_news(&mut self) -> Option<EngineReport> {
        self.routing.news()
    }

    /// How many times an event matched a gateway since the last call.
    pub fn take_matches(&mut self) -> u64 {
        self.routing.take_matches()
    }
}
