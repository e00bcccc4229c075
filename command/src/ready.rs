//! Waits until a node that this process started is ready, and asks its admin server.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tickwire_node::ports;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};

/// How long the nodes may take to be ready.
pub const READY_DEADLINE: Duration = Duration::from_secs(30);

/// The longest answer that is read, in bytes. Those of nodes are shorter; another program may listen there.
const MOST_BYTES: u64 = 4 * 1024 * 1024;

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
            Some(admin) => match timeout_at(end, get(admin, "/readyz")).await {
                Ok(Ok(answer)) if answer.starts_with("HTTP/1.1 200") => return Ok(admin),
                Ok(Ok(answer)) => answer.lines().last().unwrap_or_default().to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "its admin server does not answer".to_owned(),
            },
        };
        if Instant::now() >= end {
            return Err(NotReady { name, answer });
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// The answer to a GET request, head and body, up to 4 MiB.
///
/// # Errors
/// When the server cannot be reached, or breaks off.
pub async fn get(server: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(server).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {server}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(MOST_BYTES).read_to_string(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::fs;
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    #[tokio::test(start_paused = true)]
    async fn node_that_accepts_connections_and_does_not_answer_is_not_ready_at_the_deadline() {
        // Nobody reads what it accepts.
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let path = std::env::temp_dir().join(format!("tickwire-ready-{:016x}.json", rand::random::<u64>()));
        ports::write(&path, &BTreeMap::from([("admin", silent.local_addr().unwrap())])).unwrap();
        let NotReady { name, answer } = timeout(READY_DEADLINE * 2, ready("gw-1", &path)).await.unwrap().unwrap_err();
        fs::remove_file(&path).unwrap();
        assert_eq!((name, answer.as_str()), ("gw-1", "its admin server does not answer"));
    }

    #[tokio::test]
    async fn answer_without_an_end_is_read_up_to_a_limit() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        let endless = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
            std::future::pending::<()>().await;
        };
        let answer = tokio::select! {
            answer = get(server, "/livez") => answer.unwrap(),
            () = endless => unreachable!("it has no end"),
        };
        assert_eq!(answer.len() as u64, MOST_BYTES);
    }
}
