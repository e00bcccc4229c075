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
    // Mask and payload look like headers, to be taken for such where the count is wrong.
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

/// What passes of messages: all but the frames of one that is too large, from the one on that makes it so. `None` stands
/// where the stream pauses.
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

/// All that comes of a stream, with `None` where it pauses.
fn all(sieve: &mut OversizeFilter, stream: Pieces, room: usize) -> Vec<Option<Vec<u8>>> {
    let (mut pace, mut dry) = (ReadBudget::of_a_turn(u32::MAX, u32::MAX), false);
    let mut stream = Paced { stream, pace: &mut pace, dry: &mut dry };
    let mut came: Vec<Option<Vec<u8>>> = Vec::new();
    let mut buffer = vec![0; room];
    loop {
        match sieve.read(&mut stream, &mut buffer) {
            Ok(read) => match came.last_mut() {
                Some(Some(bytes)) => bytes.extend(&buffer[..read]),
                _ => came.push(Some(buffer[..read].to_vec())),
            },
            Err(_) if sieve.take_too_large() => came.push(None),
            Err(_) => return came,
        }
    }
}

/// The same with what passes between two pauses in one piece.
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
    /// However the bytes are cut, what is too large and nothing else is taken out, and told where it stood.
    #[test]
    fn what_is_too_large_is_taken_out_and_nothing_else(
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
        let mut sieve = OversizeFilter::new(MAX as usize, !one_by_one, read);
        prop_assert_eq!(all(&mut sieve, Pieces(pieces), room), joined(expected(&messages)));
        prop_assert!(!sieve.pauses && sieve.behind.capacity() == 0);
    }
}

#[test]
fn what_is_beyond_all_bounds_is_left_to_the_reader() {
    let huge = |first: u8, masked: u8| [&[first, masked | 127][..], &(OversizeFilter::MOST + 1).to_be_bytes()].concat();
    for header in [huge(0x82, 0x80), huge(0x82, 0), [&[0x82, 127][..], &2_000_u64.to_be_bytes()].concat()] {
        let mut sieve = OversizeFilter::new(MAX as usize, true, Vec::new());
        assert_eq!(all(&mut sieve, Pieces([header.clone()].into()), 512), [Some(header)]);
    }
}

#[test]
fn frames_that_break_the_protocol_are_left_to_the_reader() {
    // A continuation of nothing, a message within another, an opcode without a meaning, and a bit for compression.
    for frames in [vec![(0x80, 2_000)], vec![(0x01, 10), (0x81, 2_000)], vec![(0x83, 2_000)], vec![(0xc1, 2_000)]] {
        let bytes: Vec<u8> = frames.iter().flat_map(|(first, payload)| frame(*first, *payload)).collect();
        let mut sieve = OversizeFilter::new(MAX as usize, true, Vec::new());
        assert_eq!(all(&mut sieve, Pieces([bytes.clone()].into()), 512), [Some(bytes)]);
    }
}

/// Fragments of what is let go end like those of what is kept: after so many, and after so many bytes.
#[test]
fn what_is_let_go_has_an_end() {
    for (fragment, count, least) in [(1, 2 * MAX_FRAGMENTS as usize, 1_000 * 7), (70_000, 300, 230 * 70_000)] {
        let fragments = std::iter::repeat_n(frame(0x00, fragment), count);
        let pieces = Pieces([frame(0x01, 2_000)].into_iter().chain(fragments).collect());
        let mut sieve = OversizeFilter::new(MAX as usize, true, Vec::new());
        let (mut pace, mut dry, mut buffer) = (ReadBudget::of_a_turn(u32::MAX, u32::MAX), false, [0; 512]);
        let mut stream = Paced { stream: pieces, pace: &mut pace, dry: &mut dry };
        assert!(sieve.read(&mut stream, &mut buffer).is_err() && sieve.take_too_large() && !sieve.gives_up());
        assert!(sieve.read(&mut stream, &mut buffer).is_err() && sieve.gives_up());
        let left: usize = stream.stream.0.iter().map(Vec::len).sum();
        assert!(left > 0 && stream.pace.allowance() < u32::MAX as usize - least, "{left} bytes are left");
    }
}
