//! Traces reach a collector over OTLP: from the producer's context through router and gateway to the socket. They cost
//! no event, whatever the collector does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap as HttpHeaders, StatusCode};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value as AttributeValue;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use serde_json::json;
use tickwire_core::protocol::Encoding;
use tickwire_testkit::eventually;
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::cluster::{Cluster, PATIENT};
use crate::feed;
use crate::http::send;
use crate::node::DEADLINE;
use crate::socket::Socket;

const EVENTS: &str = "tickwire_traced_events_total";
const SPANS: &str = "tickwire_trace_spans_total";

/// A span with the service that has sent it.
#[derive(Debug, Clone)]
struct Received {
    service: String,
    span: Span,
}

impl Received {
    fn attribute(&self, name: &str) -> Option<String> {
        attribute(&self.span.attributes, name)
    }
}

fn attribute(attributes: &[KeyValue], name: &str) -> Option<String> {
    let attribute = attributes.iter().find(|attribute| attribute.key == name)?;
    Some(match attribute.value.as_ref()?.value.as_ref()? {
        AttributeValue::StringValue(text) => text.clone(),
        AttributeValue::IntValue(number) => number.to_string(),
        other => panic!("{name} is {other:?}"),
    })
}

/// A collector that takes requests with the right token.
#[derive(Debug, Clone)]
struct Collector {
    address: SocketAddr,
    spans: Arc<Mutex<Vec<Received>>>,
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let collector = Self { address: listener.local_addr().unwrap(), spans: Arc::default() };
        let routes = Router::new().route("/v1/traces", post(take)).with_state(collector.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        collector
    }

    fn endpoint(&self) -> String {
        format!("http://{}/v1/traces", self.address)
    }

    /// The spans of a trace.
    fn of_trace(&self, trace_id: &str) -> Vec<Received> {
        let spans = self.spans.lock().unwrap();
        spans.iter().filter(|received| hex(&received.span.trace_id) == trace_id).cloned().collect()
    }
}

