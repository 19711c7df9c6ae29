//! What `compare-nodes` tells: the verdict and the next step first, then each node, then how it was
//! established.

use std::{
    io::{self, Write},
    time::SystemTime,
};

use jiff::Timestamp;
use kms_domain::{
    fingerprint::IdentityFingerprint,
    recovery::nodes::{Finding, Judgement, Pending, Verdict, compare},
};
use schemars::JsonSchema;
use serde::Serialize;

use super::{LookError, Node, Seen};
use crate::{
    cli::exit::Exit,
    report::{DoNot, Render, Report, one_line},
};

mod words;

use words::Compared;

/// The result of `compare-nodes`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodesReport {
    verdict: &'static str,
    /// Whether the next node may be taken: recovered, upgraded, rotated.
    safe_to_continue: bool,
    summary: String,
    next_steps: Vec<String>,
    do_not: Vec<&'static str>,
    #[serde(flatten)]
    report: Report,
    nodes: Vec<NodeShown>,
    limitations: Vec<&'static str>,
}

#[derive(Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct NodeShown {
    name: String,
    /// `metrics`, `socket` or `state`.
    source: &'static str,
    /// Codes of what is wrong with it or not settled; none when it agrees.
    findings: Vec<&'static str>,
    /// Why there was no answer, or why its state is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity_fingerprint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    active_key_id_hash: Option<String>,
    /// Of the active key, also if only another node can tell it.
    #[serde(skip_serializing_if = "Option::is_none")]
    active_transit_version: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pending_transit_version: Option<u64>,
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pending_since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_readable_transit_version: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    readable_transit_versions: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_generation: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_checkpoint_status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ready: Option<bool>,
    readiness_reasons: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_version: Option<String>,
}

impl NodesReport {
    /// Compares what was seen. With a configuration, its identity is the right one.
    #[must_use]
    pub fn new(
        nodes: &[Node],
        seen: &[Result<Seen, LookError>],
        configured: Option<&IdentityFingerprint>,
        now: SystemTime,
    ) -> Self {
        let views: Vec<_> = seen
            .iter()
            .map(|seen| seen.as_ref().ok().map(|seen| seen.view.clone()))
            .collect();
        let judgement = compare(&views, configured);
        let compared = Compared {
            nodes,
            seen,
            configured,
            judgement: &judgement,
            now,
        };
        let mut report = Report::new("compare-nodes", now);
        if let Some(configured) = configured {
            report.identify(configured);
        }
        for check in compared.checks() {
            report.push(check);
        }
        report.conclude(exit(judgement.verdict));
        Self {
            verdict: judgement.verdict.as_str(),
            safe_to_continue: judgement.verdict == Verdict::Agree,
            summary: compared.summary(),
            next_steps: compared.next_steps(),
            do_not: compared.do_not(),
            report,
            nodes: (0..nodes.len())
                .filter_map(|index| shown(nodes, seen, &judgement, index))
                .collect(),
            limitations: compared.limitations(),
        }
    }

    /// The exit code of the command.
    #[must_use]
    pub fn exit(&self) -> Exit {
        self.report.exit()
    }
}

/// Only agreement lets go on; what was not seen decides nothing.
fn exit(verdict: Verdict) -> Exit {
    match verdict {
        Verdict::Agree => Exit::Success,
        Verdict::Rotating | Verdict::Disagree => Exit::CheckFailed,
        Verdict::Inconclusive => Exit::Runtime,
    }
}

fn shown(
    nodes: &[Node],
    seen: &[Result<Seen, LookError>],
    judgement: &Judgement,
    index: usize,
) -> Option<NodeShown> {
    let (node, seen) = (nodes.get(index)?, seen.get(index)?);
    let of_node = judgement.findings.iter().filter(|(at, _)| *at == index);
    let row = NodeShown {
        name: node.name.to_string(),
        source: node.window.kind(),
        findings: of_node
            .map(|(_, finding)| Finding::code(*finding))
            .collect(),
        ..NodeShown::default()
    };
    let seen = match seen {
        Ok(seen) => seen,
        Err(error) => {
            return Some(NodeShown {
                error: Some(one_line(error)),
                ..row
            });
        }
    };
    let view = &seen.view;
    let version = judgement.versions.get(index).copied().flatten();
    Some(NodeShown {
        error: seen.refused.clone(),
        identity_fingerprint: view.fingerprint.as_ref().map(ToString::to_string),
        active_key_id_hash: view.active.as_ref().map(ToString::to_string),
        active_transit_version: version.map(|version| version.get()),
        pending_transit_version: match view.pending {
            Pending::Version(version) => Some(version.get()),
            Pending::No | Pending::Unknown => None,
        },
        pending_since: seen.pending_since.and_then(time),
        oldest_readable_transit_version: view.readable.map(|it| it.oldest.get()),
        readable_transit_versions: view.readable.map(|it| it.count),
        state_generation: seen.generation,
        state_checkpoint_status: seen.checkpoint,
        ready: view.ready,
        readiness_reasons: seen.reasons.clone(),
        provider_version: seen.provider_version.clone(),
        ..row
    })
}

fn time(seconds: u64) -> Option<String> {
    let time = Timestamp::from_second(i64::try_from(seconds).ok()?).ok()?;
    Some(time.to_string())
}

impl Render for NodesReport {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "compare-nodes: {}", self.verdict)?;
        writeln!(out, "{}", self.summary)?;
        for step in &self.next_steps {
            writeln!(out, "next: {step}")?;
        }
        for not in &self.do_not {
            writeln!(out, "{}", DoNot(not))?;
        }
        writeln!(out)?;
        for node in &self.nodes {
            node.text(out)?;
        }
        writeln!(out)?;
        self.report.checks_text(out)?;
        for limitation in &self.limitations {
            writeln!(out, "limitation: {limitation}")?;
        }
        Ok(())
    }
}

impl NodeShown {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let findings = match self.findings.is_empty() {
            true => "agrees".to_owned(),
            false => self.findings.join(", "),
        };
        writeln!(out, "{}: [{findings}] by {}", self.name, self.source)?;
        if let Some(error) = &self.error {
            writeln!(out, "    {error}")?;
        }
        let number = |value: Option<u64>| value.map(|value| value.to_string());
        let pending =
            number(self.pending_transit_version).map(|version| match &self.pending_since {
                Some(since) => format!("{version} since {since}"),
                None => version,
            });
        let ready = self.ready.map(|ready| match ready {
            true => "yes".to_owned(),
            false if self.readiness_reasons.is_empty() => "no".to_owned(),
            false => format!("no ({})", self.readiness_reasons.join(", ")),
        });
        let checkpoint = self.state_checkpoint_status.map(str::to_owned);
        for (label, value) in [
            ("activeTransitVersion", number(self.active_transit_version)),
            ("activeKeyIdHash", self.active_key_id_hash.clone()),
            ("pendingTransitVersion", pending),
            (
                "oldestReadableTransitVersion",
                number(self.oldest_readable_transit_version),
            ),
            ("stateGeneration", number(self.state_generation)),
            ("stateCheckpointStatus", checkpoint),
            ("identityFingerprint", self.identity_fingerprint.clone()),
            ("ready", ready),
            ("providerVersion", self.provider_version.clone()),
        ] {
            if let Some(value) = value {
                writeln!(out, "    {label}: {value}")?;
            }
        }
        Ok(())
    }
}
