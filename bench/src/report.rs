//! Prints a bench: the medians of its runs as a table, or everything as JSON.

use serde::Serialize;
use std::fmt::{self, Write};
use std::fs;

use super::draw::SymbolsBy;
use super::figures::{Figures, Percentiles};
use super::scenario::{Placing, Plan};
use super::through::Through;

/// The result of an earlier measurement of a bare server, in CPU seconds per million deliveries at 5,000 sockets that
/// get 20 events a second each. The bare server here is to be compared with it.
const REFERENCE: f64 = 5.9;
const REFERENCE_LOAD: (u32, f64) = (5_000, 100_000.0);

/// A bench with its runs.
#[derive(Debug, Serialize)]
pub(crate) struct BenchReport {
    pub(crate) scenario: &'static str,
    pub(crate) through: Through,
    pub(crate) rate: f64,
    pub(crate) window_ms: u16,
    pub(crate) seconds: f64,
    pub(crate) gateways: u32,
    pub(crate) placing: Placing,
    pub(crate) symbols_by: SymbolsBy,
    /// Whether the routers had reference data of all symbols.
    pub(crate) enriched: bool,
    pub(crate) machine: Machine,
    /// The runs, in their order.
    pub(crate) runs: Vec<Figures>,
    /// The processor time per delivery by that of the run beside it, for each pair.
    pub(crate) cpu_ratios: Vec<f64>,
    /// Their median.
    pub(crate) cpu_ratio: Option<f64>,
    /// What the bare server's CPU per million deliveries is to be compared with, at 5,000 sockets x 20 events/s.
    pub(crate) bare_reference: f64,
    /// Why the bench does not count, if it does not.
    pub(crate) faults: Vec<String>,
}

/// The machine that it ran on.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
    /// Whether server and generator had processors of their own.
    pub(crate) apart: bool,
    pub(crate) build: &'static str,
    pub(crate) date: String,
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processor, cores, kernel, apart, build, date } = self;
        write!(f, "{processor}, {cores} cores, Linux {kernel}, {build} build, {date}")?;
        if *apart { Ok(()) } else { f.write_str("\nserver and generator share one processor: the figures mean little") }
    }
}

impl Machine {
    /// This machine.
    pub(crate) fn here(cores: usize, apart: bool) -> Self {
        let information = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = information.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            processor: model.map_or("unknown", |(_, model)| model).trim().to_owned(),
            cores,
            kernel: kernel.trim().to_owned(),
            apart,
            build: if cfg!(debug_assertions) { "debug" } else { "release" },
            date: jiff::Timestamp::now().strftime("%Y-%m-%d").to_string(),
        }
    }
}

impl BenchReport {
    /// Puts runs together. If the bench compares, every run has the run of the other server right before it.
    pub(crate) fn new(plan: &Plan, through: Through, against: bool, machine: Machine, runs: Vec<Figures>) -> Self {
        let pairs = runs.chunks_exact(2).filter(|_| against);
        let cpu_ratios: Vec<f64> =
            pairs.filter_map(|pair| Some(pair[1].cpu_per_million? / pair[0].cpu_per_million?)).collect();
        let faults = (1..).zip(&runs).filter_map(|(number, run): (u32, &Figures)| {
            run.fault().map(|fault| format!("run {number} ({}): {fault}", run.through.name()))
        });
        Self {
            scenario: plan.scenario.name(),
            through,
            rate: plan.rate,
            window_ms: plan.window_ms,
            seconds: plan.measured.as_secs_f64(),
            gateways: plan.gateways,
            placing: plan.placing,
            symbols_by: plan.draw.symbols_by,
            enriched: plan.enrich,
            bare_reference: REFERENCE,
            machine,
            cpu_ratio: median(cpu_ratios.iter().copied()),
            cpu_ratios,
            faults: faults.collect(),
            runs,
        }
    }

