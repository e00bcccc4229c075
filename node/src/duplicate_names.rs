//! Detects another node with the same name as this one. A configuration that was copied with its `node.id` makes two
//! nodes one for all others: the view has one of them, and the other one does nothing and cannot know why. So each node
//! announces itself to the nodes of its name, and usually there is none.

use crate::admin::Check;
use crate::clock::Clock;
use crate::host;
use crate::link::{Link, LinkError, LinkSubscriber};
use crate::metrics;
use crate::names;
use crate::nats::Nats;
use std::collections::BTreeMap;
use std::process;
use std::sync::Arc;
use std::time::Duration;
use tickwire_core::ids::{Millis, NodeRef, Nonce};
use tickwire_core::placement::duplicate_names::NodeAnnouncement;
use tickwire_core::placement::{Role, View};
use tickwire_core::wire;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// How many other nodes are kept, and how many bytes of each text in their announcements.
const MAX_OTHERS: usize = 16;
const MAX_TEXT: usize = 128;

/// After this many silent intervals another node counts as ended.
const SILENT_INTERVALS: u64 = 5;

/// How many bytes of announcements may wait.
const BYTES: usize = 64 * 1024;

/// The other nodes of one name. Pure.
#[derive(Debug)]
pub struct DuplicateNames {
    me: NodeRef,
    /// How long a node may be silent, in milliseconds.
    timeout: u64,
    others: BTreeMap<Nonce, (Millis, NodeAnnouncement)>,
}

impl DuplicateNames {
    /// No other node is known. Each node announces itself every `interval` milliseconds.
    pub fn new(me: NodeRef, interval: u64) -> Self {
        Self { me, timeout: interval * SILENT_INTERVALS, others: BTreeMap::new() }
    }

    /// Notes an announcement. A node that drains does not conflict with us.
    pub fn note(&mut self, now: Millis, mut announcement: NodeAnnouncement) {
        self.others.retain(|_, (at, _)| now.since(*at) <= self.timeout);
        if announcement.node == self.me || announcement.node.id != self.me.id {
            return;
        }
        if announcement.draining {
            self.others.remove(&announcement.node.nonce);
            return;
        }
        for text in [&mut announcement.host, &mut announcement.admin] {
            text.truncate(text.floor_char_boundary(MAX_TEXT));
        }
        if self.others.len() < MAX_OTHERS || self.others.contains_key(&announcement.node.nonce) {
            self.others.insert(announcement.node.nonce, (now, announcement));
        }
    }

    /// The other nodes that are alive now.
    pub fn others(&self, now: Millis) -> impl Iterator<Item = &NodeAnnouncement> {
        self.others.values().filter(move |(at, _)| now.since(*at) <= self.timeout).map(|(_, announcement)| announcement)
    }

    /// The warning about them, and whether they keep this node from its work, because the view has one of them.
    pub fn warning(&self, now: Millis, view: &View) -> Option<(String, bool)> {
        let others: Vec<String> = self.others(now).map(ToString::to_string).collect();
        if others.is_empty() {
            return None;
        }
        let is_out = view.members.iter().any(|member| member.node.id == self.me.id && member.node != self.me);
        let consequence =
            if is_out { "the member view has that one, not this" } else { "the member view has this one" };
        let text = format!(
            "another node has the name {}: {}; {consequence}; give one of them another node.id",
            self.me.id,
            others.join("; and ")
        );
        Some((text, is_out))
    }
}

/// The announcement of a node.
pub fn announcement(node: NodeRef, role: Role, admin: String) -> NodeAnnouncement {
    let host = host::name().unwrap_or_else(|| "unknown".to_owned());
    NodeAnnouncement { node, role, host, process: process::id(), admin, draining: false }
}

/// Subscribes to announcements under this name.
///
/// # Errors
/// When this node may not subscribe.
pub fn subscribe(link: &Link, node: &NodeRef) -> Result<LinkSubscriber, LinkError> {
    link.subscribe("namesakes", &names::name(node.id.as_str()), None, BYTES)
}

/// What the watch of a node's name needs.
#[derive(Debug)]
pub struct NameWatch {
    /// The connection.
    pub nats: Nats,
    /// What other nodes of this name announce, from [`subscribe`].
    pub inlet: LinkSubscriber,
    /// What this node announces.
    pub me: NodeAnnouncement,
    /// How often.
    pub every: Duration,
    /// The members.
    pub view: watch::Receiver<Arc<View>>,
    /// The readiness check.
    pub check: Check,
}

