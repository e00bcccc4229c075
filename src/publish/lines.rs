//! Publishes many events from JSON lines. A bad line is reported with its number and skipped. When the stream does not
//! acknowledge an event, or NATS denies it, the rest is not tried.

use serde_json::Value;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use tickwire_core::event::Kinds;
use tickwire_core::event::decode::own_id;
use tickwire_core::event::object;
use tickwire_node::nats::Nats;
use tokio::sync::mpsc;
use tokio::time::interval;

use super::{Payload, PublishArgs, PublishCommandError, msg_id};
use tickwire_command::progress::{Meter, Progress, REDRAW_INTERVAL};
use tickwire_command::publisher::{NewEvent, PublishDone, PublishError};
use tickwire_command::stop;
use tickwire_node::terminal_text::in_line;

/// How many lines are read ahead.
const AHEAD: usize = 256;

/// The bytes of a line that is too long for any stream (`stream.max_message`). The rest of it is not kept.
const TOO_LONG: usize = 8 * 1024 * 1024 + 1;

/// How many duplicates are reported by line. All of them are counted.
const DUPLICATES_REPORTED: u64 = 10;

/// A line, or why reading ended.
type InputLine = io::Result<Vec<u8>>;

/// The results of the lines.
struct LineTally<'a> {
    progress: &'a Progress,
    stored: Meter,
    duplicates: u64,
    failed: u64,
    /// The first line that was not acknowledged.
    first_failed: Option<u64>,
    /// The last line that was tried.
    tried: u64,
    /// Why the rest was not tried.
    given_up: Option<&'static str>,
    /// The first event that NATS denied.
    denied: Option<PublishError>,
}

impl PublishArgs {
    pub(super) async fn publish_lines(&self, nats: &Nats, kinds: &Kinds) -> Result<String, PublishCommandError> {
        let path = self.lines.as_deref().unwrap_or(Path::new("-"));
        let failed = |source| PublishCommandError::Read { path: path.to_owned(), source };
        let (mut lines, progress) = read(path).map_err(failed)?;
        let stop = stop::on_signal().map_err(PublishCommandError::Signals)?;
        let run = format!("{:016x}", rand::random::<u64>());
        let mut publisher = self.publisher(nats);
        let mut redraw = interval(REDRAW_INTERVAL);
        let mut tally = LineTally::new(&progress);
        let (mut number, mut bytes) = (0_u64, 0_u64);
        while tally.given_up.is_none() {
            let line = tokio::select! {
                biased;
                () = stop.cancelled() => {
                    tally.given_up = Some("stopped");
                    break;
                }
                _ = redraw.tick() => {
                    tally.show(bytes);
                    continue;
                }
                Some(done) = publisher.done() => {
                    tally.count(done);
                    continue;
                }
                line = lines.recv(), if !publisher.is_full() => line,
            };
            let Some(line) = line.transpose().map_err(failed)? else { break };
            number += 1;
            tally.tried = number;
            bytes += line.len() as u64;
            match self.event(&line, &run, number) {
                Ok(None) => {}
                Ok(Some(event)) => match self.checked(kinds, event) {
                    Ok(event) => {
                        if let Some(done) = publisher.send(number, event).await {
                            tally.count(done);
                        }
                    }
                    Err(problem) => tally.fail(number, &problem),
                },
                Err(problem) => tally.fail(number, &problem),
            }
        }
        while let Some(done) = publisher.done().await {
            tally.count(done);
        }
        let summary = tally.summary();
        if let Some(denied) = tally.denied {
            return Err(PublishCommandError::Denied { denied, summary });
        }
        if tally.failed == 0 && tally.given_up.is_none() {
            Ok(summary + "\n")
        } else {
            Err(PublishCommandError::Incomplete { summary })
        }
    }

    /// Returns the event of a line, or none if the line is blank.
    pub(super) fn event(&self, line: &[u8], run: &str, number: u64) -> Result<Option<NewEvent>, String> {
        if line.len() >= TOO_LONG {
            return Err(format!("has {TOO_LONG} bytes or more, which no stream takes"));
        }
        let line = line.trim_ascii();
        if line.is_empty() {
            return Ok(None);
        }
        let payload: Payload = object::from_json(line).map_err(|error| format!("not a JSON object: {error}"))?;
        let text = |field: &str| payload.get(field).and_then(Value::as_str);
        let field = &self.key_field;
        let key = self.key.as_deref().or_else(|| text(field));
        let key = key.filter(|key| !key.is_empty());
        let key =
            key.ok_or_else(|| format!("no text in the field {field:?}: name another with --key-field, or give --key"))?;
        let own = own_id(&payload).map(|(_, id)| id.to_string());
        // An id that cannot be a header value is not used to find duplicates.
        let own = own.and_then(|id| msg_id(&id).ok());
        let mut event = NewEvent::new(&self.kind, key, format!("{run}-{number}"), line.to_vec());
        if let Some(id) = own {
            // The stream compares message ids across all kinds and keys, but an event's id is only unique within its
            // key.
            event.msg_id = format!("{}:{id}", event.subject);
        }
        Ok(Some(event))
    }
}

