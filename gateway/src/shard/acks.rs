//! Acknowledgements of alerts: passed on to the [recorder](crate::acks), and answered when it has recorded them.

use tickwire_core::ids::{Millis, Partition, Seq};
use tickwire_core::protocol::codes::ErrorCode;
use tickwire_core::protocol::{Id, ServerError, ServerFrame};

use super::Shard;
use crate::acks::{AckAnswer, AckRequest};
use crate::shard::session::SessionStage;
use crate::socket::Socket;

impl<S: Socket> Shard<S> {
    /// Passes on an acknowledgement.
    pub(super) fn acknowledge(
        &self,
        number: u64,
        id: Option<Id>,
        partition: Partition,
        seq: Seq,
    ) -> Result<(), ServerError> {
        // A session that has ended meanwhile gets no answer.
        let Some(session) = self.sessions.get(number) else { return Ok(()) };
        let request = AckRequest { session: self.id(number), user: session.user.clone(), id, partition, seq };
        self.settings.acks.try_send(request).map_err(|refused| {
            let message = "too many acknowledgements wait, or this gateway stops; send it again";
            ServerError::new(refused.into_inner().id, ErrorCode::Unavailable, message)
        })
    }

    /// Answers an acknowledgement, if the session is still there.
    pub(crate) fn answer_ack(&mut self, now: Millis, answer: AckAnswer) {
        let AckAnswer { session: number, result } = answer;
        if self.sessions.get(number).is_none_or(|session| session.stage != SessionStage::Open) {
            return;
        }
        match result {
            Ok(acked) => self.answer_with(now, number, &ServerFrame::Acked(acked)),
            Err(error) => self.refuse(now, number, error),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tickwire_core::protocol::Acked;

    use super::*;
    use crate::shard::fixture::ShardFixture;

    #[tokio::test]
    async fn acknowledgement_is_passed_on_and_answered_when_it_is_recorded() {
        let mut fixture = ShardFixture::new();
        let number = fixture.welcome().await;
        let (acks, mut requests) = tokio::sync::mpsc::channel(1);
        fixture.shard.settings.acks = acks;
        for id in 1..=2 {
            fixture.send_frame(number, &json!({ "action": "ack", "id": id, "p": 3, "seq": 11 }));
        }
        fixture.settle().await;
        let refused = fixture.read_until(number, "\"error\"");
        assert!(refused.contains(r#"{"T":"error","id":2,"code":503"#), "the queue is full: {refused}");
        let AckRequest { session, user, id, partition, seq } = requests.try_recv().unwrap();
        assert_eq!((session.number, user.as_str(), partition, seq), (number, "ann", Partition(3), Seq(11)));

        let result = Ok(Acked { id: id.clone(), p: partition, seq });
        fixture.shard.answer_ack(fixture.now, AckAnswer { session: number, result });
        let answered = fixture.read_until(number, "\"acked\"");
        assert!(answered.contains(r#"{"T":"acked","id":1,"p":3,"seq":11}"#), "{answered}");
        let result = Err(ServerError::new(id, ErrorCode::NotAnAlert, "no alert"));
        fixture.shard.answer_ack(fixture.now, AckAnswer { session: number, result });
        fixture.read_until(number, r#"{"T":"error","id":1,"code":418"#);
    }
}
