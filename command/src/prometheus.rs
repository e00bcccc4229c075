//! Reads the text format of Prometheus, in which the admin server of a node answers `/metrics`. Nodes write no times of
//! samples.

/// One sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample<'t> {
    /// The name of the metric.
    pub name: &'t str,
    /// The labels as they are written, such as `reason="expired",kind="alert"`; empty if there are none.
    pub labels: &'t str,
    /// The value.
    pub value: f64,
}

/// The samples of a text, in their order. Lines that are no sample are left out.
pub fn samples(text: &str) -> impl Iterator<Item = Sample<'_>> {
    text.lines().filter(|line| !line.starts_with('#')).filter_map(sample)
}

/// A value of a label may have spaces and braces.
fn sample(line: &str) -> Option<Sample<'_>> {
    let (series, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    Some(Sample { name, labels: labels.strip_suffix('}').unwrap_or(labels), value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_with_their_labels_and_other_lines_are_left_out() {
        let text = "HTTP/1.1 200 OK\r\n\r\n# HELP a 1 x 2\n# TYPE a counter\n\
                    a{r=\"x {y}\",s=\"z\"} 2\n\nb 0.5\na{r=\"x}\"} 3e2\n";
        let expected = [("a", r#"r="x {y}",s="z""#, 2.0), ("b", "", 0.5), ("a", r#"r="x}""#, 300.0)];
        let expected = expected.map(|(name, labels, value)| Sample { name, labels, value });
        assert_eq!(samples(text).collect::<Vec<_>>(), expected);
    }
}
