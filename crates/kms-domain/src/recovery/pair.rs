//! Verdict on a restored pair: may this etcd data and this OpenBao go into service together?

use std::{collections::BTreeSet, sync::Arc};

use super::resolve::{Claimed, Resolution, ResolveError};
use crate::{key::TransitKey, transit::TransitVersion};

/// Findings on the objects with one `key_id` and one set of annotations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Resolution of the `key_id`.
    pub origin: Resolution,
    /// Number of objects with it.
    pub objects: u64,
    /// Result for their distinct encrypted DEK seeds.
    pub seeds: Proof,
    /// Result for the objects themselves, if they were opened.
    pub data: Option<Proof>,
}

/// Number of attempts by outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Proof {
    /// Opened, and authentic.
    pub proven: u64,
    /// Attempted, and proven unreadable.
    pub failed: u64,
    /// Untried, or the attempt itself failed.
    pub untried: u64,
}

impl Proof {
    /// Sums of both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            proven: self.proven.saturating_add(other.proven),
            failed: self.failed.saturating_add(other.failed),
            untried: self.untried.saturating_add(other.untried),
        }
    }
}

/// Compatibility of the pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Every object of this key in etcd decrypts.
    Compatible,
    /// All findings are free of loss, but the [`remedies`] come first. Versions below
    /// `min_decryption_version` stay untested until it is lowered.
    CompatibleAfter,
    /// Some objects cannot decrypt with this OpenBao and this configuration.
    Incompatible,
    /// The evidence is insufficient.
    Inconclusive,
}

/// A step required before the objects can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remedy {
    /// Lower `min_decryption_version` to this version.
    LowerMinDecryption(TransitVersion),
    /// Restore these versions on this node, whose state has them as removed; ascending.
    RestoreVersions(Vec<TransitVersion>),
}

/// Evaluates the findings. The worst finding decides; objects of other keys are ignored.
///
/// `damaged` counts the values of this provider that every key fails to open. An empty list is
/// inconclusive: the data may belong to another cluster.
#[must_use]
pub fn judge(findings: &[Finding], damaged: u64, remedies: &[Remedy]) -> Verdict {
    let lost = |finding: &Finding| match &finding.origin {
        Resolution::Live(_)
        | Resolution::Known(_)
        | Resolution::Unresolved(
            ResolveError::Hidden { .. }
            | ResolveError::OtherProvider { .. }
            | ResolveError::Unknown { .. },
        ) => finding.seeds.failed > 0 || finding.data.is_some_and(|data| data.failed > 0),
        Resolution::Unresolved(
            ResolveError::KeyId(_)
            | ResolveError::Annotations(_)
            | ResolveError::Foreign(_)
            | ResolveError::IdentityMismatch { .. }
            | ResolveError::NewerThanLatest { .. }
            | ResolveError::Trimmed { .. }
            | ResolveError::Recreated { .. }
            | ResolveError::CreationTimeMismatch { .. }
            | ResolveError::NoKey { .. },
        ) => true,
    };

    let undecided = |finding: &Finding| match &finding.origin {
        Resolution::Live(_) => {
            finding.seeds.untried > 0 || finding.data.is_some_and(|data| data.untried > 0)
        }
        Resolution::Known(_)
        | Resolution::Unresolved(
            ResolveError::Unknown { .. }
            | ResolveError::OtherProvider { .. }
            | ResolveError::Hidden {
                claimed: Claimed::OtherKey,
                ..
            },
        ) => true,
        Resolution::Unresolved(_) => false,
    };

    if damaged > 0 || findings.iter().any(lost) {
        Verdict::Incompatible
    } else if findings.is_empty() || findings.iter().any(undecided) {
        Verdict::Inconclusive
    } else if remedies.is_empty() {
        Verdict::Compatible
    } else {
        Verdict::CompatibleAfter
    }
}

impl Finding {
    /// Counts the remaining objects, neither opened nor proven unreadable, as untried. Applies only
    /// if objects were opened at all.
    pub fn count_unopened(&mut self) {
        if let Some(data) = &mut self.data {
            let tried = data.proven.saturating_add(data.failed);
            data.untried = self.objects.saturating_sub(tried);
        }
    }
}

