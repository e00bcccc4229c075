//! The state of a router's routing, and every decision on it. All inputs arrive here, one after the other: orders of
//! the ownership, interest messages of gateways, reports of intakes, the time. No I/O: outputs wait for the
//! [driver](self::driver).
//!
//! ```text
//! intakes ──▶ match ──▶ batch ──▶ dispatch ──▶ publish all ──▶ checkpoints, for the leases
//! ```
//!
//! * At each checkpoint every gateway gets how far every partition was read. The checkpoints are passed on when that
//!   has left the process.
//! * Without a connection the sections stay in the builder, and are sent when NATS is back.

pub(crate) mod driver;
mod flush;
mod routing;
mod sources;
pub(crate) mod turns;

pub use flush::LONGEST_WINDOW;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::SourceProgress;
use crate::dispatch::RoutedEvent;
use crate::intake::IntakeReport;
use crate::interest::InterestMessage;
use crate::route_cache;
use crate::source::{Source, Tenure};
use flush::Flush;
use routing::Routing;
use std::collections::BTreeMap;
use std::sync::Arc;
use tickwire_core::coverage::section::Section;
use tickwire_core::ids::{Epoch, EpochId, Millis, NodeRef, Revision, Seq};
use tickwire_core::interest::SnapshotPart;
use tickwire_core::interest::table::{GatewayCache, SharedInterest, TableLimits};
use tickwire_core::placement::View;
use tickwire_core::route_cache::CacheCounts;
use tickwire_node::clock::millis;
use tickwire_node::config::RouterConfig;
use tracing::info;

/// How far each source was read, by tenure.
pub type SourceCheckpoints = BTreeMap<Tenure, SourceProgress>;

/// An order of the ownership to the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// A tenure begins.
    Own {
        /// The tenure.
        tenure: Tenure,
        /// The source is read after this sequence.
        checkpoint: Seq,
    },
    /// A tenure has ended: another router owns the source.
    Disown(Tenure),
    /// These tenures end: publish everything that was read, and return the checkpoints in [`EngineOutput::Released`].
    Release(Vec<Tenure>),
    /// A new epoch of the stream has begun, and every tenure has ended.
    Renew(Epoch),
}

/// What is to be done, in this order.
#[derive(Debug)]
pub enum EngineOutput {
    /// Read a source.
    Read {
        /// For this tenure.
        tenure: Tenure,
        /// In this epoch.
        epoch_id: EpochId,
        /// Messages after this sequence.
        checkpoint: Seq,
    },
    /// Stop reading for this tenure, if it is read.
    Stop(Tenure),
    /// Publish sections.
    Send {
        /// To this gateway.
        gateway: NodeRef,
        /// The epoch of the sections.
        epoch: Epoch,
        /// The sections.
        sections: Vec<Section<RoutedEvent>>,
    },
    /// Ask a gateway for its whole interest; then call [`Engine::handle_snapshot`].
    AskSnapshot {
        /// The gateway.
        gateway: NodeRef,
        /// How many requests have failed.
        attempts: u32,
    },
    /// When everything that was sent so far has left this process, leases may hold these checkpoints.
    Checkpoint(SourceCheckpoints),
    /// When everything that was sent so far has left this process, these tenures are over.
    Released {
        /// The tenures.
        tenures: Vec<Tenure>,
        /// Their checkpoints; a tenure without one may not have been published.
        checkpoints: SourceCheckpoints,
    },
}

/// The engine's report to the rest of the node.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct EngineReport {
    /// The gateways whose current interest is not known.
    pub gateways_without_interest: Vec<NodeRef>,
    /// The owned sources that cannot be read, each with the reason.
    pub unread: BTreeMap<Source, String>,
    /// The last read messages of sources that are no longer in the stream.
    pub missing: Vec<Checkpoint>,
}

/// The state.
#[derive(Debug)]
pub struct Engine {
    routing: Routing,
    epoch: Epoch,
    /// The gateways with a pending snapshot request, and how many have failed.
    asked: BTreeMap<NodeRef, u32>,
    /// Whether there is a connection to NATS.
    is_connected: bool,
    outputs: Vec<EngineOutput>,
    /// When the next batch is due.
    wake: Option<Millis>,
}

impl Engine {
    /// An engine that owns nothing yet, in this epoch. It holds the interest of gateways within `limits`.
    #[must_use]
    pub fn new(config: &RouterConfig, limits: TableLimits, epoch: Epoch) -> Self {
        let flush = Flush::new(millis(config.flush_window), config.batch_rate, config.flush_bytes);
        let cache = GatewayCache::new(route_cache::bytes_for_interest(config));
        Self {
            routing: Routing::new(flush, millis(config.interest_retention), limits, cache),
            epoch,
            asked: BTreeMap::new(),
            is_connected: true,
            outputs: Vec::new(),
            wake: None,
        }
    }

    /// Sets whether there is a connection to NATS. Batches published without one would pile up and arrive late.
    pub fn set_connected(&mut self, is_connected: bool) {
        self.is_connected = is_connected;
    }

    /// The epoch that it reads.
    pub(crate) fn epoch_id(&self) -> EpochId {
        self.epoch.epoch_id
    }

    /// Takes another view of the members.
    pub fn set_view(&mut self, view: Arc<View>) {
        self.routing.set_view(view);
    }

