//! What is wrong with files of secrets while a node runs, for `/v1/health` and as a metric. One lock, held for one
//! short text.

use crate::metrics;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What files of secrets are for, and the name under which they are watched.
type FilesKey = (&'static str, String);

/// What is wrong with files of secrets. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct SecretTroubles(Arc<Mutex<BTreeMap<FilesKey, Option<String>>>>);

impl SecretTroubles {
    /// Files that are watched, under this name and for this value of the label `what`, and what is wrong with them.
    pub(super) fn set(&self, what: &'static str, name: &str, trouble: Option<String>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.insert((what, name.to_owned()), trouble);
        let wrong = state.iter().filter(|((other, _), trouble)| *other == what && trouble.is_some()).count();
        metrics::SECRET_TROUBLES.with(what).set(wrong as f64);
    }

    /// What is wrong, each with the name of the files before it. `None` if no file is watched.
    pub(crate) fn all(&self) -> Option<Vec<String>> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let wrong = |((_, name), trouble): (&FilesKey, &Option<String>)| Some(format!("{name}: {}", trouble.as_ref()?));
        (!state.is_empty()).then(|| state.iter().filter_map(wrong).collect())
    }
}