/// Reads lines on a thread of its own, since a read of standard input cannot be cancelled.
fn read(path: &Path) -> io::Result<(mpsc::Receiver<InputLine>, Progress)> {
    let (sender, lines) = mpsc::channel(AHEAD);
    let (reader, progress): (Box<dyn BufRead + Send>, _) = if path == Path::new("-") {
        (Box::new(BufReader::new(io::stdin())), Progress::endless())
    } else {
        let file = File::open(path)?;
        let total = file.metadata()?.len();
        (Box::new(BufReader::new(file)), Progress::of_bytes(total))
    };
    std::thread::Builder::new().name("lines".to_owned()).spawn(move || {
        let mut reader = reader;
        loop {
            let mut line = Vec::new();
            let read = reader.by_ref().take(TOO_LONG as u64).read_until(b'\n', &mut line);
            let read = match read {
                Ok(TOO_LONG) if !line.ends_with(b"\n") => reader.skip_until(b'\n').map(|_| TOO_LONG),
                read => read,
            };
            let last = !matches!(read, Ok(1..));
            if matches!(read, Ok(0)) || sender.blocking_send(read.map(|_| line)).is_err() || last {
                return;
            }
        }
    })?;
    Ok((lines, progress))
}

impl<'a> LineTally<'a> {
    fn new(progress: &'a Progress) -> Self {
        Self {
            progress,
            stored: Meter::new(),
            duplicates: 0,
            failed: 0,
            first_failed: None,
            tried: 0,
            given_up: None,
            denied: None,
        }
    }

    fn count(&mut self, (number, done): PublishDone<u64>) {
        match done {
            Ok(stored) if stored.duplicate => {
                self.duplicates += 1;
                if self.duplicates <= DUPLICATES_REPORTED {
                    let first = format!("{}:{}", stored.stream, stored.sequence);
                    self.progress.warn(&format!("line {number}: not stored: same kind, key and id as {first}"));
                }
            }
            Ok(_) => self.stored.count += 1,
            // The command ends with this error. One is enough: the other lines under way are mostly denied as well.
            Err(error) if self.denied.is_some() || matches!(error, PublishError::Denied { .. }) => {
                self.failed += 1;
                self.give_up(number);
                self.denied.get_or_insert(error);
            }
            Err(error) => {
                self.fail(number, &error);
                if matches!(error, PublishError::NotAcknowledged { .. }) {
                    self.give_up(number);
                }
            }
        }
    }

    fn give_up(&mut self, number: u64) {
        self.given_up.get_or_insert("given up");
        self.first_failed = Some(self.first_failed.map_or(number, |first| first.min(number)));
    }

    fn fail(&mut self, number: u64, problem: &dyn std::fmt::Display) {
        self.failed += 1;
        self.progress.warn(&in_line(&format!("line {number}: {problem}")));
    }

    fn show(&mut self, bytes: u64) {
        let rate = self.stored.rate();
        self.progress.at(bytes);
        self.progress.show(format!("{}, {rate:.0}/s", self.summary()));
    }

    fn summary(&self) -> String {
        let mut summary = format!("{} stored", self.stored.count);
        for (count, what) in [(self.duplicates, "duplicates"), (self.failed, "failed")] {
            if count > 0 {
                summary += &format!(", {count} {what}");
            }
        }
        if let Some(why) = &self.given_up {
            let first = self.first_failed.map(|line| format!("the first unacknowledged line is {line}, "));
            let first = first.unwrap_or_default();
            summary += &format!(", {why}: {first}lines after {} were not tried", self.tried);
        }
        summary
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[tokio::test]
    async fn line_of_any_size_takes_bounded_memory_and_the_next_one_is_read() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        for length in [TOO_LONG - 1, 3 * TOO_LONG, 2] {
            writeln!(file, "{}", "x".repeat(length)).unwrap();
        }
        let (mut lines, _) = read(file.path()).unwrap();
        let mut lengths = Vec::new();
        while let Some(line) = lines.recv().await {
            lengths.push(line.unwrap().len());
        }
        assert_eq!(lengths, [TOO_LONG, TOO_LONG, 3]);
    }
}
