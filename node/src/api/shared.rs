//! The parts of the table that several endpoints have.

use super::{Field, Parameter, Place, field};

/// The node that answers.
pub const NODE: Field = field("node", "string", "The name of this node");

/// The user that an answer is about.
pub const USER: Field = field("user", "string", "The user");

/// The condition for a change that somebody else must not have overtaken.
pub const IF_MATCH: Parameter = Parameter {
    place: Place::Header,
    name: "If-Match",
    is_required: false,
    meaning: "Only if the revision is one of these, as the ETag of an answer has it; * for any",
};

/// The condition for a change of what must not be there.
pub const IF_NONE_MATCH: Parameter = Parameter {
    place: Place::Header,
    name: "If-None-Match",
    is_required: false,
    meaning: "Only if the revision is none of these; *: only if it is not there yet",
};

/// The refusal of a body that is too large.
pub const TOO_LARGE: (u16, &str) = (413, "The body is too large");
