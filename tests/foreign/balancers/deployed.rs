//! `deploy/haproxy/haproxy.cfg` finds gateways by DNS, and places users and names.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use futures_util::{FutureExt, StreamExt};
use tempfile::TempDir;
use tickwire_testkit::eventually;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::unconstrained;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use super::DEADLINE;
use super::dns::Dns;
use super::front::{Certificate, Front, SecureSocket, is_open};
use super::running::{ALL, BEHIND, Balancer, SUFFIX, Site};
use crate::cluster::{Cluster, SECRET};
use crate::foreign::tools::{is_full, report};
use crate::http;
use crate::node::{TestNode, get};

/// How many users connect.
const USERS: usize = 300;

/// The most connections of a gateway, in percent of the mean, by `hash-balance-factor`; and what rounding adds.
const MOST_PERCENT: usize = 115;
const ROUNDING: usize = 2;

/// How many users connect a second time.
const AGAIN: usize = 30;

/// How long a token is valid.
const VALID_FOR: Duration = Duration::from_secs(600);

/// How long HAProxy waits for the answer to an upgrade.
const HUNG: Duration = Duration::from_secs(5);

/// An address that no gateway has.
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 99);

/// A cluster behind a running HAProxy.
struct Deployment {
    cluster: Cluster,
    site: Site,
    dns: Dns,
    balancer: Balancer,
    front: Front,
    _home: TempDir,
}

impl Deployment {
    /// Starts gateways and HAProxy, and waits until it uses all of them.
    async fn start(gateways: u8, settings: &[(&str, &str)], environment: &[(&str, &str)]) -> Self {
        // Sessions that the cluster moves by itself are not the balancer's.
        let mine = [("auth.jwt_secret", SECRET), ("gateway.rebalance_rate", "0"), BEHIND];
        let mut cluster = Cluster::as_shipped_but_for(&[&mine[..], settings].concat()).await;
        cluster.add_router();
        let (site, dns) = (Site::of(gateways), Dns::start().await);
        dns.set(ALL, &site.addresses);
        for (number, address) in site.addresses.iter().enumerate() {
            let [listen, admin] = site.settings(number);
            let gateway = cluster.node_with("gateway", &[(listen.0, &listen.1), (admin.0, &admin.1)]);
            dns.set(&format!("{}{SUFFIX}", gateway.id), &[*address]);
            cluster.gateways.push(gateway);
        }
        cluster.settled().await;
        let home = TempDir::with_prefix("tickwire-e2e-balancer-").unwrap();
        let certificate = Certificate::create(home.path());
        let file = certificate.file.to_str().unwrap().to_owned();
        let environment = [&[("LB_CERTIFICATE", file.as_str())][..], environment].concat();
        let balancer = Balancer::haproxy(home.path(), &site, &dns, &environment);
        let front = Front { address: balancer.address, certificate };
        let deployment = Self { cluster, site, dns, balancer, front, _home: home };
        deployment.until_usable(usize::from(gateways)).await;
        deployment
    }

    /// Waits until HAProxy uses so many gateways.
    async fn until_usable(&self, count: usize) {
        eventually(&format!("{count} usable gateways"), DEADLINE, async || {
            (self.balancer.usable("gateways").await == count).then_some(())
        })
        .await;
    }

    fn ids(&self) -> Vec<String> {
        self.cluster.gateways.iter().map(|gateway| gateway.id.clone()).collect()
    }
}

fn user(number: usize) -> String {
    format!("/v1/stream?user=user-{number}")
}

fn named(gateway: &str) -> String {
    format!("/g/{gateway}/v1/stream?user=ann")
}

/// How many of these sockets are open.
async fn open(sockets: &mut [(SecureSocket, String)]) -> usize {
    let mut count = 0;
    for (socket, _) in sockets {
        count += usize::from(is_open(socket).await);
    }
    count
}

