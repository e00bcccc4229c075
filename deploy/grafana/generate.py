#!/usr/bin/env python3
"""Writes the dashboards of this folder from the panels below: `python3 deploy/grafana/generate.py`.

With `--check` it writes nothing, and fails if a dashboard differs. `$S` in a query stands for the selector of the
dashboard: its job, and its instance or user where the dashboard has such a variable.
"""

import json
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / "dashboards"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
NAMES = ["overview", "gateway", "router", "user"]

# The unit of Grafana for ours.
UNITS = {"": "short", "/s": "cps", "s": "s", "B": "bytes", "B/s": "Bps", "%": "percentunit", "ago": "s"}


def rate(metric, by=""):
    """What a counter grows in a second."""
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{{$S}}[$__rate_interval]))"


def total(metric, by=""):
    """The sum of a gauge over all nodes."""
    return f"sum{f' by ({by})' if by else ''} ({metric}{{$S}})"


def quantile(part, metric):
    """A quantile of a histogram."""
    return f"histogram_quantile({part}, sum by (le) (rate({metric}_bucket{{$S}}[$__rate_interval])))"


def mean(metric):
    """The mean of a histogram."""
    return f"{rate(metric + '_sum')} / {rate(metric + '_count')}"


def quantiles(metric):
    """The median and the 99th percentile."""
    return [(quantile(part, metric), name) for part, name in [(0.5, "median"), (0.99, "p99")]]


# Each panel: its title, what it shows and what to do, its unit, and its queries with their legends.
OVERVIEW = [
    ("State", [
        ("Nodes", "Nodes that answer, by role. Fewer than you run: TickwireNodeDown.", "",
         [("count by (role) (tickwire_build_info{$S})", "{{role}}")]),
        ("Alerts", "Firing alerts. See docs/operations.md#alerts for each.", "",
         [('count by (alertname) (ALERTS{$S, alertstate="firing"}) or vector(0)', "{{alertname}}")]),
        ("Checks not met", "Checks of /readyz that are not met. /readyz of the node has the reason.", "",
         [("count by (instance, check) (tickwire_check_ok{$S} == 0) or vector(0)", "{{instance}} {{check}}")]),
        ("Partitions", "The owned partitions should be those of the stream: TickwirePartitionOwners.", "",
         [(total("tickwire_router_partitions"), "owned"), ("max(tickwire_stream_partitions{$S})", "of the stream")]),
        ("Sessions", "Sessions of all gateways, and how many they accept. Near the limit: start more gateways.", "",
         [(total("tickwire_gateway_sessions"), "sessions"), (total("tickwire_gateway_max_sessions"), "limit")]),
        ("Versions", "Nodes by version. Two only during an upgrade: routers first, then gateways.", "",
         [("count by (version) (tickwire_build_info{$S})", "{{version}}")]),
    ]),
    ("Flow", [
        ("Messages read", "Messages of the stream by what they are. Only `tick`: no producer publishes.", "/s",
         [(rate("tickwire_router_messages_total", "what"), "{{what}}")]),
        ("Events on their way", "Events that routers match, gateways receive, and clients get. Where does it fall?", "/s",
         [(rate("tickwire_router_matches_total"), "matches"), (rate("tickwire_gateway_received_events_total"), "received"),
          (rate("tickwire_gateway_deliveries_total"), "delivered")]),
        ("Dropped", "Events that clients did not get, by reason: TickwireManyDrops.", "/s",
         [(rate("tickwire_gateway_dropped_events_total", "reason"), "{{reason}}")]),
        ("Egress", "Bytes written to sockets: TickwireEgressHigh.", "B/s",
         [(rate("tickwire_gateway_sent_bytes_total", "instance"), "{{instance}}")]),
    ]),
    ("Latency", [
        ("Stored to written", "The whole way of an event. See the stages for where the time goes.", "s",
         quantiles("tickwire_gateway_delivery_seconds")),
        ("Stages", "Means of the stages of the way: docs/metrics.md#stages.", "s",
         [(mean("tickwire_router_read_lag_seconds"), "stored to read"), (mean("tickwire_router_route_seconds"), "routed"),
          (mean("tickwire_router_publish_seconds"), "published"), (mean("tickwire_router_lag_seconds"), "stored to published"),
          (mean("tickwire_gateway_receive_lag_seconds"), "stored to received"),
          (mean("tickwire_gateway_deliver_seconds"), "received to written")]),
        ("Router lag", "From the stream to a gateway: TickwireRouterLag.", "s", quantiles("tickwire_router_lag_seconds")),
        ("Confirmations", "From `subscribe` to `subscribed`: TickwireConfirmationsSlow.", "s",
         quantiles("tickwire_gateway_confirm_seconds")),
    ]),
    ("Health", [
        ("Gaps", "Open gaps and silent partitions should be 0: TickwireGapsOpen, TickwireSilentPartitions.", "",
         [(total("tickwire_gateway_open_gaps"), "open"), (total("tickwire_gateway_silent_partitions"), "silent partitions")]),
        ("Unfilled gaps", "Gaps of which clients were notified, by reason: TickwireUnfilledGaps.", "/s",
         [(rate("tickwire_gateway_unfilled_gaps_total", "reason"), "{{reason}}")]),
        ("Storage of NATS", "Streams with a problem, by fault, and copies on servers that are gone or behind: "
         "TickwireStorageTrouble, TickwireCopiesBehind.", "",
         [("max by (fault) (tickwire_storage_troubles{$S})", "{{fault}}"),
          ("max(tickwire_storage_copies_behind{$S})", "copies behind")]),
        ("Dead letters", "Messages that cannot be read, by reason: TickwireDeadLetters.", "/s",
         [(rate("tickwire_dead_letters_total", "reason"), "{{reason}}")]),
        ("Connections to NATS", "What happens to them: TickwireNatsDisconnected.", "/s",
         [(rate("tickwire_nats_events_total", "event"), "{{event}}")]),
        ("Clocks", "How far nodes are ahead of NATS: TickwireClockOff.", "s",
         [("tickwire_clock_offset_seconds{$S}", "{{instance}}")]),
    ]),
    ("Resources", [
        ("Memory", "Resident memory of each node.", "B", [("tickwire_process_resident_bytes{$S}", "{{instance}}")]),
        ("File descriptors", "The part of its limit that each node uses: TickwireDescriptors.", "%",
         [("tickwire_process_open_descriptors{$S} / tickwire_process_max_descriptors{$S}", "{{instance}}")]),
        ("Running for", "How long each node runs. Short and short again: TickwireRestarts.", "ago",
         [("time() - tickwire_process_start_time_seconds{$S}", "{{instance}}")]),
    ]),
]

