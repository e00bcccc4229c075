//! The flags that say where the configuration and NATS are. Several commands share them.

use clap::Args;
use std::path::{Path, PathBuf};
use tickwire_node::config::{Config, ConfigError, LoadOptions};

/// Where the configuration comes from.
#[derive(Debug, Clone, Default, Args)]
pub struct ConfigArgs {
    /// Configuration file (TOML); `tickwire config reference` prints one to start from
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set one key, above file and environment; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
}

impl ConfigArgs {
    /// The configuration of this process.
    ///
    /// # Errors
    /// When a source of it cannot be read, or holds what is not allowed.
    pub fn load(&self) -> Result<Config, ConfigError> {
        let sets = self.sets.iter().map(|text| Config::parse_set(text)).collect::<Result<_, _>>()?;
        Config::load(&LoadOptions::from_process(self.config.clone(), sets))
    }
}

/// Where NATS is, for commands that are no node.
#[derive(Debug, Clone, Default, Args)]
pub struct NatsArgs {
    /// Where NATS is, in short for --set nats.url=URL [default: nats://127.0.0.1:4222]
    #[arg(long, value_name = "URL")]
    nats: Option<String>,
    #[command(flatten)]
    config: ConfigArgs,
}

impl NatsArgs {
    /// As if `--nats` had given this address.
    pub fn at(url: &str) -> Self {
        Self { nats: Some(url.to_owned()), ..Self::default() }
    }

    /// The configuration of this process, with the address of `--nats` if there is one.
    ///
    /// # Errors
    /// As [`ConfigArgs::load`].
    pub fn load(&self) -> Result<Config, ConfigError> {
        let mut args = self.config.clone();
        args.sets.extend(self.nats.iter().map(|url| format!("nats.url={url}")));
        args.load()
    }
}

/// Why a file of authorities (`--ca`) is refused beside these addresses of gateways: it counts for TLS only, and none of
/// them is with TLS. `None` if there is no such file, or an address for it.
pub fn unused_authorities(ca: Option<&Path>, urls: &[impl AsRef<str>]) -> Option<String> {
    ca?;
    let is_used = urls.iter().any(|url| url.as_ref().starts_with("wss://"));
    (!is_used).then(|| "no --url begins with wss://, so there is no TLS; write wss://, or leave --ca out".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_need_an_address_with_tls() {
        let ca = Some(Path::new("ca.pem"));
        assert!(unused_authorities(ca, &["ws://h"]).is_some_and(|problem| problem.contains("write wss://")));
        assert!(unused_authorities(ca, &[] as &[&str]).is_some());
        assert_eq!(unused_authorities(ca, &["ws://h", "wss://h"]), None);
        assert_eq!(unused_authorities(None, &["ws://h"]), None);
    }
}
