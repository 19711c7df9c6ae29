//! Compares the control-plane nodes of a cluster: do they agree on the key, and may the operator
//! continue with the next node?
//!
//! Each node is read through one source: its metrics, its socket or its state file. A value missing
//! there is unknown, and counts neither as agreement nor as difference.

pub use crate::registry::Readable;
use crate::{digest::TextHash, fingerprint::IdentityFingerprint, transit::TransitVersion};

/// Data read from one node; by default, none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeView {
    /// The configured identity.
    pub fingerprint: Option<IdentityFingerprint>,
    /// Hash of the active key_id.
    pub active: Option<TextHash>,
    /// The version of the active key.
    pub active_version: Option<TransitVersion>,
    /// The version that waits for promotion.
    pub pending: Pending,
    /// The range of older versions read by the node.
    pub readable: Option<Readable>,
    /// Key_ids with a known version, including the active one.
    pub known: Vec<(TextHash, TransitVersion)>,
    /// Whether the node is ready to serve.
    pub ready: Option<bool>,
    /// Whether a provider can start with its state.
    pub state: StateView,
    /// Versions read by the node. The list is complete only if its state was read.
    pub reads: Vec<TransitVersion>,
    /// Versions that an operator removed on this node. Only a state file has them.
    pub removed: Vec<TransitVersion>,
    /// Hashes that identify its socket, its state file or its address. They are unique to a node:
    /// two entries with a common mark are the same node.
    pub marks: Vec<TextHash>,
}

/// Whether a version waits for promotion on a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Pending {
    /// The source lacks this value.
    #[default]
    Unknown,
    /// No version waits.
    No,
    /// This version waits.
    Version(TransitVersion),
}

/// Condition of a node's state document.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum StateView {
    /// The source lacks this value.
    #[default]
    Unknown,
    /// The node serves, or can serve, with it.
    Usable,
    /// There is no state document.
    Absent,
    /// A provider refuses to start with it: damaged, rolled back, or without its checkpoint.
    Refused,
}

/// A fault of a node, or a transition in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// The node did not answer.
    NoAnswer,
    /// Another entry is this same node, so it would be compared with itself.
    SameNode {
        /// The position of the other entry.
        other: usize,
    },
    /// It is configured for another cluster, key or provider name.
    OtherIdentity,
    /// The correct identity is unknown, since none has a majority.
    IdentityUndecided,
    /// The same version has another key_id than on the other nodes: it is another key.
    OtherKey {
        /// The version.
        version: TransitVersion,
        /// Whether a majority has the same key.
        decided: bool,
    },
    /// There is no state document.
    NoState,
    /// A provider refuses to start with its state.
    StateRefused,
    /// It encrypts with an older version.
    Behind {
        /// Its own active version.
        active: TransitVersion,
        /// The newest active version of any node.
        newest: TransitVersion,
        /// Whether it has found the newest version and waits to promote it; `None` if unknown.
        waits: Option<bool>,
    },
    /// It encrypts with the newest active version and has found a newer one.
    Waits(TransitVersion),
    /// Its active key differs from the other nodes' key, and its version is unknown.
    UnknownKey,
    /// It lacks versions read by other nodes.
    MissingVersions,
    /// It is not ready to serve.
    NotReady,
    /// All other checks passed, but readiness is unknown.
    ServingUnknown,
}

/// Effect of a finding on continuing with the next node; the highest weight decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// It resolves itself with time.
    Settles,
    /// The data is incomplete.
    Open,
    /// It needs an operator.
    Differs,
}

/// Result of the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Every node answers, serves, and uses the same key: continue with the next node.
    Agree,
    /// A rotation is in progress and all else agrees: wait.
    Rotating,
    /// A node has a difference for an operator to resolve: stop.
    Disagree,
    /// The data is incomplete.
    Inconclusive,
}

/// The verdict and its findings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// Decided by the worst finding.
    pub verdict: Verdict,
    /// With the position of the node in the input, ascending.
    pub findings: Vec<(usize, Finding)>,
    /// The version of each node's active key, if any node knows it.
    pub versions: Vec<Option<TransitVersion>>,
}