    /// Everything, for programs.
    pub(crate) fn json(&self) -> Result<String, serde_json::Error> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// The medians, for people.
    pub(crate) fn table(&self) -> String {
        let mut text = format!(
            "{} at {} events/s, window {} ms, {} s measured\n{}\n",
            self.scenario, self.rate, self.window_ms, self.seconds, self.machine
        );
        let mut columns: Vec<(Through, Vec<&Figures>)> = Vec::new();
        for run in &self.runs {
            match columns.iter_mut().find(|(through, _)| *through == run.through) {
                Some((_, runs)) => runs.push(run),
                None => columns.push((run.through, vec![run])),
            }
        }
        let mut line = |name: &str, cells: Vec<String>| {
            // Writing to a text does not fail.
            writeln!(text, "{name:<32}{}", cells.iter().map(|cell| format!("{cell:>14}")).collect::<String>()).ok();
        };
        line("", columns.iter().map(|(through, _)| through.name().to_owned()).collect());
        for (name, digits, figure) in ROWS {
            let cells: Vec<Option<f64>> =
                columns.iter().map(|(_, runs)| median(runs.iter().filter_map(|run| figure(run)))).collect();
            if cells.iter().any(Option::is_some) {
                let cell = |cell: Option<f64>| cell.map_or("-".to_owned(), |cell| format!("{cell:.digits$}"));
                line(name, cells.into_iter().map(cell).collect());
            }
        }
        self.write_intakes(&mut text);
        self.write_ratios(&mut text);
        for fault in &self.faults {
            text += &format!("DOES NOT COUNT: {fault}\n");
        }
        text
    }

    /// What came to each of several gateways, where the mean alone would hide that they differ.
    fn write_intakes(&self, text: &mut String) {
        if self.gateways > 1 {
            let of = |at: usize| median(self.runs.iter().filter_map(|run| run.intake_per_second.get(at).copied()));
            let each: Vec<String> = (0..).map_while(of).map(|events| format!("{events:.0}")).collect();
            *text += &format!("events/s into each gateway: {}\n", each.join(", "));
        }
    }

    fn write_ratios(&self, text: &mut String) {
        if let Some(ratio) = self.cpu_ratio {
            let pairs: Vec<String> = self.cpu_ratios.iter().map(|ratio| format!("{ratio:.3}")).collect();
            *text += &format!(
                "CPU per delivery, {} by bare: {ratio:.3} (median of {})\n",
                self.through.name(),
                pairs.join(", ")
            );
        }
        let bare: Vec<&Figures> = self.runs.iter().filter(|run| run.through == Through::Bare).collect();
        let cost = median(bare.iter().filter_map(|run| run.cpu_per_million));
        let rate = median(bare.iter().map(|run| run.deliveries_per_second));
        if let (Some(cost), Some(rate)) = (cost, rate) {
            let (sockets, deliveries) = REFERENCE_LOAD;
            let same = bare.iter().all(|run| run.sockets == sockets) && (rate / deliveries - 1.0).abs() < 0.05;
            let deviation = if same {
                format!(": {:+.0} %", (cost / REFERENCE - 1.0) * 100.0)
            } else {
                ", another load than this".to_owned()
            };
            *text += &format!(
                "bare: {cost:.2} CPU s per million; reference {REFERENCE} at 5000 sockets x 20 events/s{deviation}\n"
            );
        }
    }
}

