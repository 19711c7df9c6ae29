//! The result of `compare-nodes`.

use std::time::SystemTime;

use jiff::Timestamp;
use kms_domain::{
    fingerprint::IdentityFingerprint,
    recovery::nodes::{Finding, Judgement, Pending, Verdict, compare},
};
use kms_node::{
    advice::{NextStep, Site},
    exit::Exit,
    report::{
        one_line,
        outcome::Outcome,
        table::{Cell as _, Table},
    },
};
use schemars::JsonSchema;
use serde::Serialize;

use super::{LookError, Node, Seen};

mod picture;
mod words;

use words::{Compared, ONE_AT_A_TIME};

/// The members of `compare-nodes`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Nodes {
    /// Whether the next node may be recovered, upgraded or rotated.
    safe_to_continue: bool,
    nodes: Vec<NodeRow>,
}

#[derive(Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct NodeRow {
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

/// Compares the views. The identity of `configured` is the right one, else that of the majority.
/// `again` is the command line.
#[must_use]
pub fn outcome(
    nodes: &[Node],
    seen: &[Result<Seen, LookError>],
    configured: Option<&IdentityFingerprint>,
    site: &Site<'_>,
    again: &str,
    now: SystemTime,
) -> Outcome<Nodes> {
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
        site,
        again,
        now,
    };
    let members = Nodes {
        safe_to_continue: judgement.verdict == Verdict::Agree,
        nodes: (0..nodes.len())
            .filter_map(|index| row(nodes, seen, &judgement, index))
            .collect(),
    };

    let mut outcome = Outcome::new("compare-nodes", now, members);
    if let Some(configured) = configured {
        outcome.identify(configured);
    }
    let advice = compared.advice();
    if let [worst, others @ ..] = advice.as_slice() {
        outcome.conclude_with(worst);
        others.iter().for_each(|advice| outcome.add_advice(advice));
    }
    if judgement.verdict == Verdict::Disagree {
        outcome.add_step(NextStep::act(ONE_AT_A_TIME));
    }
    outcome.conclude(
        judgement.verdict.as_str(),
        exit(judgement.verdict),
        compared.headline(),
    );
    outcome.add_checks(compared.checks());
    outcome.add_limitations(compared.limitations());
    outcome.picture = picture::picture(&outcome.result.nodes, seen);
    outcome.add_tables(tables(&outcome.result.nodes));
    outcome
}

/// Only agreement lets go on; what was not seen decides nothing.
fn exit(verdict: Verdict) -> Exit {
    match verdict {
        Verdict::Agree => Exit::Success,
        Verdict::Rotating | Verdict::Disagree => Exit::CheckFailed,
        Verdict::Inconclusive => Exit::Runtime,
    }
}

fn row(
    nodes: &[Node],
    seen: &[Result<Seen, LookError>],
    judgement: &Judgement,
    index: usize,
) -> Option<NodeRow> {
    let (node, seen) = (nodes.get(index)?, seen.get(index)?);
    let of_node = judgement.findings.iter().filter(|(at, _)| *at == index);
    let row = NodeRow {
        name: node.name.to_string(),
        source: node.source.kind(),
        findings: of_node
            .map(|(_, finding)| Finding::code(*finding))
            .collect(),
        ..NodeRow::default()
    };
    let seen = match seen {
        Ok(seen) => seen,
        Err(error) => {
            return Some(NodeRow {
                error: Some(one_line(error)),
                ..row
            });
        }
    };
    let view = &seen.view;
    let version = judgement.versions.get(index).copied().flatten();
    Some(NodeRow {
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

/// State and keys of the nodes.
fn tables(rows: &[NodeRow]) -> [Table; 2] {
    let states = Table::of("nodes", rows)
        .column("node", |it| &it.name)
        .column("source", |it| it.source)
        .column("findings", |it| match it.findings.is_empty() {
            true => "agrees".to_owned(),
            false => it.findings.join(", "),
        })
        .column("active", |it| it.active_transit_version)
        .column("pending", NodeRow::pending)
        .column("oldest", |it| it.oldest_readable_transit_version)
        .column("state", NodeRow::state)
        .column("ready", |it| match it.ready {
            None => String::new(),
            Some(true) => "yes".to_owned(),
            Some(false) if it.readiness_reasons.is_empty() => "no".to_owned(),
            Some(false) => format!("no: {}", it.readiness_reasons.join(", ")),
        })
        .column("program", |it| &it.provider_version);
    let told = rows.iter();
    let told =
        told.filter(|it| it.active_key_id_hash.is_some() || it.identity_fingerprint.is_some());
    let keys = Table::of("keys", told)
        .column("node", |it| &it.name)
        .column("activeKeyIdHash", |it| &it.active_key_id_hash)
        .column("identityFingerprint", |it| &it.identity_fingerprint);
    [states.table(), keys.table()]
}

impl NodeRow {
    fn pending(&self) -> String {
        match (&self.pending_since, self.pending_transit_version) {
            (Some(since), Some(version)) => format!("{version} since {since}"),
            (_, version) => version.text(),
        }
    }

    fn state(&self) -> String {
        match (self.state_generation, self.state_checkpoint_status) {
            (Some(generation), Some(checkpoint)) => {
                format!("generation {generation}, checkpoint {checkpoint}")
            }
            (generation, None) => generation.text(),
            (None, checkpoint) => checkpoint.text(),
        }
    }
}
