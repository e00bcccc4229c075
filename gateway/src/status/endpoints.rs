//! The table of a gateway's endpoints: those for clients, and those for operators beside the ones of every node.

use tickwire_node::api::shared::{IF_MATCH, IF_NONE_MATCH, TOO_LARGE, USER as OF_USER};
use tickwire_node::api::{Access, Endpoint, Field, Input, JSON, Listener, Parameter, Place, field, nullable};

const BAD_CREDENTIALS: (u16, &str) = (400, "The credentials cannot be read");
const BAD_ORIGIN: (u16, &str) = (403, "Pages of this origin may not connect");
const NOT_SAVED: (u16, &str) = (404, "The user has no saved subscription of this name");
const NEWER_VERSION: (u16, &str) = (409, "A newer version of tickwire has written the saved subscriptions of the user");
const OTHER_REVISION: (u16, &str) = (412, "The saved subscriptions of the user have another revision");

/// The home gateway of a user.
pub(crate) static CONNECT: Endpoint = Endpoint {
    method: "GET",
    path: "/v1/connect",
    listener: Listener::Public,
    access: Access::User,
    summary: "The home gateway of the user",
    input: Input::NONE,
    status: 200,
    media: JSON,
    fields: &[field("gateway", "string", "The name of the gateway"), field("url", "string", "Where to connect")],
    others: &[
        BAD_CREDENTIALS,
        BAD_ORIGIN,
        (404, "The cluster has no gateway.connect_url"),
        (503, "No gateway is known at the moment"),
    ],
};

/// The sessions of clients.
pub(crate) static STREAM: Endpoint = Endpoint {
    method: "GET",
    path: "/v1/stream",
    listener: Listener::Public,
    access: Access::User,
    summary: "An upgrade to a WebSocket; docs/protocol.md describes its frames",
    input: Input::NONE,
    status: 101,
    media: "",
    fields: &[],
    others: &[
        (400, "The upgrade or the credentials cannot be read"),
        BAD_ORIGIN,
        (426, "It is no upgrade to a WebSocket"),
        (503, "The gateway is full, shuts down, or too many clients connect"),
    ],
};

/// What a user may know of itself.
pub(crate) static ME: Endpoint = Endpoint {
    method: "GET",
    path: "/v1/me",
    listener: Listener::Public,
    access: Access::User,
    summary: "The user's own sessions on this gateway, with their subscriptions and counts",
    input: Input::NONE,
    status: 200,
    media: JSON,
    fields: &[
        OF_USER,
        field("gateway", "string", "The gateway that answers; other gateways may have further sessions"),
        nullable("rate", "object", "Events a second: current, maximal, utilisation; null without a limit or sessions"),
        field("sessions", "array", "The sessions of the user here, with their subscriptions and counts"),
    ],
    others: &[BAD_CREDENTIALS, BAD_ORIGIN],
};

/// The document, for clients.
pub(crate) static PUBLIC_OPENAPI: Endpoint = Endpoint {
    method: "GET",
    path: "/v1/openapi.json",
    listener: Listener::Public,
    access: Access::Anyone,
    summary: "This document",
    input: Input::NONE,
    status: 200,
    media: JSON,
    fields: &[],
    others: &[],
};

/// The endpoints of the server for clients, without the document itself.
pub(crate) static PUBLIC: [&Endpoint; 7] = [&CONNECT, &STREAM, &ME, &ALL_SAVED, &SAVED, &SAVE, &UNSAVE];

const fn of_saved() -> [Field; 6] {
    [
        OF_USER,
        field("name", "string", "The name of the subscription"),
        field("request", "object", "The subscription, as within a resume"),
        field("created", "string", "When the name was first saved"),
        field("last_used", "string", "When it was saved, or on which day the user last had a session"),
        field("updated_by", "string", "Who saved it: the user, or `operator`"),
    ]
}

const ATOMIC: Parameter = Parameter {
    place: Place::Query,
    name: "atomic",
    is_required: false,
    meaning: "true: nothing is saved if anything cannot be saved",
};

/// Where the saved subscriptions are.
const SAVED_PATH: &str = "/v1/users/{user}/subscriptions/{name}";

/// All saved subscriptions of a user.
pub(crate) static ALL_SAVED: Endpoint = Endpoint {
    method: "GET",
    path: "/v1/users/{user}/subscriptions",
    listener: Listener::Both,
    access: Access::UserOrOperator,
    summary: "All saved subscriptions of a user",
    input: Input::NONE,
    status: 200,
    media: JSON,
    fields: &[
        OF_USER,
        field("subscriptions", "object", "By name, each with its request, created, last_used and updated_by"),
    ],
    others: &[(400, "The path is not valid"), NEWER_VERSION, (503, "NATS does not answer")],
};

