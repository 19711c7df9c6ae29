//! Holds every piece of evidence against the live key and the others.

mod outcome;

use std::collections::BTreeMap;

use super::{
    EtcdEvidence, Evidence, Refusal, Unreadable, VersionRange,
    witness::{Known, Witness},
};
use crate::{
    recovery::{
        claims::OtherSecond,
        origin::{Gap, Origin},
    },
    registry::document::Generation,
    transit::TransitVersion,
};

/// The evidence that stands, and what stands against a plan.
pub(super) struct Weighing<'e> {
    evidence: &'e Evidence,
    witnesses: Vec<Witness<'e>>,
    /// Sources that hold objects of this provider.
    etcd: Vec<&'e EtcdEvidence>,
    /// By version: objects in each etcd that need it, decryptable or not.
    needed: BTreeMap<TransitVersion, Vec<(&'e str, u64)>>,
    /// The highest version that is shown as promoted.
    active: Option<TransitVersion>,
    assumed: Option<VersionRange>,
    /// Unreadable objects that the operator has accepted.
    pub(super) accepted: Vec<Unreadable>,
    /// The generation of a checkpoint beside a key that was never rotated.
    never_rotated: Option<Generation>,
    left_out: Vec<VersionRange>,
    /// Removed because no snapshot needs them, and nothing else tells.
    unneeded_then: Vec<TransitVersion>,
    pub(super) refusals: Vec<Refusal>,
}

impl<'e> Weighing<'e> {
    pub(super) fn of(evidence: &'e Evidence) -> Self {
        let mut weighing = Self {
            evidence,
            witnesses: Vec::new(),
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
        weighing.require_wanted();
        let Evidence {
            etcd,
            records,
            peers,
            own,
            ..
        } = evidence;
        if etcd.is_empty() && records.is_empty() && peers.is_empty() {
            weighing.refuse(Refusal::NoEvidence);
        }
        let own = own.document.valid();
        weighing.hear(own.map(|document| Witness::own(document, evidence)));
        weighing.hear(peers.iter().map(|peer| Witness::peer(peer, evidence)));
        weighing.hear(records.iter().map(|it| Witness::record(it, evidence)));
        weighing.require_same_key();
        for source in etcd {
            match source.findings.is_empty() {
                true => weighing.refuse(Refusal::NoObjects {
                    evidence: source.name.clone(),
                    provider: evidence.scope.identity().provider_name.to_string(),
                }),
                false => weighing.etcd.push(source),
            }
        }
        weighing.require_rotations();
        weighing.active = weighing.promoted().map(|(_, version)| version).max();
        let not_accepted = weighing.accept();
        for source in weighing.etcd.clone() {
            weighing.look_at(source);
        }
        weighing.refusals.extend(not_accepted);
        weighing
    }

    pub(super) fn refuse(&mut self, refusal: Refusal) {
        self.refusals.push(refusal);
    }

    /// A valid state is given up only by its name.
    fn require_wanted(&mut self) {
        let found = self.evidence.own.in_service();
        match (found, self.evidence.replace.clone()) {
            (None, None) => {}
            (Some(document), None) => self.refuse(Refusal::StateInPlace {
                generation: document.generation(),
                hash: document.hash().clone(),
            }),
            (Some(document), Some(expected)) if *document.hash() != expected => {
                self.refuse(Refusal::OtherState {
                    expected,
                    found: document.hash().clone(),
                });
            }
            (Some(_), Some(_)) => {}
            (None, Some(expected)) => self.refuse(Refusal::NothingToReplace { expected }),
        }
    }

    fn hear(&mut self, witnesses: impl IntoIterator<Item = Result<Witness<'e>, Refusal>>) {
        for witness in witnesses {
            match witness {
                Ok(witness) => self.witnesses.push(witness),
                Err(refusal) => self.refuse(refusal),
            }
        }
    }

    /// What a witness knows must be the live key's, and the same for all of them.
    fn require_same_key(&mut self) {
        let profile = &self.evidence.key;
        let mut first_known: BTreeMap<TransitVersion, (&str, Known<'_>)> = BTreeMap::new();
        let mut refusals = Vec::new();
        for witness in &self.witnesses {
            let evidence = || witness.name.to_owned();
            let latest = profile.latest();
            let numbers = witness.known.iter().map(|known| known.key.version());
            if let Some(version) = numbers.max().filter(|version| *version > latest) {
                refusals.push(Refusal::AboveLatest {
                    evidence: evidence(),
                    version,
                    latest,
                });
            }
            let mut versions = Vec::new();
            for known in &witness.known {
                let (version, recorded) = (known.key.version(), known.key.created_at());
                versions.extend(OtherSecond::of(profile, known.key));
                if profile.created_at(version).is_some() {
                    continue;
                }
                let (other, first) = first_known.entry(version).or_insert((witness.name, *known));
                let first = first.key.created_at();
                if first != recorded {
                    refusals.push(Refusal::Contradiction {
                        evidence: evidence(),
                        version,
                        second: recorded,
                        other: (*other).to_owned(),
                        first,
                    });
                }
            }
            if !versions.is_empty() {
                refusals.push(Refusal::Recreated {
                    evidence: evidence(),
                    versions,
                });
            }
        }
        self.refusals.extend(refusals);
    }

    /// The checkpoint of this node may tell of rotations that the key has not had.
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
            false => self.refuse(Refusal::NeverRotated { generation }),
        }
    }