/// Compares nodes; `None` is a node without an answer. The expected identity is `configured`, or
/// else that of the majority.
#[must_use]
pub fn compare(nodes: &[Option<NodeView>], configured: Option<&IdentityFingerprint>) -> Judgement {
    let mut findings = Vec::new();
    for (index, node) in nodes.iter().enumerate() {
        findings.extend(alone(node.as_ref()).map(|finding| (index, finding)));
    }

    let same = same_nodes(nodes);
    // Each node counts once, even if it was given several times.
    let counted: Vec<(usize, &NodeView)> = answers(nodes)
        .filter(|(index, _)| {
            let repeats = |(at, earlier): &(usize, usize)| at == index && earlier < at;
            !same.iter().any(repeats)
        })
        .collect();

    let found = |&(index, other): &(usize, usize)| (index, Finding::SameNode { other });
    findings.extend(same.iter().map(found));

    let foreign = identities(&counted, configured);
    let comparable: Vec<(usize, &NodeView)> = counted
        .into_iter()
        .filter(|(index, _)| !foreign.iter().any(|(other, _)| other == index))
        .collect();
    findings.extend(foreign);

    let versions = versions(nodes, &comparable);
    let other_keys = other_keys(&comparable, &versions);
    let comparable: Vec<_> = comparable
        .into_iter()
        .filter(|(index, _)| !other_keys.iter().any(|(other, _)| other == index))
        .collect();
    findings.extend(other_keys);

    findings.extend(unknown_keys(&comparable, &versions));
    findings.extend(rotation(&comparable, &versions));
    findings.extend(missing_versions(&comparable));
    findings.sort_by_key(|(index, _)| *index);

    let mut verdict = verdict(&findings, &comparable);
    // All compared nodes may agree while every one of them is stopped.
    if verdict == Verdict::Agree {
        let unknown = comparable.iter().filter(|(_, node)| node.ready.is_none());
        findings.extend(unknown.map(|(index, _)| (*index, Finding::ServingUnknown)));
        if !findings.is_empty() {
            verdict = Verdict::Inconclusive;
        }
    }

    Judgement {
        verdict,
        findings,
        versions,
    }
}

/// Findings on one node by itself.
fn alone(node: Option<&NodeView>) -> impl Iterator<Item = Finding> {
    let found = match node {
        None => [Some(Finding::NoAnswer), None],
        Some(node) => [
            match node.state {
                StateView::Absent => Some(Finding::NoState),
                StateView::Refused => Some(Finding::StateRefused),
                StateView::Unknown | StateView::Usable => None,
            },
            (node.ready == Some(false)).then_some(Finding::NotReady),
        ],
    };
    found.into_iter().flatten()
}

fn answers(nodes: &[Option<NodeView>]) -> impl Iterator<Item = (usize, &NodeView)> {
    let nodes = nodes.iter().enumerate();
    nodes.filter_map(|(index, node)| Some((index, node.as_ref()?)))
}

/// Each entry that is the same node as another entry, with the first such other entry.
fn same_nodes(nodes: &[Option<NodeView>]) -> Vec<(usize, usize)> {
    let other = |(index, node): (usize, &NodeView)| {
        let shared = |other: &NodeView| other.marks.iter().any(|mark| node.marks.contains(mark));
        let mut others = answers(nodes).filter(|(at, other)| *at != index && shared(other));
        others.next().map(|(other, _)| (index, other))
    };
    answers(nodes).filter_map(other).collect()
}

fn identities(
    counted: &[(usize, &NodeView)],
    configured: Option<&IdentityFingerprint>,
) -> Vec<(usize, Finding)> {
    let shown: Vec<(usize, &IdentityFingerprint)> = counted
        .iter()
        .filter_map(|(index, node)| Some((*index, node.fingerprint.as_ref()?)))
        .collect();
    let right = configured.or_else(|| majority(shown.iter().map(|(_, shown)| *shown)));
    shown
        .iter()
        .filter_map(|(index, shown)| match right {
            Some(right) if right == *shown => None,
            Some(_) => Some((*index, Finding::OtherIdentity)),
            None => Some((*index, Finding::IdentityUndecided)),
        })
        .collect()
}