GATEWAY = [
    ("Sessions", [
        ("Sessions", "Near the limit: TickwireGatewayFilling.", "",
         [("tickwire_gateway_sessions{$S}", "{{instance}}"), ("tickwire_gateway_max_sessions{$S}", "{{instance}} limit")]),
        ("Connections", "Requests for a WebSocket. A wave: TickwireReconnectWave.", "/s",
         [(rate("tickwire_gateway_connections_total", "instance"), "{{instance}}")]),
        ("Refused requests", "By status. 503: TickwireUpgradesRefused.", "/s",
         [(rate("tickwire_gateway_refused_upgrades_total", "status"), "{{status}}")]),
        ("Closes", "By code. 4008 and 4010: TickwireSlowClients. docs/protocol.md has all codes.", "/s",
         [(rate("tickwire_gateway_closes_total", "code"), "{{code}}")]),
        ("Refused frames", "By code of the error. Inform the authors of the clients.", "/s",
         [(rate("tickwire_gateway_refused_frames_total", "code"), "{{code}}")]),
        ("Pauses and displaced", "Clients that ask too much, and floods: TickwireConnectionFlood.", "/s",
         [(rate("tickwire_gateway_command_pauses_total"), "command pauses"),
          (rate("tickwire_gateway_displaced_sockets_total"), "displaced sockets"),
          (rate("tickwire_http_displaced_connections_total"), "displaced connections"),
          (rate("tickwire_http_refused_connections_total"), "refused connections")]),
    ]),
    ("Delivery", [
        ("Events", "Events written to sockets, and passed to shards.", "/s",
         [(rate("tickwire_gateway_deliveries_total"), "delivered"), (rate("tickwire_gateway_shard_events_total"), "to shards"),
          (rate("tickwire_gateway_shard_unmatched_events_total"), "matched nobody")]),
        ("Priorities", "Events by priority.", "/s", [(rate("tickwire_gateway_priority_events_total", "priority"), "{{priority}}")]),
        ("Bytes", "What the network has to carry: TickwireEgressHigh.", "B/s",
         [(rate("tickwire_gateway_sent_bytes_total"), "bytes")]),
        ("Events in a frame", "More with larger windows, which cost less processor.", "",
         [(f"{rate('tickwire_gateway_deliveries_total')} / {rate('tickwire_gateway_frames_total')}", "events")]),
        ("Dropped", "By reason: TickwireManyDrops.", "/s", [(rate("tickwire_gateway_dropped_events_total", "reason"), "{{reason}}")]),
        ("Conflated and delayed", "By reason. As for drops.", "/s",
         [(rate("tickwire_gateway_conflated_events_total", "reason"), "conflated {{reason}}"),
          (rate("tickwire_gateway_delayed_events_total", "reason"), "delayed {{reason}}")]),
        ("Notices", "What clients are told, by code.", "/s", [(rate("tickwire_gateway_notices_total", "code"), "{{code}}")]),
        ("Out of turn", "Frames that overtook others, and events sent since they had waited too long.", "/s",
         [(rate("tickwire_gateway_early_frames_total"), "early"), (rate("tickwire_gateway_promoted_events_total"), "promoted")]),
    ]),
    ("Latency", [
        ("Stored to written", "The whole way of an event.", "s", quantiles("tickwire_gateway_delivery_seconds")),
        ("Stored to received", "The way to this gateway. Compare with the router's lag.", "s",
         quantiles("tickwire_gateway_receive_lag_seconds")),
        ("Received to written", "In this gateway: TickwireDeliverySlow.", "s", quantiles("tickwire_gateway_deliver_seconds")),
        ("Search of the index", "Of one event. See the dimensions below if it grows.", "s",
         quantiles("tickwire_gateway_filter_seconds")),
        ("Confirmations", "From `subscribe` to `subscribed`: TickwireConfirmationsSlow.", "s",
         quantiles("tickwire_gateway_confirm_seconds")),
    ]),
    ("Coverage", [
        ("Sections", "By outcome. Other than `applied`: docs/operations.md#metrics-of-clients.", "/s",
         [(rate("tickwire_gateway_sections_total", "outcome"), "{{outcome}}")]),
        ("Gaps", "TickwireGapsOpen, TickwireSilentPartitions.", "",
         [("tickwire_gateway_open_gaps{$S}", "{{instance}} open"),
          ("tickwire_gateway_silent_partitions{$S}", "{{instance}} silent partitions")]),
        ("Held", "Events that wait behind gaps. `gateway.hold_bytes` bounds them.", "B",
         [("tickwire_gateway_held_bytes{$S}", "{{instance}}")]),
        ("Answers to replays", "By outcome: TickwireGapsOpen says what to do for each.", "/s",
         [(rate("tickwire_gateway_replay_answers_total", "outcome"), "{{outcome}}")]),
        ("Repairs", "Gaps that were closed, and those that nobody could close.", "/s",
         [(rate("tickwire_gateway_gaps_repaired_total"), "repaired"), (rate("tickwire_gateway_unfilled_gaps_total"), "unfilled")]),
        ("Skipped by shards", "A shard is too far behind: TickwireShardBehind.", "/s",
         [(rate("tickwire_gateway_shard_skipped_events_total"), "events")]),
    ]),
    ("Resumes", [
        ("Backfills", "By whether they had every event. `false`: raise `gateway.replay_range`.", "/s",
         [(rate("tickwire_gateway_backfills_total", "complete"), "{{complete}}")]),
        ("Time of a backfill", "Raise `router.replay_rate` if it is long.", "s", quantiles("tickwire_gateway_backfill_seconds")),
        ("Cohorts", "Sessions that are backfilled together, and requests to routers for them.", "/s",
         [(rate("tickwire_gateway_cohorts_total"), "cohorts"), (rate("tickwire_gateway_backfill_requests_total"), "requests"),
          (rate("tickwire_gateway_delayed_backfills_total"), "delayed")]),
        ("Unacknowledged alerts", "Readings by outcome. `failed`: TickwireReminderReadings.", "/s",
         [(rate("tickwire_gateway_reminder_readings_total", "outcome"), "{{outcome}}")]),
    ]),
    ("Index", [
        ("Filters and subscriptions", "Different filters, and the subscriptions that have them.", "",
         [(total("tickwire_gateway_index_filters"), "filters"), (total("tickwire_gateway_index_subscriptions"), "subscriptions")]),
        ("Entries", "By dimension. Many of `any`: clients subscribe without symbols.", "",
         [(total("tickwire_gateway_index_entries", "dimension"), "{{dimension}}")]),
        ("Matches", "Filters that matched an event, by dimension.", "/s",
         [(rate("tickwire_gateway_index_matches_total", "dimension"), "{{dimension}}")]),
        ("Interest", "The size of what this gateway asks routers for.", "B", [("tickwire_gateway_interest_bytes{$S}", "{{instance}}")]),
    ]),
]

