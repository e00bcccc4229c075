//! A line to the nats-server that can be cut: a node that is behind it loses whatever is sent to it meanwhile.

use std::net::SocketAddr;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// The line. Dropping it cuts it for good.
#[derive(Debug)]
pub(crate) struct Line {
    /// Where the node connects instead.
    pub(crate) address: SocketAddr,
    whole: watch::Sender<bool>,
}

impl Line {
    /// A line to the server at this URL.
    pub(crate) async fn to(url: &str) -> Self {
        let server = url.strip_prefix("nats://").unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (whole, watched) = watch::channel(true);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, server.clone(), watched.clone()));
            }
        });
        Self { address, whole }
    }

    /// Ends every connection, and takes none until it is mended.
    pub(crate) fn cut(&self) {
        self.whole.send_replace(false);
    }

    /// Takes connections again.
    pub(crate) fn mend(&self) {
        self.whole.send_replace(true);
    }
}

/// Carries one connection until either side ends it, or the line is cut.
async fn carry(mut near: TcpStream, server: String, mut whole: watch::Receiver<bool>) {
    if !*whole.borrow_and_update() {
        return;
    }
    let Ok(mut far) = TcpStream::connect(server).await else { return };
    tokio::select! {
        _ = copy_bidirectional(&mut near, &mut far) => {}
        _ = whole.wait_for(|whole| !whole) => {}
    }
}
