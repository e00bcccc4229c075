//! The HTTP client of the tests.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

/// The status and the body of a GET; status 0 if nothing listens.
///
/// # Panics
/// If address and path give no valid URL, or the body is incomplete or not text.
pub async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let url = format!("http://{address}{path}").parse().expect("the path is valid in a URL");
    let Ok(answer) = client.get(url).await else { return (0, String::new()) };
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.expect("the body is complete").to_bytes();
    (status, String::from_utf8(body.to_vec()).expect("the body is text"))
}
