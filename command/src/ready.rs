//! Waits until a node that this process started is ready, and asks its admin server.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tickwire_node::ports;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

/// How long the nodes may take to be ready.
pub const READY_DEADLINE: Duration = Duration::from_secs(30);

/// A node did not become ready in time.
#[derive(Debug, thiserror::Error)]
#[error("{name} is not ready after {READY_DEADLINE:?}: {answer}")]
pub struct NotReady {
    /// The node.
    pub name: &'static str,
    /// The last answer of `/readyz`, or why there is none.
    pub answer: String,
}

/// Waits until a node is ready. Returns the address of its admin server.
///
/// # Errors
/// When it is not ready within [`READY_DEADLINE`].
pub async fn ready(name: &'static str, ports_file: &Path) -> Result<SocketAddr, NotReady> {
    let end = Instant::now() + READY_DEADLINE;
    loop {
        let listening = ports::read(ports_file).unwrap_or_default();
        let answer = match listening.get("admin").copied() {
            None => "it has not come up".to_owned(),
            Some(admin) => match get(admin, "/readyz").await {
                Ok(answer) if answer.starts_with("HTTP/1.1 200") => return Ok(admin),
                Ok(answer) => answer.lines().last().unwrap_or_default().to_owned(),
                Err(error) => error.to_string(),
            },
        };
        if Instant::now() >= end {
            return Err(NotReady { name, answer });
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// The whole answer to a GET request, head and body.
///
/// # Errors
/// When the server cannot be reached, or breaks off.
pub async fn get(server: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(server).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {server}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
