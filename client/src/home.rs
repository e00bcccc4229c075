//! Where the user's home is: any gateway tells. Without an answer, or without a home that can be reached, the gateway
//! at hand serves as well, so nothing that fails here is more than a detour.

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

/// The most that the question may take.
const DEADLINE: Duration = Duration::from_secs(2);
/// The longest answer that is read.
const LONGEST_ANSWER: usize = 64 * 1024;

/// The home that the gateway at `target` names; `None` if it names none, or is it.
pub(crate) async fn find<D: Dial>(
    dialler: &D,
    target: &Target,
    authorization: Option<&HeaderValue>,
    config: &ClientConfig,
) -> Option<Target> {
    match timeout(DEADLINE, ask(dialler, target, authorization, config)).await {
        Ok(Ok(home)) => (!home.is_same(target)).then_some(home),
        Ok(Err(problem)) => {
            debug!(url = target.url, problem, "no home was told");
            None
        }
        Err(_) => {
            debug!(url = target.url, "no home was told in time");
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
    let io = dialler.dial(&target.authority).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await?;
    let exchange = async {
        let response = sender.send_request(target.question(authorization)?).await?;
        if response.status() != StatusCode::OK {
            return Err(format!("HTTP status {}", response.status()).into());
        }
        let text = Limited::new(response.into_body(), LONGEST_ANSWER).collect().await?.to_bytes();
        let answer: Value = serde_json::from_slice(&text)?;
        let url = answer["url"].as_str().ok_or("the answer has no url")?;
        Ok(Target::elsewhere(url, config)?)
    };
    // What ends the connection is told to the exchange as well.
    let served = async {
        connection.await.ok();
        pending::<Infallible>().await
    };
    tokio::select! {
        home = exchange => home,
        never = served => match never {},
    }
}
