//! Parses the CSV files of bars: the first step of the flow.
//!
//! The rows are valid: prices are finite and positive, open and close are between low and high, rows are in time order,
//! and a symbol has one bar at an instant. The detectors rely on that without another check.

use std::collections::BTreeSet;
use std::str::FromStr;

use csv::StringRecord;
use jiff::civil::{Date, DateTime};
use thiserror::Error;

use crate::bars::{Bar, BarTime, Row};

const DAILY_HEADER: [&str; 7] = ["date", "symbol", "open", "high", "low", "close", "volume"];
const MINUTE_HEADER: [&str; 7] = ["time_new_york", "symbol", "open", "high", "low", "close", "volume"];

/// Why a file of bars was refused, and where.
#[derive(Debug, Error)]
pub enum BarsError {
    /// The first line has other columns than the two known layouts.
    #[error(
        "{file}, line 1: unknown columns `{found}`; use `date,symbol,open,high,low,close,volume` for daily bars or \
         `time_new_york,symbol,open,high,low,close,volume` for one-minute bars"
    )]
    Header {
        /// The file's name.
        file: String,
        /// The header as found.
        found: String,
    },
    /// The line is not a CSV row of seven fields.
    #[error("{file}, line {line}: not a row of seven comma-separated fields: {source}")]
    Row {
        /// The file's name.
        file: String,
        /// The line, counted from 1.
        line: u64,
        /// The error of the CSV reader.
        source: csv::Error,
    },
    /// A field is invalid.
    #[error("{file}, line {line}: {column} is `{value}`, but must be {expected}")]
    Field {
        /// The file's name.
        file: String,
        /// The line, counted from 1.
        line: u64,
        /// The column's name.
        column: &'static str,
        /// The field as found.
        value: String,
        /// The expected value.
        expected: &'static str,
    },
    /// Open or close is not between low and high.
    #[error("{file}, line {line}: open and close must be between low and high")]
    OutsideRange {
        /// The file's name.
        file: String,
        /// The line, counted from 1.
        line: u64,
    },
    /// The row is older than the one before it.
    #[error("{file}, line {line}: older than the line before it; sort the file by time")]
    OutOfOrder {
        /// The file's name.
        file: String,
        /// The line, counted from 1.
        line: u64,
    },
    /// The symbol already has a bar at this time.
    #[error("{file}, line {line}: {symbol} already has a bar at this time; remove one of the two")]
    Duplicate {
        /// The file's name.
        file: String,
        /// The line, counted from 1.
        line: u64,
        /// The symbol.
        symbol: String,
    },
    /// There are no rows after the header.
    #[error("{file}: no bars; add at least one row below the header")]
    Empty {
        /// The file's name.
        file: String,
    },
}

/// Parses the CSV `text` of the file called `file`. The name is only used in messages. The name of the first column
/// decides between daily and one-minute bars.
pub fn parse(file: &str, text: &str) -> Result<Vec<Row>, BarsError> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header = reader.headers().map_err(|source| row_error(file, source))?;
    let time: fn(&str) -> Option<BarTime> = if header == DAILY_HEADER[..] {
        |text| BarTime::day(Date::strptime("%Y-%m-%d", text).ok()?).ok()
    } else if header == MINUTE_HEADER[..] {
        |text| BarTime::minute(DateTime::strptime("%Y-%m-%dT%H:%M:%S", text).ok()?).ok()
    } else {
        let found = header.iter().collect::<Vec<_>>().join(",");
        return Err(BarsError::Header { file: file.to_owned(), found });
    };
    let mut rows: Vec<Row> = Vec::new();
    let mut present = BTreeSet::new();
    for record in reader.records() {
        let record = record.map_err(|source| row_error(file, source))?;
        let line = record.position().map_or(0, csv::Position::line);
        let row = Fields { file, line, record: &record }.row(time)?;
        if let Some(last) = rows.last() {
            if row.time < last.time {
                return Err(BarsError::OutOfOrder { file: file.to_owned(), line });
            }
            if row.time > last.time {
                present.clear();
            }
        }
        if !present.insert(row.symbol.clone()) {
            return Err(BarsError::Duplicate { file: file.to_owned(), line, symbol: row.symbol });
        }
        rows.push(row);
    }
    if rows.is_empty() {
        return Err(BarsError::Empty { file: file.to_owned() });
    }
    Ok(rows)
}

fn row_error(file: &str, source: csv::Error) -> BarsError {
    let line = source.position().map_or(1, csv::Position::line);
    BarsError::Row { file: file.to_owned(), line, source }
}

/// One record with its file and line, for errors.
struct Fields<'a> {
    file: &'a str,
    line: u64,
    record: &'a StringRecord,
}