ROUTER = [
    ("Ownership", [
        ("Partitions", "By router. They should be shared evenly: TickwirePartitionOwners.", "",
         [("tickwire_router_partitions{$S}", "{{instance}}")]),
        ("Coordinator", "One router is: TickwireCoordinator.", "", [("tickwire_coordinator{$S}", "{{instance}}")]),
        ("View", "The version that each has: TickwireViewsDiffer.", "", [("tickwire_view_version{$S}", "{{instance}}")]),
        ("Leases", "Lost or overwritten: TickwireLeasesLost, TickwireLeasesOverwritten.", "/s",
         [(rate("tickwire_router_leases_lost_total"), "lost"), (rate("tickwire_overwritten_leases_total"), "overwritten")]),
    ]),
    ("Reading", [
        ("Messages", "By what they are.", "/s", [(rate("tickwire_router_messages_total", "what"), "{{what}}")]),
        ("Waiting in the stream", "TickwireRouterBehind.", "", [("tickwire_router_pending_messages{$S}", "{{instance}}")]),
        ("Consumers created again", "By cause. Many show a fault of NATS.", "/s",
         [(rate("tickwire_router_intake_restarts_total", "cause"), "{{cause}}")]),
        ("Losses", "All should be 0: TickwireSkippedRanges, TickwireStreamLoss, TickwireMessagesMissing.", "/s",
         [(rate("tickwire_router_skipped_ranges_total"), "skipped ranges"), (rate("tickwire_router_stream_losses_total"), "losses"),
          (rate("tickwire_router_missing_messages_total"), "missing messages")]),
        ("Dead letters", "By reason: TickwireDeadLetters.", "/s", [(rate("tickwire_dead_letters_total", "reason"), "{{reason}}")]),
        ("Dead letters lost", "TickwireDeadLettersLost.", "/s", [(rate("tickwire_dead_letters_lost_total"), "lost")]),
    ]),
    ("Latency", [
        ("Stored to read", "NATS delivers late if it is high.", "s", quantiles("tickwire_router_read_lag_seconds")),
        ("Matching", "Of one turn. The router needs more processor if it is high.", "s", quantiles("tickwire_router_route_seconds")),
        ("Publishing", "NATS takes messages slowly if it is high.", "s", quantiles("tickwire_router_publish_seconds")),
        ("Stored to published", "All of these: TickwireRouterLag.", "s", quantiles("tickwire_router_lag_seconds")),
    ]),
    ("Sending", [
        ("Batches", "Batches to gateways, and those that were lost: TickwireBatchesLost.", "/s",
         [(rate("tickwire_router_batches_total"), "published"), (rate("tickwire_router_batches_lost_total"), "lost")]),
        ("Size of a batch", "Near `router.flush_bytes`: gateways get more than a window collects.", "B",
         [(mean("tickwire_router_batch_bytes"), "mean")]),
        ("Matches", "Matches of an event and the interest of a gateway.", "/s", [(rate("tickwire_router_matches_total"), "matches")]),
        ("Interest of gateways", "Refused messages by reason, and requests for the whole interest.", "/s",
         [(rate("tickwire_router_interest_refused_total", "reason"), "refused {{reason}}"),
          (rate("tickwire_router_snapshot_requests_total"), "snapshots")]),
    ]),
    ("Rules and context", [
        ("Route cache hits", "The part of lookups that find a decision, by stage. Low: raise `router.route_cache_bytes`.", "%",
         [(f"{rate('tickwire_router_route_cache_hits_total', 'stage')} / ({rate('tickwire_router_route_cache_hits_total', 'stage')}"
           f" + {rate('tickwire_router_route_cache_misses_total', 'stage')})", "{{stage}}")]),
        ("Route cache", "Decisions in it, by stage.", "", [(total("tickwire_router_route_cache_entries", "stage"), "{{stage}}")]),
        ("Rule matches", "By what became of the events.", "/s", [(rate("tickwire_router_rule_matches_total", "fate"), "{{fate}}")]),
        ("Rules", "Revisions should be equal, and none skipped: TickwireRulesDiffer, TickwireRulesSkipped.", "",
         [("tickwire_router_rule_revision{$S}", "{{instance}} revision"), ("tickwire_router_rules_skipped{$S}", "{{instance}} skipped")]),
        ("Age of the context", "TickwireContextOld.", "s", [("max by (what) (tickwire_router_context_age_seconds{$S})", "{{what}}")]),
        ("Reference data", "Symbols with reference data.", "", [("tickwire_router_reference_entries{$S}", "{{instance}}")]),
    ]),
    ("Replays", [
        ("Answers", "By how much of the range they cover.", "/s", [(rate("tickwire_router_replays_total", "outcome"), "{{outcome}}")]),
        ("Refused", "By reason. `busy`: add routers, or raise `router.replay_rate`.", "/s",
         [(rate("tickwire_router_replays_refused_total", "reason"), "{{reason}}")]),
        ("Messages read", "`router.replay_rate` bounds it.", "/s", [(rate("tickwire_router_replay_messages_total"), "messages")]),
        ("Time of a replay", "Until it is answered.", "s", quantiles("tickwire_router_replay_seconds")),
    ]),
]

