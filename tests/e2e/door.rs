//! The HTTP interface of a gateway: what proxies, browsers and simple clients expect of HTTP and of an upgrade, while
//! it runs, while it stops, and with few file descriptors.

use futures_util::future::join_all;
use serde_json::json;
use std::time::Duration;
use tickwire_core::protocol::Encoding;
use tickwire_core::protocol::codes::CloseCode;
use tickwire_testkit::eventually;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::cut::Line;
use crate::feed;
use crate::node::{DEADLINE, get, tickwire};
use crate::socket::{Incoming, Socket};
use crate::wire::{Wire, frame, upgrade};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Far less than the heartbeat interval of that test, after which a gateway checks a client again anyway.
const AT_ONCE: Duration = Duration::from_secs(60);

fn text(value: &serde_json::Value) -> Vec<u8> {
    frame(0x81, value.to_string().as_bytes())
}

#[tokio::test]
async fn frames_sent_with_the_upgrade_or_auth_are_answered_at_once() {
    let settings = [
        ("auth.mode", "jwt"),
        ("auth.jwt_secret", SECRET),
        ("gateway.auth_timeout", "60s"),
        ("gateway.heartbeat_interval", "5m"),
    ];
    let mut cluster = Cluster::start_with(1, 1, &settings).await;
    let gateway = cluster.gateway_addresses().await[0];
    let made = tickwire().args(["token", "--user", "ann", "--secret", SECRET]).output().unwrap();
    let token = String::from_utf8(made.stdout).unwrap();
    let auth = text(&json!({ "action": "auth", "token": token.trim() }));
    let subscribe = text(&json!({ "action": "subscribe", "name": "all", "id": 1 }));
    let pings: Vec<u8> = (2..40).flat_map(|id| text(&json!({ "action": "ping", "id": id }))).collect();

    // A token in the upgrade, and frames directly behind it.
    let mut wire = Wire::connect(gateway).await;
    let named = upgrade("", &format!("Authorization: bearer  {}\r\n", token.trim()));
    wire.send([named.as_bytes(), &subscribe, &pings].concat()).await;
    assert_eq!(wire.head().await.unwrap().status, 101);
    wire.until(b"\"T\":\"pong\",\"id\":39", AT_ONCE).await.expect("the last frame is answered");

    // Everything in one segment, or everything after the upgrade in one.
    for apart in [false, true] {
        let mut wire = Wire::connect(gateway).await;
        let (asked, rest) = (upgrade("", ""), [auth.as_slice(), &subscribe, &pings].concat());
        if apart {
            assert_eq!(wire.ask(&asked).await.status, 101);
            wire.send(rest).await;
        } else {
            wire.send([asked.as_bytes(), &rest].concat()).await;
            assert_eq!(wire.head().await.unwrap().status, 101);
        }
        wire.until(b"\"T\":\"pong\",\"id\":39", AT_ONCE).await.expect("the last frame is answered");
        wire.until(b"\"T\":\"subscribed\"", AT_ONCE).await.expect("and the one before it");
    }
}

