//! The figures with their targets, for people and for programs. Targets are information only,
//! because the figures of a single machine prove little.

use std::{
    fs,
    io::{self, Write},
    thread,
};

use serde::Serialize;

/// All figures of one run.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    schema_version: &'static str,
    command: &'static str,
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

    pub(crate) fn target(mut self, target: Target) -> Self {
        let figure = self.ratio.unwrap_or(self.value);
        self.met = Some(match target {
            Target::AtMost(limit) => figure <= limit,
            Target::AtLeast(limit) => figure >= limit,
        });
        self.target = Some(target);
        self
    }
}

impl Report {
    /// Writes the rows as aligned text.
    ///
    /// # Errors
    /// Those of `out`.
    pub(crate) fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Machine {
            cores,
            processor,
            kernel,
            openbao,
        } = &self.machine;
        writeln!(
            out,
            "{} run on {cores} cores of {processor}, Linux {kernel}, OpenBao {openbao}\n",
            self.mode
        )?;
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
        let target = match self.target {
            None => return String::new(),
            Some(Target::AtMost(limit)) => format!("at most {limit}"),
            Some(Target::AtLeast(limit)) => format!("at least {limit}"),
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
fn short(figure: f64) -> String {
    let decimals = match figure.abs() {
        0.0 => 0,
        100.0.. => 0,
        10.0..100.0 => 1,
        _ => 2,
    };
    format!("{figure:.decimals$}")
}
