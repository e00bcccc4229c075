//! How what comes is written: events to standard output, all else to standard error.

use anstyle::{AnsiColor, Style};
use std::io::{self, IsTerminal, Write};
use tickwire_client::{Message, ReceivedEvent};
use tickwire_core::event::{Audience, Event, Priority};
use tickwire_core::protocol::{Encoding, encode_event};

/// Writes messages, in one of the two forms.
#[derive(Debug)]
pub(super) struct Printer {
    json: bool,
    colours: bool,
    headed: bool,
    /// Whether a reset was told last: one comes for each partition.
    in_reset: bool,
}

impl Printer {
    pub(super) fn new(json: bool) -> Self {
        let colours = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { json, colours, headed: false, in_reset: false }
    }

    /// Writes a message.
    pub(super) fn print(&mut self, message: &Message) -> io::Result<()> {
        if !self.shows(message) {
            return Ok(());
        }
        match message {
            Message::Event(event) if self.json => writeln!(io::stdout(), "{}", json(event)),
            Message::Event(event) => {
                if !self.headed {
                    self.headed = true;
                    let heads = ["TIME (UTC)", "SYMBOL", "WHAT", "TIER", "CONFIDENCE", "PRIORITY"];
                    writeln!(io::stdout(), "{}", line(heads))?;
                }
                let style = if self.colours { style(event.priority) } else { Style::new() };
                writeln!(io::stdout(), "{style}{}{style:#}", row(event))
            }
            other => {
                if let Some(text) = told(other) {
                    eprintln!("{text}");
                }
                Ok(())
            }
        }
    }
}

impl Printer {
    /// Whether a message says anything that the one before has not said.
    fn shows(&mut self, message: &Message) -> bool {
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
    match words {
        Some(words) => format!("{line}  {words}"),
        None => line.trim_end().to_owned(),
    }
}

/// The event as a gateway writes it.
fn json(event: &ReceivedEvent) -> String {
    let sent = Event {
        kind: event.kind.clone(),
        key: event.key.clone().unwrap_or_default(),
        // These two are not written.
        audience: Audience::Public,
        stored: event.ts,
        id: event.id.clone(),
        ts: event.ts,
        session: event.session,
        symbol: event.symbol.clone(),
        pattern: event.pattern.clone(),
        tier: event.tier,
        confidence: event.confidence,
        priority: event.priority,
        regime: event.regime,
        tags: event.tags.clone(),
        rooms: event.rooms.clone(),
        data: event.data.clone(),
    };
    let bytes = encode_event(&sent, event.p, event.seq, Encoding::Json);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What is worth telling of anything but an event.
fn told(message: &Message) -> Option<String> {
    Some(match message {
        Message::Connected { welcome } => format!("connected to {} as {}", welcome.gateway, welcome.user),
        Message::Interrupted => "events of the time without a connection may be missing".to_owned(),
        Message::Restored => "subscribed again".to_owned(),
        Message::Resumed { complete: true } => "caught up with what was missed".to_owned(),
        Message::Resumed { complete: false } => "caught up, but for the gaps that were told".to_owned(),
        Message::Past { complete: true, .. } => "that was the past".to_owned(),
        Message::Past { complete: false, .. } => {
            "that was the past, but not all of it: gaps have told what is missing, or the connection broke meanwhile; \
             whoever needs all of it starts again with --since"
                .to_owned()
        }
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
            "gap (reset): the stream was made anew, or NATS has lost its end; what was stored after the last events \
             above and before that is unknown"
                .to_owned()
        }
        Message::Gap(gap) => {
            let (p, first, last) = (gap.p, gap.from.0 + 1, gap.to);
            format!("gap ({}): sequences {first} to {last} of partition {p} may be missing", gap.reason)
        }
        Message::Goaway(goaway) => {
            format!("the gateway sends us elsewhere ({}), in {} ms", goaway.reason, goaway.reconnect_ms)
        }
        Message::Authenticated(said) => format!("a new token, good for {} s", said.expires_ms / 1_000),
        Message::Refused(error) => format!("refused with code {}: {}", error.code, error.msg),
        Message::Unreadable { problem } => problem.clone(),
        Message::Disconnected { reason, retry_in, .. } => match retry_in {
            Some(pause) => format!("disconnected: {reason}; trying again in {pause:.1?}"),
            None => format!("disconnected: {reason}"),
        },
        Message::Event(_) | Message::Heartbeat(_) => return None,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickwire_core::ids::{Partition, Seq};
    use tickwire_core::protocol::{Gap, ServerMessage};

    fn received(object: &str) -> ReceivedEvent {
        let mut messages = ServerMessage::parse(format!("[{object}]").as_bytes(), Encoding::Json).unwrap();
        let Some(ServerMessage::Event(event)) = messages.pop() else { panic!("not an event") };
        *event
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
    fn an_event_is_printed_as_it_was_received() {
        assert_eq!(json(&received(PATTERN)), PATTERN);
        assert_eq!(json(&received(MARKET)), MARKET);
    }

    #[test]
    fn a_reset_of_all_partitions_is_told_once_and_again_with_the_next() {
        let gap = |p| Message::Gap(Gap { reason: "reset".into(), p: Partition(p), from: Seq(9), to: Seq(9) });
        let mut printer = Printer::new(false);
        let mut shown = |message: &Message| printer.shows(message);
        assert_eq!([shown(&gap(0)), shown(&gap(1)), shown(&gap(2))], [true, false, false]);
        assert!(shown(&Message::Restored) && shown(&gap(0)));
    }

    #[test]
    fn rows_stand_under_their_heads() {
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
}
