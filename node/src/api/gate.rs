//! Who may use the endpoints of an admin server: the holder of a token with a role, or everybody who reaches the server,
//! if the configuration says so. That is the default only for a server on loopback. `page` keeps web pages out of it.

use super::page::refuse_page;
use super::{Access, ApiRefusal, Caller};
use crate::auth::{AdminRole, AuthError, Authenticator, bearer};
use crate::clock::wall_clock;
use crate::config::Config;
use crate::http::HttpPeer;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use std::time::Duration;
use tickwire_core::ids::UserId;

/// Checks tokens for an admin server.
#[derive(Debug)]
pub struct AdminGate {
    authenticator: Arc<Authenticator>,
    /// Whether a request needs no token. A token that is sent is checked anyway.
    is_open: bool,
}

impl AdminGate {
    /// The gate that this configuration asks for. `authenticator` checks the tokens.
    pub fn new(config: &Config, authenticator: Arc<Authenticator>) -> Self {
        Self { authenticator, is_open: !config.admin.requires_token() }
    }

    /// The holder of the token of a request with these headers, if the request may use an endpoint at `now`, since 1970;
    /// `None` if it has no token and needs none.
    fn admit(&self, now: Duration, headers: &HeaderMap, access: Access) -> Result<Option<UserId>, ApiRefusal> {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let token = match (values.next(), values.next()) {
            (None, _) if self.is_open => return refuse_page(headers).map(|()| None),
            (None, _) if !self.authenticator.has_secret() => return Err(no_secret()),
            (None, _) => {
                let message = "send a token with the claim `role`: Authorization: Bearer <token> (admin.require_token)";
                return Err(ApiRefusal::unauthenticated("no_token", message));
            }
            (Some(value), None) => bearer(value),
            (Some(_), Some(_)) => None,
        };
        let Some(token) = token else {
            let message = "Authorization must be `Bearer <token>`, and sent once";
            return Err(ApiRefusal::unauthenticated("bad_token", message));
        };
        let (holder, role) = self.authenticator.check_role(now, token).map_err(|error| match error {
            AuthError::NoSecret => no_secret(),
            error => ApiRefusal::unauthenticated("bad_token", error.to_string()),
        })?;
        match (access, role) {
            (Access::Anyone | Access::User, _)
            | (Access::Reader, Some(AdminRole::Operator | AdminRole::Producer))
            | (Access::Operator | Access::UserOrOperator, Some(AdminRole::Operator)) => Ok(Some(holder)),
            (Access::Reader, None) => Err(wrong_role("`operator` or `producer`")),
            (Access::Operator | Access::UserOrOperator, Some(AdminRole::Producer) | None) => {
                Err(wrong_role("`operator`"))
            }
        }
    }
}

fn no_secret() -> ApiRefusal {
    let message = "this node has no auth.jwt_secret, so it cannot check tokens: set it on every node";
    ApiRefusal::unauthenticated("no_secret", message)
}

fn wrong_role(needed: &str) -> ApiRefusal {
    let message = format!("the token must have the claim `role` with the value {needed}");
    ApiRefusal::new(StatusCode::FORBIDDEN, "wrong_role", message)
}

/// Refuses a request that the gate does not admit. Notes in others who has sent them.
pub(super) async fn guard(
    State((gate, access)): State<(Arc<AdminGate>, Access)>,
    mut request: Request,
    next: Next,
) -> Response {
    match gate.admit(wall_clock(), request.headers(), access) {
        Ok(holder) => {
            let peer = request.extensions().get::<HttpPeer>().map(|HttpPeer(peer)| peer.ip());
            request.extensions_mut().insert(Caller::new(holder, peer));
            next.run(request).await
        }
        Err(refusal) => refusal.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LoadOptions, TokenRequirement};
    use jsonwebtoken::{EncodingKey, Header};
    use serde_json::{Value, json};

    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    const NOW: u64 = 1_800_000_000;

    fn gate(require: TokenRequirement, listen: &str, secret: &str) -> AdminGate {
        let mut config = Config::load(&LoadOptions::default()).unwrap();
        config.admin.require_token = require;
        config.admin.listen = listen.parse().unwrap();
        config.auth.jwt_secret = crate::config::Secret::new(secret);
        AdminGate::new(&config, Arc::new(Authenticator::new(&config.auth)))
    }

    fn token(more: Value) -> String {
        let mut claims = json!({ "sub": "ann", "exp": NOW + 60 });
        let Value::Object(more) = more else { panic!("{more}") };
        claims.as_object_mut().unwrap().extend(more);
        jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
    }

    fn admit(gate: &AdminGate, token: Option<&str>, access: Access) -> Result<(), &'static str> {
        let mut headers = HeaderMap::new();
        if let Some(token) = token {
            headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        }
        let admitted = gate.admit(Duration::from_secs(NOW), &headers, access).map_err(|refusal| refusal.code())?;
        assert_eq!(admitted.as_ref().map(UserId::as_str), token.map(|_| "ann"));
        Ok(())
    }

    #[test]
    fn role_decides_what_a_token_admits() {
        let gate = gate(TokenRequirement::Auto, "0.0.0.0:9090", SECRET);
        let (operator, producer) = (token(json!({ "role": "operator" })), token(json!({ "role": "producer" })));
        let (user, old) = (token(json!({})), token(json!({ "role": "operator", "exp": NOW - 60 })));
        for (sent, reader, operator) in [
            (Some(operator.as_str()), Ok(()), Ok(())),
            (Some(producer.as_str()), Ok(()), Err("wrong_role")),
            (Some(user.as_str()), Err("wrong_role"), Err("wrong_role")),
            (Some(old.as_str()), Err("bad_token"), Err("bad_token")),
            (Some("x"), Err("bad_token"), Err("bad_token")),
            (None, Err("no_token"), Err("no_token")),
        ] {
            assert_eq!(admit(&gate, sent, Access::Reader), reader, "{sent:?}");
            assert_eq!(admit(&gate, sent, Access::Operator), operator, "{sent:?}");
        }
    }

    #[test]
    fn only_a_server_on_loopback_is_open_by_default() {
        for (require, listen, expected) in [
            (TokenRequirement::Auto, "127.0.0.1:9090", Ok(())),
            (TokenRequirement::Auto, "[::1]:9090", Ok(())),
            (TokenRequirement::Auto, "0.0.0.0:9090", Err("no_token")),
            (TokenRequirement::Auto, "10.0.0.1:9090", Err("no_token")),
            (TokenRequirement::Always, "127.0.0.1:9090", Err("no_token")),
            (TokenRequirement::Never, "0.0.0.0:9090", Ok(())),
        ] {
            assert_eq!(admit(&gate(require, listen, SECRET), None, Access::Operator), expected, "{require:?} {listen}");
        }
        // A token that is sent counts, even where none is needed.
        let open = gate(TokenRequirement::Never, "127.0.0.1:9090", SECRET);
        assert_eq!(admit(&open, Some(&token(json!({}))), Access::Reader), Err("wrong_role"));
        // A page of the web has none.
        let mut of_page = HeaderMap::new();
        of_page.insert(header::HOST, "evil.example:9090".parse().unwrap());
        let refused = open.admit(Duration::from_secs(NOW), &of_page, Access::Operator).unwrap_err();
        assert_eq!(refused.code(), "bad_host");
        let without = gate(TokenRequirement::Always, "127.0.0.1:9090", "");
        assert_eq!(admit(&without, Some("a.b.c"), Access::Reader), Err("no_secret"));
        // A caller without a token should not have to send one to learn this.
        assert_eq!(admit(&without, None, Access::Reader), Err("no_secret"));
    }
}
