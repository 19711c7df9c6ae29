//! Result of the assessed evidence: the active version, the records, and the predecessor document.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    super::{
        Limitation, Link, OWN_STATE, PlanBlocker, Previous, Rebuilt, VersionRange,
        claim_source::Known,
    },
    Assessment,
};
use crate::{
    key::TransitKey,
    recovery::resolve::{Resolution, ResolveError},
    registry::{Bookkeeping, Record, RecordState, rotation},
    transit::{TransitVersion, VersionProblem},
};

impl<'e> Assessment<'e> {
    /// The highest version with evidence of promotion, if it is usable and every higher version is
    /// accounted for.
    pub(in crate::recovery::rebuild) fn active(&mut self) -> Option<Arc<TransitKey>> {
        let profile = &self.evidence.key;
        let active = self.active?;
        self.require_nothing_beyond(active);

        let shown_by = || self.active_shown_by().into_iter().next();
        let evidence = shown_by().unwrap_or_default();
        for removed_by in self.removed_by(active) {
            self.refuse(PlanBlocker::ActiveRemoved {
                evidence: removed_by,
                active,
            });
        }

        if profile.blocks_encryption(active) {
            self.refuse(PlanBlocker::ActiveBlocked {
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
            // Reported per piece of evidence already.
            Err(VersionProblem::AboveLatest { .. }) => None,
            Err(problem) => {
                self.refuse(PlanBlocker::ActiveUnusable { evidence, problem });
                None
            }
        }
    }

    /// The versions with evidence of promotion, by source. Only one version is active at a time,
    /// but each formerly active version leaves data behind: under any provider name, and in
    /// revisions since replaced or deleted.
    pub(super) fn promoted(&self) -> impl Iterator<Item = (&'e str, TransitVersion)> {
        let said = self.claim_sources.iter();
        let said = said.map(|claim_source| (claim_source.name, claim_source.active.version()));

        let stored = self.etcd.iter().flat_map(|source| {
            let newest = source.findings.iter().map(|found| &found.finding.origin);
            newest
                .chain(&source.superseded)
                .filter_map(|origin| match origin {
                    Resolution::Live(key) => Some((source.name.as_str(), key.version())),
                    Resolution::Known(_) | Resolution::Unresolved(_) => None,
                })
        });

        said.chain(stored)
    }

    /// Sources that removed the version: they had promoted a higher one before.
    fn removed_by(&self, version: TransitVersion) -> Vec<String> {
        let removes = |known: &Known<'_>| {
            known.key.version() == version && known.state == Some(RecordState::Removed)
        };
        let claim_sources = self.claim_sources.iter();
        let claim_sources =
            claim_sources.filter(|claim_source| claim_source.known.iter().any(removes));
        claim_sources
            .map(|claim_source| claim_source.name.to_owned())
            .collect()
    }

    pub(in crate::recovery::rebuild) fn active_shown_by(&self) -> Vec<String> {
        let shown = self
            .promoted()
            .filter(|(_, version)| Some(*version) == self.active);
        let mut names: Vec<_> = shown.map(|(name, _)| name.to_owned()).collect();
        names.dedup();
        names
    }

    /// A version above all evidence may be active on another node. A node that then starts with an
    /// older one would revert the key_id.
    fn require_nothing_beyond(&mut self, active: TransitVersion) {
        let latest = self.evidence.key.latest();
        let assumed = self.evidence.not_promoted;

        if let Some(assumed) = assumed.filter(|assumed| *assumed <= active) {
            let wrong = self.promoted().find(|(_, version)| *version >= assumed);
            if let Some((evidence, promoted)) = wrong {
                self.refuse(PlanBlocker::AssumptionWrong {
                    evidence: evidence.to_owned(),
                    assumed,
                    promoted,
                });
            }
        }

        if let Some(assumed) = assumed.filter(|assumed| *assumed > latest && *assumed > active) {
            self.refuse(PlanBlocker::AssumptionIdle { assumed, latest });
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
                let names = self
                    .claim_sources
                    .iter()
                    .map(|claim_source| claim_source.name);
                let names = names.chain(self.etcd.iter().map(|source| source.name.as_str()));
                self.refuse(PlanBlocker::Undecided {
                    evidence: names.map(str::to_owned).collect(),
                    active,
                    versions: beyond(last),
                });
            }
        }
    }

