//! Checks that a request is a WebSocket upgrade (RFC 6455, 4.2), and answers it.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use hyper::body::Body as _;
use tickwire_core::protocol::Encoding;
use tickwire_node::auth::bearer;
use tungstenite::handshake::derive_accept_key;

use super::{HttpRefusal, OfferedQuery};
use crate::auth::Credentials;

/// How many bytes the decoded key of a client has.
const KEY_BYTES: usize = 16;

/// The encoding of a key. Some clients draw the characters at random, so the last one may have bits that no byte uses.
const KEY_CODE: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

/// How many sub-protocols a refusal repeats, and how many characters of each.
const SHOWN: usize = 4;
const SHOWN_LENGTH: usize = 20;

/// The supported version of WebSocket.
const VERSION: &str = "13";

/// Whether a request asks for a WebSocket, in whatever form.
pub(super) fn is_asked_for(headers: &HeaderMap) -> bool {
    lists_in(headers, header::UPGRADE, "websocket")
}

/// The client's key, if the request is a WebSocket upgrade.
pub(super) fn check(request: &Request) -> Result<&str, HttpRefusal> {
    let headers = request.headers();
    let refused = |status, message: &str| Err(HttpRefusal::new(status, message));
    let has = |name: HeaderName, word: &str| lists_in(headers, name, word);
    // An upgrade in HTTP/1.0 must be ignored (RFC 9110, 7.8).
    let is_upgrade = request.method() == Method::GET && request.version() == Version::HTTP_11;
    if !is_upgrade || !is_asked_for(headers) || !has(header::CONNECTION, "upgrade") {
        return refused(StatusCode::UPGRADE_REQUIRED, "connect with a WebSocket client");
    }
    if !has(header::SEC_WEBSOCKET_VERSION, VERSION) {
        return refused(StatusCode::UPGRADE_REQUIRED, "Sec-WebSocket-Version must be 13");
    }
    // The bytes of a body would be read as frames.
    if !request.body().is_end_stream() {
        return refused(StatusCode::BAD_REQUEST, "an upgrade must not have a body");
    }
    let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
    let (Some(key), None) = (keys.next(), keys.next()) else {
        return refused(StatusCode::BAD_REQUEST, "one Sec-WebSocket-Key is expected");
    };
    let key = key.to_str().unwrap_or_default().trim();
    match KEY_CODE.decode(key) {
        Ok(bytes) if bytes.len() == KEY_BYTES => Ok(key),
        _ => refused(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key must be 16 bytes in base64"),
    }
}

/// The answer to an upgrade that is granted.
pub(super) fn accept(key: &str, encoding: Option<Encoding>) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    match HeaderValue::try_from(derive_accept_key(key.as_bytes())) {
        Ok(accept) => headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept),
        Err(error) => return (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    };
    if let Some(encoding) = encoding {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(encoding.sub_protocol()));
    }
    response
}

/// Adds the headers to a refusal that show a client what would be accepted.
pub(super) fn explain(response: &mut Response) {
    let status = response.status();
    let headers = response.headers_mut();
    match status {
        // RFC 9110, 15.5.22, and RFC 6455, 4.2.2 and 4.4.
        StatusCode::UPGRADE_REQUIRED => {
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static(VERSION));
        }
        StatusCode::BAD_REQUEST => {
            headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static(VERSION));
        }
        _ => {}
    }
}

/// The first offered sub-protocol that is supported; `None` if none was offered, which means JSON. An empty list or an
/// empty entry offers nothing (RFC 9110, 5.6.1).
pub(super) fn choose_encoding(headers: &HeaderMap) -> Result<Option<Encoding>, HttpRefusal> {
    let offers: Vec<&str> = headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(str::trim))
        .filter(|name| !name.is_empty())
        .collect();
    match offers.iter().find_map(|name| Encoding::from_sub_protocol(name)) {
        None if !offers.is_empty() => {
            let known = Encoding::ALL.map(Encoding::sub_protocol).join(", ");
            let shown: Vec<String> = offers.iter().take(SHOWN).map(|name| clipped(name, SHOWN_LENGTH)).collect();
            let message = format!("no known sub-protocol among {}; supported: {known}", shown.join(", "));
            Err(HttpRefusal::new(StatusCode::BAD_REQUEST, message))
        }
        chosen => Ok(chosen),
    }
}

/// The credentials in the header `Authorization`, or else in the query.
pub(crate) fn offered_credentials(
    headers: &HeaderMap,
    offered: OfferedQuery,
) -> Result<Option<Credentials>, HttpRefusal> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(offered.token.map(Credentials::Token).or(offered.user.map(Credentials::Name))),
        (Some(value), None) if bearer(value).is_some() => {
            Ok(bearer(value).map(|token| Credentials::Token(token.to_owned())))
        }
        _ => Err(HttpRefusal::unreadable_credentials("Authorization must be `Bearer <token>`, and sent once")),
    }
}

/// The first `most` characters of a text from a client.
pub(super) fn clipped(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Whether one of the headers of this name lists `word`.
fn lists_in(headers: &HeaderMap, name: HeaderName, word: &str) -> bool {
    headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).any(|value| lists(value, word))
}

