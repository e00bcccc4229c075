//! The HTTP endpoints of a node, in one table: [`ApiRoutes::add`] registers an endpoint, guards it as its [`Access`] says,
//! and adds it to the [`document`] at `/v1/openapi.json`. So no endpoint lacks a guard or a description.
//!
//! `gate` checks the tokens of operators and producers, `page` refuses web pages, and `caller` says who has sent a request.
//! `precondition` reads the headers that make a change depend on a revision. `refusal` is the answer to a refused request.
//! [`shared`] has the parts of the table that several endpoints have.

mod caller;
mod gate;
mod openapi;
mod page;
mod precondition;
mod refusal;
pub mod shared;

pub use caller::Caller;
pub use gate::AdminGate;
pub use openapi::document;
pub use precondition::{BadPrecondition, Precondition, entity_tag};
pub use refusal::{ApiRefusal, MAX_BODY, unreadable_body};

use axum::middleware::from_fn_with_state;
use axum::routing::{MethodRouter, get};
use axum::{Json, Router};
use std::sync::Arc;

/// Which server has an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listener {
    /// The one for clients: `gateway.listen`.
    Public,
    /// The one for operators: `admin.listen`.
    Admin,
    /// Both.
    Both,
}

/// Who may use an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everybody, without a token.
    Anyone,
    /// A user, for what is the user's own. The handler checks the token.
    User,
    /// An operator or a producer.
    Reader,
    /// An operator.
    Operator,
    /// On the server for clients a user, for what is the user's own; the handler checks the token. On the server for
    /// operators an operator.
    UserOrOperator,
}

/// A field of an answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Its JSON type.
    pub kind: &'static str,
    /// Whether its value may be null instead.
    pub is_nullable: bool,
    /// What it means.
    pub meaning: &'static str,
}

/// A field with its JSON type and its meaning.
pub const fn field(name: &'static str, kind: &'static str, meaning: &'static str) -> Field {
    Field { name, kind, is_nullable: false, meaning }
}

/// The same for a field whose value may be null.
pub const fn nullable(name: &'static str, kind: &'static str, meaning: &'static str) -> Field {
    Field { name, kind, is_nullable: true, meaning }
}

/// Where a parameter of a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the query.
    Query,
    /// It is a header.
    Header,
}

/// A parameter that a request has beside those of its path.
#[derive(Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Where it is.
    pub place: Place,
    /// Its name.
    pub name: &'static str,
    /// Whether each request must have it.
    pub is_required: bool,
    /// What it means.
    pub meaning: &'static str,
}

/// What a request has beside its path.
#[derive(Debug, PartialEq, Eq)]
pub struct Input {
    /// Its parameters.
    pub parameters: &'static [Parameter],
    /// The media types that its body may have; none if it has no body.
    pub media: &'static [&'static str],
}

impl Input {
    /// Nothing.
    pub const NONE: Self = Self { parameters: &[], media: &[] };
}

/// One endpoint.
#[derive(Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The method.
    pub method: &'static str,
    /// The path, with parameters in braces.
    pub path: &'static str,
    /// Which server has it.
    pub listener: Listener,
    /// Who may use it.
    pub access: Access,
    /// What it does.
    pub summary: &'static str,
    /// What a request has beside its path.
    pub input: Input,
    /// The status of an answer that is no refusal.
    pub status: u16,
    /// The media type of that answer; empty if it has no body.
    pub media: &'static str,
    /// The fields of that answer, if it is a JSON object.
    pub fields: &'static [Field],
    /// Further statuses, and when they are answered.
    pub others: &'static [(u16, &'static str)],
}

/// The document of all endpoints.
pub static OPENAPI: Endpoint = Endpoint {
    method: "GET",
    path: "/v1/openapi.json",
    listener: Listener::Admin,
    access: Access::Anyone,
    summary: "This document",
    input: Input::NONE,
    status: 200,
    media: JSON,
    fields: &[],
    others: &[],
};

/// The media type of JSON.
pub const JSON: &str = "application/json";

/// The endpoints of an admin server.
#[derive(Debug)]
pub struct ApiRoutes {
    gate: Arc<AdminGate>,
    router: Router,
    endpoints: Vec<&'static Endpoint>,
}

impl ApiRoutes {
    /// No endpoints yet.
    pub fn new(gate: AdminGate) -> Self {
        Self { gate: Arc::new(gate), router: Router::new(), endpoints: Vec::new() }
    }

    /// Adds an endpoint.
    #[must_use]
    pub fn add(mut self, endpoint: &'static Endpoint, handler: MethodRouter) -> Self {
        let guarded = match endpoint.access {
            Access::Anyone | Access::User => handler,
            access => handler.route_layer(from_fn_with_state((Arc::clone(&self.gate), access), gate::guard)),
        };
        self.router = self.router.route(endpoint.path, guarded);
        self.endpoints.push(endpoint);
        self
    }

    /// Describes endpoints that are served elsewhere.
    #[must_use]
    pub fn describe(mut self, endpoints: impl IntoIterator<Item = &'static Endpoint>) -> Self {
        self.endpoints.extend(endpoints);
        self
    }

    /// The routes, with the document.
    pub(crate) fn finish(mut self) -> Router {
        self.endpoints.push(&OPENAPI);
        let document = document(&self.endpoints);
        let openapi = get(move || std::future::ready(Json(document.clone())));
        self.router
            .route(OPENAPI.path, openapi)
            .method_not_allowed_fallback(async || ApiRefusal::method_not_allowed())
            .fallback(async || ApiRefusal::no_such_endpoint())
    }
}
