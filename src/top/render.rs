//! Lines of text of a screen, for a width and perhaps a height. Pure.

use anstyle::{AnsiColor, Style};

use super::numbers::{bytes, count, percent, rate, time};
use super::problems::{Grade, ProblemRow};
use super::screen::{GatewayRow, RouterRow, Screen, SortKey, State};
use super::table::{Column, number, table, text};
use tickwire_node::terminal_text::in_line;

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Title,
    Warning,
    Error,
}

/// A line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) text: String,
    pub(super) tone: Tone,
}

/// Where the lines are for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Page {
    /// In characters.
    pub(super) width: usize,
    /// In lines; `None` without a limit, and without the line about keys.
    pub(super) height: Option<usize>,
    pub(super) sort: SortKey,
    pub(super) is_paused: bool,
}

static GATEWAYS: [Column; 11] = [
    text("GATEWAY"),
    text("STATE"),
    number("SESSIONS", 0),
    number("EVENTS/S", 0),
    number("BYTES/S", 4),
    number("DROPS/S", 0),
    number("CONFL/S", 6),
    number("GAPS", 3),
    number("QUEUE", 5),
    number("DELIVER", 2),
    number("TOTAL", 1),
];

static ROUTERS: [Column; 10] = [
    text("ROUTER"),
    text("STATE"),
    number("PARTS", 0),
    number("EVENTS/S", 0),
    number("BATCHES/S", 5),
    number("LAG", 0),
    number("PENDING", 2),
    number("ROUTE", 1),
    number("RULES", 4),
    number("CACHE", 3),
];

impl Line {
    fn new(tone: Tone, text: impl Into<String>) -> Self {
        Self { text: text.into(), tone }
    }

    /// The text with its colours, if there are any. What is not a character to print never reaches a terminal.
    pub(super) fn styled(&self, colours: bool) -> String {
        let text = in_line(&self.text);
        let style = match self.tone {
            Tone::Plain => return text.into_owned(),
            Tone::Title => Style::new().bold(),
            Tone::Warning => AnsiColor::Yellow.on_default(),
            Tone::Error => AnsiColor::Red.on_default(),
        };
        if colours { format!("{style}{text}{style:#}") } else { text.into_owned() }
    }
}

/// The lines: the cluster, what is wrong, routers, gateways.
pub(super) fn lines(screen: &Screen, page: &Page) -> Vec<Line> {
    let head = head(screen);
    let problems: Vec<Line> = screen.problems.iter().flat_map(|problem| problem_lines(problem, page.width)).collect();
    let routers: Vec<_> = screen.routers.iter().map(router).collect();
    let routers = table(&ROUTERS, &routers, page.width);
    let gateways: Vec<_> = screen.gateways.iter().map(gateway).collect();
    let gateways = table(&GATEWAYS, &gateways, page.width);
    let Some(height) = page.height else {
        return joined([head, problems, routers, gateways]);
    };
    // The line about keys, and an empty line before each of the other parts.
    let room = height.saturating_sub(head.len() + 4);
    let problems = cut(problems, (room / 3).max(3), "problems");
    let room = room.saturating_sub(problems.len());
    let routers = cut(routers, room.saturating_sub(gateways.len()).max(room / 3), "routers");
    let gateways = cut(gateways, room.saturating_sub(routers.len()), "gateways");
    let mut lines = joined([head, problems, routers, gateways]);
    lines.truncate(height.saturating_sub(1));
    lines.push(keys(page));
    for line in &mut lines {
        line.text = line.text.chars().take(page.width).collect();
    }
    lines
}

fn head(screen: &Screen) -> Vec<Line> {
    let Screen { view, partitions, owned, nodes, ready, sessions, .. } = screen;
    let tone = if ready < nodes { Tone::Warning } else { Tone::Plain };
    vec![
        Line::new(
            Tone::Title,
            format!(
                "tickwire  events {}/s  delivered {}/s  dropped {}/s  sessions {sessions}",
                rate(screen.events_per_s),
                rate(screen.delivered_per_s),
                rate(screen.dropped_per_s),
            ),
        ),
        Line::new(
            tone,
            format!(
                "view {view}  coordinator {}  partitions {owned}/{partitions}  nodes ready {ready}/{nodes}",
                screen.coordinator.as_deref().unwrap_or("unknown"),
            ),
        ),
    ]
}

