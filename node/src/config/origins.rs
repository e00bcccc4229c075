//! Web origins (RFC 6454) in the configuration: one, all subdomains of one, or any.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use url::Url;

/// Web origins whose pages may connect.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum WebOrigin {
    /// Any origin.
    Any,
    /// Pages without an origin, such as files, which send `null`.
    Null,
    /// This one.
    One(WebAddress),
    /// Those whose host is a subdomain of this one's.
    Below(WebAddress),
}

/// Scheme, host and port in a normal form, so that equal addresses compare equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebAddress {
    scheme: String,
    host: String,
    port: Option<u16>,
}

impl WebOrigin {
    /// Whether the browser's `origin` is this origin, or one of these.
    pub fn has(&self, origin: &str) -> bool {
        let is = |matches: fn(&WebAddress, &WebAddress) -> bool, place: &WebAddress| {
            WebAddress::parse(origin).is_some_and(|origin| matches(&origin, place))
        };
        match self {
            Self::Any => true,
            Self::Null => origin == "null",
            Self::One(place) => is(|origin, place| origin == place, place),
            Self::Below(place) => is(WebAddress::is_below, place),
        }
    }
}

impl WebAddress {
    /// Reads an origin, with or without a slash at its end. Hosts are in lower case. The default port of the scheme is
    /// `None`.
    fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(text).ok()?;
        let bare = url.username().is_empty() && url.password().is_none() && matches!(url.path(), "" | "/");
        let bare = bare && url.query().is_none() && url.fragment().is_none();
        let host = url.host_str().filter(|host| bare && !host.is_empty())?.to_lowercase();
        Some(Self { scheme: url.scheme().to_owned(), host, port: url.port() })
    }

    fn is_below(&self, parent: &Self) -> bool {
        let below = self.host.strip_suffix(&parent.host).and_then(|host| host.strip_suffix('.'));
        self.scheme == parent.scheme && self.port == parent.port && below.is_some_and(|below| !below.is_empty())
    }
}

impl FromStr for WebOrigin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = |why: &str| {
            let form =
                "must be origins such as \"https://app.example.com\" or \"https://*.example.com\", or \"*\" for any";
            Err(format!("{form}; {text:?} {why}"))
        };
        match text {
            "*" => return Ok(Self::Any),
            "null" => return Ok(Self::Null),
            _ => {}
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return refused("has no scheme: put https:// before it");
        };
        let (below, rest) = match rest.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        if rest.contains('*') || scheme.contains('*') {
            return refused("has a * that does not stand for whole subdomains");
        }
        match WebAddress::parse(&format!("{scheme}://{rest}")) {
            Some(place) if below => Ok(Self::Below(place)),
            Some(place) => Ok(Self::One(place)),
            None => refused("has more than a scheme, a host and a port, or lacks one of them"),
        }
    }
}

impl TryFrom<String> for WebOrigin {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<WebOrigin> for String {
    fn from(origin: WebOrigin) -> Self {
        origin.to_string()
    }
}

impl fmt::Display for WebOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (subdomains, WebAddress { scheme, host, port }) = match self {
            Self::Any => return f.write_str("*"),
            Self::Null => return f.write_str("null"),
            Self::One(place) => ("", place),
            Self::Below(place) => ("*.", place),
        };
        write!(f, "{scheme}://{subdomains}{host}")?;
        port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_match_as_in_browsers() {
        for (listed, origin, has) in [
            ("*", "https://a.example", true),
            ("*", "null", true),
            ("null", "null", true),
            ("null", "https://a.example", false),
            ("https://a.example", "https://a.example", true),
            ("https://a.example/", "https://a.example", true),
            ("HTTPS://A.Example", "https://a.example", true),
            ("https://a.example", "https://A.EXAMPLE", true),
            ("https://a.example:443", "https://a.example", true),
            ("http://a.example:80/", "http://a.example", true),
            ("https://a.example", "https://a.example:443", true),
            ("https://a.example", "http://a.example", false),
            ("https://a.example", "https://a.example:8443", false),
            ("https://a.example:8443", "https://a.example:8443", true),
            ("https://a.example", "https://a.example.evil", false),
            ("https://a.example", "null", false),
            ("https://a.example", "", false),
            ("https://*.example.com", "https://app.example.com", true),
            ("https://*.Example.com/", "https://a.b.example.com", true),
            ("https://*.example.com", "https://example.com", false),
            ("https://*.example.com", "https://evilexample.com", false),
            ("https://*.example.com", "https://app.example.com.evil", false),
            ("https://*.example.com", "http://app.example.com", false),
            ("https://*.example.com:8443", "https://app.example.com:8443", true),
            ("https://*.example.com:8443", "https://app.example.com", false),
            ("https://bücher.example", "https://xn--bcher-kva.example", true),
            ("http://localhost:3000", "http://localhost:3000", true),
            ("http://[::1]:3000", "http://[0:0::1]:3000", true),
            ("capacitor://localhost", "capacitor://localhost", true),
        ] {
            assert_eq!(listed.parse::<WebOrigin>().unwrap().has(origin), has, "{listed} and {origin}");
        }
    }

    #[test]
    fn origins_that_match_no_page_are_refused() {
        for text in [
            "",
            "app.example.com",
            "https://",
            "https://a.example/path",
            "https://a.example?x",
            "https://a.example#x",
            "https://user@a.example",
            "*.example.com",
            "https://app-*.example.com",
            "https://a.*.example",
            "https://*",
            "*://a.example",
            "https:a.example",
            "https://a.example:99999",
            "https://a b.example",
        ] {
            let refused = text.parse::<WebOrigin>();
            assert!(refused.as_ref().is_err_and(|why| why.contains("https://*.example.com")), "{text}: {refused:?}");
        }
    }

    #[test]
    fn origin_is_shown_in_the_form_that_can_be_parsed() {
        for text in ["*", "null", "https://a.example", "https://*.a.example:8443"] {
            assert_eq!(text.parse::<WebOrigin>().unwrap().to_string(), text);
        }
    }
}
