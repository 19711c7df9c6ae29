//! Metrics of a drill for the textfile collector of node exporter. An unsuccessful drill keeps the
//! values of the last success, so that an alert can use their age.
//!
//! Implements `docs/observability.md` section "Metrics of the drill".

use std::{fmt::Write as _, fs, path::Path, time::SystemTime};

use kms_node::{
    config::Config,
    state::disk::{self, DiskError},
};

use super::report::{DrillReport, Verdict};

const RUN: &str = "openbao_kms_drill_last_run_timestamp_seconds";
const DURATION: &str = "openbao_kms_drill_last_run_duration_seconds";
const VERDICT: &str = "openbao_kms_drill_last_verdict";
const SUCCESS: &str = "openbao_kms_drill_last_success_timestamp_seconds";
const OBJECTS: &str = "openbao_kms_drill_proven_objects";
const VERSIONS: &str = "openbao_kms_drill_proven_versions";
const BY_VERSION: &str = "openbao_kms_drill_proven_objects_by_version";
const MADE: &str = "openbao_kms_drill_backup_timestamp_seconds";

/// Metrics with their `# HELP` texts.
const HELP: [(&str, &str); 8] = [
    (RUN, "When the last drill ended."),
    (DURATION, "How long it took."),
    (VERDICT, "Its verdict: 1 for one of them, 0 for the others."),
    (SUCCESS, "When the last drill ended that proved a restore."),
    (OBJECTS, "Objects that were opened in that drill."),
    (
        VERSIONS,
        "Versions of the Transit key that were needed for it.",
    ),
    (BY_VERSION, "Those objects by the version that opened them."),
    (MADE, "When the backup was made that the last drill took."),
];

/// Size limit in bytes, above any file of this module.
const MAX_BYTES: u64 = 64 * 1024;

/// Replaces the file.
///
/// # Errors
/// [`DiskError`] if writing fails.
pub fn write(
    path: &Path,
    config: &Config,
    report: &DrillReport,
    now: SystemTime,
) -> Result<(), DiskError> {
    let labels = format!("fingerprint=\"{}\"", config.fingerprint());
    let before = read(path);
    let text = text(report, &labels, &before, now);
    disk::replace_public(path, text.as_bytes())
}

/// Content of the previous file; empty if it is unreadable or too large.
fn read(path: &Path) -> String {
    match fs::metadata(path) {
        Ok(facts) if facts.is_file() && facts.len() <= MAX_BYTES => {
            fs::read_to_string(path).unwrap_or_default()
        }
        _ => String::new(),
    }
}

fn text(report: &DrillReport, labels: &str, before: &str, now: SystemTime) -> String {
    let now = unix(now);
    let mut lines = vec![
        format!("{RUN}{{{labels}}} {now}"),
        format!("{DURATION}{{{labels}}} {}", report.result.total_seconds()),
    ];
    for verdict in Verdict::ALL {
        let is = u8::from(verdict == report.result.verdict());
        let verdict = verdict.as_str();
        lines.push(format!("{VERDICT}{{{labels},verdict=\"{verdict}\"}} {is}"));
    }
    for (store, made) in report.result.made() {
        let made = unix(made);
        lines.push(format!("{MADE}{{{labels},store=\"{store}\"}} {made}"));
    }
    if report.result.verdict() == Verdict::Compatible {
        let proven = report.result.proven();
        let versions = proven.transit_versions.len();
        lines.push(format!("{SUCCESS}{{{labels}}} {now}"));
        lines.push(format!("{OBJECTS}{{{labels}}} {}", proven.objects));
        lines.push(format!("{VERSIONS}{{{labels}}} {versions}"));
        for (version, objects) in &proven.by_version {
            lines.push(format!(
                "{BY_VERSION}{{{labels},version=\"{version}\"}} {objects}"
            ));
        }
    } else {
        let kept = [SUCCESS, OBJECTS, VERSIONS].into_iter().filter_map(|name| {
            let value = earlier(name, labels, before)?;
            Some(format!("{name}{{{labels}}} {value}"))
        });
        lines.extend(kept);
        lines.extend(earlier_by_version(labels, before));
    }

    let mut text = String::new();
    for (name, help) in HELP {
        let named = |line: &&String| line.split('{').next() == Some(name);
        let samples = lines.iter().filter(named);
        let samples: Vec<_> = samples.map(String::as_str).collect();
        if !samples.is_empty() {
            // Writing to a string always succeeds.
            let samples = samples.join("\n");
            writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{samples}").ok();
        }
    }
    text
}

fn unix(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// Value of a metric in the previous file, if it is a valid number.
fn earlier(name: &str, labels: &str, before: &str) -> Option<String> {
    let sample = format!("{name}{{{labels}}} ");
    let value = before.lines().find_map(|line| line.strip_prefix(&sample))?;
    value.parse::<u64>().ok().map(|value| value.to_string())
}

/// The samples by version in the previous file, as far as they are valid.
fn earlier_by_version(labels: &str, before: &str) -> Vec<String> {
    let start = format!("{BY_VERSION}{{{labels},version=\"");
    let valid = |line: &str| {
        let (version, objects) = line.strip_prefix(&start)?.split_once("\"} ")?;
        let (version, objects) = (version.parse::<u64>().ok()?, objects.parse::<u64>().ok()?);
        Some(format!("{start}{version}\"}} {objects}"))
    };
    before.lines().filter_map(valid).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_documented() {
        let page = include_str!("../../../../docs/observability.md");
        let (_, section) = page.split_once("## Metrics of the drill").unwrap();
        let (section, _) = section.split_once("\n## ").unwrap();
        for (name, _) in HELP {
            assert!(section.contains(&format!("| `{name}` | gauge |")), "{name}");
        }
        assert_eq!(section.matches("| gauge |").count(), HELP.len());
        for verdict in Verdict::ALL {
            assert!(section.contains(verdict.as_str()), "{verdict:?}");
        }
    }

    #[test]
    fn a_failed_drill_keeps_what_was_proven_of_the_same_cluster_alone() {
        let ours = "fingerprint=\"a\"";
        let sample = |labels: &str, value: &str| format!("{SUCCESS}{{{labels}}} {value}\n");
        for (before, kept) in [
            (sample(ours, "7"), Some("7")),
            (sample("fingerprint=\"b\"", "7"), None),
            (sample(ours, "seven"), None),
            (String::new(), None),
        ] {
            assert_eq!(earlier(SUCCESS, ours, &before).as_deref(), kept);
        }
        let of = |labels: &str, objects: &str| {
            format!("{BY_VERSION}{{{labels},version=\"2\"}} {objects}\n")
        };
        let before = [of(ours, "5"), of("fingerprint=\"b\"", "6"), of(ours, "six")].concat();
        assert_eq!(
            earlier_by_version(ours, &before),
            [of(ours, "5").trim_end()]
        );
    }
}
