//! The words of a comparison: checks, headline, limitations, and the cause of each finding.

use std::{collections::BTreeSet, time::SystemTime};

use kms_domain::{
    fingerprint::IdentityFingerprint,
    recovery::nodes::{Finding, Judgement, Pending, StateView, Verdict, Weight},
    transit::TransitVersion,
};
use kms_node::{
    advice::{Advice, Cause, Site, nodes},
    report::{CheckName, CheckResult, ImpactClass, one_line},
};

use crate::nodes::{LookError, Node, Seen};

const ANSWER: CheckName = CheckName("nodes.answer", "Answers of the nodes");
const DISTINCT: CheckName = CheckName("nodes.distinct", "Nodes given once");
const IDENTITY: CheckName = CheckName("nodes.identity", "Identity in the configurations");
const KEY: CheckName = CheckName("nodes.key", "Key behind each version");
const STATE: CheckName = CheckName("nodes.state", "Registry state of the nodes");
const VERSION: CheckName = CheckName("nodes.version", "Version for encryption");
const ROTATION: CheckName = CheckName("nodes.rotation", "Rotation");
const READABLE: CheckName = CheckName("nodes.readable", "Readable versions");
const READY: CheckName = CheckName("nodes.ready", "Readiness");
const PROGRAM: CheckName = CheckName("nodes.program", "Releases of the provider");

pub(super) const ONE_AT_A_TIME: &str =
    "keep at least one node that serves untouched until the others agree";
const UNDECIDED: &str = "wait before the next node";

/// All that a comparison is put into words from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Compared<'a> {
    pub(super) nodes: &'a [Node],
    pub(super) seen: &'a [Result<Seen, LookError>],
    pub(super) configured: Option<&'a IdentityFingerprint>,
    pub(super) judgement: &'a Judgement,
    pub(super) site: &'a Site<'a>,
    /// The command line.
    pub(super) again: &'a str,
    pub(super) now: SystemTime,
}

/// Which sources show what a check is about, and how many must for it to pass.
#[derive(Clone, Copy)]
struct Coverage {
    least: usize,
    tells: fn(&Seen) -> bool,
}

impl Coverage {
    fn by(least: usize, tells: fn(&Seen) -> bool) -> Self {
        Self { least, tells }
    }
}

/// The cause of a finding, and the class of its impact.
fn cause(finding: Finding) -> (&'static Cause, ImpactClass) {
    use ImpactClass::{ApiServerAvailability, DataRecovery, Diagnosis};
    match finding {
        Finding::NoAnswer => (&nodes::NO_ANSWER, Diagnosis),
        Finding::SameNode { .. } => (&nodes::SAME_NODE, Diagnosis),
        Finding::OtherIdentity | Finding::IdentityUndecided => {
            (&nodes::OTHER_IDENTITY, DataRecovery)
        }
        Finding::OtherKey { .. } => (&nodes::OTHER_KEY, DataRecovery),
        Finding::NoState | Finding::StateRefused => (&nodes::NO_STATE, ApiServerAvailability),
        Finding::Waits(_)
        | Finding::Behind {
            waits: Some(true), ..
        } => (&nodes::PROMOTION_PENDING, Diagnosis),
        Finding::Behind {
            waits: Some(false), ..
        } => (&nodes::BEHIND, DataRecovery),
        Finding::UnknownKey | Finding::Behind { waits: None, .. } => {
            (&nodes::VERSION_UNKNOWN, Diagnosis)
        }
        Finding::MissingVersions => (&nodes::MISSING_VERSIONS, ApiServerAvailability),
        Finding::NotReady => (&nodes::NOT_READY, ApiServerAvailability),
        Finding::ServingUnknown => (&nodes::SERVING_UNKNOWN, ApiServerAvailability),
    }
}

