//! What the chart makes of values that are wrong, and of those that are right but unusual.

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{PodConfiguration, chart, pods};
use crate::foreign::document::files;

/// These values, with the Secret of the tokens.
fn with_tokens(values: &Value) -> String {
    let mut all = json!({ "auth": { "secret": "tokens" } });
    all.as_object_mut().unwrap().extend(values.as_object().unwrap().clone());
    all.to_string()
}

/// Why the chart refuses these values, or Kubernetes what it makes of them.
fn refusal(release: &str, values: &Value) -> String {
    chart(&["refusal", release], &with_tokens(values))
}

#[test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "PyPI has no Helm for this processor")]
fn wrong_values_are_refused_with_the_key_and_the_correction() {
    let table: [(Value, &[&str]); 47] = [
        (json!({ "auth": {} }), &["auth.secret", "config.auth.mode"]),
        (json!({ "config": { "nats": { "ulr": "nats://x" } } }), &["/config/nats", "ulr"]),
        (json!({ "config": { "gateway": { "rate": "many" } } }), &["/config/gateway/rate", "integer"]),
        (json!({ "config": { "nats": { "password": "x" } } }), &["config.nats.password", "Secret"]),
        (json!({ "config": { "admin": { "listen": "0.0.0.0:1" } } }), &["config.admin.listen", "remove it"]),
        (json!({ "config": { "node": { "shutdown_grace": "30s" } } }), &["shutdown_grace (30s)", "drain_window (30s)"]),
        // Nodes read these, but the chart cannot derive the time to stop from them.
        (json!({ "config": { "node": { "shutdown_grace": "1.5m" } } }), &["node.shutdown_grace (1.5m)", "1m30s"]),
        (json!({ "config": { "gateway": { "drain_window": "20 seconds" } } }), &["drain_window (20 seconds)", "1m30s"]),
        (json!({ "gateway": { "nats": { "tokenKey": "a", "passwordKey": "b" } } }), &["gateway.nats", "tokenKey"]),
        (
            json!({ "router": { "nats": { "secret": "a", "passwordKey": "b" } } }),
            &["router.nats.passwordKey", "userKey"],
        ),
        (json!({ "router": { "nats": { "tokenKey": "b" } } }), &["router.nats.secret"]),
        (json!({ "ingress": { "enabled": true, "byName": true } }), &["ingress.byName", "ingress.host"]),
        (json!({ "adminPort": 8080 }), &["adminPort", "8080"]),
        (
            json!({ "gateway": { "autoscaling": { "enabled": true, "minReplicas": 4, "maxReplicas": 2 } } }),
            &["gateway.autoscaling", "minReplicas (4)", "maxReplicas (2)"],
        ),
        (
            json!({ "balancer": { "enabled": true, "env": { "LB_ADMIN_PORT": "1" } } }),
            &["balancer.env.LB_ADMIN_PORT", "remove it"],
        ),
        (json!({ "fullnameOverride": "Events" }), &["fullnameOverride", "Events"]),
        // Logins that nodes refuse when they start, or that would be left out.
        (
            json!({ "gateway": { "nats": { "secret": "a", "user": "b", "userKey": "c", "passwordKey": "d" } } }),
            &["gateway.nats", "one of user and userKey"],
        ),
        (
            json!({ "router": { "nats": { "secret": "a", "user": "b", "tokenKey": "c" } } }),
            &["router.nats", "passwordKey", "tokenKey"],
        ),
        (
            json!({ "gateway": { "nats": { "tls": { "secret": "a", "certKey": "b" } } } }),
            &["gateway.nats.tls", "keyKey", "set both"],
        ),
        (
            json!({ "router": { "nats": { "tls": { "certKey": "a", "keyKey": "b" } } } }),
            &["router.nats.tls.secret", "certKey"],
        ),
        (json!({ "config": { "nats": { "url": "nats://a:b@nats:4222" } } }), &["config.nats.url", "Secret"]),
        (json!({ "config": { "nats": { "url": "a:b/c@nats:4222" } } }), &["config.nats.url", "Secret"]),
        // Variables that the rest of the pod depends on, or that stand twice, and lists of other things.
        (
            json!({ "gateway": { "extraEnv": [{ "name": "TICKWIRE_GATEWAY__DRAIN_WINDOW", "value": "5m" }] } }),
            &["gateway.extraEnv.TICKWIRE_GATEWAY__DRAIN_WINDOW", "config.gateway.drain_window"],
        ),
        (
            json!({ "gateway": { "extraEnv": [{ "name": "TICKWIRE_GATEWAY__drain_window", "value": "5m" }] } }),
            &["gateway.extraEnv.TICKWIRE_GATEWAY__drain_window", "config.gateway.drain_window"],
        ),
        (
            json!({ "gateway": { "extraEnv": [{ "name": "TICKWIRE_GATEWAY__MAX_SESSIONS", "value": "5000" }] } }),
            &["gateway.extraEnv.TICKWIRE_GATEWAY__MAX_SESSIONS", "config.gateway.max_sessions"],
        ),
        (
            json!({ "router": { "nats": { "user": "a" }, "extraEnv": [{ "name": "TICKWIRE_nats__user" }] } }),
            &["router.extraEnv.TICKWIRE_nats__user", "twice"],
        ),
        (
            json!({ "router": { "extraEnv": [{ "name": "TICKWIRE_AUTH__JWT_SECRET_FILE", "value": "/a" }] } }),
            &["router.extraEnv.TICKWIRE_AUTH__JWT_SECRET_FILE", "twice"],
        ),
        (
            json!({ "router": { "extraEnv": [{ "name": "TICKWIRE_GATEWAY__RATE", "value": 5 }] } }),
            &["/router/extraEnv/0/value", "want string"],
        ),
        (json!({ "imagePullSecrets": ["registry"] }), &["/imagePullSecrets/0", "want object"]),
        (
            json!({ "router": { "podLabels": { "app.kubernetes.io/name": "events" } } }),
            &["router.podLabels", "app.kubernetes.io/name", "remove it"],
        ),
        // What would be no image, and a balancer that gateways would not understand.
        (json!({ "image": { "tag": "sha256:0123" } }), &["/image/tag", "sha256:0123"]),
        (
            json!({ "config": { "gateway": { "proxy_protocol": "required" } }, "ingress": { "enabled": true } }),
            &["config.gateway.proxy_protocol", "ingress-nginx"],
        ),
        (
            json!({ "balancer": { "enabled": true, "env": { "LB_PROXY_PROTOCOL": "on" } } }),
            &["balancer.env.LB_PROXY_PROTOCOL", "remove it"],
        ),
        // Targets of autoscaling that full gateways do not reach: Kubernetes acts at 10 % above the target.
        (
            json!({
                "config": { "gateway": { "max_sessions": 13_200 } },
                "gateway": { "autoscaling": { "enabled": true } },
            }),
            &["gateway.autoscaling.sessions (12000)", "config.gateway.max_sessions (13200)"],
        ),
        // Names that nodes do not take, and addresses at which no client can connect.
        (json!({ "config": { "gateway": { "plans": { "pro plus": 500 } } } }), &["pro plus", "[A-Za-z0-9_-]"]),
        (
            json!({ "ingress": { "enabled": true, "byName": true, "host": "*.example.com" } }),
            &["ingress.byName", "*.example.com", "config.gateway.connect_url"],
        ),
        // Null removes the default of a value, and all of a section.
        (json!({ "gateway": { "spread": null } }), &["/gateway", "missing property 'spread'"]),
        (json!({ "gateway": { "autoscaling": { "sessions": null } } }), &["missing property 'sessions'"]),
        (json!({ "auth": { "secret": "a", "key": null } }), &["/auth", "missing property 'key'"]),
        (json!({ "service": { "port": null } }), &["/service", "missing property 'port'"]),
        (json!({ "config": null }), &["missing property 'config'"]),
        (json!({ "auth": null }), &["missing property 'auth'"]),
        (json!({ "gateway": { "nats": null } }), &["/gateway", "missing property 'nats'"]),
        (json!({ "router": { "nats": { "tls": null } } }), &["/router/nats", "missing property 'tls'"]),
        (json!({ "balancer": null }), &["missing property 'balancer'"]),
        (json!({ "gateway": { "port": null } }), &["/gateway", "missing property 'port'"]),
        // A rule without peers is for all of them.
        (json!({ "networkPolicy": { "admin": null } }), &["/networkPolicy", "missing property 'admin'"]),
    ];
    for (values, parts) in table {
        let refusal = refusal("tickwire", &values);
        for part in parts {
            assert!(refusal.contains(part), "{values}: {part:?} is not in: {refusal:?}");
        }
    }
    assert!(refusal("123", &json!({})).contains("fullnameOverride"), "a Service cannot begin with a digit");
}