USER = [
    ("User", [
        ("Sessions", "By gateway. None: the client does not reach a gateway, or its token is refused.", "",
         [("tickwire_gateway_user_sessions{$S}", "{{instance}}")]),
        ("Last seen", "How long ago the user had a session. No data: not since the gateways started.", "ago",
         [("time() - max by (user) (tickwire_gateway_user_last_seen_timestamp_seconds{$S} > 0)", "{{user}}")]),
        ("Waiting", "Events that wait to be sent: the client reads too slowly, or its rate is used up.", "",
         [("tickwire_gateway_user_waiting_events{$S}", "{{instance}}")]),
        ("Events", "Events written to its sockets. None: docs/operations.md#nothing-arrives.", "/s",
         [(rate("tickwire_gateway_user_events_total", "instance"), "{{instance}}")]),
        ("Bytes", "Bytes written to its sockets.", "B/s", [(rate("tickwire_gateway_user_sent_bytes_total", "instance"), "{{instance}}")]),
        ("Dropped", "By reason: TickwireManyDrops.", "/s",
         [(rate("tickwire_gateway_user_dropped_events_total", "reason"), "{{reason}}")]),
        ("Conflated", "Events replaced by newer ones. As for drops.", "/s",
         [(rate("tickwire_gateway_user_conflated_events_total"), "conflated")]),
        ("Gaps", "Gaps that the user was notified of: TickwireUnfilledGaps.", "/s", [(rate("tickwire_gateway_user_gaps_total"), "gaps")]),
    ]),
]

