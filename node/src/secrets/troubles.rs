//! What is wrong with files of secrets while a node runs, for `/v1/health`. One lock, held for one short text.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What is wrong with files of secrets. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct SecretTroubles(Arc<Mutex<BTreeMap<String, Option<String>>>>);

impl SecretTroubles {
    /// Files that are watched, under this name, and what is wrong with them.
    pub(super) fn set(&self, name: &str, trouble: Option<String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), trouble);
    }

    /// What is wrong, each with the name of the files before it. `None` if no file is watched.
    pub(crate) fn all(&self) -> Option<Vec<String>> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let wrong = |(name, trouble): (&String, &Option<String>)| Some(format!("{name}: {}", trouble.as_ref()?));
        (!state.is_empty()).then(|| state.iter().filter_map(wrong).collect())
    }
}
