//! `/v1/nodes`: what every node of the cluster reports of itself. The node that is asked asks all others over NATS, so
//! one address is enough to see the whole cluster, and no other admin server must be reachable.
//!
//! * `report` is what one node reports. Its numbers are in maps, so that nodes of neighbouring versions, which may know
//!   more or fewer of them, understand each other;
//! * `gathering` collects the reports, and knows who is silent. Pure;
//! * `gone` remembers the nodes that have left the view without a goodbye. Pure;
//! * `service` asks, and answers the questions of other nodes.

mod gathering;
mod gone;
mod report;
mod service;

pub(super) use service::NodeReports;

use super::{ROLE, Status};
use crate::api::shared::NODE;
use crate::api::{Access, ApiRefusal, Endpoint, Input, JSON, Listener, field};
use axum::Json;
use axum::extract::State;
use report::NodeReport;
use serde_json::{Value, json};
use service::KnownNodes;
use std::sync::Arc;
use tickwire_core::placement::Member;

/// What all nodes report.
pub static NODES: Endpoint = Endpoint {
    method: "GET",
    path: "/v1/nodes",
    listener: Listener::Admin,
    access: Access::Reader,
    summary: "What every node of the cluster reports of itself",
    input: Input::NONE,
    status: 200,
    media: JSON,
    fields: &[
        NODE,
        ROLE,
        field("view", "integer", "The version of the member view"),
        field("partitions", "integer", "How many partitions the stream has"),
        field("nodes", "array", "The members of the view, and this node, with their reports; a silent one has none"),
        field("gone", "array", "Nodes that left the view without a goodbye and are not back, with ago_ms; 16 at most"),
    ],
    others: &[(503, "Too many such requests wait; repeat it")],
};

pub(super) async fn show(State(reports): State<Arc<NodeReports>>) -> Result<Json<Value>, ApiRefusal> {
    let known = reports.ask().await?;
    Ok(Json(shown(reports.status(), &known)))
}

fn shown(status: &Status, KnownNodes { gathering, gone }: &KnownNodes) -> Value {
    json!({
        "node": status.me.id.as_str(),
        "role": status.role.as_str(),
        "view": gathering.view,
        "partitions": status.partitions,
        "nodes": gathering.nodes().map(|(member, report)| described(member, report)).collect::<Vec<_>>(),
        "gone": gone.iter().map(|(member, ago_ms)| described_gone(member, *ago_ms)).collect::<Vec<_>>(),
    })
}

fn described(member: &Member, report: Option<&NodeReport>) -> Value {
    json!({
        "node": member.node.id.as_str(),
        "nonce": member.node.nonce.to_string(),
        "role": member.role.as_str(),
        "draining": member.draining,
        "report": report,
    })
}

fn described_gone(member: &Member, ago_ms: u64) -> Value {
    json!({
        "node": member.node.id.as_str(),
        "nonce": member.node.nonce.to_string(),
        "role": member.role.as_str(),
        "ago_ms": ago_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickwire_core::ids::{NodeId, NodeRef, Nonce};
    use tickwire_core::placement::Role;

    #[test]
    fn silent_node_is_shown_without_a_report_and_a_gone_one_with_its_time() {
        let node = NodeRef { id: NodeId::new("gw-1").unwrap(), nonce: Nonce(7) };
        let member = Member { node, role: Role::Gateway, weight: 1, draining: true };
        let gone = json!({ "node": "gw-1", "nonce": "0000000000000007", "role": "gateway", "ago_ms": 42 });
        assert_eq!(described_gone(&member, 42), gone);
        let expected = json!({
            "node": "gw-1", "nonce": "0000000000000007", "role": "gateway", "draining": true, "report": null,
        });
        assert_eq!(described(&member, None), expected);
    }
}
