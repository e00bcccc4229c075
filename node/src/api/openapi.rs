//! The OpenAPI document of endpoints, made from their table.

use super::{Access, Endpoint, Field, Listener, Parameter, Place};
use serde_json::{Map, Value, json};

/// The document of these endpoints (OpenAPI 3.1).
pub fn document(endpoints: &[&'static Endpoint]) -> Value {
    let mut paths = Map::new();
    for endpoint in endpoints {
        let path = paths.entry(endpoint.path).or_insert_with(|| json!({}));
        path[endpoint.method.to_lowercase()] = operation(endpoint);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "tickwire",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Tag `public`: the server for clients (gateway.listen). Tag `admin`: the server for operators \
                            (admin.listen).",
        },
        "paths": paths,
        "components": {
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" } },
            "schemas": {
                "Refusal": {
                    "type": "object",
                    "required": ["code", "message"],
                    "properties": {
                        "code": { "type": "string", "description": "Stable, for programs" },
                        "message": { "type": "string", "description": "What is wrong, and what to do" },
                        "path": { "type": "string", "description": "The place in a refused rule" },
                        "hint": { "type": "string", "description": "How to mend a refused rule" },
                    },
                },
            },
        },
    })
}

fn operation(endpoint: &Endpoint) -> Value {
    let tags: &[&str] = match endpoint.listener {
        Listener::Public => &["public"],
        Listener::Admin => &["admin"],
        Listener::Both => &["public", "admin"],
    };
    let words = endpoint.path.split(['/', '{', '}', '.']).filter(|word| !word.is_empty());
    let id: Vec<String> = std::iter::once(endpoint.method.to_lowercase()).chain(words.map(str::to_owned)).collect();
    let mut operation = json!({
        "operationId": id.join("_"),
        "summary": endpoint.summary,
        "description": description(endpoint.access),
        "tags": tags,
        "responses": responses(endpoint),
    });
    if endpoint.access != Access::Anyone {
        operation["security"] = json!([{ "token": [] }]);
    }
    let of_path = endpoint.path.split('/').filter_map(of_path);
    let parameters: Vec<Value> = of_path.chain(endpoint.input.parameters.iter().map(parameter)).collect();
    if !parameters.is_empty() {
        operation["parameters"] = Value::Array(parameters);
    }
    if !endpoint.input.media.is_empty() {
        let content = endpoint.input.media.iter().map(|media| ((*media).to_owned(), json!({ "schema": {} })));
        operation["requestBody"] = json!({ "required": true, "content": content.collect::<Map<String, Value>>() });
    }
    operation
}

fn description(access: Access) -> &'static str {
    match access {
        Access::Anyone => "Needs no token.",
        Access::User => "Needs the token of a user.",
        Access::Reader => "Needs a token with the role `operator` or `producer`, if admin.require_token says so.",
        Access::Operator => "Needs a token with the role `operator`, if admin.require_token says so.",
        Access::UserOrOperator => {
            "Needs the token of the user; on the server for operators one with the role `operator`, if \
             admin.require_token says so."
        }
    }
}

/// The parameter that a part of a path is, if it is one.
fn of_path(part: &str) -> Option<Value> {
    let name = part.strip_prefix('{')?.strip_suffix('}')?;
    Some(json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
}

/// A parameter that is not in the path.
fn parameter(parameter: &Parameter) -> Value {
    let Parameter { place, name, is_required, meaning } = parameter;
    let place = match place {
        Place::Query => "query",
        Place::Header => "header",
    };
    json!({
        "name": name,
        "in": place,
        "required": is_required,
        "description": meaning,
        "schema": { "type": "string" },
    })
}

fn responses(endpoint: &Endpoint) -> Value {
    let mut responses = Map::new();
    let mut answer = json!({ "description": endpoint.summary });
    if !endpoint.media.is_empty() {
        answer["content"] = json!({ (endpoint.media): { "schema": schema(endpoint.fields) } });
    }
    responses.insert(endpoint.status.to_string(), answer);
    let refusal = json!({ "application/json": { "schema": { "$ref": "#/components/schemas/Refusal" } } });
    let guarded: &[(u16, &str)] = match endpoint.access {
        Access::Anyone => &[],
        Access::User => &[(401, "The token is missing or not valid")],
        Access::Reader | Access::Operator => {
            &[(401, "The token is missing or not valid"), (403, "The token has another role")]
        }
        Access::UserOrOperator => {
            &[(401, "The token is missing or not valid"), (403, "The token is of another user, or has another role")]
        }
    };
    for (status, description) in guarded.iter().chain(endpoint.others) {
        let mut response = json!({ "description": description });
        // The server for clients refuses with plain text, and an endpoint without a guard refuses nobody.
        if endpoint.listener != Listener::Public && endpoint.access != Access::Anyone {
            response["content"] = refusal.clone();
        }
        responses.insert(status.to_string(), response);
    }
    Value::Object(responses)
}

fn schema(fields: &[Field]) -> Value {
    if fields.is_empty() {
        return json!({});
    }
    let property = |field: &Field| {
        let kind = if field.is_nullable { json!([field.kind, "null"]) } else { json!(field.kind) };
        (field.name.to_owned(), json!({ "type": kind, "description": field.meaning }))
    };
    let properties: Map<String, Value> = fields.iter().map(property).collect();
    let required: Vec<&str> = fields.iter().map(|field| field.name).collect();
    json!({ "type": "object", "properties": properties, "required": required })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{field, nullable};

    #[test]
    fn type_of_a_field_says_whether_it_may_be_null() {
        let schema = schema(&[field("id", "string", "The id"), nullable("by", "string", "Who wrote it")]);
        assert_eq!(schema["properties"]["id"], json!({ "type": "string", "description": "The id" }));
        assert_eq!(schema["properties"]["by"], json!({ "type": ["string", "null"], "description": "Who wrote it" }));
        assert_eq!(schema["required"], json!(["id", "by"]), "it is there, even if it is null");
    }
}