/// A node without a version gets it from another node with the same key_id.
fn versions(
    nodes: &[Option<NodeView>],
    comparable: &[(usize, &NodeView)],
) -> Vec<Option<TransitVersion>> {
    let told = |hash: &TextHash| {
        let known = comparable.iter().flat_map(|(_, node)| &node.known);
        let mut known = known.filter(|(known, _)| known == hash);
        known.next().map(|(_, version)| *version)
    };
    nodes
        .iter()
        .map(|node| {
            let node = node.as_ref()?;
            node.active_version
                .or_else(|| node.active.as_ref().and_then(told))
        })
        .collect()
}

fn version_of(versions: &[Option<TransitVersion>], index: usize) -> Option<TransitVersion> {
    versions.get(index).copied().flatten()
}

/// One version has one key_id in a cluster. A node with another key_id uses a recreated key or
/// another OpenBao.
fn other_keys(
    comparable: &[(usize, &NodeView)],
    versions: &[Option<TransitVersion>],
) -> Vec<(usize, Finding)> {
    let mut claims: Vec<(usize, TransitVersion, &TextHash)> = Vec::new();

    for (index, node) in comparable {
        let active = node.active.as_ref().zip(version_of(versions, *index));
        let active = active.map(|(hash, version)| (version, hash));
        let known = node.known.iter().map(|(hash, version)| (*version, hash));
        for (version, hash) in known.chain(active) {
            if !claims.contains(&(*index, version, hash)) {
                claims.push((*index, version, hash));
            }
        }
    }

    let mut found: Vec<(usize, Finding)> = Vec::new();
    for (index, version, hash) in &claims {
        let of_version = claims.iter().filter(|(_, other, _)| other == version);
        let hashes = of_version.map(|(_, _, hash)| *hash);
        let differs = hashes.clone().any(|other| other != *hash);
        let right = majority(hashes);
        let flagged = found.iter().any(|(flagged, _)| flagged == index);
        if differs && right != Some(*hash) && !flagged {
            let finding = Finding::OtherKey {
                version: *version,
                decided: right.is_some(),
            };
            found.push((*index, finding));
        }
    }

    found
}

/// Keys without a known version can only be compared for equality.
fn unknown_keys(
    comparable: &[(usize, &NodeView)],
    versions: &[Option<TransitVersion>],
) -> Vec<(usize, Finding)> {
    let active = || {
        comparable
            .iter()
            .filter_map(|(_, node)| node.active.as_ref())
    };
    let common = majority(active());
    let differ = active().any(|hash| Some(hash) != common);
    comparable
        .iter()
        .filter(|(index, node)| {
            let unknown = version_of(versions, *index).is_none();
            differ && unknown && node.active.is_some() && node.active.as_ref() != common
        })
        .map(|(index, _)| (*index, Finding::UnknownKey))
        .collect()
}

fn rotation(
    comparable: &[(usize, &NodeView)],
    versions: &[Option<TransitVersion>],
) -> Vec<(usize, Finding)> {
    let versions = |index: usize| version_of(versions, index);
    let newest = comparable.iter().filter_map(|(index, _)| versions(*index));
    let Some(newest) = newest.max() else {
        return Vec::new();
    };

    let stage = |(index, node): &(usize, &NodeView)| {
        let active = versions(*index)?;
        let finding = match node.pending {
            pending if active < newest => Finding::Behind {
                active,
                newest,
                waits: match pending {
                    Pending::Unknown => None,
                    Pending::No => Some(false),
                    Pending::Version(pending) => Some(pending >= newest),
                },
            },
            Pending::Version(pending) if pending > newest => Finding::Waits(pending),
            Pending::Unknown | Pending::No | Pending::Version(_) => return None,
        };
        Some((*index, finding))
    };

    comparable.iter().filter_map(stage).collect()
}

