//! The layers of the configuration: which one wins, and how a mistake is reported.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;
use tickwire_core::event::KindAudience;
use tickwire_node::bounded_file::FileError;
use tickwire_node::config::{AuthMode, Config, ConfigError, LoadOptions, LogFormat, Origin};
use tickwire_node::secrets::SecretFileError;

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn from_env(env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::load(&LoadOptions { env: pairs(env), ..LoadOptions::default() })
}

fn from_sets(sets: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::load(&LoadOptions { sets: pairs(sets), ..LoadOptions::default() })
}

/// Loads a file with this text; also returns its path, to compare origins.
fn from_file(text: &str) -> (Result<Config, ConfigError>, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("tickwire.toml");
    std::fs::write(&path, text).unwrap();
    (Config::load(&LoadOptions { file: Some(path.clone()), ..LoadOptions::default() }), path)
}

fn keys(prefix: &str, table: &toml::Table, into: &mut BTreeSet<String>) {
    for (name, value) in table {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            toml::Value::Table(inner) if !inner.is_empty() => keys(&key, inner, into),
            _ => assert!(into.insert(key)),
        }
    }
}

#[test]
fn reference_and_fields_have_the_same_keys_and_values() {
    let reference: toml::Table = Config::reference().parse().unwrap();
    let shown: toml::Table = from_env(&[]).unwrap().show().parse().unwrap();
    assert_eq!(reference, shown);
}

#[test]
fn every_key_of_the_reference_has_a_comment_right_above_it() {
    let lines: Vec<_> = Config::reference().lines().collect();
    let mut documented = 0;
    for pair in lines.windows(2) {
        if pair[1].contains(" = ") && !pair[1].starts_with('#') {
            assert!(pair[0].starts_with("# "), "no comment above {}", pair[1]);
            documented += 1;
        }
    }
    let mut all = BTreeSet::new();
    keys("", &Config::reference().parse().unwrap(), &mut all);
    assert!(all.remove("events.kinds") && all.remove("gateway.plans"));
    assert_eq!(documented, all.len());
}

#[test]
fn later_layers_win() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("tickwire.toml");
    let text = "[stream]\npartitions = 8\nreplicas = 3\nname = 'FILE'\n[events.kinds]\nnews = 'public'\n";
    std::fs::write(&file, text).unwrap();
    let config = Config::load(&LoadOptions {
        file: Some(file),
        env: pairs(&[
            ("TICKWIRE_STREAM__REPLICAS", "5"),
            ("TICKWIRE_STREAM__NAME", "ENV"),
            ("TICKWIRE_GATEWAY__ALLOWED_ORIGINS", "https://a.example, https://b.example"),
            ("TICKWIRE_EVENTS__KINDS__MEMO", "user"),
            ("PATH", "/bin"),
        ]),
        sets: pairs(&[
            ("stream.name", "FLAG"),
            ("nats.password", "007"),
            ("nats.user", "bob"),
            ("router.flush_window", "10ms"),
            ("traces.ratio", "1"),
        ]),
    })
    .unwrap();
    assert_eq!(config.stream.partitions, 8);
    assert_eq!(config.stream.replicas, 5);
    assert_eq!(config.stream.name, "FLAG");
    assert_eq!(config.stream.max_age, Duration::from_secs(24 * 3600));
    assert_eq!(config.nats.password.expose(), "007");
    assert_eq!(config.router.flush_window, Duration::from_millis(10));
    assert!((config.traces.ratio - 1.0).abs() < f64::EPSILON);
    assert_eq!(config.traces.endpoint, None);
    let origins: Vec<_> = config.gateway.allowed_origins.iter().map(ToString::to_string).collect();
    assert_eq!(origins, ["https://a.example", "https://b.example"]);
    assert_eq!(config.events.kinds["news"], KindAudience::Public);
    assert_eq!(config.events.kinds["memo"], KindAudience::User);
    assert_eq!(config.log.format, LogFormat::Json);
}

