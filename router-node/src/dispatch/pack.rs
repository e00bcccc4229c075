//! Sections into messages: as many as fit, in order; one that is too large is split at its events. Pure.

use super::RoutedEvent;
use bytes::Bytes;
use tickwire_core::coverage::section::{Batch, Section};
use tickwire_core::ids::{Epoch, NodeRef, Seq};

/// What a section takes in MessagePack beside its events, at most.
const SECTION: usize = 48;

/// What an event takes beside its own bytes, at most: its sequence, and the headers of the pair and of the bytes.
const EVENT: usize = 16;

/// What the batch around the sections takes of a message, at most.
pub(crate) const ENVELOPE: usize = 256;

/// Packs what `router` has read in this life of the stream into batches well below `max_payload`, the bytes that the server
/// takes in a message. Only an event that alone is larger makes a larger one.
pub fn batches(
    router: &NodeRef,
    epoch: Epoch,
    sections: Vec<Section<RoutedEvent>>,
    max_payload: usize,
) -> impl Iterator<Item = Batch<Bytes>> {
    let (router, Epoch { epoch_id, before }) = (router.clone(), epoch);
    let groups = pack(sections, (max_payload / 2).saturating_sub(ENVELOPE)).into_iter();
    groups.map(move |sections| Batch { router: router.clone(), epoch_id, sections, before })
}

/// Packs `sections` into groups of at most `most` bytes. Only an event that alone is larger makes a larger group.
pub(crate) fn pack(sections: Vec<Section<RoutedEvent>>, most: usize) -> Vec<Vec<Section<Bytes>>> {
    let (mut groups, mut group, mut size) = (Vec::new(), Vec::new(), 0);
    for piece in sections.into_iter().flat_map(|section| split(section, most)) {
        let next = weight(&piece);
        if size + next > most && !group.is_empty() {
            groups.push(std::mem::take(&mut group));
            size = 0;
        }
        size += next;
        group.push(piece);
    }
    if !group.is_empty() {
        groups.push(group);
    }
    groups
}

/// Splits a section into contiguous ones of at most `most` bytes each.
fn split(section: Section<RoutedEvent>, most: usize) -> Vec<Section<Bytes>> {
    let Section { partition, revision, prev, through, events } = section;
    let piece = |prev, through, events| Section { partition, revision, prev, through, events };
    let (mut pieces, mut current, mut size, mut from) = (Vec::new(), Vec::new(), SECTION, prev);
    for (seq, routed) in events {
        let next = EVENT + routed.wire.len();
        if size + next > most
            && let Some((last, _)) = current.last()
        {
            let end: Seq = *last;
            pieces.push(piece(from, end, std::mem::take(&mut current)));
            (from, size) = (end, SECTION);
        }
        size += next;
        current.push((seq, routed.wire));
    }
    pieces.push(piece(from, through, current));
    pieces
}

fn weight(section: &Section<Bytes>) -> usize {
    SECTION + section.events.iter().map(|(_, wire)| EVENT + wire.len()).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tickwire_core::coverage::section::Batch;
    use tickwire_core::event::Timestamp;
    use tickwire_core::ids::{EpochId, NodeId, NodeRef, Nonce, Partition, Revision};
    use tickwire_core::wire;

    fn section() -> impl Strategy<Value = Section<RoutedEvent>> {
        let events = prop::collection::vec((1..50u64, 0..300usize), 0..40);
        (0..3u16, 0..u64::from(u32::MAX) * 9, events, 0..20u64).prop_map(|(partition, prev, events, rest)| {
            let mut at = prev;
            let mut list = Vec::new();
            for (step, len) in events {
                at += step;
                let routed = RoutedEvent { wire: vec![at as u8; len].into(), stored: Timestamp(0) };
                list.push((Seq(at), routed));
            }
            Section {
                partition: Partition(partition),
                revision: Revision(7),
                prev: Seq(prev),
                through: Seq(at + rest),
                events: list,
            }
        })
    }

    proptest! {
        /// Put together again, the pieces are what was packed: same order, contiguous ranges, nothing more; and no
        /// message is larger than allowed, unless it holds a single event.
        #[test]
        fn packing_changes_nothing_but_the_cuts(
            sections in prop::collection::vec(section(), 0..6),
            most in 64..2_000usize,
        ) {
            let groups = pack(sections.clone(), most);
            let mut pieces = groups.iter().flatten();
            for section in &sections {
                let (mut from, mut events) = (section.prev, Vec::new());
                loop {
                    let piece = pieces.next().unwrap();
                    prop_assert_eq!((piece.partition, piece.revision), (section.partition, section.revision));
                    prop_assert_eq!(piece.prev, from);
                    prop_assert!(piece.events.iter().all(|(seq, _)| *seq > piece.prev && *seq <= piece.through));
                    events.extend(piece.events.iter().cloned());
                    from = piece.through;
                    if events.len() == section.events.len() && from == section.through {
                        break;
                    }
                }
                let expected: Vec<_> = section.events.iter().map(|(seq, routed)| (*seq, routed.wire.clone())).collect();
                prop_assert_eq!(events, expected);
            }
            prop_assert!(pieces.next().is_none());
            for group in groups {
                let single = group.len() == 1 && group[0].events.len() <= 1;
                let router = NodeRef { id: NodeId::new(&"n".repeat(64)).unwrap(), nonce: Nonce(u64::MAX) };
                let (epoch_id, before) = (EpochId(u64::MAX), Seq(u64::MAX));
                let batch = Batch { router, epoch_id, sections: group, before };
                let bytes = wire::encode(&batch).unwrap();
                prop_assert!(single || bytes.len() <= most + ENVELOPE);
            }
        }
    }
}