#[tokio::test]
async fn haproxy_places_users_by_hash_and_names_exactly() {
    let settings = [("gateway.drain_window", "2s")];
    let mut deployment = Deployment::start(3, &settings, &[("LB_ADDRESS_RATE", "100000")]).await;
    let ids = deployment.ids();
    let front = &deployment.front;

    // A named gateway gets the connection, in any case of its name. Without it, another one does.
    for id in &ids {
        assert_eq!(&front.gateway(&named(id)).await, id);
        assert_eq!(&front.gateway(&named(&id.to_uppercase())).await, id);
    }
    assert!(ids.contains(&front.gateway(&named("gateway-99")).await));

    // No name makes HAProxy connect to a host that is not one of the gateways.
    let stranger = TcpListener::bind((STRANGER, deployment.site.port)).await.unwrap();
    deployment.dns.set(&format!("evil{SUFFIX}"), &[STRANGER]);
    assert!(ids.contains(&front.gateway(&named("evil")).await));
    for path in ["/g/127.0.0.99/v1/stream", "/g/evil.example/v1/stream", "/g/../v1/stream", "/g//v1/stream", "/g/x"] {
        assert_eq!(front.open(&format!("{path}?user=ann")).await.err(), Some(404), "{path}");
    }
    // The text says what is wrong with the path.
    for (path, problem) in [
        (format!("/g/{}", ids[0]), "the path ends with the name of a gateway"),
        ("/g/evil.example".to_owned(), "no gateway is named after /g/"),
        ("/g/".to_owned(), "no gateway is named after /g/"),
        ("/g".to_owned(), "no gateway is named after /g/"),
    ] {
        let (status, text) = front.get(&path).await;
        assert_eq!(status, 404, "{path}");
        assert!(text.contains(problem) && text.contains("/g/<gateway>/v1/stream"), "{path}: {text}");
    }
    assert_eq!(front.get(&format!("/g/{}/", ids[0])).await.0, 200);
    assert!(unconstrained(stranger.accept()).now_or_never().is_none(), "HAProxy has connected to a stranger");

    // The admin servers cannot be reached.
    for path in ["metrics", "readyz", "livez", "v1/cluster", "v1/stats", "v1/health", "v1/rules", "v1/alerts"] {
        let (first, rest) = path.split_at(1);
        let encoded = format!("/%{:02x}{rest}", first.as_bytes()[0]);
        let forms = [format!("/{path}"), format!("//{path}"), format!("/./{path}"), encoded, format!("/x/../{path}")];
        for form in forms {
            for path in [form.clone(), format!("/g/{}{form}", ids[0])] {
                assert_eq!(front.get(&path).await.0, 404, "{path}");
            }
        }
    }
    // With HTTP/2, which is not offered, one connection would have many WebSockets, and the limits count connections.
    assert_eq!(front.ask("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.0, 400, "HTTP/2 without asking");
    // Without TLS there is only the way to it.
    let redirected = http::send("GET", deployment.balancer.plain, "/?x=1", &[], b"").await;
    assert_eq!((redirected.status, redirected.header("location")), (308, Some("https://x/?x=1")));
    let upgrade = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    assert_eq!(http::send("GET", deployment.balancer.plain, "/v1/stream", &upgrade, b"").await.status, 403);

    // Users are spread, within the bound.
    let mut sockets = Vec::new();
    for number in 0..USERS {
        sockets.push(front.open(&user(number)).await.unwrap());
    }
    let at = |id: &String| sockets.iter().filter(|(_, gateway)| gateway == id).count();
    let (counts, mean) = (ids.iter().map(at).collect::<Vec<_>>(), USERS / ids.len());
    assert!(counts.iter().all(|count| *count <= mean * MOST_PERCENT / 100 + ROUNDING), "{counts:?}");
    report("balancers/Haproxy/hash", &format!("{counts:?} of {USERS} users"));

    // A user comes to the same gateway again, by name or by token. A gateway that is at its bound may pass one on,
    // which those that came first met more often.
    let mut same = [0; 3];
    for (number, (_, gateway)) in sockets.iter().enumerate().rev().take(AGAIN) {
        let token = Cluster::query_for(&format!("user-{number}"), VALID_FOR);
        let bearer = format!("Bearer {}", token.trim_start_matches("?token="));
        let headers = [("authorization", bearer.as_str())];
        let found = [
            front.gateway(&user(number)).await,
            front.gateway(&format!("/v1/stream{token}")).await,
            front.open_from(Ipv4Addr::LOCALHOST, "/v1/stream", &headers).await.unwrap().1,
        ];
        for (same, found) in same.iter_mut().zip(&found) {
            *same += usize::from(found == gateway);
        }
    }
    assert!(same.iter().all(|same| *same >= AGAIN * 9 / 10), "{same:?} of {AGAIN}");

    // A gateway that leaves DNS gets no new connection, and keeps its sockets. The other users stay where they were.
    let (left, left_at) = (ids[2].clone(), deployment.site.addresses[2]);
    deployment.dns.set(ALL, &deployment.site.addresses[..2]);
    deployment.until_usable(2).await;
    let mut moved = 0;
    let others = sockets.iter().enumerate().rev().filter(|(_, (_, gateway))| *gateway != left).take(AGAIN);
    let others: Vec<(usize, String)> = others.map(|(number, (_, gateway))| (number, gateway.clone())).collect();
    for (number, gateway) in others {
        let now = front.gateway(&user(number)).await;
        assert_ne!(now, left, "the gateway {left_at} is no longer in DNS");
        moved += usize::from(now != gateway);
    }
    assert!(moved <= AGAIN / 5, "{moved} of {AGAIN} have moved");
    assert_ne!(front.gateway(&named(&left)).await, left);
    assert_eq!(open(&mut sockets).await, USERS);
    deployment.dns.set(ALL, &deployment.site.addresses);
    deployment.until_usable(3).await;
    assert_eq!(front.gateway(&named(&left)).await, left);

    // A reload, during which clients connect, cuts no socket.
    let before = deployment.balancer.process.descendants();
    deployment.balancer.process.reload();
    eventually("a new process of HAProxy", DEADLINE, async || {
        front.gateway(&user(0)).await;
        deployment.balancer.process.descendants().iter().any(|pid| !before.contains(pid)).then_some(())
    })
    .await;
    for number in 0..AGAIN {
        front.gateway(&user(number)).await;
    }
    assert_eq!(open(&mut sockets).await, USERS);

    // A gateway that dies, or stops, is replaced at once.
    deployment.until_usable(3).await;
    deployment.cluster.gateways[2].process.kill();
    assert_ne!(front.gateway(&named(&left)).await, left);
    deployment.until_usable(2).await;
    deployment.cluster.gateways[1].process.terminate();
    eventually("the draining gateway gets no client", DEADLINE, async || {
        (front.gateway(&named(&ids[1])).await == ids[0]).then_some(())
    })
    .await;
    assert_eq!(deployment.cluster.gateways[1].process.wait(DEADLINE).await.code(), Some(0));
    deployment.until_usable(1).await;
    let log = deployment.balancer.log();
    assert!(log.contains("/v1/stream 101") && !log.contains("user=") && !log.contains("token="), "{log}");
}

#[tokio::test]
async fn frozen_gateway_holds_no_client_that_connects_and_quiet_sockets_stay() {
    let heartbeat = format!("{}s", HUNG.as_secs() + 2);
    let deployment = Deployment::start(2, &[("gateway.heartbeat_interval", &heartbeat)], &[]).await;
    let (ids, front) = (deployment.ids(), &deployment.front);
    let frozen = &deployment.cluster.gateways[0].process;
    frozen.freeze();
    // It takes the connection and the request: no health check has failed yet.
    let (mut socket, gateway) = front.open(&named(&ids[0])).await.unwrap();
    assert_eq!(gateway, ids[1]);
    // The log may be behind the answer. `+` says that another gateway was chosen.
    let is_retry = |line: &str| line.contains("/v1/stream 101") && line.contains("retries=+1");
    // The limit for the answer is none for the socket: it is quiet for longer, until its first heartbeat.
    let opened = Instant::now();
    while opened.elapsed() < HUNG {
        let next = timeout(DEADLINE, socket.next()).await.expect("a heartbeat in time");
        assert!(matches!(next, Some(Ok(Message::Text(_) | Message::Ping(_)))), "{next:?}");
    }
    drop(socket);
    eventually("HAProxy has logged the retry", DEADLINE, async || {
        deployment.balancer.log().lines().any(is_retry).then_some(())
    })
    .await;
    frozen.thaw();
}

/// Waits until a gateway has logged a session of this user from this address.
async fn until_opened(gateways: &[TestNode], user: &str, from: Ipv4Addr) {
    let (user, peer) = (format!("\"user\":\"{user}\""), format!("\"peer\":\"{from}\""));
    let is_it = |line: &str| line.contains("session opened") && line.contains(&user) && line.contains(&peer);
    eventually(&format!("a session with {user} and {peer}"), DEADLINE, async || {
        gateways.iter().any(|gateway| gateway.process.stderr().lines().any(is_it)).then_some(())
    })
    .await;
}

/// How clients of different addresses are told apart, and that nobody can claim another one's address.
async fn addresses_are_true(deployment: &Deployment, tag: &str) {
    let forged = [("x-forwarded-for", "203.0.113.7")];
    for number in [21, 22] {
        let (from, user) = (Ipv4Addr::new(127, 0, 0, number), format!("{tag}-{number}"));
        let path = format!("/v1/stream?user={user}");
        let (_socket, _) = deployment.front.open_from(from, &path, &forged).await.unwrap();
        until_opened(&deployment.cluster.gateways, &user, from).await;
    }
}

#[tokio::test]
async fn haproxy_states_the_addresses_of_clients_in_a_header() {
    let limits = [("LB_ADDRESS_SOCKETS", "3"), ("LB_ADDRESS_RATE", "100000")];
    let mut deployment = Deployment::start(2, &[], &limits).await;
    addresses_are_true(&deployment, "header").await;

    // One address has a bounded number of connections, and others have theirs.
    let (one, other) = (Ipv4Addr::new(127, 0, 0, 31), Ipv4Addr::new(127, 0, 0, 32));
    let front = &deployment.front;
    let mut kept = Vec::new();
    for _ in 0..3 {
        kept.push(front.open_from(one, &user(1), &[]).await.unwrap());
    }
    assert!(front.is_cut(one).await, "the fourth connection of one address");
    front.open_from(other, &user(2), &[]).await.unwrap();

    // Those to the port without TLS count, too: they are taken from the same descriptors.
    let third = Ipv4Addr::new(127, 0, 0, 33);
    let mut plain = Vec::new();
    let what = "the connections to the port without TLS count";
    eventually(what, DEADLINE, async || {
        // One may be refused because an attempt with TLS was counted before it.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((third, 0).into()).unwrap();
        plain.push(socket.connect(deployment.balancer.plain).await.unwrap());
        front.is_cut(third).await.then_some(())
    })
    .await;
    assert!(plain.len() >= 3, "{} connections are within the limit", plain.len());
    drop(plain);

    // While NATS is away no gateway is ready. Sockets stay, and new clients get one.
    if is_full() {
        deployment.cluster.nats[0].kill();
        deployment.until_usable(0).await;
        front.upgrade(Ipv4Addr::LOCALHOST, &named(&deployment.ids()[1]), &[]).await.unwrap();
        assert_eq!(open(&mut kept).await, kept.len());
    }
}

#[tokio::test]
async fn flood_of_names_is_refused_before_it_reaches_the_dns_server() {
    let deployment = Deployment::start(1, &[], &[("LB_ADDRESS_RATE", "20")]).await;
    let served = deployment.front.requests_until(429, "/g/nobody/v1/nothing", 200).await;
    assert!(served.is_some_and(|served| served >= 20), "{served:?}");
    // Requests without a name go on.
    assert_eq!(deployment.front.gateway(&user(1)).await, deployment.ids()[0]);
}

#[tokio::test]
async fn haproxy_states_the_addresses_of_clients_by_the_proxy_protocol() {
    let settings = [("gateway.proxy_protocol", "required")];
    let mut deployment = Deployment::start(2, &settings, &[("LB_PROXY_PROTOCOL", "on")]).await;
    addresses_are_true(&deployment, "protocol").await;
    // A gateway serves nobody else.
    let gateway = &mut deployment.cluster.gateways[0];
    let address = gateway.gateway().await;
    assert_eq!(get(address, "/").await.0, 0);
    let metrics = gateway.metrics().await;
    let refused = metrics.get_labelled("tickwire_http_refused_proxy_headers_total", "reason=\"missing\"");
    let untrusted = metrics.get_labelled("tickwire_http_refused_proxy_headers_total", "reason=\"untrusted\"");
    assert!(refused >= 1.0 && untrusted == 0.0, "{refused}, {untrusted}");
}
