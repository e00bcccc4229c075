//! Text for a terminal of 100 columns. Lines that are longer continue below the column of their text.

use tickwire_node::terminal_text::in_line;

/// The most characters of a line, unless one word is longer.
const WIDTH: usize = 100;

/// The column where a line continues: behind its first word.
const COLUMN: usize = 11;

/// The text so far.
#[derive(Debug, Default)]
pub(super) struct Screen(pub(super) String);

impl Screen {
    /// Adds a line.
    pub(super) fn add(&mut self, line: &str) {
        // A rule, or an event, may have texts of strangers.
        let mut line = in_line(line).into_owned();
        while let Some(end) = break_of(&line) {
            let next = format!("{:COLUMN$}{}", "", line[end..].trim_start());
            self.0 += &format!("{}\n", line[..end].trim_end());
            line = next;
        }
        self.0 += &format!("{line}\n");
    }

    /// Adds a field.
    pub(super) fn field(&mut self, name: &str, value: &str) {
        self.add(&format!("  {name:<8} {value}"));
    }

    /// Adds a field with its value now, and the one before if that is another.
    pub(super) fn change(&mut self, name: &str, before: &str, now: &str) {
        let before = if before == now { String::new() } else { format!(" (was {before})") };
        self.field(name, &format!("{now}{before}"));
    }
}

/// Where to end a line that is too long: at its last space within the width, behind the column.
fn break_of(line: &str) -> Option<usize> {
    let (beyond, _) = line.char_indices().nth(WIDTH)?;
    line[..beyond].rfind(' ').filter(|end| *end > COLUMN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_continue_below_their_text() {
        let mut screen = Screen::default();
        screen.field("rooms", &["room"; 40].join(", "));
        screen.field("ttl", &"é".repeat(120));
        let lines: Vec<&str> = screen.0.lines().collect();
        assert_eq!(lines.len(), 4, "{lines:#?}");
        assert!(lines[0].starts_with("  rooms    room, room") && lines[0].ends_with(','), "{lines:#?}");
        assert!(lines[1].starts_with("           room, room"), "{lines:#?}");
        assert!(lines[..3].iter().all(|line| (80..=WIDTH).contains(&line.len())), "{lines:#?}");
        assert_eq!(screen.0.matches("room,").count(), 39);
        // A word is not broken.
        assert_eq!(lines[3], format!("  ttl      {}", "é".repeat(120)));
    }

    #[test]
    fn change_names_the_former_value_only_if_it_is_another() {
        let mut screen = Screen::default();
        screen.change("tags", "none", "hot");
        screen.change("priority", "low", "low");
        assert_eq!(screen.0, "  tags     hot (was none)\n  priority low\n");
    }
}
