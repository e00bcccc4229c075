//! The metrics of every node. The comments name the files that measure them.

use super::labels;

crate::metrics! {
    OF_ALL:
    // api/refusal.rs
    counter API_REFUSALS by "code"
        within "the codes of [http.md](http.md)" =
        "tickwire_admin_refusals_total",
        "Requests that the admin server refused, by code",
        "See who asks: `401` codes are tokens, the others wrong requests. [http.md](http.md) has the codes.";

    // bucket/unreadable.rs
    counter UNREADABLE_VALUES by "bucket" of labels::buckets =
        "tickwire_unreadable_bucket_values_total",
        "Values of buckets that could not be read and do not count, by bucket",
        "TickwireUnreadableValues.";

    // epoch.rs
    counter REFUSED_EPOCHS by "source" of crate::epoch::sources =
        "tickwire_refused_epochs_total",
        "Epochs refused because hardly another could follow them, by where they were stated",
        "TickwireEpochsRefused.";

    // http.rs
    counter HTTP_CONNECTIONS by "server" of labels::servers =
        "tickwire_http_connections_total",
        "Connections to the HTTP servers, WebSockets included",
        "Nothing: it is the load.";
    counter HTTP_DISPLACED_CONNECTIONS by "server" of labels::servers =
        "tickwire_http_displaced_connections_total",
        "Waiting connections that were ended to make room for new ones",
        "TickwireConnectionFlood.";
    counter HTTP_REFUSED_CONNECTIONS by "server" of labels::servers =
        "tickwire_http_refused_connections_total",
        "Connections refused because every other connection was being answered",
        "TickwireConnectionFlood.";
    counter HTTP_TIMEOUTS by "late" of labels::phases =
        "tickwire_http_timeouts_total",
        "Connections ended at a deadline, by what was late",
        "Clients or balancers are slow, or send no request: see `gateway.head_timeout`, `gateway.idle_timeout`.";
    counter HTTP_ACCEPT_ERRORS by "server" of labels::servers =
        "tickwire_http_accept_errors_total",
        "Connections that the system could not accept",
        "Raise the limit of file descriptors: TickwireDescriptors.";
    counter HTTP_REFUSED_PROXY_HEADERS by "reason" of crate::http::proxy_header::faults =
        "tickwire_http_refused_proxy_headers_total",
        "Connections refused for want of a valid PROXY header, by reason",
        "See `PROXY header refused` in the log: the balancer sends none, or somebody reaches the gateway past it.";

    // link.rs
    counter NATS_DROPPED_MESSAGES by "queue" of labels::queues =
        "tickwire_nats_dropped_messages_total",
        "Messages from NATS that were dropped because too many bytes waited, by queue",
        "TickwireNatsMessagesDropped.";

    // membership.rs
    counter MEMBERSHIP_BEATS_REFUSED =
        "tickwire_membership_beats_refused_total",
        "Membership beats refused because their content is not valid",
        "Find out who may publish to `tw.>`, or which node has another version.";
    counter VIEW_ANNOUNCEMENTS_REFUSED =
        "tickwire_view_announcements_refused_total",
        "Announcements of the member view that could not be read",
        "Find out who may publish to `tw.>`, or which node has another version.";
    counter NATS_EVENTS by "event" of labels::nats_events =
        "tickwire_nats_events_total",
        "Events of the connections to NATS, by event",
        "Breaks: TickwireNatsDisconnected. `server_error` and `link_refusal`: look at the permissions.";
    gauge VIEW_VERSION =
        "tickwire_view_version",
        "The version of the member view that this node has",
        "TickwireViewsDiffer.";
    gauge VIEW_MEMBERS by "role" of labels::roles =
        "tickwire_view_members",
        "The members of the view, by role",
        "Compare with the nodes that you run: one that is missing does not reach NATS.";
    gauge COORDINATOR =
        "tickwire_coordinator",
        "Whether this node is the coordinator",
        "TickwireCoordinator.";

    // duplicate_names.rs
    gauge DUPLICATE_NAMES =
        "tickwire_duplicate_names",
        "Other nodes that have the name of this node",
        "TickwireDuplicateName.";
    counter REFUSED_NAME_ANNOUNCEMENTS =
        "tickwire_refused_name_announcements_total",
        "Announcements of names that could not be read, or are of another name",
        "Find out who may publish to `tw.>`, or which node has another version.";

    // secrets/follower.rs
    counter SECRET_RELOADS by "what" of crate::secrets::kinds =
        "tickwire_secret_reloads_total",
        "Changes of files of secrets that this node has put into effect, by what they are for",
        "Nothing: it shows that a rotation is done.";
    counter SECRET_RELOAD_FAILURES by "what" of crate::secrets::kinds =
        "tickwire_secret_reload_failures_total",
        "Files of secrets that became invalid, and new secrets that were refused, by what they are for",
        "Nothing during a rotation: see `tickwire_secret_troubles`.";

    // secrets/troubles.rs
    gauge SECRET_TROUBLES by "what" of crate::secrets::kinds =
        "tickwire_secret_troubles",
        "Connections, or sets of keys for tokens, whose files are invalid or hold what is refused, by what they are for",
        "TickwireSecretReloads.";

    // shutdown.rs
    counter CONNECTION_PANICS by "part"
        within "the parts of the code that serve a connection or a request" =
        "tickwire_connection_panics_total",
        "Connections that ended by a panic, by part",
        "TickwireFault.";

    // status/nodes/service.rs
    counter REFUSED_NODE_MESSAGES =
        "tickwire_refused_node_messages_total",
        "Questions and answers about the reports of nodes that were refused",
        "Find out who may publish to `tw.>`, or which node has another version.";

    // storage/reports.rs
    gauge STORAGE_TROUBLES by "fault" of labels::faults =
        "tickwire_storage_troubles",
        "Streams of NATS with a storage problem, by fault",
        "TickwireStorageTrouble, for `replicas` TickwireStreamReplicas.";
    counter STORAGE_REPORTS_REFUSED =
        "tickwire_storage_reports_refused_total",
        "Unreadable storage reports from routers",
        "Find out who may publish to `tw.>`, or which node has another version.";

    // users/service.rs
    counter REFUSED_USER_MESSAGES =
        "tickwire_refused_user_messages_total",
        "Questions and answers about users that were refused",
        "Find out who may publish to `tw.>`, or which node has another version.";

    // telemetry.rs
    info BUILD_INFO by "version, role, node"
        within "those of each node" =
        "tickwire_build_info",
        "The version, role and name of this node; always 1",
        "During an upgrade: shows which nodes have the old version. TickwireNoData if there is none.";
    gauge PROCESS_START_TIME_SECONDS =
        "tickwire_process_start_time_seconds",
        "When the node started, in seconds since 1970",
        "TickwireRestarts.";

    // traces.rs
    counter TRACED_EVENTS by "outcome" of crate::traces::event_outcomes =
        "tickwire_traced_events_total",
        "Events to be traced, by whether they are or `traces.rate` has cut them off",
        "`over_rate`: lower `traces.ratio`, or raise `traces.rate`.";
    counter TRACE_SPANS by "outcome" of crate::traces::span_outcomes =
        "tickwire_trace_spans_total",
        "Recorded spans, by what became of them",
        "`failed` and `queue_full`: look at the collector at `traces.endpoint`. Events are not concerned.";

    // admin/readiness.rs
    gauge CHECK_OK by "check"
        within "the checks of [Is it ready?](operations.md#is-it-ready)" =
        "tickwire_check_ok",
        "Whether a check of /readyz is met: 1, or 0 if not",
        "TickwireNotReady, for `nats` TickwireNatsDisconnected.";

    // start.rs
    gauge STREAM_PARTITIONS =
        "tickwire_stream_partitions",
        "The partitions of the stream, as configured",
        "Nothing: it is fixed once the stream exists.";
    gauge MAX_DESCRIPTORS =
        "tickwire_process_max_descriptors",
        "How many file descriptors the process may have",
        "TickwireDescriptors.";

    // resources.rs
    gauge OPEN_DESCRIPTORS =
        "tickwire_process_open_descriptors",
        "How many file descriptors the process has, 0 where the system does not say",
        "TickwireDescriptors.";
    gauge RESIDENT_BYTES =
        "tickwire_process_resident_bytes",
        "How much memory the process has, 0 where the system does not say",
        "Add nodes, or lower `gateway.max_sessions` and `gateway.outbox_bytes`.";

    // clock_offset.rs
    gauge CLOCK_OFFSET_SECONDS =
        "tickwire_clock_offset_seconds",
        "How far the clock of this node is ahead of that of NATS, below 0 if it is behind; 0 until it is known",
        "TickwireClockOff.";
}

crate::metrics! {
    OF_ROUTERS:
    // lease.rs
    counter OVERWRITTEN_LEASES =
        "tickwire_overwritten_leases_total",
        "Leases found overwritten by something that is not a tickwire node",
        "TickwireLeasesOverwritten.";

    // storage/watch.rs
    gauge COPIES_BEHIND =
        "tickwire_storage_copies_behind",
        "The most copies of one stream or bucket that have been gone or behind for ten seconds",
        "TickwireCopiesBehind.";
    counter STREAMS_RESTORED =
        "tickwire_streams_restored_total",
        "Streams that this router has created again, or whose settings it has restored",
        "TickwireStreamRestored.";
}

#[cfg(test)]
mod tests {
    use crate::metrics::rows;
    use std::path::Path;
    use tickwire_testkit::assert_table;

    #[test]
    fn the_metrics_are_those_of_the_document() {
        let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
        // One after the other, since each may write the document.
        assert_table(&document, "Every node", &rows(super::OF_ALL));
        assert_table(&document, "Every router", &rows(super::OF_ROUTERS));
    }
}