impl Compared<'_> {
    pub(super) fn checks(&self) -> [CheckResult; 10] {
        use Finding as F;
        let identity = match self.configured {
            Some(_) => Coverage::by(1, |seen| seen.view.fingerprint.is_some()),
            None => Coverage::by(2, |seen| seen.view.fingerprint.is_some()),
        };
        let key = Coverage::by(2, |seen| seen.view.active.is_some());
        let state = Coverage::by(1, |seen| seen.view.state != StateView::Unknown);
        let pending = Coverage::by(1, |seen| seen.view.pending != Pending::Unknown);
        let readable = Coverage::by(2, |seen| seen.view.readable.is_some());
        let ready = Coverage::by(1, |seen| seen.view.ready.is_some());
        [
            self.check(ANSWER, Coverage::by(0, |_| true), |it| {
                matches!(it, F::NoAnswer)
            }),
            self.check(DISTINCT, Coverage::by(2, |seen| seen.told_apart), |it| {
                matches!(it, F::SameNode { .. })
            }),
            self.check(IDENTITY, identity, |it| {
                matches!(it, F::OtherIdentity | F::IdentityUndecided)
            }),
            self.check(KEY, key, |it| {
                matches!(it, F::OtherKey { .. } | F::UnknownKey)
            }),
            self.check(STATE, state, |it| {
                matches!(it, F::NoState | F::StateRefused)
            }),
            self.check(VERSION, key, |it| {
                matches!(it, F::Behind { .. } | F::UnknownKey)
            }),
            self.check(ROTATION, pending, |it| it.weight() == Weight::Settles),
            self.check(READABLE, readable, |it| matches!(it, F::MissingVersions)),
            self.check(READY, ready, |it| {
                matches!(it, F::NotReady | F::ServingUnknown)
            }),
            self.program(),
        ]
    }

    fn check(&self, name: CheckName, told: Coverage, of: fn(Finding) -> bool) -> CheckResult {
        let findings: Vec<_> = self.found().filter(|(_, it)| of(*it)).collect();
        let Some((_, worst)) = findings.iter().max_by_key(|(_, it)| it.weight()) else {
            return self.nothing_found(name, told);
        };
        let told: Vec<_> = findings
            .iter()
            .map(|(index, finding)| self.tell(*index, *finding))
            .collect();
        let told = told.join("; ");
        let (cause, class) = cause(*worst);
        let check = match worst.weight() {
            Weight::Settles => name.warn(told),
            Weight::Open | Weight::Differs => name.fail(told),
        };
        check
            .because(self.advise(cause))
            .code(worst.code())
            .impact_class(class)
    }

    /// What a source does not show passes nothing.
    fn nothing_found(&self, name: CheckName, told: Coverage) -> CheckResult {
        let (tell, silent): (Vec<_>, Vec<_>) = self
            .nodes
            .iter()
            .zip(self.seen)
            .partition(|(_, seen)| seen.as_ref().is_ok_and(told.tells));
        let silent: Vec<_> = silent.iter().map(|(node, _)| node.name.as_str()).collect();
        let silent = silent.join(", ");
        if tell.len() < told.least {
            name.skip(format!("not told by {silent}"))
        } else if silent.is_empty() || told.least == 0 {
            name.pass()
        } else {
            name.pass()
                .message(format!("as far as told: not by {silent}"))
        }
    }

    /// An upgrade goes node by node, so different programs are no reason to stop.
    fn program(&self) -> CheckResult {
        let seen = self.seen.iter().filter_map(|seen| seen.as_ref().ok());
        let versions: BTreeSet<_> = seen.filter_map(|it| it.provider_version.as_ref()).collect();
        let listed: Vec<_> = versions.iter().map(|version| version.as_str()).collect();
        match listed.as_slice() {
            [] => PROGRAM.skip("only metrics tell"),
            [one] => PROGRAM.pass().message(*one),
            several => PROGRAM
                .warn(several.join(", "))
                .because(self.advise(&nodes::PROGRAMS_DIFFER))
                .impact_class(ImpactClass::Diagnosis),
        }
    }

    pub(super) fn headline(&self) -> String {
        let all = self.nodes.len();
        let names = self.names(|it| it.weight() == Weight::Differs);
        match self.judgement.verdict {
            Verdict::Agree => {
                let version = self.judgement.versions.iter().flatten().next();
                let key = version.map_or_else(
                    || "the same key".to_owned(),
                    |version| format!("version {version} of the same key"),
                );
                format!("all {all} nodes use {key}; it is safe to continue with the next node")
            }
            Verdict::Rotating => {
                let names = self.names(|it| it.weight() == Weight::Settles);
                format!(
                    "a rotation is under way and has not reached {names}; wait before the next node"
                )
            }
            Verdict::Disagree => {
                format!("stop before the next node, and fix first: {names}")
            }
            Verdict::Inconclusive => {
                let same = self.names(|it| matches!(it, Finding::SameNode { .. }));
                if !same.is_empty() {
                    return format!("a node is given more than once: {same}; {UNDECIDED}");
                }
                let open = self.names(|it| it.weight() == Weight::Open);
                match open.is_empty() {
                    true => format!("too few nodes name their key; {UNDECIDED}"),
                    false => format!("too little is known of {open}; {UNDECIDED}"),
                }
            }
        }
    }

    /// The advice of each cause, the worst first.
    pub(super) fn advice(&self) -> Vec<Advice> {
        let mut findings: Vec<_> = self.found().map(|(_, finding)| finding).collect();
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.weight()));
        let mut causes: Vec<&Cause> = Vec::new();
        for finding in findings {
            let (cause, _) = cause(finding);
            if !causes.contains(&cause) {
                causes.push(cause);
            }
        }
        causes.into_iter().map(|cause| self.advise(cause)).collect()
    }

    fn advise(&self, of: &'static Cause) -> Advice {
        let names = self.names(|finding| cause(finding).0 == of);
        of.advise(self.site, &[("nodes", &names), ("again", self.again)])
    }

    pub(super) fn limitations(&self) -> Vec<&'static str> {
        let seen = || self.seen.iter().filter_map(|seen| seen.as_ref().ok());
        let source = |kind| self.nodes.iter().any(|node| node.source.kind() == kind);
        let mut limitations =
            vec!["generations are not compared: each node counts the steps of its own state"];
        let metrics = self.nodes.iter().zip(self.seen);
        let mut metrics = metrics.filter(|(node, _)| node.source.kind() == "metrics");
        if metrics.any(|(_, seen)| seen.as_ref().is_ok_and(|seen| !seen.told_apart)) {
            limitations.push(
                "metrics without openbao_kms_socket_info, as older releases have them, do not show \
                 whether two addresses lead to one node",
            );
        }
        if source("socket") {
            limitations.push(
                "a forwarded socket is another one than the node's own: whether it leads to a node \
                 that is given already is not known",
            );
            limitations.push(
                "a socket tells the active key and whether its node serves: whether a version waits \
                 for its promotion there is not known",
            );
        }
        if source("state") {
            limitations.push(
                "a state file tells what its node knew when the file was copied, not whether a \
                 provider serves with it",
            );
        }
        let identities = seen().filter(|it| it.view.fingerprint.is_some()).count();
        if identities < 2 && self.configured.is_none() {
            limitations.push(
                "fewer than two nodes tell their identity: mount path and key name are not compared; \
                 all other names are part of the key_id",
            );
        }
        limitations
    }

    fn found(&self) -> impl Iterator<Item = (usize, Finding)> {
        self.judgement.findings.iter().copied()
    }

    fn name(&self, index: usize) -> &str {
        self.nodes.get(index).map_or("?", |node| node.name.as_str())
    }

    fn names(&self, of: impl Fn(Finding) -> bool) -> String {
        let indexes: BTreeSet<_> = self
            .found()
            .filter(|(_, finding)| of(*finding))
            .map(|(index, _)| index)
            .collect();
        let names: Vec<_> = indexes.into_iter().map(|index| self.name(index)).collect();
        names.join(", ")
    }

    fn tell(&self, index: usize, finding: Finding) -> String {
        let name = self.name(index);
        let seen = self.seen.get(index);
        let said = match finding {
            Finding::NoAnswer => seen
                .and_then(|seen| seen.as_ref().err())
                .map_or_else(|| "there is no answer".to_owned(), |error| one_line(error)),
            Finding::SameNode { other } => format!("the same node as {}", self.name(other)),
            Finding::OtherIdentity if self.configured.is_some() => {
                "its identity is not that of this configuration".to_owned()
            }
            Finding::OtherIdentity => "its identity is not that of the others".to_owned(),
            Finding::IdentityUndecided => "no majority has its identity".to_owned(),
            Finding::OtherKey { version, decided } => {
                let whose = match decided {
                    true => "the others'",
                    false => "every other node's",
                };
                format!("its version {version} is another key than {whose}")
            }
            Finding::NoState => "there is no state".to_owned(),
            Finding::StateRefused => seen
                .and_then(|seen| seen.as_ref().ok()?.refused.clone())
                .unwrap_or_else(|| "its state is refused".to_owned()),
            Finding::Behind {
                active,
                newest,
                waits,
            } => {
                let follows = match waits {
                    Some(true) => self.waiting(index),
                    Some(false) => format!(" and does not know of version {newest}"),
                    None => String::new(),
                };
                format!("version {active}, behind version {newest} of others{follows}")
            }
            Finding::Waits(pending) => {
                format!("version {pending} is found{}", self.waiting(index))
            }
            Finding::UnknownKey => {
                "its active key is not that of others, and nobody tells its version".to_owned()
            }
            Finding::MissingVersions => self.missing_versions(index),
            Finding::NotReady => match seen.and_then(|seen| seen.as_ref().ok()) {
                Some(seen) if !seen.reasons.is_empty() => seen.reasons.join(", "),
                _ => "Status is not ok".to_owned(),
            },
            Finding::ServingUnknown => "whether it serves is not known".to_owned(),
        };
        format!("{name}: {said}")
    }

    /// How long it has waited, and whether that is too long.
    fn waiting(&self, index: usize) -> String {
        let waiting = || {
            let seen = self.seen.get(index)?.as_ref().ok()?;
            let since = super::time(seen.pending_since?)?;
            let since_epoch = self.now.duration_since(SystemTime::UNIX_EPOCH).ok()?;
            let waited = since_epoch.as_secs().saturating_sub(seen.pending_since?);
            let overdue = seen
                .expected_wait
                .is_some_and(|wait| waited > 2 * wait.as_secs() + 60);
            Some(match overdue {
                true => format!(
                    " and waits since {since}, longer than configured: see \
                     key.promotion_postponed in its log"
                ),
                false => format!(" and waits since {since}"),
            })
        };
        waiting().unwrap_or_else(|| " and waits".to_owned())
    }

    fn missing_versions(&self, index: usize) -> String {
        let readable = |seen: &Result<Seen, LookError>| seen.as_ref().ok()?.view.readable;
        let Some(own) = self.seen.get(index).and_then(readable) else {
            return "it reads fewer versions than others".to_owned();
        };
        let views = || {
            self.seen
                .iter()
                .filter_map(|it| Some(&it.as_ref().ok()?.view))
        };
        let removed = self.seen.get(index).and_then(|it| it.as_ref().ok());
        let removed = removed.into_iter().flat_map(|it| &it.view.removed);
        let missing: Vec<_> = removed
            .filter(|version| views().any(|view| view.reads.contains(version)))
            .map(ToString::to_string)
            .collect();
        if !missing.is_empty() {
            return format!(
                "it has version {} as removed, which others read",
                missing.join(", ")
            );
        }
        let oldest = self.seen.iter().filter_map(readable).map(|it| it.oldest);
        let oldest: Option<TransitVersion> = oldest.min();
        match oldest {
            Some(oldest) if oldest < own.oldest => format!(
                "it reads versions from {} on, others from {oldest} on",
                own.oldest
            ),
            _ => format!("it reads {} versions, others more", own.count),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = include_str!("../../../../../docs/operate/compare-nodes.md");

    fn version(number: u64) -> TransitVersion {
        TransitVersion::new(number).unwrap()
    }

    fn every_finding() -> [Finding; 16] {
        let other_key = |decided| Finding::OtherKey {
            version: version(1),
            decided,
        };
        let behind = |waits| Finding::Behind {
            active: version(1),
            newest: version(2),
            waits,
        };
        [
            Finding::NoAnswer,
            Finding::SameNode { other: 0 },
            Finding::OtherIdentity,
            Finding::IdentityUndecided,
            other_key(true),
            other_key(false),
            Finding::NoState,
            Finding::StateRefused,
            behind(None),
            behind(Some(false)),
            behind(Some(true)),
            Finding::Waits(version(2)),
            Finding::UnknownKey,
            Finding::MissingVersions,
            Finding::NotReady,
            Finding::ServingUnknown,
        ]
    }

    #[test]
    fn every_finding_and_check_has_its_row_on_the_operators_page() {
        for finding in every_finding() {
            let row = format!("\n| `{}` | ", finding.code());
            assert!(PAGE.contains(&row), "{finding:?}");
        }
        for CheckName(id, _) in [
            ANSWER, DISTINCT, IDENTITY, KEY, STATE, VERSION, ROTATION, READABLE, READY, PROGRAM,
        ] {
            assert!(PAGE.contains(&format!("\n| `{id}` | ")), "{id}");
        }
    }

    #[test]
    fn a_finding_has_steps_and_a_warning_if_it_stops() {
        for finding in every_finding() {
            let (cause, _) = cause(finding);
            let stops = finding.weight() == Weight::Differs;
            assert!(!stops || !cause.warnings.is_empty(), "{finding:?}");
            assert!(!cause.steps.is_empty(), "{finding:?}");
        }
    }
}
