//! A request of a process that KV has not answered yet, as far as the process knows.

use super::network::Seen;
use crate::membership::coordinator::{KvAnswer, KvRequest};
use rand::Rng;
use rand::rngs::StdRng;
use tickwire_core::placement::View;

/// A request without an answer, or the answer that was not yet noticed.
#[derive(Debug)]
pub(super) struct Waiting {
    number: u64,
    request: KvRequest,
    answer: Option<(KvAnswer, Seen)>,
    is_given_up: bool,
}

impl Waiting {
    pub(super) fn new(number: u64, request: KvRequest) -> Self {
        Self { number, request, answer: None, is_given_up: false }
    }

    /// An answer of KV arrives; `None` if it is not waited for any longer.
    pub(super) fn take(&mut self, number: u64, answer: Option<(KvAnswer, Seen)>) {
        if number != self.number {
            return;
        }
        self.is_given_up |= answer.is_none();
        if self.answer.is_none() {
            self.answer = answer;
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.answer.is_some() || self.is_given_up
    }

    /// The answer, and what it shows. A process that was frozen may notice the end of its patience first.
    pub(super) fn end(self, rng: &mut StdRng) -> (KvRequest, KvAnswer, Seen) {
        let noticed = self.answer.filter(|_| !self.is_given_up || rng.random_bool(0.5));
        let (answer, seen) = noticed.unwrap_or_else(|| (self.request.unanswered(), Seen::default()));
        (self.request, answer, seen)
    }
}

/// The view in KV, as an answer to a coordinator shows it.
pub(super) fn view_in_kv(answer: &KvAnswer, request: KvRequest) -> Option<View> {
    match (answer, request) {
        (KvAnswer::ViewRead(Ok((_, view))), _) => Some(view.clone().unwrap_or_default()),
        (KvAnswer::ViewRead(Err(_)), _) => Some(View::default()),
        (KvAnswer::ViewWritten(Ok(_)), KvRequest::WriteView { view, .. }) => Some(view),
        _ => None,
    }
}
