//! The figures with their targets, for people and for programs. Targets are information only,
//! because the figures of a single machine prove little.

use std::{
    fmt::{self, Display, Formatter},
    fs,
    io::{self, Write},
    thread,
};

use serde::Serialize;

use crate::load::{Sample, median};

/// All figures of one run.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    schema_version: &'static str,
    command: &'static str,
    /// RFC 3339, with seconds.
    time: String,
    mode: &'static str,
    machine: Machine,
    rows: Vec<Row>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Machine {
    cores: usize,
    processor: String,
    kernel: String,
    openbao: String,
}

/// One figure.
#[derive(Serialize)]
pub(crate) struct Row {
    name: String,
    value: f64,
    unit: &'static str,
    /// The same figure without the provider, or another figure for comparison.
    #[serde(skip_serializing_if = "Option::is_none")]
    direct: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<Target>,
    #[serde(skip_serializing_if = "Option::is_none")]
    met: Option<bool>,
}

/// Target of a row's ratio, or of its value without a ratio.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Target {
    AtMost(f64),
    AtLeast(f64),
}

impl Report {
    pub(crate) fn new(mode: &'static str, openbao: String) -> Self {
        let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = cpus
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or("unknown", |(_, name)| name);
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            schema_version: "v1",
            command: "bench",
            time: jiff::Timestamp::now()
                .strftime("%Y-%m-%dT%H:%M:%SZ")
                .to_string(),
            mode,
            machine: Machine {
                cores: thread::available_parallelism().map_or(1, usize::from),
                processor: processor.to_owned(),
                kernel: kernel.trim().to_owned(),
                openbao,
            },
            rows: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, row: Row) {
        self.rows.push(row);
    }

    pub(crate) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Extent of the run, and the machine.
    pub(crate) fn title(&self) -> String {
        let Machine {
            cores,
            processor,
            kernel,
            openbao,
        } = &self.machine;
        let mode = self.mode;
        format!("{mode} run on {cores} cores of {processor}, Linux {kernel}, OpenBao {openbao}")
    }

    /// Value of an earlier row.
    pub(crate) fn value(&self, name: &str) -> Option<f64> {
        let row = self.rows.iter().find(|row| row.name == name)?;
        Some(row.value)
    }

    /// Value and comparison of an earlier row.
    pub(crate) fn figures(&self, name: &str) -> Option<(f64, f64)> {
        let row = self.rows.iter().find(|row| row.name == name)?;
        Some((row.value, row.direct?))
    }
}

impl Row {
    pub(crate) fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self {
            name: name.into(),
            value,
            unit,
            direct: None,
            ratio: None,
            target: None,
            met: None,
        }
    }

    /// Adds the same figure without the provider, and the ratio of both: the median of the ratios
    /// per round.
    pub(crate) fn beside(mut self, direct: f64, ratio: f64) -> Self {
        self.direct = Some(direct);
        self.ratio = Some(ratio);
        self
    }

    /// The medians of a figure on both sides, and the median of the ratios of each round.
    pub(crate) fn of(
        name: impl Into<String>,
        unit: &'static str,
        rounds: &[(Sample, Sample)],
        figure: impl Fn(&Sample) -> f64,
    ) -> Self {
        let value = median(rounds.iter().map(|(one, _)| figure(one)));
        let other = median(rounds.iter().map(|(_, other)| figure(other)));
        let ratios = rounds
            .iter()
            .map(|(one, other)| figure(one) / figure(other));
        Self::new(name, value, unit).beside(other, median(ratios))
    }

    pub(crate) fn target(mut self, target: Target) -> Self {
        let figure = self.ratio.unwrap_or(self.value);
        self.met = Some(target.allows(figure));
        self.target = Some(target);
        self
    }

    pub(crate) fn name_and_unit(&self) -> (&str, &'static str) {
        (&self.name, self.unit)
    }

    pub(crate) fn value(&self) -> f64 {
        self.value
    }

    /// The compared figure.
    pub(crate) fn other(&self) -> Option<f64> {
        self.direct
    }

    /// The ratio, or a count: independent of the machine's speed.
    pub(crate) fn comparable(&self) -> Option<f64> {
        self.ratio
            .or_else(|| self.unit.is_empty().then_some(self.value))
    }
}

impl Target {
    pub(crate) fn allows(self, figure: f64) -> bool {
        match self {
            Self::AtMost(limit) => figure <= limit,
            Self::AtLeast(limit) => figure >= limit,
        }
    }
}

impl Display for Target {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(limit) => write!(f, "at most {limit}"),
            Self::AtLeast(limit) => write!(f, "at least {limit}"),
        }
    }
}

impl Report {
    /// Writes the rows as aligned text.
    ///
    /// # Errors
    /// Those of `out`.
    pub(crate) fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}\n", self.title())?;
        let head = ("", "provider", "", "direct", "ratio", "target");
        let (name, value, unit, direct, ratio, target) = head;
        writeln!(
            out,
            "{name:30} {value:>9} {unit:7} {direct:>9} {ratio:>6}  {target}"
        )?;
        for row in &self.rows {
            let name = &row.name;
            let value = short(row.value);
            let unit = row.unit;
            let direct = row.direct.map(short).unwrap_or_default();
            let ratio = row.ratio.map(short).unwrap_or_default();
            let target = row.verdict();
            let line = format!("{name:30} {value:>9} {unit:7} {direct:>9} {ratio:>6}  {target}");
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

impl Row {
    fn verdict(&self) -> String {
        let Some(target) = self.target else {
            return String::new();
        };
        let of = if self.ratio.is_some() { " x" } else { "" };
        let met = match self.met {
            Some(true) => "met",
            Some(false) | None => "NOT met",
        };
        format!("{target}{of}: {met}")
    }
}

/// Three significant digits.
pub(crate) fn short(figure: f64) -> String {
    let decimals = match figure.abs() {
        0.0 => 0,
        100.0.. => 0,
        10.0..100.0 => 1,
        _ => 2,
    };
    format!("{figure:.decimals$}")
}
