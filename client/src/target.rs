//! A gateway's address, parsed and checked once, and the requests to it.

use http::header::{AUTHORIZATION, HOST, HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use http::uri::{PathAndQuery, Scheme, Uri};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;

use crate::config::ClientConfig;
use crate::credentials::{Credentials, bearer};
use crate::dial::Endpoint;
use crate::error::ClientError;

/// The path for requests for the home gateway.
const HOME_PATH: &str = "/v1/connect";
const DEFAULT_PATH: &str = "/v1/stream";
const DEFAULT_PORT: u16 = 80;
const DEFAULT_TLS_PORT: u16 = 443;

/// One gateway to connect to.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// The address as the user or a gateway wrote it, for messages.
    pub(crate) url: String,
    pub(crate) endpoint: Endpoint,
    uri: Uri,
    sub_protocol: HeaderValue,
}

impl Target {
    /// Parses every address of a configuration.
    pub(crate) fn all(config: &ClientConfig) -> Result<Vec<Self>, ClientError> {
        if config.urls.is_empty() {
            return Err(bad("urls", "at least one is needed, such as ws://127.0.0.1:8080/v1/stream"));
        }
        if let Credentials::Token(token) = &config.credentials {
            bearer(token)?;
        }
        config.urls.iter().map(|url| Self::read(url, config)).collect()
    }

    /// Parses an address that this gateway has sent, for the same user. It must not lead from TLS to a plain
    /// connection, on which everybody could read the user's token.
    pub(crate) fn other(&self, url: &str, config: &ClientConfig) -> Result<Self, ClientError> {
        let other = Self::read(url, config)?;
        if self.endpoint.tls.is_some() && other.endpoint.tls.is_none() {
            return Err(bad("urls", format!("{url:?} is without TLS, but {:?} is with TLS", self.url)));
        }
        Ok(other)
    }

    /// Whether both are the same gateway.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.endpoint == other.endpoint && self.uri.path() == other.uri.path()
    }

    fn read(url: &str, config: &ClientConfig) -> Result<Self, ClientError> {
        let problem =
            |problem: &str| bad("urls", format!("{url:?} {problem}; write it as ws://host:port or wss://host:port"));
        let given: Uri = url.parse().map_err(|e| problem(&format!("is not a URL ({e})")))?;
        let (scheme, default_port) = match given.scheme_str() {
            Some("ws") => ("ws", DEFAULT_PORT),
            Some("wss") => ("wss", DEFAULT_TLS_PORT),
            _ => return Err(problem("does not begin with ws:// or wss://")),
        };
        let authority = given.authority().ok_or_else(|| problem("has no host"))?;
        if authority.as_str().contains('@') {
            return Err(problem("contains a user name; use the credentials instead"));
        }
        let host = authority.host();
        let tls = match scheme {
            "wss" => {
                let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                Some(ServerName::try_from(name).map_err(|_| problem("has no valid host for a certificate"))?)
            }
            _ => None,
        };
        let endpoint = Endpoint { authority: format!("{host}:{}", authority.port_u16().unwrap_or(default_port)), tls };
        let path = match given.path() {
            "" | "/" => DEFAULT_PATH,
            path => path,
        };
        let user = match &config.credentials {
            Credentials::DevUser(user) => Some(format!("user={}", utf8_percent_encode(user, NON_ALPHANUMERIC))),
            _ => None,
        };
        let saved = (!config.saved).then(|| "saved=false".to_owned());
        let parts: Vec<String> = [user, given.query().map(str::to_owned), saved].into_iter().flatten().collect();
        let query = if parts.is_empty() { String::new() } else { format!("?{}", parts.join("&")) };
        let path_and_query = PathAndQuery::try_from(format!("{path}{query}"));
        let uri = Uri::builder()
            .scheme(Scheme::try_from(scheme).map_err(|e| problem(&e.to_string()))?)
            .authority(authority.clone())
            .path_and_query(path_and_query.map_err(|e| problem(&e.to_string()))?)
            .build()
            .map_err(|e| problem(&e.to_string()))?;
        let sub_protocol = HeaderValue::from_static(config.encoding.sub_protocol());
        Ok(Self { url: url.to_owned(), endpoint, uri, sub_protocol })
    }

    /// The request for the user's home gateway.
    pub(crate) fn home_request(&self, authorization: Option<&HeaderValue>) -> http::Result<http::Request<String>> {
        let query = self.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        let mut home_request = http::Request::get(format!("{HOME_PATH}{query}")).header(HOST, &self.endpoint.authority);
        if let Some(authorization) = authorization {
            home_request = home_request.header(AUTHORIZATION, authorization);
        }
        home_request.body(String::new())
    }

    /// An upgrade request with a fresh key.
    pub(crate) fn request(
        &self,
        authorization: Option<&HeaderValue>,
    ) -> Result<Request, tokio_tungstenite::tungstenite::Error> {
        let mut request = self.uri.clone().into_client_request()?;
        let headers = request.headers_mut();
        headers.insert(SEC_WEBSOCKET_PROTOCOL, self.sub_protocol.clone());
        if let Some(authorization) = authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        Ok(request)
    }
}

