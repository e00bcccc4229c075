//! Prints messages: events to standard output, everything else to standard error. The events of a backfill are printed
//! when it has ended.

use anstyle::{AnsiColor, Style};
use serde::Serialize;
use std::io::{self, IsTerminal, Write};
use tickwire_client::{Message, ReceivedEvent, SubscriptionName};
use tickwire_core::event::Priority;

use super::backfill::{EventLine, HeldLines};
use tickwire_command::standard_error;
use tickwire_node::terminal_text::{in_json, in_line};

/// Prints messages in one of the two formats.
#[derive(Debug)]
pub(super) struct Printer {
    json: bool,
    colours: bool,
    /// The day of the last event in the table.
    day: Option<String>,
    /// The events of the backfill, until it ends or they are too many.
    held: Option<HeldLines>,
    /// Whether the last message was a reset. The client gets one for each partition, and only the first is printed.
    in_reset: bool,
}

impl Printer {
    /// Prints JSON, or else a table. `since` says whether a backfill comes first.
    pub(super) fn new(json: bool, since: bool) -> Self {
        let colours = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { json, colours, day: None, held: since.then(HeldLines::default), in_reset: false }
    }

    /// Writes a message.
    pub(super) fn print(&mut self, message: &Message) -> io::Result<()> {
        if !self.is_printed(message) {
            return Ok(());
        }
        let event = match message {
            Message::Event(event) => Some(("event", event)),
            Message::Alert(alert) => Some(("alert", alert)),
            _ => None,
        };
        if let Some((object_type, event)) = event {
            let line = self.line_of(object_type, event);
            let Some(held) = &mut self.held else { return self.write(&mut io::stdout(), &line) };
            if held.hold(line) {
                return Ok(());
            }
            standard_error::line(
                "too many stored events to sort all of them by time: these are the first, the rest follows partition by \
                 partition",
            );
            return self.release();
        }
        if matches!(message, Message::Past { .. }) {
            self.release()?;
        }
        if let Some(text) = text_of(message) {
            standard_error::line(&in_line(&text));
        }
        Ok(())
    }

    /// Writes the events that were held back, by time. Later ones are written as they come.
    pub(super) fn release(&mut self) -> io::Result<()> {
        let lines = self.held.take().map(HeldLines::into_sorted).unwrap_or_default();
        let mut output = io::stdout().lock();
        lines.iter().try_for_each(|line| self.write(&mut output, line))
    }

    fn line_of(&self, object_type: &'static str, event: &ReceivedEvent) -> EventLine {
        let text = if self.json {
            in_json(&json(object_type, event)).into_owned()
        } else {
            let style = if self.colours { style(event.priority) } else { Style::new() };
            format!("{style}{}{style:#}", in_line(&row(event)))
        };
        EventLine { ts: event.ts, text }
    }

    /// Writes an event. In the table, titles precede the first one, and the day each one with another day than the one
    /// before it.
    fn write(&mut self, output: &mut impl Write, event: &EventLine) -> io::Result<()> {
        if !self.json {
            if self.day.is_none() {
                let heads = ["TIME (UTC)", "SYMBOL", "WHAT", "TIER", "CONFIDENCE", "PRIORITY"];
                writeln!(output, "{}", line(heads))?;
            }
            let ts = event.ts.to_string();
            let day = ts.split_once('T').map_or(&*ts, |(day, _)| day);
            if self.day.as_deref() != Some(day) {
                writeln!(output, "{day}")?;
                self.day = Some(day.to_owned());
            }
        }
        writeln!(output, "{}", event.text)
    }
}

impl Printer {
    /// Whether to print a message: a reset directly after a reset is not printed.
    fn is_printed(&mut self, message: &Message) -> bool {
        let is_reset = matches!(message, Message::Gap(gap) if gap.reason == "reset");
        !(std::mem::replace(&mut self.in_reset, is_reset) && is_reset)
    }
}