/// Announces this node, and watches for others of its name, until the drain.
pub async fn run(watch: NameWatch, drain: CancellationToken) {
    let NameWatch { nats, mut inlet, me, every, view, check } = watch;
    let clock = Clock::start();
    let mut duplicates = DuplicateNames::new(me.node.clone(), crate::clock::millis(every));
    let (mut ticks, mut logged) = (interval(every), None);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => announce(&nats, &me),
            message = inlet.next() => {
                let Some(message) = message else { return };
                match wire::decode::<NodeAnnouncement>(message.payload()) {
                    Ok(announcement) if announcement.node.id != me.node.id => {
                        metrics::REFUSED_NAME_ANNOUNCEMENTS.increment(1);
                        debug!(node = %announcement.node, "announcement of another name refused");
                    }
                    Ok(announcement) => duplicates.note(clock.now(), announcement),
                    Err(error) => {
                        metrics::REFUSED_NAME_ANNOUNCEMENTS.increment(1);
                        debug!(%error, "unreadable message from a node of the same name");
                    }
                }
            }
            () = drain.cancelled() => return announce(&nats, &NodeAnnouncement { draining: true, ..me }),
        }
        let now = clock.now();
        metrics::DUPLICATE_NAMES.set(duplicates.others(now).count() as f64);
        let warning = duplicates.warning(now, &view.borrow());
        match &warning {
            Some((text, true)) => check.missing(text.clone()),
            // It works, but others take both nodes for one.
            Some((text, false)) => check.warning(text.clone()),
            None => check.ok(),
        }
        let text = warning.map(|(text, _)| text);
        if text != logged {
            match &text {
                Some(reason) => warn!(reason, "two nodes of one name"),
                None => info!("other node of this name gone"),
            }
            logged = text;
        }
    }
}

/// Without a connection the announcement is dropped; the next one replaces it.
fn announce(nats: &Nats, me: &NodeAnnouncement) {
    let sent = match wire::encode(me) {
        Ok(bytes) => {
            nats.link.publish(names::name(me.node.id.as_str()), None, &bytes).map_err(|error| error.to_string())
        }
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = sent {
        debug!(error, "name announcement not sent");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickwire_core::ids::NodeId;
    use tickwire_core::placement::Member;

    fn node(nonce: u64) -> NodeRef {
        NodeRef { id: NodeId::new("gw-1").unwrap(), nonce: Nonce(nonce) }
    }

    fn named(nonce: u64, host: &str) -> NodeAnnouncement {
        NodeAnnouncement {
            node: node(nonce),
            role: Role::Gateway,
            host: host.to_owned(),
            process: 7,
            admin: "127.0.0.1:9000".to_owned(),
            draining: false,
        }
    }

    fn view(nonce: u64) -> View {
        View {
            version: 3,
            members: vec![Member { node: node(nonce), role: Role::Gateway, weight: 1, draining: false }],
            ..View::default()
        }
    }

    #[test]
    fn node_outside_the_view_names_the_other_node_of_its_name() {
        let mut duplicates = DuplicateNames::new(node(1), 1_000);
        duplicates.note(Millis(0), named(1, "here"));
        assert_eq!(duplicates.warning(Millis(0), &view(1)), None);
        duplicates.note(Millis(500), named(2, "host-b"));
        let (text, is_out) = duplicates.warning(Millis(500), &view(2)).unwrap();
        assert!(is_out);
        for part in ["the name gw-1", "gateway on host host-b, process 7", "127.0.0.1:9000", "node.id"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert_eq!(duplicates.warning(Millis(500), &view(1)).map(|(_, is_out)| is_out), Some(false));
    }

    #[test]
    fn ended_or_draining_node_does_not_count() {
        let mut duplicates = DuplicateNames::new(node(1), 1_000);
        duplicates.note(Millis(0), named(2, "b"));
        assert_eq!(duplicates.others(Millis(5_000)).count(), 1);
        assert_eq!(duplicates.others(Millis(5_001)).count(), 0);
        duplicates.note(Millis(6_000), named(2, "b"));
        duplicates.note(Millis(6_500), NodeAnnouncement { draining: true, ..named(2, "b") });
        assert_eq!(duplicates.others(Millis(6_500)).count(), 0);
    }

    #[test]
    fn number_and_size_of_other_nodes_are_bounded() {
        let mut duplicates = DuplicateNames::new(node(1), 1_000);
        for nonce in 2..100 {
            duplicates.note(Millis(0), named(nonce, &"x".repeat(10_000)));
        }
        assert_eq!(duplicates.others(Millis(0)).count(), MAX_OTHERS);
        assert!(duplicates.warning(Millis(0), &view(1)).unwrap().0.len() < MAX_OTHERS * 300);
    }
}
