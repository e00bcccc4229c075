//! The metrics of a router. The comments name the files that measure them.

use tickwire_core::event::decode::Reason;

tickwire_node::metrics! {
    ALL:
    // dispatch.rs
    counter BATCHES =
        "tickwire_router_batches_total",
        "Batches published to gateways";
    counter BATCHES_LOST =
        "tickwire_router_batches_lost_total",
        "Batches that could not be published";
    histogram BATCH_BYTES =
        "tickwire_router_batch_bytes",
        "The sizes of batches";
    histogram LAG_SECONDS =
        "tickwire_router_lag_seconds",
        "The time from when the stream stored an event until it was published to a gateway";

    // engine/driver.rs
    counter MATCHES =
        "tickwire_router_matches_total",
        "Matches of an event and the interest of a gateway";

    // route_cache.rs
    counter ROUTE_CACHE_HITS by "stage" of crate::route_cache::stages =
        "tickwire_router_route_cache_hits_total",
        "Lookups of the route cache that found a decision, by what is decided";
    counter ROUTE_CACHE_MISSES by "stage" of crate::route_cache::stages =
        "tickwire_router_route_cache_misses_total",
        "Lookups of the route cache that found none, by what is decided";
    counter ROUTE_CACHE_EVICTIONS by "stage" of crate::route_cache::stages =
        "tickwire_router_route_cache_evictions_total",
        "Decisions that were removed from the route cache to make room, by what is decided";
    gauge ROUTE_CACHE_ENTRIES by "stage" =
        "tickwire_router_route_cache_entries",
        "Decisions in the route cache, by what is decided";

    // intake/driver.rs
    gauge PENDING_MESSAGES =
        "tickwire_router_pending_messages",
        "Messages of this router's partitions that waited in the stream when it last read them";

    // intake.rs
    counter MESSAGES by "what" =
        "tickwire_router_messages_total",
        "Messages read from the stream, by what they are";
    counter INTAKE_RESTARTS by "cause" =
        "tickwire_router_intake_restarts_total",
        "Consumers created again, by cause";
    counter LEADER_READS =
        "tickwire_router_leader_reads_total",
        "Messages read from the leader of the stream because consumers had failed at them";
    counter SKIPPED_RANGES =
        "tickwire_router_skipped_ranges_total",
        "Ranges that retention removed before they were read; gateways see each as a gap";
    counter UNVERIFIED_RANGES =
        "tickwire_router_unverified_ranges_total",
        "Ranges delivered without a check for missing messages, because the stream could not be walked";

    // rules.rs
    counter RULE_MATCHES by "fate" of crate::rules::fates =
        "tickwire_router_rule_matches_total",
        "Events that a rule matched when they were first read, by what became of them";

    // rules/apply.rs
    counter RULES_TOO_LARGE =
        "tickwire_router_rules_too_large_total",
        "Events that went without the transforms of rules, which would have made them too large";

    // rules/driver.rs
    gauge RULE_REVISION =
        "tickwire_router_rule_revision",
        "The revision of the rules by which this router routes events";
    gauge RULES_SKIPPED =
        "tickwire_router_rules_skipped",
        "Rules that this router skips because they are not valid";

    // enrich/driver.rs
    gauge CONTEXT_AGE by "what" =
        "tickwire_router_context_age_seconds",
        "How far what this router knows for the context of events lags behind, by what it is";
    gauge REFERENCE_ENTRIES =
        "tickwire_router_reference_entries",
        "The symbols that this router has reference data of";
    counter REFERENCE_IGNORED =
        "tickwire_router_reference_ignored_total",
        "Changes of reference data that were ignored because of too many symbols, at each reading of them";

    counter CONTEXT_MARKETS_LEFT_OUT =
        "tickwire_router_context_markets_left_out_total",
        "Market records for which there was no room, or which made room for others";

    // enrich/tenure.rs
    counter CONTEXT_NOT_LOADED =
        "tickwire_router_context_not_loaded_total",
        "Averages and market records of the last owner of a partition that this router could not load";
    counter CONTEXT_REFUSED by "reason" of crate::enrich::tenure::refusals =
        "tickwire_router_context_refused_total",
        "Market records and averages of other routers that were refused, by reason";

    // enrich/writer.rs
    counter CONTEXT_WRITES_LOST by "reason" of crate::enrich::writer::losses =
        "tickwire_router_context_writes_lost_total",
        "Market records and averages that were not written for other routers, by reason";

    // interest.rs
    counter INTEREST_REFUSED by "reason" =
        "tickwire_router_interest_refused_total",
        "Interest messages of gateways that were refused, by reason";
    counter SNAPSHOT_REQUESTS =
        "tickwire_router_snapshot_requests_total",
        "Requests to gateways for their whole interest";

    // dead_letters.rs
    counter DEAD_LETTERS by "reason" of dead_letter_reasons =
        "tickwire_dead_letters_total",
        "Messages stored as dead letters, by reason";
    counter DEAD_LETTERS_LOST by "reason" of dead_letter_reasons =
        "tickwire_dead_letters_lost_total",
        "Dead letters that could not be stored, by reason; the messages stay in the stream of events";

    // ownership/driver.rs
    counter LEASES_LOST =
        "tickwire_router_leases_lost_total",
        "Leases that another router took while this one held them";
    counter STREAM_LOSSES =
        "tickwire_router_stream_losses_total",
        "Times that the stream was found to have lost messages that had been read";

    // ownership/status.rs
    gauge PARTITIONS =
        "tickwire_router_partitions",
        "The partitions that this router owns";

    // replay.rs
    counter REPLAY_REQUESTS =
        "tickwire_router_replay_requests_total",
        "Requests for replays that came to this router";
    counter REPLAYS by "outcome" =
        "tickwire_router_replays_total",
        "Answers to requests for replays, by how much of the range they cover";
    counter REPLAYS_REFUSED by "reason" =
        "tickwire_router_replays_refused_total",
        "Requests for replays that were refused, by reason";
    counter REPLAY_MESSAGES =
        "tickwire_router_replay_messages_total",
        "Messages of the stream read again for replays";
    counter REPLAY_EVENTS =
        "tickwire_router_replay_events_total",
        "Events in answers to requests for replays";
    counter REPLAY_BYTES =
        "tickwire_router_replay_bytes_total",
        "Bytes of events in answers to requests for replays";
    counter REPLAY_PARTS_LOST =
        "tickwire_router_replay_parts_lost_total",
        "Messages of answers to requests for replays that could not be published";
    counter UNVERIFIED_PASSES =
        "tickwire_router_unverified_passes_total",
        "Passes refused because the stream changed its leader, or could not be checked for missing messages";
    histogram REPLAY_SECONDS =
        "tickwire_router_replay_seconds",
        "Time from the start of a replay until it was answered";

    // alerts.rs
    counter ALERT_REQUESTS by "outcome" =
        "tickwire_router_alert_requests_total",
        "Requests of gateways for alerts of a user that may come again, by outcome";

    // walk.rs
    counter MISSING_MESSAGES =
        "tickwire_router_missing_messages_total",
        "Messages that the stream lacks although no limit has removed them; each router counts each once";
    counter WALKED_MESSAGES =
        "tickwire_router_walked_messages_total",
        "Messages of the stream that walks have read to find missing ones";
}

/// Why messages cannot be read.
fn dead_letter_reasons() -> Vec<&'static str> {
    Reason::ALL.iter().map(|reason| reason.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use tickwire_node::metrics::{listed, rows};

    #[test]
    fn the_metrics_are_those_of_the_document() {
        assert_eq!(rows(super::ALL), listed(include_str!("../../docs/metrics.md"), "Routers"));
    }
}