/// Steps, in order, before the recoverable objects can be read; they apply even if other objects
/// are lost. `removed` are the removed versions of this node's state: the node refuses their
/// `key_id`s even if OpenBao decrypts them.
#[must_use]
pub fn remedies(findings: &[Finding], removed: &[Arc<TransitKey>]) -> Vec<Remedy> {
    let mut hidden = BTreeSet::new();
    let mut refused = BTreeSet::new();

    for finding in findings {
        match &finding.origin {
            Resolution::Unresolved(ResolveError::Hidden {
                version, claimed, ..
            }) => {
                hidden.insert(*version);
                let removed = removed.iter().any(|key| key.version() == *version);
                if removed && *claimed == Claimed::Yes {
                    refused.insert(*version);
                }
            }
            Resolution::Live(key) | Resolution::Known(key) if removed.contains(key) => {
                refused.insert(key.version());
            }
            Resolution::Live(_) | Resolution::Known(_) | Resolution::Unresolved(_) => {}
        }
    }

    let lower = hidden.first().copied().map(Remedy::LowerMinDecryption);
    let restore = (!refused.is_empty()).then(|| refused.into_iter().collect());
    let restore = restore.map(Remedy::RestoreVersions);
    lower.into_iter().chain(restore).collect()
}

impl Verdict {
    /// The stable code in reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Compatible => "compatible",
            Self::CompatibleAfter => "compatible-after",
            Self::Incompatible => "incompatible",
            Self::Inconclusive => "inconclusive",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{annotations::AnnotationsInvalid, recovery::claims::OtherSecond, vectors};

    const PROVEN: Proof = Proof {
        proven: 2,
        failed: 0,
        untried: 0,
    };
    const FAILED: Proof = Proof {
        failed: 1,
        ..PROVEN
    };
    const UNTRIED: Proof = Proof {
        untried: 1,
        ..PROVEN
    };

    fn finding(origin: Resolution, seeds: Proof, data: Option<Proof>) -> Finding {
        Finding {
            origin,
            objects: 3,
            seeds,
            data,
        }
    }

    fn live(seeds: Proof, data: Option<Proof>) -> Finding {
        finding(
            Resolution::Live(vectors::key("golden, no namespace")),
            seeds,
            data,
        )
    }

    fn gap(gap: ResolveError) -> Finding {
        finding(Resolution::Unresolved(gap), Proof::default(), None)
    }

    fn hidden(number: u64) -> Finding {
        gap(ResolveError::Hidden {
            version: vectors::version(number),
            minimum: 9,
            claimed: Claimed::No,
        })
    }

    fn judged(findings: &[Finding], damaged: u64) -> Verdict {
        judge(findings, damaged, &remedies(findings, &[]))
    }

    fn trimmed() -> Finding {
        gap(ResolveError::Trimmed {
            version: vectors::version(1),
            minimum: 2,
        })
    }

