//! Holds every piece of evidence against the live key and the others.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    EtcdEvidence, Evidence, Limitation, Link, Previous, Rebuilt, Refusal, VersionRange,
    witness::{Known, Witness},
};
use crate::{
    key::TransitKey,
    recovery::origin::Origin,
    registry::{Record, RecordState, rotation},
    transit::{TransitVersion, VersionProblem},
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
            for known in &witness.known {
                let (version, recorded) = (known.key.version(), known.key.created_at());
                let evidence = witness.name.to_owned();
                if version > profile.latest() {
                    refusals.push(Refusal::AboveLatest {
                        evidence,
                        version,
                        latest: profile.latest(),
                    });
                    continue;
                }
                if let Some(live) = profile.created_at(version) {
                    if live != recorded {
                        refusals.push(Refusal::Recreated {
                            evidence,
                            version,
                            recorded,
                            live,
                        });
                    }
                    continue;
                }
                let (other, first) = first_known.entry(version).or_insert((witness.name, *known));
                let first = first.key.created_at();
                if first != recorded {
                    refusals.push(Refusal::Contradiction {
                        evidence,
                        version,
                        second: recorded,
                        other: (*other).to_owned(),
                        first,
                    });
                }
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

    /// The highest version that is shown as promoted, if it can be used and none beyond it is in
    /// question.
    pub(super) fn active(&mut self) -> Option<Arc<TransitKey>> {
        let profile = &self.evidence.key;
        let active = self.promoted().map(|(_, version)| version).max()?;
        self.active = Some(active);
        self.require_nothing_beyond(active);
        let shown_by = || self.active_shown_by().into_iter().next();
        let evidence = shown_by().unwrap_or_default();
        if profile.blocks_encryption(active) {
            self.refuse(Refusal::ActiveBlocked {
                evidence: evidence.clone(),
                active,
                minimum: profile.min_encryption(),
            });
        }
        match profile.decryptable(active) {
            Ok(created_at) => {
                let scope = Arc::clone(&self.evidence.scope);
                Some(Arc::new(TransitKey::new(scope, active, created_at)))
            }
            // Told of each piece of evidence already.
            Err(VersionProblem::AboveLatest { .. }) => None,
            Err(problem) => {
                self.refuse(Refusal::ActiveUnusable { evidence, problem });
                None
            }
        }
    }

    /// What each piece of evidence shows as promoted. Only one version at a time was active, but
    /// data is a trace of each that ever was.
    fn promoted(&self) -> impl Iterator<Item = (&'e str, TransitVersion)> {
        let said = self.witnesses.iter();
        let said = said.map(|witness| (witness.name, witness.active.version()));
        let stored = self.etcd.iter().flat_map(|source| {
            let live = source.findings.iter().filter_map(|it| match &it.origin {
                Origin::Live(key) => Some(key.version()),
                Origin::Known(_) | Origin::Gap(_) => None,
            });
            live.map(|version| (source.name.as_str(), version))
        });
        said.chain(stored)
    }

    pub(super) fn active_shown_by(&self) -> Vec<String> {
        let shown = self
            .promoted()
            .filter(|(_, version)| Some(*version) == self.active);
        shown.map(|(name, _)| name.to_owned()).collect()
    }

    /// Nothing tells whether a version beyond all evidence is in use. If it is, a node with an older
    /// one would flip the key_id back.
    fn require_nothing_beyond(&mut self, active: TransitVersion) {
        let latest = self.evidence.key.latest();
        let assumed = self.evidence.not_promoted;
        if let Some(assumed) = assumed.filter(|assumed| *assumed <= active) {
            let wrong = self.promoted().find(|(_, version)| *version >= assumed);
            if let Some((evidence, promoted)) = wrong {
                self.refuse(Refusal::AssumptionWrong {
                    evidence: evidence.to_owned(),
                    assumed,
                    promoted,
                });
            }
        }
        if let Some(assumed) = assumed.filter(|assumed| *assumed > latest && *assumed > active) {
            self.refuse(Refusal::AssumptionIdle { assumed, latest });
        }
        let Some(first) = after(active).filter(|first| *first <= latest) else {
            return;
        };
        let beyond = |last| VersionRange { first, last };
        match assumed {
            Some(assumed) if assumed == first => self.assumed = Some(beyond(latest)),
            Some(assumed) if assumed <= active => {}
            Some(_) | None => {
                let last = assumed.and_then(before).unwrap_or(latest).min(latest);
                let names = self.witnesses.iter().map(|witness| witness.name);
                let names = names.chain(self.etcd.iter().map(|source| source.name.as_str()));
                self.refuse(Refusal::Undecided {
                    evidence: names.map(str::to_owned).collect(),
                    active,
                    versions: beyond(last),
                });
            }
        }
    }

    /// Every version up to the active one that can be named, in document order.
    pub(super) fn records(&mut self, active: &Arc<TransitKey>) -> (Vec<Record>, Vec<Rebuilt>) {
        let profile = &self.evidence.key;
        let mut keys: BTreeMap<TransitVersion, (Arc<TransitKey>, RecordState)> = BTreeMap::new();
        for (version, created_at) in profile.listed() {
            if version < active.version() {
                let scope = Arc::clone(&self.evidence.scope);
                let key = Arc::new(TransitKey::new(scope, version, created_at));
                // Also where it was taken out of use: what decrypts is not to become unreadable.
                keys.insert(version, (key, RecordState::Retired));
            }
        }
        keys.insert(active.version(), (Arc::clone(active), RecordState::Active));
        let mut refusals = Vec::new();
        for known in self.witnesses.iter().flat_map(|witness| &witness.known) {
            let version = known.key.version();
            if version < active.version() && !keys.contains_key(&version) {
                refusals.extend(self.unaccounted(version));
                keys.insert(version, (Arc::clone(known.key), RecordState::Removed));
            }
        }
        self.refusals.extend(refusals);
        self.left_out = gaps(keys.keys().copied());

        let records = keys.into_values().map(|(key, state)| {
            let bookkeeping = self.bookkeeping(&key).unwrap_or_default();
            Record {
                bookkeeping: match state {
                    RecordState::Retired => bookkeeping.retired(),
                    RecordState::Active
                    | RecordState::Pending
                    | RecordState::Rejected
                    | RecordState::Removed => bookkeeping,
                },
                key,
                state,
            }
        });
        let records = rotation::in_order(records.collect());
        let versions = records.iter().map(|record| self.describe(record)).collect();
        (records, versions)
    }

    /// A version that OpenBao does not decrypt is removed if no etcd needs it, or if it had been
    /// removed elsewhere. What etcd needs has been refused by then.
    fn unaccounted(&self, version: TransitVersion) -> Option<Refusal> {
        if self.needed.contains_key(&version) || !self.etcd.is_empty() {
            return None;
        }
        let said = || {
            let about = move |known: &&Known<'_>| known.key.version() == version;
            let witnesses = self.witnesses.iter();
            witnesses.filter_map(move |witness| {
                let known = witness.known.iter().find(about)?;
                Some((witness.name, known.state))
            })
        };
        let own = super::OWN_STATE;
        if said().any(|(name, state)| state == Some(RecordState::Removed) && name != own) {
            return None;
        }
        let problem = self.evidence.key.decryptable(version).err()?;
        let (evidence, _) = said().next()?;
        Some(Refusal::Unaccounted {
            evidence: evidence.to_owned(),
            problem,
        })
    }

    fn bookkeeping(&self, key: &Arc<TransitKey>) -> Option<crate::registry::Bookkeeping> {
        let known = self.witnesses.iter().flat_map(|witness| &witness.known);
        known
            .filter(|known| known.key == key)
            .find_map(|known| known.bookkeeping)
    }

    fn describe(&self, record: &Record) -> Rebuilt {
        let version = record.key.version();
        let said = self.witnesses.iter().filter_map(|witness| {
            let known = witness.known.iter();
            let known = known.clone().find(|known| known.key.version() == version)?;
            Some((witness.name.to_owned(), known.state))
        });
        let needed = self.needed.get(&version).into_iter().flatten();
        Rebuilt {
            key: Arc::clone(&record.key),
            state: record.state,
            objects: needed
                .map(|(name, objects)| ((*name).to_owned(), *objects))
                .collect(),
            said: said.collect(),
        }
    }

    /// What the new document follows: this node's own chain as far as it is known, else the longest
    /// one that is shown.
    pub(super) fn link(&self) -> Option<(Link, Previous)> {
        let own = &self.evidence.own;
        if let Some(document) = own.in_service() {
            let previous = (document.generation(), document.hash().clone());
            return Some((Link::Replaced, Some(previous)));
        }
        if let Some(checkpoint) = own.checkpoint.valid() {
            let previous = (checkpoint.generation(), checkpoint.hash().clone());
            return Some((Link::Checkpoint, Some(previous)));
        }
        // Of equals the first, which is this node's own.
        let longest = self.witnesses.iter().rev();
        Some(match longest.max_by_key(|witness| witness.generation) {
            Some(witness) => (
                Link::Evidence(witness.name.to_owned()),
                Some((witness.generation, witness.hash.clone())),
            ),
            None => (Link::Nothing, None),
        })
    }

    pub(super) fn limitations(&self, link: &Link) -> Vec<Limitation> {
        let mut limitations = Vec::new();
        if self.etcd.is_empty() {
            limitations.push(Limitation::NoEtcd);
        }
        for source in &self.etcd {
            let evidence = || source.name.clone();
            let untried = source.findings.iter().map(|it| it.seeds.untried);
            let untried = untried.fold(0, u64::saturating_add);
            if let Some(sample) = source.sample.filter(|_| untried > 0) {
                limitations.push(Limitation::Sampled {
                    evidence: evidence(),
                    sample: sample.get(),
                    untried,
                });
            }
            if source.damaged > 0 {
                limitations.push(Limitation::Damaged {
                    evidence: evidence(),
                    values: source.damaged,
                });
            }
        }
        limitations.extend(self.assumed.map(Limitation::Assumed));
        limitations.extend(self.left_out.iter().copied().map(Limitation::LeftOut));
        match link {
            Link::Replaced | Link::Checkpoint => {}
            Link::Evidence(name) => limitations.push(Limitation::OtherChain(name.clone())),
            Link::Nothing => limitations.push(Limitation::NoLowerBound),
        }
        limitations
    }
}

/// The versions between 1 and the last of `known` that are not among them; `known` ascends. A wild
/// number in metadata costs nothing.
fn gaps(known: impl Iterator<Item = TransitVersion>) -> Vec<VersionRange> {
    let mut gaps = Vec::new();
    let mut expected = Some(TransitVersion::FIRST);
    for version in known {
        if let (Some(first), Some(last)) = (expected, before(version))
            && first <= last
        {
            gaps.push(VersionRange { first, last });
        }
        expected = after(version);
    }
    gaps
}

fn after(version: TransitVersion) -> Option<TransitVersion> {
    TransitVersion::new(version.get().saturating_add(1))
}

fn before(version: TransitVersion) -> Option<TransitVersion> {
    TransitVersion::new(version.get().saturating_sub(1))
}
