//! What a comparison says: what each finding means for the data, the next step, and what not to do.

use std::{collections::BTreeSet, time::SystemTime};

use kms_domain::{
    fingerprint::IdentityFingerprint,
    recovery::nodes::{Finding, Judgement, Pending, StateView, Verdict, Weight},
    transit::TransitVersion,
};

use crate::{
    nodes::{LookError, Node, Seen},
    report::{Check, ImpactClass, one_line},
};

/// Identifier and title of a check. Stable.
type Name = (&'static str, &'static str);

const ANSWER: Name = ("nodes.answer", "Every node answers");
const DISTINCT: Name = ("nodes.distinct", "Every node is given once");
const IDENTITY: Name = (
    "nodes.identity",
    "All nodes are configured for the same cluster and key",
);
const KEY: Name = ("nodes.key", "A version is the same key on every node");
const STATE: Name = ("nodes.state", "Every node has a state to start with");
const VERSION: Name = ("nodes.version", "All nodes encrypt with the same version");
const ROTATION: Name = ("nodes.rotation", "No rotation is under way");
const READABLE: Name = ("nodes.readable", "All nodes read the same versions");
const READY: Name = ("nodes.ready", "Every node serves");
const PROGRAM: Name = ("nodes.program", "All nodes run the same program");

const ONE_AT_A_TIME: &str = "keep at least one node that serves untouched until the others agree";

/// All that a comparison is put into words from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Compared<'a> {
    pub(super) nodes: &'a [Node],
    pub(super) seen: &'a [Result<Seen, LookError>],
    pub(super) configured: Option<&'a IdentityFingerprint>,
    pub(super) judgement: &'a Judgement,
    pub(super) now: SystemTime,
}

/// Which windows show what a check is about, and how many must for it to pass.
#[derive(Clone, Copy)]
struct Told {
    least: usize,
    tells: fn(&Seen) -> bool,
}

impl Told {
    fn by(least: usize, tells: fn(&Seen) -> bool) -> Self {
        Self { least, tells }
    }
}

/// What a finding means and asks for.
struct Advice {
    impact: &'static str,
    class: ImpactClass,
    next: &'static str,
    do_not: &'static [&'static str],
}

