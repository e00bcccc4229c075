//! The live view: asks at an interval, draws what is known, and follows keys.

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use super::ask::Asker;
use super::reading::Trend;
use super::render::{self, Page};
use super::screen::{Screen, SortKey};
use super::terminal::{self, Terminal};
use super::{TopError, has_colours};

/// The size of a terminal that does not know it.
const USUAL_SIZE: (usize, usize) = (80, 24);

/// Ctrl-C and Ctrl-D.
const END: [u8; 2] = [0x03, 0x04];

/// What keys have changed.
struct Choices {
    sort: SortKey,
    is_paused: bool,
}

impl Choices {
    /// Follows a key; `false` if it ends the view.
    fn follow(&mut self, key: u8) -> bool {
        match key {
            b'q' | b'Q' => return false,
            key if END.contains(&key) => return false,
            b'p' | b' ' => self.is_paused = !self.is_paused,
            b's' => self.sort = SortKey::Sessions,
            b'd' => self.sort = SortKey::Drops,
            b'l' => self.sort = SortKey::Lag,
            b'n' => self.sort = SortKey::Name,
            _ => {}
        }
        true
    }
}

/// Shows the cluster until a key or `stop` ends it.
pub(super) async fn run(
    asker: &Asker,
    mut trend: Trend,
    every: Duration,
    stop: &CancellationToken,
) -> Result<(), TopError> {
    let terminal = Terminal::enter(has_colours()).map_err(TopError::Terminal)?;
    let mut keys = terminal::keys().map_err(TopError::Terminal)?;
    let mut choices = Choices { sort: SortKey::Name, is_paused: false };
    let mut ticks = interval_at(tokio::time::Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // At most one question is under way.
    let mut asking = FuturesUnordered::new();
    loop {
        let (width, height) = terminal::size().unwrap_or(USUAL_SIZE);
        let page = Page { width, height: Some(height), sort: choices.sort, is_paused: choices.is_paused };
        let screen = Screen::of(&trend, choices.sort);
        terminal.draw(&render::lines(&screen, &page)).map_err(TopError::Terminal)?;
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            key = keys.recv() => match key {
                Some(key) if choices.follow(key) => {}
                _ => return Ok(()),
            },
            _ = ticks.tick() => if asking.is_empty() && !choices.is_paused {
                asking.push(asker.ask());
            },
            Some(answer) = asking.next(), if !asking.is_empty() => match answer {
                Ok(reading) => trend.note(reading),
                Err(faults) => trend.lose(faults),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_pause_and_end() {
        let mut choices = Choices { sort: SortKey::Name, is_paused: false };
        for (key, sort) in
            [(b's', SortKey::Sessions), (b'd', SortKey::Drops), (b'l', SortKey::Lag), (b'n', SortKey::Name)]
        {
            assert!(choices.follow(key));
            assert_eq!(choices.sort, sort);
        }
        assert!(choices.follow(b'p') && choices.is_paused);
        assert!(choices.follow(b' ') && !choices.is_paused);
        assert!(choices.follow(b'x'));
        assert_eq!([b'q', b'Q', 3, 4].map(|key| choices.follow(key)), [false; 4]);
    }
}