async fn take(State(collector): State<Collector>, headers: HttpHeaders, body: Bytes) -> StatusCode {
    let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    if header("authorization").as_deref() != Some("Bearer let-me-in") {
        return StatusCode::UNAUTHORIZED;
    }
    assert_eq!(header("content-type").as_deref(), Some("application/x-protobuf"));
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    let mut spans = collector.spans.lock().unwrap();
    for of_resource in request.resource_spans {
        let service = attribute(&of_resource.resource.unwrap().attributes, "service.name").unwrap();
        let all = of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
        spans.extend(all.map(|span| Received { service: service.clone(), span }));
    }
    StatusCode::OK
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Publishes an event with this context, and returns its sequence.
async fn publish(cluster: &Cluster, context: Option<&str>) -> u64 {
    let mut headers = HeaderMap::new();
    if let Some(context) = context {
        headers.insert("traceparent", context);
        headers.insert("tracestate", "vendor=1");
    }
    let event = json!({ "pattern": "Doji" }).to_string();
    let stream = jetstream::new(cluster.client.clone());
    let stored = stream.publish_with_headers("events.pattern.AAPL", headers, event.into()).await.unwrap();
    stored.await.unwrap().sequence
}

#[tokio::test]
async fn traced_event_shows_its_way_from_the_stream_to_the_socket() {
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const HTTP_TRACE: &str = "1af7651916cd43dd8448eb211c80319c";
    const PARENT: &str = "b7ad6b7169203331";
    let collector = Collector::start().await;
    let settings = [("traces.endpoint", collector.endpoint()), ("traces.token", "let-me-in".to_owned())];
    let settings = settings.iter().map(|(key, value)| (*key, value.as_str()));
    let settings: Vec<_> = settings.chain(PATIENT).collect();
    let mut cluster = Cluster::start_with(1, 1, &settings).await;
    let gateway = cluster.gateway_addresses().await[0];
    let mut socket = Socket::connect(gateway, "ann", Encoding::Json).await;
    socket.subscribe("all", &json!({ "symbols": ["AAPL"] })).await;

    publish(&cluster, Some(&format!("00-{}-{PARENT}-00", "2".repeat(32)))).await;
    publish(&cluster, Some("00-not-a-context")).await;
    publish(&cluster, None).await;
    let seq = publish(&cluster, Some(&format!("00-{TRACE}-{PARENT}-01"))).await;
    let router = cluster.routers[0].address("admin").await;
    let context = format!("00-{HTTP_TRACE}-{PARENT}-01");
    let headers = [("Content-Type", "application/json"), ("traceparent", context.as_str())];
    let answer = send("POST", router, "/v1/events?kind=pattern&key=AAPL", &headers, br#"{"pattern":"Doji"}"#).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    socket.until(5).await;

    // The parent of each span, and the service that records it.
    let expected = BTreeMap::from([
        ("intake", ("", "tickwire-router")),
        ("rules", ("intake", "tickwire-router")),
        ("match", ("intake", "tickwire-router")),
        ("publish", ("match", "tickwire-router")),
        ("receive", ("publish", "tickwire-gateway")),
        ("search", ("receive", "tickwire-gateway")),
        ("deliver", ("receive", "tickwire-gateway")),
        ("write", ("deliver", "tickwire-gateway")),
    ]);
    for trace in [TRACE, HTTP_TRACE] {
        eventually("all spans arrive", DEADLINE, async || {
            let spans = collector.of_trace(trace);
            let names: BTreeSet<_> = spans.iter().map(|received| received.span.name.as_str()).collect();
            expected.keys().all(|name| names.contains(name)).then_some(())
        })
        .await;
    }

    let stream = jetstream::new(cluster.client.clone()).get_stream("EVENTS").await.unwrap();
    let subject = stream.get_raw_message(seq).await.unwrap().subject.to_string();
    let partition = subject.split('.').nth(1).unwrap();
    let spans = collector.of_trace(TRACE);
    let name_of = |id: &[u8]| spans.iter().find(|other| other.span.span_id == id).map(|other| other.span.name.as_str());
    for received in &spans {
        let Received { service, span } = received;
        let (parent, recorded_by) = expected[span.name.as_str()];
        assert_eq!(service, recorded_by, "{span:?}");
        match parent {
            "" => assert_eq!(hex(&span.parent_span_id), PARENT),
            parent => assert_eq!(name_of(&span.parent_span_id), Some(parent), "{span:?}"),
        }
        assert_eq!(received.attribute("tickwire.sequence"), Some(seq.to_string()), "{span:?}");
        assert_eq!(received.attribute("tickwire.partition").as_deref(), Some(partition), "{span:?}");
        assert_eq!(received.attribute("tickwire.kind").as_deref(), Some("pattern"), "{span:?}");
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano, "{span:?}");
    }
    let one = |name: &str| {
        let found: Vec<_> = spans.iter().filter(|received| received.span.name == name).collect();
        assert_eq!(found.len(), 1, "{name}: {found:?}");
        found[0].clone()
    };
    assert_eq!(one("match").attribute("tickwire.gateways").as_deref(), Some("1"));
    assert_eq!(one("publish").attribute("tickwire.gateway"), Some(cluster.gateways[0].id.clone()));
    assert_eq!(one("deliver").attribute("tickwire.sessions").as_deref(), Some("1"));
    assert_eq!(one("write").attribute("tickwire.key").as_deref(), Some("AAPL"));
    let traces: BTreeSet<_> =
        collector.spans.lock().unwrap().iter().map(|received| hex(&received.span.trace_id)).collect();
    assert_eq!(traces, BTreeSet::from([TRACE.to_owned(), HTTP_TRACE.to_owned()]));
    for node in [&mut cluster.routers[0], &mut cluster.gateways[0]] {
        let metrics = node.metrics().await;
        assert_eq!(metrics.get_labelled(EVENTS, "\"traced\""), 2.0, "{}", node.id);
        assert_eq!(metrics.get_labelled(SPANS, "\"failed\""), 0.0, "{}", node.id);
    }
}

#[tokio::test]
async fn silent_collector_costs_no_event_and_its_spans_are_counted() {
    const COUNT: usize = 200;
    // It accepts connections, and answers nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}/v1/traces", silent.local_addr().unwrap());
    let settings = [
        ("traces.endpoint", endpoint.as_str()),
        ("traces.ratio", "1"),
        ("traces.rate", "10000"),
        ("traces.timeout", "100ms"),
    ];
    let mut cluster = Cluster::start_with(1, 1, &settings).await;
    let gateway = cluster.gateway_addresses().await[0];
    let mut socket = Socket::connect(gateway, "ann", Encoding::Json).await;
    socket.subscribe("all", &json!({ "symbols": ["AAPL"] })).await;
    let events: Vec<_> = (0..COUNT).map(|number| feed::pattern("AAPL", number)).collect();
    cluster.producer().await.publish_all(&events).await;
    socket.until(COUNT).await;
    assert!(socket.gaps.is_empty() && socket.event_notices().is_empty(), "{:?} {:?}", socket.gaps, socket.notices);
    for node in [&mut cluster.routers[0], &mut cluster.gateways[0]] {
        eventually("failed spans are counted", DEADLINE, async || {
            let metrics = node.metrics().await;
            (metrics.get_labelled(SPANS, "\"failed\"") > 0.0).then_some(())
        })
        .await;
        assert_eq!(node.metrics().await.get_labelled(SPANS, "\"exported\""), 0.0, "{}", node.id);
    }
}

/// Takes a request, but for one of its spans.
async fn refuse_one() -> Vec<u8> {
    let partial_success = ExportTracePartialSuccess { rejected_spans: 1, error_message: "older than a day".to_owned() };
    ExportTraceServiceResponse { partial_success: Some(partial_success) }.encode_to_vec()
}

#[tokio::test]
async fn spans_that_a_collector_refuses_are_counted_and_the_log_has_its_reason() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}/v1/traces", listener.local_addr().unwrap());
    let routes = Router::new().route("/v1/traces", post(refuse_one));
    tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
    let settings = [("traces.endpoint", endpoint.as_str()), ("traces.ratio", "1")];
    let mut cluster = Cluster::start_with(1, 1, &settings).await;
    publish(&cluster, None).await;
    let router = &mut cluster.routers[0];
    eventually("a refused span is counted, and the others as well", DEADLINE, async || {
        let metrics = router.metrics().await;
        let [failed, exported] = ["\"failed\"", "\"exported\""].map(|outcome| metrics.get_labelled(SPANS, outcome));
        (failed > 0.0 && exported > 0.0).then_some(())
    })
    .await;
    eventually("the log has the reason", DEADLINE, async || {
        let log = router.process.stderr();
        let is_reason = |line: &str| line.contains("spans not exported") && line.contains("older than a day");
        log.lines().any(is_reason).then_some(())
    })
    .await;
}

