//! Asks a gateway for the user's home gateway. Without an answer, or if the home gateway cannot be reached, the client
//! uses the gateway that it asked. So an error here costs only efficiency.

use std::convert::Infallible;
use std::error::Error;
use std::future::pending;
use std::time::Duration;

use http::{HeaderValue, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::time::timeout;
use tracing::debug;

use crate::config::ClientConfig;
use crate::dial::Dial;
use crate::target::Target;

/// The longest time of the request.
const DEADLINE: Duration = Duration::from_secs(2);
/// The longest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// The home gateway by the answer of `target`; `None` without an answer, or if `target` is the home gateway.
pub(crate) async fn find<D: Dial>(
    dialler: &D,
    target: &Target,
    authorization: Option<&HeaderValue>,
    config: &ClientConfig,
) -> Option<Target> {
    match timeout(DEADLINE, ask(dialler, target, authorization, config)).await {
        Ok(Ok(home)) => (!home.is_same(target)).then_some(home),
        Ok(Err(problem)) => {
            debug!(url = target.url, problem, "home gateway not found");
            None
        }
        Err(_) => {
            debug!(url = target.url, "home gateway request timed out");
            None
        }
    }
}

async fn ask<D: Dial>(
    dialler: &D,
    target: &Target,
    authorization: Option<&HeaderValue>,
    config: &ClientConfig,
) -> Result<Target, Box<dyn Error + Send + Sync>> {
    let io = dialler.dial(&target.endpoint).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await?;
    let exchange = async {
        let response = sender.send_request(target.home_request(authorization)?).await?;
        if response.status() != StatusCode::OK {
            return Err(format!("HTTP status {}", response.status()).into());
        }
        let text = Limited::new(response.into_body(), MAX_ANSWER).collect().await?.to_bytes();
        let answer: Value = serde_json::from_slice(&text)?;
        let url = answer["url"].as_str().ok_or("the answer has no url")?;
        Ok(target.other(url, config)?)
    };
    // The exchange gets the connection's error too, so this future never ends.
    let served = async {
        connection.await.ok();
        pending::<Infallible>().await
    };
    tokio::select! {
        home = exchange => home,
        never = served => match never {},
    }
}