    /// Takes an order of the ownership.
    pub fn handle_order(&mut self, now: Millis, order: Order) {
        match order {
            Order::Own { tenure, checkpoint } => {
                self.routing.own(tenure, checkpoint);
                let epoch_id = self.epoch.epoch_id;
                self.outputs.push(EngineOutput::Read { tenure, epoch_id, checkpoint });
            }
            Order::Disown(tenure) => self.disown(tenure),
            Order::Release(tenures) => {
                let checkpoints = self.publish_all(now);
                tenures.iter().for_each(|tenure| self.disown(*tenure));
                self.outputs.push(EngineOutput::Released { tenures, checkpoints });
            }
            Order::Renew(epoch) => {
                self.epoch = epoch;
                self.outputs.extend(self.routing.checkpoints().into_keys().map(EngineOutput::Stop));
                self.routing.renew();
            }
        }
    }

    fn disown(&mut self, tenure: Tenure) {
        self.routing.disown(tenure);
        self.outputs.push(EngineOutput::Stop(tenure));
    }

    /// Takes an interest message of a gateway.
    pub fn handle_interest_message(&mut self, now: Millis, message: InterestMessage) {
        let needed = self.routing.handle_interest_message(now, message);
        self.ask(needed);
    }

    /// The coverage that each gateway has reported, if any has moved since the last call.
    pub fn take_gateway_coverage(&mut self) -> Option<BTreeMap<NodeRef, Checkpoint>> {
        self.routing.take_gateway_coverage()
    }

    /// Takes the answer to a snapshot request; `None` if there was none.
    pub fn handle_snapshot(&mut self, now: Millis, gateway: NodeRef, parts: Option<Vec<SnapshotPart>>) {
        if let Some(parts) = parts {
            self.routing.handle_snapshot(now, gateway.clone(), parts);
        }
        // Forgotten or known by now: nothing more to ask.
        let Some(attempts) = self.asked.remove(&gateway) else { return };
        if self.routing.lags(&gateway) {
            self.request_snapshot(gateway, attempts.saturating_add(1));
        }
    }

    /// Requests the needed snapshot, unless it was requested already.
    fn ask(&mut self, needed: Option<NodeRef>) {
        if let Some(gateway) = needed
            && !self.asked.contains_key(&gateway)
        {
            self.request_snapshot(gateway, 0);
        }
    }

    fn request_snapshot(&mut self, gateway: NodeRef, attempts: u32) {
        self.asked.insert(gateway.clone(), attempts);
        self.outputs.push(EngineOutput::AskSnapshot { gateway, attempts });
    }

    /// The interest of a gateway at revision `least` or later. If it is not known, a snapshot is requested, so that a
    /// later inquiry can be answered.
    pub fn interest(&mut self, gateway: &NodeRef, least: Revision) -> Option<(Revision, SharedInterest)> {
        let known = self.routing.interest(gateway, least);
        // The sender of a replay request may have invented the gateway, and nobody would answer.
        if known.is_none() && self.routing.is_known(gateway) {
            self.ask(Some(gateway.clone()));
        }
        known
    }

    /// Takes a report of an intake.
    pub fn read(&mut self, now: Millis, report: IntakeReport) {
        self.routing.read(now, report);
    }

    /// Sends what is due. Call it after any input.
    pub fn settle(&mut self, now: Millis) {
        let (ready, next) = self.routing.due(now);
        self.wake = next;
        self.send(now, ready, false);
    }

    /// When the next batch is due, beside checkpoints.
    #[must_use]
    pub fn next_turn(&self) -> Option<Millis> {
        self.wake
    }

    /// Sends the sections for these gateways; with `include_empty`, also those without events. Returns whether all were
    /// sent; otherwise they stay in the builder until there is a connection.
    fn send(&mut self, now: Millis, gateways: Vec<NodeRef>, include_empty: bool) -> bool {
        if !self.is_connected {
            return gateways.is_empty();
        }
        for gateway in gateways {
            let sections = self.routing.take(now, &gateway, include_empty);
            if !sections.is_empty() {
                self.outputs.push(EngineOutput::Send { gateway, epoch: self.epoch, sections });
            }
        }
        true
    }

    /// Publishes to every gateway how far everything was read. Returns the checkpoints; empty without a connection.
    fn publish_all(&mut self, now: Millis) -> SourceCheckpoints {
        let gateways = self.routing.gateways();
        if self.send(now, gateways, true) { self.routing.checkpoints() } else { SourceCheckpoints::new() }
    }

    /// Publishes everything, and passes on the checkpoints when it has left the process.
    pub fn checkpoint(&mut self, now: Millis) {
        for gateway in self.routing.expire(now) {
            info!(%gateway, "gateway silent for too long, interest forgotten");
            self.asked.remove(&gateway);
        }
        let checkpoints = self.publish_all(now);
        self.outputs.push(EngineOutput::Checkpoint(checkpoints));
    }

    /// The outputs since the last call.
    pub fn take_outputs(&mut self) -> Vec<EngineOutput> {
        std::mem::take(&mut self.outputs)
    }

    /// The report, if it may have changed since the last call.
    pub fn take_report(&mut self) -> Option<EngineReport> {
        self.routing.news()
    }

    /// How many times an event has matched a gateway since the last call.
    pub fn take_matches(&mut self) -> u64 {
        self.routing.take_matches()
    }

    /// What the route cache has done since the last call, and the number of its classes.
    pub fn take_cache_counts(&mut self) -> (CacheCounts, usize) {
        self.routing.take_cache_counts()
    }
}