#[test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "PyPI has no Helm for this processor")]
fn right_values_make_what_kubernetes_and_nodes_accept_however_unusual_they_are() {
    assert_eq!(chart(&["refusal"], &files("kubernetes.md")["tickwire-values.yaml"]), "");
    let by_name = json!({ "enabled": true, "byName": true, "host": "events.example.com" });
    let digest = format!("0.1.0@sha256:{}", "a".repeat(64));
    let long = format!("a-release-with-a-long-name-that-ends-a--{}", "a".repeat(13));
    let table = [
        ("tickwire", json!({})),
        // Names that Helm takes: with dots, as long as it takes them, and of digits only.
        ("my.release", json!({ "balancer": { "enabled": true }, "ingress": by_name })),
        (long.as_str(), json!({ "balancer": { "enabled": true }, "ingress": by_name })),
        ("123", json!({ "fullnameOverride": "events", "monitoring": { "podMonitor": { "enabled": true } } })),
        // One of each, none, and many.
        (
            "tickwire",
            json!({ "gateway": { "replicas": 1 }, "router": { "replicas": 1 }, "networkPolicy": { "enabled": false } }),
        ),
        ("tickwire", json!({ "gateway": { "replicas": 0 }, "ingress": by_name, "balancer": { "enabled": true } })),
        ("tickwire", json!({ "gateway": { "replicas": 200 }, "ingress": by_name, "balancer": { "enabled": true } })),
        (
            "tickwire",
            json!({
                "config": {
                    "stream": { "partitions": 1024, "replicas": 5 }, "gateway": { "max_frame_bytes": 262_144 },
                },
            }),
        ),
        // The image by its digest, and tags that are no values of labels.
        ("tickwire", json!({ "image": { "tag": digest } })),
        ("tickwire", json!({ "image": { "tag": format!("_{}_", "a".repeat(100)) } })),
        // Secrets, classes and plans whose names look like numbers.
        (
            "tickwire",
            json!({
                "auth": { "secret": "1", "key": "2", "formerKey": "3" },
                "config": { "gateway": { "plans": { "0": 500 } } },
                "gateway": {
                    "priorityClassName": "4",
                    "nats": { "user": "5", "secret": "6", "passwordKey": "7", "tls": { "secret": "8" } },
                },
                "ingress": { "enabled": true, "className": "9", "tlsSecret": "10", "host": "events.example.com" },
                "balancer": { "enabled": true, "tlsSecret": "11" },
            }),
        ),
        // The highest target of autoscaling, many names under one certificate, and a fraction that JSON writes as 1e-7.
        (
            "tickwire",
            json!({
                "config": {
                    "gateway": { "max_sessions": 13_201, "connect_url": "wss://a.example.com/g/{gateway}/v1/stream" },
                    "traces": { "endpoint": "http://otel:4318/v1/traces", "ratio": 1e-7 },
                },
                "gateway": { "autoscaling": { "enabled": true } },
                "ingress": { "enabled": true, "byName": true, "host": "*.example.com", "tlsSecret": "wildcard" },
            }),
        ),
        // Labels and annotations of the operator, also in place of those of the chart.
        (
            "tickwire",
            json!({
                "gateway": { "podLabels": { "team": "events" }, "podAnnotations": { "checksum/config": "0" } },
                "ingress": {
                    "enabled": true, "byName": true, "host": "events.example.com",
                    "annotations": {
                        "nginx.ingress.kubernetes.io/proxy-read-timeout": "120",
                        "nginx.ingress.kubernetes.io/rewrite-target": "/other",
                    },
                },
                "monitoring": {
                    "podMonitor": { "enabled": true, "labels": { "app.kubernetes.io/component": "metrics" } },
                    "rules": { "enabled": true, "labels": { "app.kubernetes.io/component": "metrics" } },
                    "dashboards": { "enabled": true, "labels": { "app.kubernetes.io/component": "metrics" } },
                },
            }),
        ),
        // A cluster with IPv6 only.
        (
            "tickwire",
            json!({ "gateway": { "address": "[::]" }, "balancer": { "enabled": true, "env": { "LB_FAMILY": "ipv6" } } }),
        ),
        ("tickwire", json!({ "clusterDomain": "example.internal", "service": { "type": "LoadBalancer" } })),
    ];
    for (release, values) in table {
        assert_eq!(refusal(release, &values), "", "{release}: {values}");
        let documents: Vec<Value> = serde_json::from_str(&chart(&["render", release], &with_tokens(&values))).unwrap();
        for (role, pod) in pods(&documents) {
            let home = TempDir::with_prefix("tickwire-e2e-helm-").unwrap();
            let checked = PodConfiguration::write(home.path(), &documents, pod).check(role);
            assert_eq!(checked, (Some(0), "ok\n".to_owned()), "{release}: {values}: {role}");
        }
    }
}
