//! Reads the CSV file of `tickwire reference load`.
//!
//! The first line names the columns, in any order and case. `symbol` and `sector` must be there; `name`,
//! `sector_strength` and `market` may be. Other columns are ignored, and returned so that the operator sees a
//! misspelling. Fields are trimmed, and an empty one counts as absent.

use std::collections::HashMap;
use std::str::FromStr;

use csv::StringRecord;

use super::{MAX_REFERENCES, ReferenceEntry};
use crate::hint::{bounded, clipped, quoted};
use crate::ids::{MarketKey, NameError, Sector, SecurityName, Symbol};

/// The largest file, in bytes.
const MAX_FILE: usize = 16 * 1024 * 1024;

const COLUMNS: [&str; 5] = ["symbol", "sector", "name", "sector_strength", "market"];

/// The content of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct ReferenceFile {
    /// The rows, in the order of the file. Each symbol occurs once.
    pub rows: Vec<ReferenceRow>,
    /// The columns that are not known, as written, each cut if it is long.
    pub ignored: Vec<String>,
}

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub struct ReferenceRow {
    /// The symbol.
    pub symbol: Symbol,
    /// What is stated about it.
    pub entry: ReferenceEntry,
}

/// Why a file was refused, and where.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("line {line}{}: {problem}", .column.map(|name| format!(", column {name}")).unwrap_or_default())]
pub struct ReferenceError {
    /// The line, counted from 1.
    pub line: u64,
    /// The column, if the problem is in one.
    pub column: Option<&'static str>,
    /// What is wrong, and what helps.
    pub problem: ReferenceProblem,
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ReferenceProblem {
    /// It is too large.
    #[error("the file has {bytes} bytes, the limit is {}; split it", MAX_FILE)]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// It has too many rows.
    #[error("more than {} rows; leave out symbols that nobody publishes", MAX_REFERENCES)]
    TooManyRows,
    /// It has no row.
    #[error("no rows; add at least one below the header")]
    NoRows,
    /// The header lacks a column that must be there.
    #[error("no such column in the header {found}; the first line must name the columns, at least symbol,sector")]
    NoColumn {
        /// The header.
        found: String,
    },
    /// The header names a column twice.
    #[error("the header names it twice; remove one of the two")]
    ColumnTwice,
    /// The row has another number of fields than the header.
    #[error("{found} fields, but the header has {expected}; put a field with a comma in quotes")]
    FieldCount {
        /// The fields of the header.
        expected: u64,
        /// The fields of the row.
        found: u64,
    },
    /// It is not UTF-8.
    #[error("not UTF-8; save the file in that encoding")]
    NotUtf8,
    /// The CSV reader refused it.
    #[error("not CSV: {0}")]
    NotCsv(String),
    /// A field that must be there is empty.
    #[error("empty; fill it in, or remove the row")]
    Empty,
    /// A name cannot be.
    #[error("{found}: {fault}")]
    BadName {
        /// The field.
        found: String,
        /// What is wrong with it.
        fault: NameError,
    },
    /// A number cannot be.
    #[error("{found} is not a number; write it like 0.75")]
    NotANumber {
        /// The field.
        found: String,
    },
    /// The symbol stands in an earlier row.
    #[error("{found} is in line {first} already; remove one of the two")]
    SymbolTwice {
        /// The symbol.
        found: String,
        /// The line of the earlier row.
        first: u64,
    },
}

/// Reads a file.
///
/// # Errors
/// [`ReferenceError`] for the first thing that is wrong. Then no row counts.
pub fn parse_reference(file: &[u8]) -> Result<ReferenceFile, ReferenceError> {
    let at = |line, problem| ReferenceError { line, column: None, problem };
    if file.len() > MAX_FILE {
        return Err(at(1, ReferenceProblem::TooLarge { bytes: file.len() }));
    }
    // Spreadsheets begin a file with a byte order mark.
    let text = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text);
    let mut lines = LineCounter { text, byte: 0, line: 1 };
    let header = Header::read(reader.headers().map_err(|error| refused_by_reader(&error, &mut lines))?)?;
    let mut rows = Vec::new();
    let mut first_lines = HashMap::new();
    for record in reader.records() {
        let record = record.map_err(|error| refused_by_reader(&error, &mut lines))?;
        let fields = RecordFields { line: lines.line_of(record.position()), header: &header, record: &record };
        if rows.len() >= MAX_REFERENCES {
            return Err(at(fields.line, ReferenceProblem::TooManyRows));
        }
        let row = fields.row()?;
        if let Some(first) = first_lines.insert(row.symbol.clone(), fields.line) {
            let found = quoted(row.symbol.as_str());
            return Err(fields.refuse("symbol", ReferenceProblem::SymbolTwice { found, first }));
        }
        rows.push(row);
    }
    if rows.is_empty() {
        return Err(at(1, ReferenceProblem::NoRows));
    }
    Ok(ReferenceFile { rows, ignored: header.ignored })
}