#[tokio::test]
async fn refusals_have_the_headers_of_the_rfcs() {
    let mut cluster = Cluster::start(1, 1).await;
    let gateway = cluster.gateway_addresses().await[0];
    let valid = upgrade("?user=ann", "");
    let changed = |from: &str, to: &str| valid.replace(from, to);
    for (request, status) in [
        ("GET /v1/stream HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 426),
        (changed("Version: 13", "Version: 8"), 426),
        (changed("HTTP/1.1", "HTTP/1.0"), 426),
        (changed("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ="), 400),
        (changed("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""), 400),
        (changed("Upgrade\r\n", "Upgrade\r\nContent-Length: 3\r\n") + "abc", 400),
        (changed("Upgrade\r\n", "Upgrade\r\nTransfer-Encoding: chunked\r\n") + "3\r\nabc\r\n0\r\n\r\n", 400),
        (changed("Host: x\r\n", ""), 400),
        (changed("Host: x\r\n", "Host: x\r\nHost: y\r\n"), 400),
        (changed("Host: x\r\n", "Host: x\r\nX-Folded: a\r\n b\r\n"), 400),
        (changed("Host: x\r\n", "Host: x\r\nno colon\r\n"), 400),
        (changed("?user=ann", "?user=ann&user=bob"), 400),
        (changed("Host: x\r\n", "Host: x\r\nAuthorization:\r\n"), 400),
        (changed("Host: x\r\n", "Host: x\r\nSec-WebSocket-Protocol: mqtt\r\n"), 400),
        (changed("Host: x\r\n", "Host: x\r\nSec-WebSocket-Protocol:\r\n"), 101),
        (
            changed(
                "Host: x\r\n",
                "Host: x\r\nSec-WebSocket-Protocol: mqtt\r\nSec-WebSocket-Protocol: tickwire.v1.json\r\n",
            ),
            101,
        ),
        (changed("ZQ==", "ZR=="), 101),
        (changed("Connection: Upgrade", "connection: keep-alive, UPGRADE"), 101),
        (changed("Upgrade: websocket", "Upgrade: h2c\r\nUpgrade: WebSocket"), 101),
        (changed("Upgrade: websocket", "Upgrade: h2c"), 426),
        (changed("Host: x\r\n", "Host: x\r\nExpect: 100-continue\r\n"), 101),
        (changed("/v1/stream?user=ann", "/"), 404),
        (changed("/v1/stream?user=ann", "/").replace("Upgrade: websocket", "Upgrade: h2c"), 200),
        (changed("GET", "POST"), 405),
        (changed("GET", "HEAD"), 405),
    ] {
        let head = Wire::connect(gateway).await.ask(&request).await;
        assert_eq!(head.status, status, "{request}{head:?}");
        match status {
            426 => {
                assert_eq!(
                    (head.get("upgrade"), head.get("connection")),
                    (Some("websocket"), Some("upgrade")),
                    "{head:?}"
                );
                assert_eq!(head.get("sec-websocket-version"), Some("13"));
            }
            405 => assert_eq!(head.get("allow"), Some("GET")),
            _ => {}
        }
    }
    // A request in absolute form goes to this server.
    let absolute = changed("GET /v1", "GET http://x/v1");
    assert_eq!(Wire::connect(gateway).await.ask(&absolute).await.status, 101);
    // `OPTIONS *` asks the server itself.
    let head = Wire::connect(gateway).await.ask("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!((head.status, head.get("allow")), (204, Some("GET, HEAD, OPTIONS")));
    // After a refusal the connection serves further requests.
    let mut wire = Wire::connect(gateway).await;
    let plain = "GET /v1/stream HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n";
    assert_eq!(wire.ask(plain).await.status, 426);
}

#[tokio::test]
async fn allowed_origins_may_use_the_connect_endpoint() {
    let settings = [
        ("gateway.connect_url", "wss://x/{gateway}/v1/stream"),
        ("gateway.allowed_origins", "https://*.example.com/, HTTPS://App.Example:443"),
    ];
    let mut cluster = Cluster::start_with(1, 1, &settings).await;
    let gateway = cluster.gateway_addresses().await[0];
    let ask = async |method: &str, query: &str, headers: &str| {
        let request = format!("{method} /v1/connect{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
        Wire::connect(gateway).await.ask(&request).await
    };
    for origin in ["https://app.example", "https://a.b.example.com"] {
        let from = format!("Origin: {origin}\r\n");
        let asked = "Access-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: authorization\r\n";
        let head = ask("OPTIONS", "", &format!("{from}{asked}")).await;
        assert_eq!(head.status, 204, "{head:?}");
        assert_eq!(head.get("access-control-allow-origin"), Some(origin));
        assert!(head.get("access-control-allow-methods").unwrap().contains("GET"));
        assert_eq!(head.get("access-control-allow-headers"), Some("authorization"));
        assert!(head.get("access-control-max-age").unwrap().parse::<u32>().unwrap() > 0);
        assert_eq!(head.get("vary"), Some("origin"));
        // The page can read answers and refusals.
        for (method, query, status) in [("GET", "?user=ann", 200), ("GET", "", 401), ("POST", "", 405)] {
            let head = ask(method, query, &from).await;
            assert_eq!((head.status, head.get("access-control-allow-origin")), (status, Some(origin)), "{head:?}");
            assert_eq!(head.get("vary"), Some("origin"));
            assert_eq!(head.get("www-authenticate").is_some(), status == 401);
            assert_eq!(head.get("cache-control"), (status != 405).then_some("no-store"));
        }
    }
    for method in ["OPTIONS", "GET"] {
        let head = ask(method, "?user=ann", "Origin: https://example.com\r\n").await;
        assert_eq!((head.status, head.get("access-control-allow-origin")), (403, None), "{head:?}");
        assert_eq!(head.get("vary"), Some("origin"));
    }
    // Origins are compared in the same way for an upgrade.
    let origin = |origin: &str| upgrade("?user=ann", &format!("Origin: {origin}\r\n"));
    assert_eq!(Wire::connect(gateway).await.ask(&origin("https://a.example.com")).await.status, 101);
    assert_eq!(Wire::connect(gateway).await.ask(&origin("https://evil.example")).await.status, 403);
}

#[tokio::test]
async fn unauthenticated_requests_get_a_challenge() {
    let settings = [
        ("auth.mode", "jwt"),
        ("auth.jwt_secret", SECRET),
        ("gateway.connect_url", "wss://x/{gateway}/v1/stream"),
        ("gateway.allowed_origins", "https://app.example"),
    ];
    let mut cluster = Cluster::start_with(1, 1, &settings).await;
    let gateway = cluster.gateway_addresses().await[0];
    let (realm, origin) = ("Bearer realm=\"tickwire\"", "https://app.example");
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    for (query, headers, status, error) in [
        ("", String::new(), 401, None),
        ("?user=ann", String::new(), 401, None),
        ("?token=x", String::new(), 401, Some("invalid_token")),
        ("", bearer("x"), 401, Some("invalid_token")),
        ("", bearer("a.b.c") + &bearer("a.b.c"), 400, Some("invalid_request")),
        ("", "Authorization: Basic eDp5\r\n".to_owned(), 400, Some("invalid_request")),
        ("?token=x&token=y", String::new(), 400, Some("invalid_request")),
    ] {
        let asked = format!("GET /v1/connect{query} HTTP/1.1\r\nHost: x\r\nOrigin: {origin}\r\n{headers}\r\n");
        let head = Wire::connect(gateway).await.ask(&asked).await;
        assert_eq!(head.status, status, "{asked}{head:?}");
        let challenge = head.get("www-authenticate").unwrap();
        match error {
            None => assert_eq!(challenge, realm),
            Some(error) => {
                let begins = format!("{realm}, error=\"{error}\", error_description=\"");
                assert!(challenge.starts_with(&begins) && challenge.ends_with('"'), "{challenge}");
            }
        }
        // A page of another origin can read it.
        assert_eq!(head.get("access-control-allow-origin"), Some(origin), "{head:?}");
        assert_eq!(head.get("access-control-expose-headers"), Some("etag, retry-after, www-authenticate"));
    }
    // The gateway does not wait for the body of a stranger.
    let saving = "PUT /v1/users/ann/subscriptions/all HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n";
    assert_eq!(Wire::connect(gateway).await.ask(saving).await.status, 401);
    // A wrong upgrade gets the same explanation.
    let head = Wire::connect(gateway).await.ask(&upgrade("", &bearer("a").repeat(2))).await;
    assert!(head.status == 400 && head.get("www-authenticate").unwrap().contains("invalid_request"), "{head:?}");
}

#[tokio::test]
async fn upgrade_flood_leaves_admission_for_others_and_named_clients() {
    let settings = [("gateway.admission_rate", "20"), ("gateway.trusted_proxies", "127.0.0.0/8")];
    let mut cluster = Cluster::start_with(1, 1, &settings).await;
    let gateway = cluster.gateway_addresses().await[0];
    let status = async |query: &str, client: &str| {
        let asked = upgrade(query, &format!("X-Forwarded-For: 203.0.113.1, caf\u{e9}, {client}\r\n"));
        Wire::connect(gateway).await.ask(&asked).await.status
    };
    // Many at a time, so that also a slow machine sends more than the gateway admits.
    let full = async |client: &str| {
        eventually("the flood is refused", DEADLINE, async || {
            join_all((0..40).map(|_| status("", client))).await.contains(&503).then_some(())
        })
        .await;
    };
    // Behind a trusted balancer each client has its own address, and what the client adds is ignored, even if it is no
    // address and not ASCII.
    full("198.51.100.1").await;
    assert_eq!(status("", "198.51.100.2").await, 101, "another address");
    full("198.51.100.1").await;
    assert_eq!(status("?user=ann", "198.51.100.1").await, 101, "a named client");
}

#[tokio::test]
async fn stopping_gateway_answers_503_until_its_end() {
    let mut cluster =
        Cluster::start_with(1, 2, &[("gateway.drain_window", "8s"), ("node.shutdown_grace", "20s")]).await;
    let gateways = cluster.gateway_addresses().await;
    for (number, gateway) in gateways.into_iter().enumerate() {
        // The first gateway has sessions, the second has none.
        let mut sockets = Vec::new();
        if number == 0 {
            for user in ["ann", "bob", "carl"] {
                sockets.push(Socket::connect(gateway, user, Encoding::Json).await);
            }
        }
        let mut unnamed = Wire::connect(gateway).await;
        assert_eq!(unnamed.ask(&upgrade("", "")).await.status, 101);
        let mut kept = Wire::connect(gateway).await;
        assert_eq!(kept.ask("GET /v1/stream HTTP/1.1\r\nHost: x\r\n\r\n").await.status, 426);
        let process = &mut cluster.gateways[number].process;
        process.terminate();
        let (start, mut refusals) = (Instant::now(), 0);
        loop {
            let answer = match Wire::try_connect(gateway).await {
                Some(mut wire) => match wire.try_send(upgrade("?user=dora", "")).await {
                    Ok(()) => wire.head().await,
                    // The kernel had accepted the connection, and the gateway ended before it did.
                    Err(_) => None,
                },
                None => None,
            };
            match answer.map(|head| (head.status, head.get("retry-after").map(str::to_owned))) {
                // The signal has not arrived yet.
                Some((101, _)) => assert_eq!(refusals, 0),
                Some((503, Some(seconds))) => {
                    refusals += 1;
                    assert!((1..=8).contains(&seconds.parse::<u32>().unwrap()));
                }
                other => {
                    assert_eq!(other, None);
                    break;
                }
            }
        }
        assert!(refusals > 0, "gateway {number}");
        let least = if number == 0 { 2 } else { 1 };
        assert!(start.elapsed() >= Duration::from_secs(least), "gateway {number}: {:?}", start.elapsed());
        assert_eq!(process.wait(DEADLINE).await.code(), Some(0), "{}", process.stderr());
        unnamed.until(&CloseCode::Draining.code().to_be_bytes(), DEADLINE).await.expect("a close with its code");
        for socket in &mut sockets {
            while !matches!(socket.next().await, Incoming::Closed(1012, _)) {}
        }
    }
}

#[tokio::test]
async fn few_file_descriptors_limit_sessions_without_blocking() {
    let cluster = Cluster::start(1, 0).await;
    let line = Line::to(&cluster.nats_url());
    let mut gateway = cluster.node_limited("gateway", "small", "-n 256", &[("nats.url", &line.url())]);
    let address = gateway.gateway().await;
    eventually("it is ready", DEADLINE, async || (gateway.readyz().await.0 == 200).then_some(())).await;
    assert!(gateway.process.stderr().contains("too few file descriptors"), "{}", gateway.process.stderr());

    let mut clients = Vec::new();
    for number in 0..400 {
        let mut wire = Wire::connect(address).await;
        wire.send(upgrade(&format!("?user=u{number}"), "")).await;
        clients.push(wire);
    }
    let (mut taken, mut refused) = (0, 0);
    for client in &mut clients {
        match client.head().await.map(|head| head.status) {
            Some(101) => taken += 1,
            Some(503) | None => refused += 1,
            Some(other) => panic!("{other}"),
        }
    }
    assert!(taken >= 100 && refused >= 400 - 256, "{taken} taken, {refused} refused");
    // NATS and the admin server keep their descriptors.
    assert_eq!(get(gateway.address("admin").await, "/livez").await.0, 200);
    line.cut();
    eventually("NATS is away", DEADLINE, async || (gateway.readyz().await.0 == 503).then_some(())).await;
    line.mend();
    eventually("NATS is back", DEADLINE, async || (gateway.readyz().await.0 == 200).then_some(())).await;
    cluster.producer().await.publish(&feed::pattern("AAPL", 1)).await;
}

#[tokio::test]
async fn file_descriptor_limit_is_raised_to_the_hard_limit() {
    let cluster = Cluster::start(1, 0).await;
    for role in ["router", "gateway"] {
        let mut node = cluster.node_limited(role, &format!("{role}-raised"), "-Sn 128", &[]);
        eventually("it is ready", DEADLINE, async || (node.readyz().await.0 == 200).then_some(())).await;
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", node.process.pid())).unwrap();
        let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        let numbers: Vec<&str> = files.split_whitespace().skip(3).take(2).collect();
        assert_eq!(numbers[0], numbers[1], "{role}: {files}");
    }
}
