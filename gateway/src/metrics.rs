//! The metrics of a gateway. The comments name the files that measure them.

use tickwire_core::coverage::GapReason;
use tickwire_core::event::Priority;

tickwire_node::metrics! {
    ALL:
    // edge.rs
    counter REFUSED_MESSAGES =
        "tickwire_gateway_refused_messages_total",
        "Messages between nodes that could not be read, or ask for an answer elsewhere than at a node";
    histogram CONFIRM_SECONDS =
        "tickwire_gateway_confirm_seconds",
        "Time from a request to its confirmation";
    gauge SESSIONS =
        "tickwire_gateway_sessions",
        "Sessions on this gateway";
    counter OVERDUE_TURNS =
        "tickwire_gateway_overdue_turns_total",
        "Turns of the edge after which a deadline was still overdue; any is a bug";
    counter REBALANCED_SESSIONS =
        "tickwire_gateway_rebalanced_sessions_total",
        "Sessions sent away to gateways that have joined";

    // backfill/bisection.rs
    counter TIME_SEARCH_PANICS =
        "tickwire_gateway_time_search_panics_total",
        "Searches for a time that panicked";

    // edge/interest.rs
    counter SNAPSHOTS =
        "tickwire_gateway_snapshots_total",
        "Snapshots of interest sent to routers";
    counter LARGE_DELTAS =
        "tickwire_gateway_large_deltas_total",
        "Changes of interest too large for a delta";
    counter UNSENT_MESSAGES by "reason" =
        "tickwire_gateway_unsent_messages_total",
        "Messages to routers that could not be sent, by reason";
    gauge INTEREST_BYTES =
        "tickwire_gateway_interest_bytes",
        "Largest size of the interest in messages to routers, in bytes";
    gauge INTEREST_REVISION =
        "tickwire_gateway_interest_revision",
        "The revision of the interest that was last sent to routers";
    gauge SILENT_PARTITIONS =
        "tickwire_gateway_silent_partitions",
        "Partitions of which no router reports anything";

    // edge/shard_queue.rs
    counter SHARD_SKIPPED_EVENTS =
        "tickwire_gateway_shard_skipped_events_total",
        "Events skipped because a shard was too far behind; its clients are notified of a gap";

    // edge/backfill.rs
    counter COHORTS =
        "tickwire_gateway_cohorts_total",
        "Cohorts of sessions whose backfill has begun";
    counter BACKFILL_REQUESTS =
        "tickwire_gateway_backfill_requests_total",
        "Requests to routers for a replay that a cohort needs";
    counter UNANSWERED_TIME_SEARCHES =
        "tickwire_gateway_unanswered_time_searches_total",
        "Searches for a time that NATS did not answer; each is repeated";
    counter BACKFILL_EVENTS =
        "tickwire_gateway_backfill_events_total",
        "Events received for cohorts";

    // edge/replay.rs
    counter REPLAY_REQUESTS =
        "tickwire_gateway_replay_requests_total",
        "Requests to routers for a replay that repairs a gap";
    counter UNFILLED_GAPS by "reason" of gap_reasons =
        "tickwire_gateway_unfilled_gaps_total",
        "Gaps that no router could fill, by reason";
    counter GAPS_REPAIRED =
        "tickwire_gateway_gaps_repaired_total",
        "Gaps closed by replays";
    gauge OPEN_GAPS =
        "tickwire_gateway_open_gaps",
        "Partitions with an open gap";
    gauge HELD_BYTES =
        "tickwire_gateway_held_bytes",
        "Approximate size of the events that wait behind gaps, in bytes";
    histogram REPAIR_SECONDS =
        "tickwire_gateway_repair_seconds",
        "Time from the detection of a gap until a replay closed it";

    // edge/sections.rs
    counter BATCHES =
        "tickwire_gateway_batches_total",
        "Batches from routers";
    counter SECTIONS by "outcome" =
        "tickwire_gateway_sections_total",
        "Sections of batches, by outcome";
    counter RECEIVED_EVENTS =
        "tickwire_gateway_received_events_total",
        "Events in sections, duplicates included";
    counter REPLAY_ANSWERS by "outcome" =
        "tickwire_gateway_replay_answers_total",
        "Messages that answer requests for replays, by outcome or reason of the refusal";
    counter REPLAYED_EVENTS =
        "tickwire_gateway_replayed_events_total",
        "Events in answers of replays, duplicates included";
    counter REPLAYED_BYTES =
        "tickwire_gateway_replayed_bytes_total",
        "Bytes of answers with events";

    // http/home.rs
    counter HOME_REQUESTS by "status" =
        "tickwire_gateway_home_requests_total",
        "Requests for a user's home gateway, by status of the answer";

    // http/user.rs
    counter USER_REQUESTS by "status" =
        "tickwire_gateway_user_requests_total",
        "Requests of users about their own sessions and saved subscriptions, by status of the answer";

    // index/metrics.rs
    gauge INDEX_FILTERS =
        "tickwire_gateway_index_filters",
        "Different filters of subscriptions, counted once per shard";
    gauge INDEX_SUBSCRIPTIONS =
        "tickwire_gateway_index_subscriptions",
        "Subscriptions in the indexes of all shards";
    gauge INDEX_ENTRIES by "dimension" =
        "tickwire_gateway_index_entries",
        "Entries of filters in lists, by dimension; for users, sessions";
    counter INDEX_LOOKUPS by "dimension" =
        "tickwire_gateway_index_lookups_total",
        "Lookups of values of events, by dimension";
    counter INDEX_HITS by "dimension" =
        "tickwire_gateway_index_hits_total",
        "Lookups that found a match, by dimension";
    counter INDEX_MATCHES by "dimension" =
        "tickwire_gateway_index_matches_total",
        "Filters that matched an event, by dimension";
    counter INDEX_SAMPLED_EVENTS =
        "tickwire_gateway_index_sampled_events_total",
        "Events whose lookups were timed";
    gauge INDEX_SAMPLED_SECONDS by "dimension" =
        "tickwire_gateway_index_sampled_seconds",
        "Total time of lookups for the timed events, by dimension";
    counter INDEX_STALE_ENTRIES =
        "tickwire_gateway_index_stale_entries_total",
        "Entries of ended sessions that a check found in the index; any is a bug";

    // reminders.rs
    counter REMINDER_READINGS by "outcome" =
        "tickwire_gateway_reminder_readings_total",
        "Readings of the unacknowledged alerts of a user, by outcome: none, some or failed";
    histogram REMINDER_SECONDS =
        "tickwire_gateway_reminder_seconds",
        "Time that the reading of the unacknowledged alerts of a user took";

    // saved/driver.rs
    gauge NEWER_SUBSCRIPTIONS =
        "tickwire_gateway_newer_subscriptions",
        "Users whose saved subscriptions a newer version of tickwire has written; they are not applied here";
    counter SWEPT_SUBSCRIPTIONS =
        "tickwire_gateway_swept_subscriptions_total",
        "Saved subscriptions removed because nobody used them for gateway.saved_days";

    // shard/backfill.rs
    counter BACKFILLS by "complete" =
        "tickwire_gateway_backfills_total",
        "Completed backfills, by whether they had every event of their range";
    counter DELAYED_BACKFILLS =
        "tickwire_gateway_delayed_backfills_total",
        "Times that a backfill had to wait because its user had used up its slots or its budget";
    histogram BACKFILL_SECONDS =
        "tickwire_gateway_backfill_seconds",
        "Time from the start of a backfill until it was completely sent";

    // shard/cohorts.rs
    counter ABANDONED_COHORTS =
        "tickwire_gateway_abandoned_cohorts_total",
        "Cohorts abandoned in a shard because none of their sessions read";

    // shard/reminders.rs
    counter REMINDERS by "outcome" =
        "tickwire_gateway_reminders_total",
        "Unacknowledged alerts that were sent to sessions again, or why they were not: limit, quota or expired";

    // shard/log.rs
    counter SUPPRESSED_SESSION_LINES =
        "tickwire_gateway_suppressed_session_lines_total",
        "Log lines about sessions that were not written because there were too many";

    // stats.rs
    counter SHARD_EVENTS =
        "tickwire_gateway_shard_events_total",
        "Events passed to a shard, counted once per shard";
    counter SHARD_UNMATCHED_EVENTS =
        "tickwire_gateway_shard_unmatched_events_total",
        "Events that matched no session of a shard";
    histogram FILTER_SECONDS =
        "tickwire_gateway_filter_seconds",
        "Time in which a shard found the subscriptions that an event matches, of one event in 64";
    counter PRIORITY_EVENTS by "priority" of priorities =
        "tickwire_gateway_priority_events_total",
        "Events passed to a shard, by priority, counted once per shard";
    histogram DELIVERY_SECONDS =
        "tickwire_gateway_delivery_seconds",
        "Time from when the stream stored an event until it was written to a socket, of one frame in 64";
    histogram DELIVER_SECONDS =
        "tickwire_gateway_deliver_seconds",
        "Time from the arrival of a batch until an event of it was written to a socket, of one frame in 64";
    counter DELIVERIES =
        "tickwire_gateway_deliveries_total",
        "Events completely written to sockets";
    counter FRAMES =
        "tickwire_gateway_frames_total",
        "WebSocket frames written to sockets";
    counter SENT_BYTES =
        "tickwire_gateway_sent_bytes_total",
        "Bytes of frames written to sockets";
    counter EARLY_FRAMES =
        "tickwire_gateway_early_frames_total",
        "Frames that overtook waiting events of other lanes";
    counter PROMOTED_EVENTS =
        "tickwire_gateway_promoted_events_total",
        "Events sent before their lane's turn because they had waited too long";
    counter UNSENT_EVENTS =
        "tickwire_gateway_unsent_events_total",
        "Events that still waited to be sent when their client left";
    counter DROPPED_EVENTS by "reason" =
        "tickwire_gateway_dropped_events_total",
        "Dropped events that a session should have had, by reason; after `closed` a resume replays them";
    counter CONFLATED_EVENTS by "reason" =
        "tickwire_gateway_conflated_events_total",
        "Events replaced by newer ones of their key";
    counter DELAYED_EVENTS by "reason" =
        "tickwire_gateway_delayed_events_total",
        "Urgent events delayed by their budget";
    counter NOTICES by "code" =
        "tickwire_gateway_notices_total",
        "Notices sent to sessions, by code";
    counter GAPS_NOTIFIED by "reason" =
        "tickwire_gateway_gaps_notified_total",
        "Gaps that sessions were notified of, by reason, counted once per shard";
    counter CLOSES by "code" =
        "tickwire_gateway_closes_total",
        "Sessions closed by the gateway, by close code";
    counter TOKEN_RENEWALS =
        "tickwire_gateway_token_renewals_total",
        "Sessions that replaced their token";
    counter CONNECTIONS =
        "tickwire_gateway_connections_total",
        "Requests for a WebSocket";
    counter REFUSED_UPGRADES by "status" of upgrade_refusals =
        "tickwire_gateway_refused_upgrades_total",
        "Requests for a WebSocket that were refused, by status";
    counter DISPLACED_SOCKETS =
        "tickwire_gateway_displaced_sockets_total",
        "Unauthenticated sockets closed to make room for new ones";
    counter COMMAND_PAUSES =
        "tickwire_gateway_command_pauses_total",
        "Times that a session or its user exceeded its command rate and was not read for a while";
    counter EDGE_QUEUE_FULL =
        "tickwire_gateway_edge_queue_full_total",
        "Times that a shard stopped reading commands because too much waited for the edge";
    counter REFUSED_FRAMES by "code" =
        "tickwire_gateway_refused_frames_total",
        "Client frames refused, by error code";
}

/// Why ranges cannot be given.
fn gap_reasons() -> Vec<&'static str> {
    GapReason::ALL.map(GapReason::as_str).to_vec()
}

/// How urgent events are.
fn priorities() -> Vec<&'static str> {
    Priority::ALL.iter().map(|priority| priority.as_str()).collect()
}

/// The statuses that refuse a request for a WebSocket.
fn upgrade_refusals() -> Vec<&'static str> {
    vec!["400", "403", "426", "503"]
}

#[cfg(test)]
mod tests {
    use tickwire_node::metrics::{listed, rows};

    #[test]
    fn the_metrics_are_those_of_the_document() {
        assert_eq!(rows(super::ALL), listed(include_str!("../../docs/metrics.md"), "Gateways"));
    }
}
