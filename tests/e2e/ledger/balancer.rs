//! A load balancer: one address for all gateways.

use rand::seq::IndexedRandom;
use std::net::SocketAddr;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use super::reader::Gateways;

/// Accepts connections, each for a random gateway. Ends with the test's runtime.
pub(crate) async fn balance(gateways: Gateways) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let gateway = gateways.lock().unwrap().choose(&mut rand::rng()).copied();
            tokio::spawn(async move {
                // A gateway that is gone closes the connection, as a client sees it.
                if let Some(gateway) = gateway
                    && let Ok(mut far) = TcpStream::connect(gateway).await
                {
                    copy_bidirectional(&mut near, &mut far).await.ok();
                }
            });
        }
    });
    address
}
