//! `/v1/cluster`: the members, what the ring gives them, and what the role of this node knows.

use super::Status;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use tickwire_core::ids::{NodeId, NodeRef, Partition};
use tickwire_core::placement::{Member, Role, View};

pub(super) fn report(status: &Status) -> Value {
    let view = status.view.borrow().clone();
    let owners = view.owners(status.partitions);
    let members: Vec<Value> = view.members.iter().map(|member| described(member, &view, &owners)).collect();
    let by_partition = owners.iter().map(|(partition, owner)| (partition.to_string(), json!(owner.id.as_str())));
    json!({
        "node": status.me.id.as_str(),
        "role": status.role.as_str(),
        "nonce": status.me.nonce.to_string(),
        "view": view.version,
        "partitions": status.partitions,
        "members": members,
        "owners": by_partition.collect::<Map<String, Value>>(),
        "status": status.of_role.cluster(),
    })
}

fn described(member: &Member, view: &View, owners: &BTreeMap<Partition, NodeRef>) -> Value {
    let Member { node: NodeRef { id, nonce }, role, weight, draining } = member;
    json!({
        "node": id.as_str(),
        "nonce": nonce.to_string(),
        "role": role.as_str(),
        "weight": weight,
        "draining": draining,
        "share": share(member, view, owners),
    })
}

/// The part of the ring that a member has, from 0 to 1. The shares of routers are counted, those of gateways expected.
fn share(member: &Member, view: &View, owners: &BTreeMap<Partition, NodeRef>) -> f64 {
    if member.draining {
        return 0.0;
    }
    match member.role {
        Role::Router => part(count(owners, &member.node.id), owners.len()),
        Role::Gateway => {
            let weight = |member: &Member| usize::from(member.weight.max(1));
            part(weight(member), view.available(Role::Gateway).map(weight).sum())
        }
    }
}

fn count(owners: &BTreeMap<Partition, NodeRef>, router: &NodeId) -> usize {
    owners.values().filter(|owner| owner.id == *router).count()
}

fn part(count: usize, of: usize) -> f64 {
    if of == 0 { 0.0 } else { count as f64 / of as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickwire_core::ids::Nonce;

    #[test]
    fn shares_of_a_role_add_up_to_one() {
        let member = |name: &str, role, weight, draining| Member {
            node: NodeRef { id: NodeId::new(name).unwrap(), nonce: Nonce(1) },
            role,
            weight,
            draining,
        };
        let members = vec![
            member("g1", Role::Gateway, 1, false),
            member("g2", Role::Gateway, 3, false),
            member("g3", Role::Gateway, 1, true),
            member("r1", Role::Router, 1, false),
            member("r2", Role::Router, 1, false),
        ];
        let view = View { version: 1, members, ..View::default() };
        let owners = view.owners(32);
        let shares: Vec<f64> = view.members.iter().map(|member| share(member, &view, &owners)).collect();
        assert_eq!(shares[..3], [0.25, 0.75, 0.0]);
        assert_eq!(shares[3] + shares[4], 1.0);
        assert_eq!(share(&view.members[3], &view, &BTreeMap::new()), 0.0);
    }
}
