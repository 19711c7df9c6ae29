//! Overhead of the provider compared with OpenBao's own time, as ratios of two measurements taken
//! in turns in one run. `docs/performance.md` describes method and results.
//!
//! Started by `cargo xtask bench`, which builds the measured program.

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot go on has no figures"
)]

mod backups;
mod batcher;
mod budget;
#[path = "../../tests/openbao/bulk.rs"]
mod bulk;
mod chart;
mod direct;
mod distance;
mod figures;
mod growth;
mod large;
mod live;
mod load;
mod peer;
mod provider_process;
mod relay;
mod report;
mod stage;

use std::{
    ffi::OsString,
    fs::File,
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::Parser;
use kms_node::report::Output;

use crate::{budget::Budget, load::Block, peer::Peer, report::Report, stage::Stage};

/// Environment variable with the path of the measured program.
const PROGRAM: &str = "BAO_KMS_PROVIDER_BIN";

/// Measure the provider against direct Transit calls
#[derive(Parser)]
struct Options {
    /// Measure each thing fewer times; a few minutes
    #[arg(long)]
    quick: bool,
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    /// Another KMS v2 plugin to measure in turns: its socket, or a program to start
    #[arg(long, value_name = "PATH")]
    peer: Option<PathBuf>,
    /// Measure these parts alone
    #[arg(long, value_enum, value_name = "PART", value_delimiter = ',')]
    only: Vec<Part>,
    /// Append the report to this file, as a line of JSON
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// Write a chart of all comparisons to this file, as SVG
    #[arg(long, value_name = "FILE")]
    chart: Option<PathBuf>,
    /// Fail if a ratio or count exceeds its limit in this JSON file
    #[arg(long, value_name = "FILE")]
    budget: Option<PathBuf>,
    /// Measure only the commands on a snapshot of etcd with this number of objects of this size, for
    /// example 100000x31; fails beyond the limit of their memory
    #[arg(long, value_name = "OBJECTSxBYTES", conflicts_with_all = ["quick", "only", "peer", "budget"])]
    file: Option<large::Size>,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

/// A group of rows.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Start,
    Memory,
    Status,
    /// One call in flight
    Alone,
    /// 64 calls in flight
    Crowd,
    Files,
    Live,
    /// Many versions of the key, many calls
    Growth,
    Distance,
}

/// Extent of the measurements. Each part ends at a number of calls or a time limit.
struct Extent {
    mode: &'static str,
    /// Between two readings of the resident memory.
    decrypts: Block,
    /// Number of rounds for each kind of call.
    rounds: usize,
    alone: Block,
    crowded: Block,
    saturated: Duration,
    starts: usize,
    backups: backups::Extent,
    live: live::Extent,
    growth: growth::Extent,
    distance: distance::Extent,
}

const QUICK: Extent = Extent {
    mode: "quick",
    decrypts: Block::new(10_000, Duration::from_secs(15)),
    rounds: 8,
    alone: Block::new(200, Duration::from_millis(500)),
    crowded: Block::new(1_000, Duration::from_millis(600)),
    saturated: Duration::from_secs(4),
    starts: 5,
    backups: backups::Extent::QUICK,
    live: live::Extent::QUICK,
    growth: growth::Extent::QUICK,
    distance: distance::Extent::QUICK,
};

const FULL: Extent = Extent {
    mode: "full",
    decrypts: Block::new(100_000, Duration::from_secs(100)),
    rounds: 30,
    alone: Block::new(300, Duration::from_millis(600)),
    crowded: Block::new(2_000, Duration::from_millis(800)),
    saturated: Duration::from_secs(15),
    starts: 11,
    backups: backups::Extent::FULL,
    live: live::Extent::FULL,
    growth: growth::Extent::FULL,
    distance: distance::Extent::FULL,
};

fn main() -> ExitCode {
    let options = Options::parse();
    let Some(program) = std::env::var_os(PROGRAM) else {
        let unset =
            format!("{PROGRAM} does not name a program to measure; run `cargo xtask bench`");
        return failed(&unset, 2);
    };

    let budget = match options.budget.as_deref().map(Budget::read).transpose() {
        Ok(budget) => budget,
        Err(unusable) => return failed(&unusable, 2),
    };
    let extent = if options.quick { QUICK } else { FULL };
    // A single thread, as in the provider, so that both sides of a ratio have the same client.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();

    let finished = runtime.block_on(async {
        let measured = async {
            match options.file {
                Some(size) => measure_file(program, size).await,
                None => measure(program, &extent, &options).await,
            }
        };
        tokio::select! {
            report = measured => Some(report),
            // Dropping the measurement stops the servers and removes their files.
            _ = tokio::signal::ctrl_c() => None,
        }
    });

    let Some(report) = finished else {
        return ExitCode::from(130);
    };
    // A closed pipe is the reader's decision.
    let mut out = io::stdout().lock();
    let written = match options.output {
        Output::Text => report.text(&mut out),
        Output::Yaml => serde_saphyr::to_string(&report)
            .map_err(io::Error::other)
            .and_then(|text| out.write_all(text.as_bytes())),
        Output::Json => serde_json::to_writer_pretty(&mut out, &report)
            .map_err(io::Error::from)
            .and_then(|()| writeln!(out)),
    };
    drop(written);
    if let Err(error) = keep(&report, &options) {
        return failed(&format!("the report was not kept: {error}"), 1);
    }
    let exceeded = match options.file {
        Some(_) => large::exceeded(&report),
        None => budget.map_or_else(Vec::new, |budget| budget.exceeded(&report)),
    };
    match exceeded {
        lines if lines.is_empty() => ExitCode::SUCCESS,
        lines => failed(&format!("beyond the budget:\n{}", lines.join("\n")), 1),
    }
}

fn failed(why: &str, code: u8) -> ExitCode {
    drop(writeln!(io::stderr(), "error: {why}"));
    ExitCode::from(code)
}

/// Writes history and chart.
fn keep(report: &Report, options: &Options) -> io::Result<()> {
    if let Some(path) = &options.history {
        let mut file = File::options().create(true).append(true).open(path)?;
        let line = serde_json::to_string(report)?;
        writeln!(file, "{line}")?;
    }
    if let Some(path) = &options.chart {
        File::create(path)?.write_all(chart::svg(report).as_bytes())?;
    }
    Ok(())
}

async fn measure(program: OsString, extent: &Extent, options: &Options) -> Report {
    let progress = Progress::new();
    let measured = |part| options.only.is_empty() || options.only.contains(&part);
    progress.say("starting OpenBao");
    let stage = Stage::set(PathBuf::from(program)).await;
    let peer = match options.peer.as_deref() {
        Some(path) => Some(Peer::start(path, &stage).await),
        None => None,
    };
    let mut report = Report::new(extent.mode, stage.openbao_version().await);
    if measured(Part::Start) {
        progress.say("starts");
        figures::starts(&stage, extent, &mut report).await;
    }

    let provider = stage.provider().await;
    figures::program(&stage, &provider, &mut report);
    let idle = provider.memory();
    let calls = figures::Calls::prepare(&stage, &provider, stage.server.endpoint()).await;
    if measured(Part::Memory) {
        progress.say("memory");
        figures::memory(&provider, &calls, idle, extent, &mut report).await;
    }
    if measured(Part::Status) {
        progress.say("Status");
        figures::status(&provider, &calls, extent, &mut report).await;
    }
    if measured(Part::Alone) {
        figures::in_turns(&calls, 1, extent, &progress, &mut report).await;
        figures::limits(&mut report);
    }
    if measured(Part::Crowd) {
        figures::in_turns(&calls, 64, extent, &progress, &mut report).await;
        figures::batches(&stage, &provider, &calls, extent, &progress, &mut report).await;
        figures::equal_decrypts(&provider, &calls, &mut report).await;
        figures::bad_neighbour(&provider, &mut report).await;
    }
    if let Some(peer) = &peer {
        peer::measure(peer, &provider, extent, &progress, &mut report).await;
    }
    if measured(Part::Files) {
        backups::read(&stage, &provider, &extent.backups, &progress, &mut report).await;
        backups::memory(&stage, &provider, &extent.backups, &progress, &mut report).await;
    }
    if measured(Part::Live) {
        live::read(&stage, &provider, &extent.live, &progress, &mut report).await;
    }
    if measured(Part::Growth) {
        growth::statuses(&provider, &calls, &extent.growth, &progress, &mut report).await;
        growth::versions(&stage, &extent.growth, &progress, &mut report).await;
    }
    provider.stop().await;
    if measured(Part::Distance) {
        distance::measure(&stage, &extent.distance, &progress, &mut report).await;
    }
    progress.say("done");
    report
}

/// The commands on one snapshot.
async fn measure_file(program: OsString, size: large::Size) -> Report {
    let progress = Progress::new();
    progress.say("starting OpenBao");
    let stage = Stage::set(PathBuf::from(program)).await;
    let mut report = Report::new("file", stage.openbao_version().await);
    let provider = stage.provider().await;
    large::read_new(&stage, &provider, size, &progress, &mut report).await;
    provider.stop().await;
    progress.say("done");
    report
}

/// A line on the terminal, replaced at each step.
struct Progress(bool);

impl Progress {
    fn new() -> Self {
        Self(io::stderr().is_terminal())
    }

    fn say(&self, what: &str) {
        if self.0 {
            drop(write!(io::stderr(), "\r\x1b[Kmeasuring: {what}"));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.0 {
            drop(write!(io::stderr(), "\r\x1b[K"));
        }
    }
}
