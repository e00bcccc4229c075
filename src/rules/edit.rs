//! Writes and deletes rules.

use jiff::Timestamp;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;
use tickwire_node::rule_bucket::StoredRule;

use super::connection::Connection;
use super::{PutArgs, RulesError, source};
use tickwire_command::args::NatsArgs;
use tickwire_command::standard_error;

/// The environment variable with the name of the writer.
const USER_VARIABLE: &str = "USER";

/// Writes rules, if all of them are valid and fit beside those of the cluster.
pub(super) async fn put(args: &PutArgs) -> Result<String, RulesError> {
    let rules = match &args.file {
        Some(path) => source::rules(path)?,
        None => source::defaults()?,
    };
    if args.if_match.is_some() && rules.len() != 1 {
        return Err(RulesError::SeveralRules { count: rules.len() });
    }
    let kinds = args.nats.load()?.events.taken();
    source::compiled(&rules, &kinds).map_err(|faults| RulesError::Refused { faults })?;
    if rules.is_empty() {
        // The copy of a cluster without rules: a script that puts it back has nothing to do, and goes on.
        return Ok("nothing was written: the list has no rules\n".to_owned());
    }
    let connection = Connection::open(&args.nats).await?;
    let done = write(&connection, &rules, args.if_match).await;
    closed(connection, done, "written").await
}

/// Closes the connection after a change. Where it was made goes to standard error: it may be another cluster than meant.
async fn closed(connection: Connection, done: Result<String, RulesError>, what: &str) -> Result<String, RulesError> {
    let url = connection.url.clone();
    let output = connection.close(done).await?;
    standard_error::line(&format!("{what} at {url}"));
    Ok(output)
}

async fn write(connection: &Connection, rules: &[Value], expected: Option<u64>) -> Result<String, RulesError> {
    let updated_by = std::env::var(USER_VARIABLE).unwrap_or_default();
    let mut new = BTreeMap::new();
    for rule in rules {
        // Every valid rule has an id.
        let id = rule.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
        let updated_at = Some(Timestamp::now());
        new.insert(id, StoredRule { rule: rule.clone(), updated_by: updated_by.clone(), updated_at });
    }
    check_together(connection, &new).await?;
    let mut output = String::new();
    for (id, rule) in &new {
        let revision = match connection.unless_denied(connection.bucket.put(id, rule, expected)).await {
            Ok(revision) => revision,
            Err(error) => {
                // Those before it are written.
                if !output.is_empty() {
                    standard_error::line(output.trim_end());
                }
                return Err(error);
            }
        };
        // Writing to a String cannot fail.
        writeln!(output, "{id} has revision {revision}").unwrap_or_default();
    }
    Ok(output)
}

/// Refuses rules that routers would skip because of the other rules of the cluster: all together may be too many, or too
/// large.
async fn check_together(connection: &Connection, new: &BTreeMap<String, StoredRule>) -> Result<(), RulesError> {
    let refused = connection.unless_denied(connection.bucket.would_skip(new, &connection.kinds)).await?;
    if refused.is_empty() { Ok(()) } else { Err(RulesError::Refused { faults: source::faults(&refused) }) }
}

/// Deletes a rule.
pub(super) async fn delete(id: &str, expected: Option<u64>, nats: &NatsArgs) -> Result<String, RulesError> {
    let connection = Connection::open(nats).await?;
    let done = remove(&connection, id, expected).await;
    closed(connection, done, "deleted").await
}

async fn remove(connection: &Connection, id: &str, expected: Option<u64>) -> Result<String, RulesError> {
    if connection.unless_denied(connection.bucket.entry_of(id)).await?.is_none() {
        return Err(RulesError::UnknownRule { id: id.to_owned() });
    }
    connection.unless_denied(connection.bucket.delete(id, expected)).await?;
    Ok(format!("{id} is deleted\n"))
}