fn keys(page: &Page) -> Line {
    let sort = match page.sort {
        SortKey::Name => "name",
        SortKey::Sessions => "sessions",
        SortKey::Drops => "drops",
        SortKey::Lag => "lag",
    };
    let pause = if page.is_paused { "PAUSED, p continues" } else { "p pause" };
    let tone = if page.is_paused { Tone::Warning } else { Tone::Plain };
    Line::new(tone, format!("sorted by {sort}: s sessions, d drops, l lag, n name  |  {pause}  |  q quit"))
}

fn problem_lines(problem: &ProblemRow, width: usize) -> Vec<Line> {
    let (word, tone) = match problem.grade {
        Grade::Error => ("ERROR", Tone::Error),
        Grade::Warning => ("WARN ", Tone::Warning),
    };
    let node = problem.node.as_ref().map(|node| format!("{node} ")).unwrap_or_default();
    let text = format!("{word} {node}{}: {}", problem.part, problem.message);
    wrapped(&text, width).into_iter().map(|text| Line::new(tone, text)).collect()
}

/// The words of a text on as many lines as they need.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    const INDENT: &str = "      ";
    let (mut lines, mut line, mut length) = (Vec::new(), String::new(), 0);
    for word in text.split_inclusive(' ') {
        let more = word.trim_end().chars().count();
        if length > INDENT.len() && length + more > width {
            lines.push(std::mem::replace(&mut line, INDENT.to_owned()).trim_end().to_owned());
            length = INDENT.len();
        }
        line.push_str(word);
        length += word.chars().count();
    }
    lines.push(line);
    lines
}

fn gateway(row: &GatewayRow) -> ([String; 11], Tone) {
    let is_dropping = row.dropped_per_s.is_some_and(|rate| rate > 0.0);
    let cells = [
        row.node.clone(),
        row.state.as_str().to_owned(),
        count(row.sessions),
        rate(row.delivered_per_s),
        bytes(row.bytes_per_s),
        rate(row.dropped_per_s),
        rate(row.conflated_per_s),
        count(row.open_gaps),
        bytes(row.queue_bytes),
        time(row.deliver_p99_s),
        time(row.total_p99_s),
    ];
    (cells, if is_dropping { row.state.tone().or(Tone::Warning) } else { row.state.tone() })
}

fn router(row: &RouterRow) -> ([String; 10], Tone) {
    let cells = [
        row.node.clone(),
        row.state.as_str().to_owned(),
        count(row.partitions),
        rate(row.events_per_s),
        rate(row.batches_per_s),
        time(row.lag_s),
        count(row.pending),
        time(row.route_p99_s),
        count(row.rule_revision),
        percent(row.cache_hits),
    ];
    (cells, row.state.tone())
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::NotReady => "not ready",
            Self::Draining => "draining",
            Self::Silent => "silent",
            Self::Gone => "gone",
        }
    }

    fn tone(self) -> Tone {
        match self {
            Self::Ready => Tone::Plain,
            Self::Draining | Self::Gone => Tone::Warning,
            Self::NotReady | Self::Silent => Tone::Error,
        }
    }
}

impl Tone {
    fn or(self, other: Self) -> Self {
        if self == Self::Plain { other } else { self }
    }
}

/// The parts that have lines, with an empty line before each but the first.
fn joined(parts: [Vec<Line>; 4]) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for part in parts.into_iter().filter(|part| !part.is_empty()) {
        if !lines.is_empty() {
            lines.push(Line::new(Tone::Plain, ""));
        }
        lines.extend(part);
    }
    lines
}

/// The first lines, and how many more there are.
fn cut(mut lines: Vec<Line>, most: usize, what: &str) -> Vec<Line> {
    if lines.len() > most {
        let kept = most.saturating_sub(1);
        let left_out = lines.len() - kept;
        lines.truncate(kept);
        lines.push(Line::new(Tone::Warning, format!("… {left_out} more lines of {what}")));
    }
    lines
}
