//! The certificates for connections to NATS. They are read from their files for each connection, because certificates
//! are renewed.

use crate::bounded_file;
use crate::config::NatsConfig;
use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;
use tokio::task::spawn_blocking;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// The largest file of certificates: those of all public authorities are a quarter of that.
pub(crate) const MOST_CERTIFICATE_BYTES: u64 = 1024 * 1024;

/// What the files hold.
struct Certificates {
    /// Who may sign the certificate of the server; `None` if those of this system may.
    authorities: Option<RootCertStore>,
    /// Ours, with its chain, and its key.
    own: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

impl Certificates {
    /// Reads the files that this configuration names.
    ///
    /// # Errors
    /// The key and the file, and why it cannot be used.
    fn read(config: &NatsConfig) -> Result<Self, String> {
        let mut authorities = None;
        if let Some(path) = &config.tls_ca {
            let mut roots = RootCertStore::empty();
            for authority in certificates("nats.tls_ca", path)? {
                roots.add(authority).map_err(|error| failed("nats.tls_ca", path, &error))?;
            }
            authorities = Some(roots);
        }
        let own = match (&config.tls_cert, &config.tls_key) {
            (Some(certificate), Some(key)) => {
                let chain = certificates("nats.tls_cert", certificate)?;
                let content = content("nats.tls_key", key)?;
                let secret = PrivateKeyDer::from_pem_slice(&content);
                Some((chain, secret.map_err(|error| failed("nats.tls_key", key, &error))?))
            }
            _ => None,
        };
        Ok(Self { authorities, own })
    }
}

/// Checks that the files can be used, before anything is tried. The client library would wait for ever for the writer of
/// a pipe, and read a file of any size.
///
/// # Errors
/// The key and the file, and why it cannot be used.
pub(crate) async fn check(config: Arc<NatsConfig>) -> Result<(), String> {
    let read = spawn_blocking(move || Certificates::read(&config).map(|_| ())).await;
    read.map_err(|error| error.to_string())?
}

/// The configuration of TLS with what the files hold now.
///
/// # Errors
/// What cannot be used, and why.
pub(crate) async fn tls_config(config: Arc<NatsConfig>) -> Result<Arc<ClientConfig>, String> {
    let built = spawn_blocking(move || build(&config)).await;
    built.map_err(|error| error.to_string())?.map(Arc::new)
}

fn build(config: &NatsConfig) -> Result<ClientConfig, String> {
    let Certificates { authorities, own } = Certificates::read(config)?;
    let roots = match authorities {
        Some(roots) => roots,
        None => of_system()?,
    };
    let builder = ClientConfig::builder().with_root_certificates(roots);
    let Some((chain, secret)) = own else { return Ok(builder.with_no_client_auth()) };
    builder.with_client_auth_cert(chain, secret).map_err(|error| format!("nats.tls_cert with nats.tls_key: {error}"))
}

fn of_system() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        return Err(format!("no certificate authorities found on this system: {:?}", found.errors));
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    Ok(roots)
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let content = content(key, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content).collect();
    match found {
        // Nobody would be trusted, or our chain be empty, and an error of the connection would not name the file.
        Ok(found) if found.is_empty() => Err(failed(key, path, &"has no certificate")),
        found => found.map_err(|error| failed(key, path, &error)),
    }
}

fn content(key: &str, path: &Path) -> Result<Vec<u8>, String> {
    bounded_file::read(path, MOST_CERTIFICATE_BYTES).map_err(|error| failed(key, path, &error))
}

fn failed(key: &str, path: &Path, error: &dyn Display) -> String {
    format!("{key} = {}: {error}", path.display())
}
