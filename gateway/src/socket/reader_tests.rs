use super::*;

use proptest::prelude::*;
use std::collections::VecDeque;

const MAX: usize = 70_000;

/// A stream that has these pieces, one at a time, and then nothing yet.
struct Pieces(VecDeque<Vec<u8>>);

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(mut piece) = self.0.pop_front() else { return Err(ErrorKind::WouldBlock.into()) };
        let read = piece.len().min(buffer.len());
        buffer[..read].copy_from_slice(&piece[..read]);
        if read < piece.len() {
            self.0.push_front(piece.split_off(read));
        }
        Ok(read)
    }
}

/// A frame as a client sends it.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..=125 => frame.push(0x80 | length as u8),
        length @ 126..=0xffff => frame.extend([&[0x80 | 126], &(length as u16).to_be_bytes()[..]].concat()),
        length => frame.extend([&[0x80 | 127], &(length as u64).to_be_bytes()[..]].concat()),
    }
    let mask = [1, 2, 3, 4];
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

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

/// Bytes that go wrong, or that say goodbye, at the end of everything.
fn ending() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => Just(Vec::new()),
        1 => Just(frame(0x88, &1000_u16.to_be_bytes())),
        1 => Just([frame(0x88, &[]), frame(0x81, b"late")].concat()),
        1 => Just(frame(0x81, &[0xff])),
        1 => Just(frame(0x80, b"no beginning")),
        1 => Just(vec![0x81, 0x05]),
        1 => Just(frame(0x82, &vec![0; MAX + 1])),
        1 => prop::collection::vec(any::<u8>(), 1..40),
    ]
}

/// What came of all that is there: messages, and why there are no more.
fn all(mut read: impl FnMut(&mut Vec<u8>) -> Result<Message, Error>) -> (Vec<Message>, Vec<u8>, String) {
    let (mut messages, mut answers) = (Vec::new(), Vec::new());
    loop {
        match read(&mut answers) {
            Ok(message) => messages.push(message),
            Err(error) => return (messages, answers, error.to_string()),
        }
    }
}

proptest! {
    /// Letting the reader go between messages changes nothing: messages, answers and faults are those of one that stays.
    #[test]
    fn a_reader_that_comes_and_goes_reads_as_one_that_stays(
        messages in prop::collection::vec(message(), 0..6),
        ending in ending(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        beyond in any::<bool>(),
    ) {
        let bytes = [messages.concat().concat(), ending].concat();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([0, bytes.len()]).collect();
        cuts.sort_unstable();
        let mut pieces: VecDeque<Vec<u8>> = cuts.windows(2).map(|cut| bytes[cut[0]..cut[1]].to_vec()).collect();
        pieces.retain(|piece| !piece.is_empty());
        let read = if beyond { pieces.pop_front().unwrap_or_default() } else { Vec::new() };

        let mut staying = UnderWay::new(read.clone(), MAX);
        let mut reader = Reader::new(read, MAX);
        let mut pieces = pieces.into_iter();
        loop {
            let piece: VecDeque<Vec<u8>> = pieces.next().into_iter().collect();
            let over = piece.is_empty();
            let mut stream = Pieces(piece.clone());
            let UnderWay { context, seam } = &mut staying;
            let expected = all(|answers| context.read(&mut Pipe { stream: &mut stream, answers, seam }));
            let mut stream = Pieces(piece);
            let came = all(|answers| reader.read(&mut stream, answers));
            prop_assert_eq!(&came, &expected);
            if over || !matches!(expected.2.as_str(), text if text == would_block()) {
                break;
            }
        }
    }

    /// It is let go exactly where a message ends.
    #[test]
    fn a_reader_is_held_only_while_a_message_is_under_way(messages in prop::collection::vec(message(), 1..5)) {
        let mut reader = Reader::new(Vec::new(), MAX * 4);
        for frames in messages {
            let bytes = frames.concat();
            let middles = [1, bytes.len() / 2, bytes.len() - 1];
            let mut from = 0;
            for upto in middles.into_iter().chain([bytes.len()]).filter(|upto| *upto > 0) {
                if upto <= from {
                    continue;
                }
                let mut stream = Pieces(VecDeque::from([bytes[from..upto].to_vec()]));
                let (_, _, why) = all(|answers| reader.read(&mut stream, answers));
                prop_assert_eq!(why, would_block());
                prop_assert_eq!(reader.under_way.is_some(), upto < bytes.len());
                from = upto;
            }
        }
    }
}

fn would_block() -> String {
    Error::Io(ErrorKind::WouldBlock.into()).to_string()
}