/// Every node should read each version read by another node, unless it has yet to discover it.
fn missing_versions(comparable: &[(usize, &NodeView)]) -> Vec<(usize, Finding)> {
    let less = |(index, node): &(usize, &NodeView)| {
        let than = |(_, peer): &(usize, &NodeView)| node.reads_less_than(peer);
        let less = comparable.iter().any(than);
        less.then_some((*index, Finding::MissingVersions))
    };
    comparable.iter().filter_map(less).collect()
}

/// The value of more than half of all.
fn majority<'a, T: PartialEq>(all: impl Iterator<Item = &'a T> + Clone) -> Option<&'a T> {
    let count = all.clone().count();
    all.clone()
        .find(|one| 2 * all.clone().filter(|other| other == one).count() > count)
}

fn verdict(findings: &[(usize, Finding)], comparable: &[(usize, &NodeView)]) -> Verdict {
    let heaviest = findings.iter().map(|(_, finding)| finding.weight()).max();
    let keys = comparable.iter().filter(|(_, node)| node.active.is_some());
    match heaviest {
        Some(Weight::Differs) => Verdict::Disagree,
        Some(Weight::Open) => Verdict::Inconclusive,
        _ if keys.count() < 2 => Verdict::Inconclusive,
        Some(Weight::Settles) => Verdict::Rotating,
        None => Verdict::Agree,
    }
}

impl NodeView {
    /// Whether this node lacks a version read by the peer, as far as both are known.
    fn reads_less_than(&self, peer: &Self) -> bool {
        if self.removed.iter().any(|gone| peer.reads.contains(gone)) {
            return true;
        }
        let (Some(own), Some(others)) = (self.readable, peer.readable) else {
            return false;
        };
        // A newer version on one node changes the count, but leaves the oldest version as it is.
        let same_active =
            self.active_version.is_some() && self.active_version == peer.active_version;
        own.oldest > others.oldest || same_active && own.count < others.count
    }
}

impl Finding {
    /// Effect on continuing with the next node.
    #[must_use]
    pub fn weight(self) -> Weight {
        match self {
            Self::OtherIdentity
            | Self::IdentityUndecided
            | Self::OtherKey { .. }
            | Self::NoState
            | Self::StateRefused
            | Self::Behind {
                waits: Some(false), ..
            }
            | Self::MissingVersions
            | Self::NotReady => Weight::Differs,
            Self::NoAnswer
            | Self::SameNode { .. }
            | Self::UnknownKey
            | Self::ServingUnknown
            | Self::Behind { waits: None, .. } => Weight::Open,
            Self::Waits(_)
            | Self::Behind {
                waits: Some(true), ..
            } => Weight::Settles,
        }
    }

    /// The stable code in reports.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::NoAnswer => "no_answer",
            Self::SameNode { .. } => "same_node",
            Self::OtherIdentity => "other_identity",
            Self::IdentityUndecided => "identity_undecided",
            Self::OtherKey { .. } => "other_key",
            Self::NoState => "no_state",
            Self::StateRefused => "state_refused",
            Self::Behind {
                waits: Some(true), ..
            } => "promotion_pending",
            Self::Behind { .. } => "behind",
            Self::Waits(_) => "waiting",
            Self::UnknownKey => "unknown_key",
            Self::MissingVersions => "missing_versions",
            Self::NotReady => "not_ready",
            Self::ServingUnknown => "serving_unknown",
        }
    }
}

impl Verdict {
    /// The stable code in reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Agree => "agree",
            Self::Rotating => "rotating",
            Self::Disagree => "disagree",
            Self::Inconclusive => "inconclusive",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::version;

    fn hash(of: &str) -> TextHash {
        TextHash::of(of)
    }

    fn fingerprint(letter: char) -> IdentityFingerprint {
        let digest = letter.to_string().repeat(42) + "A";
        IdentityFingerprint::parse(&format!("cfg1.{digest}")).unwrap()
    }

