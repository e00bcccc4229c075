//! Waits until the server denies a permission. It does not answer what it denies: only an error of the connection names
//! the subject.

use std::future::pending;
use tokio::sync::watch;

/// Whether one of these refusals is a denied permission.
pub(super) fn is_in(refusals: &[String]) -> bool {
    refusals.iter().any(|refusal| refusal.to_ascii_lowercase().contains("permissions violation"))
}

/// Waits for refusals of which one is a denied permission, and returns all. A connection that was closed has none.
pub(super) async fn any(mut refusals: watch::Receiver<Vec<String>>) -> String {
    let denied = refusals.wait_for(|refusals| is_in(refusals)).await;
    let denied = denied.map(|refusals| refusals.join("; ")).ok();
    match denied {
        Some(denied) => denied,
        None => pending().await,
    }
}

/// Waits until a publish to this inbox is denied, or the subscription to it.
pub(super) async fn of_inbox(mut refusals: watch::Receiver<Vec<String>>, inbox: &str) {
    let to_inbox = format!("to \"{inbox}\"");
    let is_denied = |refusals: &Vec<String>| refusals.iter().any(|refusal| refusal.contains(&to_inbox));
    let is_closed = refusals.wait_for(is_denied).await.is_err();
    if is_closed {
        pending().await
    }
}

/// Waits until a publish to this subject is denied, or a subscription: acknowledgements arrive by one.
pub(super) async fn of_publish(mut refusals: watch::Receiver<Vec<String>>, subject: &str) -> String {
    let publish = format!("Permissions Violation for Publish to \"{subject}\"");
    let is_denied =
        |refusal: &&String| refusal.contains(&publish) || refusal.contains("Permissions Violation for Subscription to");
    // Many messages wait at a time, so each looks at a refusal only once: refusals are added and never removed.
    let (mut seen, mut denied) = (0, None);
    let waiting = refusals.wait_for(|refusals| {
        denied = refusals.iter().skip(seen).find(is_denied).cloned();
        seen = refusals.len();
        denied.is_some()
    });
    waiting.await.ok();
    match denied {
        Some(denied) => denied,
        None => pending().await,
    }
}
