//! Which failures of TLS another attempt cannot change, and what they mean.

use std::error::Error;
use std::io;
use tokio_rustls::rustls::{AlertDescription, Error as TlsError};

/// What a server that knows no TLS sends is no message of TLS.
const PLAIN_SERVER: &str = "the server does not answer with TLS: turn TLS on there, or write nats:// for tls:// in \
                            nats.url, and leave nats.tls_ca empty";

/// Whether a failure to connect is due to a certificate, of us or of the server, that is missing or not accepted.
pub(crate) fn is_final(error: &(dyn Error + 'static)) -> bool {
    tls_error(error).is_some_and(is_about_certificates)
}

/// Why there is no connection, for people.
pub(crate) fn reason(error: &(dyn Error + 'static)) -> String {
    match tls_error(error) {
        Some(TlsError::InvalidMessage(_)) => PLAIN_SERVER.to_owned(),
        _ => error.to_string(),
    }
}

/// The error of TLS that is the cause of this one.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a TlsError> {
    let mut next = Some(error);
    while let Some(error) = next {
        // An `io::Error` hides the error that it wraps from `source`.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let tls = inner.and_then(|inner| inner.downcast_ref::<TlsError>()).or_else(|| error.downcast_ref());
        if tls.is_some() {
            return tls;
        }
        next = error.source();
    }
    None
}

fn is_about_certificates(error: &TlsError) -> bool {
    use AlertDescription as Alert;
    match error {
        TlsError::InvalidCertificate(_)
        | TlsError::NoCertificatesPresented
        | TlsError::InvalidCertRevocationList(_) => true,
        TlsError::AlertReceived(alert) => matches!(
            alert,
            Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateRevoked
                | Alert::CertificateExpired
                | Alert::CertificateUnknown
                | Alert::UnknownCA
                | Alert::AccessDenied
                | Alert::CertificateRequired
        ),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_nats::{ConnectError, ConnectErrorKind};
    use tokio_rustls::rustls::CertificateError;

    #[test]
    fn failures_of_certificates_are_final_and_others_are_not() {
        let connect = |tls: TlsError| {
            ConnectError::with_source(ConnectErrorKind::Io, io::Error::new(io::ErrorKind::InvalidData, tls))
        };
        for tls in [
            TlsError::InvalidCertificate(CertificateError::UnknownIssuer),
            TlsError::InvalidCertificate(CertificateError::Expired),
            TlsError::AlertReceived(AlertDescription::CertificateRequired),
        ] {
            assert!(is_final(&connect(tls.clone())), "{tls:?}");
        }
        assert!(!is_final(&connect(TlsError::AlertReceived(AlertDescription::InternalError))));
        assert!(!is_final(&ConnectError::with_source(ConnectErrorKind::Io, io::Error::other("refused"))));
        assert!(!is_final(&ConnectError::new(ConnectErrorKind::TimedOut)));
    }
}
