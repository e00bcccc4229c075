use super::*;

use crate::config::{Config, LoadOptions, Secret};
use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// The time of all checks here, in seconds since 1970.
const NOW: u64 = 1_800_000_000;

fn authenticator(settings: &[(&str, &str)]) -> Authenticator {
    let mut config = Config::load(&LoadOptions::default()).unwrap().auth;
    config.jwt_secret = Secret::new(SECRET);
    let list = |text: &str| text.split(',').map(str::to_owned).collect();
    for (key, value) in settings {
        match *key {
            "audience" => config.audience = list(value),
            "issuer" => config.issuer = list(value),
            "leeway" => config.leeway = Duration::from_secs(value.parse().unwrap()),
            other => panic!("{other}"),
        }
    }
    Authenticator::new(&config)
}

fn signed(claims: &Value, secret: &str) -> String {
    jsonwebtoken::encode(&Header::default(), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

fn check_by(authenticator: &Authenticator, claims: &Value) -> Result<Identity, AuthError> {
    let token = Credentials::Token(signed(claims, SECRET));
    authenticator.check(Duration::from_secs(NOW), &token)
}

/// Checks a valid token to which `more` claims were added.
fn check(settings: &[(&str, &str)], more: Value) -> Result<Identity, AuthError> {
    let mut claims = json!({ "sub": "ann", "exp": NOW + 60 });
    let Value::Object(more) = more else { panic!("{more}") };
    claims.as_object_mut().unwrap().extend(more);
    check_by(&authenticator(settings), &claims)
}

fn claim(result: Result<Identity, AuthError>) -> &'static str {
    match result {
        Err(AuthError::Claim { claim, .. }) => claim,
        other => panic!("{other:?}"),
    }
}

#[test]
fn any_audience_is_accepted_if_none_is_configured() {
    for aud in [json!("app"), json!(["app", "other"]), json!([]), json!(7), Value::Null] {
        check(&[], json!({ "aud": aud, "iss": "https://id.example" })).unwrap();
    }
}

#[test]
fn configured_audience_and_issuer_are_required() {
    for (key, name) in [("audience", "aud"), ("issuer", "iss")] {
        let settings = [(key, "tickwire,app")];
        for good in [json!("app"), json!(["other", "tickwire"])] {
            check(&settings, json!({ name: good })).unwrap();
        }
        for bad in [json!("App"), json!(["other"]), json!([]), json!(7), json!({}), Value::Null] {
            assert_eq!(claim(check(&settings, json!({ name: bad }))), name, "{bad}");
        }
        assert_eq!(claim(check(&settings, json!({}))), name);
    }
}

#[test]
fn token_is_valid_from_nbf_to_exp_with_leeway_on_both_sides() {
    let leeway = [("leeway", "5")];
    let exp = |exp: Value| check(&leeway, json!({ "exp": exp })).map(|identity| identity.expires);
    let nbf = |nbf: Value| check(&leeway, json!({ "nbf": nbf }));
    assert_eq!(exp(json!(NOW - 4)), Ok(Some(Duration::from_secs(NOW - 4))));
    assert_eq!(exp(json!(NOW - 5)), Err(AuthError::Expired(Duration::from_secs(5))));
    assert_eq!(exp(json!(NOW - 8)).unwrap_err().to_string(), "the token expired 8 s ago by this gateway's clock");
    nbf(json!(NOW + 5)).unwrap();
    assert_eq!(nbf(json!(NOW + 3_600)), Err(AuthError::NotYetValid(Duration::from_secs(3_600))));
    assert_eq!(nbf(json!(NOW as f64 + 5.5)), Err(AuthError::NotYetValid(Duration::from_millis(5_500))));
    assert_eq!(check(&[("leeway", "0")], json!({ "exp": NOW })), Err(AuthError::Expired(Duration::ZERO)));
}

#[test]
fn time_claims_must_be_numbers_of_any_size() {
    let exp = |exp: Value| check(&[], json!({ "exp": exp }));
    assert_eq!(exp(json!(NOW as f64 + 0.5)).unwrap().expires, Some(Duration::from_millis(NOW * 1_000 + 500)));
    for huge in [json!(u64::MAX), json!(1e300)] {
        assert!(exp(huge.clone()).unwrap().expires > Some(Duration::from_secs(1 << 60)), "{huge}");
        assert!(matches!(check(&[], json!({ "nbf": huge })), Err(AuthError::NotYetValid(_))));
    }
    for past in [json!(0), json!(-1), json!(-1e300), json!(-0.5), json!(i64::MIN)] {
        assert!(matches!(exp(past.clone()), Err(AuthError::Expired(_))), "{past}");
        check(&[], json!({ "nbf": past })).unwrap();
    }
    for wrong in [json!((NOW + 60).to_string()), json!([NOW + 60]), json!(true), json!({})] {
        assert_eq!(claim(exp(wrong.clone())), "exp", "{wrong}");
        assert_eq!(claim(check(&[], json!({ "nbf": wrong }))), "nbf");
    }
    assert_eq!(
        (claim(exp(Value::Null)), claim(check_by(&authenticator(&[]), &json!({ "sub": "ann" })))),
        ("exp", "exp")
    );
}

#[test]
fn token_grants_its_user_a_plan_and_a_weight() {
    let expires = Some(Duration::from_secs(NOW + 60));
    let user = UserId::new("ann").unwrap();
    let granted = check(&[], json!({ "plan": "pro", "weight": 2.0 })).unwrap();
    assert_eq!(granted, Identity { user: user.clone(), plan: Some("pro".to_owned()), weight: 2, expires });
    let granted = check(&[], json!({ "plan": null })).unwrap();
    assert_eq!(granted, Identity { user, plan: None, weight: USUAL_WEIGHT, expires });
    for (name, wrong) in [("weight", json!(256)), ("weight", json!("2")), ("weight", json!(1.5)), ("plan", json!(1))] {
        assert_eq!(claim(check(&[], json!({ name: wrong }))), name);
    }
    for sub in [json!(""), json!(7), Value::Null] {
        assert_eq!(claim(check(&[], json!({ "sub": sub }))), "sub", "{sub}");
    }
}

#[test]
fn errors_name_what_is_wrong_with_a_token_and_never_the_secret() {
    let authenticator = authenticator(&[]);
    let refused = |token: &str| {
        let error = authenticator.check(Duration::from_secs(NOW), &Credentials::Token(token.to_owned())).unwrap_err();
        assert!(!error.to_string().contains(SECRET) && error.to_string().len() < 200, "{error}");
        error
    };
    let claims = json!({ "sub": "ann", "exp": NOW + 60 });
    let good = signed(&claims, SECRET);
    let parts: Vec<&str> = good.split('.').collect();
    let with_header = |header: Value| {
        let header = URL_SAFE_NO_PAD.encode(header.to_string());
        format!("{header}.{}.{}", parts[1], parts[2])
    };
    for algorithm in ["none", "None", "RS256", "HS512", "hs256"] {
        let error = refused(&with_header(json!({ "alg": algorithm })));
        assert_eq!(error, AuthError::Algorithm(format!("{algorithm:?}")));
    }
    assert!(matches!(refused(&with_header(json!({ "alg": "x".repeat(10_000) }))), AuthError::Algorithm(_)));
    for header in [json!({}), json!([]), json!({ "alg": "HS256", "crit": ["exp"] })] {
        assert!(matches!(refused(&with_header(header)), AuthError::Malformed(_)));
    }
    assert_eq!(refused(&signed(&claims, &SECRET.replace('0', "1"))), AuthError::Signature);
    assert_eq!(refused(&format!("{}.{}.", parts[0], parts[1])), AuthError::Signature);
    let changed = URL_SAFE_NO_PAD.encode(json!({ "sub": "eve", "exp": NOW + 60 }).to_string());
    assert_eq!(refused(&format!("{}.{changed}.{}", parts[0], parts[2])), AuthError::Signature);
    for token in ["", "  ", "x", "a.b", "a.b.c.d", "a.b.c", "日本.b.c"] {
        assert!(matches!(refused(token), AuthError::Malformed(_)), "{token}");
    }
    let codes = [AuthError::Signature, AuthError::Expired(Duration::ZERO), AuthError::NotYetValid(Duration::ZERO)];
    assert_eq!(codes.map(|error| error.close_code().code()), [4001, 4009, 4007]);
    // White space around a copied token is ignored.
    authenticator.check(Duration::from_secs(NOW), &Credentials::Token(format!(" {good}\n"))).unwrap();
}

#[test]
fn role_is_read_and_an_unknown_role_is_none() {
    let authenticator = authenticator(&[]);
    let role = |more: Value| {
        let mut claims = json!({ "sub": "ann", "exp": NOW + 60 });
        let Value::Object(more) = more else { panic!("{more}") };
        claims.as_object_mut().unwrap().extend(more);
        let checked = authenticator.check_role(Duration::from_secs(NOW), &signed(&claims, SECRET));
        checked.map(|(holder, role)| {
            assert_eq!(holder.as_str(), "ann");
            role
        })
    };
    assert_eq!(role(json!({ "role": "operator" })), Ok(Some(AdminRole::Operator)));
    assert_eq!(role(json!({ "role": "producer" })), Ok(Some(AdminRole::Producer)));
    for other in [json!({}), json!({ "role": "admin" }), json!({ "role": 7 }), json!({ "role": ["operator"] })] {
        assert_eq!(role(other), Ok(None));
    }
    assert!(role(json!({ "role": "operator", "exp": NOW - 60 })).is_err());
}

#[test]
fn tokens_of_the_former_secret_are_accepted_as_long_as_it_is_there() {
    let new = SECRET.replace('0', "1");
    let mut config = Config::load(&LoadOptions::default()).unwrap().auth;
    config.jwt_secret = Secret::new(SECRET);
    let authenticator = Authenticator::new(&config);
    let accepted = |secret: &str| {
        let token = Credentials::Token(signed(&json!({ "sub": "ann", "exp": NOW + 60 }), secret));
        match authenticator.check(Duration::from_secs(NOW), &token) {
            Ok(_) => true,
            Err(AuthError::Signature) => false,
            Err(other) => panic!("{other:?}"),
        }
    };
    assert_eq!([accepted(SECRET), accepted(&new)], [true, false]);
    (config.jwt_secret, config.jwt_former_secret) = (Secret::new(new.as_str()), Secret::new(SECRET));
    authenticator.replace_keys(&config);
    assert_eq!([accepted(SECRET), accepted(&new)], [true, true]);
    config.jwt_former_secret = Secret::default();
    authenticator.replace_keys(&config);
    assert_eq!([accepted(SECRET), accepted(&new)], [false, true]);
}
