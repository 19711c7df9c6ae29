//! Compares every piece of evidence with the live key and with the other evidence.

mod outcome;

use std::collections::BTreeMap;

use super::{
    EtcdEvidence, Evidence, PlanBlocker, Unreadable, VersionRange,
    claim_source::{ClaimSource, Known},
};
use crate::{
    recovery::{
        claims::OtherSecond,
        resolve::{Resolution, ResolveError},
    },
    registry::document::Generation,
    transit::TransitVersion,
};

/// The usable evidence, and the blockers of the plan.
pub(super) struct Assessment<'e> {
    evidence: &'e Evidence,
    claim_sources: Vec<ClaimSource<'e>>,
    /// Sources with objects of this provider.
    etcd: Vec<&'e EtcdEvidence>,
    /// By version: objects in each etcd that need it, decryptable or not.
    needed: BTreeMap<TransitVersion, Vec<(&'e str, u64)>>,
    /// The highest version with evidence of promotion.
    active: Option<TransitVersion>,
    assumed: Option<VersionRange>,
    /// Unreadable objects that the operator has accepted.
    pub(super) accepted: Vec<Unreadable>,
    /// Generation of the checkpoint beside a key that was never rotated.
    never_rotated: Option<Generation>,
    left_out: Vec<VersionRange>,
    /// Removed because no snapshot needs them; no other evidence confirms it.
    unneeded_then: Vec<TransitVersion>,
    pub(super) refusals: Vec<PlanBlocker>,
}

impl<'e> Assessment<'e> {
    pub(super) fn of(evidence: &'e Evidence) -> Self {
        let mut assessment = Self {
            evidence,
            claim_sources: Vec::new(),
            etcd: Vec::new(),
            needed: BTreeMap::new(),
            active: None,
            assumed: None,
            accepted: Vec::new(),
            never_rotated: None,
            left_out: Vec::new(),
            unneeded_then: Vec::new(),
            refusals: Vec::new(),
        };

        assessment.require_wanted();
        let Evidence {
            etcd,
            records,
            peers,
            own,
            ..
        } = evidence;
        let legacy = own.legacy().is_some();
        if etcd.is_empty() && records.is_empty() && peers.is_empty() && !legacy {
            assessment.refuse(PlanBlocker::NoEvidence);
        }

        let own = own.document.readable();
        assessment.hear(own.map(|document| ClaimSource::own(document, evidence)));
        assessment.hear(peers.iter().map(|peer| ClaimSource::peer(peer, evidence)));
        assessment.hear(records.iter().map(|it| ClaimSource::record(it, evidence)));
        assessment.require_same_key();

        for source in etcd {
            match source.findings.is_empty() {
                true => assessment.refuse(PlanBlocker::NoObjects {
                    evidence: source.name.clone(),
                    provider: evidence.scope.identity().provider_name.to_string(),
                }),
                false => assessment.etcd.push(source),
            }
        }

        assessment.require_rotations();
        assessment.active = assessment.promoted().map(|(_, version)| version).max();

        let not_accepted = assessment.accept();
        for source in assessment.etcd.clone() {
            assessment.look_at(source);
        }

        assessment.refusals.extend(not_accepted);
        assessment
    }

    pub(super) fn refuse(&mut self, refusal: PlanBlocker) {
        self.refusals.push(refusal);
    }

    /// A valid state is replaced only if the operator names its hash.
    fn require_wanted(&mut self) {
        let found = self.evidence.own.in_service();
        match (found, self.evidence.replace.clone()) {
            (None, None) => {}
            (Some(document), None) => self.refuse(PlanBlocker::StateInPlace {
                generation: document.generation(),
                hash: document.hash().clone(),
            }),
            (Some(document), Some(expected)) if *document.hash() != expected => {
                self.refuse(PlanBlocker::OtherState {
                    expected,
                    found: document.hash().clone(),
                });
            }
            (Some(_), Some(_)) => {}
            (None, Some(expected)) => self.refuse(PlanBlocker::NothingToReplace { expected }),
        }
    }

    fn hear(
        &mut self,
        claim_sources: impl IntoIterator<Item = Result<ClaimSource<'e>, PlanBlocker>>,
    ) {
        for claim_source in claim_sources {
            match claim_source {
                Ok(claim_source) => self.claim_sources.push(claim_source),
                Err(refusal) => self.refuse(refusal),
            }
        }
    }

