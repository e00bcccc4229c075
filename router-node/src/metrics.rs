//! The metrics of a router. The comments name the files that measure them.

mod labels;

tickwire_node::metrics! {
    ALL:
    // dispatch.rs
    counter BATCHES =
        "tickwire_router_batches_total",
        "Batches published to gateways",
        "Nothing: it is the load. See [scaling.md](scaling.md).";
    counter BATCHES_LOST =
        "tickwire_router_batches_lost_total",
        "Batches that could not be published",
        "TickwireBatchesLost.";
    histogram BATCH_BYTES =
        "tickwire_router_batch_bytes",
        "The sizes of batches",
        "Nothing. Many near `router.flush_bytes` mean that gateways get more than a window collects.";
    histogram PUBLISH_SECONDS =
        "tickwire_router_publish_seconds",
        "The time that the connection to NATS took to accept what was sent to a gateway at one time",
        "Look at NATS and the network: it takes messages slowly.";
    histogram LAG_SECONDS =
        "tickwire_router_lag_seconds",
        "The time from when the stream stored an event until it was published to a gateway",
        "TickwireRouterLag.";

    // engine/driver.rs
    counter MATCHES =
        "tickwire_router_matches_total",
        "Matches of an event and the interest of a gateway",
        "Nothing: it is the load.";
    histogram ROUTE_SECONDS =
        "tickwire_router_route_seconds",
        "The time of a turn in which events were matched against the interest of all gateways",
        "The router needs more processor, or add routers. Rules or subscriptions may be costly: see the route cache.";

    // route_cache.rs
    counter ROUTE_CACHE_HITS by "stage" of crate::route_cache::stages =
        "tickwire_router_route_cache_hits_total",
        "Lookups of the route cache that found a decision, by what is decided",
        "Compare with the misses.";
    counter ROUTE_CACHE_MISSES by "stage" of crate::route_cache::stages =
        "tickwire_router_route_cache_misses_total",
        "Lookups of the route cache that found none, by what is decided",
        "See [Metrics of clients](operations.md#metrics-of-clients).";
    counter ROUTE_CACHE_EVICTIONS by "stage" of crate::route_cache::stages =
        "tickwire_router_route_cache_evictions_total",
        "Decisions that were removed from the route cache to make room, by what is decided",
        "Raise `router.route_cache_bytes`.";
    gauge ROUTE_CACHE_ENTRIES by "stage" of crate::route_cache::stages =
        "tickwire_router_route_cache_entries",
        "Decisions in the route cache, by what is decided",
        "Nothing: `router.route_cache_bytes` bounds it.";

    // intake/driver.rs
    histogram READ_LAG_SECONDS =
        "tickwire_router_read_lag_seconds",
        "The time from when the stream stored a message until it was read, of the last message of each reading",
        "Look at NATS, its disk and the network: it delivers late. After an outage this passes by itself.";
    gauge PENDING_MESSAGES =
        "tickwire_router_pending_messages",
        "Messages of this router's partitions that waited in the stream when it last read them",
        "TickwireRouterBehind.";

    // intake.rs
    counter MESSAGES by "what" of labels::messages =
        "tickwire_router_messages_total",
        "Messages read from the stream, by what they are",
        "`dead_letter`: TickwireDeadLetters. `dropped`: see the rules. `tick` alone means that no producer publishes.";
    counter INTAKE_RESTARTS by "cause" of labels::restarts =
        "tickwire_router_intake_restarts_total",
        "Consumers created again, by cause",
        "One is normal after a break. Many of one source show a fault of NATS: see the log `intake restarted`.";
    counter LEADER_READS =
        "tickwire_router_leader_reads_total",
        "Messages read from the leader of the stream because consumers had failed at them",
        "Look at the log of nats-server if it happens often.";
    counter SKIPPED_RANGES =
        "tickwire_router_skipped_ranges_total",
        "Ranges that retention removed before they were read; gateways see each as a gap",
        "TickwireSkippedRanges.";
    counter UNVERIFIED_RANGES =
        "tickwire_router_unverified_ranges_total",
        "Ranges delivered without a check for missing messages, because the stream could not be walked",
        "Look at NATS: it does not answer direct gets in time.";

    // rules.rs
    counter RULE_MATCHES by "fate" of crate::rules::fates =
        "tickwire_router_rule_matches_total",
        "Events that a rule matched when they were first read, by what became of them",
        "If events are missing, see [Nothing arrives](operations.md#nothing-arrives): rules drop them.";

    // rules/apply.rs
    counter RULES_TOO_LARGE =
        "tickwire_router_rules_too_large_total",
        "Events that went without the transforms of rules, which would have made them too large",
        "Make the transforms of the rules smaller, see [rules.md](rules.md).";

    // rules/driver.rs
    gauge RULE_REVISION =
        "tickwire_router_rule_revision",
        "The revision of the rules by which this router routes events",
        "TickwireRulesDiffer.";
    gauge RULES_SKIPPED =
        "tickwire_router_rules_skipped",
        "Rules that this router skips because they are not valid",
        "TickwireRulesSkipped.";

    // enrich/driver.rs
    gauge CONTEXT_AGE by "what" of labels::contexts =
        "tickwire_router_context_age_seconds",
        "How far what this router knows for the context of events lags behind, by what it is",
        "TickwireContextOld.";
    gauge REFERENCE_ENTRIES =
        "tickwire_router_reference_entries",
        "The symbols that this router has reference data of",
        "Compare with the symbols that you loaded.";
    counter REFERENCE_IGNORED =
        "tickwire_router_reference_ignored_total",
        "Changes of reference data that were ignored because of too many symbols, at each reading of them",
        "TickwireReferenceFull.";

    counter CONTEXT_MARKETS_LEFT_OUT =
        "tickwire_router_context_markets_left_out_total",
        "Market records for which there was no room, or which made room for others",
        "TickwireTooManyMarkets.";

    // enrich/tenure.rs
    counter CONTEXT_NOT_LOADED =
        "tickwire_router_context_not_loaded_total",
        "Averages and market records of the last owner of a partition that this router could not load",
        "Events go without averages until later ones state them again. If it repeats, look at NATS.";
    counter CONTEXT_REFUSED by "reason" of crate::enrich::tenure::refusals =
        "tickwire_router_context_refused_total",
        "Market records and averages of other routers that were refused, by reason",
        "TickwireContextRefused.";

    // enrich/writer.rs
    counter CONTEXT_WRITES_LOST by "reason" of crate::enrich::writer::losses =
        "tickwire_router_context_writes_lost_total",
        "Market records and averages that were not written for other routers, by reason",
        "TickwireContextWritesLost.";

    // interest.rs
    counter INTEREST_REFUSED by "reason" of labels::interest_refusals =
        "tickwire_router_interest_refused_total",
        "Interest messages of gateways that were refused, by reason",
        "`unreadable`: another version, or a stranger. `other_gateway`, `taken_back`: a stranger. The others: too many gateways or subscriptions for one router.";
    counter SNAPSHOT_REQUESTS =
        "tickwire_router_snapshot_requests_total",
        "Requests to gateways for their whole interest",
        "A few after a start. Many mean that messages between nodes are lost: look at NATS.";

    // dead_letters.rs
    counter DEAD_LETTERS by "reason" of labels::dead_letters =
        "tickwire_dead_letters_total",
        "Messages stored as dead letters, by reason",
        "TickwireDeadLetters.";
    counter DEAD_LETTERS_LOST by "reason" of labels::dead_letters =
        "tickwire_dead_letters_lost_total",
        "Dead letters that could not be stored, by reason; the messages stay in the stream of events",
        "TickwireDeadLettersLost.";

    // ownership/driver.rs
    counter LEASES_LOST =
        "tickwire_router_leases_lost_total",
        "Leases that another router took while this one held them",
        "TickwireLeasesLost.";
    counter STREAM_LOSSES =
        "tickwire_router_stream_losses_total",
        "Times that the stream was found to have lost messages that had been read",
        "TickwireStreamLoss.";

    // ownership/status.rs
    gauge PARTITIONS =
        "tickwire_router_partitions",
        "The partitions that this router owns",
        "TickwirePartitionOwners.";
    gauge GATEWAYS_NOT_AWAITED =
        "tickwire_router_gateways_not_awaited",
        "Gateways of the member view whose interest this router does not know, and no longer waits for",
        "See `interest` in [Is it ready?](operations.md#is-it-ready).";

    // replay.rs
    counter REPLAY_REQUESTS =
        "tickwire_router_replay_requests_total",
        "Requests for replays that came to this router",
        "Gateways have gaps, or clients resume: see their `tickwire_gateway_replay_requests_total`.";
    counter REPLAYS by "outcome" of labels::replays =
        "tickwire_router_replays_total",
        "Answers to requests for replays, by how much of the range they cover",
        "`removed`: raise the limits of the stream. `partial` is normal for long ranges.";
    counter REPLAYS_REFUSED by "reason" of labels::replay_refusals =
        "tickwire_router_replays_refused_total",
        "Requests for replays that were refused, by reason",
        "`busy`: add routers, or raise `router.replay_rate`. `malformed`, `…_request`: see who may publish to `tw.>`.";
    counter REPLAY_MESSAGES =
        "tickwire_router_replay_messages_total",
        "Messages of the stream read again for replays",
        "Nothing: `router.replay_rate` bounds it.";
    counter REPLAY_EVENTS =
        "tickwire_router_replay_events_total",
        "Events in answers to requests for replays",
        "Nothing: it is the load of resumes and repairs.";
    counter REPLAY_BYTES =
        "tickwire_router_replay_bytes_total",
        "Bytes of events in answers to requests for replays",
        "Nothing: it is the load of resumes and repairs.";
    counter REPLAY_PARTS_LOST =
        "tickwire_router_replay_parts_lost_total",
        "Messages of answers to requests for replays that could not be published",
        "Look at NATS. Gateways ask again.";
    counter UNVERIFIED_PASSES =
        "tickwire_router_unverified_passes_total",
        "Passes refused because the stream changed its leader, or could not be checked for missing messages",
        "Look at NATS: its leaders change, or do not answer. Gateways ask again.";
    histogram REPLAY_SECONDS =
        "tickwire_router_replay_seconds",
        "Time from the start of a replay until it was answered",
        "Add routers, or raise `router.replay_rate`.";

    // alerts.rs
    counter ALERT_REQUESTS by "outcome" of labels::alert_requests =
        "tickwire_router_alert_requests_total",
        "Requests of gateways for alerts of a user that may come again, by outcome",
        "`failed`: look at NATS, TickwireReminderReadings. `busy`, `late`: add routers. The others: find out who may publish to `tw.>`.";

    // walk.rs
    counter MISSING_MESSAGES =
        "tickwire_router_missing_messages_total",
        "Messages that the stream lacks although no limit has removed them; each router counts each once",
        "TickwireMessagesMissing.";
    counter WALKED_MESSAGES =
        "tickwire_router_walked_messages_total",
        "Messages of the stream that walks have read to find missing ones",
        "Nothing: the cost of looking for missing messages.";
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use tickwire_node::metrics::rows;
    use tickwire_testkit::assert_table;

    #[test]
    fn the_metrics_are_those_of_the_document() {
        let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
        assert_table(&document, "Routers", &rows(super::ALL));
    }
}
