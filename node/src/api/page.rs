//! Keeps web pages from an admin server that asks for no token. A page can reach such a server through the browser of an
//! operator, also on loopback.
//!
//! * Browsers send `Origin` with each request of a page that could change something, and with each whose answer a page of
//!   another site could read.
//! * They do not send it when a page reads from its own site. But a page can give the name of its site the address of
//!   this server (DNS rebinding). `Host` has that name then. So without a token only an address is accepted there, or a
//!   name without dots, such as `localhost` or that of a container: no site on the web has such a name.

use super::ApiRefusal;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use url::Host;

/// Refuses a request without a token that may be one of a web page.
pub(super) fn refuse_page(headers: &HeaderMap) -> Result<(), ApiRefusal> {
    if headers.contains_key(header::ORIGIN) {
        let message = "a request of a web page needs a token: Authorization: Bearer <token>";
        return Err(ApiRefusal::new(StatusCode::FORBIDDEN, "from_page", message));
    }
    // A browser always sends it. A client of HTTP/1.0 may not.
    let Some(host) = headers.get(header::HOST) else { return Ok(()) };
    if is_of_no_site(host) {
        return Ok(());
    }
    let message = "a request for a host name with dots may be one of a web page: use the IP address of the server, \
                   localhost, or another name without dots, or send a token: Authorization: Bearer <token>";
    Err(ApiRefusal::new(StatusCode::FORBIDDEN, "bad_host", message))
}

/// Whether the header `Host` has an address, or a name without dots.
fn is_of_no_site(host: &HeaderValue) -> bool {
    let Ok(authority) = Authority::try_from(host.as_bytes()) else { return false };
    match Host::parse(authority.host()) {
        Ok(Host::Ipv4(_) | Host::Ipv6(_)) => true,
        Ok(Host::Domain(name)) => !name.contains('.'),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The code of the refusal of a request with these headers, or "" if it is not refused.
    fn code(headers: &[(header::HeaderName, &[u8])]) -> &'static str {
        let values = headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_bytes(value).unwrap()));
        refuse_page(&HeaderMap::from_iter(values)).map_or_else(|refusal| refusal.code(), |()| "")
    }

    #[test]
    fn only_addresses_and_names_without_dots_are_of_no_site() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:9090",
            "10.1.2.3:9090",
            "[::1]:9090",
            "[fd00::17]",
            "localhost",
            "LocalHost:9090",
            "gateway-1:9100",
            "my_gateway",
        ] {
            assert_eq!(code(&[(header::HOST, host.as_bytes())]), "", "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:9090",
            "EVIL.EXAMPLE.:9090",
            "127.0.0.1.evil.example",
            "localhost.evil.example:9090",
            "localhost@evil.example",
            "evil.localhost",
            "evil%2eexample",
            "evil\u{3002}example",
            "[evil.example]",
            "[::1",
            "127.0.0.1:9090:9090",
            "a b",
            ":9090",
            "",
        ] {
            assert_eq!(code(&[(header::HOST, host.as_bytes())]), "bad_host", "{host}");
        }
    }

    #[test]
    fn page_that_the_browser_names_is_refused_at_any_host() {
        for origin in ["https://evil.example", "http://127.0.0.1:9090", "null", ""] {
            let sent = [(header::ORIGIN, origin.as_bytes()), (header::HOST, b"127.0.0.1:9090".as_slice())];
            assert_eq!(code(&sent), "from_page", "{origin}");
        }
        assert_eq!(code(&[]), "", "HTTP/1.0");
    }
}
