//! The sessions of a user in the whole cluster, for operators: `/v1/users/{user}` and its `DELETE` of every admin server.
//!
//! The node that is asked asks all gateways over NATS. Each answers for its own sessions ([`UsersHere`]), and who does
//! not answer in time is named in the answer. An answer is bounded, and says if it was cut short.
//!
//! * `messages` are the question and the answers of gateways;
//! * `gathering` collects the answers. Pure;
//! * `service` asks, and answers the questions of other nodes;
//! * `http` has the endpoints.

mod gathering;
mod http;
mod messages;
mod service;

pub use http::{CLOSE_SESSIONS, USER, add_routes, bad_user};
pub use messages::{SessionList, UserAction, UserAnswer};
pub use service::{NoUsers, UserService, UsersHere};
