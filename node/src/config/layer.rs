//! One layer of the configuration as entries (dotted key, value, origin), checked against the reference. A key that is
//! unknown or of the wrong type is refused here, where its origin is still known.

use super::error::{ConfigError, Origin};
use crate::names;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use tickwire_core::hint;

/// The defaults, which are also the documentation.
pub(super) const REFERENCE: &str = include_str!("../../config/reference.toml");

const ENV_PREFIX: &str = "TICKWIRE_";

/// All keys, with a value of the type of each.
#[derive(Debug)]
pub(super) struct Schema {
    leaves: BTreeMap<String, toml::Value>,
    /// Tables whose keys the user chooses. Their values are text or whole numbers: whoever reads them checks which.
    open: Vec<String>,
}

impl Schema {
    pub(super) fn of_reference() -> Self {
        let table: toml::Table = REFERENCE.parse().expect("the embedded reference is TOML, as the tests show");
        let mut schema = Self { leaves: BTreeMap::new(), open: Vec::new() };
        schema.learn("", table);
        schema
    }

    fn learn(&mut self, prefix: &str, table: toml::Table) {
        for (name, value) in table {
            let key = join(prefix, &name);
            match value {
                toml::Value::Table(inner) if inner.is_empty() => self.open.push(key),
                toml::Value::Table(inner) => self.learn(&key, inner),
                leaf => {
                    self.leaves.insert(key, leaf);
                }
            }
        }
    }

    /// A value of the type that this key takes, if there is such a key.
    fn example(&self, key: &str) -> Option<toml::Value> {
        let in_open = || self.open.iter().any(|open| chosen_name(key, open).is_some());
        self.leaves.get(key).cloned().or_else(|| in_open().then(|| toml::Value::String(String::new())))
    }

    /// Whether this key is a table: it has known keys below it, or takes any.
    fn is_table(&self, key: &str) -> bool {
        let below = format!("{key}.");
        self.open.iter().any(|open| open == key || open.starts_with(&below))
            || self.leaves.keys().any(|leaf| leaf.starts_with(&below))
    }

    fn nearest(&self, key: &str) -> &str {
        let sections = self.leaves.keys().filter_map(|leaf| leaf.split_once('.')).map(|(section, _)| section);
        let known = self.leaves.keys().chain(&self.open).map(String::as_str).chain(sections);
        hint::most_similar(key, known).unwrap_or_default()
    }

    /// Refuses an entry whose key is unknown, whose type differs from the reference, or whose chosen name cannot be a
    /// token of a subject.
    fn check(&self, entry: &LayerEntry) -> Result<(), ConfigError> {
        let Some(example) = self.example(&entry.key) else {
            let nearest = self.nearest(&entry.key).to_owned();
            return Err(ConfigError::UnknownKey { key: entry.key.clone(), origin: entry.origin.clone(), nearest });
        };
        let chosen = self.open.iter().find_map(|open| chosen_name(&entry.key, open));
        let is_number_there = chosen.is_some() && entry.value.is_integer();
        if !example.same_type(&entry.value) && !is_number_there {
            let expected = if chosen.is_some() { "text or a whole number" } else { described(&example) };
            return Err(entry.wrong_type(expected));
        }
        match chosen {
            Some(name) if !names::is_token(name) => Err(entry.invalid(format!("`{name}` {}", names::TOKEN_RULE))),
            _ => Ok(()),
        }
    }

    /// A text in place of a list is a list of one, and a whole number is a number.
    fn listed(&self, key: &str, value: toml::Value) -> toml::Value {
        match (self.example(key), value) {
            (Some(toml::Value::Array(_)), toml::Value::String(text)) => toml::Value::Array(vec![text.into()]),
            (Some(toml::Value::Float(_)), toml::Value::Integer(number)) => toml::Value::Float(number as f64),
            (_, value) => value,
        }
    }

    /// Turns the text of a variable or flag into the type of its key. A text that does not fit stays text, and
    /// [`check`](Self::check) refuses it like any other value.
    fn read_text(&self, key: &str, text: &str) -> toml::Value {
        let as_text = || toml::Value::String(text.to_owned());
        match self.example(key) {
            None | Some(toml::Value::String(_)) => as_text(),
            Some(toml::Value::Array(_)) if !text.starts_with('[') => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                toml::Value::Array(items.map(|item| toml::Value::String(item.to_owned())).collect())
            }
            Some(toml::Value::Float(_)) => text.parse().map_or_else(|_| as_text(), toml::Value::Float),
            Some(_) => text.parse().unwrap_or_else(|_| as_text()),
        }
    }
}

/// One value and its origin.
#[derive(Debug, Clone)]
pub(super) struct LayerEntry {
    key: String,
    value: toml::Value,
    origin: Origin,
}

impl LayerEntry {
    /// The entry of a default.
    pub(super) fn of_reference(key: &str, merged: &toml::Table) -> Self {
        let value = key.split('.').try_fold(toml::Value::Table(merged.clone()), |value, name| value.get(name).cloned());
        Self { key: key.to_owned(), value: value.unwrap_or(false.into()), origin: Origin::Reference }
    }

