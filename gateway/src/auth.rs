//! The tokens of a gateway's clients. `tickwire_node::auth` checks them, for every listener of every node, and `term`
//! tracks when the token of a session expires.

mod term;

pub(crate) use term::{TermDue, TokenTerm};
pub(crate) use tickwire_node::auth::{AuthError, Authenticator, Credentials, Identity, USUAL_WEIGHT};