/// Whether a header's list of words has `word`, in any case.
fn lists(value: &str, word: &str) -> bool {
    value.split(',').any(|part| part.trim().eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    /// The status of a request that differs from a valid one in these headers. It is 101 if the request is valid.
    fn status(changes: &[(&str, &str)]) -> u16 {
        let good = [
            ("upgrade", "websocket"),
            ("connection", "keep-alive, Upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", KEY),
        ];
        let mut request = Request::builder().uri("/v1/stream");
        for (name, value) in good.iter().filter(|(name, _)| changes.iter().all(|(changed, _)| changed != name)) {
            request = request.header(*name, *value);
        }
        for (name, value) in changes.iter().filter(|(_, value)| !value.is_empty()) {
            request = request.header(*name, *value);
        }
        check(&request.body(Body::empty()).unwrap()).map_or_else(|refused| refused.status.as_u16(), |_| 101)
    }

    #[test]
    fn upgrade_is_checked_as_rfc_6455_requires() {
        for (changes, expected) in [
            (&[][..], 101),
            (&[("upgrade", "WebSocket")], 101),
            (&[("sec-websocket-version", "8, 13")], 101),
            (&[("upgrade", "")], 426),
            (&[("upgrade", "h2c")], 426),
            (&[("connection", "")], 426),
            (&[("connection", "keep-alive")], 426),
            (&[("sec-websocket-version", "8")], 426),
            (&[("sec-websocket-version", "")], 426),
            (&[("sec-websocket-key", "")], 400),
            (&[("sec-websocket-key", "short")], 400),
            (&[("sec-websocket-key", "dGhlIHNhbXBsZSBub25j")], 400),
            (&[("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ")], 400),
            (&[("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZR==")], 101),
            (&[("upgrade", "h2c, websocket")], 101),
            (&[("connection", "Upgrade, HTTP2-Settings")], 101),
            (&[("sec-websocket-key", KEY), ("sec-websocket-key", KEY)], 400),
        ] {
            assert_eq!(status(changes), expected, "{changes:?}");
        }
        let old = |version, method| {
            let request = Request::builder().version(version).method(method);
            let request = request.header("upgrade", "websocket").header("connection", "upgrade");
            let request = request.header("sec-websocket-version", "13").header("sec-websocket-key", KEY);
            check(&request.body(Body::empty()).unwrap()).map_err(|refused| refused.status.as_u16()).err()
        };
        assert_eq!(old(Version::HTTP_10, Method::GET), Some(426));
        assert_eq!(old(Version::HTTP_11, Method::HEAD), Some(426));
        assert_eq!(old(Version::HTTP_11, Method::GET), None);
    }

    #[test]
    fn refusal_has_headers_that_show_what_is_accepted() {
        for (status, headers) in [
            (426, vec![("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "13")]),
            (400, vec![("sec-websocket-version", "13")]),
            (403, vec![]),
        ] {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            explain(&mut response);
            let added: Vec<_> = response.headers().iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
            assert_eq!(added, headers, "{status}");
        }
    }

    #[test]
    fn first_supported_sub_protocol_is_chosen_and_an_empty_list_offers_none() {
        let chosen = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(value).unwrap());
            }
            choose_encoding(&headers).map_err(|refused| refused.status.as_u16())
        };
        let (json, msgpack) = ("tickwire.v1.json", "tickwire.v1.msgpack");
        for (values, expected) in [
            (&[][..], Ok(None)),
            (&[""], Ok(None)),
            (&[" , ,"], Ok(None)),
            (&[json], Ok(Some(Encoding::Json))),
            (&["mqtt", "", msgpack], Ok(Some(Encoding::MsgPack))),
            (&["mqtt,tickwire.v1.msgpack , tickwire.v1.json"], Ok(Some(Encoding::MsgPack))),
            (&["mqtt"], Err(400)),
            (&["TICKWIRE.V1.JSON"], Err(400)),
        ] {
            assert_eq!(chosen(values), expected, "{values:?}");
        }
        let long = ["x".repeat(5_000), "y".repeat(5_000)].join(",");
        let headers = HeaderMap::from_iter([(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(&long).unwrap())]);
        let refusal = format!("{:?}", choose_encoding(&headers).unwrap_err());
        assert!(refusal.len() < 400, "{refusal}");
    }

    #[test]
    fn bearer_token_is_read_with_any_case_and_spacing_of_the_scheme() {
        let token = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            }
            offered_credentials(&headers, OfferedQuery { token: None, user: Some("ann".to_owned()), saved: None })
        };
        let is = |token: &str| Ok(Some(Credentials::Token(token.to_owned())));
        for value in ["Bearer t.o.k", "bearer t.o.k", "BEARER t.o.k", "Bearer   t.o.k  ", " bEARER \t t.o.k"] {
            assert_eq!(token(&[value]), is("t.o.k"), "{value:?}");
        }
        for values in [&["Basic eDp5"][..], &["Bearer"], &["Bearer:x"], &["t.o.k"], &[""], &["Bearer a", "Bearer b"]] {
            assert_eq!(token(values).unwrap_err().status, StatusCode::BAD_REQUEST, "{values:?}");
        }
        assert_eq!(token(&[]), Ok(Some(Credentials::Name("ann".to_owned()))));
    }
}
