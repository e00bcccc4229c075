//! How a gateway follows the bucket of saved subscriptions: the production cursor, book and table, in the order in
//! which the driver calls them.

use std::sync::Arc;

use tickwire_node::bucket::{BucketCursor, BucketState};

use super::SimSaved;
use crate::byte_queue::ByteSender;
use crate::messages::ToShard;
use crate::registry::SessionRegistry;
use crate::saved::SavedTable;
use crate::saved::book::{SavedBook, SavedNews};
use crate::saved::driver::spread;
use crate::shard::ShardConfig;

/// After how many looks at an unchanged bucket it is read again from its beginning. No run makes as many looks as the
/// production code needs for that.
const REVIEW: u32 = 3;

pub(in super::super) struct SavedReader {
    cursor: BucketCursor,
    book: SavedBook,
    table: Arc<SavedTable>,
    registry: Arc<SessionRegistry>,
    shards: Vec<ByteSender<ToShard>>,
    /// The state of the bucket that it has read; `None` before the first.
    known: Option<BucketState>,
    /// The last write that it has read.
    through: u64,
}

impl SavedReader {
    /// The reader of a gateway that starts. It has read the whole bucket before any client arrives.
    pub(in super::super) fn new(settings: &ShardConfig, shards: Vec<ByteSender<ToShard>>, saved: &SimSaved) -> Self {
        let mut reader = Self {
            cursor: BucketCursor::new(REVIEW),
            book: SavedBook::new(settings.config.max_subscriptions),
            table: Arc::clone(&settings.saved),
            registry: Arc::clone(&settings.registry),
            shards,
            known: None,
            through: 0,
        };
        reader.read(saved, saved.log.len() as u64);
        reader
    }

    /// Looks at the bucket when `last` is its last revision, and reads what is new. Returns for how many users it is
    /// something else than before.
    pub(super) fn read(&mut self, saved: &SimSaved, last: u64) -> usize {
        let Some(news) = saved.read(&mut self.cursor, last) else { return 0 };
        (self.known, self.through) = (Some(news.state), saved.writes);
        let SavedNews { changes, unreadable, newer } = self.book.take(news);
        assert_eq!((unreadable.count(), newer.len()), (0, 0), "a value cannot be read: {saved:#?}");
        let count = changes.len();
        spread(changes, &self.table, &self.registry, &self.shards);
        count
    }

    /// The last revision of the present bucket that it knows.
    pub(super) fn last(&self, saved: &SimSaved) -> u64 {
        self.known.filter(|known| known.created == saved.created).map_or(0, |known| known.last)
    }

    /// The last write that it has read.
    pub(in super::super) fn read_through(&self) -> u64 {
        self.through
    }
}
