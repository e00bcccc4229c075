//! The codes of the client protocol: error codes of refused frames, notices about delivery, and close codes of ended
//! connections.
//!
//! Each kind of code has one table here. `docs/protocol.md` has the same tables, and a test compares them. Error codes
//! below 407 have the usual meaning of market-data APIs.

use std::fmt;

/// Whether a client should connect again after a close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reconnect {
    /// Yes, with the usual jittered backoff.
    Yes,
    /// Not before the cause is fixed: the connection would be closed again.
    No,
    /// After a pause: that of the `goaway` frame, else some seconds.
    After,
    /// Like [`Reconnect::Yes`], but with a new token: with the same one the connection would be closed again.
    NewToken,
}

impl Reconnect {
    /// The word in tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::After => "after",
            Self::NewToken => "new token",
        }
    }
}

macro_rules! codes {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $code:literal, $text:literal;)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $(#[doc = $text] $variant),+
        }

        impl $name {
            /// Every code, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The number on the wire.
            #[must_use]
            pub fn code(self) -> u16 {
                match self { $(Self::$variant => $code),+ }
            }

            /// The meaning, in a few words.
            #[must_use]
            pub fn text(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// The code with this number, if there is one.
            #[must_use]
            pub fn from_code(code: u16) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)+ _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{} {}", self.code(), self.text())
            }
        }
    };
}

codes! {
    /// Why a client's frame was refused: the code of an `error` frame. The connection stays open.
    ErrorCode {
        BadFrame = 400, "not one object in the negotiated encoding";
        NotAuthenticated = 401, "authenticate first";
        AuthFailed = 402, "authentication failed";
        AlreadyAuthenticated = 403, "already authenticated";
        AuthTimeout = 404, "authentication took too long";
        SymbolLimit = 405, "too many symbols on this connection";
        BadFilter = 410, "invalid filter";
        UnknownAction = 411, "no such action";
        UnknownSubscription = 412, "no subscription of this name";
        ResumeNotFirst = 413, "resume must be the first request of a connection";
        SubscriptionLimit = 414, "too many subscriptions on this connection";
        BadField = 415, "a field is missing, unknown or wrong";
        FilterBudget = 416, "filters too large for one connection";
        FrameTooLarge = 417, "a frame larger than the limit, which was skipped";
        NotAnAlert = 418, "no event of kind alert to this user";
        Unavailable = 503, "not possible at the moment; try again";
    }
}

codes! {
    /// Why a connection was closed. Causes of RFC 6455 (7.4.1) have its codes, which browsers, proxies and dashboards
    /// know. The others are from 4000 on.
    CloseCode {
        ProtocolError = 1002, "a violation of the WebSocket protocol";
        NotUtf8 = 1007, "text that is not UTF-8";
        TooBig = 1009, "a message too large to be skipped";
        Draining = 1012, "this gateway is shutting down";
        AuthFailed = 4001, "authentication failed";
        AuthTimeout = 4002, "authentication took too long";
        TooManyBadFrames = 4003, "too many refused frames";
        TokenNotYetValid = 4007, "the token is not valid yet";
        SlowConsumer = 4008, "the client reads too slowly";
        TokenExpired = 4009, "the token has expired";
        Unresponsive = 4010, "the client does not answer pings";
        Moved = 4012, "another gateway has room for this session";
        Unavailable = 4013, "the gateway has lost its cluster";
        ClosedByOperator = 4014, "an operator has closed the sessions of this user";
        TooManySessions = 4015, "too many sessions of this user on this gateway";
    }
}

/// The subject of a `notice` about delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NoticeCode {
    /// The client reads too slowly.
    SlowConsumer,
    /// It reads fast enough again.
    Recovered,
    /// The rate of its user is used up.
    Throttled,
    /// The quota of a subscription is used up.
    Quota,
    /// The time to live of events was over before they could be sent.
    Expired,
    /// More critical events than can be sent at once.
    CriticalBudget,
    /// The gateway may not receive new events.
    UpstreamLost,
    /// The gateway receives new events again.
    UpstreamRestored,
    /// The token expires soon.
    TokenExpiring,
    /// The unacknowledged alerts of the user could not be read.
    AgainFailed,
    /// More alerts are unacknowledged than come again.
    AgainLimit,
}

