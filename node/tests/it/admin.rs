//! The admin server over real HTTP.

use tickwire_node::admin::{Admin, Readiness};
use tickwire_node::config::{Config, LoadOptions};
use tickwire_node::shutdown::Shutdown;
use tickwire_node::telemetry::Metrics;
use tickwire_testkit::http::get;

#[tokio::test]
async fn admin_server_answers_until_it_is_stopped() {
    let readiness = Readiness::default();
    let (nats, coverage) = (readiness.register("nats"), readiness.register("coverage"));
    let shutdown = Shutdown::new();
    let metrics = Metrics::install("gateway", "gw-1").unwrap();
    let mut config = Config::load(&LoadOptions::default()).unwrap().admin;
    config.listen.set_port(0);
    let admin = Admin::start(&config, readiness, metrics.clone(), &shutdown).await.unwrap();
    let address = admin.address();
    assert_ne!(address.port(), 0);

    assert_eq!(get(address, "/livez").await, (200, "ok\n".to_owned()));

    nats.ok();
    coverage.missing("partition 3 has no coverage for 12 s");
    let (status, body) = get(address, "/readyz").await;
    assert_eq!(status, 503);
    let expected = r#"{"ready":false,"checks":[
        {"name":"coverage","ok":false,"missing":"partition 3 has no coverage for 12 s"},{"name":"nats","ok":true}]}"#;
    let parsed = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    assert_eq!(parsed(&body), parsed(expected));

    coverage.ok();
    assert_eq!(get(address, "/readyz").await.0, 200);
    shutdown.drain().cancel();
    let (status, body) = get(address, "/readyz").await;
    assert_eq!(status, 503);
    assert!(body.contains("the node is stopping"), "{body}");
    assert_eq!(get(address, "/livez").await.0, 200);

    let (status, body) = get(address, "/metrics").await;
    assert_eq!(status, 200);
    assert!(body.contains("tickwire_build_info{"), "{body}");
    assert_eq!(get(address, "/other").await.0, 404);

    config.listen = address;
    let taken = Admin::start(&config, Readiness::default(), metrics, &shutdown).await.unwrap_err();
    assert!(taken.to_string().contains(&address.to_string()), "{taken}");

    // Silent connections do not keep others out.
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(tokio::net::TcpStream::connect(address).await.unwrap());
    }
    assert_eq!(get(address, "/livez").await.0, 200);

    admin.stop().await;
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}
