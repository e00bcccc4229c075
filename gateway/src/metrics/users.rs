//! The metrics of watched users, which `status/watched.rs` measures. There are none for other users, so the number of
//! series is bounded by `gateway.watched_users`.

tickwire_node::metrics! {
    OF_USERS:
    gauge USER_SESSIONS by "user"
        within "`gateway.watched_users`" =
        "tickwire_gateway_user_sessions",
        "Sessions of a watched user on this gateway",
        "0 on all gateways: the user is not connected.";
    counter USER_EVENTS by "user"
        within "`gateway.watched_users`" =
        "tickwire_gateway_user_events_total",
        "Events written to sockets of a watched user",
        "If it stands still, see [Nothing arrives](operations.md#nothing-arrives).";
    counter USER_BYTES by "user"
        within "`gateway.watched_users`" =
        "tickwire_gateway_user_sent_bytes_total",
        "Bytes of frames written to sockets of a watched user",
        "Nothing: it is the load.";
    counter USER_DROPPED_EVENTS by "user"
        within "`gateway.watched_users`, with `reason`: `slow_consumer`, `throttled`, `quota`, `expired`" =
        "tickwire_gateway_user_dropped_events_total",
        "Events dropped that a watched user should have had, by reason; the client was notified",
        "By the reason, as for TickwireManyDrops.";
    counter USER_CONFLATED_EVENTS by "user"
        within "`gateway.watched_users`" =
        "tickwire_gateway_user_conflated_events_total",
        "Events of a watched user replaced by newer ones of their key",
        "As for drops: TickwireManyDrops.";
    counter USER_GAPS by "user"
        within "`gateway.watched_users`" =
        "tickwire_gateway_user_gaps_total",
        "Gaps that a watched user was notified of",
        "TickwireUnfilledGaps.";
    gauge USER_WAITING_EVENTS by "user"
        within "`gateway.watched_users`" =
        "tickwire_gateway_user_waiting_events",
        "Events that wait to be sent to a watched user",
        "The client reads too slowly, or uses up the rate of its user.";
    gauge USER_LAST_SEEN by "user"
        within "`gateway.watched_users`" =
        "tickwire_gateway_user_last_seen_timestamp_seconds",
        "When a watched user last had a session on this gateway, in seconds since 1970; 0 if never since its start",
        "An old time on all gateways: the client does not reach a gateway, or its token is refused.";
}