    #[test]
    fn the_worst_finding_decides() {
        let known = Resolution::Known(vectors::key("golden, no namespace"));
        let known = || finding(known.clone(), Proof::default(), None);
        let unknown = gap(ResolveError::Unknown {
            version: vectors::version(1),
        });
        let other_provider = gap(ResolveError::OtherProvider {
            version: vectors::version(1),
            provider: "another".to_owned(),
        });
        let doubtful = gap(ResolveError::Hidden {
            version: vectors::version(1),
            minimum: 2,
            claimed: Claimed::OtherKey,
        });
        for (claim, findings, verdict) in [
            (
                "all seeds are proven",
                vec![live(PROVEN, None)],
                Verdict::Compatible,
            ),
            (
                "all objects are proven",
                vec![live(PROVEN, Some(PROVEN))],
                Verdict::Compatible,
            ),
            ("nothing was found", vec![], Verdict::Inconclusive),
            (
                "a seed is untried",
                vec![live(UNTRIED, None)],
                Verdict::Inconclusive,
            ),
            (
                "an object is untried",
                vec![live(PROVEN, Some(UNTRIED))],
                Verdict::Inconclusive,
            ),
            ("no key can be asked", vec![known()], Verdict::Inconclusive),
            ("nothing is known", vec![unknown], Verdict::Inconclusive),
            (
                "another provider may read it",
                vec![live(PROVEN, None), other_provider],
                Verdict::Inconclusive,
            ),
            (
                "what is hidden may be of another key",
                vec![live(PROVEN, None), doubtful],
                Verdict::Inconclusive,
            ),
            (
                "a seed fails",
                vec![live(FAILED, None), known()],
                Verdict::Incompatible,
            ),
            (
                "an object fails",
                vec![live(PROVEN, Some(FAILED))],
                Verdict::Incompatible,
            ),
            (
                "a version is gone",
                vec![live(PROVEN, None), trimmed()],
                Verdict::Incompatible,
            ),
            (
                "lost outweighs hidden",
                vec![hidden(3), trimmed()],
                Verdict::Incompatible,
            ),
            (
                "open outweighs hidden",
                vec![hidden(3), known()],
                Verdict::Inconclusive,
            ),
            (
                "hidden comes back",
                vec![live(PROVEN, None), hidden(3)],
                Verdict::CompatibleAfter,
            ),
        ] {
            assert_eq!(judged(&findings, 0), verdict, "{claim}");
        }
    }

    #[test]
    fn the_lowest_hidden_version_brings_all_back_whatever_else_is_lost() {
        let found = [hidden(3), hidden(2), trimmed(), hidden(4)];
        let lowest = Remedy::LowerMinDecryption(vectors::version(2));
        assert_eq!(remedies(&found, &[]), [lowest]);
        assert_eq!(remedies(&[trimmed(), live(PROVEN, None)], &[]), []);
    }

    #[test]
    fn a_version_that_this_node_has_removed_comes_back_first() {
        let removed = [vectors::key("golden, no namespace")];
        let found = [live(PROVEN, None)];
        let steps = remedies(&found, &removed);
        assert_eq!(steps, [Remedy::RestoreVersions(vec![removed[0].version()])]);
        assert_eq!(judge(&found, 0, &steps), Verdict::CompatibleAfter);
        let hidden = |claimed| {
            gap(ResolveError::Hidden {
                version: removed[0].version(),
                minimum: 9,
                claimed,
            })
        };
        let lower = Remedy::LowerMinDecryption(removed[0].version());
        let both = [lower.clone(), steps[0].clone()];
        assert_eq!(remedies(&[hidden(Claimed::Yes)], &removed), both);
        assert_eq!(remedies(&[hidden(Claimed::No)], &removed), [lower]);
    }

    #[test]
    fn a_value_that_nothing_opens_is_a_loss() {
        assert_eq!(judged(&[live(PROVEN, None)], 1), Verdict::Incompatible);
    }

    #[test]
    fn every_gap_but_the_hidden_and_the_unknown_is_a_loss() {
        let version = vectors::version(1);
        let lost = [
            ResolveError::KeyId(crate::key_id::KeyId::parse("").unwrap_err()),
            ResolveError::Annotations(AnnotationsInvalid::Empty),
            ResolveError::Foreign(crate::annotations::AnnotationMismatch { annotation: "a" }),
            ResolveError::IdentityMismatch { names: Vec::new() },
            ResolveError::NewerThanLatest {
                version,
                latest: version,
                recorded: None,
            },
            ResolveError::Trimmed {
                version,
                minimum: 2,
            },
            ResolveError::NoKey { version },
            ResolveError::Recreated {
                version,
                evidence: String::new(),
                contradiction: OtherSecond {
                    version,
                    recorded: vectors::created_at(1),
                    live: vectors::created_at(2),
                },
            },
            ResolveError::CreationTimeMismatch {
                version,
                live: vectors::created_at(1),
                recorded: None,
            },
        ];
        for lost in lost {
            let code = lost.code();
            assert_eq!(judged(&[gap(lost)], 0), Verdict::Incompatible, "{code}");
        }
    }
}