#[test]
fn unknown_key_names_its_source_and_the_nearest_key() {
    let unknown = |result: Result<Config, ConfigError>| match result {
        Err(ConfigError::UnknownKey { key, origin, nearest }) => (key, origin, nearest),
        other => panic!("{other:?}"),
    };
    let (result, path) = from_file("[nats]\nurls = 'x'\n");
    assert_eq!(unknown(result), ("nats.urls".into(), Origin::File(path), "nats.url".into()));
    let (result, path) = from_file("[gatway]\nlisten = '127.0.0.1:1'\n");
    assert_eq!(unknown(result), ("gatway".into(), Origin::File(path), "gateway".into()));
    let name = "TICKWIRE_STREAM__PARTITION";
    let expected = ("stream.partition".into(), Origin::Environment(name.into()), "stream.partitions".into());
    assert_eq!(unknown(from_env(&[(name, "3")])), expected);
    let expected = ("node.idd".into(), Origin::Flag, "node.id".into());
    assert_eq!(unknown(from_sets(&[("node.idd", "3")])), expected);
}

#[test]
fn single_underscore_is_reported_but_variables_of_others_are_ignored() {
    let name = "TICKWIRE_NATS_URL";
    match from_env(&[(name, "nats://127.0.0.1:1")]) {
        Err(ConfigError::UnknownKey { key, origin, nearest }) => {
            assert_eq!((key.as_str(), nearest.as_str()), (name, "TICKWIRE_NATS__URL"));
            assert_eq!(origin, Origin::Environment(name.into()));
        }
        other => panic!("{other:?}"),
    }
    from_env(&[("TICKWIRE_SERVICE_HOST", "10.0.0.1"), ("TICKWIRE_GATEWAY_PORT", "tcp://10.0.0.1:80")]).unwrap();
}

#[test]
fn wrong_type_names_key_value_and_expected_type() {
    let wrong = |result: Result<Config, ConfigError>| match result {
        Err(ConfigError::WrongType { key, value, expected, .. }) => (key, value, expected),
        other => panic!("{other:?}"),
    };
    let number = "a whole number";
    assert_eq!(
        wrong(from_sets(&[("stream.partitions", "many")])),
        ("stream.partitions".into(), "\"many\"".into(), number)
    );
    assert_eq!(wrong(from_file("[stream]\npartitions = 3.5\n").0), ("stream.partitions".into(), "3.5".into(), number));
    assert_eq!(wrong(from_file("[log]\nlevel = 3\n").0), ("log.level".into(), "3".into(), "text"));
    assert_eq!(wrong(from_file("nats = 3\n").0), ("nats".into(), "3".into(), "a table of keys"));
    assert_eq!(wrong(from_file("[auth]\njwt_secret = 3\n").0), ("auth.jwt_secret".into(), "********".into(), "text"));
}

