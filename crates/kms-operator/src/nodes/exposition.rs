//! Metrics of a provider as a view of its node. `docs/observability.md` lists the names.
//!
//! The text is untrusted, so every printed value is parsed strictly. Metrics absent from an older
//! provider are unknown.

use std::time::Duration;

use kms_domain::{
    digest::TextHash,
    fingerprint::IdentityFingerprint,
    recovery::nodes::{NodeView, Pending, Readable, StateView},
    transit::TransitVersion,
};

use super::Seen;

const PREFIX: &str = "openbao_kms_";
/// Length limit of label values, above all values of this program.
const MAX_WORD: usize = 64;

/// A text without usable metrics.
#[derive(Debug, thiserror::Error)]
pub enum NotMetrics {
    /// The end marker is missing.
    #[error("the metrics broke off before their end")]
    Truncated,
    /// Metrics of another program.
    #[error(
        "these are not the metrics of a bao-kms-provider: is it the address of \
         server.metricsAddress?"
    )]
    Foreign,
    /// A metric of this program with an invalid value.
    #[error("the metric {PREFIX}{0} cannot be read")]
    Malformed(&'static str),
}

/// Parses OpenMetrics text of a provider.
///
/// # Errors
/// [`NotMetrics`].
pub fn read(text: &str) -> Result<Seen, NotMetrics> {
    if !text.trim_end().ends_with("# EOF") {
        return Err(NotMetrics::Truncated);
    }
    let samples = Samples(text);
    let Some(version) = samples.label("build_info", "version")? else {
        return Err(NotMetrics::Foreign);
    };

    let fingerprint = samples.label("identity_info", "fingerprint")?;
    let fingerprint = fingerprint
        .map(|text| IdentityFingerprint::parse(&text))
        .transpose()
        .map_err(|_| NotMetrics::Malformed("identity_info"))?;

    let active = samples.hash("status_key_id_hash")?;
    let active_version = samples.version("key_version")?;
    let pending_version = samples.version("pending_key_version")?;
    let pending_hash = samples.hash("pending_key_id_hash")?;
    let generation: Option<u64> = samples.number("state_generation")?;
    let anchored: Option<u64> = samples.number("state_checkpoint_current")?;
    let oldest = samples.version("oldest_readable_key_version")?;
    let count = samples.number("readable_key_versions")?;
    let expected_wait: Option<f64> = samples.number("rotation_expected_wait_seconds")?;
    let ready: Option<u64> = samples.number("ready")?;
    let socket = samples.hash("socket_info")?;

    let known = [
        active.clone().zip(active_version),
        pending_hash.zip(pending_version),
    ];

    Ok(Seen {
        view: NodeView {
            fingerprint,
            active_version,
            pending: match (pending_version, &active) {
                (Some(version), _) => Pending::Version(version),
                (None, Some(_)) => Pending::No,
                (None, None) => Pending::Unknown,
            },
            readable: oldest
                .zip(count)
                .map(|(oldest, count)| Readable { oldest, count }),
            known: known.into_iter().flatten().collect(),
            ready: ready.map(|ready| ready == 1),
            state: match (generation, &active) {
                (_, Some(_)) => StateView::Usable,
                (Some(0), None) => StateView::Absent,
                _ => StateView::Unknown,
            },
            active,
            reads: [oldest, active_version, pending_version]
                .into_iter()
                .flatten()
                .collect(),
            removed: Vec::new(),
            marks: socket.iter().cloned().collect(),
        },
        told_apart: socket.is_some(),
        generation,
        checkpoint: match (generation, anchored) {
            (Some(0), _) => Some("absent"),
            (_, Some(1)) => Some("current"),
            (Some(_), Some(_)) => Some("unsaved"),
            _ => None,
        },
        pending_since: samples.number("rotation_pending_since_timestamp_seconds")?,
        expected_wait: expected_wait.and_then(|wait| Duration::try_from_secs_f64(wait).ok()),
        reasons: samples.labels("readiness_reason", "reason")?,
        provider_version: Some(version),
        ..Seen::default()
    })
}

/// Metric lines of this program.
struct Samples<'a>(&'a str);

