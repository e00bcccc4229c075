//! Asks admin servers for `/v1/nodes`.

use futures_util::stream::{self, StreamExt};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode, Uri, header};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use std::error::Error;
use std::time::Duration;
use tickwire_command::signing::{TokenClaims, sign};
use tickwire_node::clock::wall_clock;
use tickwire_node::config::{AuthConfig, AuthMode, ConfigError, Secret};
use tickwire_node::terminal_text::in_line;
use tokio::time::timeout;

use super::answer::ClusterAnswer;
use super::reading::Reading;

/// How long an admin server may take. It waits up to two seconds for its turn and for other nodes.
const DEADLINE: Duration = Duration::from_secs(4);

/// How many admin servers are asked at the same time.
const AT_ONCE: usize = 4;

/// How many bytes an answer may have.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// How many characters of the reason for a fault are shown.
const MOST_REASON: usize = 1_000;

/// How long a signed token is valid, in seconds: for one request, by clocks that differ.
const TOKEN_SECS: u64 = 120;

/// What to do about a missing or wrong token.
const TOKEN_ADVICE: &str = "give the token of an operator (--token, TICKWIRE_TOKEN), or auth.jwt_secret to sign one \
                            (TICKWIRE_AUTH__JWT_SECRET, --config)";

/// The address of an admin server.
#[derive(Debug, Clone)]
pub(super) struct AdminUrl {
    shown: String,
    nodes: Uri,
}

/// Reads `http://HOST:PORT`.
pub(super) fn admin_url(text: &str) -> Result<AdminUrl, String> {
    let shown = text.trim_end_matches('/');
    let wrong = || "must be http://HOST:PORT, such as http://127.0.0.1:9090".to_owned();
    let host = shown.strip_prefix("http://").ok_or_else(wrong)?;
    if host.is_empty() || host.contains(['/', '?', '#', '@']) {
        return Err(wrong());
    }
    let nodes = format!("{shown}/v1/nodes").parse::<Uri>().map_err(|_| wrong())?;
    Ok(AdminUrl { shown: shown.to_owned(), nodes })
}

/// How this command proves who it is.
#[derive(Debug)]
pub(super) enum Credentials {
    /// With this token.
    Token(String),
    /// With tokens that it signs.
    Signing(Box<AuthConfig>, Secret),
    /// Not at all: admin servers on loopback addresses ask for no token.
    None,
}

impl Credentials {
    /// Signs tokens if the configuration has a secret.
    ///
    /// # Errors
    /// When the secret is too short.
    pub(super) fn signing(mut auth: AuthConfig) -> Result<Self, ConfigError> {
        if auth.jwt_secret.expose().is_empty() {
            return Ok(Self::None);
        }
        // A node checks the tokens of operators in any mode.
        auth.mode = AuthMode::Jwt;
        let secret = auth.secret()?.cloned().unwrap_or_default();
        Ok(Self::Signing(Box::new(auth), secret))
    }

    fn header(&self) -> Result<Option<String>, String> {
        let token = match self {
            Self::None => return Ok(None),
            Self::Token(token) => token.clone(),
            Self::Signing(auth, secret) => {
                let iat = wall_clock().as_secs();
                let claims = TokenClaims {
                    sub: "tickwire-top",
                    plan: None,
                    weight: None,
                    role: Some("operator"),
                    aud: auth.audience.first().map(String::as_str),
                    iss: auth.issuer.first().map(String::as_str),
                    iat,
                    exp: iat + TOKEN_SECS,
                };
                sign(secret, &claims).map_err(|error| format!("the token cannot be signed: {error}"))?
            }
        };
        Ok(Some(format!("Bearer {token}")))
    }
}

/// Asks.
#[derive(Debug)]
pub(super) struct Asker {
    client: Client<HttpConnector, Empty<Bytes>>,
    admins: Vec<AdminUrl>,
    credentials: Credentials,
}

impl Asker {
    /// Asks these admin servers.
    pub(super) fn new(admins: Vec<AdminUrl>, credentials: Credentials) -> Self {
        Self { client: Client::builder(TokioExecutor::new()).build_http(), admins, credentials }
    }

    /// What all admin servers know together.
    ///
    /// # Errors
    /// Why no admin server has answered, a text for each.
    pub(super) async fn ask(&self) -> Result<Reading, Vec<String>> {
        let asked = stream::iter(&self.admins).map(|admin| async move {
            let answer = match timeout(DEADLINE, self.ask_one(admin)).await {
                Ok(answer) => answer,
                Err(_) => Err(format!("did not answer within {DEADLINE:?}")),
            };
            answer.map_err(|reason| fault(&admin.shown, &reason))
        });
        Reading::of(asked.buffered(AT_ONCE).collect::<Vec<_>>().await)
    }

    async fn ask_one(&self, admin: &AdminUrl) -> Result<ClusterAnswer, String> {
        let mut request = Request::get(admin.nodes.clone());
        if let Some(authorization) = self.credentials.header()? {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let request = request.body(Empty::new()).map_err(|error| format!("the token is no header: {error}"))?;
        let response = self.client.request(request).await.map_err(|error| match error.is_connect() {
            true => format!("cannot connect: {}", cause(&error)),
            false => format!("no answer: {}", cause(&error)),
        })?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MOST_BYTES).collect().await;
        let body = body.map_err(|error| format!("the answer cannot be read: {error}"))?.to_bytes();
        match status {
            StatusCode::OK => serde_json::from_slice(&body)
                .map_err(|error| format!("the answer is not that of an admin server: {error}")),
            status => Err(refusal(status, &body)),
        }
    }
}

/// What is wrong with an admin server, as one line that a terminal can show: parts of it are texts of the server.
pub(super) fn fault(admin: &str, reason: &str) -> String {
    let shown: String = reason.chars().take(MOST_REASON).collect();
    format!("{admin}: {}", in_line(&shown))
}

/// The deepest cause of an error: the ones above it say only that there is one.
fn cause(error: &(dyn Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

/// Why an admin server has refused, and what to do.
pub(super) fn refusal(status: StatusCode, body: &[u8]) -> String {
    let refusal: Value = serde_json::from_slice(body).unwrap_or_default();
    let code = refusal["code"].as_str().unwrap_or_default();
    let message = refusal["message"].as_str().unwrap_or("it gives no reason");
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            format!("refused with {} {code}: {message}; {TOKEN_ADVICE}", status.as_u16())
        }
        StatusCode::NOT_FOUND => {
            "it has no /v1/nodes: it is a node of an older version, or no admin server (admin.listen)".to_owned()
        }
        _ => format!("refused with {} {code}: {message}", status.as_u16()),
    }
}
