//! A table for a width: the least important columns are left out until the others fit. Pure.

use super::render::{Line, Tone};

/// Between two columns.
const GAP: &str = "  ";

/// A column.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    pub(super) title: &'static str,
    /// Whether its cells end below each other.
    pub(super) is_number: bool,
    /// The columns with the highest rank are left out first, those with 0 never.
    pub(super) rank: u8,
}

/// A column of text that is never left out.
pub(super) const fn text(title: &'static str) -> Column {
    Column { title, is_number: false, rank: 0 }
}

/// A column of numbers.
pub(super) const fn number(title: &'static str, rank: u8) -> Column {
    Column { title, is_number: true, rank }
}

/// The title and the rows.
pub(super) fn table<const N: usize>(columns: &[Column; N], rows: &[([String; N], Tone)], width: usize) -> Vec<Line> {
    let widths: [usize; N] = std::array::from_fn(|at| {
        let title = columns.get(at).map_or(0, |column| column.title.len());
        rows.iter().filter_map(|(cells, _)| cells.get(at)).map(|cell| cell.chars().count()).fold(title, usize::max)
    });
    let mut shown = [true; N];
    let total = |shown: &[bool; N]| -> usize {
        let widths = widths.iter().zip(shown).filter(|(_, is_shown)| **is_shown);
        widths.map(|(width, _)| width + GAP.len()).sum::<usize>().saturating_sub(GAP.len())
    };
    while total(&shown) > width {
        let of_shown = shown.iter_mut().zip(columns).filter(|(is_shown, column)| **is_shown && column.rank > 0);
        match of_shown.max_by_key(|(_, column)| column.rank) {
            Some((is_shown, _)) => *is_shown = false,
            None => break,
        }
    }
    let line = |cells: [&str; N], tone| {
        let columns = columns.iter().zip(widths).zip(shown).zip(cells).filter(|((_, is_shown), _)| *is_shown);
        let cells = columns.map(|(((column, width), _), cell)| match column.is_number {
            true => format!("{cell:>width$}"),
            false => format!("{cell:<width$}"),
        });
        Line { text: cells.collect::<Vec<_>>().join(GAP).trim_end().to_owned(), tone }
    };
    let titles = line(std::array::from_fn(|at| columns.get(at).map_or("", |column| column.title)), Tone::Title);
    let rows = rows.iter().map(|(cells, tone)| line(cells.each_ref().map(String::as_str), *tone));
    [titles].into_iter().chain(rows).collect()
}