fn bad(field: &'static str, problem: impl Into<String>) -> ClientError {
    ClientError::BadConfig { field, problem: problem.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(urls: &[&str], credentials: Credentials) -> Result<Vec<Target>, ClientError> {
        let urls = urls.iter().map(ToString::to_string).collect();
        Target::all(&ClientConfig { urls, credentials, ..ClientConfig::default() })
    }

    #[test]
    fn missing_ports_and_paths_of_addresses_are_added() {
        let table = [
            ("ws://h:81/v1/stream", "h:81", "ws://h:81/v1/stream"),
            ("ws://h", "h:80", "ws://h/v1/stream"),
            ("ws://h/", "h:80", "ws://h/v1/stream"),
            ("ws://[::1]:9/x?a=1", "[::1]:9", "ws://[::1]:9/x?a=1"),
            ("wss://h", "h:443", "wss://h/v1/stream"),
            ("wss://h:80/", "h:80", "wss://h:80/v1/stream"),
        ];
        for (url, authority, uri) in table {
            let target = targets(&[url], Credentials::None).unwrap().remove(0);
            assert_eq!((target.endpoint.authority.as_str(), target.uri.to_string().as_str()), (authority, uri));
        }
    }

    #[test]
    fn certificate_must_have_the_host_of_the_address() {
        let name = |url: &str| targets(&[url], Credentials::None).unwrap().remove(0).endpoint.tls;
        let expected = |name: &str| Some(ServerName::try_from(name.to_owned()).unwrap());
        assert_eq!(name("wss://gw.example.com:9"), expected("gw.example.com"));
        assert_eq!(name("wss://127.0.0.1:9"), expected("127.0.0.1"));
        assert_eq!(name("wss://[::1]:9"), expected("::1"));
        assert_eq!(name("ws://127.0.0.1:9"), None);
    }

    #[test]
    fn gateway_with_tls_cannot_lead_to_one_without() {
        let [plain, secure] = ["ws://h", "wss://h"].map(|url| targets(&[url], Credentials::None).unwrap().remove(0));
        let config = ClientConfig::default();
        assert!(secure.other("ws://home", &config).is_err());
        assert!(secure.other("wss://home", &config).is_ok());
        assert!(plain.other("ws://home", &config).is_ok() && plain.other("wss://home", &config).is_ok());
        assert!(!plain.is_same(&targets(&["wss://h:80"], Credentials::None).unwrap()[0]));
    }

    #[test]
    fn credentials_are_sent_in_the_query_or_header() {
        let user = targets(&["ws://h/?a=1"], Credentials::DevUser("bob@x.com&b".into())).unwrap();
        assert_eq!(user[0].request(None).unwrap().uri(), "ws://h/v1/stream?user=bob%40x%2Ecom%26b&a=1");
        let token = targets(&["ws://h"], Credentials::Token("t0k".into())).unwrap();
        let request = token[0].request(Some(&bearer("t0k").unwrap())).unwrap();
        assert_eq!(request.headers()[AUTHORIZATION], "Bearer t0k");
        assert_eq!(request.headers()[SEC_WEBSOCKET_PROTOCOL], "tickwire.v1.json");
        assert!(!format!("{token:?} {:?}", Credentials::Token("t0k".into())).contains("t0k"));
    }

    #[test]
    fn saved_subscriptions_are_declined_in_the_query() {
        let uri = |url: &str, credentials: Credentials| {
            let config = ClientConfig { credentials, saved: false, ..ClientConfig::new(url) };
            Target::all(&config).unwrap()[0].request(None).unwrap().uri().to_string()
        };
        assert_eq!(uri("ws://h", Credentials::None), "ws://h/v1/stream?saved=false");
        let user = Credentials::DevUser("ann".to_owned());
        assert_eq!(uri("ws://h/?a=1", user), "ws://h/v1/stream?user=ann&a=1&saved=false");
    }

    #[test]
    fn invalid_configuration_is_refused_with_its_field() {
        let field = |urls: &[&str], credentials| match targets(urls, credentials) {
            Err(ClientError::BadConfig { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        for urls in [
            &[][..],
            &["h:80"],
            &["http://h"],
            &["wss://a b"],
            &["wss://-"],
            &["ws://"],
            &["ws://u@h"],
            &["ws://h", "x y"],
        ] {
            assert_eq!(field(urls, Credentials::None), "urls");
        }
        assert_eq!(field(&["ws://h"], Credentials::Token("a\nb".into())), "credentials");
    }
}
