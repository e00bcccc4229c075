//! Finds the gateways of a topic: an event looks up its kind and its symbol, and tests only those gateways.

use std::collections::HashMap;
use std::sync::Arc;

use crate::event::{Event, Kind};
use crate::ids::{NodeRef, Symbol};
use crate::interest::table::wanted::WantedFields;
use crate::interest::{Topic, Want};

/// The gateways that want a topic, sorted, each with its want.
type Wanting = Vec<(NodeRef, Arc<Want>)>;

/// All topics.
#[derive(Debug, Default)]
pub(crate) struct TopicTable {
    kinds: HashMap<Kind, OfKind>,
    /// What all wants test.
    wanted: WantedFields,
    /// Incremented with every change of a want.
    state: u64,
}

#[derive(Debug, Default)]
struct OfKind {
    any: Wanting,
    symbols: HashMap<Symbol, Wanting>,
}

impl TopicTable {
    /// Sets the want of `gateway` for a topic.
    pub(crate) fn set(&mut self, gateway: &NodeRef, topic: &Topic, want: &Arc<Want>) {
        let Self { kinds, wanted, state } = self;
        let of_kind = kinds.entry(topic.kind.clone()).or_default();
        let wanting = match &topic.symbol {
            Some(symbol) => of_kind.symbols.entry(symbol.clone()).or_default(),
            None => &mut of_kind.any,
        };
        match place(wanting, gateway) {
            Ok(at) => {
                let former = std::mem::replace(&mut wanting[at].1, Arc::clone(want));
                if former == *want {
                    return;
                }
                wanted.remove(&former);
            }
            Err(at) => wanting.insert(at, (gateway.clone(), Arc::clone(want))),
        }
        wanted.add(want);
        *state += 1;
    }

    /// `gateway` no longer wants a topic.
    pub(crate) fn unset(&mut self, gateway: &NodeRef, topic: &Topic) {
        let Some(of_kind) = self.kinds.get_mut(&topic.kind) else { return };
        let removed = match &topic.symbol {
            Some(symbol) => {
                let Some(wanting) = of_kind.symbols.get_mut(symbol) else { return };
                let removed = remove(wanting, gateway);
                if wanting.is_empty() {
                    of_kind.symbols.remove(symbol);
                }
                removed
            }
            None => remove(&mut of_kind.any, gateway),
        };
        if of_kind.is_empty() {
            self.kinds.remove(&topic.kind);
        }
        if let Some(former) = removed {
            self.wanted.remove(&former);
            self.state += 1;
        }
    }

    /// Removes `gateway`.
    pub(crate) fn forget(&mut self, gateway: &NodeRef) {
        let Self { kinds, wanted, state } = self;
        let mut remove = |wanting: &mut Wanting| {
            if let Some(former) = remove(wanting, gateway) {
                wanted.remove(&former);
                *state += 1;
            }
        };
        kinds.retain(|_, of_kind| {
            remove(&mut of_kind.any);
            of_kind.symbols.retain(|_, wanting| {
                remove(wanting);
                !wanting.is_empty()
            });
            !of_kind.is_empty()
        });
    }

    /// What all wants test.
    pub(crate) fn wanted(&self) -> &WantedFields {
        &self.wanted
    }

    /// A number that changes whenever a want does.
    pub(crate) fn state(&self) -> u64 {
        self.state
    }

    /// Calls `found` once for every gateway that wants `event`.
    pub(crate) fn matching(&self, event: &Event, mut found: impl FnMut(&NodeRef)) {
        let Some(of_kind) = self.kinds.get(&event.kind) else { return };
        for (gateway, want) in &of_kind.any {
            if want.admits(event) {
                found(gateway);
            }
        }
        let Some(for_symbol) = event.symbol.as_ref().and_then(|symbol| of_kind.symbols.get(symbol)) else { return };
        let wants_any = |gateway| place(&of_kind.any, gateway).is_ok_and(|at| of_kind.any[at].1.admits(event));
        for (gateway, want) in for_symbol {
            if want.admits(event) && !wants_any(gateway) {
                found(gateway);
            }
        }
    }
}

impl OfKind {
    fn is_empty(&self) -> bool {
        self.any.is_empty() && self.symbols.is_empty()
    }
}

fn place(wanting: &Wanting, gateway: &NodeRef) -> Result<usize, usize> {
    wanting.binary_search_by(|(other, _)| other.cmp(gateway))
}

/// Removes a gateway, and returns its want.
fn remove(wanting: &mut Wanting, gateway: &NodeRef) -> Option<Arc<Want>> {
    let at = place(wanting, gateway).ok()?;
    Some(wanting.remove(at).1)
}
