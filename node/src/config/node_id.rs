//! The value of `node.id`. It may contain the name of the host, so that one configuration serves many containers, each
//! of which has a host name of its own.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::{host, names};

/// Stands for the name of the host, up to its first dot.
const HOST: &str = "{hostname}";

/// Reads a node's name; empty is `None`.
pub(super) fn node_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    let host = if text.contains(HOST) { host::name() } else { None };
    resolve(&text, host.as_deref()).map(Some).map_err(D::Error::custom)
}

/// Puts the name of the host in its places.
fn resolve(text: &str, host: Option<&str>) -> Result<String, String> {
    if !text.contains(HOST) {
        return if names::is_token(text) { Ok(text.to_owned()) } else { Err(rule(names::TOKEN_RULE)) };
    }
    let Some(host) = host else {
        return Err(format!("the name of this host is not known: set HOSTNAME, or write a name in place of {HOST}"));
    };
    let id = text.replace(HOST, host.split('.').next().unwrap_or(host));
    if names::is_token(&id) {
        return Ok(id);
    }
    Err(rule(&format!("the name of this host is {host}, which makes it {id:?}; it {}", names::TOKEN_RULE)))
}

fn rule(text: &str) -> String {
    format!("{text}; {HOST} stands for the name of the host up to its first dot")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_name_up_to_its_first_dot_is_put_in_place_of_its_placeholder() {
        let resolved = |text| resolve(text, Some("3f53e744fefc.example.com")).unwrap();
        assert_eq!(resolved("{hostname}"), "3f53e744fefc");
        assert_eq!(resolved("gw-{hostname}_a"), "gw-3f53e744fefc_a");
        assert_eq!(resolve("gw-1", None).unwrap(), "gw-1");
    }

    #[test]
    fn names_that_are_not_allowed_are_refused_with_the_reason() {
        let refused = |text, host, parts: &[&str]| {
            let reason = resolve(text, host).unwrap_err();
            for part in parts {
                assert!(reason.contains(part), "{part} is not in: {reason}");
            }
        };
        refused("{host}", Some("web"), &[names::TOKEN_RULE, "{hostname}"]);
        refused("{hostname}", None, &["HOSTNAME"]);
        refused("{hostname}", Some("käse.example.com"), &["käse.example.com", names::TOKEN_RULE]);
        refused("{hostname}", Some(".example.com"), &[".example.com", names::TOKEN_RULE]);
        let long = "x".repeat(65);
        refused("{hostname}", Some(long.as_str()), &[names::TOKEN_RULE]);
        refused("a.{hostname}", Some("web"), &["a.web", names::TOKEN_RULE]);
    }
}