type ReportRow = (&'static str, usize, fn(&Figures) -> Option<f64>);

/// The rows of the table: name, decimals, and where the number is.
const ROWS: [ReportRow; 33] = [
    ("sockets", 0, |run| Some(f64::from(run.sockets))),
    ("connects/s", 0, |run| Some(run.connects_per_second)),
    ("events published", 0, |run| Some(run.published as f64)),
    ("deliveries/s", 0, |run| Some(run.deliveries_per_second)),
    ("deliveries expected", 0, |run| Some(run.expected as f64)),
    ("  lost", 0, |run| Some(run.lost as f64)),
    ("  too many", 0, |run| Some(run.extra as f64)),
    ("  dropped, by gateway metrics", 0, |run| Some(run.dropped as f64)),
    ("latency p50 (ms)", 3, |run| run.latency_ms.map(|latency| latency.p50)),
    ("latency p99", 3, |run| run.latency_ms.map(|latency| latency.p99)),
    ("latency p99.9", 3, |run| run.latency_ms.map(|latency| latency.p999)),
    ("latency max", 3, |run| run.latency_ms.map(|latency| latency.max)),
    ("critical events, p99", 3, |run| run.critical_latency_ms.map(|latency| latency.p99)),
    ("latest event sent late by", 3, |run| run.latency_ms.map(|_: Percentiles| run.sent_late_ms)),
    ("CPU s per million deliveries", 3, |run| run.cpu_per_million),
    ("events/s into a gateway, mean", 0, |run| run.intake_mean),
    ("route cache, hits (%)", 1, |run| run.route_cache?.hit_percent()),
    ("  decisions in it", 0, |run| run.route_cache.map(|cache| cache.entries as f64)),
    ("  removed to make room", 0, |run| run.route_cache.map(|cache| cache.evictions as f64)),
    ("router busy (of one core)", 2, |run| busy(run, "router")),
    ("server busy", 2, |run| busy(run, run.through.under_test())),
    ("generator busy", 2, |run| busy(run, "generator")),
    ("RSS per socket (bytes)", 0, |run| Some(run.rss_per_socket)),
    ("bytes per event", 1, |run| run.bytes_per_event),
    ("frames per delivery", 4, |run| run.frames_per_delivery),
    ("sends per delivery", 4, |run| run.sends_per_delivery),
    ("clients that came and went", 0, |run| (run.churned > 0).then_some(run.churned as f64)),
    ("stalled readers", 0, |run| run.slow.map(|slow| slow.stalled as f64)),
    ("  got a notice or close code", 0, |run| run.slow.map(|slow| slow.notified as f64)),
    ("  closed, the code unread", 0, |run| run.slow.map(|slow| slow.closed_unread as f64)),
    ("  server's memory grew by (KB)", 0, |run| run.slow.map(|slow| slow.rss_growth as f64 / 1e3)),
    ("  p99 of the others before", 3, |run| run.slow?.before.map(|before| before.p99)),
    ("  p99 of the others, ratio", 3, |run| run.slow?.p99_ratio),
];

fn busy(run: &Figures, process: &str) -> Option<f64> {
    run.cpu_seconds.get(process).map(|cpu| cpu / run.seconds)
}

/// The middle one, or the mean of the two in the middle.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = *values.get((values.len() - 1) / 2)?;
    Some(lower.midpoint(upper))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::tests::figures;
    use crate::scenario::{Numbers, Scenario};

    fn report(runs: Vec<Figures>) -> BenchReport {
        let plan = Plan::new(Scenario::Selective, Numbers { gateways: 2, ..Numbers::small(400, 10.0) });
        BenchReport::new(&plan, Through::Gateway, true, Machine::here(2, true), runs)
    }

    fn bare(cpu_ms: u64) -> Figures {
        let mut figures = figures(Scenario::Selective, &[], cpu_ms);
        figures.through = Through::Bare;
        figures
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), Some(2.5));
        assert_eq!(median(std::iter::empty()), None);
    }

    #[test]
    fn ratios_are_those_of_pairs_and_not_of_medians() {
        let gateway = |cpu_ms| figures(Scenario::Selective, &[], cpu_ms);
        let report =
            report(vec![bare(1_000), gateway(2_000), bare(2_000), gateway(2_200), bare(4_000), gateway(4_800)]);
        let rounded: Vec<f64> = report.cpu_ratios.iter().map(|ratio| (ratio * 100.0).round() / 100.0).collect();
        assert_eq!((rounded, report.cpu_ratio), (vec![2.0, 1.1, 1.2], Some(report.cpu_ratios[2])));
        let table = report.table();
        assert!(table.contains("gateway by bare: 1.200 (median of 2.000, 1.100, 1.200)"), "{table}");
        assert!(table.contains("events/s into each gateway: 1000, 500\n"), "{table}");
        assert!(report.faults.is_empty());
    }

    #[test]
    fn faults_name_the_run() {
        let report = report(vec![bare(1_000), figures(Scenario::Selective, &[5], 1_000)]);
        assert_eq!(report.faults.len(), 1);
        assert!(report.faults[0].starts_with("run 2 (gateway): 1 deliveries are lost"), "{:?}", report.faults);
        assert!(report.table().contains("DOES NOT COUNT: run 2"));
        let json: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        assert_eq!((&json["runs"][1]["lost"], &json["scenario"]), (&1.into(), &"selective".into()));
    }
}
