//! The credentials of a client: a fixed token, a provider of tokens that is asked whenever one is needed, or a name.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tokio::time::{sleep, timeout};
use tracing::debug;

use crate::error::ClientError;

/// The pause before a failed provider is asked again for the token of a session.
const PAUSE: Duration = Duration::from_secs(5);

/// The credentials of a client.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A token, sent as `Authorization: Bearer`. Once it has expired the client ends.
    Token(String),
    /// A provider of tokens, which are sent in the same way. It is asked for a new token before each connection, and
    /// when the gateway notifies that a session's token expires.
    Provider(TokenProvider),
    /// A user's name without proof, which only a gateway in `dev` mode accepts.
    DevUser(String),
    /// Nothing.
    None,
}

impl fmt::Debug for Credentials {
    /// Hides the token from logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(_) => f.write_str("Token(…)"),
            Self::Provider(_) => f.write_str("Provider(…)"),
            Self::DevUser(user) => f.debug_tuple("DevUser").field(user).finish(),
            Self::None => f.write_str("None"),
        }
    }
}

type ProviderError = Box<dyn Error + Send + Sync>;
type TokenFuture = Pin<Box<dyn Future<Output = Result<String, ProviderError>> + Send>>;

/// A provider of tokens. It is asked before each connection, and in a session when the gateway notifies that its token
/// expires. Clones share it.
#[derive(Clone)]
pub struct TokenProvider(Arc<dyn Fn() -> TokenFuture + Send + Sync>);

impl TokenProvider {
    /// A provider that calls `ask`. An error is reported as [`ClientError::NoToken`], and the provider is asked again
    /// later.
    pub fn new<F, T, E>(ask: F) -> Self
    where
        F: Fn() -> T + Send + Sync + 'static,
        T: Future<Output = Result<String, E>> + Send + 'static,
        E: Into<ProviderError>,
    {
        Self(Arc::new(move || {
            let token = ask();
            Box::pin(async move { token.await.map_err(Into::into) })
        }))
    }

    /// A token, within a time limit.
    async fn ask(&self, within: Duration) -> Result<String, ClientError> {
        match timeout(within, (self.0)()).await {
            Ok(Ok(token)) => Ok(token),
            Ok(Err(problem)) => Err(ClientError::NoToken { problem: problem.to_string() }),
            Err(_) => Err(ClientError::TimedOut { what: "the token", after: within }),
        }
    }

    /// A new token for a running session. A provider that fails is asked again as long as the session lasts.
    pub(crate) async fn renew(self, within: Duration) -> String {
        loop {
            match self.ask(within).await {
                Ok(token) => return token,
                Err(error) => debug!(%error, "token renewal failed"),
            }
            sleep(PAUSE).await;
        }
    }
}

impl fmt::Debug for TokenProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenProvider")
    }
}

impl PartialEq for TokenProvider {
    /// Whether both are the same provider.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for TokenProvider {}

/// The `Authorization` header with a current token, if the credentials have one. A provider has a time limit.
pub(crate) async fn authorization(
    credentials: &Credentials,
    within: Duration,
) -> Result<Option<HeaderValue>, ClientError> {
    match credentials {
        Credentials::Token(token) => bearer(token).map(Some),
        Credentials::Provider(provider) => {
            let token = provider.ask(within).await?;
            let token = bearer(token.trim());
            token.map(Some).map_err(|error| ClientError::NoToken { problem: error.to_string() })
        }
        Credentials::DevUser(_) | Credentials::None => Ok(None),
    }
}

/// The header for a token.
pub(crate) fn bearer(token: &str) -> Result<HeaderValue, ClientError> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| ClientError::BadConfig {
        field: "credentials",
        problem: "the token has characters that are not allowed in an HTTP header".to_owned(),
    })?;
    value.set_sensitive(true);
    Ok(value)
}
