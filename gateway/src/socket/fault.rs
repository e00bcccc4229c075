//! The close code and the reason that a client gets after a fault in its WebSocket.

use tickwire_core::protocol::codes::CloseCode;
use tungstenite::error::{Error, ProtocolError};

/// The close code and the reason for an error of the reader; `None` if the client is gone.
pub(super) fn fault(error: &Error) -> Option<(CloseCode, &'static str)> {
    let reason = match error {
        Error::Capacity(_) => return Some((CloseCode::TooBig, CloseCode::TooBig.text())),
        Error::Utf8(_) => return Some((CloseCode::NotUtf8, CloseCode::NotUtf8.text())),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => return None,
        Error::Protocol(error) => match error {
            ProtocolError::NonZeroReservedBits => "reserved bits set",
            ProtocolError::UnmaskedFrameFromClient => "a frame without a mask",
            ProtocolError::FragmentedControlFrame => "a control frame in fragments",
            ProtocolError::ControlFrameTooBig => "a control frame of more than 125 bytes",
            ProtocolError::UnknownControlFrameType(_)
            | ProtocolError::UnknownDataFrameType(_)
            | ProtocolError::InvalidOpcode(_) => "an opcode that RFC 6455 reserves",
            ProtocolError::UnexpectedContinueFrame => "a continuation of nothing",
            ProtocolError::ExpectedFragment(_) => "a message between the fragments of another",
            ProtocolError::InvalidCloseSequence => "a close frame that is not well-formed",
            ProtocolError::ReceivedAfterClosing => "a frame after the close frame",
            _ => CloseCode::ProtocolError.text(),
        },
        _ => return None,
    };
    Some((CloseCode::ProtocolError, reason))
}