fn refused_by_reader(error: &csv::Error, lines: &mut LineCounter<'_>) -> ReferenceError {
    let problem = match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            ReferenceProblem::FieldCount { expected: *expected_len, found: *len }
        }
        csv::ErrorKind::Utf8 { .. } => ReferenceProblem::NotUtf8,
        _ => ReferenceProblem::NotCsv(bounded(error.to_string())),
    };
    ReferenceError { line: lines.line_of(error.position()), column: None, problem }
}

/// Counts lines. The count of the reader is too low after CR LF and after empty lines.
struct LineCounter<'a> {
    text: &'a [u8],
    /// The place up to which `line` is counted.
    byte: usize,
    line: u64,
}

impl LineCounter<'_> {
    /// The line of the row that begins behind line ends at `position`. Positions come in order.
    fn line_of(&mut self, position: Option<&csv::Position>) -> u64 {
        let position = position.map_or(0, |position| position.byte() as usize);
        let start = position.clamp(self.byte, self.text.len());
        let ends = self.text[start..].iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        let counted = &self.text[self.byte..start + ends];
        self.line += counted.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.byte = start + ends;
        self.line
    }
}

/// Where each known column stands.
struct Header {
    places: HashMap<&'static str, usize>,
    ignored: Vec<String>,
}

impl Header {
    fn read(record: &StringRecord) -> Result<Self, ReferenceError> {
        let at = |column, problem| ReferenceError { line: 1, column: Some(column), problem };
        let mut header = Self { places: HashMap::new(), ignored: Vec::new() };
        for (place, name) in record.iter().enumerate() {
            let Some(column) = COLUMNS.into_iter().find(|column| name.eq_ignore_ascii_case(column)) else {
                header.ignored.push(clipped(name));
                continue;
            };
            if header.places.insert(column, place).is_some() {
                return Err(at(column, ReferenceProblem::ColumnTwice));
            }
        }
        for column in ["symbol", "sector"] {
            if !header.places.contains_key(column) {
                let found = quoted(&record.iter().collect::<Vec<_>>().join(","));
                return Err(at(column, ReferenceProblem::NoColumn { found }));
            }
        }
        Ok(header)
    }
}

/// One record with its line.
struct RecordFields<'a> {
    line: u64,
    header: &'a Header,
    record: &'a StringRecord,
}

