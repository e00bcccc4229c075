//! What a client may subscribe to: the subscription that it gets for its request, and the limits of all subscriptions of
//! a connection. Frames and saved subscriptions are checked by the same code. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tickwire_core::event::Kinds;
use tickwire_core::filter::Filter;
use tickwire_core::protocol::codes::ErrorCode;
use tickwire_core::protocol::{Subscription, SubscriptionName, SubscriptionRequest};
use tickwire_node::config::GatewayConfig;

/// Why a subscription is refused: the code, and the text for the client.
pub(crate) type SubscriptionFault = (ErrorCode, String);

/// How much of the limits of a connection a filter uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FilterSize {
    pub(crate) symbols: usize,
    pub(crate) bytes: usize,
}

impl FilterSize {
    pub(crate) fn of(filter: &Filter) -> Self {
        Self { symbols: symbols(filter), bytes: filter.bytes() }
    }
}

/// The number of symbols of a filter.
pub(crate) fn symbols(filter: &Filter) -> usize {
    filter.symbols.as_ref().map_or(0, BTreeSet::len)
}

/// The subscription that a client gets for its request, within the limits of the configuration.
pub(crate) fn grant(
    config: &GatewayConfig,
    kinds: &Kinds,
    name: &SubscriptionName,
    wanted: &SubscriptionRequest,
) -> Result<Subscription, SubscriptionFault> {
    let filter = wanted.filter.resolve(kinds);
    let filter = filter.map_err(|error| (ErrorCode::BadFilter, format!("{:?}: {error}", name.as_str())))?;
    let usual = u16::try_from(config.window.as_millis()).unwrap_or(u16::MAX);
    let window_ms = if config.batching { wanted.window_ms.unwrap_or(usual) } else { 0 };
    let most = (config.max_events_per_hour > 0).then_some(config.max_events_per_hour);
    let max_events_per_hour = [wanted.quota(), most].into_iter().flatten().min();
    Ok(Subscription { filter: Arc::new(filter), window_ms, max_events_per_hour, alert: wanted.alert })
}

/// Checks the number of subscriptions of a connection.
pub(crate) fn check_subscriptions(config: &GatewayConfig, count: usize) -> Result<(), SubscriptionFault> {
    check_count("subscription", count, config.max_subscriptions, ErrorCode::SubscriptionLimit)
}

/// Checks the number of symbols in all filters of a connection.
pub(crate) fn check_symbols(config: &GatewayConfig, count: usize) -> Result<(), SubscriptionFault> {
    check_count("symbol", count, config.max_symbols, ErrorCode::SymbolLimit)
}

/// Checks the size of all filters of a connection.
pub(crate) fn check_bytes(config: &GatewayConfig, bytes: usize) -> Result<(), SubscriptionFault> {
    let most = config.max_filter_bytes;
    if bytes <= most {
        return Ok(());
    }
    let message = format!("filters may take {most} bytes per connection, these take {bytes}; use smaller filters");
    Err((ErrorCode::FilterBudget, message))
}

/// Checks the size of all filters of a user on this gateway.
pub(crate) fn check_user_bytes(config: &GatewayConfig, bytes: usize) -> Result<(), SubscriptionFault> {
    let most = config.user_filter_bytes;
    if bytes <= most {
        return Ok(());
    }
    let message = format!(
        "the filters of all connections of a user may take {most} bytes (gateway.user_filter_bytes); use smaller filters, \
         or close connections"
    );
    Err((ErrorCode::FilterBudget, message))
}

/// Checks all subscriptions that a connection would have.
pub(crate) fn check_all(
    config: &GatewayConfig,
    sizes: &BTreeMap<SubscriptionName, FilterSize>,
) -> Result<(), SubscriptionFault> {
    check_subscriptions(config, sizes.len())?;
    check_symbols(config, sizes.values().map(|size| size.symbols).sum())?;
    check_bytes(config, sizes.values().map(|size| size.bytes).sum())
}

fn check_count(what: &str, count: usize, most: usize, code: ErrorCode) -> Result<(), SubscriptionFault> {
    if count <= most {
        return Ok(());
    }
    Err((code, format!("{what} limit is {most} per connection")))
}