impl Samples<'_> {
    /// Rest of each sample after the metric name.
    fn of<'s>(&'s self, name: &'static str) -> impl Iterator<Item = &'s str> {
        self.0
            .lines()
            .filter_map(move |line| line.strip_prefix(PREFIX)?.strip_prefix(name))
            .filter(|rest| rest.starts_with(['{', ' ']))
    }

    /// Value of the single sample without labels.
    fn number<T: std::str::FromStr>(&self, name: &'static str) -> Result<Option<T>, NotMetrics> {
        let Some(rest) = self.of(name).next() else {
            return Ok(None);
        };
        let value = rest.strip_prefix(' ').and_then(|it| it.split(' ').next());
        let value = value.and_then(|value| value.parse().ok());
        value.map(Some).ok_or(NotMetrics::Malformed(name))
    }

    fn version(&self, name: &'static str) -> Result<Option<TransitVersion>, NotMetrics> {
        let number: Option<u64> = self.number(name)?;
        let version = number.map(|it| TransitVersion::new(it).ok_or(NotMetrics::Malformed(name)));
        version.transpose()
    }

    fn hash(&self, name: &'static str) -> Result<Option<TextHash>, NotMetrics> {
        let hash = self.label(name, "hash")?;
        let hash = hash.map(|text| TextHash::parse(&text));
        hash.transpose().map_err(|_| NotMetrics::Malformed(name))
    }

    fn label(&self, name: &'static str, label: &str) -> Result<Option<String>, NotMetrics> {
        Ok(self.labels(name, label)?.into_iter().next())
    }

    /// Values of a label. This program writes words without escapes.
    fn labels(&self, name: &'static str, label: &str) -> Result<Vec<String>, NotMetrics> {
        let word = |rest: &str| {
            let (labels, _value) = rest.strip_prefix('{')?.split_once("} ")?;
            let mut labels = labels.split(',').filter_map(|it| it.split_once('='));
            let (_, value) = labels.find(|(found, _)| *found == label)?;
            let word = value.strip_prefix('"')?.strip_suffix('"')?;
            let allowed = |c: char| c.is_ascii_alphanumeric() || ".-_+".contains(c);
            let fits = (1..=MAX_WORD).contains(&word.len()) && word.chars().all(allowed);
            fits.then(|| word.to_owned())
        };
        self.of(name)
            .map(|rest| word(rest).ok_or(NotMetrics::Malformed(name)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUILD: &str =
        "openbao_kms_build_info{version=\"v1.2.3\",commit=\"abc\",build_date=\"a, b: c\"} 1\n";

    fn read_all(lines: &str) -> Result<Seen, NotMetrics> {
        read(&format!("# TYPE x gauge\nx 1\n{BUILD}{lines}# EOF\n"))
    }

    #[test]
    fn what_an_older_provider_does_not_show_is_unknown() {
        let seen = read_all("").unwrap();
        let nothing = Seen {
            provider_version: Some("v1.2.3".to_owned()),
            ..Seen::default()
        };
        assert_eq!(seen, nothing);
        let seen = read_all("openbao_kms_state_generation 7\n").unwrap();
        assert_eq!((seen.generation, seen.checkpoint), (Some(7), None));
    }

    #[test]
    fn a_start_without_a_state_and_a_save_that_failed_are_told_apart() {
        let generation = |number: u64, current: u64| {
            let text = format!(
                "openbao_kms_state_generation {number}\n\
                 openbao_kms_state_checkpoint_current {current}\n"
            );
            read_all(&text).unwrap()
        };
        let absent = generation(0, 0);
        assert_eq!(absent.checkpoint, Some("absent"));
        assert_eq!(absent.view.state, StateView::Absent);
        assert_eq!(generation(3, 1).checkpoint, Some("current"));
        assert_eq!(generation(3, 0).checkpoint, Some("unsaved"));
    }

    #[test]
    fn a_value_that_is_not_what_it_must_be_is_refused() {
        for line in [
            "key_version 0",
            "key_version -1",
            "key_version x",
            "ready yes",
            "ready{a=\"b\"} 1",
            "status_key_id_hash{hash=\"short\"} 1",
            "status_key_id_hash{} 1",
            "identity_info{fingerprint=\"cfg1.short\"} 1",
            "readiness_reason{reason=\"two words\"} 1",
            "readiness_reason{reason=\"\"} 1",
            "readiness_reason{reason=\"a\\nb\"} 1",
        ] {
            let refused = read_all(&format!("openbao_kms_{line}\n"));
            assert!(refused.is_err(), "{line}: {refused:?}");
        }
    }
}
