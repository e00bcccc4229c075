use super::*;

use proptest::prelude::*;
use std::collections::VecDeque;

use super::pieces::{Pieces, frame};

/// Larger than any message here, except for those that must be too large.
const MAX: usize = 300_000;

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![Just(0), 1..130_usize, 600..1_300_usize, Just(65_536_usize)].prop_map(|length| vec![b'x'; length])
}

fn control() -> impl Strategy<Value = Vec<u8>> {
    (prop_oneof![Just(0x89_u8), Just(0x8a)], 0..125_usize).prop_map(|(first, length)| frame(first, &vec![b'p'; length]))
}

/// The frames of a message: one, or fragments with control frames between them.
fn message() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let data =
        (prop_oneof![Just(1_u8), Just(2)], prop::collection::vec((payload(), prop::option::of(control())), 1..4));
    let data = data.prop_map(|(opcode, parts)| {
        let last = parts.len() - 1;
        let mut frames = Vec::new();
        for (at, (payload, between)) in parts.into_iter().enumerate() {
            let first = if at == 0 { opcode } else { 0 };
            frames.push(frame(if at == last { 0x80 | first } else { first }, &payload));
            frames.extend(between.filter(|_| at < last));
        }
        frames
    });
    prop_oneof![3 => data, 1 => control().prop_map(|frame| vec![frame])]
}

/// Bytes at the end of a stream: an error, a close frame, or nothing.
fn ending() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => Just(Vec::new()),
        1 => Just(frame(0x88, &1000_u16.to_be_bytes())),
        1 => Just([frame(0x88, &[]), frame(0x81, b"late")].concat()),
        1 => Just(frame(0x81, &[0xff])),
        1 => Just(frame(0x80, b"no beginning")),
        1 => Just(vec![0x81, 0x05]),
        1 => Just([&[0x82, 0xff][..], &(OversizeFilter::MOST + 1).to_be_bytes()].concat()),
        1 => prop::collection::vec(any::<u8>(), 1..40),
    ]
}

/// Reads everything that has arrived: messages, answers, and why there are no more.
fn all(mut read: impl FnMut(&mut Vec<u8>) -> Result<Option<Message>, Error>) -> (Vec<Message>, Vec<u8>, String) {
    let (mut messages, mut answers) = (Vec::new(), Vec::new());
    loop {
        match read(&mut answers) {
            Ok(message) => messages.push(message.expect("nothing here is too large")),
            Err(error) => return (messages, answers, error.to_string()),
        }
    }
}

/// Reads everything that has arrived, in turns of `turn` frames or ten times as many bytes.
fn all_turns(reader: &mut MessageReader, stream: &mut Pieces, turn: u32) -> (Vec<Message>, Vec<u8>, String) {
    let mut result = (Vec::new(), Vec::new(), String::new());
    loop {
        let mut pace = ReadBudget::of_a_turn(turn, turn.saturating_mul(10));
        let (messages, answers, why) = all(|answers| reader.read(&mut *stream, answers, &mut pace));
        result.0.extend(messages);
        result.1.extend(answers);
        if why != would_block() || !reader.may_have_more() {
            return (result.0, result.1, why);
        }
    }
}

/// A turn without an end.
fn unbounded() -> ReadBudget {
    ReadBudget::of_a_turn(u32::MAX, u32::MAX)
}

