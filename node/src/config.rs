//! The configuration: the first thing that a node reads. It does not change afterwards.
//!
//! Four layers, later ones win: the embedded reference (which *is* the defaults), a file, the environment, flags. Each
//! layer is checked against the reference before the merge, so that an error can name the place of the mistake. Ranges
//! are checked when the merged table becomes a [`Config`], and then the rules between keys. At last the files are read
//! that hold secrets; `secrets` reads them again while the node runs. A new key is one commented line in
//! `config/reference.toml` and one field in `sections.rs`.

mod error;
mod layer;
mod node_id;
mod origins;
mod rules;
mod secret_files;
mod sections;
mod values;

pub use error::{ConfigError, Origin};
pub use origins::WebOrigin;
pub use sections::{
    AdminConfig, AuthConfig, AuthMode, Config, EventsConfig, GatewayConfig, HealthConfig, LEAST_GATEWAY_CONNECTIONS,
    LogConfig, LogFormat, MembershipConfig, NatsConfig, NodeConfig, ProxyProtocol, RouterConfig, SilenceHours, Storage,
    StreamConfig, TokenRequirement, TracesConfig,
};
pub use values::Secret;

pub(crate) use rules::LEAST_SECRET_BYTES;

use layer::{Layer, LayerEntry, REFERENCE, Schema};
use std::path::PathBuf;

/// The sources of a configuration, beside the defaults.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// The file of `--config`, if any.
    pub file: Option<PathBuf>,
    /// The environment, as (name, value); names that do not start with `TICKWIRE_` are ignored.
    pub env: Vec<(String, String)>,
    /// The pairs of `--set key=value`, as split by [`Config::parse_set`].
    pub sets: Vec<(String, String)>,
}

impl LoadOptions {
    /// The options of this process: its environment, and the file and pairs of its flags.
    pub fn from_process(file: Option<PathBuf>, sets: Vec<(String, String)>) -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
        };
        Self { file, env: std::env::vars_os().filter_map(text).collect(), sets }
    }
}

impl Config {
    /// Reads and checks all layers.
    ///
    /// # Errors
    /// The first mistake, with the key, its place and what is allowed there.
    pub fn load(options: &LoadOptions) -> Result<Self, ConfigError> {
        let schema = Schema::of_reference();
        let mut layers = Vec::new();
        if let Some(path) = &options.file {
            layers.push(Layer::from_file(&schema, path)?);
        }
        layers.push(Layer::from_env(&schema, &options.env)?);
        layers.push(Layer::from_sets(&schema, &options.sets)?);

        let mut builder =
            ::config::Config::builder().add_source(::config::File::from_str(REFERENCE, ::config::FileFormat::Toml));
        for layer in &layers {
            builder = builder.add_source(layer.clone());
        }
        let merged: toml::Table =
            builder.build().and_then(::config::Config::try_deserialize).map_err(ConfigError::Merge)?;
        let mut config: Self = serde_path_to_error::deserialize(merged.clone()).map_err(|error| {
            let path = error.path().to_string();
            let key = path.split('[').next().unwrap_or(&path);
            let entry = layers.iter().rev().find_map(|layer| layer.find(key)).cloned();
            let entry = entry.unwrap_or_else(|| LayerEntry::of_reference(key, &merged));
            entry.invalid(error.inner().message().to_owned())
        })?;
        config.check()?;
        config.read_secret_files()?;
        Ok(config)
    }

    /// The commented reference: every key with its meaning, unit, range and default, as a file to start from.
    pub fn reference() -> &'static str {
        REFERENCE
    }

    /// The configuration in effect, as TOML, secrets masked.
    pub fn show(&self) -> String {
        // Serialising fails only for types that TOML does not have. The tests show that the configuration has none.
        toml::to_string(self).unwrap_or_else(|error| format!("# the configuration cannot be shown: {error}\n"))
    }

    /// Splits the `key=value` of a `--set` flag.
    ///
    /// # Errors
    /// When there is no `=`, or nothing before it.
    pub fn parse_set(text: &str) -> Result<(String, String), ConfigError> {
        match text.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
            _ => Err(ConfigError::NotAPair { text: text.to_owned() }),
        }
    }
}