    /// A node read through its metrics: encrypts with this version and reads all up to it.
    fn metrics(active: u64) -> NodeView {
        let key = hash(&format!("key {active}"));
        NodeView {
            fingerprint: Some(fingerprint('a')),
            active: Some(key.clone()),
            active_version: Some(version(active)),
            pending: Pending::No,
            readable: Some(Readable {
                oldest: version(1),
                count: active,
            }),
            known: vec![(key, version(active))],
            ready: Some(true),
            state: StateView::Usable,
            reads: vec![version(1), version(active)],
            removed: Vec::new(),
            marks: Vec::new(),
        }
    }

    fn waiting(active: u64, pending: u64) -> NodeView {
        let mut view = metrics(active);
        view.pending = Pending::Version(version(pending));
        let waits = (hash(&format!("key {pending}")), version(pending));
        view.known.push(waits);
        view
    }

    /// A node read through its socket.
    fn socket(key: &str) -> NodeView {
        NodeView {
            fingerprint: None,
            active: Some(hash(key)),
            active_version: None,
            pending: Pending::Unknown,
            readable: None,
            known: Vec::new(),
            ready: Some(true),
            state: StateView::Unknown,
            reads: Vec::new(),
            removed: Vec::new(),
            marks: Vec::new(),
        }
    }

    fn marked(mut node: NodeView, marks: &[&str]) -> NodeView {
        node.marks = marks.iter().map(|mark| hash(mark)).collect();
        node
    }

    #[track_caller]
    fn assert_judged(nodes: &[Option<NodeView>], expected: Verdict, findings: &[(usize, Finding)]) {
        let judged = compare(nodes, None);
        assert_eq!(judged.findings, findings);
        assert_eq!(judged.verdict, expected);
        assert_eq!(judged.versions.len(), nodes.len());
    }

    fn behind(active: u64, newest: u64, waits: Option<bool>) -> Finding {
        let (active, newest) = (version(active), version(newest));
        Finding::Behind {
            active,
            newest,
            waits,
        }
    }

    #[test]
    fn equal_keys_agree_through_any_window() {
        let agree = |nodes: &[Option<NodeView>]| assert_judged(nodes, Verdict::Agree, &[]);
        agree(&[Some(metrics(2)), Some(metrics(2)), Some(metrics(2))]);
        agree(&[Some(metrics(2)), Some(socket("key 2"))]);
        agree(&[Some(socket("key 2")), Some(socket("key 2"))]);
        let judged = compare(&[Some(metrics(2)), Some(socket("key 2"))], None);
        assert_eq!(judged.versions, [Some(version(2)); 2]);
    }

    #[test]
    fn a_rotation_on_its_way_is_waited_for() {
        for (nodes, findings) in [
            // Found by one node, found by all, and promoted by one.
            (
                [waiting(1, 2), metrics(1)],
                vec![(0, Finding::Waits(version(2)))],
            ),
            (
                [waiting(1, 2), waiting(1, 2)],
                vec![
                    (0, Finding::Waits(version(2))),
                    (1, Finding::Waits(version(2))),
                ],
            ),
            (
                [metrics(2), waiting(1, 2)],
                vec![(1, behind(1, 2, Some(true)))],
            ),
            // A second rotation during the first.
            (
                [waiting(2, 3), waiting(1, 3)],
                vec![
                    (0, Finding::Waits(version(3))),
                    (1, behind(1, 2, Some(true))),
                ],
            ),
            // Another node knows the version of the socket's key.
            (
                [socket("key 2"), waiting(1, 2)],
                vec![(1, behind(1, 2, Some(true)))],
            ),
        ] {
            assert_judged(&nodes.map(Some), Verdict::Rotating, &findings);
        }
    }

    #[test]
    fn a_node_that_does_not_know_of_the_version_in_use_was_set_back() {
        let nodes = [metrics(2), metrics(1), metrics(2)].map(Some);
        let findings = [(1, behind(1, 2, Some(false)))];
        assert_judged(&nodes, Verdict::Disagree, &findings);
        let nodes = [metrics(3), waiting(1, 2)].map(Some);
        let findings = [(1, behind(1, 3, Some(false)))];
        assert_judged(&nodes, Verdict::Disagree, &findings);
    }

