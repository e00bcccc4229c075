//! Counts the filters of each user: those of all sessions of the user on this gateway together, with those in requests
//! that wait. An entry of a filter takes many times its size in the index, so without a bound the sessions of one user
//! could use up the memory of a gateway.

use tickwire_core::protocol::{Id, ServerError};

use super::Shard;
use crate::granting;
use crate::socket::Socket;

impl<S: Socket> Shard<S> {
    /// The bytes of the filters of a session's user.
    pub(super) fn user_filter_bytes(&self, number: u64) -> usize {
        self.sessions.get(number).map_or(0, |session| self.accounts[session.account].filter_bytes)
    }

    /// Checks that the user of a session has room for `more` bytes of filters.
    pub(super) fn check_user_bytes(&self, id: &Option<Id>, number: u64, more: usize) -> Result<(), ServerError> {
        let wanted = self.user_filter_bytes(number).saturating_add(more);
        granting::check_user_bytes(&self.settings.config, wanted)
            .map_err(|(code, message)| ServerError::new(id.clone(), code, message))
    }

    /// A session has `added` more bytes of filters, and `removed` fewer.
    pub(super) fn count_filters(&mut self, number: u64, added: usize, removed: usize) {
        let Some(session) = self.sessions.get_mut(number) else { return };
        let account = &mut self.accounts[session.account];
        for bytes in [&mut session.filter_bytes, &mut account.filter_bytes] {
            *bytes = bytes.saturating_add(added).saturating_sub(removed);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::messages::FromEdge;
    use crate::shard::fixture::ShardFixture;

    /// Subscribes to tags of about 500 bytes together, and returns the answer.
    async fn subscribe(fixture: &mut ShardFixture, number: u64, name: &str) -> String {
        let tags: Vec<String> = (100..150).map(|tag| format!("{name}-{tag}")).collect();
        let frame = json!({ "action": "subscribe", "name": name, "filter": { "tags": tags } });
        fixture.send_frame(number, &frame);
        fixture.settle().await;
        fixture.take(FromEdge::Confirmed(number));
        fixture.read_until(number, "}]")
    }

    async fn unsubscribe(fixture: &mut ShardFixture, number: u64) {
        fixture.send_frame(number, &json!({ "action": "unsubscribe", "name": "*" }));
        fixture.settle().await;
        fixture.read_until(number, "\"subscribed\"");
    }

    #[tokio::test]
    async fn filters_of_all_sessions_of_a_user_have_a_bound_together_and_leave_it_with_their_sessions() {
        let mut fixture = ShardFixture::new();
        fixture.shard.settings.config.user_filter_bytes = 1_300;
        let (first, second) = (fixture.welcome().await, fixture.welcome().await);
        for number in [first, second] {
            fixture.read_until(number, "\"welcome\"");
        }
        let counted = |fixture: &ShardFixture| fixture.shard.user_filter_bytes(second);
        assert!(subscribe(&mut fixture, first, "a").await.contains("\"subscribed\""));
        let one = counted(&fixture);
        assert!((401..=650).contains(&one), "{one}");
        assert!(subscribe(&mut fixture, second, "b").await.contains("\"subscribed\""));
        let refused = subscribe(&mut fixture, second, "c").await;
        assert!(refused.contains("\"code\":416") && refused.contains("gateway.user_filter_bytes"), "{refused}");
        assert_eq!(counted(&fixture), 2 * one);

        // Room is free again when a subscription ends, and when a session does.
        unsubscribe(&mut fixture, second).await;
        assert_eq!(counted(&fixture), one);
        assert!(subscribe(&mut fixture, second, "c").await.contains("\"subscribed\""));
        assert_eq!(counted(&fixture), 2 * one);
        fixture.shard.gone(fixture.now, first);
        assert_eq!(counted(&fixture), one);
        // A replaced filter does not count any more.
        assert!(subscribe(&mut fixture, second, "c").await.contains("\"subscribed\""));
        assert_eq!(counted(&fixture), one);
        unsubscribe(&mut fixture, second).await;
        assert_eq!(counted(&fixture), 0);
    }
}
