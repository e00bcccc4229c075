//! Reads the text format of Prometheus, as nodes write it: without times of samples.

/// One sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample<'t> {
    /// The name of the metric with its labels as they are written, such as `drops_total{reason="expired"}`.
    pub series: &'t str,
    /// The value.
    pub value: f64,
}

impl<'t> Sample<'t> {
    /// The name of the metric.
    #[must_use]
    pub fn name(&self) -> &'t str {
        self.series.split_once('{').map_or(self.series, |(name, _)| name)
    }
}

/// The samples of a text, in their order. Lines that are no sample are left out.
pub fn samples(text: &str) -> impl Iterator<Item = Sample<'_>> {
    text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        // The value of a label may have spaces.
        let (series, value) = line.rsplit_once(' ')?;
        Some(Sample { series, value: value.parse().ok()? })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_with_their_labels_and_other_lines_are_left_out() {
        let text = "HTTP/1.1 200 OK\r\n\r\n# HELP a 1 x 2\n# TYPE a counter\n\
                    a{r=\"x {y}\",s=\"z\"} 2\n\nb 0.5\na{r=\"x}\"} 3e2\n";
        let found: Vec<_> = samples(text).map(|sample| (sample.name(), sample.series, sample.value)).collect();
        let expected = [("a", r#"a{r="x {y}",s="z"}"#, 2.0), ("b", "b", 0.5), ("a", r#"a{r="x}"}"#, 300.0)];
        assert_eq!(found, expected);
    }
}