USER_HELP = """Only the users in `gateway.watched_users` have metrics of their own (docs/metrics.md#watched-users).

Of any user, each node tells the sessions, filters and counts: `curl http://NODE/v1/users/$user` on its `admin.listen`
(docs/http.md). The log lines of its sessions have the user in `span.user`."""


def variable(name, query, label, many=False):
    """A variable whose values Prometheus knows."""
    return {"name": name, "label": label, "type": "query", "datasource": SOURCE, "refresh": 2, "sort": 1,
            "query": {"query": query, "refId": name}, "definition": query, "includeAll": many, "multi": many,
            "allValue": ".*" if many else None, "current": {"text": "All", "value": "$__all"} if many else {}}


def panel(number, title, text, unit, queries, selector, x, y, width):
    """A panel with these queries."""
    targets = [
        {"refId": chr(ord("A") + at), "datasource": SOURCE, "expr": query.replace("$S", selector), "legendFormat": legend}
        for at, (query, legend) in enumerate(queries)
    ]
    return {"id": number, "type": "timeseries", "title": title, "description": text, "datasource": SOURCE, "targets": targets,
            "gridPos": {"x": x, "y": y, "w": width, "h": 7},
            "fieldConfig": {"defaults": {"unit": UNITS[unit], "min": None if unit == "s" else 0,
                                         "custom": {"lineWidth": 1, "fillOpacity": 8, "showPoints": "never"}}, "overrides": []},
            "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}}


def dashboard(name, title, text, rows, selector, variables):
    """The JSON of a dashboard."""
    panels, y = [], 0
    if name == "user":
        panels.append({"id": 1, "type": "text", "title": "", "gridPos": {"x": 0, "y": 0, "w": 24, "h": 4},
                       "options": {"mode": "markdown", "content": USER_HELP}})
        y = 4
    for row, of_row in rows:
        panels.append({"id": len(panels) + 1, "type": "row", "title": row, "collapsed": False, "panels": [],
                       "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}})
        y += 1
        for at, (panel_title, panel_text, unit, queries) in enumerate(of_row):
            place = (at % 3 * 8, y + at // 3 * 7, 8)
            panels.append(panel(len(panels) + 1, panel_title, panel_text, unit, queries, selector, *place))
        y += (len(of_row) + 2) // 3 * 7
    links = [{"title": f"tickwire {other}", "type": "link", "url": f"/d/tickwire-{other}", "keepTime": True, "includeVars": True}
             for other in NAMES if other != name]
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "current": {}}
    return {"uid": f"tickwire-{name}", "title": title, "description": text, "tags": ["tickwire"], "schemaVersion": 38,
            "version": 1, "editable": True, "refresh": "30s", "time": {"from": "now-1h", "to": "now"}, "links": links,
            "templating": {"list": [source, *variables]}, "panels": panels}


JOB = variable("job", "label_values(tickwire_build_info, job)", "Cluster")


def instances(role):
    """The variable with the nodes of a role."""
    return variable("instance", f'label_values(tickwire_build_info{{job="$job", role="{role}"}}, instance)', role.capitalize(), True)


DASHBOARDS = {
    "overview": dashboard("overview", "tickwire: overview", "The whole cluster: state, flow, latency and health.", OVERVIEW,
                          'job="$job"', [JOB]),
    "gateway": dashboard("gateway", "tickwire: gateways", "One gateway or several.", GATEWAY,
                         'job="$job", instance=~"$instance"', [JOB, instances("gateway")]),
    "router": dashboard("router", "tickwire: routers", "One router or several.", ROUTER,
                        'job="$job", instance=~"$instance"', [JOB, instances("router")]),
    "user": dashboard("user", "tickwire: one user", "A user in `gateway.watched_users`, on all gateways.", USER,
                      'job="$job", user="$user"',
                      [JOB, variable("user", 'label_values(tickwire_gateway_user_sessions{job="$job"}, user)', "User")]),
}


def main():
    """Writes or checks the files."""
    differs = False
    for name, content in DASHBOARDS.items():
        path, text = FOLDER / f"{name}.json", json.dumps(content, indent=2) + "\n"
        if "--check" not in sys.argv:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            print(f"{path} differs: run {__file__}")
            differs = True
    return int(differs)


if __name__ == "__main__":
    sys.exit(main())
