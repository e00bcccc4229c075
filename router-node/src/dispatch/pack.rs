//! Packs sections into messages: as many as fit, in order. A section that is too large is split between its events.
//! Pure.

use super::RoutedEvent;
use bytes::Bytes;
use tickwire_core::coverage::section::{Batch, Section};
use tickwire_core::ids::{Epoch, NodeRef, Seq};

/// The most bytes of a section in MessagePack beside its events.
const SECTION: usize = 48;

/// The most bytes of an event beside its own: its sequence, and the headers of the pair and of the bytes.
const EVENT: usize = 16;

/// The most bytes of a message around the sections.
pub(crate) const ENVELOPE: usize = 256;

/// Packs the sections of `router` in this epoch into batches well below `max_payload`, the server's limit for a message
/// in bytes. Only a single event above the limit makes a larger batch.
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

/// Packs `sections` into groups of at most `most` bytes. Only a single event above that makes a larger group.
#[must_use]
pub fn pack(sections: Vec<Section<RoutedEvent>>, most: usize) -> Vec<Vec<Section<Bytes>>> {
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
                let routed = RoutedEvent { wire: vec![at as u8; len].into(), stored: Timestamp(0), trace: None };
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
        /// Joined again, the pieces equal the input: same order, contiguous ranges, nothing more. No message is larger
        /// than allowed, unless it holds a single event.
        #[test]
        fn pieces_join_to_the_packed_sections(
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