#[tokio::test]
async fn flood_of_events_is_traced_within_the_rate() {
    const COUNT: usize = 500;
    const RATE: f64 = 5.0;
    let collector = Collector::start().await;
    let endpoint = collector.endpoint();
    let settings = [
        ("traces.endpoint", endpoint.as_str()),
        ("traces.token", "let-me-in"),
        ("traces.ratio", "1"),
        ("traces.rate", "5"),
    ];
    let mut cluster = Cluster::start_with(1, 1, &[&settings[..], &PATIENT].concat()).await;
    let begun = Instant::now();
    let events: Vec<_> = (0..COUNT).map(|number| feed::pattern("AAPL", number)).collect();
    cluster.producer().await.publish_all(&events).await;
    let router = &mut cluster.routers[0];
    let metrics = eventually("the router has read all", DEADLINE, async || {
        let metrics = router.metrics().await;
        (metrics.get(EVENTS) >= COUNT as f64).then_some(metrics)
    })
    .await;
    assert_eq!(metrics.get(EVENTS), COUNT as f64);
    let traced = metrics.get_labelled(EVENTS, "\"traced\"");
    let most = RATE * (begun.elapsed() + Duration::from_secs(1)).as_secs_f64();
    assert!((1.0..=most).contains(&traced), "{traced} of at most {most}");
    eventually("one intake of each traced event arrives", DEADLINE, async || {
        let spans = collector.spans.lock().unwrap();
        let intakes = spans.iter().filter(|received| received.span.name == "intake").count();
        (intakes as f64 == traced).then_some(())
    })
    .await;
}
