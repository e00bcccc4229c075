//! A DNS server for one test: it answers requests for IPv4 addresses from a table that the test changes.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

type Table = BTreeMap<String, Vec<Ipv4Addr>>;

/// The server. It ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Dns {
    /// Its address.
    pub(crate) address: SocketAddr,
    table: Arc<Mutex<Table>>,
    serving: JoinHandle<()>,
}

impl Dns {
    /// Starts a server on loopback that knows no name.
    pub(crate) async fn start() -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST).await
    }

    /// The same at this address of this machine.
    pub(crate) async fn start_at(address: Ipv4Addr) -> Self {
        let socket = UdpSocket::bind((address, 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        let table = Arc::<Mutex<Table>>::default();
        let known = Arc::clone(&table);
        let serving = tokio::spawn(async move {
            let mut request = [0; 4096];
            loop {
                let Ok((length, peer)) = socket.recv_from(&mut request).await else { continue };
                let answer = answer(&request[..length], &known.lock().unwrap());
                if let Some(answer) = answer {
                    socket.send_to(&answer, peer).await.ok();
                }
            }
        });
        Self { address, table, serving }
    }

    /// Lets a name have these addresses.
    pub(crate) fn set(&self, name: &str, addresses: &[Ipv4Addr]) {
        self.table.lock().unwrap().insert(name.to_owned(), addresses.to_vec());
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// The answer to a request (RFC 1035, 4.1); `None` if it is malformed.
fn answer(request: &[u8], table: &Table) -> Option<Vec<u8>> {
    let question = request.get(12..)?;
    let (mut name, mut at) = (Vec::new(), 0);
    loop {
        let length = usize::from(*question.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        name.push(String::from_utf8(question.get(at..at + length)?.to_vec()).ok()?);
        at += length;
    }
    let (sort, question) = (question.get(at..at + 2)?, question.get(..at + 4)?);
    let known = table.get(&name.join(".").to_lowercase());
    let addresses = known.filter(|_| sort == [0, 1]).map(Vec::as_slice).unwrap_or_default();
    // A response, with recursion; NXDOMAIN for a name without addresses.
    let code = if known.is_some_and(|known| !known.is_empty()) { 0x80 } else { 0x83 };
    let count = u16::try_from(addresses.len()).ok()?.to_be_bytes();
    let mut answer = [&request[..2], &[0x81, code, 0, 1], &count[..], &[0; 4], question].concat();
    for address in addresses {
        // The name is that of the question. An IPv4 address, valid for one second.
        answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        answer.extend_from_slice(&address.octets());
    }
    Some(answer)
}
