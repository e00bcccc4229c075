//! The metrics of a gateway. The comments name the files that measure them.

mod labels;
mod users;

pub(crate) use users::*;

tickwire_node::metrics! {
    ALL:
    // edge.rs
    counter REFUSED_MESSAGES =
        "tickwire_gateway_refused_messages_total",
        "Messages between nodes that could not be read, or ask for an answer elsewhere than at a node",
        "Find out who may publish to `gw.>` and `tw.>`, or which node has another version.";
    histogram CONFIRM_SECONDS =
        "tickwire_gateway_confirm_seconds",
        "Time from a request to its confirmation",
        "TickwireConfirmationsSlow.";
    gauge SESSIONS =
        "tickwire_gateway_sessions",
        "Sessions on this gateway",
        "TickwireGatewayFilling.";

    // lib.rs
    gauge MAX_SESSIONS =
        "tickwire_gateway_max_sessions",
        "How many sessions this gateway accepts",
        "Nothing: the configuration, or the limit of file descriptors, sets it.";

    // edge.rs
    counter OVERDUE_TURNS =
        "tickwire_gateway_overdue_turns_total",
        "Turns of the edge after which a deadline was still overdue; any is a bug",
        "TickwireFault.";
    counter REBALANCED_SESSIONS =
        "tickwire_gateway_rebalanced_sessions_total",
        "Sessions sent away to gateways that have joined",
        "Nothing: a gateway has joined. `gateway.rebalance_rate` sets the pace.";

    // backfill/bisection.rs
    counter TIME_SEARCH_PANICS =
        "tickwire_gateway_time_search_panics_total",
        "Searches for a time that panicked",
        "TickwireFault.";

    // edge/interest.rs
    counter SNAPSHOTS =
        "tickwire_gateway_snapshots_total",
        "Snapshots of interest sent to routers",
        "A few after a start of routers. Many mean that messages between nodes are lost: look at NATS.";
    counter LARGE_DELTAS =
        "tickwire_gateway_large_deltas_total",
        "Changes of interest too large for a delta",
        "Nothing: a snapshot follows. Many mean that clients subscribe to very much at once.";
    counter UNSENT_MESSAGES by "reason" of labels::unsent =
        "tickwire_gateway_unsent_messages_total",
        "Messages to routers that could not be sent, by reason",
        "`too_large`: raise `max_payload` of NATS. `no_room`: NATS takes nothing at the moment.";
    gauge INTEREST_BYTES =
        "tickwire_gateway_interest_bytes",
        "Largest size of the interest in messages to routers, in bytes",
        "Clients subscribe to very much. It is widened where it would be too large.";
    gauge INTEREST_REVISION =
        "tickwire_gateway_interest_revision",
        "The revision of the interest that was last sent to routers",
        "Nothing: it grows with subscriptions.";
    gauge SILENT_PARTITIONS =
        "tickwire_gateway_silent_partitions",
        "Partitions of which no router reports anything",
        "TickwireSilentPartitions.";

    // edge/shard_queue.rs
    counter SHARD_SKIPPED_EVENTS =
        "tickwire_gateway_shard_skipped_events_total",
        "Events skipped because a shard was too far behind; its clients are notified of a gap",
        "TickwireShardBehind.";

    // edge/backfill.rs
    counter COHORTS =
        "tickwire_gateway_cohorts_total",
        "Cohorts of sessions whose backfill has begun",
        "Nothing: sessions resume.";
    counter BACKFILL_REQUESTS =
        "tickwire_gateway_backfill_requests_total",
        "Requests to routers for a replay that a cohort needs",
        "Nothing: sessions resume. A steady rate means that clients connect again and again.";
    counter UNANSWERED_TIME_SEARCHES =
        "tickwire_gateway_unanswered_time_searches_total",
        "Searches for a time that NATS did not answer; each is repeated",
        "TickwireTimeSearches.";
    counter BACKFILL_EVENTS =
        "tickwire_gateway_backfill_events_total",
        "Events received for cohorts",
        "Nothing: it is the load of resumes.";

    // edge/replay.rs
    counter REPLAY_REQUESTS =
        "tickwire_gateway_replay_requests_total",
        "Requests to routers for a replay that repairs a gap",
        "Messages of routers were lost: look at NATS and the network. TickwireGapsOpen if they stay open.";
    counter UNFILLED_GAPS by "reason" of labels::gaps =
        "tickwire_gateway_unfilled_gaps_total",
        "Gaps that no router could fill, by reason",
        "TickwireUnfilledGaps.";
    counter GAPS_REPAIRED =
        "tickwire_gateway_gaps_repaired_total",
        "Gaps closed by replays",
        "Messages of routers were lost, and replaced: look at NATS and the network.";
    gauge OPEN_GAPS =
        "tickwire_gateway_open_gaps",
        "Partitions with an open gap",
        "TickwireGapsOpen.";
    gauge HELD_BYTES =
        "tickwire_gateway_held_bytes",
        "Approximate size of the events that wait behind gaps, in bytes",
        "TickwireGapsOpen. `gateway.hold_bytes` bounds it.";
    histogram REPAIR_SECONDS =
        "tickwire_gateway_repair_seconds",
        "Time from the detection of a gap until a replay closed it",
        "Add routers, or raise `router.replay_rate`.";

    // edge/sections.rs
    counter BATCHES =
        "tickwire_gateway_batches_total",
        "Batches from routers",
        "Nothing: it is the load.";
    counter SECTIONS by "outcome" of labels::sections =
        "tickwire_gateway_sections_total",
        "Sections of batches, by outcome",
        "See [the outcomes](operations.md#metrics-of-clients). `unsound`, `unseen`: see who may publish to `gw.>`.";
    counter RECEIVED_EVENTS =
        "tickwire_gateway_received_events_total",
        "Events in sections, duplicates included",
        "Nothing: it is the load.";
    counter REPLAY_ANSWERS by "outcome" of labels::replay_answers =
        "tickwire_gateway_replay_answers_total",
        "Messages that answer requests for replays, by outcome or reason of the refusal",
        "TickwireGapsOpen.";
    counter REPLAYED_EVENTS =
        "tickwire_gateway_replayed_events_total",
        "Events in answers of replays, duplicates included",
        "Nothing: it is the load of resumes and repairs.";
    counter REPLAYED_BYTES =
        "tickwire_gateway_replayed_bytes_total",
        "Bytes of answers with events",
        "Nothing: it is the load of resumes and repairs.";

    // http/home.rs
    counter HOME_REQUESTS by "status"
        within "the statuses of HTTP that [http.md](http.md) names" =
        "tickwire_gateway_home_requests_total",
        "Requests for a user's home gateway, by status of the answer",
        "`404`: set `gateway.connect_url`. `401` and `403`: tokens and origins of clients.";

    // http/user.rs
    counter USER_REQUESTS by "status"
        within "the statuses of HTTP that [http.md](http.md) names" =
        "tickwire_gateway_user_requests_total",
        "Requests of users about their own sessions and saved subscriptions, by status of the answer",
        "`401` and `403`: tokens and origins of clients. `503`: look at NATS.";

    // index/metrics.rs
    gauge INDEX_FILTERS =
        "tickwire_gateway_index_filters",
        "Different filters of subscriptions, counted once per shard",
        "Nothing: it is the load.";
    gauge INDEX_SUBSCRIPTIONS =
        "tickwire_gateway_index_subscriptions",
        "Subscriptions in the indexes of all shards",
        "Nothing: it is the load.";
    gauge INDEX_ENTRIES by "dimension" of labels::dimensions =
        "tickwire_gateway_index_entries",
        "Entries of filters in lists, by dimension; for users, sessions",
        "Nothing: it is the load.";
    counter INDEX_LOOKUPS by "dimension" of labels::dimensions =
        "tickwire_gateway_index_lookups_total",
        "Lookups of values of events, by dimension",
        "Nothing: it is the load.";
    counter INDEX_HITS by "dimension" of labels::dimensions =
        "tickwire_gateway_index_hits_total",
        "Lookups that found a match, by dimension",
        "Nothing: it is the load.";
    counter INDEX_MATCHES by "dimension" of labels::dimensions =
        "tickwire_gateway_index_matches_total",
        "Filters that matched an event, by dimension",
        "Many for `any`: clients subscribe without symbols, and each event is compared with them.";
    counter INDEX_SAMPLED_EVENTS =
        "tickwire_gateway_index_sampled_events_total",
        "Events whose lookups were timed",
        "Nothing.";
    gauge INDEX_SAMPLED_SECONDS by "dimension" of labels::dimensions =
        "tickwire_gateway_index_sampled_seconds",
        "Total time of lookups for the timed events, by dimension",
        "Shows which dimension costs time when `tickwire_gateway_filter_seconds` grows.";
    counter INDEX_STALE_ENTRIES =
        "tickwire_gateway_index_stale_entries_total",
        "Entries of ended sessions that a check found in the index; any is a bug",
        "TickwireFault.";

    // reminders.rs
    counter REMINDER_READINGS by "outcome" of labels::reminder_readings =
        "tickwire_gateway_reminder_readings_total",
        "Readings of the unacknowledged alerts of a user, by outcome: none, some or failed",
        "`failed`: TickwireReminderReadings.";
    histogram REMINDER_SECONDS =
        "tickwire_gateway_reminder_seconds",
        "Time that the reading of the unacknowledged alerts of a user took",
        "Some seconds when a crowd connects. Else look at NATS.";

    // saved/driver.rs
    gauge NEWER_SUBSCRIPTIONS =
        "tickwire_gateway_newer_subscriptions",
        "Users whose saved subscriptions a newer version of tickwire has written; they are not applied here",
        "TickwireNewerSubscriptions.";
    counter SWEPT_SUBSCRIPTIONS =
        "tickwire_gateway_swept_subscriptions_total",
        "Saved subscriptions removed because nobody used them for gateway.saved_days",
        "Nothing: `gateway.saved_days` says when.";

    // shard/backfill.rs
    counter BACKFILLS by "complete" of labels::booleans =
        "tickwire_gateway_backfills_total",
        "Completed backfills, by whether they had every event of their range",
        "`false`: raise `gateway.replay_range`, or the limits of the stream.";
    counter DELAYED_BACKFILLS =
        "tickwire_gateway_delayed_backfills_total",
        "Times that a backfill had to wait because its user had used up its slots or its budget",
        "A client asks for more than `gateway.catch_up_rate`, usually in a loop: inform its author.";
    histogram BACKFILL_SECONDS =
        "tickwire_gateway_backfill_seconds",
        "Time from the start of a backfill until it was completely sent",
        "Raise `router.replay_rate`.";

    // shard/cohorts.rs
    counter ABANDONED_COHORTS =
        "tickwire_gateway_abandoned_cohorts_total",
        "Cohorts abandoned in a shard because none of their sessions read",
        "Clients connect and do not read: look at their networks.";

    // shard/reminders.rs
    counter REMINDERS by "outcome" of labels::reminders =
        "tickwire_gateway_reminders_total",
        "Unacknowledged alerts that were sent to sessions again, or why they were not: limit, quota or expired",
        "`limit`: users do not acknowledge their alerts. Raise `gateway.again_max`.";

    // shard/log.rs
    counter SUPPRESSED_SESSION_LINES =
        "tickwire_gateway_suppressed_session_lines_total",
        "Log lines about sessions that were not written because there were too many",
        "Many sessions begin and end: TickwireReconnectWave.";

    // stats.rs
    counter SHARD_EVENTS =
        "tickwire_gateway_shard_events_total",
        "Events passed to a shard, counted once per shard",
        "Nothing: it is the load.";
    counter SHARD_UNMATCHED_EVENTS =
        "tickwire_gateway_shard_unmatched_events_total",
        "Events that matched no session of a shard",
        "Near `tickwire_gateway_shard_events_total`: the interest is much wider than the filters.";
    histogram FILTER_SECONDS =
        "tickwire_gateway_filter_seconds",
        "Time in which a shard found the subscriptions that an event matches, of one event in 64",
        "See `tickwire_gateway_index_sampled_seconds` for the dimension.";
    counter PRIORITY_EVENTS by "priority" of labels::priorities =
        "tickwire_gateway_priority_events_total",
        "Events passed to a shard, by priority, counted once per shard",
        "Nothing: it is the load.";
    histogram RECEIVE_LAG_SECONDS =
        "tickwire_gateway_receive_lag_seconds",
        "Time from when the stream stored an event until a batch brought it to this gateway, of one frame in 64",
        "Compare with `tickwire_router_lag_seconds`: the difference is the way from the router. Look at NATS.";
    histogram DELIVERY_SECONDS =
        "tickwire_gateway_delivery_seconds",
        "Time from when the stream stored an event until it was written to a socket, of one frame in 64",
        "See which stage takes the time: [Stages](#stages).";
    histogram DELIVER_SECONDS =
        "tickwire_gateway_deliver_seconds",
        "Time from the arrival of a batch until an event of it was written to a socket, of one frame in 64",
        "TickwireDeliverySlow.";
    counter DELIVERIES =
        "tickwire_gateway_deliveries_total",
        "Events completely written to sockets",
        "Nothing: it is the load. It falls to 0 if [nothing arrives](operations.md#nothing-arrives).";
    counter FRAMES =
        "tickwire_gateway_frames_total",
        "WebSocket frames written to sockets",
        "Nothing: it is the load.";
    counter SENT_BYTES =
        "tickwire_gateway_sent_bytes_total",
        "Bytes of frames written to sockets",
        "TickwireEgressHigh.";
    counter EARLY_FRAMES =
        "tickwire_gateway_early_frames_total",
        "Frames that overtook waiting events of other lanes",
        "Nothing: urgent events overtake others.";
    counter PROMOTED_EVENTS =
        "tickwire_gateway_promoted_events_total",
        "Events sent before their lane's turn because they had waited too long",
        "A high rate means that sessions have more urgent events than they can be sent.";
    counter UNSENT_EVENTS =
        "tickwire_gateway_unsent_events_total",
        "Events that still waited to be sent when their client left",
        "Nothing: a resume delivers them.";
    counter DROPPED_EVENTS by "reason" of labels::drops =
        "tickwire_gateway_dropped_events_total",
        "Dropped events that a session should have had, by reason; after `closed` a resume replays them",
        "TickwireManyDrops.";
    counter CONFLATED_EVENTS by "reason" of labels::conflations =
        "tickwire_gateway_conflated_events_total",
        "Events replaced by newer ones of their key",
        "As for drops: TickwireManyDrops.";
    counter DELAYED_EVENTS by "reason" of labels::delays =
        "tickwire_gateway_delayed_events_total",
        "Urgent events delayed by their budget",
        "A producer publishes very many critical events, or a rule gives too many `priority_first`.";
    counter NOTICES by "code" of labels::notices =
        "tickwire_gateway_notices_total",
        "Notices sent to sessions, by code",
        "By the `code`: [protocol.md](protocol.md).";
    counter GAPS_NOTIFIED by "reason" of labels::notified_gaps =
        "tickwire_gateway_gaps_notified_total",
        "Gaps that sessions were notified of, by reason, counted once per shard",
        "TickwireUnfilledGaps; `overload`: TickwireShardBehind.";
    counter CLOSES by "code" of labels::close_codes =
        "tickwire_gateway_closes_total",
        "Sessions closed by the gateway, by close code",
        "TickwireSlowClients; the other codes: [Metrics of clients](operations.md#metrics-of-clients).";
    counter TOKEN_RENEWALS =
        "tickwire_gateway_token_renewals_total",
        "Sessions that replaced their token",
        "Nothing.";
    counter CONNECTIONS =
        "tickwire_gateway_connections_total",
        "Requests for a WebSocket",
        "TickwireReconnectWave.";
    counter REFUSED_UPGRADES by "status" of labels::upgrade_refusals =
        "tickwire_gateway_refused_upgrades_total",
        "Requests for a WebSocket that were refused, by status",
        "`503`: TickwireUpgradesRefused. The others: [Metrics of clients](operations.md#metrics-of-clients).";
    counter DISPLACED_SOCKETS =
        "tickwire_gateway_displaced_sockets_total",
        "Unauthenticated sockets closed to make room for new ones",
        "TickwireConnectionFlood.";
    counter COMMAND_PAUSES =
        "tickwire_gateway_command_pauses_total",
        "Times that a session or its user exceeded its command rate and was not read for a while",
        "A client sends requests in a loop: inform its author.";
    counter EDGE_QUEUE_FULL =
        "tickwire_gateway_edge_queue_full_total",
        "Times that a shard stopped reading commands because too much waited for the edge",
        "Very many subscriptions change at once. The gateway needs more processor if it lasts.";
    counter REFUSED_FRAMES by "code" of labels::error_codes =
        "tickwire_gateway_refused_frames_total",
        "Client frames refused, by error code",
        "Inform the authors of the clients. 405, 414 and 416 are limits.";
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use tickwire_node::metrics::rows;
    use tickwire_testkit::assert_table;

    #[test]
    fn the_metrics_are_those_of_the_document() {
        let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
        // One after the other, since each may write the document.
        assert_table(&document, "Gateways", &rows(super::ALL));
        assert_table(&document, "Watched users", &rows(super::OF_USERS));
    }
}