/// A saved subscription.
pub(crate) static SAVED: Endpoint = Endpoint {
    method: "GET",
    path: SAVED_PATH,
    listener: Listener::Both,
    access: Access::UserOrOperator,
    summary: "A saved subscription of a user",
    input: Input::NONE,
    status: 200,
    media: JSON,
    fields: &of_saved(),
    others: &[(400, "The path is not valid"), NOT_SAVED, NEWER_VERSION, (503, "NATS does not answer")],
};

/// Saves a subscription.
pub(crate) static SAVE: Endpoint = Endpoint {
    method: "PUT",
    path: SAVED_PATH,
    listener: Listener::Both,
    access: Access::UserOrOperator,
    summary: "Saves a subscription of a user, for all of the user's sessions",
    input: Input { parameters: &[IF_MATCH, IF_NONE_MATCH], media: &[JSON] },
    status: 200,
    media: JSON,
    fields: &of_saved(),
    others: &[
        (400, "The path, a header or the subscription is not valid"),
        NEWER_VERSION,
        OTHER_REVISION,
        TOO_LARGE,
        (503, "NATS does not answer; the subscription may be saved nevertheless"),
    ],
};

/// Saves subscriptions of many users.
pub(crate) static SAVE_ALL: Endpoint = Endpoint {
    method: "PUT",
    path: "/v1/subscriptions",
    listener: Listener::Admin,
    access: Access::Operator,
    summary: "Saves subscriptions of many users; with ?atomic=true all of them or none",
    input: Input { parameters: &[ATOMIC], media: &[JSON] },
    status: 200,
    media: JSON,
    fields: &[
        field("saved", "integer", "For how many users they were saved"),
        field("results", "array", "For each user, whether they were saved, else the code and the message"),
    ],
    others: &[
        (400, "The query or the body is not valid"),
        (409, "With ?atomic=true: not all could be saved; the answer has the fields of that with 200"),
        TOO_LARGE,
        (503, "Too many such requests are under way, or the gateway stops"),
    ],
};

/// Deletes a saved subscription.
pub(crate) static UNSAVE: Endpoint = Endpoint {
    method: "DELETE",
    path: SAVED_PATH,
    listener: Listener::Both,
    access: Access::UserOrOperator,
    summary: "Deletes a saved subscription of a user, and ends it in the user's sessions",
    input: Input { parameters: &[IF_MATCH, IF_NONE_MATCH], media: &[] },
    status: 204,
    media: "",
    fields: &[],
    others: &[
        (400, "The path or a header is not valid"),
        NOT_SAVED,
        NEWER_VERSION,
        OTHER_REVISION,
        (503, "NATS does not answer; the subscription may be deleted nevertheless"),
    ],
};

/// Sends an alert.
pub(crate) static SEND_ALERT: Endpoint = Endpoint {
    method: "POST",
    path: "/v1/alerts",
    listener: Listener::Admin,
    access: Access::Reader,
    summary: "Sends an alert to a user, wherever the user is connected; docs/http.md describes the body",
    input: Input { parameters: &[], media: &[JSON] },
    status: 200,
    media: JSON,
    fields: &[
        OF_USER,
        field("id", "string", "The id of the event"),
        field("priority", "string", "The priority of the event"),
        field("seq", "integer", "Its sequence in the stream"),
        field("duplicate", "boolean", "Whether the stream had it already"),
        field("connected", "string", "Whether the user has a session: yes, no or unknown"),
        field("evidence", "array", "The gateways that have answered, each with the number of the user's sessions"),
        field("silent", "array", "The gateways that have not answered"),
    ],
    others: &[
        (400, "The request is not valid; the code is bad_user, bad_alert_id or the reason of a dead letter"),
        TOO_LARGE,
        (503, "The stream has not acknowledged the alert; repeat the request"),
    ],
};

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use tickwire_node::api::{OPENAPI, document};
    use tickwire_node::status;

    use super::*;

    #[test]
    fn checked_in_document_has_all_endpoints() {
        let of_gateways = [&SAVE_ALL, &SEND_ALERT].into_iter().chain(PUBLIC);
        let of_routers = tickwire_router_node::endpoints();
        let endpoints: Vec<_> = status::endpoints().chain(of_gateways).chain(of_routers).chain([&OPENAPI]).collect();
        let document = document(&endpoints);
        let checked_in: Value = serde_json::from_str(include_str!("../../../docs/openapi.json")).unwrap();
        let text = serde_json::to_string_pretty(&document).unwrap();
        assert_eq!(checked_in, document, "docs/openapi.json must be:\n{text}");
    }
}