proptest! {
    /// Messages, answers and errors are the same as those of a reader that is never dropped and has no turns.
    #[test]
    fn reader_dropped_between_messages_reads_the_same_as_one_that_is_kept(
        messages in prop::collection::vec(message(), 0..6),
        ending in ending(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        beyond in any::<bool>(),
        turn in prop_oneof![1..20_u32, 1..2_000_u32, Just(u32::MAX)],
    ) {
        let bytes = [messages.concat().concat(), ending].concat();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([0, bytes.len()]).collect();
        cuts.sort_unstable();
        let mut pieces: VecDeque<Vec<u8>> = cuts.windows(2).map(|cut| bytes[cut[0]..cut[1]].to_vec()).collect();
        pieces.retain(|piece| !piece.is_empty());
        let read = if beyond { pieces.pop_front().unwrap_or_default() } else { Vec::new() };

        let mut kept = PartialMessage::new(MAX, false, &read);
        let mut reader = MessageReader::new(&read, MAX);
        let mut pieces = pieces.into_iter();
        loop {
            let piece: VecDeque<Vec<u8>> = pieces.next().into_iter().collect();
            let over = piece.is_empty();
            let mut stream = Pieces(piece.clone());
            let (mut pace, mut is_drained) = (unbounded(), false);
            let expected = all(|answers| {
                let stream = Paced { stream: &mut stream, pace: &mut pace, is_drained: &mut is_drained };
                kept.read(stream, answers).map(Some)
            });
            let mut stream = Pieces(piece);
            let result = all_turns(&mut reader, &mut stream, turn);
            prop_assert_eq!(&result, &expected);
            if over || !matches!(expected.2.as_str(), text if text == would_block()) {
                break;
            }
        }
    }

    /// The state is dropped exactly at the end of a message.
    #[test]
    fn reader_is_kept_only_while_a_message_is_incomplete(messages in prop::collection::vec(message(), 1..5)) {
        let mut reader = MessageReader::new(&[], MAX * 4);
        for frames in messages {
            let bytes = frames.concat();
            let middles = [1, bytes.len() / 2, bytes.len() - 1];
            let mut from = 0;
            for through in middles.into_iter().chain([bytes.len()]).filter(|through| *through > 0) {
                if through <= from {
                    continue;
                }
                let mut stream = Pieces(VecDeque::from([bytes[from..through].to_vec()]));
                let (_, _, why) = all(|answers| reader.read(&mut stream, answers, &mut unbounded()));
                prop_assert_eq!(why, would_block());
                // The filter holds the beginning of a header.
                prop_assert!(through < bytes.len() || reader.partial.is_none());
                from = through;
            }
        }
    }
}

/// A message that is too large, in one frame or in fragments, is reported at its place, and what follows it is read.
#[test]
fn message_that_is_too_large_is_skipped() {
    let text = |text: &[u8]| frame(0x81, text);
    let bytes = [
        text(b"a"),
        text(&vec![b'x'; MAX + 1]),
        text(b"b"),
        frame(0x01, &vec![b'x'; MAX]),
        frame(0x89, b"p"),
        frame(0x00, b"x"),
        frame(0x80, b"x"),
        text(b"c"),
    ];
    let mut reader = MessageReader::new(&[], MAX);
    let mut stream = Pieces(VecDeque::from([bytes.concat()]));
    let (mut answers, mut messages) = (Vec::new(), Vec::new());
    while let Ok(read) = reader.read(&mut stream, &mut answers, &mut unbounded()) {
        messages.push(read.map(|message| message.into_data().to_vec()));
    }
    let message = |text: &[u8]| Some(text.to_vec());
    assert_eq!(messages, [message(b"a"), None, message(b"b"), message(b"p"), None, message(b"c")]);
    assert!(reader.partial.is_none());
}

fn would_block() -> String {
    Error::Io(ErrorKind::WouldBlock.into()).to_string()
}

/// A stream of endless empty fragments that counts the bytes read from it.
struct Fragments(usize);

impl Read for Fragments {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let fragment = frame(0x00, &[]);
        let read = buffer.len() / fragment.len() * fragment.len();
        fragment.iter().cycle().zip(&mut buffer[..read]).for_each(|(byte, into)| *into = *byte);
        self.0 += read;
        Ok(read)
    }
}

#[test]
fn endless_empty_fragments_end_the_turn_and_then_the_message() {
    // In a message, and in one that is skipped.
    for (first, skipped) in [(Vec::new(), 0), (vec![b'x'; MAX + 1], 1)] {
        let mut reader = MessageReader::new(&frame(0x01, &first), MAX);
        let mut stream = Fragments(0);
        let (mut turns, mut too_large) = (0, 0);
        let error = loop {
            turns += 1;
            let before = stream.0;
            match reader.read(&mut stream, &mut Vec::new(), &mut ReadBudget::of_a_turn(64, 16_384)) {
                Ok(None) => too_large += 1,
                Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {}
                other => break other.unwrap_err(),
            }
            assert!(stream.0 - before <= 64 * 6 + READ_BUFFER, "{} bytes in a turn", stream.0 - before);
            assert!(reader.may_have_more());
        };
        assert!(matches!(error, Error::Capacity(CapacityError::MessageTooLong { .. })), "{error}");
        assert!((2..64).contains(&turns) && too_large == skipped, "{turns} turns, {too_large} too large");
    }
}