fn advice(finding: Finding) -> Advice {
    const KEEP_KEYS: &str = "do not retire, trim or hide a version of the key, and do not rotate";
    const KEEP_STATE: &str = "do not delete or edit the state files of any node";
    const KEEP_ETCD: &str = "do not delete anything from etcd";
    const NO_REWRITE: &str = "do not rewrite objects through a node that differs";
    match finding {
        Finding::NoAnswer => Advice {
            impact: "whether it agrees is not known; nothing shows that data is lost",
            class: ImpactClass::Diagnosis,
            next: "bring the node or the way to it back, or compare its state file, and run compare-nodes again",
            do_not: &[],
        },
        Finding::SameNode { .. } => Advice {
            impact: "a node that is compared with itself shows nothing of another one; nothing shows that data is lost",
            class: ImpactClass::Diagnosis,
            next: "give each node once, by an address, socket or state file of its own (does a forwarded port lead to the wrong node?), and run compare-nodes again",
            do_not: &[],
        },
        Finding::OtherIdentity => Advice {
            impact: "such a node cannot read what the others have written, and they cannot read what it writes; nothing is lost that was written before",
            class: ImpactClass::DataRecovery,
            next: "stop the provider of the node that differs, compare `bao-kms-provider config` on both, and change its configuration back",
            do_not: &[
                "do not change names in a configuration to make a node start or agree",
                NO_REWRITE,
                KEEP_STATE,
            ],
        },
        Finding::IdentityUndecided => Advice {
            impact: "nodes of different identity do not read what the other has written; nothing is lost that was written before",
            class: ImpactClass::DataRecovery,
            next: "find out which configuration is the right one: run compare-nodes with --config, or with more nodes, or compare with the record of a backup",
            do_not: &[
                "do not change names in a configuration to make a node start or agree",
                NO_REWRITE,
                KEEP_STATE,
            ],
        },
        Finding::OtherKey { decided, .. } => Advice {
            impact: "one side uses a key that was made anew, or another OpenBao: neither reads what the other writes",
            class: ImpactClass::DataRecovery,
            next: match decided {
                true => {
                    "stop the provider of the node that differs, run verify-key on it and on a good one, and let all ask the OpenBao that holds the original key"
                }
                false => {
                    "find out which key the objects in etcd need: run verify-backup with an etcd snapshot on each side; then let all ask the OpenBao that holds it"
                }
            },
            do_not: &[
                "do not create or recreate a key",
                KEEP_KEYS,
                NO_REWRITE,
                KEEP_ETCD,
            ],
        },
        Finding::NoState => Advice {
            impact: "after a rotation the provider does not start there; no data is lost",
            class: ImpactClass::ApiServerAvailability,
            next: "restore state and checkpoint together from a backup or a peer, or run recover-state, then run compare-nodes again",
            do_not: &["do not write a state by hand", KEEP_KEYS],
        },
        Finding::StateRefused => Advice {
            impact: "the provider does not start there; no data is lost",
            class: ImpactClass::ApiServerAvailability,
            next: "restore state and checkpoint together from a backup or a peer while the provider is stopped, then run compare-nodes again",
            do_not: &[KEEP_STATE, KEEP_KEYS],
        },
        Finding::Behind {
            waits: Some(true), ..
        } => Advice {
            impact: "none: it reads what the others write, and they read what it writes",
            class: ImpactClass::Diagnosis,
            next: "wait for its promotion, and run compare-nodes again",
            do_not: &[KEEP_KEYS],
        },
        Finding::Behind { waits: None, .. } => Advice {
            impact: "whether it follows is not known; what it writes is readable as long as OpenBao keeps its version",
            class: ImpactClass::Diagnosis,
            next: "look at its metrics or its state instead of its socket",
            do_not: &[KEEP_KEYS],
        },
        Finding::Behind {
            waits: Some(false), ..
        } => Advice {
            impact: "it goes on encrypting with the older version, and was perhaps set back to an older state; no data is lost as long as OpenBao keeps that version",
            class: ImpactClass::DataRecovery,
            next: "if its provider is stopped: find out whether its state was restored from an old backup, start it, and wait for its promotion; if it runs: run verify-key there and see why its probes do not find the newer version",
            do_not: &[KEEP_KEYS, KEEP_STATE],
        },
        Finding::Waits(_) => Advice {
            impact: "none: all nodes read both versions",
            class: ImpactClass::Diagnosis,
            next: "wait for the promotion on every node, and run compare-nodes again",
            do_not: &[KEEP_KEYS],
        },
        Finding::UnknownKey => Advice {
            impact: "whether a rotation is under way or it uses another key is not known",
            class: ImpactClass::Diagnosis,
            next: "look at its metrics or its state instead of its socket",
            do_not: &[KEEP_KEYS],
        },
        Finding::ReadsLess => Advice {
            impact: "through this node the API server cannot read objects of the missing versions; the other nodes read them, so no data is lost",
            class: ImpactClass::ApiServerAvailability,
            next: "if you are retiring versions node by node, this is the way there; if not, run restore-versions on that node",
            do_not: &[
                "do not delete an object that one node cannot read",
                "do not trim or hide a version that a node still reads",
            ],
        },
        Finding::NotReady => Advice {
            impact: "kube-apiserver writes no encrypted object through this node; no data is lost",
            class: ImpactClass::ApiServerAvailability,
            next: "run doctor on that node, and bring it back before the next one",
            do_not: &[KEEP_ETCD],
        },
        Finding::ServingUnknown => Advice {
            impact: "if its provider is stopped, the next node must not be; no data is lost",
            class: ImpactClass::ApiServerAvailability,
            next: "look at its metrics or its socket instead of its state",
            do_not: &[],
        },
    }
}