fn style(priority: Priority) -> Style {
    match priority {
        Priority::Critical => AnsiColor::Red.on_default().bold(),
        Priority::High => AnsiColor::Yellow.on_default(),
        Priority::Medium => Style::new(),
        Priority::Low => Style::new().dimmed(),
    }
}

fn line([time, symbol, what, tier, confidence, priority]: [&str; 6]) -> String {
    format!("{time:<12}  {symbol:<8}  {what:<18}  {tier:<8}  {confidence:>10}  {priority:<8}")
}

fn row(event: &ReceivedEvent) -> String {
    let ts = event.ts.to_string();
    let time = ts.split_once('T').map_or(&*ts, |(_, time)| time.trim_end_matches('Z'));
    let about = event.symbol.as_ref().map(|symbol| symbol.as_str()).or(event.key.as_deref());
    let pattern = event.pattern.as_ref().map(|pattern| pattern.as_str());
    let what = pattern.or(event.regime.map(|regime| regime.as_str()));
    let tier = event.tier.map_or("", |tier| tier.as_str());
    let confidence = event.confidence.map(|confidence| format!("{:.2}", confidence.get())).unwrap_or_default();
    let what = what.unwrap_or(event.kind.as_str());
    let line = line([time, about.unwrap_or(""), what, tier, &confidence, event.priority.as_str()]);
    let words = ["summary", "message"].iter().find_map(|name| event.data.get(*name)?.as_str());
    let tail: Vec<String> = [alert(event), words.map(str::to_owned)].into_iter().flatten().collect();
    if tail.is_empty() { line.trim_end().to_owned() } else { format!("{line}  {}", tail.join("  ")) }
}

/// The mark of an alert, with the subscriptions that it is for, or of any other event that comes again.
fn alert(event: &ReceivedEvent) -> Option<String> {
    let word = if event.again { "alert again" } else { "alert" };
    match event.subs.is_empty() {
        true => event.again.then(|| "[again]".to_owned()),
        false => Some(format!("[{word}: {}]", joined(&event.subs))),
    }
}

fn joined<'a>(names: impl IntoIterator<Item = &'a SubscriptionName>) -> String {
    names.into_iter().map(SubscriptionName::as_str).collect::<Vec<_>>().join(", ")
}

/// The event, or the alert, as a gateway writes it.
fn json(object_type: &'static str, event: &ReceivedEvent) -> String {
    #[derive(Serialize)]
    struct EventLine<'a> {
        #[serde(rename = "T")]
        object_type: &'static str,
        #[serde(flatten)]
        event: &'a ReceivedEvent,
    }
    serde_json::to_string(&EventLine { object_type, event }).unwrap_or_default()
}