    /// Versions under which at least one encrypted DEK decrypts.
    fn decrypting(&self) -> impl Iterator<Item = TransitVersion> {
        let findings = self.etcd.iter().flat_map(|source| &source.findings);
        findings.filter_map(|found| match &found.finding.origin {
            Origin::Live(key) if found.finding.seeds.proven > 0 => Some(key.version()),
            Origin::Live(_) | Origin::Known(_) | Origin::Gap(_) => None,
        })
    }

    /// Accepts what stays unreadable if the operator has named its exact number, and says else why
    /// not.
    fn accept(&mut self) -> Option<Refusal> {
        let accepted = self.evidence.accepted;
        let unreadable: Vec<_> = self.etcd.iter().flat_map(|it| it.unreadable()).collect();
        let counts = unreadable.iter().map(Unreadable::objects);
        let objects = counts.fold(0, u64::saturating_add);
        if unreadable.is_empty() {
            return accepted.map(|accepted| Refusal::AcceptanceIdle { accepted });
        }
        if !self.active_is_proven() {
            let active = self.active;
            return accepted.map(|_| Refusal::ActiveUnproven { active });
        }
        if accepted.is_some_and(|accepted| accepted.get() == objects) {
            self.accepted = unreadable;
            return None;
        }
        let sampled = self.etcd.iter().any(|source| source.is_sampled());
        Some(Refusal::Unreadable {
            objects,
            accepted,
            sampled,
        })
    }

    /// Whether a DEK decrypts under the version that would be active. Where etcd has none of that
    /// version, a state or record that has it as active or a superseded revision shows its promotion,
    /// if the key decrypts a DEK of another version.
    fn active_is_proven(&self) -> bool {
        let listed = |version: &TransitVersion| self.evidence.key.created_at(*version).is_some();
        let Some(active) = self.active.filter(listed) else {
            return false;
        };
        let mut witnesses = self.witnesses.iter();
        let told = witnesses.any(|witness| witness.active.version() == active);
        let mut superseded = self.etcd.iter().flat_map(|source| &source.superseded);
        let written =
            superseded.any(|origin| matches!(origin, Origin::Live(key) if key.version() == active));
        let named = told || written;
        self.decrypting().any(|version| named || version == active)
    }

    /// Refuses what does not decrypt, unless it is accepted.
    fn look_at(&mut self, source: &'e EtcdEvidence) {
        let name = || source.name.clone();
        let accepted = !self.accepted.is_empty();
        for found in &source.findings {
            let finding = &found.finding;
            let (version, gap) = match &finding.origin {
                // Without a look at the live key there is no evidence at all.
                Origin::Live(key) | Origin::Known(key) => (Some(key.version()), None),
                // The live version of that number is not the one that they need.
                Origin::Gap(gap @ Gap::OtherCreation { .. }) => (None, Some(gap)),
                Origin::Gap(gap) => (gap.version(), Some(gap)),
            };
            if let Some(version) = version {
                let objects = (source.name.as_str(), finding.objects);
                self.needed.entry(version).or_default().push(objects);
            }
            if let Some(gap) = gap {
                let of_others = matches!(gap, Gap::OtherProvider { .. });
                let settled = of_others || (accepted && gap.is_lasting());
                if !settled {
                    self.refuse(Refusal::Undecryptable {
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
                self.refuse(Refusal::NotDecrypted {
                    evidence: name(),
                    version,
                    deks: seeds.failed,
                });
            }
            // The number that is accepted must be of all objects.
            let sampled = source.sample.is_some() && self.evidence.accepted.is_none();
            let enough = sampled && seeds.proven > 0;
            let none = seeds.proven == 0 && seeds.failed == 0;
            if (seeds.untried > 0 && !enough) || none {
                self.refuse(Refusal::Untried {
                    evidence: name(),
                    version,
                    deks: seeds.untried,
                });
            }
        }
    }
}
