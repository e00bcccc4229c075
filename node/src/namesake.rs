//! Finds out whether another node bears the name of this one. A configuration that was copied with its `node.id` makes two
//! nodes one to all others: the view has one of them, and the other does nothing and cannot know why. So each node tells
//! those of its name who it is, which usually nobody hears.

use crate::admin::Check;
use crate::clock::Clock;
use crate::declare_counter;
use crate::link::{Link, LinkError, Subscriber};
use crate::names;
use crate::nats::Nats;
use metrics::{counter, describe_gauge, gauge};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use std::{env, fs, process};
use tickwire_core::ids::{Millis, NodeRef, Nonce};
use tickwire_core::placement::namesake::Bearer;
use tickwire_core::placement::{Role, View};
use tickwire_core::wire;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// How many others are kept, and how many bytes of each text they tell.
const OTHERS: usize = 16;
const TEXT: usize = 128;

/// After so many silent intervals another one has ended.
const SILENT: u64 = 5;

/// How many bytes of what others tell may wait.
const BYTES: usize = 64 * 1024;

/// The others of one name. Pure.
#[derive(Debug)]
pub struct Namesakes {
    me: NodeRef,
    /// How long one may be silent, in milliseconds.
    patience: u64,
    others: BTreeMap<Nonce, (Millis, Bearer)>,
}

impl Namesakes {
    /// Nobody was heard of. Each tells of itself every `interval` milliseconds.
    pub fn new(me: NodeRef, interval: u64) -> Self {
        Self { me, patience: interval * SILENT, others: BTreeMap::new() }
    }

    /// A node tells who it is. One that is about to end takes nothing from us.
    pub fn hear(&mut self, now: Millis, mut bearer: Bearer) {
        self.others.retain(|_, (at, _)| now.since(*at) <= self.patience);
        if bearer.node == self.me || bearer.node.id != self.me.id {
            return;
        }
        if bearer.draining {
            self.others.remove(&bearer.node.nonce);
            return;
        }
        for text in [&mut bearer.host, &mut bearer.admin] {
            text.truncate(text.floor_char_boundary(TEXT));
        }
        if self.others.len() < OTHERS || self.others.contains_key(&bearer.node.nonce) {
            self.others.insert(bearer.node.nonce, (now, bearer));
        }
    }

    /// Those that are there now.
    pub fn others(&self, now: Millis) -> impl Iterator<Item = &Bearer> {
        self.others.values().filter(move |(at, _)| now.since(*at) <= self.patience).map(|(_, bearer)| bearer)
    }

    /// What is to be said of them: in words, and whether it keeps this node from its work, since the view has another.
    pub fn told(&self, now: Millis, view: &View) -> Option<(String, bool)> {
        let others: Vec<String> = self.others(now).map(ToString::to_string).collect();
        if others.is_empty() {
            return None;
        }
        let is_out = view.members.iter().any(|member| member.node.id == self.me.id && member.node != self.me);
        let consequence =
            if is_out { "the member view has that one, not this" } else { "the member view has this one" };
        let text = format!(
            "another node bears the name {}: {}; {consequence}; give one of them another node.id",
            self.me.id,
            others.join("; and ")
        );
        Some((text, is_out))
    }
}

/// What a node tells of itself.
pub fn bearer(node: NodeRef, role: Role, admin: String) -> Bearer {
    Bearer { node, role, host: host(), process: process::id(), admin, draining: false }
}

/// Hears those of this name from now on.
///
/// # Errors
/// When this node may not subscribe.
pub fn subscribe(link: &Link, node: &NodeRef) -> Result<Subscriber, LinkError> {
    describe_gauge!("tickwire_namesakes", "Other nodes that bear the name of this one");
    declare_counter!("tickwire_namesakes_refused_total", "Messages of nodes of the same name that make no sense");
    link.subscribe("namesakes", &names::name(node.id.as_str()), None, BYTES)
}