impl RecordFields<'_> {
    fn row(&self) -> Result<ReferenceRow, ReferenceError> {
        let strength = self.text("sector_strength").map(|text| self.number("sector_strength", text)).transpose()?;
        let name = self.text("name").map(|text| self.name("name", SecurityName::new(text), text)).transpose()?;
        let market = self.text("market").map(|text| self.name("market", MarketKey::new(text), text)).transpose()?;
        let (symbol, sector) = (self.required("symbol")?, self.required("sector")?);
        Ok(ReferenceRow {
            symbol: self.name("symbol", Symbol::new(symbol), symbol)?,
            entry: ReferenceEntry {
                sector: self.name("sector", Sector::new(sector), sector)?,
                name,
                sector_strength: strength,
                market,
            },
        })
    }

    fn text(&self, column: &'static str) -> Option<&str> {
        let place = self.header.places.get(column)?;
        self.record.get(*place).filter(|text| !text.is_empty())
    }

    fn required(&self, column: &'static str) -> Result<&str, ReferenceError> {
        self.text(column).ok_or_else(|| self.refuse(column, ReferenceProblem::Empty))
    }

    fn name<T>(&self, column: &'static str, name: Result<T, NameError>, text: &str) -> Result<T, ReferenceError> {
        name.map_err(|fault| self.refuse(column, ReferenceProblem::BadName { found: quoted(text), fault }))
    }

    fn number(&self, column: &'static str, text: &str) -> Result<f64, ReferenceError> {
        let number = f64::from_str(text).ok().filter(|number| number.is_finite());
        number.ok_or_else(|| self.refuse(column, ReferenceProblem::NotANumber { found: quoted(text) }))
    }

    fn refuse(&self, column: &'static str, problem: ReferenceProblem) -> ReferenceError {
        ReferenceError { line: self.line, column: Some(column), problem }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refusal(file: &str) -> (u64, Option<&'static str>, ReferenceProblem) {
        let ReferenceError { line, column, problem } = parse_reference(file.as_bytes()).unwrap_err();
        (line, column, problem)
    }

    #[test]
    fn columns_are_found_in_any_order_and_case() {
        let file = "\u{feff}Sector, SYMBOL ,Name,Sectr,sector_strength,market\r\n\
                    Technology,AAPL,\"Apple, Inc.\",x,0.75,US\r\n\
                    \"Financials\", BRK.B ,,,,\r\n";
        let read = parse_reference(file.as_bytes()).unwrap();
        let row = |symbol, sector, name: Option<&str>, sector_strength, market: Option<&str>| ReferenceRow {
            symbol: Symbol::new(symbol).unwrap(),
            entry: ReferenceEntry {
                sector: Sector::new(sector).unwrap(),
                name: name.map(|name| SecurityName::new(name).unwrap()),
                sector_strength,
                market: market.map(|market| MarketKey::new(market).unwrap()),
            },
        };
        let apple = row("AAPL", "Technology", Some("Apple, Inc."), Some(0.75), Some("US"));
        assert_eq!(read.rows, [apple, row("BRK.B", "Financials", None, None, None)]);
        assert_eq!(read.ignored, ["Sectr"]);
    }

    #[test]
    fn each_fault_is_found_at_its_line_and_column() {
        use ReferenceProblem::{BadName, ColumnTwice, Empty, FieldCount, NoColumn, NoRows, NotANumber, SymbolTwice};
        let long = "S".repeat(Symbol::MAX + 1);
        let too_long = format!("symbol,sector\n{long},Tech\n");
        let fault = NameError::TooLong { what: "symbol", len: Symbol::MAX + 1, max: Symbol::MAX };
        for (file, line, column, problem) in [
            ("", 1, Some("symbol"), NoColumn { found: "\"\"".to_owned() }),
            ("symbol,sectr\nAAPL,Tech\n", 1, Some("sector"), NoColumn { found: "\"symbol,sectr\"".to_owned() }),
            ("symbol,sector,Sector\n", 1, Some("sector"), ColumnTwice),
            ("symbol,sector\n", 1, None, NoRows),
            ("symbol,sector\nAAPL,Tech\nMSFT\n", 3, None, FieldCount { expected: 2, found: 1 }),
            ("symbol,sector\nAAPL, \n", 2, Some("sector"), Empty),
            ("symbol,sector\n,Tech\n", 2, Some("symbol"), Empty),
            (
                "symbol,sector\nAAPL,Tech\nAAPL,Energy\n",
                3,
                Some("symbol"),
                SymbolTwice { found: "\"AAPL\"".to_owned(), first: 2 },
            ),
            (
                "symbol,sector,sector_strength\nA,Tech,inf\n",
                2,
                Some("sector_strength"),
                NotANumber { found: "\"inf\"".to_owned() },
            ),
            (too_long.as_str(), 2, Some("symbol"), BadName { found: quoted(&long), fault }),
        ] {
            assert_eq!(refusal(file), (line, column, problem), "{file}");
        }
        let not_utf8 = parse_reference(b"symbol,sector\nA,\xff\n").unwrap_err();
        assert_eq!(not_utf8.problem, ReferenceProblem::NotUtf8);
    }

    #[test]
    fn lines_are_those_of_an_editor() {
        for file in
            ["symbol,sector\r\nA,x\r\n\r\nB,\r\n", "symbol,sector\nA,x\n\nB,\n", "symbol,sector\n\"A\",\"x\ny\"\nB,"]
        {
            assert_eq!(refusal(file), (4, Some("sector"), ReferenceProblem::Empty), "{file:?}");
        }
        assert_eq!(refusal("symbol,sector\r\nA,x\r\nB\r\n").0, 3);
    }

    #[test]
    fn fault_is_told_with_its_place_and_what_helps() {
        let error = parse_reference(b"symbol,sector\nAAPL,Tech\nAAPL,Tech\n").unwrap_err();
        assert_eq!(error.to_string(), "line 3, column symbol: \"AAPL\" is in line 2 already; remove one of the two");
    }

    #[test]
    fn size_of_a_file_and_number_of_its_rows_are_bounded() {
        let rows = |number: usize| (0..number).map(|number| format!("S{number},Tech\n")).collect::<String>();
        let file = format!("symbol,sector\n{}", rows(MAX_REFERENCES));
        assert_eq!(parse_reference(file.as_bytes()).unwrap().rows.len(), MAX_REFERENCES);
        let file = format!("symbol,sector\n{}", rows(MAX_REFERENCES + 1));
        assert_eq!(refusal(&file), (MAX_REFERENCES as u64 + 2, None, ReferenceProblem::TooManyRows));
        let bytes = MAX_FILE + 1;
        assert_eq!(refusal(&" ".repeat(bytes)), (1, None, ReferenceProblem::TooLarge { bytes }));
    }

    proptest! {
        #[test]
        fn any_file_is_read_or_refused_with_a_short_error(
            rows in prop::collection::vec("[A-B,\" \u{e4}\n]{0,12}", 0..6),
            header in prop::sample::select(vec!["symbol,sector", "symbol,sector,name", "symbol,sectr", "\""]),
        ) {
            let file = format!("{header}\n{}", rows.join("\n"));
            match parse_reference(file.as_bytes()) {
                Ok(read) => prop_assert!(!read.rows.is_empty()),
                Err(error) => prop_assert!(error.to_string().len() < 1_000, "{}", error),
            }
        }

        #[test]
        fn written_rows_are_read_unchanged(
            rows in prop::collection::btree_map("[A-Z^.]{1,8}", "[a-z, \"]{0,9}[a-z]", 1..9),
        ) {
            let mut file = "symbol,sector\n".to_owned();
            for (symbol, sector) in &rows {
                file += &format!("{symbol},\"{}\"\n", sector.replace('"', "\"\""));
            }
            let read = parse_reference(file.as_bytes()).unwrap().rows;
            let read: Vec<_> = read.iter().map(|row| (row.symbol.as_str(), row.entry.sector.as_str())).collect();
            let written: Vec<_> = rows.iter().map(|(symbol, sector)| (symbol.as_str(), sector.trim())).collect();
            prop_assert_eq!(read, written);
        }
    }
}