    /// Versions of all claim sources must agree with the live key and with each other.
    fn require_same_key(&mut self) {
        let profile = &self.evidence.key;
        let mut first_known: BTreeMap<TransitVersion, (&str, Known<'_>)> = BTreeMap::new();
        let mut refusals = Vec::new();

        for claim_source in &self.claim_sources {
            let evidence = || claim_source.name.to_owned();
            let latest = profile.latest();
            let numbers = claim_source.known.iter().map(|known| known.key.version());
            if let Some(version) = numbers.max().filter(|version| *version > latest) {
                refusals.push(PlanBlocker::AboveLatest {
                    evidence: evidence(),
                    version,
                    latest,
                });
            }

            let mut versions = Vec::new();
            for known in &claim_source.known {
                let (version, recorded) = (known.key.version(), known.key.created_at());
                versions.extend(OtherSecond::of(profile, known.key));
                if profile.created_at(version).is_some() {
                    continue;
                }
                let (other, first) = first_known
                    .entry(version)
                    .or_insert((claim_source.name, *known));
                let first = first.key.created_at();
                if first != recorded {
                    refusals.push(PlanBlocker::Contradiction {
                        evidence: evidence(),
                        version,
                        second: recorded,
                        other: (*other).to_owned(),
                        first,
                    });
                }
            }

            if !versions.is_empty() {
                refusals.push(PlanBlocker::Recreated {
                    evidence: evidence(),
                    versions,
                });
            }
        }

        self.refusals.extend(refusals);
    }

    /// The checkpoint of this node may imply rotations, although the key was never rotated.
    fn require_rotations(&mut self) {
        let Evidence { own, key, .. } = self.evidence;
        let checkpoint = own.checkpoint.valid();
        let Some(checkpoint) = checkpoint.filter(|it| it.needs_rotations_of(key)) else {
            return;
        };
        if own.in_service().is_some() {
            return;
        }

        let generation = checkpoint.generation();
        let proven = self.decrypting().next().is_some();
        match proven {
            true => self.never_rotated = Some(generation),
            false => self.refuse(PlanBlocker::NeverRotated { generation }),
        }
    }

    /// Versions with at least one decrypted DEK.
    fn decrypting(&self) -> impl Iterator<Item = TransitVersion> {
        let findings = self.etcd.iter().flat_map(|source| &source.findings);
        findings.filter_map(|found| match &found.finding.origin {
            Resolution::Live(key) if found.finding.seeds.proven > 0 => Some(key.version()),
            Resolution::Live(_) | Resolution::Known(_) | Resolution::Unresolved(_) => None,
        })
    }

    /// Accepts the unreadable objects if the operator has given their exact number and the active
    /// version is proven. Otherwise returns the blocker, if any.
    fn accept(&mut self) -> Option<PlanBlocker> {
        let accepted = self.evidence.accepted;
        let unreadable: Vec<_> = self.etcd.iter().flat_map(|it| it.unreadable()).collect();
        let counts = unreadable.iter().map(Unreadable::objects);
        let objects = counts.fold(0, u64::saturating_add);
        if unreadable.is_empty() {
            return accepted.map(|accepted| PlanBlocker::AcceptanceIdle { accepted });
        }

        if !self.active_is_proven() {
            let active = self.active;
            return accepted.map(|_| PlanBlocker::ActiveUnproven { active });
        }

        if accepted.is_some_and(|accepted| accepted.get() == objects) {
            self.accepted = unreadable;
            return None;
        }

        let sampled = self.etcd.iter().any(|source| source.is_sampled());
        Some(PlanBlocker::Unreadable {
            objects,
            accepted,
            sampled,
        })
    }

    /// Whether a DEK decrypts under the version to be active. If etcd has no DEK of that version, a
    /// decrypted DEK of another version is enough, provided that a state or record has the version
    /// as active or a superseded revision was written under it.
    fn active_is_proven(&self) -> bool {
        let listed = |version: &TransitVersion| self.evidence.key.created_at(*version).is_some();
        let Some(active) = self.active.filter(listed) else {
            return false;
        };

        let mut claim_sources = self.claim_sources.iter();
        let told = claim_sources.any(|claim_source| claim_source.active.version() == active);

        let mut superseded = self.etcd.iter().flat_map(|source| &source.superseded);
        let written = superseded
            .any(|origin| matches!(origin, Resolution::Live(key) if key.version() == active));

        let named = told || written;
        self.decrypting().any(|version| named || version == active)
    }

    /// Adds a blocker for each group of undecryptable or untried DEKs, except accepted ones.
    fn look_at(&mut self, source: &'e EtcdEvidence) {
        let name = || source.name.clone();
        let accepted = !self.accepted.is_empty();
        for found in &source.findings {
            let finding = &found.finding;
            let (version, gap) = match &finding.origin {
                // `Known` occurs only without the live key's profile, and a plan always has one.
                Resolution::Live(key) | Resolution::Known(key) => (Some(key.version()), None),
                // The objects need another version than the live one of that number.
                Resolution::Unresolved(gap @ ResolveError::CreationTimeMismatch { .. }) => {
                    (None, Some(gap))
                }
                Resolution::Unresolved(gap) => (gap.version(), Some(gap)),
            };

            if let Some(version) = version {
                let objects = (source.name.as_str(), finding.objects);
                self.needed.entry(version).or_default().push(objects);
            }

            if let Some(gap) = gap {
                let of_others = matches!(gap, ResolveError::OtherProvider { .. });
                let settled = of_others || (accepted && gap.is_lasting());
                if !settled {
                    self.refuse(PlanBlocker::Undecryptable {
                        evidence: name(),
                        objects: finding.objects,
                        gap: gap.clone(),
                    });
                }
                continue;
            }

            let Some(version) = version else { continue };
            let seeds = finding.seeds;
            if seeds.failed > 0 && !accepted {
                self.refuse(PlanBlocker::NotDecrypted {
                    evidence: name(),
                    version,
                    deks: seeds.failed,
                });
            }

            // The accepted number must cover all objects, so a sample is insufficient.
            let sampled = source.sample.is_some() && self.evidence.accepted.is_none();
            let enough = sampled && seeds.proven > 0;
            let none = seeds.proven == 0 && seeds.failed == 0;
            if (seeds.untried > 0 && !enough) || none {
                self.refuse(PlanBlocker::Untried {
                    evidence: name(),
                    version,
                    deks: seeds.untried,
                });
            }
        }
    }
}
