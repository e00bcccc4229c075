//! The client as users see it: only public names, over a real socket.
#![expect(clippy::unwrap_used, reason = "helpers of a test may panic")]

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tickwire_client::{Client, ClientConfig, Credentials, Message, SubscribeOptions};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_tungstenite::accept_hdr_async;
use tokio_tungstenite::tungstenite::Message as WsMessage;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};

const WELCOME: &str = r#"[{"T":"welcome","session":"s1","user":"ann","gateway":"gw-1","heartbeat_ms":15000}]"#;
const EVENT: &str = r#"[{"T":"event","kind":"pattern","symbol":"AAPL","priority":"high","ts":"2025-09-10T14:30:00.120Z",
    "id":"e1","p":3,"seq":10452,"new_field":1}]"#;

#[expect(clippy::result_large_err, reason = "the handshake's callback has this shape")]
fn upgrade(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    assert_eq!(request.uri(), "/v1/stream?user=ann");
    let protocol = request.headers()["sec-websocket-protocol"].clone();
    response.headers_mut().insert("sec-websocket-protocol", protocol);
    Ok(response)
}

/// Confirms one subscription and sends one event. Ends the connection when `cut` is notified.
async fn serve(io: TcpStream, cut: &Notify) {
    let mut socket = accept_hdr_async(io, upgrade).await.unwrap();
    socket.send(WsMessage::text(WELCOME)).await.unwrap();
    let request = socket.next().await.unwrap().unwrap();
    let request: serde_json::Value = serde_json::from_slice(&request.into_data()).unwrap();
    assert_eq!((&request["action"], &request["name"]), (&json!("subscribe"), &json!("mine")));
    let subscriptions = json!({ "mine": { "filter": { "kinds": ["pattern"] }, "window_ms": 100 } });
    let answer = json!([{ "T": "subscribed", "id": request["id"], "subscriptions": subscriptions, "position": "p" }]);
    socket.send(WsMessage::text(answer.to_string())).await.unwrap();
    socket.send(WsMessage::text(EVENT)).await.unwrap();
    cut.notified().await;
}

#[tokio::test]
async fn cut_connection_is_restored_over_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = ClientConfig::new(format!("ws://{}", listener.local_addr().unwrap()));
    config.credentials = Credentials::DevUser("ann".into());
    let cut = Arc::new(Notify::new());
    let server = tokio::spawn({
        let cut = cut.clone();
        async move {
            loop {
                serve(listener.accept().await.unwrap().0, &cut).await;
            }
        }
    });

    let (client, mut messages) = Client::connect(config).await.unwrap();
    client.subscribe("mine", json!({}), SubscribeOptions::default()).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 7 {
        let message = timeout(Duration::from_secs(60), messages.recv()).await.unwrap().unwrap();
        seen.push(match message {
            Message::Connected { .. } => "connected",
            Message::Interrupted => "interrupted",
            Message::Restored => "restored",
            Message::Disconnected { retry_in: Some(_), .. } => "disconnected",
            Message::Event(event) => {
                assert_eq!((event.p.0, event.seq.0, event.id.as_str()), (3, 10_452, "e1"));
                cut.notify_one();
                "event"
            }
            other => panic!("{other:?}"),
        });
    }
    let all = ["connected", "event", "disconnected", "connected", "interrupted", "restored", "event"];
    assert_eq!(seen, all);
    server.abort();
}
