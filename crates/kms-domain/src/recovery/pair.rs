//! May this etcd data and this OpenBao go into service together? The verdict from what was found.

use super::origin::{Gap, Origin};
use crate::transit::TransitVersion;

/// What was found about the objects of one `key_id` and one set of annotations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where the `key_id` comes from.
    pub origin: Origin,
    /// How many objects carry it.
    pub objects: u64,
    /// What became of their distinct encrypted seeds.
    pub seeds: Proof,
    /// What became of the objects themselves, if they were opened.
    pub data: Option<Proof>,
}

/// How many of a kind were tried, and with what outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Proof {
    /// Opened, and found authentic.
    pub proven: u64,
    /// Found not to open.
    pub failed: u64,
    /// Not tried, or the attempt itself failed.
    pub untried: u64,
}

/// The answer to "is this a compatible pair?".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Everything that etcd holds under this provider decrypts.
    Compatible,
    /// Everything will, once the [`remedies`] have been carried out.
    CompatibleAfter,
    /// Some of it does not and will not decrypt with this OpenBao and this configuration.
    Incompatible,
    /// What was looked at does not decide it.
    Inconclusive,
}

/// What makes a pair compatible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Lower `min_decryption_version` to this version.
    LowerMinDecryption(TransitVersion),
}

/// Judges what was found. The worst finding decides; objects of other providers play no part.
///
/// `damaged` values are those that no key of any provider opens; they may be of this one. Nothing
/// found is no proof: the data may be that of another cluster.
#[must_use]
pub fn judge(findings: &[Finding], damaged: u64) -> Verdict {
    let lost = |finding: &Finding| match &finding.origin {
        Origin::Live(_)
        | Origin::Known(_)
        | Origin::Gap(Gap::Hidden { .. } | Gap::Unknown { .. }) => {
            finding.seeds.failed > 0 || finding.data.is_some_and(|data| data.failed > 0)
        }
        Origin::Gap(
            Gap::KeyId(_)
            | Gap::Annotations(_)
            | Gap::Foreign(_)
            | Gap::OtherScope { .. }
            | Gap::NewerThanLatest { .. }
            | Gap::Trimmed { .. }
            | Gap::OtherCreation { .. }
            | Gap::NoKey { .. },
        ) => true,
    };
    let undecided = |finding: &Finding| match &finding.origin {
        Origin::Live(_) => {
            finding.seeds.untried > 0 || finding.data.is_some_and(|data| data.untried > 0)
        }
        Origin::Known(_) | Origin::Gap(Gap::Unknown { .. }) => true,
        Origin::Gap(_) => false,
    };
    if damaged > 0 || findings.iter().any(lost) {
        Verdict::Incompatible
    } else if findings.is_empty() || findings.iter().any(undecided) {
        Verdict::Inconclusive
    } else if remedies(findings).is_empty() {
        Verdict::Compatible
    } else {
        Verdict::CompatibleAfter
    }
}

impl Finding {
    /// Where objects were opened, those that were neither opened nor found not to open are untried,
    /// for whatever reason nobody came by them.
    pub fn count_unopened(&mut self) {
        if let Some(data) = &mut self.data {
            let tried = data.proven.saturating_add(data.failed);
            data.untried = self.objects.saturating_sub(tried);
        }
    }
}

/// What brings data back that is not lost, also where other data is.
#[must_use]
pub fn remedies(findings: &[Finding]) -> Vec<Remedy> {
    let hidden = findings.iter().filter_map(|finding| match finding.origin {
        Origin::Gap(Gap::Hidden { version, .. }) => Some(version),
        Origin::Live(_) | Origin::Known(_) | Origin::Gap(_) => None,
    });
    let lowest = hidden.min();
    lowest.map(Remedy::LowerMinDecryption).into_iter().collect()
}

impl Verdict {
    /// The word in reports.
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
    use crate::{annotations::AnnotationsInvalid, vectors};

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

    fn finding(origin: Origin, seeds: Proof, data: Option<Proof>) -> Finding {
        Finding {
            origin,
            objects: 3,
            seeds,
            data,
        }
    }

    fn live(seeds: Proof, data: Option<Proof>) -> Finding {
        finding(
            Origin::Live(vectors::key("golden, no namespace")),
            seeds,
            data,
        )
    }

    fn gap(gap: Gap) -> Finding {
        finding(Origin::Gap(gap), Proof::default(), None)
    }

    fn hidden(number: u64) -> Finding {
        gap(Gap::Hidden {
            version: vectors::version(number),
            minimum: 9,
            known: false,
        })
    }

    fn trimmed() -> Finding {
        gap(Gap::Trimmed {
            version: vectors::version(1),
            minimum: 2,
        })
    }

    #[test]
    fn the_worst_finding_decides() {
        let known = Origin::Known(vectors::key("golden, no namespace"));
        let known = || finding(known.clone(), Proof::default(), None);
        let unknown = gap(Gap::Unknown {
            version: vectors::version(1),
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
            assert_eq!(judge(&findings, 0), verdict, "{claim}");
        }
    }

    #[test]
    fn the_lowest_hidden_version_brings_all_back_whatever_else_is_lost() {
        let found = [hidden(3), hidden(2), trimmed(), hidden(4)];
        let lowest = Remedy::LowerMinDecryption(vectors::version(2));
        assert_eq!(remedies(&found), [lowest]);
        assert_eq!(remedies(&[trimmed(), live(PROVEN, None)]), []);
    }

    #[test]
    fn a_value_that_nothing_opens_is_a_loss() {
        assert_eq!(judge(&[live(PROVEN, None)], 1), Verdict::Incompatible);
    }

    #[test]
    fn every_gap_but_the_hidden_and_the_unknown_is_a_loss() {
        let version = vectors::version(1);
        let lost = [
            Gap::KeyId(crate::key_id::KeyId::parse("").unwrap_err()),
            Gap::Annotations(AnnotationsInvalid::Empty),
            Gap::Foreign(crate::annotations::AnnotationMismatch { annotation: "a" }),
            Gap::OtherScope { names: Vec::new() },
            Gap::NewerThanLatest {
                version,
                latest: version,
                recorded: None,
            },
            Gap::Trimmed {
                version,
                minimum: 2,
            },
            Gap::NoKey { version },
            Gap::OtherCreation {
                version,
                live: vectors::created_at(1),
                recorded: None,
            },
        ];
        for lost in lost {
            let code = lost.code();
            assert_eq!(judge(&[gap(lost)], 0), Verdict::Incompatible, "{code}");
        }
    }
}
