//! `tickwire token`: creates a signed token that names the user, for a gateway with `auth.mode = "jwt"`.

use clap::Args;
use std::ops::RangeInclusive;
use std::time::Duration;
use tickwire_core::ids::UserId;
use tickwire_node::clock::wall_clock;
use tickwire_node::config::{AuthMode, ConfigError, Secret};

use crate::values;
use tickwire_command::args::ConfigArgs;
use tickwire_command::signing::{TokenClaims, sign};

/// For how long a token is valid at least and at most, which is ten years. A longer time is a mistyped unit.
const LIFETIMES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3650 * 24 * 3600);

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tickwire token --user ann --ttl 15m --config gateway.toml
  tickwire token --user ops --role operator --config gateway.toml
  TICKWIRE_AUTH__JWT_SECRET=… tickwire token --user ann
  tickwire watch --token \"$(tickwire token --user ann --config gateway.toml)\"")]
pub(crate) struct TokenArgs {
    /// The user of the token
    #[arg(long, value_name = "NAME", value_parser = values::user)]
    user: UserId,
    /// The plan that sets the user's rate, one of the gateways' `gateway.plans`
    #[arg(long, value_name = "NAME")]
    plan: Option<String>,
    /// The weight of the user's sessions: those of more weight are served first [default: 1]
    #[arg(long, value_name = "N")]
    weight: Option<u8>,
    /// What its holder may do on admin servers: `operator` or `producer` [default: nothing]
    #[arg(long, value_name = "ROLE", value_parser = ["operator", "producer"])]
    role: Option<String>,
    /// How long it is valid, such as 15m, 1h or 30d
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = valid_for, allow_hyphen_values = true)]
    ttl: Duration,
    /// The secret of the gateways; others can see flags, so best left to TICKWIRE_AUTH__JWT_SECRET or the file
    #[arg(long, value_name = "SECRET", value_parser = secret)]
    secret: Option<Secret>,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Why no token was created.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error("the token cannot be signed: {0}")]
    Sign(#[from] jsonwebtoken::errors::Error),
}

impl TokenArgs {
    /// Returns the token.
    pub(crate) fn run(&self) -> Result<String, TokenError> {
        let mut auth = self.config.load()?.auth;
        if let Some(secret) = &self.secret {
            auth.jwt_secret = secret.clone();
        }
        // A token is for gateways that check it, even if this configuration has another mode.
        auth.mode = AuthMode::Jwt;
        let secret = auth.secret()?.cloned().unwrap_or_default();
        let iat = wall_clock().as_secs();
        let claims = TokenClaims {
            sub: self.user.as_str(),
            plan: self.plan.as_deref(),
            weight: self.weight,
            role: self.role.as_deref(),
            aud: auth.audience.first().map(String::as_str),
            iss: auth.issuer.first().map(String::as_str),
            iat,
            exp: iat + self.ttl.as_secs(),
        };
        Ok(sign(&secret, &claims)?)
    }
}

fn secret(text: &str) -> Result<Secret, String> {
    Ok(Secret::new(text))
}

fn valid_for(text: &str) -> Result<Duration, String> {
    values::duration(text, &LIFETIMES, "1s to 3650d", "15m, 1h or 30d")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;
    use jsonwebtoken::{Algorithm, DecodingKey, Validation};
    use serde_json::Value;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn parse(args: &[&str]) -> Result<TokenArgs, clap::Error> {
        let cli = Cli::try_parse_from(["tickwire", "token"].iter().chain(args))?;
        let Command::Token(token) = cli.command else { panic!("not a token") };
        Ok(token)
    }

    #[test]
    fn token_names_user_and_expiry() {
        let token = parse(&["--user", "bob@x.com", "--ttl", "15m", "--secret", SECRET]).unwrap().run().unwrap();
        let key = DecodingKey::from_secret(SECRET.as_bytes());
        let claims = jsonwebtoken::decode::<Value>(&token, &key, &Validation::new(Algorithm::HS256)).unwrap().claims;
        assert_eq!(claims["sub"], "bob@x.com");
        assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 900);
    }

    #[test]
    fn token_has_the_configured_audience_and_issuer() {
        let sets = ["--set", "auth.audience=tickwire,app", "--set", "auth.issuer=https://id.example"];
        let token = parse(&[&["--user", "u", "--secret", SECRET][..], &sets].concat()).unwrap().run().unwrap();
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_audience(&["tickwire"]);
        validation.set_issuer(&["https://id.example"]);
        let key = DecodingKey::from_secret(SECRET.as_bytes());
        let claims = jsonwebtoken::decode::<Value>(&token, &key, &validation).unwrap().claims;
        assert_eq!((&claims["aud"], &claims["iss"]), (&"tickwire".into(), &"https://id.example".into()));
    }

    #[test]
    fn token_has_the_role_that_was_asked_for() {
        for (args, role) in [(&["--role", "operator"][..], "operator".into()), (&[][..], Value::Null)] {
            let token = parse(&[&["--user", "ops", "--secret", SECRET][..], args].concat()).unwrap().run().unwrap();
            let key = DecodingKey::from_secret(SECRET.as_bytes());
            let claims =
                jsonwebtoken::decode::<Value>(&token, &key, &Validation::new(Algorithm::HS256)).unwrap().claims;
            assert_eq!(claims["role"], role);
        }
        assert!(parse(&["--user", "ops", "--role", "admin"]).is_err());
    }

    #[test]
    fn secret_is_required_in_every_mode() {
        for more in [&[][..], &["--secret", "short"], &["--set", "auth.mode=dev"]] {
            let args = [&["--user", "u"], more].concat();
            let refused = parse(&args).unwrap().run();
            assert!(matches!(refused, Err(TokenError::Config(ConfigError::Conflict { .. }))), "{more:?}");
        }
    }

    #[test]
    fn token_is_valid_for_days() {
        for (ttl, days) in [("30d", 30), ("3650d", 3_650), ("1d 24h", 2), ("720h", 30)] {
            let args = parse(&["--user", "u", "--ttl", ttl]).unwrap();
            assert_eq!(args.ttl, Duration::from_secs(days * 86_400), "{ttl}");
        }
    }

    #[test]
    fn invalid_user_and_ttl_are_refused() {
        let ttls = ["1", "0s", "-1d", "1d ago", "3651d", "400000d", "1mo"];
        for args in ttls.map(|ttl| ["--ttl", ttl]).into_iter().chain([["--user", ""]]) {
            let args = if args[0] == "--ttl" { [&["--user", "u"], &args[..]].concat() } else { args.to_vec() };
            assert!(parse(&args).is_err(), "{args:?}");
        }
    }

    #[test]
    fn debug_output_hides_the_secret() {
        let token = parse(&["--user", "u", "--secret", SECRET]).unwrap();
        assert!(!format!("{token:?}").contains(SECRET));
    }
}