/// Tells who this node is, and looks for others of its name, until told to stop.
pub async fn run(
    nats: Nats,
    mut inlet: Subscriber,
    me: Bearer,
    every: Duration,
    view: watch::Receiver<Arc<View>>,
    check: Check,
    drain: CancellationToken,
) {
    let clock = Clock::start();
    let mut namesakes = Namesakes::new(me.node.clone(), crate::clock::millis(every));
    let (mut ticks, mut logged) = (interval(every), None);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => tell(&nats, &me),
            message = inlet.next() => {
                let Some(message) = message else { return };
                match wire::decode(message.payload()) {
                    Ok(bearer) => namesakes.hear(clock.now(), bearer),
                    Err(error) => {
                        counter!("tickwire_namesakes_refused_total").increment(1);
                        debug!(%error, "what a node of the same name tells was refused");
                    }
                }
            }
            () = drain.cancelled() => return tell(&nats, &Bearer { draining: true, ..me }),
        }
        let now = clock.now();
        gauge!("tickwire_namesakes").set(namesakes.others(now).count() as f64);
        let told = namesakes.told(now, &view.borrow());
        match &told {
            Some((text, true)) => check.missing(text.clone()),
            _ => check.ok(),
        }
        let text = told.map(|(text, _)| text);
        if text != logged {
            match &text {
                Some(reason) => warn!(reason, "two nodes of one name"),
                None => info!("no other node bears this name any more"),
            }
            logged = text;
        }
    }
}

/// Without a connection nobody hears it; the next one says the same.
fn tell(nats: &Nats, me: &Bearer) {
    let sent = match wire::encode(me) {
        Ok(bytes) => {
            nats.link.publish(names::name(me.node.id.as_str()), None, &bytes).map_err(|error| error.to_string())
        }
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = sent {
        debug!(error, "those of the same name were not told who this is");
    }
}

/// The name of this host, as the system or its environment tells it.
fn host() -> String {
    let told = fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let told = told.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
    told.or_else(|| env::var("HOSTNAME").ok()).unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickwire_core::ids::NodeId;
    use tickwire_core::placement::Member;

    fn node(nonce: u64) -> NodeRef {
        NodeRef { id: NodeId::new("gw-1").unwrap(), nonce: Nonce(nonce) }
    }

    fn named(nonce: u64, host: &str) -> Bearer {
        Bearer {
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
        }
    }

    #[test]
    fn the_one_that_the_view_lacks_says_who_else_bears_its_name() {
        let mut namesakes = Namesakes::new(node(1), 1_000);
        namesakes.hear(Millis(0), named(1, "here"));
        assert_eq!(namesakes.told(Millis(0), &view(1)), None);
        namesakes.hear(Millis(500), named(2, "host-b"));
        let (text, is_out) = namesakes.told(Millis(500), &view(2)).unwrap();
        assert!(is_out);
        for part in ["the name gw-1", "gateway on host host-b, process 7", "127.0.0.1:9000", "node.id"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert_eq!(namesakes.told(Millis(500), &view(1)).map(|(_, is_out)| is_out), Some(false));
    }

    #[test]
    fn one_that_has_ended_or_is_about_to_is_nobody() {
        let mut namesakes = Namesakes::new(node(1), 1_000);
        namesakes.hear(Millis(0), named(2, "b"));
        assert_eq!(namesakes.others(Millis(5_000)).count(), 1);
        assert_eq!(namesakes.others(Millis(5_001)).count(), 0);
        namesakes.hear(Millis(6_000), named(2, "b"));
        namesakes.hear(Millis(6_500), Bearer { draining: true, ..named(2, "b") });
        assert_eq!(namesakes.others(Millis(6_500)).count(), 0);
    }

    #[test]
    fn whoever_else_speaks_there_is_kept_within_bounds() {
        let mut namesakes = Namesakes::new(node(1), 1_000);
        for nonce in 2..100 {
            namesakes.hear(Millis(0), named(nonce, &"x".repeat(10_000)));
        }
        assert_eq!(namesakes.others(Millis(0)).count(), OTHERS);
        assert!(namesakes.told(Millis(0), &view(1)).unwrap().0.len() < OTHERS * 300);
    }
}
