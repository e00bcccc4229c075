//! The table of the endpoints with which operators read and change the rules.

use tickwire_core::rules::limits::MAX_RULE_BYTES;
use tickwire_node::api::shared::{IF_MATCH, IF_NONE_MATCH, NODE, TOO_LARGE};
use tickwire_node::api::{Access, Endpoint, Field, Input, JSON, Listener, field, nullable};

/// The most bytes of the body of a request that writes a rule. Spaces do not count for a rule.
pub(crate) const MAX_RULE_BODY: usize = 4 * MAX_RULE_BYTES;

const fn of_rule() -> [Field; 6] {
    [
        field("id", "string", "The id of the rule"),
        field("revision", "integer", "The revision of the rule, which is also in the header ETag"),
        nullable("updated_by", "string", "Who wrote it; null if that is not known"),
        nullable("updated_at", "string", "When it was written; null if that is not known"),
        nullable("rule", "object", "The rule, as it was written; null if the value of its key cannot be read"),
        nullable("skipped", "object", "Why routers skip it: path, reason and hint; null if they apply it"),
    ]
}

const BAD_ID: (u16, &str) = (400, "The id or a header is not valid");
const UNKNOWN: (u16, &str) = (404, "There is no such rule");
const CHANGED: (u16, &str) = (412, "The rule has another revision");
const AWAY: (u16, &str) = (503, "The bucket of the rules cannot be reached; a change may have taken effect or not");

/// All rules.
pub(crate) static RULES: Endpoint = Endpoint {
    method: "GET",
    path: "/v1/rules",
    listener: Listener::Admin,
    access: Access::Operator,
    summary: "The rules that this router applies, in their order, and how much it has used each",
    input: Input::NONE,
    status: 200,
    media: JSON,
    fields: &[
        NODE,
        field("revision", "integer", "The revision of all rules that this router applies"),
        field("rules", "array", "The rules with their usage, and behind them those that are skipped"),
    ],
    others: &[],
};

/// One rule.
pub(crate) static RULE: Endpoint = Endpoint {
    method: "GET",
    path: "/v1/rules/{id}",
    listener: Listener::Admin,
    access: Access::Operator,
    summary: "One rule as it is stored, with its revision and its writer",
    input: Input::NONE,
    status: 200,
    media: JSON,
    fields: &of_rule(),
    others: &[BAD_ID, UNKNOWN, AWAY],
};

/// Writes a rule.
pub(crate) static PUT_RULE: Endpoint = Endpoint {
    method: "PUT",
    path: "/v1/rules/{id}",
    listener: Listener::Admin,
    access: Access::Operator,
    summary: "Writes a rule; routers apply it within a second",
    input: Input { parameters: &[IF_MATCH, IF_NONE_MATCH], media: &[JSON] },
    status: 200,
    media: JSON,
    fields: &of_rule(),
    others: &[
        BAD_ID,
        CHANGED,
        TOO_LARGE,
        (422, "The rule is not valid; the answer has the path of the fault and a hint"),
        AWAY,
    ],
};

/// Deletes a rule.
pub(crate) static DELETE_RULE: Endpoint = Endpoint {
    method: "DELETE",
    path: "/v1/rules/{id}",
    listener: Listener::Admin,
    access: Access::Operator,
    summary: "Deletes a rule; routers stop to apply it within a second",
    input: Input { parameters: &[IF_MATCH, IF_NONE_MATCH], media: &[] },
    status: 204,
    media: "",
    fields: &[],
    others: &[BAD_ID, UNKNOWN, CHANGED, AWAY],
};