    pub(super) fn invalid(&self, reason: String) -> ConfigError {
        ConfigError::Invalid { key: self.key.clone(), value: self.shown(), origin: self.origin.clone(), reason }
    }

    fn wrong_type(&self, expected: &'static str) -> ConfigError {
        ConfigError::WrongType { key: self.key.clone(), value: self.shown(), origin: self.origin.clone(), expected }
    }

    fn shown(&self) -> String {
        let secret = ["password", "token", "secret"].iter().any(|word| self.key.ends_with(word));
        if secret { "********".to_owned() } else { self.value.to_string() }
    }
}

/// All entries of one source.
#[derive(Debug, Clone)]
pub(super) struct Layer(Vec<LayerEntry>);

impl Layer {
    pub(super) fn from_file(schema: &Schema, path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let table: toml::Table =
            text.parse().map_err(|source| ConfigError::Syntax { path: path.to_owned(), source: Box::new(source) })?;
        let mut layer = Self(Vec::new());
        layer.gather("", table, &Origin::File(path.to_owned()), schema)?;
        Ok(layer)
    }

    fn gather(
        &mut self,
        prefix: &str,
        table: toml::Table,
        origin: &Origin,
        schema: &Schema,
    ) -> Result<(), ConfigError> {
        for (name, value) in table {
            let key = join(prefix, &name);
            let entry = LayerEntry { value: schema.listed(&key, value), key, origin: origin.clone() };
            match entry.value {
                toml::Value::Table(inner) if schema.is_table(&entry.key) => {
                    self.gather(&entry.key, inner, origin, schema)?;
                }
                _ if schema.is_table(&entry.key) => return Err(entry.wrong_type("a table of keys")),
                _ => {
                    schema.check(&entry)?;
                    self.0.push(entry);
                }
            }
        }
        Ok(())
    }

    /// Takes the variables `TICKWIRE_<SECTION>__<KEY>`. Other names with `TICKWIRE_` are ignored (a Kubernetes service
    /// named `tickwire` sets some), except a name that is a key with only one underscore: that is an error.
    pub(super) fn from_env(schema: &Schema, env: &[(String, String)]) -> Result<Self, ConfigError> {
        let mut layer = Self(Vec::new());
        for (name, text) in env {
            let Some(rest) = name.strip_prefix(ENV_PREFIX) else {
                continue;
            };
            let origin = Origin::Environment(name.clone());
            let key = rest.to_lowercase().replace("__", ".");
            if key.contains('.') {
                layer.push(schema, key, text, origin)?;
            } else if let Some(meant) = schema.leaves.keys().find(|known| known.replace('.', "_") == key) {
                let nearest = format!("{ENV_PREFIX}{}", meant.replace('.', "__").to_uppercase());
                return Err(ConfigError::UnknownKey { key: name.clone(), origin, nearest });
            }
        }
        Ok(layer)
    }

    pub(super) fn from_sets(schema: &Schema, sets: &[(String, String)]) -> Result<Self, ConfigError> {
        let mut layer = Self(Vec::new());
        for (key, text) in sets {
            layer.push(schema, key.clone(), text, Origin::Flag)?;
        }
        Ok(layer)
    }

    fn push(&mut self, schema: &Schema, key: String, text: &str, origin: Origin) -> Result<(), ConfigError> {
        let entry = LayerEntry { value: schema.read_text(&key, text), key, origin };
        schema.check(&entry)?;
        self.0.push(entry);
        Ok(())
    }

    /// The last entry of this key.
    pub(super) fn find(&self, key: &str) -> Option<&LayerEntry> {
        self.0.iter().rev().find(|entry| entry.key == key)
    }
}

impl config::Source for Layer {
    fn clone_into_box(&self) -> Box<dyn config::Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<config::Map<String, config::Value>, config::ConfigError> {
        let convert = |entry: &LayerEntry| {
            let value = entry.value.clone().try_into::<config::Value>();
            Ok((entry.key.clone(), value.map_err(|error| config::ConfigError::Foreign(Box::new(error)))?))
        };
        self.0.iter().map(convert).collect()
    }
}

fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}

/// The name that the user chose for this key below the open table.
fn chosen_name<'k>(key: &'k str, open: &str) -> Option<&'k str> {
    key.strip_prefix(open)?.strip_prefix('.').filter(|name| !name.contains('.'))
}

fn described(example: &toml::Value) -> &'static str {
    match example {
        toml::Value::String(_) => "text",
        toml::Value::Integer(_) => "a whole number",
        toml::Value::Array(_) => "a list of text",
        toml::Value::Float(_) => "a number",
        toml::Value::Boolean(_) => "true or false",
        toml::Value::Datetime(_) => "a date and time",
        toml::Value::Table(_) => "a table of keys",
    }
}
