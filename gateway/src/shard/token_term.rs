//! How long a session goes on with its token: the end is announced, a new token is taken in place, and without one the
//! session ends in a way that loses nothing.

use metrics::counter;
use tickwire_core::ids::Millis;
use tickwire_core::protocol::codes::{CloseCode, ErrorCode, NoticeCode};
use tickwire_core::protocol::{Authenticated, Heartbeat, Id, Notice, ServerError, ServerFrame, Token};
use tickwire_node::clock::millis;

use super::{Shard, USUAL_WEIGHT};
use crate::handshake::auth::{Credentials, Identity, TermDue};
use crate::socket::Socket;

/// The largest whole number that every JSON parser reads exactly.
const LARGEST_EXACT: u64 = (1 << 53) - 1;

impl<S: Socket> Shard<S> {
    /// Does what the session's token makes due. `false` if that was its end.
    pub(super) fn look_at_term(&mut self, now: Millis, number: u64) -> bool {
        let leeway = self.settings.authenticator.leeway();
        let Some(session) = self.sessions.get_mut(number) else { return false };
        let Some(term) = &mut session.term else { return true };
        let wall = (self.settings.clocks.wall)();
        match term.look(wall, leeway) {
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
                counter!("tickwire_gateway_notices_total", "code" => NoticeCode::TokenExpiring.as_str()).increment(1);
                self.reply(now, number, &ServerFrame::Notice(notice));
                true
            }
            TermDue::End => {
                self.flush(now, number);
                let position = self.position(number);
                self.reply(now, number, &ServerFrame::Heartbeat(Heartbeat { position }));
                self.close(now, number, CloseCode::TokenExpired);
                false
            }
        }
    }

    /// Whether the session's token is not good any more.
    pub(super) fn is_over(&self, number: u64) -> bool {
        let (wall, leeway) = ((self.settings.clocks.wall)(), self.settings.authenticator.leeway());
        self.sessions.get(number).and_then(|session| session.term).is_some_and(|term| term.is_over(wall, leeway))
    }

    /// When the session's token makes something due, if the clock goes on as it is.
    pub(super) fn term_due(&self, now: Millis, number: u64) -> Option<Millis> {
        let term = self.sessions.get(number)?.term?;
        // A millisecond later, so that a part of one is over: what is not due when it is looked at is due later than now.
        Some(now.plus(
            millis(term.wait((self.settings.clocks.wall)(), self.settings.authenticator.leeway())).saturating_add(1),
        ))
    }

    /// A session goes on with a new token of the same user, and with what that grants.
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
            let message = "this connection has no token to renew; open another one with a token";
            return Err(refused(ErrorCode::AlreadyAuthenticated, message.to_owned()));
        };
        let wall = (self.settings.clocks.wall)();
        let identity = self.settings.authenticator.check(wall, &Credentials::Token(token.0));
        let Identity { user, plan, weight, expires } =
            identity.map_err(|error| refused(ErrorCode::AuthFailed, error.to_string()))?;
        if user != session.user {
            let message = "the token is another user's; this connection stays as it is: open another one for that user";
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
        counter!("tickwire_gateway_token_renewals_total").increment(1);
        self.reply(now, number, &ServerFrame::Authenticated(Authenticated { id, user, expires_ms }));
        if !self.draining {
            self.remind_of_next(now, number);
        }
        Ok(())
    }
}
