//! Vectors of keys as subject tokens.

use serde::Deserialize;
use tickwire_core::event::key;
use tickwire_core::event::key::KeyError;

use crate::read::vectors;

#[derive(Deserialize)]
struct Pair {
    key: String,
    token: String,
}

#[derive(Deserialize)]
struct RefusedToken {
    token: String,
    error: String,
}

#[derive(Deserialize)]
struct Keys {
    pairs: Vec<Pair>,
    refused: Vec<RefusedToken>,
}

#[test]
fn keys_are_encoded_and_bad_tokens_refused_as_documented() {
    let keys: Keys = vectors("keys.json");
    for Pair { key, token } in keys.pairs {
        assert_eq!(key::encode(&key), token);
        assert_eq!(key::decode(&token).as_deref(), Ok(key.as_str()), "{token}");
    }
    for RefusedToken { token, error } in keys.refused {
        let variant = match key::decode(&token).unwrap_err() {
            KeyError::Empty => "Empty",
            KeyError::Unescaped { .. } => "Unescaped",
            KeyError::BadEscape { .. } => "BadEscape",
            KeyError::NeedlessEscape { .. } => "NeedlessEscape",
            KeyError::NotUtf8 { .. } => "NotUtf8",
        };
        assert_eq!(variant, error, "{token}");
    }
}
