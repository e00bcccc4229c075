//! The metrics of every node. The comments name the files that measure them.

crate::metrics! {
    OF_ALL:
    // api/refusal.rs
    counter API_REFUSALS by "code" =
        "tickwire_admin_refusals_total",
        "Requests that the admin server refused, by code";

    // bucket/unreadable.rs
    counter UNREADABLE_VALUES by "bucket" =
        "tickwire_unreadable_bucket_values_total",
        "Values of buckets that could not be read and do not count, by bucket";

    // epoch.rs
    counter REFUSED_EPOCHS by "source" of crate::epoch::sources =
        "tickwire_refused_epochs_total",
        "Epochs refused because hardly another could follow them, by where they were stated";

    // http.rs
    counter HTTP_CONNECTIONS by "server" =
        "tickwire_http_connections_total",
        "Connections to the HTTP servers, WebSockets included";
    counter HTTP_DISPLACED_CONNECTIONS by "server" =
        "tickwire_http_displaced_connections_total",
        "Waiting connections that were ended to make room for new ones";
    counter HTTP_REFUSED_CONNECTIONS by "server" =
        "tickwire_http_refused_connections_total",
        "Connections refused because every other connection was being answered";
    counter HTTP_TIMEOUTS by "late" =
        "tickwire_http_timeouts_total",
        "Connections ended at a deadline, by what was late";
    counter HTTP_ACCEPT_ERRORS by "server" =
        "tickwire_http_accept_errors_total",
        "Connections that the system could not accept";
    counter HTTP_REFUSED_PROXY_HEADERS by "reason" =
        "tickwire_http_refused_proxy_headers_total",
        "Connections refused for want of a valid PROXY header, by reason";

    // link.rs
    counter NATS_DROPPED_MESSAGES by "queue" =
        "tickwire_nats_dropped_messages_total",
        "Messages from NATS that were dropped because too many bytes waited, by queue";

    // membership.rs
    counter MEMBERSHIP_BEATS_REFUSED =
        "tickwire_membership_beats_refused_total",
        "Membership beats refused because their content is not valid";
    counter VIEW_ANNOUNCEMENTS_REFUSED =
        "tickwire_view_announcements_refused_total",
        "Announcements of the member view that could not be read";
    counter NATS_EVENTS by "event" =
        "tickwire_nats_events_total",
        "Events of the connections to NATS, by event";
    gauge VIEW_VERSION =
        "tickwire_view_version",
        "The version of the member view that this node has";
    gauge VIEW_MEMBERS by "role" =
        "tickwire_view_members",
        "The members of the view, by role";
    gauge COORDINATOR =
        "tickwire_coordinator",
        "Whether this node is the coordinator";

    // duplicate_names.rs
    gauge DUPLICATE_NAMES =
        "tickwire_duplicate_names",
        "Other nodes that have the name of this node";
    counter REFUSED_NAME_ANNOUNCEMENTS =
        "tickwire_refused_name_announcements_total",
        "Announcements of names that could not be read, or are of another name";

    // secrets/follower.rs
    counter SECRET_RELOADS by "what" of crate::secrets::kinds =
        "tickwire_secret_reloads_total",
        "Changes of files of secrets that this node has put into effect, by what they are for";
    counter SECRET_RELOAD_FAILURES by "what" of crate::secrets::kinds =
        "tickwire_secret_reload_failures_total",
        "Files of secrets that became invalid, and new secrets that were refused, by what they are for";

    // shutdown.rs
    counter CONNECTION_PANICS by "part" =
        "tickwire_connection_panics_total",
        "Connections that ended by a panic, by part";

    // storage/reports.rs
    gauge STORAGE_TROUBLES by "fault" =
        "tickwire_storage_troubles",
        "Streams of NATS with a storage problem, by fault";
    counter STORAGE_REPORTS_REFUSED =
        "tickwire_storage_reports_refused_total",
        "Unreadable storage reports from routers";

    // users/service.rs
    counter REFUSED_USER_MESSAGES =
        "tickwire_refused_user_messages_total",
        "Questions and answers about users that were refused";

    // telemetry.rs
    gauge BUILD_INFO =
        "tickwire_build_info",
        "The version, role and name of this node; always 1";
    gauge PROCESS_START_TIME_SECONDS =
        "tickwire_process_start_time_seconds",
        "When the node started, in seconds since 1970";

    // traces.rs
    counter TRACED_EVENTS by "outcome" of crate::traces::event_outcomes =
        "tickwire_traced_events_total",
        "Events to be traced, by whether they are or `traces.rate` has cut them off";
    counter TRACE_SPANS by "outcome" of crate::traces::span_outcomes =
        "tickwire_trace_spans_total",
        "Recorded spans, by what became of them";
}

crate::metrics! {
    OF_ROUTERS:
    // lease.rs
    counter OVERWRITTEN_LEASES =
        "tickwire_overwritten_leases_total",
        "Leases found overwritten by something that is not a tickwire node";

    // storage/watch.rs
    counter STREAMS_RESTORED =
        "tickwire_streams_restored_total",
        "Streams that this router has created again, or whose settings it has restored";
}

#[cfg(test)]
mod tests {
    use crate::metrics::{listed, rows};

    #[test]
    fn the_metrics_are_those_of_the_document() {
        let document = include_str!("../../../docs/metrics.md");
        assert_eq!(rows(super::OF_ALL), listed(document, "Every node"));
        assert_eq!(rows(super::OF_ROUTERS), listed(document, "Every router"));
    }
}
