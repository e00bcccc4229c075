//! Finds the gateways of a topic: an event looks up its kind and its symbol, and tests only those gateways.

use std::collections::HashMap;
use std::sync::Arc;

use crate::event::{Event, Kind};
use crate::ids::{NodeRef, Symbol};
use crate::interest::{Topic, Want};

/// The gateways that want a topic, sorted, each with its want.
type Wanting = Vec<(NodeRef, Arc<Want>)>;

/// All topics.
#[derive(Debug, Default)]
pub(crate) struct TopicTable {
    kinds: HashMap<Kind, OfKind>,
}

#[derive(Debug, Default)]
struct OfKind {
    any: Wanting,
    symbols: HashMap<Symbol, Wanting>,
}

impl TopicTable {
    /// Sets the want of `gateway` for a topic.
    pub(crate) fn set(&mut self, gateway: &NodeRef, topic: &Topic, want: &Arc<Want>) {
        let of_kind = self.kinds.entry(topic.kind.clone()).or_default();
        let wanting = match &topic.symbol {
            Some(symbol) => of_kind.symbols.entry(symbol.clone()).or_default(),
            None => &mut of_kind.any,
        };
        match place(wanting, gateway) {
            Ok(at) => wanting[at].1 = Arc::clone(want),
            Err(at) => wanting.insert(at, (gateway.clone(), Arc::clone(want))),
        }
    }

    /// `gateway` no longer wants a topic.
    pub(crate) fn unset(&mut self, gateway: &NodeRef, topic: &Topic) {
        let Some(of_kind) = self.kinds.get_mut(&topic.kind) else { return };
        match &topic.symbol {
            Some(symbol) => {
                if let Some(wanting) = of_kind.symbols.get_mut(symbol) {
                    remove(wanting, gateway);
                    if wanting.is_empty() {
                        of_kind.symbols.remove(symbol);
                    }
                }
            }
            None => remove(&mut of_kind.any, gateway),
        }
        if of_kind.is_empty() {
            self.kinds.remove(&topic.kind);
        }
    }

    /// Removes `gateway`.
    pub(crate) fn forget(&mut self, gateway: &NodeRef) {
        self.kinds.retain(|_, of_kind| {
            remove(&mut of_kind.any, gateway);
            of_kind.symbols.retain(|_, wanting| {
                remove(wanting, gateway);
                !wanting.is_empty()
            });
            !of_kind.is_empty()
        });
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

fn remove(wanting: &mut Wanting, gateway: &NodeRef) {
    if let Ok(at) = place(wanting, gateway) {
        wanting.remove(at);
    }
}