impl NoticeCode {
    /// Every code, in order.
    pub const ALL: [Self; 11] = [
        Self::SlowConsumer,
        Self::Recovered,
        Self::Throttled,
        Self::Quota,
        Self::Expired,
        Self::CriticalBudget,
        Self::UpstreamLost,
        Self::UpstreamRestored,
        Self::TokenExpiring,
        Self::AgainFailed,
        Self::AgainLimit,
    ];

    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SlowConsumer => "slow_consumer",
            Self::Recovered => "recovered",
            Self::Throttled => "throttled",
            Self::Quota => "quota",
            Self::Expired => "expired",
            Self::CriticalBudget => "critical_budget",
            Self::UpstreamLost => "upstream_lost",
            Self::UpstreamRestored => "upstream_restored",
            Self::TokenExpiring => "token_expiring",
            Self::AgainFailed => "again_failed",
            Self::AgainLimit => "again_limit",
        }
    }

    /// The meaning, in a few words.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::SlowConsumer => "the client reads too slowly; if this continues, the connection is closed with 4008",
            Self::Recovered => "the client reads fast enough again",
            Self::Throttled => "the rate of this user is used up",
            Self::Quota => "the hourly quota of this subscription on this gateway is used up",
            Self::Expired => "the time to live of these events was over before they could be sent",
            Self::CriticalBudget => "more critical events than can be sent at once; these waited for their window",
            Self::UpstreamLost => {
                "this gateway does not reach the cluster or some partitions, or events cannot be stored: new events \
                 may not arrive for now; stay connected"
            }
            Self::UpstreamRestored => {
                "the outage reported by `upstream_lost` is over; missed events were sent or will be sent"
            }
            Self::TokenExpiring => "the token expires soon; send `auth` with a new one",
            Self::AgainFailed => {
                "unacknowledged alerts could not be read, so they do not come again; subscribe to alerts again"
            }
            Self::AgainLimit => "more alerts are unacknowledged than come again",
        }
    }
}

impl CloseCode {
    /// Whether the client should connect again.
    #[must_use]
    pub fn reconnect(self) -> Reconnect {
        match self {
            Self::ProtocolError
            | Self::NotUtf8
            | Self::AuthFailed
            | Self::TooManyBadFrames
            | Self::ClosedByOperator => Reconnect::No,
            Self::SlowConsumer | Self::Unresponsive => Reconnect::Yes,
            Self::TokenExpired => Reconnect::NewToken,
            // A browser tab that was frozen can authenticate when it wakes, a token becomes valid, other sessions of the
            // user end, and a client whose `resume` was too large can subscribe instead.
            Self::AuthTimeout
            | Self::TooBig
            | Self::TokenNotYetValid
            | Self::Draining
            | Self::Moved
            | Self::TooManySessions
            | Self::Unavailable => Reconnect::After,
        }
    }
}

/// All tables in Markdown, as in `docs/protocol.md`.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from("| error | meaning |\n|---|---|\n");
    for code in ErrorCode::ALL {
        text += &format!("| {} | {} |\n", code.code(), code.text());
    }
    text += "\n| notice | meaning |\n|---|---|\n";
    for code in NoticeCode::ALL {
        text += &format!("| `{}` | {} |\n", code.as_str(), code.text());
    }
    text += "\n| close | meaning | reconnect |\n|---|---|---|\n";
    for code in CloseCode::ALL {
        text += &format!("| {} | {} | {} |\n", code.code(), code.text(), code.reconnect().as_str());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_read_back() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_code(code.code()), Some(*code));
        }
        for code in CloseCode::ALL {
            assert_eq!(CloseCode::from_code(code.code()), Some(*code));
            assert!([1002, 1007, 1009, 1012].contains(&code.code()) || (4000..5000).contains(&code.code()));
        }
        assert_eq!(ErrorCode::from_code(0), None);
    }
}
