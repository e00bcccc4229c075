//! How nodes find each other: every node sends beats over core NATS; one router, the coordinator, turns them into a
//! versioned view in KV; every node follows that view.
//!
//! The cost is N messages a second, not N²: only routers receive the beats. Other nodes learn of the view by one small
//! announcement at every change and every beat. A node that misses an announcement gets the next one; a node that gets
//! none reads KV by itself. A node leaves in three steps: it drains (its beats show this at once), ends its work, and
//! says goodbye.

mod beats;
mod coordinator;
mod follower;
#[cfg(test)]
mod simulator;
mod view_change;

use crate::config::MembershipConfig;
use crate::lease::{LeaseError, Leases};
use crate::link::LinkSubscriber;
use crate::metrics;
use crate::names;
use crate::nats::Nats;
use crate::shutdown::Shutdown;
use coordinator::driver::CoordinatorDriver;
use follower::driver::FollowerDriver;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tickwire_core::placement::{Member, Role, View};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// The longest time for one read or write in KV.
const KV_DEADLINE: Duration = Duration::from_secs(1);

/// How long a goodbye may take.
const LEAVE_DEADLINE: Duration = Duration::from_secs(1);

/// How many members one field of a log line names. Strangers can pretend to be many.
const MOST_NAMES: usize = 64;

/// The beat of a node to all routers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// The node, and whether it drains.
    pub member: Member,
    /// Whether it ends now.
    pub goodbye: bool,
}

/// The announcement of the coordinator to all nodes: the view of this version is in KV.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Announcement {
    version: u64,
}

/// Why a node cannot join.
#[derive(Debug, Error)]
pub enum MembershipError {
    /// A subscription could not be made.
    #[error("cannot subscribe to {subject}: {reason}")]
    Subscribe {
        /// The subject.
        subject: String,
        /// The cause.
        reason: String,
    },
    /// The bucket of the view cannot be opened.
    #[error("cannot open the bucket of the member view: {0}")]
    Bucket(#[from] LeaseError),
}

/// A node's part in the membership. Clones share it.
#[derive(Debug, Clone)]
pub struct Membership {
    member: Member,
    view: watch::Receiver<Arc<View>>,
    leave: CancellationToken,
    left: CancellationToken,
}

impl Membership {
    /// Joins: `member` sends beats from now on, until [`leave`](Self::leave) or the force of `shutdown`. When the drain
    /// begins, its beats say that it drains.
    ///
    /// # Errors
    /// When a subscription or the bucket of the view cannot be opened.
    pub async fn join(
        nats: &Nats,
        config: &MembershipConfig,
        member: Member,
        shutdown: &Shutdown,
    ) -> Result<Self, MembershipError> {
        let leases = Leases::open(nats, names::VIEW_BUCKET, member.node.clone(), kv_deadline(config)).await?;
        let (sender, view) = watch::channel(Arc::default());
        // A node that is forced to stop leaves as well.
        let (leave, left) = (shutdown.force().child_token(), CancellationToken::new());
        let follower = FollowerDriver::new(nats, config.beat_interval, leases.clone(), sender)?;
        let coordinator = match member.role {
            Role::Router => Some(CoordinatorDriver::new(nats, config, leases, &member, view.clone())?),
            Role::Gateway => None,
        };

        let drain = shutdown.drain().clone();
        let (nats, interval, own) = (nats.clone(), config.beat_interval, member.clone());
        let (leaving, done) = (leave.clone(), left.clone().drop_guard());
        let work = async move {
            let mut coordinator = coordinator;
            let coordinate = async {
                match &mut coordinator {
                    Some(coordinator) => coordinator.run().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = beats::send(&nats, interval, &own, &drain) => {}
                () = follower.run() => {}
                () = coordinate => {}
                () = leaving.cancelled() => {}
            }
            let goodbye = async {
                beats::goodbye(&nats, &own).await;
                if let Some(coordinator) = coordinator {
                    coordinator.leave(&own).await;
                }
            };
            if timeout(LEAVE_DEADLINE, goodbye).await.is_err() {
                warn!("goodbye not sent in time");
            }
            drop(done);
        };
        shutdown.spawn_beside("membership", leave.clone(), work);
        Ok(Self { member, view, leave, left })
    }

    /// The newest view that was received; version 0 before the first.
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// The member that this node joined as.
    pub fn member(&self) -> &Member {
        &self.member
    }

    /// Says goodbye, and waits until that is sent. The last thing that a node does with NATS.
    pub async fn leave(&self) {
        self.leave.cancel();
        self.left.cancelled().await;
    }
}

/// The longest time for one read or write in KV, with this configuration.
fn kv_deadline(config: &MembershipConfig) -> Duration {
    KV_DEADLINE.min(config.lease_ttl / 2)
}

/// Subscribes to messages between nodes, over our own connection, which no bytes can end.
fn subscribe(
    nats: &Nats,
    queue: &'static str,
    subject: String,
    most: usize,
) -> Result<LinkSubscriber, MembershipError> {
    let inlet = nats.link.subscribe(queue, &subject, None, most);
    inlet.map_err(|error| MembershipError::Subscribe { subject, reason: error.to_string() })
}

/// Members, for the log: the first ones, and how many others there are.
fn names_of(members: &[Member]) -> String {
    let name = |member: &Member| format!("{}{}", member.node.id, if member.draining { "(draining)" } else { "" });
    let others = members.len().saturating_sub(MOST_NAMES);
    let others = (others > 0).then(|| format!("and {others} others"));
    members.iter().take(MOST_NAMES).map(name).chain(others).collect::<Vec<_>>().join(",")
}

/// Sets the metrics of a new view.
fn measure(view: &View) {
    metrics::VIEW_VERSION.set(view.version as f64);
    for role in [Role::Router, Role::Gateway] {
        let members = view.members.iter().filter(|member| member.role == role).count();
        metrics::VIEW_MEMBERS.with(role.as_str()).set(members as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickwire_core::ids::{NodeId, NodeRef, Nonce};
    use tickwire_testkit::assert_vectors;

    #[test]
    fn log_names_so_many_members_and_counts_the_others() {
        let member = |number: usize| Member {
            node: NodeRef { id: NodeId::new(&format!("r{number}")).unwrap(), nonce: Nonce(1) },
            role: Role::Router,
            weight: 1,
            draining: number == 1,
        };
        let names = |count| names_of(&(0..count).map(member).collect::<Vec<_>>());
        assert_eq!(names(2), "r0,r1(draining)");
        assert!(names(MOST_NAMES).ends_with(",r63") && names(MOST_NAMES + 1).ends_with(",r63,and 1 others"));
        assert_eq!(names(4_096).split(',').count(), MOST_NAMES + 1);
    }

    #[test]
    fn beats_and_announcements_have_the_documented_form() {
        assert_vectors::<Beat>("beat");
        assert_vectors::<Announcement>("view_announcement");
    }
}