/// The text for a message that is not an event, if it has one.
fn text_of(message: &Message) -> Option<String> {
    Some(match message {
        Message::Connected { welcome } => format!("connected to {} as {}", welcome.gateway, welcome.user),
        Message::Interrupted => "events from the time without a connection may be missing".to_owned(),
        Message::Restored => "subscribed again".to_owned(),
        Message::Resumed { complete: true } => "resumed: all missed events have arrived".to_owned(),
        Message::Resumed { complete: false } => "resumed: events are missing, see the gaps above".to_owned(),
        Message::Past { complete: true, .. } => "end of stored events".to_owned(),
        Message::Past { complete: false, .. } => {
            "end of stored events, but some are missing: see the gaps above, or the connection broke meanwhile; to get \
             all of them, run the command again with --since"
                .to_owned()
        }
        Message::SavedSubscriptions(saved) if saved.is_empty() => "no saved subscriptions any more".to_owned(),
        Message::SavedSubscriptions(saved) => format!("saved subscriptions: {}", joined(saved.keys())),
        Message::SubscriptionLost { name, error } => format!("lost the subscription {}: {}", name.as_str(), error.msg),
        Message::Notice(notice) => {
            let words = notice.msg.as_deref().map(|msg| format!(": {msg}")).unwrap_or_default();
            let of = notice.subscription.as_ref().map(|name| format!(" of {}", name.as_str())).unwrap_or_default();
            let counts = [(notice.dropped, "dropped"), (notice.conflated, "conflated"), (notice.delayed, "delayed")];
            let counts: Vec<String> = counts
                .into_iter()
                .filter(|(count, _)| *count > 0)
                .map(|(count, what)| format!(", {count} {what}"))
                .collect();
            format!("notice {}{of}{}{words}", notice.code, counts.concat())
        }
        Message::Gap(gap) if gap.reason == "reset" => {
            "gap (reset): the stream was created again, or NATS has lost its end; events stored between the last event \
             above and that moment are unknown"
                .to_owned()
        }
        Message::Gap(gap) => {
            let (p, first, last) = (gap.p, gap.from.0.saturating_add(1), gap.to);
            format!("gap ({}): sequences {first} to {last} of partition {p} may be missing", gap.reason)
        }
        Message::Goaway(goaway) => {
            format!("the gateway asks to reconnect ({}) in {} ms", goaway.reason, goaway.reconnect_ms)
        }
        Message::Authenticated(renewed) => format!("new token accepted, valid for {} s", renewed.expires_ms / 1_000),
        Message::Refused(error) => format!("refused with code {}: {}", error.code, error.msg),
        Message::Unreadable { problem } => problem.clone(),
        Message::Disconnected { reason, retry_in, .. } => match retry_in {
            Some(pause) => format!("disconnected: {reason}; trying again in {pause:.1?}"),
            None => format!("disconnected: {reason}"),
        },
        Message::Event(_) | Message::Alert(_) | Message::Heartbeat(_) => return None,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickwire_core::event::Timestamp;
    use tickwire_core::ids::{Partition, Seq};
    use tickwire_core::protocol::{Gap, ServerMessage};

    fn received(object: &str) -> ReceivedEvent {
        let mut messages =
            ServerMessage::parse(format!("[{object}]").as_bytes(), tickwire_core::protocol::Encoding::Json).unwrap();
        match messages.pop() {
            Some(ServerMessage::Event(event) | ServerMessage::Alert(event)) => *event,
            other => panic!("not an event: {other:?}"),
        }
    }

    const PATTERN: &str = concat!(
        r#"{"T":"event","kind":"pattern","symbol":"BRK.B","pattern":"BreakoutBO","tier":"daily","confidence":0.875,"#,
        r#""priority":"high","ts":"2025-09-10T14:30:00.120Z","id":"m","p":3,"seq":7,"tags":["high_confidence"],"#,
        r#""session":"regular","data":{"source":"x"}}"#
    );

    const MARKET: &str = concat!(
        r#"{"T":"event","kind":"market","key":"US","confidence":0.5,"priority":"low","regime":"bear","#,
        r#""ts":"2025-09-10T14:30:01.000Z","id":"m","p":0,"seq":8,"data":{"summary":"The market is bearish."}}"#
    );

    #[test]
    fn json_output_equals_the_received_event() {
        assert_eq!(json("event", &received(PATTERN)), PATTERN);
        assert_eq!(json("event", &received(MARKET)), MARKET);
        let alert = PATTERN.replace(r#""T":"event""#, r#""T":"alert""#);
        let alert = alert.replace(r#""data":{"source":"x"}}"#, r#""data":{"source":"x"},"subs":["mine"]}"#);
        assert_eq!(json("alert", &received(&alert)), alert);
        assert!(row(&received(&alert)).ends_with("high      [alert: mine]"), "{}", row(&received(&alert)));
        let again = alert.replace(r#""subs":["mine"]"#, r#""subs":["mine","other"],"again":true"#);
        assert_eq!(json("alert", &received(&again)), again);
        assert!(row(&received(&again)).ends_with("[alert again: mine, other]"), "{}", row(&received(&again)));
        let again = PATTERN.replace(r#""data":{"source":"x"}}"#, r#""data":{"source":"x"},"again":true}"#);
        assert!(row(&received(&again)).ends_with("high      [again]"), "{}", row(&received(&again)));
    }

    #[test]
    fn texts_of_a_stranger_are_one_line_and_command_no_terminal() {
        let hostile = r"a\u001b[2J\nb\u009b2J\u202ec";
        let market = MARKET.replace("The market is bearish.", hostile).replace(r#""key":"US""#, r#""key":"U\u001bS""#);
        let mut printer = Printer { colours: false, ..Printer::new(false, false) };
        let line = printer.line_of("event", &received(&market)).text;
        assert!(line.contains("U S") && line.ends_with("low       a [2J b 2J c"), "{line:?}");
        printer.json = true;
        let line = printer.line_of("event", &received(&market)).text;
        assert!(line.contains(r"a\u001b[2J\nb\u009b2J\u202ec"), "{line:?}");
        // No stream has so many messages.
        let end = Seq(u64::MAX);
        let gap = text_of(&Message::Gap(Gap { reason: "lost".into(), p: Partition(0), from: end, to: end })).unwrap();
        assert!(gap.contains("sequences 18446744073709551615 to 18446744073709551615"), "{gap}");
    }

    #[test]
    fn consecutive_resets_are_printed_once() {
        let gap = |p| Message::Gap(Gap { reason: "reset".into(), p: Partition(p), from: Seq(9), to: Seq(9) });
        let mut printer = Printer::new(false, false);
        let mut shown = |message: &Message| printer.is_printed(message);
        assert_eq!([shown(&gap(0)), shown(&gap(1)), shown(&gap(2))], [true, false, false]);
        assert!(shown(&Message::Restored) && shown(&gap(0)));
    }

    #[test]
    fn columns_align_with_their_titles() {
        let head = line(["TIME (UTC)", "SYMBOL", "WHAT", "TIER", "CONFIDENCE", "PRIORITY"]);
        let (pattern, market) = (row(&received(PATTERN)), row(&received(MARKET)));
        for (title, in_pattern, in_market) in [
            ("TIME", "14:30:00.120", "14:30:01.000"),
            ("SYMBOL", "BRK.B", "US"),
            ("WHAT", "BreakoutBO", "bear"),
            ("TIER", "daily", " "),
            ("PRIORITY", "high", "low"),
        ] {
            let at = head.find(title).unwrap();
            assert!(pattern[at..].starts_with(in_pattern), "{title} in {pattern:?}");
            assert!(market[at..].starts_with(in_market), "{title} in {market:?}");
        }
        assert!(market.ends_with("low       The market is bearish."), "{market:?}");
    }
    #[test]
    fn day_is_written_when_it_changes() {
        let mut printer = Printer::new(false, false);
        let mut output = Vec::new();
        for (ts, text) in [(0, "a"), (86_399_999, "b"), (86_400_000, "c"), (0, "d")] {
            printer.write(&mut output, &EventLine { ts: Timestamp(ts), text: text.to_owned() }).unwrap();
        }
        let output = String::from_utf8(output).unwrap();
        let (head, rows) = output.split_once('\n').unwrap();
        assert!(head.starts_with("TIME (UTC)"), "{head}");
        assert_eq!(rows, "1970-01-01\na\nb\n1970-01-02\nc\n1970-01-01\nd\n");
    }

    #[test]
    fn events_of_a_backfill_are_held_until_its_end() {
        let event = || Message::Event(Box::new(received(PATTERN)));
        let mut printer = Printer::new(false, true);
        printer.print(&event()).unwrap();
        printer.print(&Message::Alert(Box::new(received(PATTERN)))).unwrap();
        assert!(printer.held.is_some() && printer.day.is_none());
        printer.print(&Message::Past { name: SubscriptionName::default(), complete: true }).unwrap();
        assert!(printer.held.is_none());
        assert_eq!(printer.day.as_deref(), Some("2025-09-10"));
    }
}
