//! Who may use which endpoint of which server: the matrix of listeners, claims and endpoints. It has every endpoint.

use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};
use tickwire_testkit::eventually;

use crate::cluster::Cluster;
use crate::http::send;
use crate::node::DEADLINE;
use crate::status::{DOCUMENT, ask};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn token(more: &Value) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut claims = json!({ "sub": "ann", "exp": now + 600 });
    claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
}

/// Every endpoint of the document: its method, its path, and each server that has it.
fn documented_endpoints() -> Vec<(String, String, String)> {
    let document: Value = serde_json::from_str(DOCUMENT).unwrap();
    let mut endpoints = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            for tag in operation["tags"].as_array().unwrap() {
                endpoints.push((method.to_uppercase(), path.clone(), tag.as_str().unwrap().to_owned()));
            }
        }
    }
    endpoints
}

/// Whether the path of a request is that of an endpoint.
fn is_of(path: &str, endpoint: &str) -> bool {
    let (path, endpoint) = (path.split('?').next().unwrap().split('/'), endpoint.split('/'));
    path.clone().count() == endpoint.clone().count()
        && path.zip(endpoint).all(|(part, named)| named.starts_with('{') || part == named)
}

#[tokio::test]
async fn access_is_as_the_matrix_says() {
    let settings = [
        ("auth.mode", "jwt"),
        ("auth.jwt_secret", SECRET),
        ("admin.require_token", "always"),
        ("gateway.connect_url", "wss://x/{gateway}/v1/stream"),
    ];
    let mut cluster = Cluster::start_with(1, 1, &settings).await;
    let public = cluster.gateway_addresses().await[0];
    let (router, gateway) = (cluster.routers[0].address("admin").await, cluster.gateways[0].address("admin").await);
    let user = token(&json!({}));
    let producer = token(&json!({ "role": "producer" }));
    let operator = token(&json!({ "role": "operator" }));
    let forged = format!("{operator}x");
    let tokens = [None, Some(&user), Some(&producer), Some(&operator), Some(&forged)];

    let (anyone, nobody) = ([200; 5], [404; 5]);
    let (readers, operators) = ([401, 403, 200, 200, 401], [401, 403, 403, 200, 401]);
    let users = [401, 200, 200, 200, 401];
    // Whoever may send an alert learns that the request is empty.
    let senders = [401, 403, 400, 400, 401];
    let rows = [
        ("GET", gateway, "/livez", anyone),
        ("GET", gateway, "/readyz", anyone),
        ("GET", gateway, "/metrics", anyone),
        ("GET", gateway, "/v1/openapi.json", anyone),
        ("GET", gateway, "/v1/cluster", readers),
        ("GET", gateway, "/v1/nodes", readers),
        ("GET", gateway, "/v1/stats", readers),
        ("GET", gateway, "/v1/health", readers),
        ("GET", gateway, "/v1/users/ann", operators),
        ("DELETE", gateway, "/v1/users/ann/sessions", operators),
        ("GET", gateway, "/v1/users/ann/subscriptions", operators),
        ("GET", gateway, "/v1/users/ann/subscriptions/none", [401, 403, 403, 404, 401]),
        ("PUT", gateway, "/v1/users/ann/subscriptions/none", [401, 403, 403, 400, 401]),
        ("DELETE", gateway, "/v1/users/bob/subscriptions/none", [401, 403, 403, 404, 401]),
        ("POST", gateway, "/v1/alerts", senders),
        ("GET", gateway, "/v1/me", nobody),
        ("GET", gateway, "/v1/connect", nobody),
        ("PUT", gateway, "/v1/subscriptions", [401, 403, 403, 400, 401]),
        ("PUT", public, "/v1/subscriptions", nobody),
        ("GET", router, "/readyz", anyone),
        ("GET", router, "/v1/openapi.json", anyone),
        ("GET", router, "/v1/cluster", readers),
        ("GET", router, "/v1/nodes", readers),
        ("GET", router, "/v1/stats", readers),
        ("GET", router, "/v1/health", readers),
        ("GET", router, "/v1/users/ann", operators),
        ("DELETE", router, "/v1/users/ann/sessions", operators),
        ("GET", router, "/v1/users/ann/subscriptions", nobody),
        ("GET", router, "/v1/users/ann/subscriptions/none", nobody),
        ("GET", router, "/v1/rules", operators),
        ("GET", router, "/v1/rules/none", [401, 403, 403, 404, 401]),
        ("PUT", router, "/v1/rules/none", [401, 403, 403, 422, 401]),
        ("DELETE", router, "/v1/rules/none", [401, 403, 403, 404, 401]),
        ("POST", router, "/v1/events?kind=pattern&key=AAPL", [401, 403, 422, 422, 401]),
        ("GET", gateway, "/v1/rules", nobody),
        ("POST", gateway, "/v1/events?kind=pattern&key=AAPL", nobody),
        ("POST", router, "/v1/alerts", nobody),
        ("GET", public, "/v1/openapi.json", anyone),
        ("GET", public, "/v1/me", users),
        ("GET", public, "/v1/connect", users),
        // A token is asked for only when it is an upgrade.
        ("GET", public, "/v1/stream", [426; 5]),
        ("PUT", public, "/v1/users/ann/subscriptions/none", [401, 400, 400, 400, 401]),
        ("GET", public, "/v1/users/ann/subscriptions", users),
        ("GET", public, "/v1/users/bob/subscriptions", [401, 403, 403, 403, 401]),
        ("GET", public, "/v1/users/ann/subscriptions/none", [401, 404, 404, 404, 401]),
        ("DELETE", public, "/v1/users/bob/subscriptions/none", [401, 403, 403, 403, 401]),
        ("GET", public, "/v1/cluster", nobody),
        ("GET", public, "/v1/users/ann", nobody),
        ("DELETE", public, "/v1/users/ann/sessions", nobody),
        ("GET", public, "/v1/rules", nobody),
        ("POST", public, "/v1/alerts", nobody),
        ("GET", public, "/metrics", nobody),
    ];
    let is_asked = |method: &str, is_public: bool, endpoint: &str| {
        rows.iter().any(|(asked, address, path, expected)| {
            *asked == method && (*address == public) == is_public && is_of(path, endpoint) && *expected != nobody
        })
    };
    for (method, endpoint, listener) in documented_endpoints() {
        assert!(is_asked(&method, listener == "public", &endpoint), "{method} {endpoint} on the {listener} server");
    }
    for (method, address, path, expected) in rows {
        for (token, expected) in tokens.iter().zip(expected) {
            // A node that is late says 503, which tells nothing of access.
            let (status, body) = eventually("the node can answer", DEADLINE, async || {
                Some(ask(method, address, path, token.map(String::as_str)).await).filter(|(status, _)| *status != 503)
            })
            .await;
            assert_eq!(status, expected, "{method} {path} {token:?}: {body}");
        }
    }
    // A refusal has a stable code.
    for (token, code) in [(None, "no_token"), (Some(&user), "wrong_role"), (Some(&forged), "bad_token")] {
        let (_, body) = ask("GET", gateway, "/v1/users/ann", token.map(String::as_str)).await;
        let refusal: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(refusal["code"], code, "{body}");
    }
    let long = format!("/v1/users/{}", "x".repeat(200));
    let (status, body) = ask("GET", gateway, &long, Some(&operator)).await;
    assert!(status == 400 && body.contains("bad_user"), "{body}");
}

