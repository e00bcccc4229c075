//! Who sends a plain HTTP request, by the same credentials as an upgrade.

use axum::http::HeaderMap;
use tickwire_node::clock::wall_clock;

use crate::auth::{AuthError, Credentials, Identity};
use crate::http::{CredentialsQuery, HttpRefusal, HttpState, offered_credentials, read_query};

/// The identity that the credentials of a request prove.
pub(super) fn identify(
    state: &HttpState,
    query: CredentialsQuery,
    headers: &HeaderMap,
) -> Result<Identity, HttpRefusal> {
    let Some(credentials) = offered_credentials(headers, read_query(query)?)? else {
        return Err(HttpRefusal::unnamed("credentials are missing: send Authorization: Bearer <token>, or ?token="));
    };
    let unauthenticated = |error: AuthError| match &credentials {
        Credentials::Token(_) => HttpRefusal::unauthenticated(error.to_string()),
        Credentials::Name(_) => HttpRefusal::unnamed(error.to_string()),
    };
    state.handshake.authenticator.check(wall_clock(), &credentials).map_err(unauthenticated)
}