impl Compared<'_> {
    pub(super) fn checks(&self) -> [Check; 10] {
        use Finding as F;
        let identity = match self.configured {
            Some(_) => Told::by(1, |seen| seen.view.fingerprint.is_some()),
            None => Told::by(2, |seen| seen.view.fingerprint.is_some()),
        };
        let key = Told::by(2, |seen| seen.view.active.is_some());
        let state = Told::by(1, |seen| seen.view.state != StateView::Unknown);
        let pending = Told::by(1, |seen| seen.view.pending != Pending::Unknown);
        let readable = Told::by(2, |seen| seen.view.readable.is_some());
        let ready = Told::by(1, |seen| seen.view.ready.is_some());
        [
            self.check(ANSWER, Told::by(0, |_| true), |it| {
                matches!(it, F::NoAnswer)
            }),
            self.check(DISTINCT, Told::by(2, |seen| seen.told_apart), |it| {
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
            self.check(READABLE, readable, |it| matches!(it, F::ReadsLess)),
            self.check(READY, ready, |it| {
                matches!(it, F::NotReady | F::ServingUnknown)
            }),
            self.program(),
        ]
    }

    fn check(&self, (id, title): Name, told: Told, of: fn(Finding) -> bool) -> Check {
        let findings: Vec<_> = self.found().filter(|(_, it)| of(*it)).collect();
        let Some((_, worst)) = findings.iter().max_by_key(|(_, it)| it.weight()) else {
            return self.nothing_found((id, title), told);
        };
        let told: Vec<_> = findings
            .iter()
            .map(|(index, finding)| self.tell(*index, *finding))
            .collect();
        let told = told.join("; ");
        let Advice {
            impact,
            class,
            next,
            ..
        } = advice(*worst);
        let check = match worst.weight() {
            Weight::Settles => Check::warn(id, title, told),
            Weight::Open | Weight::Differs => Check::fail(id, title, told),
        };
        check
            .code(worst.code())
            .impact(impact)
            .impact_class(class)
            .remediation(next)
    }

    /// What a window does not show passes nothing.
    fn nothing_found(&self, (id, title): Name, told: Told) -> Check {
        let (tell, silent): (Vec<_>, Vec<_>) = self
            .nodes
            .iter()
            .zip(self.seen)
            .partition(|(_, seen)| seen.as_ref().is_ok_and(told.tells));
        let silent: Vec<_> = silent.iter().map(|(node, _)| node.name.as_str()).collect();
        let silent = silent.join(", ");
        if tell.len() < told.least {
            Check::skip(id, title, format!("not told by {silent}"))
        } else if silent.is_empty() || told.least == 0 {
            Check::pass(id, title)
        } else {
            Check::pass(id, title).message(format!("as far as told: not by {silent}"))
        }
    }

    /// An upgrade goes node by node, so different programs are no reason to stop.
    fn program(&self) -> Check {
        let (id, title) = PROGRAM;
        let seen = self.seen.iter().filter_map(|seen| seen.as_ref().ok());
        let versions: BTreeSet<_> = seen.filter_map(|it| it.provider_version.as_ref()).collect();
        let listed: Vec<_> = versions.iter().map(|version| version.as_str()).collect();
        match listed.as_slice() {
            [] => Check::skip(id, title, "only metrics tell"),
            [one] => Check::pass(id, title).message(*one),
            several => Check::warn(id, title, several.join(", "))
                .impact("none: they read each other's objects and states")
                .impact_class(ImpactClass::Diagnosis)
                .remediation("finish the upgrade, one node at a time"),
        }
    }

    pub(super) fn summary(&self) -> String {
        let all = self.nodes.len();
        let names = self.names(|it| it.weight() == Weight::Differs);
        match self.judgement.verdict {
            Verdict::Agree => {
                let version = self.judgement.versions.iter().flatten().next();
                let key = version.map_or_else(
                    || "the same key".to_owned(),
                    |version| format!("version {version} of the same key"),
                );
                format!("all {all} nodes use {key}; it is safe to go on with the next node")
            }
            Verdict::Rotating => {
                let names = self.names(|it| it.weight() == Weight::Settles);
                format!(
                    "a rotation is under way and has not reached {names}; wait before the next node"
                )
            }
            Verdict::Disagree => {
                format!("stop before the next node; to be mended first: {names}")
            }
            Verdict::Inconclusive => {
                let same = self.names(|it| matches!(it, Finding::SameNode { .. }));
                if !same.is_empty() {
                    return format!(
                        "a node is given more than once: {same}; it is not known whether it is safe \
                         to go on with the next node"
                    );
                }
                let open = self.names(|it| it.weight() == Weight::Open);
                match open.is_empty() {
                    true => "too few nodes name their key; it is not known whether it is safe to \
                             go on with the next node"
                        .to_owned(),
                    false => format!(
                        "nothing is known of {open} that decides it; it is not known whether it is \
                         safe to go on with the next node"
                    ),
                }
            }
        }
    }

    /// The worst first.
    pub(super) fn next_steps(&self) -> Vec<String> {
        let mut findings: Vec<_> = self.found().map(|(_, finding)| finding).collect();
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.weight()));
        let mut steps: Vec<String> = Vec::new();
        for finding in findings {
            let text = advice(finding).next;
            let names = self.names(|it| advice(it).next == text);
            let step = format!("{names}: {text}");
            if !steps.contains(&step) {
                steps.push(step);
            }
        }
        if self.judgement.verdict == Verdict::Disagree {
            steps.push(ONE_AT_A_TIME.to_owned());
        }
        steps
    }

    pub(super) fn do_not(&self) -> Vec<&'static str> {
        let all: BTreeSet<_> = self
            .found()
            .flat_map(|(_, finding)| advice(finding).do_not)
            .copied()
            .collect();
        all.into_iter().collect()
    }

    pub(super) fn limitations(&self) -> Vec<&'static str> {
        let seen = || self.seen.iter().filter_map(|seen| seen.as_ref().ok());
        let window = |kind| self.nodes.iter().any(|node| node.window.kind() == kind);
        let mut limitations =
            vec!["generations are not compared: each node counts the steps of its own state"];
        let metrics = self.nodes.iter().zip(self.seen);
        let mut metrics = metrics.filter(|(node, _)| node.window.kind() == "metrics");
        if metrics.any(|(_, seen)| seen.as_ref().is_ok_and(|seen| !seen.told_apart)) {
            limitations.push(
                "metrics without openbao_kms_socket_info, as older releases have them, do not show \
                 whether two addresses lead to one node",
            );
        }
        if window("socket") {
            limitations.push(
                "a forwarded socket is another one than the node's own: whether it leads to a node \
                 that is given already is not known",
            );
            limitations.push(
                "a socket tells the active key and whether its node serves: whether a version waits \
                 for its promotion there is not known",
            );
        }
        if window("state") {
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
            Finding::ReadsLess => self.reads_less(index),
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

    fn reads_less(&self, index: usize) -> String {
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
            Finding::ReadsLess,
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
        for (id, _) in [
            ANSWER, DISTINCT, IDENTITY, KEY, STATE, VERSION, ROTATION, READABLE, READY, PROGRAM,
        ] {
            assert!(PAGE.contains(&format!("\n| `{id}` | ")), "{id}");
        }
    }

    #[test]
    fn every_finding_that_stops_says_what_it_means_for_the_data_and_what_not_to_do() {
        for finding in every_finding() {
            let advice = advice(finding);
            assert!(!advice.impact.is_empty() && !advice.next.is_empty());
            let stops = finding.weight() == Weight::Differs;
            assert!(!stops || !advice.do_not.is_empty(), "{finding:?}");
            let prohibitions = advice.do_not.iter();
            assert!(prohibitions.into_iter().all(|it| it.starts_with("do not ")));
        }
    }
}