    #[test]
    fn what_a_socket_does_not_tell_is_not_known() {
        let mut first = metrics(2);
        first.known.push((hash("key 1"), version(1)));
        let nodes = [first, socket("key 1")].map(Some);
        assert_judged(&nodes, Verdict::Inconclusive, &[(1, behind(1, 2, None))]);
        let nodes = [metrics(2), socket("another")].map(Some);
        assert_judged(&nodes, Verdict::Inconclusive, &[(1, Finding::UnknownKey)]);
        let nodes = [socket("one"), socket("another")].map(Some);
        let findings = [(0, Finding::UnknownKey), (1, Finding::UnknownKey)];
        assert_judged(&nodes, Verdict::Inconclusive, &findings);
    }

    #[test]
    fn the_majority_or_the_configuration_says_whose_identity_is_right() {
        let mut foreign = metrics(1);
        foreign.fingerprint = Some(fingerprint('b'));
        let nodes = [metrics(2), foreign.clone(), metrics(2)].map(Some);
        let findings = [(1, Finding::OtherIdentity)];
        assert_judged(&nodes, Verdict::Disagree, &findings);

        let nodes = [metrics(2), foreign].map(Some);
        let undecided = Finding::IdentityUndecided;
        assert_judged(&nodes, Verdict::Disagree, &[(0, undecided), (1, undecided)]);
        let judged = compare(&nodes, Some(&fingerprint('b')));
        assert_eq!(judged.findings, [(0, Finding::OtherIdentity)]);
    }

    #[test]
    fn one_version_with_two_key_ids_is_two_keys() {
        let mut other = metrics(2);
        other.active = Some(hash("made anew"));
        other.known = vec![(hash("made anew"), version(2))];
        let finding = |decided| Finding::OtherKey {
            version: version(2),
            decided,
        };
        let nodes = [metrics(2), metrics(2), other.clone()].map(Some);
        assert_judged(&nodes, Verdict::Disagree, &[(2, finding(true))]);
        let nodes = [metrics(2), other].map(Some);
        let both = [(0, finding(false)), (1, finding(false))];
        assert_judged(&nodes, Verdict::Disagree, &both);
    }

    #[test]
    fn a_key_that_differs_in_an_older_version_is_another_key_too() {
        let mut first = metrics(2);
        first.known.push((hash("key 1"), version(1)));
        let mut second = metrics(2);
        second.known.push((hash("another key 1"), version(1)));
        let judged = compare(&[first, second].map(Some), None);
        assert_eq!(judged.verdict, Verdict::Disagree);
        let of_first = |(_, finding): &(usize, Finding)| matches!(finding, Finding::OtherKey { version: found, .. } if *found == version(1));
        assert!(judged.findings.iter().all(of_first));
    }

    #[test]
    fn a_node_that_reads_less_differs_only_from_those_with_its_version() {
        let mut less = metrics(3);
        less.readable = Some(Readable {
            oldest: version(2),
            count: 2,
        });
        let nodes = [metrics(3), less].map(Some);
        assert_judged(&nodes, Verdict::Disagree, &[(1, Finding::MissingVersions)]);
        let nodes = [metrics(2), waiting(1, 2)].map(Some);
        let judged = compare(&nodes, None);
        assert_eq!(
            judged.verdict,
            Verdict::Rotating,
            "it reads less by rotation"
        );
    }

