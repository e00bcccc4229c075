//! The expiry of a session's token: the client is notified before it, may replace the token in the open session, and
//! otherwise the session is closed without a loss.

use tickwire_core::ids::Millis;
use tickwire_core::protocol::codes::{CloseCode, ErrorCode, NoticeCode};
use tickwire_core::protocol::{Authenticated, Id, Notice, ServerError, ServerFrame, Token};
use tickwire_node::clock::millis;

use super::Shard;
use crate::auth::USUAL_WEIGHT;
use crate::auth::{Credentials, Identity, TermDue};
use crate::metrics;
use crate::socket::Socket;

/// The largest integer that every JSON parser reads exactly.
const LARGEST_EXACT: u64 = (1 << 53) - 1;

impl<S: Socket> Shard<S> {
    /// Does what is due for the session's token. `false` if the session was closed.
    pub(super) fn check_token(&mut self, now: Millis, number: u64) -> bool {
        let leeway = self.settings.authenticator.leeway();
        let Some(session) = self.sessions.get_mut(number) else { return false };
        let Some(term) = &mut session.term else { return true };
        let wall = (self.settings.clocks.wall)();
        match term.check(wall, leeway) {
            TermDue::Nothing => true,
            TermDue::Notice => {
                let left = millis(term.left(wall));
                let msg = format!(
                    "the token expires in {} s; send {{\"action\":\"auth\",\"token\":…}} with a new one",
                    left.div_ceil(1_000)
                );
                let notice = Notice {
                    msg: Some(msg),
                    expires_ms: Some(left.min(LARGEST_EXACT)),
                    ..Notice::new(NoticeCode::TokenExpiring)
                };
                metrics::NOTICES.with(NoticeCode::TokenExpiring.as_str()).increment(1);
                session.record.notices += 1;
                self.reply(now, number, &ServerFrame::Notice(notice));
                true
            }
            TermDue::End => {
                self.flush(now, number);
                self.send_position(now, number);
                self.close(now, number, CloseCode::TokenExpired);
                false
            }
        }
    }

    /// Whether the session's token is no longer valid.
    pub(super) fn is_over(&self, number: u64) -> bool {
        let (wall, leeway) = ((self.settings.clocks.wall)(), self.settings.authenticator.leeway());
        self.sessions.get(number).and_then(|session| session.term).is_some_and(|term| term.is_over(wall, leeway))
    }

    /// When something is due for the session's token, if nobody sets the wall clock.
    pub(super) fn term_due(&self, now: Millis, number: u64) -> Option<Millis> {
        let term = self.sessions.get(number)?.term?;
        // One millisecond more, because the wait is rounded down: what is not due now must get a later time than now.
        Some(now.plus(
            millis(term.wait((self.settings.clocks.wall)(), self.settings.authenticator.leeway())).saturating_add(1),
        ))
    }

    /// Replaces the token of a session with a new one of the same user, and applies what it grants.
    pub(super) fn authenticate(
        &mut self,
        now: Millis,
        number: u64,
        id: Option<Id>,
        token: Token,
    ) -> Result<(), ServerError> {
        let refused = |code, message: String| ServerError::new(id.clone(), code, message);
        let Some(session) = self.sessions.get_mut(number) else { return Ok(()) };
        let Some(term) = &mut session.term else {
            let message = "this connection has no token to renew; open a new connection with a token";
            return Err(refused(ErrorCode::AlreadyAuthenticated, message.to_owned()));
        };
        let wall = (self.settings.clocks.wall)();
        let identity = self.settings.authenticator.check(wall, &Credentials::Token(token.0));
        let Identity { user, plan, weight, expires } =
            identity.map_err(|error| refused(ErrorCode::AuthFailed, error.to_string()))?;
        if user != session.user {
            let message = "the token is of another user, so it was ignored; open a new connection for that user";
            return Err(refused(ErrorCode::AlreadyAuthenticated, message.to_owned()));
        }
        if let Some(expires) = expires {
            term.renew(wall, expires);
        }
        let expires_ms = millis(term.left(wall)).min(LARGEST_EXACT);
        self.weighted -= usize::from(session.weight != USUAL_WEIGHT);
        self.weighted += usize::from(weight != USUAL_WEIGHT);
        session.weight = weight;
        self.accounts[session.account].rate = self.settings.config.rate_of(plan.as_deref());
        metrics::TOKEN_RENEWALS.increment(1);
        self.reply(now, number, &ServerFrame::Authenticated(Authenticated { id, user, expires_ms }));
        if !self.draining {
            self.set_next_timer(now, number);
        }
        Ok(())
    }
}