#[test]
fn value_out_of_range_names_key_value_source_and_range() {
    let invalid = |key: &str, value: &str| match from_sets(&[(key, value)]) {
        Err(ConfigError::Invalid { key: found, value, origin, reason }) => {
            assert_eq!((found.as_str(), origin), (key, Origin::Flag));
            (value, reason)
        }
        other => panic!("{key}={value}: {other:?}"),
    };
    assert_eq!(invalid("stream.partitions", "1025"), ("1025".into(), "must be 1 to 1024".into()));
    assert_eq!(invalid("stream.partitions", "-1"), ("-1".into(), "must be 1 to 1024".into()));
    assert_eq!(invalid("gateway.window", "2s"), ("\"2s\"".into(), "must be 0s to 1s".into()));
    for (key, value) in [
        ("gateway.window", "5"),
        ("gateway.window", "fast"),
        ("gateway.listen", "localhost"),
        ("log.format", "xml"),
        ("log.level", "info,=,=="),
        ("node.id", "a.b"),
        ("node.id", "{host}"),
        ("stream.name", ""),
        ("nats.url", "nats://bob:secret@127.0.0.1:4222"),
        ("nats.url", "nats://127.0.0.1:4222,"),
        ("events.kinds.news", "everybody"),
        ("events.kinds.a b", "public"),
        ("gateway.allowed_origins", "app.example.com"),
        ("gateway.trusted_proxies", "10.0.0.0/33"),
        ("gateway.watched_users", "ann,bob,ann"),
        ("gateway.watched_users", "a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q"),
        ("traces.endpoint", "otel:4318"),
        ("traces.endpoint", "http://bob:secret@otel:4318/v1/traces"),
        ("traces.ratio", "1.5"),
        ("traces.ratio", "nan"),
        ("traces.rate", "0"),
        ("traces.token", "two words"),
        ("gateway.proxy_protocol", "v2"),
    ] {
        let (_, reason) = invalid(key, value);
        assert!(!reason.is_empty(), "{key}={value}");
    }
    let (result, path) = from_file("[gateway]\nallowed_origins = ['a', 3]\n");
    match result {
        Err(ConfigError::Invalid { key, origin, .. }) => {
            assert_eq!((key.as_str(), origin), ("gateway.allowed_origins", Origin::File(path)));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn keys_that_conflict_are_refused() {
    for sets in [
        &[("membership.beat_interval", "2s"), ("membership.timeout", "5999ms")][..],
        &[("events.kinds.alert", "public")],
        &[("stream.max_age", "60s")],
        &[("nats.user", "a"), ("nats.token", "b")],
        &[("nats.password", "a")],
        &[("nats.tls_cert", "/a.pem")],
        &[("gateway.proxy_protocol", "required")],
        // The largest session would not fit into one resume.
        &[("gateway.max_frame_bytes", "65536")],
        &[("gateway.max_filter_bytes", "131072")],
        &[("gateway.max_subscriptions", "1000")],
        &[("gateway.user_filter_bytes", "65536")],
    ] {
        assert!(matches!(from_sets(sets), Err(ConfigError::Conflict { .. })), "{sets:?}");
    }
}

#[test]
fn missing_and_malformed_files_are_reported() {
    let missing = LoadOptions { file: Some("/nowhere/tickwire.toml".into()), ..LoadOptions::default() };
    assert!(matches!(Config::load(&missing), Err(ConfigError::Read { .. })));
    assert!(matches!(from_file("[stream\n").0, Err(ConfigError::Syntax { .. })));
    assert!(matches!(Config::parse_set("nats.url"), Err(ConfigError::NotAPair { .. })));
    assert_eq!(Config::parse_set("a.b = c=d").unwrap(), ("a.b".into(), "c=d".into()));
}

#[test]
fn secrets_are_available_but_not_shown() {
    let secret = "s".repeat(32);
    let config = from_env(&[("TICKWIRE_AUTH__JWT_SECRET", &secret), ("TICKWIRE_NATS__TOKEN", &secret)]).unwrap();
    assert_eq!(config.auth.secret().unwrap().unwrap().expose(), secret);
    assert!(!config.show().contains(&secret));
    assert!(!format!("{config:?}").contains(&secret));
    assert!(config.show().contains("jwt_secret = \"********\""));
}

#[test]
fn jwt_mode_needs_a_secret_and_dev_mode_does_not() {
    assert_eq!(from_env(&[]).unwrap().auth.mode, AuthMode::Jwt);
    assert!(matches!(from_env(&[]).unwrap().auth.secret(), Err(ConfigError::Conflict { .. })));
    let short = from_sets(&[("auth.jwt_secret", "short")]).unwrap();
    assert!(matches!(short.auth.secret(), Err(ConfigError::Conflict { .. })));
    assert_eq!(from_sets(&[("auth.mode", "dev")]).unwrap().auth.secret().unwrap(), None);
}

#[test]
fn node_without_a_name_draws_a_unique_one() {
    let config = from_env(&[]).unwrap();
    let (first, second) = (config.node.identity("gateway"), config.node.identity("gateway"));
    assert!(first.starts_with("gateway-") && first.len() == "gateway-".len() + 8, "{first}");
    assert_ne!(first, second);
    assert_eq!(from_sets(&[("node.id", "gw-1")]).unwrap().node.identity("gateway"), "gw-1");
}

#[test]
fn node_id_with_the_host_name_is_the_same_in_every_role_and_shown_as_it_is_used() {
    let config = from_sets(&[("node.id", "gw-{hostname}")]).unwrap();
    let id = config.node.identity("gateway");
    assert!(id.starts_with("gw-") && id.len() > "gw-".len() && !id.contains('{'), "{id}");
    assert_eq!(config.node.identity("router"), id);
    assert!(config.show().contains(&format!("id = \"{id}\"")), "{}", config.show());
}

#[test]
fn text_in_place_of_a_list_is_a_list_of_one() {
    let (result, _) = from_file("[auth]\naudience = 'tickwire'\nissuer = ['a', 'b']\n");
    let auth = result.unwrap().auth;
    assert_eq!((auth.audience, auth.issuer), (vec!["tickwire".to_owned()], vec!["a".to_owned(), "b".to_owned()]));
}

#[test]
fn secrets_are_read_from_files_and_only_the_files_are_shown() {
    let home = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = home.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (user, password) = (file("user", "bob\n"), file("password", "hush-1\n"));
    let (secret, former) = (file("secret", &"n".repeat(32)), file("former", "\n"));
    let config = from_env(&[
        ("TICKWIRE_NATS__USER_FILE", &user),
        ("TICKWIRE_NATS__PASSWORD_FILE", &password),
        ("TICKWIRE_AUTH__JWT_SECRET_FILE", &secret),
        ("TICKWIRE_AUTH__JWT_FORMER_SECRET_FILE", &former),
    ])
    .unwrap();
    assert_eq!((config.nats.user.as_str(), config.nats.password.expose()), ("bob", "hush-1"));
    assert_eq!(config.auth.secret().unwrap().unwrap().expose(), "n".repeat(32));
    assert!(config.auth.jwt_former_secret.is_empty());
    let shown = config.show();
    assert!(shown.contains(&password) && !shown.contains("hush-1") && !shown.contains("nnn"), "{shown}");
    let token = from_sets(&[("nats.token_file", &file("token", "t\r\n"))]).unwrap();
    assert_eq!(token.nats.token.expose(), "t");
}

#[test]
fn unusable_secret_file_is_refused_with_its_key_and_path() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("secret").to_str().unwrap().to_owned();
    let refused = || match from_sets(&[("nats.token_file", &path)]) {
        Err(error @ ConfigError::SecretFile { .. }) => {
            let text = error.to_string();
            assert!(text.contains("nats.token_file") && text.contains(&path) && !text.contains("hush"), "{text}");
            match error {
                ConfigError::SecretFile { source, .. } => source,
                other => panic!("{other:?}"),
            }
        }
        other => panic!("{other:?}"),
    };
    assert!(matches!(refused(), SecretFileError::File(FileError::Unreadable(_))));
    std::fs::write(&path, "\n").unwrap();
    assert!(matches!(refused(), SecretFileError::Empty));
    std::fs::write(&path, "hush".repeat(20_000)).unwrap();
    assert!(matches!(refused(), SecretFileError::File(FileError::TooLarge(65_536))));
    std::fs::write(&path, b"hush\xff").unwrap();
    assert!(matches!(refused(), SecretFileError::NotText));
}

#[test]
fn value_and_its_file_are_not_both_accepted() {
    for (key, value) in [
        ("nats.user", "a"),
        ("nats.password", "a"),
        ("nats.token", "a"),
        ("auth.jwt_secret", "a"),
        ("auth.jwt_former_secret", "a"),
    ] {
        let file = format!("{key}_file");
        match from_sets(&[(key, value), (&file, "/nowhere/secret")]) {
            Err(ConfigError::Conflict { keys, .. }) => assert_eq!(keys, format!("{key}, {file}")),
            other => panic!("{key}: {other:?}"),
        }
    }
    let two_logins = [("nats.user", "a"), ("nats.token_file", "/nowhere/secret")];
    assert!(matches!(from_sets(&two_logins), Err(ConfigError::Conflict { .. })));
    let no_user = [("nats.password_file", "/nowhere/secret")];
    assert!(matches!(from_sets(&no_user), Err(ConfigError::Conflict { .. })));
    let short = from_sets(&[("auth.jwt_secret", &"s".repeat(32)), ("auth.jwt_former_secret", "short")]).unwrap();
    assert!(matches!(short.auth.secret(), Err(ConfigError::Conflict { .. })));
}