/// A message that a client sends right after it has authenticated may be as large as later ones.
#[test]
fn message_after_a_change_of_the_limit_has_the_new_limit_even_if_it_arrived_before() {
    let large = vec![b'x'; 20_000];
    for between in [Vec::new(), frame(0x8a, b"p")] {
        let bytes = [frame(0x81, b"auth"), between, frame(0x81, &large), frame(0x81, b"next")].concat();
        for read in [0, 8, bytes.len()] {
            let mut reader = MessageReader::new(&bytes[..read], 1_000);
            let rest = [bytes[read..].to_vec()].into_iter().filter(|rest| !rest.is_empty());
            let mut stream = Pieces(rest.collect());
            let first = reader.read(&mut stream, &mut Vec::new(), &mut unbounded()).unwrap();
            assert_eq!(first.unwrap().into_data(), b"auth"[..]);
            reader.set_max_frame_bytes(MAX);
            let (messages, _, why) = all(|answers| reader.read(&mut stream, answers, &mut unbounded()));
            let sizes: Vec<_> = messages.iter().filter(|message| message.is_text()).map(Message::len).collect();
            assert_eq!((sizes, why), (vec![large.len(), 4], would_block()));
        }
    }
}

#[test]
fn message_with_the_largest_number_of_fragments_is_read() {
    let mut bytes = frame(0x01, b"a");
    for _ in 2..MAX_FRAGMENTS {
        bytes.extend(frame(0x00, b"b"));
        bytes.extend(frame(0x89, &[]));
    }
    bytes.extend(frame(0x80, b"c"));
    for next in [frame(0x81, b"next"), Vec::new()] {
        let mut reader = MessageReader::new(&[], MAX);
        let mut stream = Pieces(VecDeque::from([[bytes.clone(), next].concat()]));
        let (messages, _, why) = all(|answers| reader.read(&mut stream, answers, &mut unbounded()));
        assert_eq!(why, would_block());
        assert!(messages.iter().any(|message| message.len() == MAX_FRAGMENTS as usize));
        assert!(!reader.may_have_more());
    }
}

proptest! {
    /// The error is reported at the first byte after which the text cannot become UTF-8.
    #[test]
    fn text_that_cannot_become_utf_8_is_refused_before_it_is_complete(
        text in prop::collection::vec(prop_oneof![any::<u8>(), 0x80..0xc0_u8, 0xe0..0xf5_u8], 0..12),
        more in any::<bool>(),
    ) {
        let bytes = frame(if more { 0x01 } else { 0x81 }, &[text.as_slice(), b"and so on"].concat());
        let may_continue =
            |text: &[u8]| std::str::from_utf8(text).map_or_else(|error| error.error_len().is_none(), |_| true);
        let mut reader = MessageReader::new(&[], MAX);
        // The header has two bytes, and the mask four.
        for (at, byte) in bytes.iter().enumerate().take(6 + text.len()) {
            let mut stream = Pieces(VecDeque::from([vec![*byte]]));
            let (messages, _, why) = all(|answers| reader.read(&mut stream, answers, &mut unbounded()));
            prop_assert!(messages.is_empty());
            let received = &text[..(at + 1).saturating_sub(6)];
            if !may_continue(received) {
                prop_assert!(why.contains("UTF-8"), "{} after {:?}", why, received);
                return Ok(());
            }
            prop_assert_eq!(why, would_block(), "after {:?}", received);
        }
    }
}

/// A frame with another error gets that error, in any pieces.
#[test]
fn frame_that_breaks_the_protocol_is_not_reported_as_invalid_utf_8() {
    let unmasked = [&[0x00, 20][..], &[0; 8], &[0xff; 12]].concat();
    let reserved = frame(0xb0, &[0xff; 20]);
    let within = [frame(0x01, b"a"), frame(0x81, &[0xff; 20])].concat();
    for (wrong, begins) in [(unmasked.clone(), true), (unmasked, false), (reserved, true), (within, true)] {
        let bytes = if begins { [frame(0x81, b"before"), wrong].concat() } else { wrong };
        for size in [1, 7, bytes.len()] {
            let mut reader = MessageReader::new(&[], MAX);
            let mut stream = Pieces(bytes.chunks(size).map(<[u8]>::to_vec).collect());
            let why = std::iter::repeat_with(|| all(|answers| reader.read(&mut stream, answers, &mut unbounded())).2)
                .take(bytes.len() + 1)
                .find(|why| *why != would_block());
            let why = why.unwrap_or_default();
            assert!(why.contains("protocol error"), "{why} in pieces of {size} of {bytes:02x?}");
        }
    }
}
