//! Holds every piece of evidence against the live key and the others.

mod outcome;

use std::collections::BTreeMap;

use super::{
    EtcdEvidence, Evidence, Refusal, VersionRange,
    witness::{Known, Witness},
};
use crate::{
    recovery::{
        claims::OtherSecond,
        origin::{Gap, Origin},
    },
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
    active: Option<TransitVersion>,
    assumed: Option<VersionRange>,
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
            weighing.look_at(source);
        }
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

    fn look_at(&mut self, source: &'e EtcdEvidence) {
        let name = || source.name.clone();
        if source.findings.is_empty() {
            let provider = &self.evidence.scope.identity().provider_name;
            self.refuse(Refusal::NoObjects {
                evidence: name(),
                provider: provider.to_string(),
            });
            return;
        }
        self.etcd.push(source);
        for finding in &source.findings {
            let version = match &finding.origin {
                // Without a look at the live key there is no evidence at all.
                Origin::Live(key) | Origin::Known(key) => key.version(),
                Origin::Gap(gap) => {
                    if let Some(version) = gap.version() {
                        let objects = (source.name.as_str(), finding.objects);
                        self.needed.entry(version).or_default().push(objects);
                    }
                    if matches!(gap, Gap::OtherProvider { .. }) {
                        continue;
                    }
                    self.refuse(Refusal::Undecryptable {
                        evidence: name(),
                        objects: finding.objects,
                        gap: gap.clone(),
                    });
                    continue;
                }
            };
            let objects = (source.name.as_str(), finding.objects);
            self.needed.entry(version).or_default().push(objects);
            let seeds = finding.seeds;
            if seeds.failed > 0 {
                self.refuse(Refusal::NotDecrypted {
                    evidence: name(),
                    version,
                    deks: seeds.failed,
                });
            }
            let enough = source.sample.is_some() && seeds.proven > 0;
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
