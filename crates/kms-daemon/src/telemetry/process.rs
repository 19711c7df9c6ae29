//! Kernel statistics of this process, under the standard names of Prometheus clients.

use std::{fmt, fs};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};
use rustix::{
    param::page_size,
    process::{Resource, getrlimit},
    time::{ClockId, clock_gettime},
};

/// Reads the statistics at every scrape. Unavailable values are left out.
#[derive(Debug)]
pub struct Process {
    /// Unix time of the start. A constant, because it must not follow later clock changes.
    pub started: u64,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut gauge = |name, help, value: Option<u64>| match value {
            Some(value) => {
                let gauge = ConstGauge::new(value);
                gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
            }
            None => Ok(()),
        };
        let started = Some(self.started);
        gauge("process_start_time_seconds", "Start, Unix time", started)?;
        let (size, resident) = memory().unzip();
        gauge("process_virtual_memory_bytes", "Address space", size)?;
        gauge("process_resident_memory_bytes", "Memory in use", resident)?;
        gauge("process_open_fds", "Open file descriptors", open_files())?;
        let most = getrlimit(Resource::Nofile).current;
        gauge("process_max_fds", "Most open file descriptors", most)?;

        let cpu = ConstCounter::new(cpu_seconds());
        let help = "User and system time";
        cpu.encode(encoder.encode_descriptor(
            "process_cpu_seconds",
            help,
            None,
            cpu.metric_type(),
        )?)
    }
}

fn cpu_seconds() -> f64 {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    std::time::Duration::try_from(spent).map_or(0.0, |spent| spent.as_secs_f64())
}

/// Address space and resident memory, in bytes.
fn memory() -> Option<(u64, u64)> {
    let pages = fs::read_to_string("/proc/self/statm").ok()?;
    let page = u64::try_from(page_size()).ok()?;
    let mut bytes = pages
        .split_ascii_whitespace()
        .map_while(|pages| pages.parse::<u64>().ok()?.checked_mul(page));
    Some((bytes.next()?, bytes.next()?))
}

/// Without the descriptor used for this listing.
fn open_files() -> Option<u64> {
    let listed = fs::read_dir("/proc/self/fd").ok()?.count();
    u64::try_from(listed).ok()?.checked_sub(1)
}
