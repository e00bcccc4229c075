use super::*;

use proptest::prelude::*;
use std::collections::VecDeque;

use crate::socket::ReadBudget;
use crate::socket::reader::pieces::Pieces;

const MAX: u64 = 1_000;

/// A frame as a client sends it.
fn frame(first: u8, payload: usize) -> Vec<u8> {
    let mut frame = vec![first];
    match payload {
        0..=125 => frame.push(0x80 | payload as u8),
        126..=0xffff => frame.extend([&[0x80 | 126], &(payload as u16).to_be_bytes()[..]].concat()),
        _ => frame.extend([&[0x80 | 127], &(payload as u64).to_be_bytes()[..]].concat()),
    }
    // Mask and payload look like headers, so that a wrong count reads them as headers.
    frame.extend(vec![0x81; payload + 4]);
    frame
}

fn payload() -> impl Strategy<Value = usize> {
    prop_oneof![Just(0), 1..130_usize, 300..1_001_usize, 1_001..3_000_usize, Just(70_000_usize)]
}

/// The frames of a message, each with its bytes of data: one, or fragments with pings between them.
fn message() -> impl Strategy<Value = Vec<(u8, usize)>> {
    prop::collection::vec((payload(), any::<bool>()), 1..5).prop_map(|parts| {
        let last = parts.len() - 1;
        let mut frames = Vec::new();
        for (at, (payload, pings)) in parts.into_iter().enumerate() {
            let opcode = if at == 0 { 1 } else { 0 };
            frames.push((if at == last { 0x80 | opcode } else { opcode }, payload));
            frames.extend((pings && at < last).then_some((0x89, 5)));
        }
        frames
    })
}

/// What the filter passes: all frames but those of a message that is too large, from the one on that makes it too
/// large. `None` means a pause of the stream.
fn expected(messages: &[Vec<(u8, usize)>]) -> Vec<Option<Vec<u8>>> {
    let mut passes = Vec::new();
    for frames in messages {
        let mut total = 0;
        for (first, payload) in frames {
            let is_ping = first & 0x08 != 0;
            let before = total;
            total += if is_ping { 0 } else { *payload as u64 };
            match (is_ping || total <= MAX, before <= MAX) {
                (true, _) => passes.push(Some(frame(*first, *payload))),
                (false, true) => passes.push(None),
                (false, false) => {}
            }
        }
    }
    passes
}

/// Everything that the filter passes, with `None` for a pause.
fn all(filter: &mut OversizeFilter, stream: Pieces, room: usize) -> Vec<Option<Vec<u8>>> {
    let (mut pace, mut is_drained) = (ReadBudget::of_a_turn(u32::MAX, u32::MAX), false);
    let mut stream = Paced { stream, pace: &mut pace, is_drained: &mut is_drained };
    let mut passed: Vec<Option<Vec<u8>>> = Vec::new();
    let mut buffer = vec![0; room];
    loop {
        match filter.read(&mut stream, &mut buffer) {
            Ok(read) => match passed.last_mut() {
                Some(Some(bytes)) => bytes.extend(&buffer[..read]),
                _ => passed.push(Some(buffer[..read].to_vec())),
            },
            Err(_) if filter.take_too_large() => passed.push(None),
            Err(_) => return passed,
        }
    }
}

/// The same, with the bytes between two pauses in one piece.
fn joined(passes: Vec<Option<Vec<u8>>>) -> Vec<Option<Vec<u8>>> {
    let mut joined: Vec<Option<Vec<u8>>> = Vec::new();
    for pass in passes {
        match (joined.last_mut(), pass) {
            (Some(Some(bytes)), Some(more)) => bytes.extend(more),
            (_, pass) => joined.push(pass),
        }
    }
    joined
}

proptest! {
    /// Only too large messages are removed and reported at their places, in any pieces of the stream.
    #[test]
    fn only_too_large_messages_are_removed(
        messages in prop::collection::vec(message(), 0..6),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        room in 16..600_usize,
        back in any::<bool>(),
        one_by_one in any::<bool>(),
    ) {
        let bytes: Vec<u8> = messages.iter().flatten().flat_map(|(first, payload)| frame(*first, *payload)).collect();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([0, bytes.len()]).collect();
        cuts.sort_unstable();
        let mut pieces: VecDeque<Vec<u8>> = cuts.windows(2).map(|cut| bytes[cut[0]..cut[1]].to_vec()).collect();
        pieces.retain(|piece| !piece.is_empty());
        let read = if back { pieces.pop_front().unwrap_or_default() } else { Vec::new() };
        let mut filter = OversizeFilter::new(MAX as usize, !one_by_one, read);
        prop_assert_eq!(all(&mut filter, Pieces(pieces), room), joined(expected(&messages)));
        prop_assert!(!filter.pauses && filter.behind.capacity() == 0);
    }
}

#[test]
fn huge_messages_are_left_to_the_reader() {
    let header = |payload: u64, mask: &[u8]| {
        let second = if mask.is_empty() { 127 } else { 0x80 | 127 };
        [&[0x82, second][..], &payload.to_be_bytes(), mask].concat()
    };
    let huge = OversizeFilter::MOST + 1;
    for header in [header(huge, &[1, 2, 3, 4]), header(huge, &[]), header(2_000, &[])] {
        let mut filter = OversizeFilter::new(MAX as usize, true, Vec::new());
        assert_eq!(all(&mut filter, Pieces([header.clone()].into()), 512), [Some(header)]);
    }
}

#[test]
fn frames_that_break_the_protocol_are_left_to_the_reader() {
    // A continuation without a message, a message within another, an undefined opcode, and the bit for compression.
    for frames in [vec![(0x80, 2_000)], vec![(0x01, 10), (0x81, 2_000)], vec![(0x83, 2_000)], vec![(0xc1, 2_000)]] {
        let bytes: Vec<u8> = frames.iter().flat_map(|(first, payload)| frame(*first, *payload)).collect();
        let mut filter = OversizeFilter::new(MAX as usize, true, Vec::new());
        assert_eq!(all(&mut filter, Pieces([bytes.clone()].into()), 512), [Some(bytes)]);
    }
}

/// A skipped message has the same limits as others: a number of fragments, and a number of bytes.
#[test]
fn filter_gives_up_on_a_skipped_message_that_does_not_end() {
    for (fragment, count, least) in [(1, 2 * MAX_FRAGMENTS as usize, 1_000 * 7), (70_000, 300, 230 * 70_000)] {
        let fragments = std::iter::repeat_n(frame(0x00, fragment), count);
        let pieces = Pieces([frame(0x01, 2_000)].into_iter().chain(fragments).collect());
        let mut filter = OversizeFilter::new(MAX as usize, true, Vec::new());
        let (mut pace, mut is_drained, mut buffer) = (ReadBudget::of_a_turn(u32::MAX, u32::MAX), false, [0; 512]);
        let mut stream = Paced { stream: pieces, pace: &mut pace, is_drained: &mut is_drained };
        assert!(filter.read(&mut stream, &mut buffer).is_err() && filter.take_too_large() && !filter.gives_up());
        assert!(filter.read(&mut stream, &mut buffer).is_err() && filter.gives_up());
        let left: usize = stream.stream.0.iter().map(Vec::len).sum();
        assert!(left > 0 && stream.pace.allowance() < u32::MAX as usize - least, "{left} bytes are left");
    }
}
