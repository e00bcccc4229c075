//! Why a server's certificate was refused, in words that say what to do.

use tickwire_core::event::Timestamp;
use tokio_rustls::rustls::CertificateError;
use tokio_rustls::rustls::pki_types::UnixTime;

/// How many names of a certificate are shown.
const SHOWN_NAMES: usize = 5;

/// What is wrong with the certificate of a server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateProblem {
    /// No trusted authority has signed it.
    #[error(
        "the authority that signed the server's certificate is not trusted here; \
         give a PEM file with the certificate of that authority"
    )]
    Untrusted,
    /// It is for other names.
    #[error(
        "the server's certificate is for {names}, not for {host}; \
         connect by a name of the certificate, or renew the certificate with this name"
    )]
    WrongName {
        /// The host of the address.
        host: String,
        /// The names of the certificate, the first five at most.
        names: String,
    },
    /// Its time is over.
    #[error("the server's certificate expired{}; renew it, or correct this machine's clock", moment(" at ", *at))]
    Expired {
        /// When it expired.
        at: Option<Timestamp>,
    },
    /// Its time has not come.
    #[error(
        "the server's certificate is not valid{}; correct this machine's clock, or replace the certificate",
        moment(" before ", *before)
    )]
    NotYetValid {
        /// When its time begins.
        before: Option<Timestamp>,
    },
    /// Anything else.
    #[error("the server's certificate is invalid ({problem}); replace it")]
    Invalid {
        /// The problem.
        problem: String,
    },
}

impl CertificateProblem {
    pub(crate) fn of(error: &CertificateError) -> Self {
        match error {
            // An authority that was made anew has the old name and another key.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::Untrusted,
            CertificateError::NotValidForNameContext { expected, presented } => {
                Self::WrongName { host: expected.to_str().into_owned(), names: names(presented) }
            }
            CertificateError::Expired => Self::Expired { at: None },
            CertificateError::ExpiredContext { not_after, .. } => Self::Expired { at: Some(timestamp(*not_after)) },
            CertificateError::NotValidYet => Self::NotYetValid { before: None },
            CertificateError::NotValidYetContext { not_before, .. } => {
                Self::NotYetValid { before: Some(timestamp(*not_before)) }
            }
            other => Self::Invalid { problem: other.to_string() },
        }
    }
}

/// The names as people write them: the verifier gives `DnsName("h")` and `IpAddress(1.2.3.4)`.
fn names(presented: &[String]) -> String {
    if presented.is_empty() {
        return "no name".to_owned();
    }
    let bare = |name: &String| {
        let inner = name.split_once('(').map_or(name.as_str(), |(_, inner)| inner.trim_end_matches(')'));
        inner.trim_matches('"').to_owned()
    };
    let shown: Vec<String> = presented.iter().take(SHOWN_NAMES).map(bare).collect();
    let more = if presented.len() > SHOWN_NAMES { ", …" } else { "" };
    format!("{}{more}", shown.join(", "))
}

fn timestamp(time: UnixTime) -> Timestamp {
    Timestamp(i64::try_from(time.as_secs().saturating_mul(1_000)).unwrap_or(i64::MAX))
}

fn moment(word: &str, at: Option<Timestamp>) -> String {
    at.map_or_else(String::new, |at| format!("{word}{at}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_rustls::rustls::pki_types::ServerName;

    #[test]
    fn unknown_authority_and_one_with_another_key_are_untrusted() {
        for error in [CertificateError::UnknownIssuer, CertificateError::BadSignature] {
            assert_eq!(CertificateProblem::of(&error), CertificateProblem::Untrusted);
        }
    }

    #[test]
    fn wrong_name_shows_both_sides() {
        let expected = ServerName::try_from("gw.example.com").unwrap();
        let presented = vec!["DnsName(\"example.org\")".to_owned(), "IpAddress(10.0.0.1)".to_owned()];
        let problem = CertificateProblem::of(&CertificateError::NotValidForNameContext { expected, presented });
        let (host, names) = ("gw.example.com".to_owned(), "example.org, 10.0.0.1".to_owned());
        assert_eq!(problem, CertificateProblem::WrongName { host, names });
    }

    #[test]
    fn only_the_first_names_of_a_certificate_are_shown() {
        let many: Vec<String> = (0..9).map(|number| format!("DnsName(\"h{number}\")")).collect();
        assert_eq!(names(&many), "h0, h1, h2, h3, h4, …");
        assert_eq!(names(&[]), "no name");
    }

    #[test]
    fn expired_certificate_shows_when_it_expired() {
        let at = |seconds| UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        let problem = CertificateProblem::of(&CertificateError::ExpiredContext { time: at(20), not_after: at(10) });
        assert_eq!(problem, CertificateProblem::Expired { at: Some(Timestamp(10_000)) });
        assert!(problem.to_string().contains("expired at 1970-01-01T00:00:10"), "{problem}");
    }
}
