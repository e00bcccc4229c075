//! TLS for tests: an authority with its certificates, and an endpoint that terminates TLS in front of a server.

use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tempfile::TempDir;
use tokio::io::{AsyncWriteExt, copy, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// The years in which certificates end.
const VALID_UNTIL: i32 = 4096;
const EXPIRED_AT: i32 = 2001;

/// A certificate of a server, with its key.
#[derive(Clone, Debug)]
pub struct ServerCertificate(Arc<ServerConfig>);

/// An authority that signs certificates. Its files are removed when it is dropped.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    home: TempDir,
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    /// A new authority, which nobody trusts yet.
    pub fn new() -> Self {
        let home = tempfile::tempdir().expect("a folder can be made");
        let mut params = CertificateParams::new(Vec::new()).expect("no names are valid");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.self_signed(&key).expect("the key signs");
        write(&home.path().join("ca.pem"), &certificate.pem());
        Self { issuer: Issuer::new(params, key), home }
    }

    /// The PEM file with its certificate.
    pub fn file(&self) -> PathBuf {
        self.home.path().join("ca.pem")
    }

    /// A certificate for these names or addresses.
    pub fn certificate(&self, names: &[&str]) -> ServerCertificate {
        self.served(names, VALID_UNTIL)
    }

    /// A certificate that expired on the first day of the year 2001.
    pub fn expired_certificate(&self, names: &[&str]) -> ServerCertificate {
        self.served(names, EXPIRED_AT)
    }

    /// Writes a certificate for these names or addresses into a file, with its key, as HAProxy wants it.
    pub fn write_certificate(&self, names: &[&str], file: &Path) {
        let (certificate, key) = self.sign(names, VALID_UNTIL);
        write(file, &(certificate.pem() + &key.serialize_pem()));
    }

    /// Writes `ca.pem`, and a certificate for these names or addresses as `cert.pem` and `key.pem`, into this folder.
    pub fn write_files(&self, names: &[&str], folder: &Path) {
        self.write_files_until(names, VALID_UNTIL, folder);
    }

    /// The same, with a certificate that expired on the first day of the year 2001.
    pub fn write_expired_files(&self, names: &[&str], folder: &Path) {
        self.write_files_until(names, EXPIRED_AT, folder);
    }

    fn write_files_until(&self, names: &[&str], until: i32, folder: &Path) {
        std::fs::copy(self.file(), folder.join("ca.pem")).expect("a file can be copied");
        let (certificate, key) = self.sign(names, until);
        write(&folder.join("cert.pem"), &certificate.pem());
        write(&folder.join("key.pem"), &key.serialize_pem());
    }

    /// A certificate that is valid up to the first day of this year, and its key.
    fn sign(&self, names: &[&str], until: i32) -> (Certificate, KeyPair) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).expect("the names are valid");
        params.not_after = date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.signed_by(&key, &self.issuer).expect("the authority signs");
        (certificate, key)
    }

    fn served(&self, names: &[&str], until: i32) -> ServerCertificate {
        let (certificate, key) = self.sign(names, until);
        let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().expect("the provider has these versions");
        let builder = builder.with_no_client_auth();
        let config = builder.with_single_cert(vec![certificate.der().clone()], secret);
        let mut config = config.expect("the key is that of the certificate");
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        ServerCertificate(Arc::new(config))
    }
}

fn write(file: &Path, text: &str) {
    std::fs::write(file, text).expect("a file can be written");
}

/// Terminates TLS in front of a server. Ends when it is dropped.
#[derive(Debug)]
pub struct TlsTerminator {
    /// Where it listens, on loopback.
    pub address: SocketAddr,
    certificate: Arc<Mutex<ServerCertificate>>,
    cut: broadcast::Sender<()>,
    ended: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl TlsTerminator {
    /// Starts one with this certificate in front of `server`.
    pub async fn start(certificate: ServerCertificate, server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("the listener is bound");
        let certificate = Arc::new(Mutex::new(certificate));
        let (cut, _) = broadcast::channel(1);
        let ended = Arc::new(AtomicUsize::new(0));
        let (present, cutting, count) = (Arc::clone(&certificate), cut.clone(), Arc::clone(&ended));
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let ServerCertificate(config) = present.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let (mut cut, count) = (cutting.subscribe(), Arc::clone(&count));
                tokio::spawn(async move {
                    tokio::select! {
                        () = pass(near, config, server, &count) => {}
                        _ = cut.recv() => {}
                    }
                });
            }
        });
        Self { address, certificate, cut, ended, task }
    }

    /// Shows this certificate to all further clients.
    pub fn present(&self, certificate: ServerCertificate) {
        *self.certificate.lock().unwrap_or_else(PoisonError::into_inner) = certificate;
    }

    /// Cuts all connections.
    pub fn cut(&self) {
        // Without connections there is no receiver.
        self.cut.send(()).ok();
    }

    /// How many connections a client has ended with `close_notify`.
    pub fn ended_in_order(&self) -> usize {
        self.ended.load(Ordering::SeqCst)
    }
}

impl Drop for TlsTerminator {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

/// Passes the bytes of one connection, in both directions.
async fn pass(near: TcpStream, config: Arc<ServerConfig>, server: SocketAddr, ended: &AtomicUsize) {
    // A client that does not trust the certificate ends here.
    let Ok(near) = TlsAcceptor::from(config).accept(near).await else { return };
    let Ok(far) = TcpStream::connect(server).await else { return };
    let (mut near_reader, mut near_writer) = split(near);
    let (mut far_reader, mut far_writer) = far.into_split();
    let inwards = async {
        // The end of a stream without `close_notify` is an error.
        if copy(&mut near_reader, &mut far_writer).await.is_ok() {
            ended.fetch_add(1, Ordering::SeqCst);
        }
        far_writer.shutdown().await.ok();
    };
    let outwards = async {
        copy(&mut far_reader, &mut near_writer).await.ok();
        near_writer.shutdown().await.ok();
    };
    tokio::join!(inwards, outwards);
}