    #[test]
    fn a_version_removed_on_one_node_and_read_by_another_is_missing_whatever_is_active() {
        // The states of two nodes that read equally many versions.
        let state = |reads: &[u64], removed: &[u64]| NodeView {
            reads: reads.iter().copied().map(version).collect(),
            removed: removed.iter().copied().map(version).collect(),
            readable: Some(Readable {
                oldest: version(1),
                count: 2,
            }),
            ..metrics(3)
        };
        let nodes = [state(&[1, 3], &[2]), state(&[1, 2, 3], &[])].map(Some);
        assert_judged(&nodes, Verdict::Disagree, &[(0, Finding::MissingVersions)]);
        let nodes = [state(&[1, 3], &[2]), state(&[1, 3], &[2])].map(Some);
        assert_judged(&nodes, Verdict::Agree, &[]);
        // During a rotation, with metrics as the only source.
        let mut less = metrics(3);
        less.readable = Some(Readable {
            oldest: version(2),
            count: 2,
        });
        let judged = compare(&[less, waiting(2, 3)].map(Some), None);
        assert_eq!(judged.verdict, Verdict::Disagree);
        assert!(judged.findings.contains(&(0, Finding::MissingVersions)));
    }

    #[test]
    fn a_node_that_is_looked_at_twice_agrees_with_nobody_and_has_one_voice() {
        let same = |other| Finding::SameNode { other };
        let twice = [
            marked(metrics(2), &["socket 1", "address 1"]),
            marked(socket("key 2"), &["socket 1"]),
        ];
        let found = [(0, same(1)), (1, same(0))];
        assert_judged(&twice.map(Some), Verdict::Inconclusive, &found);

        let mut foreign = marked(metrics(2), &["socket 1"]);
        foreign.fingerprint = Some(fingerprint('b'));
        let nodes = [
            foreign.clone(),
            foreign,
            marked(metrics(2), &["socket 2"]),
            marked(metrics(2), &["socket 3"]),
        ];
        let judged = compare(&nodes.map(Some), None);
        let found = [(0, same(1)), (0, Finding::OtherIdentity), (1, same(0))];
        assert_eq!(judged.findings, found);
        assert_eq!(judged.verdict, Verdict::Disagree);

        let nodes = [&["socket 1"], &["socket 2"]].map(|it| Some(marked(metrics(2), it)));
        assert_judged(&nodes, Verdict::Agree, &[]);
    }

    #[test]
    fn what_is_wrong_with_one_node_needs_no_other() {
        let mut refused = metrics(2);
        refused.state = StateView::Refused;
        let mut absent = socket("key 2");
        (absent.state, absent.active) = (StateView::Absent, None);
        let mut down = metrics(2);
        down.ready = Some(false);
        for (node, finding) in [
            (refused, Finding::StateRefused),
            (absent, Finding::NoState),
            (down, Finding::NotReady),
        ] {
            let nodes = [metrics(2), metrics(2), node].map(Some);
            assert_judged(&nodes, Verdict::Disagree, &[(2, finding)]);
        }
    }

    #[test]
    fn nodes_that_agree_are_left_to_each_other_only_if_all_are_seen_to_serve() {
        let mut copied = metrics(2);
        copied.ready = None;
        let nodes = [metrics(2), copied.clone()].map(Some);
        let findings = [(1, Finding::ServingUnknown)];
        assert_judged(&nodes, Verdict::Inconclusive, &findings);
        // A worse finding is reported alone.
        let mut behind = waiting(1, 2);
        behind.ready = None;
        let judged = compare(&[metrics(2), copied, behind].map(Some), None);
        assert_eq!(judged.verdict, Verdict::Rotating);
        assert!(
            !judged
                .findings
                .iter()
                .any(|(_, it)| *it == Finding::ServingUnknown)
        );
    }

    #[test]
    fn without_an_answer_nothing_is_agreed() {
        let nodes = [Some(metrics(2)), None, Some(metrics(2))];
        let findings = [(1, Finding::NoAnswer)];
        assert_judged(&nodes, Verdict::Inconclusive, &findings);
        let nodes = [Some(metrics(2)), None, Some(waiting(1, 2))];
        let judged = compare(&nodes, None);
        assert_eq!(judged.verdict, Verdict::Inconclusive);
        let nodes = [Some(metrics(2)), None, Some(metrics(1))];
        let judged = compare(&nodes, None);
        assert_eq!(judged.verdict, Verdict::Disagree, "what differs, differs");
    }
}