    /// A record for every version up to the active one with a known creation second, in document
    /// order.
    pub(in crate::recovery::rebuild) fn records(
        &mut self,
        active: &Arc<TransitKey>,
    ) -> (Vec<Record>, Vec<Rebuilt>) {
        let profile = &self.evidence.key;
        let mut keys: BTreeMap<TransitVersion, (Arc<TransitKey>, RecordState)> = BTreeMap::new();

        for (version, created_at) in profile.listed() {
            if version < active.version() {
                let scope = Arc::clone(&self.evidence.scope);
                let key = Arc::new(TransitKey::new(scope, version, created_at));
                // Also if a peer removed it: decryptable data stays readable.
                keys.insert(version, (key, RecordState::Retired));
            }
        }

        keys.insert(active.version(), (Arc::clone(active), RecordState::Active));

        for known in self
            .claim_sources
            .iter()
            .flat_map(|claim_source| &claim_source.known)
        {
            let version = known.key.version();
            if version < active.version() {
                let removed = || (Arc::clone(known.key), RecordState::Removed);
                keys.entry(version).or_insert_with(removed);
            }
        }

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

    /// Accounts for every known version below the active one that OpenBao does not list. This runs
    /// even if the active version is unusable, so that one run reports all blockers.
    pub(in crate::recovery::rebuild) fn account_for_the_rest(&mut self) {
        let profile = &self.evidence.key;
        let known = self
            .claim_sources
            .iter()
            .flat_map(|claim_source| &claim_source.known);
        let known = known.map(|known| known.key.version());

        // Versions above the latest are reported per piece of evidence already.
        let unlisted: BTreeSet<_> = known
            .filter(|version| Some(*version) < self.active && *version <= profile.latest())
            .filter(|version| profile.created_at(*version).is_none())
            .collect();

        for version in unlisted {
            self.account_for(version);
        }
    }

    /// Accepts an undecryptable version as removed if all other sources with it have it as removed,
    /// or if etcd has no object of it. Objects of it in etcd were refused or accepted earlier.
    fn account_for(&mut self, version: TransitVersion) {
        let said: Vec<_> = self
            .claim_sources
            .iter()
            .filter_map(|claim_source| {
                let mut known = claim_source.known.iter();
                let known = known.find(|known| known.key.version() == version)?;
                Some((claim_source.name, known.state))
            })
            .collect();

        // This node's own copy may be older than the restoration of the version.
        let mut others = said
            .iter()
            .filter(|(name, _)| *name != OWN_STATE)
            .peekable();
        let removed = |(_, state): &(_, _)| *state == Some(RecordState::Removed);
        let removed_by_all = others.peek().is_some() && others.all(removed);

        if removed_by_all || self.needed.contains_key(&version) {
            return;
        }

        if !self.etcd.is_empty() {
            if !self.etcd.iter().any(|source| source.is_running()) {
                self.unneeded_then.push(version);
            }
        } else if let Some((evidence, _)) = said.first()
            && let Err(problem) = self.evidence.key.decryptable(version)
        {
            let evidence = (*evidence).to_owned();
            self.refuse(PlanBlocker::Unresolved { evidence, problem });
        }
    }

    fn bookkeeping(&self, key: &Arc<TransitKey>) -> Option<Bookkeeping> {
        let known = self
            .claim_sources
            .iter()
            .flat_map(|claim_source| &claim_source.known);
        known
            .filter(|known| known.key == key)
            .find_map(|known| known.bookkeeping)
    }

    fn describe(&self, record: &Record) -> Rebuilt {
        let version = record.key.version();
        let said = self.claim_sources.iter().filter_map(|claim_source| {
            let known = claim_source.known.iter();
            let known = known.clone().find(|known| known.key.version() == version)?;
            Some((claim_source.name.to_owned(), known.state))
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

    /// The predecessor of the new document: this node's own chain if known, else the longest chain
    /// in the evidence.
    pub(in crate::recovery::rebuild) fn link(&self) -> Option<(Link, Previous)> {
        let own = &self.evidence.own;
        if let Some(document) = own.in_service() {
            let previous = (document.generation(), document.hash().clone());
            return Some((Link::Replaced, Some(previous)));
        }
        if let Some(checkpoint) = own.checkpoint.valid() {
            let previous = (checkpoint.generation(), checkpoint.hash().clone());
            return Some((Link::Checkpoint, Some(previous)));
        }

        // Among equals, the first in order wins: this node's own.
        let longest = self.claim_sources.iter().rev();
        Some(
            match longest.max_by_key(|claim_source| claim_source.generation) {
                Some(claim_source) => (
                    Link::Evidence(claim_source.name.to_owned()),
                    Some((claim_source.generation, claim_source.hash.clone())),
                ),
                None => (Link::Nothing, None),
            },
        )
    }

    /// The highest version above the key's latest with objects written under it.
    fn lost_promotion(&self) -> Option<Limitation> {
        let above = self.etcd.iter().flat_map(|source| {
            let newest = source.findings.iter().map(|found| &found.finding.origin);
            let origins = newest.chain(&source.superseded);
            origins.filter_map(move |origin| match origin {
                Resolution::Unresolved(ResolveError::NewerThanLatest { version, .. }) => {
                    Some((*version, source))
                }
                Resolution::Live(_) | Resolution::Known(_) | Resolution::Unresolved(_) => None,
            })
        });
        let (version, source) = above.max_by_key(|(version, _)| *version)?;
        Some(Limitation::LostPromotion {
            evidence: source.name.clone(),
            version,
            latest: self.evidence.key.latest(),
        })
    }

    pub(in crate::recovery::rebuild) fn limitations(&self, link: &Link) -> Vec<Limitation> {
        let mut limitations = Vec::new();
        if self.etcd.is_empty() {
            limitations.push(Limitation::NoEtcd);
        }
        let unbound = self.claim_sources.iter().filter(|source| source.unbound);
        limitations.extend(unbound.map(|source| Limitation::Unbound {
            evidence: source.name.to_owned(),
        }));

        for source in &self.etcd {
            let evidence = || source.name.clone();

            let untried = source.findings.iter().map(|it| it.finding.seeds.untried);
            let untried = untried.fold(0, u64::saturating_add);
            if let Some(sample) = source.sample.filter(|_| untried > 0) {
                limitations.push(Limitation::Sampled {
                    evidence: evidence(),
                    sample: sample.get(),
                    untried,
                });
            }

            for doubt in &source.doubts {
                limitations.push(Limitation::Doubtful {
                    evidence: evidence(),
                    doubt: doubt.clone(),
                });
            }

            let others = source.findings.iter().filter(|found| {
                let origin = &found.finding.origin;
                matches!(
                    origin,
                    Resolution::Unresolved(ResolveError::OtherProvider { .. })
                )
            });
            let objects = others.fold(0, |sum: u64, it| sum.saturating_add(it.finding.objects));
            if objects > 0 {
                limitations.push(Limitation::OtherProvider {
                    evidence: evidence(),
                    objects,
                });
            }

            if source.damaged > 0 {
                limitations.push(Limitation::Damaged {
                    evidence: evidence(),
                    values: source.damaged,
                });
            }
        }

        let accepted = self.accepted.iter().cloned();
        limitations.extend(accepted.map(Limitation::Unreadable));
        limitations.extend(self.lost_promotion());
        limitations.extend(self.never_rotated.map(Limitation::NeverRotated));
        limitations.extend(self.assumed.map(Limitation::Assumed));

        for version in &self.unneeded_then {
            let names = self.etcd.iter().map(|source| source.name.clone());
            limitations.push(Limitation::UnneededThen {
                version: *version,
                evidence: names.collect(),
            });
        }

        limitations.extend(self.left_out.iter().copied().map(Limitation::LeftOut));

        match link {
            Link::Replaced | Link::Checkpoint => {}
            Link::Evidence(name) => limitations.push(Limitation::OtherChain(name.clone())),
            Link::Nothing => limitations.push(Limitation::NoLowerBound),
        }

        limitations
    }
}

/// The missing versions between 1 and the last of `known`, which ascends. The cost depends on the
/// length of `known`, so an implausible number in metadata is harmless.
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
