//! A proxy in front of a gateway, so that the suite can test it although it echoes nothing: any path of a client leads
//! to the stream of events, and the proxy removes the messages of the gateway. The protocol frames remain: pongs and
//! closes.

use std::io;
use std::net::SocketAddr;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::foreign::frames::{Frame, head};

/// Starts the proxy, and returns its address. `target` is the path that it requests from the gateway.
pub(super) async fn strip(gateway: SocketAddr, target: String) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let target = target.clone();
            // Some cases break the connection on purpose.
            tokio::spawn(async move { carry(client, gateway, &target).await.ok() });
        }
    });
    address
}

async fn carry(mut client: TcpStream, gateway: SocketAddr, target: &str) -> io::Result<()> {
    let request = head(&mut client).await?;
    let end_of_line = request.iter().position(|byte| *byte == b'\r').unwrap_or(request.len());
    let mut server = TcpStream::connect(gateway).await?;
    server.write_all(format!("GET {target} HTTP/1.1").as_bytes()).await?;
    server.write_all(&request[end_of_line..]).await?;
    client.write_all(&head(&mut server).await?).await?;

    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let there = async {
        tokio::io::copy(&mut from_client, &mut to_server).await?;
        to_server.shutdown().await
    };
    let back = async {
        // Frames end with the connection.
        while let Ok(frame) = Frame::read(&mut from_server).await {
            if frame.is_control() {
                to_client.write_all(&frame.bytes).await?;
            }
        }
        to_client.shutdown().await
    };
    tokio::try_join!(there, back).map(|((), ())| ())
}