impl Fields<'_> {
    fn row(&self, time: fn(&str) -> Option<BarTime>) -> Result<Row, BarsError> {
        let expected = "a day like 2010-01-04 or a New York time like 2019-11-05T09:30:00, as in the header";
        let time = self.read(0, "time", expected, time)?;
        let symbol = self.read(1, "symbol", "a ticker of 1 to 32 characters", |text| {
            (1..=32).contains(&text.chars().count()).then(|| text.to_owned())
        })?;
        let bar = Bar {
            open: self.price(2, "open")?,
            high: self.price(3, "high")?,
            low: self.price(4, "low")?,
            close: self.price(5, "close")?,
            volume: self.read(6, "volume", "a whole number, 0 or more", |text| u64::from_str(text).ok())?,
        };
        let inside = |price: f64| bar.low <= price && price <= bar.high;
        if !(inside(bar.open) && inside(bar.close)) {
            return Err(BarsError::OutsideRange { file: self.file.to_owned(), line: self.line });
        }
        Ok(Row { time, symbol, bar })
    }

    fn price(&self, index: usize, column: &'static str) -> Result<f64, BarsError> {
        self.read(index, column, "a price above 0", |text| {
            f64::from_str(text).ok().filter(|price| price.is_finite() && *price > 0.0)
        })
    }

    fn read<T>(
        &self,
        index: usize,
        column: &'static str,
        expected: &'static str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<T, BarsError> {
        let text = self.record.get(index).unwrap_or_default();
        read(text).ok_or_else(|| BarsError::Field {
            file: self.file.to_owned(),
            line: self.line,
            column,
            value: text.to_owned(),
            expected,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "2010-01-04,AAPL,30.49,30.64,30.34,30.57,123432400";

    fn daily(lines: &[&str]) -> Result<Vec<Row>, BarsError> {
        parse("daily.csv", &format!("{}\n{}\n", DAILY_HEADER.join(","), lines.join("\n")))
    }

    #[test]
    fn reads_both_layouts() {
        let rows = daily(&[GOOD, "2010-01-04,SPY,112,114,111,113,5"]).unwrap();
        assert_eq!(rows[0].time.to_string(), "2010-01-04");
        assert_eq!(rows[0].bar, Bar { open: 30.49, high: 30.64, low: 30.34, close: 30.57, volume: 123_432_400 });
        assert_eq!(rows[1].symbol, "SPY");

        let text = format!("{}\n2019-11-05T09:31:00,SPX,3080,3081,3079,3080,0\n", MINUTE_HEADER.join(","));
        let minute = parse("intraday.csv", &text).unwrap()[0].time;
        assert_eq!(minute.to_string(), "2019-11-05T09:31:00-05:00");
        assert!(rows[0].time < minute);
    }

    #[test]
    fn bad_field_is_reported_with_its_file_and_line() {
        for (bad, column) in [
            ("04/01/2010,AAPL,1,1,1,1,1", "time"),
            ("2010-01-04T09:30:00,X,1,1,1,1,1", "time"),
            ("2010-01-04,,1,1,1,1,1", "symbol"),
            ("2010-01-04,X,NaN,1,1,1,1", "open"),
            ("2010-01-04,X,1,inf,1,1,1", "high"),
            ("2010-01-04,X,1,1,-1,1,1", "low"),
            ("2010-01-04,X,1,1,1,,1", "close"),
            ("2010-01-04,X,1,1,1,1,1.5", "volume"),
        ] {
            let error = daily(&[GOOD, bad]).unwrap_err();
            assert!(error.to_string().starts_with("daily.csv, line 3: "), "{error}");
            assert!(matches!(error, BarsError::Field { line: 3, column: c, .. } if c == column), "{bad}");
        }
    }

    #[test]
    fn bad_row_is_reported_with_its_file_and_line() {
        let error = daily(&[GOOD, "2010-01-05,AAPL,1,2"]).unwrap_err();
        assert!(matches!(&error, BarsError::Row { line: 3, .. }), "{error}");
        let error = daily(&[GOOD, "2010-01-05,AAPL,1,2,1,3,1"]).unwrap_err();
        assert!(matches!(&error, BarsError::OutsideRange { line: 3, .. }), "{error}");
        let error = daily(&[GOOD, "2010-01-03,AAPL,1,1,1,1,1"]).unwrap_err();
        assert!(matches!(&error, BarsError::OutOfOrder { line: 3, .. }), "{error}");
        let error = daily(&[GOOD, GOOD]).unwrap_err();
        assert!(matches!(&error, BarsError::Duplicate { line: 3, .. }), "{error}");
    }

    #[test]
    fn file_with_unknown_columns_or_without_rows_is_refused() {
        assert!(matches!(parse("x.csv", "a,b\n1,2\n"), Err(BarsError::Header { .. })));
        assert!(matches!(parse("x.csv", ""), Err(BarsError::Header { .. })));
        assert!(matches!(daily(&[]), Err(BarsError::Empty { .. })));
    }
}
