//! Vectors of the ring: processes, versions and languages must agree on owners and home gateways.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde::Deserialize;
use tickwire_core::ids::{NodeId, NodeRef, Nonce, Partition, UserId};
use tickwire_core::placement::{Member, Role, View};

use crate::read::vectors;

#[derive(Deserialize)]
struct RingVector {
    name: String,
    view: View,
    /// The view's id, in hexadecimal digits.
    id: String,
    /// Users, each with the name of the home gateway.
    homes: BTreeMap<String, String>,
    /// The routers that should own partitions 0, 1, 2 ….
    owners: Vec<String>,
}

#[test]
fn homes_and_owners_are_those_of_the_vectors() {
    for vector in vectors::<Vec<RingVector>>("ring.json") {
        let name = &vector.name;
        assert_eq!(format!("{:016x}", vector.view.id().0), vector.id, "{name}");
        for (user, home) in &vector.homes {
            let found = vector.view.home(&UserId::new(user).unwrap()).map(|node| node.id.as_str());
            assert_eq!(found, Some(home.as_str()), "{name}: {user}");
        }
        let owners = vector.view.owners(u16::try_from(vector.owners.len()).unwrap());
        let owners: Vec<&str> = owners.values().map(|node| node.id.as_str()).collect();
        assert_eq!(owners, vector.owners, "{name}");
    }
}

fn view(routers: usize, gateways: usize) -> View {
    let member = |role: Role, number: usize| Member {
        node: NodeRef { id: NodeId::new(&format!("{}-{number}", role.as_str())).unwrap(), nonce: Nonce(number as u64) },
        role,
        weight: 1,
        draining: false,
    };
    let gateways = (0..gateways).map(|number| member(Role::Gateway, number));
    View {
        version: 1,
        members: gateways.chain((0..routers).map(|number| member(Role::Router, number))).collect(),
        ..View::default()
    }
}

fn users(count: usize) -> impl Iterator<Item = UserId> {
    (0..count).map(|number| UserId::new(&format!("user-{number}")).unwrap())
}

#[test]
fn users_spread_evenly_and_few_move_when_a_gateway_joins() {
    let (before, after) = (view(0, 4), view(0, 5));
    let mut homes: BTreeMap<NodeRef, usize> = BTreeMap::new();
    let mut moved = 0;
    for user in users(10_000) {
        *homes.entry(before.home(&user).unwrap().clone()).or_default() += 1;
        if before.home(&user) != after.home(&user) {
            moved += 1;
            assert_eq!(after.home(&user).unwrap().id.as_str(), "gateway-4", "users move only to the new gateway");
        }
    }
    assert!(homes.values().all(|users| (2_250..2_750).contains(users)), "{homes:?}");
    assert!((1_750..2_250).contains(&moved), "{moved}");
}

#[test]
fn view_id_depends_only_on_gateways_that_do_not_drain() {
    let base = view(2, 3);
    let mut other = base.clone();
    other.version = 9;
    other.members.retain(|member| member.role == Role::Gateway);
    assert_eq!(base.id(), other.id(), "routers and the version do not affect home gateways");
    for change in [
        |member: &mut Member| member.node.nonce = Nonce(99),
        |member: &mut Member| member.weight = 2,
        |member: &mut Member| member.draining = true,
        |member: &mut Member| member.node.id = NodeId::new("renamed").unwrap(),
    ] {
        let mut changed = base.clone();
        change(&mut changed.members[0]);
        assert_ne!(base.id(), changed.id());
    }
}

#[test]
fn draining_node_gets_no_users_or_partitions() {
    let mut drained = view(3, 3);
    for member in &mut drained.members {
        member.draining = member.node.id.as_str().ends_with("-1");
    }
    assert!(users(200).all(|user| drained.home(&user).unwrap().id.as_str() != "gateway-1"));
    assert!(drained.owners(32).values().all(|node| node.id.as_str() != "router-1"));
}

proptest! {
    #[test]
    fn every_partition_has_one_owner_and_no_router_more_than_its_share(routers in 1..12usize, partitions in 1..200u16) {
        let owners = view(routers, 2).owners(partitions);
        prop_assert_eq!(owners.len(), usize::from(partitions));
        prop_assert!(owners.keys().copied().eq((0..partitions).map(Partition)));
        let most = (usize::from(partitions) * 115).div_ceil(routers * 100);
        let mut loads: BTreeMap<&NodeRef, usize> = BTreeMap::new();
        for owner in owners.values() {
            *loads.entry(owner).or_default() += 1;
        }
        prop_assert!(loads.values().all(|load| *load <= most), "{loads:?}");
    }

    #[test]
    fn share_of_users_follows_the_weight(weight in 2..6u8) {
        let mut heavy = view(0, 2);
        heavy.members[0].weight = weight;
        let to_heavy = users(4_000).filter(|user| heavy.home(user).unwrap().id.as_str() == "gateway-0").count();
        let share = to_heavy as f64 / 4_000.0;
        let fair = f64::from(weight) / f64::from(weight + 1);
        prop_assert!((share - fair).abs() < 0.05, "{share} against {fair}");
    }
}