#[tokio::test]
async fn web_page_in_the_browser_of_an_operator_needs_a_token() {
    let mut cluster = Cluster::start_with(1, 1, &[("auth.jwt_secret", SECRET)]).await;
    let admins = [cluster.routers[0].address("admin").await, cluster.gateways[0].address("admin").await];
    let answer = async |method: &str, admin: SocketAddr, path: &str, headers: &[(&str, &str)]| {
        eventually("the node can answer", DEADLINE, async || {
            Some(send(method, admin, path, headers, b"").await).filter(|answer| answer.status != 503)
        })
        .await
    };
    // What Prometheus and the probes of an orchestrator read has any name.
    let anyone = ["/livez", "/readyz", "/metrics", "/v1/openapi.json"];
    // A page of another site, and one whose name has been given the address of the server.
    let (other_site, rebound) = (("Origin", "https://evil.example"), ("Host", "evil.example:9090"));
    for (method, endpoint, listener) in documented_endpoints() {
        if listener != "admin" {
            continue;
        }
        let path = endpoint.replace("{user}", "ann").replace("{name}", "none").replace("{id}", "none");
        for (header, code) in [(other_site, "from_page"), (rebound, "bad_host")] {
            let mut refused = 0;
            for admin in admins {
                let answer = answer(method.as_str(), admin, path.as_str(), &[header]).await;
                if anyone.contains(&path.as_str()) {
                    assert_eq!(answer.status, 200, "{method} {path} {header:?}: {answer:?}");
                    continue;
                }
                match (answer.status, answer.json()["code"].as_str()) {
                    (404, Some("no_such_endpoint")) => {}
                    (403, Some(known)) if known == code => refused += 1,
                    _ => panic!("{method} {path} {header:?}: {answer:?}"),
                }
            }
            assert!(refused > 0 || anyone.contains(&path.as_str()), "{method} {path} {header:?}");
        }
    }
    for admin in admins {
        let operator = format!("Bearer {}", token(&json!({ "role": "operator" })));
        for header in [other_site, rebound] {
            let answer = answer("GET", admin, "/v1/users/ann", &[header, ("Authorization", operator.as_str())]).await;
            assert_eq!(answer.status, 200, "{header:?}: {answer:?}");
        }
        // A tunnel, another loopback address, a container of this name.
        for host in ["localhost:19090", "[::1]:9090", "127.0.0.1", "gateway-1:9090"] {
            let answer = answer("GET", admin, "/v1/users/ann", &[("Host", host)]).await;
            assert_eq!(answer.status, 200, "{host}: {answer:?}");
        }
    }
}
