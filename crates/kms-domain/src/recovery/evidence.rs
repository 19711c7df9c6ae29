//! Versions needed by the objects in etcd: conditions for retiring a version and for the end of a
//! rotation.
//!
//! A version is *needed* while it protects the newest revision of any object. A watch can still
//! read an older revision until compaction, but no object depends on it. Older revisions are
//! therefore counted separately and block nothing.

use std::collections::BTreeMap;

use super::resolve::{KeyResolver, ResolveError, StoredKeyId};
use crate::{digest::TextHash, transit::TransitVersion};

/// Objects of one source with the same `key_id` and annotations.
#[derive(Debug)]
pub struct Stored<'a> {
    /// The stored `key_id` with its annotations.
    pub key_id: StoredKeyId<'a>,
    /// Number of objects.
    pub usage: Usage,
}

/// Object counts by resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Newest revisions: one per object.
    pub newest: BTreeMap<String, u64>,
    /// Revisions that were replaced or deleted later.
    pub older: BTreeMap<String, u64>,
}

/// Needs of the objects in one source.
#[derive(Debug, Default)]
pub struct Evidence {
    needs: BTreeMap<TransitVersion, Usage>,
    unresolved: Vec<Unresolved>,
    damaged: Usage,
    unread_keys: bool,
}

/// Objects of this provider without a known version.
#[derive(Debug)]
pub struct Unresolved {
    /// Hash of their `key_id`.
    pub key_id_hash: TextHash,
    /// Reason why the version is unknown.
    pub gap: ResolveError,
    /// The objects.
    pub usage: Usage,
}

/// Decision on the removals of a plan, in ascending severity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Retirement {
    /// No object in any source needs a removed version.
    Allowed,
    /// There is no source, or one without an object of this provider, perhaps of another cluster.
    Inconclusive,
    /// A source was read in part, and the operator has not asserted that the rest is independent of
    /// this key.
    Unread,
    /// Some objects need an unknown version.
    Unresolved,
    /// Objects need a removed version.
    Needed,
}

/// Progress of rewriting all objects under the active version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rewriting {
    /// No object needs an older version.
    Finished,
    /// The source is without objects of this provider, perhaps of another cluster.
    Inconclusive,
    /// Some objects need an unknown version.
    Unresolved,
    /// Objects need an older version.
    Unfinished,
    /// The key has a newer, unpromoted version, so rewriting now is too early.
    NotPromoted,
}

impl Evidence {
    /// Resolves the version of each of `stored`, if it belongs to this key ([`KeyResolver::owns`]).
    ///
    /// `damaged` counts values under a name of this provider without a KMS v2 message.
    pub fn new<'a>(
        lineage: &KeyResolver,
        stored: impl IntoIterator<Item = Stored<'a>>,
        damaged: Usage,
    ) -> Self {
        let mut needs: BTreeMap<TransitVersion, Usage> = BTreeMap::new();
        let mut unresolved: BTreeMap<(String, &'static str), Unresolved> = BTreeMap::new();

        for stored in stored {
            if !lineage.owns(stored.key_id) {
                continue;
            }
            match lineage.named(stored.key_id) {
                Ok(key) => needs.entry(key.version()).or_default().add(&stored.usage),
                // Retirement affects this provider only; the trim after it affects the other one
                // too.
                Err(ResolveError::OtherProvider { version, .. }) => {
                    needs.entry(version).or_default().add(&stored.usage);
                }
                Err(gap) => {
                    let key_id_hash = TextHash::of(stored.key_id.key_id);
                    unresolved
                        .entry((key_id_hash.to_string(), gap.code()))
                        .or_insert_with(|| Unresolved {
                            key_id_hash,
                            gap,
                            usage: Usage::default(),
                        })
                        .usage
                        .add(&stored.usage);
                }
            }
        }

        Self {
            needs,
            unresolved: unresolved.into_values().collect(),
            damaged,
            unread_keys: false,
        }
    }

    /// Marks the source as incomplete: more keys exist than were read, and the operator has not
    /// asserted that their objects are independent of this key.
    #[must_use]
    pub fn with_unread_keys(self) -> Self {
        Self {
            unread_keys: true,
            ..self
        }
    }

    /// Objects that need each version. Versions without objects are left out.
    #[must_use]
    pub fn needs(&self) -> &BTreeMap<TransitVersion, Usage> {
        &self.needs
    }

    /// Objects with an unknown version.
    #[must_use]
    pub fn unresolved(&self) -> &[Unresolved] {
        &self.unresolved
    }

    /// Malformed values under a name of this provider.
    #[must_use]
    pub fn damaged(&self) -> &Usage {
        &self.damaged
    }

    /// Number of objects of this provider. A source with zero objects shows nothing about the key.
    #[must_use]
    pub fn objects(&self) -> u64 {
        let unresolved = self.unresolved.iter().map(|it| &it.usage);
        let all = self.needs.values().chain(unresolved);
        all.fold(0, |sum, usage| sum.saturating_add(usage.objects()))
    }

    /// Number of objects with an unknown version, including damaged values.
    #[must_use]
    pub fn unknown_objects(&self) -> u64 {
        let unresolved = self.unresolved.iter().map(|it| it.usage.objects());
        unresolved.fold(self.damaged.objects(), u64::saturating_add)
    }

    /// Number of objects that need one of the versions.
    fn objects_under(&self, concerned: impl Fn(TransitVersion) -> bool) -> u64 {
        let needs = self.needs.iter();
        needs
            .filter(|(version, _)| concerned(**version))
            .fold(0, |sum, (_, usage)| sum.saturating_add(usage.objects()))
    }
}

impl Usage {
    /// Number of objects.
    #[must_use]
    pub fn objects(&self) -> u64 {
        self.newest
            .values()
            .fold(0, |sum, more| sum.saturating_add(*more))
    }

    /// Adds the counts, saturating.
    fn add(&mut self, other: &Self) {
        for (sums, counts) in [
            (&mut self.newest, &other.newest),
            (&mut self.older, &other.older),
        ] {
            for (resource, more) in counts {
                let sum = sums.entry(resource.clone()).or_default();
                *sum = sum.saturating_add(*more);
            }
        }
    }
}

/// Decides on the removals of a plan. The most severe source decides; a plan without removals is
/// always allowed.
pub fn judge_retirement<'e>(
    removed: &[TransitVersion],
    sources: impl IntoIterator<Item = &'e Evidence>,
) -> Retirement {
    if removed.is_empty() {
        return Retirement::Allowed;
    }
    let of = |source: &Evidence| {
        if source.objects_under(|version| removed.contains(&version)) > 0 {
            Retirement::Needed
        } else if source.unknown_objects() > 0 {
            Retirement::Unresolved
        } else if source.unread_keys {
            Retirement::Unread
        } else if source.objects() == 0 {
            Retirement::Inconclusive
        } else {
            Retirement::Allowed
        }
    };
    let judged = sources.into_iter().map(of).max();
    judged.unwrap_or(Retirement::Inconclusive)
}

/// Progress of rewriting under `active` in one source; `newest` is the newest known version of the
/// key.
#[must_use]
pub fn judge_rewriting(
    active: TransitVersion,
    newest: TransitVersion,
    source: &Evidence,
) -> Rewriting {
    if newest > active {
        Rewriting::NotPromoted
    } else if source.objects_under(|version| version < active) > 0 {
        Rewriting::Unfinished
    } else if source.unknown_objects() > 0 {
        Rewriting::Unresolved
    } else if source.objects() == 0 {
        Rewriting::Inconclusive
    } else {
        Rewriting::Finished
    }
}

impl Retirement {
    /// The stable code in reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Inconclusive => "inconclusive",
            Self::Unread => "unread",
            Self::Unresolved => "unresolved",
            Self::Needed => "needed",
        }
    }
}

impl Rewriting {
    /// The stable code in reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Inconclusive => "inconclusive",
            Self::Unresolved => "unresolved",
            Self::Unfinished => "unfinished",
            Self::NotPromoted => "not-promoted",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::{collection, prelude::*, sample};

    use super::*;
    use crate::{
        annotations::{Annotations, PluginVersion},
        key::{KeyScope, TransitKey},
        recovery::{claims::VersionClaims, resolve::LiveKey},
        scope::KeyLineageId,
        vectors,
    };

    fn key(number: u64, seconds: u64) -> Arc<TransitKey> {
        let scope = Arc::new(KeyScope::new(vectors::golden_scope()));
        let version = vectors::version(number);
        let created_at = vectors::created_at(seconds);
        Arc::new(TransitKey::new(scope, version, created_at))
    }

    /// The state has versions 1 to 3; OpenBao lists 3 and 4 and hides the others.
    fn lineage() -> KeyResolver {
        let live = vectors::profile(&[(3, 3), (4, 4)], 0, 3);
        let known = VersionClaims {
            source: "the state".to_owned(),
            keys: (1..=3).map(|number| key(number, number)).collect(),
        };
        let scope = Arc::clone(key(1, 1).scope());
        KeyResolver::new(scope, LiveKey::Listed(live), [known])
    }

    /// Secrets under the version of `key`, in a source.
    #[derive(Debug)]
    struct Group {
        own_name: bool,
        key: Arc<TransitKey>,
        newest: u64,
        older: u64,
    }

    fn group(number: u64, newest: u64, older: u64) -> Group {
        Group {
            own_name: true,
            key: key(number, number),
            newest,
            older,
        }
    }

    fn usage(newest: u64, older: u64) -> Usage {
        let counts = |count| match count {
            0 => BTreeMap::new(),
            count => [("secrets".to_owned(), count)].into(),
        };
        Usage {
            newest: counts(newest),
            older: counts(older),
        }
    }

    fn evidence(groups: &[Group], damaged: Usage) -> Evidence {
        let annotations = groups.iter().map(|group| {
            let plugin = PluginVersion::new("v1").unwrap();
            Annotations::for_key(&group.key, &plugin)
        });
        let annotations: Vec<_> = annotations.collect();
        let stored = groups
            .iter()
            .zip(&annotations)
            .map(|(group, annotations)| Stored {
                key_id: StoredKeyId {
                    provider: match group.own_name {
                        true => group.key.scope().identity().provider_name.as_str(),
                        false => "another",
                    },
                    key_id: group.key.id().as_str(),
                    annotations: Ok(annotations),
                },
                usage: usage(group.newest, group.older),
            });
        Evidence::new(&lineage(), stored, damaged)
    }

    fn judged(removed: &[u64], sources: &[Evidence]) -> Retirement {
        let removed: Vec<_> = removed.iter().map(|it| vectors::version(*it)).collect();
        judge_retirement(&removed, sources)
    }

    fn none() -> Usage {
        Usage::default()
    }

    #[test]
    fn a_version_that_the_newest_revision_of_an_object_is_under_is_needed() {
        let source = evidence(&[group(1, 2, 0), group(3, 7, 0)], none());
        assert_eq!(judged(&[1, 2], &[source]), Retirement::Needed);
        let source = evidence(&[group(2, 2, 0), group(3, 7, 0)], none());
        assert_eq!(judged(&[1], &[source]), Retirement::Allowed);
    }

    #[test]
    fn objects_are_added_up_for_each_version_and_resource() {
        let source = evidence(&[group(1, 2, 1), group(1, 3, 0), group(4, 1, 0)], none());
        assert_eq!(source.needs()[&vectors::version(1)], usage(5, 1));
        assert_eq!(source.objects(), 6);
        assert_eq!(source.unknown_objects(), 0);
    }

    #[test]
    fn an_older_revision_forbids_nothing_but_is_counted() {
        let source = evidence(&[group(1, 0, 4), group(3, 1, 0)], none());
        assert_eq!(source.needs()[&vectors::version(1)], usage(0, 4));
        assert_eq!(judged(&[1], &[source]), Retirement::Allowed);
        let stranger = Group {
            key: key(1, 9),
            ..group(1, 0, 4)
        };
        let source = evidence(&[stranger, group(3, 1, 0)], usage(0, 1));
        assert_eq!(judged(&[1], &[source]), Retirement::Allowed);
    }

    #[test]
    fn one_source_that_refers_to_it_outweighs_all_others() {
        let clean = || evidence(&[group(3, 1, 0)], none());
        let old = evidence(&[group(1, 1, 0)], none());
        assert_eq!(judged(&[1], &[clean(), old, clean()]), Retirement::Needed);
        assert_eq!(judged(&[1], &[clean(), clean()]), Retirement::Allowed);
    }

    #[test]
    fn what_nobody_can_account_for_may_be_of_any_version() {
        let stranger = || Group {
            key: key(1, 9),
            ..group(1, 1, 0)
        };
        let source = evidence(&[stranger(), group(3, 1, 0)], none());
        assert_eq!(source.unresolved()[0].gap.code(), "hidden");
        assert_eq!(judged(&[2], &[source]), Retirement::Unresolved);
        let source = evidence(&[group(3, 1, 0)], usage(1, 0));
        assert_eq!(judged(&[2], &[source]), Retirement::Unresolved);
        let source = evidence(&[stranger(), group(2, 1, 0)], none());
        assert_eq!(judged(&[2], &[source]), Retirement::Needed);
    }

    #[test]
    fn another_provider_counts_only_with_objects_of_this_key() {
        let other = |key| Group {
            own_name: false,
            key,
            ..group(1, 1, 0)
        };
        let foreign = other(of_another_lineage(&key(1, 1)));
        let source = evidence(&[foreign, group(3, 1, 0)], none());
        assert_eq!(judged(&[1], &[source]), Retirement::Allowed);
        let source = evidence(&[other(key(1, 9)), group(3, 1, 0)], none());
        assert_eq!(judged(&[1], &[source]), Retirement::Unresolved);
        let source = evidence(&[other(key(1, 1)), group(3, 1, 0)], none());
        assert_eq!(judged(&[1], &[source]), Retirement::Needed);
    }

    #[test]
    fn a_source_without_an_object_of_this_provider_shows_nothing() {
        let empty = || evidence(&[group(1, 0, 3)], none());
        assert_eq!(judged(&[1], &[empty()]), Retirement::Inconclusive);
        assert_eq!(judged(&[1], &[]), Retirement::Inconclusive);
        let clean = evidence(&[group(3, 1, 0)], none());
        assert_eq!(judged(&[1], &[clean, empty()]), Retirement::Inconclusive);
        assert_eq!(judged(&[], &[empty()]), Retirement::Allowed);
    }

    #[test]
    fn a_source_with_unread_keys_allows_nothing() {
        let limited = |groups: &[Group]| evidence(groups, none()).with_unread_keys();
        let clean = || evidence(&[group(3, 1, 0)], none());
        let unread = [clean(), limited(&[group(3, 1, 0)]), clean()];
        assert_eq!(judged(&[1], &unread), Retirement::Unread);
        let needed = limited(&[group(1, 1, 0)]);
        assert_eq!(judged(&[1], &[needed]), Retirement::Needed);
        assert_eq!(judged(&[], &[limited(&[])]), Retirement::Allowed);
    }

    #[test]
    fn rewriting_is_over_once_nothing_is_under_an_older_version() {
        let judged = |newest, groups: &[Group], damaged| {
            let source = evidence(groups, damaged);
            let version = vectors::version;
            judge_rewriting(version(3), version(newest), &source)
        };
        let done = || group(3, 5, 9);
        assert_eq!(judged(3, &[done()], none()), Rewriting::Finished);
        assert_eq!(
            judged(3, &[done(), group(2, 0, 2)], none()),
            Rewriting::Finished
        );
        assert_eq!(
            judged(3, &[done(), group(2, 1, 0)], usage(1, 0)),
            Rewriting::Unfinished
        );
        assert_eq!(judged(3, &[done()], usage(1, 0)), Rewriting::Unresolved);
        assert_eq!(judged(3, &[], none()), Rewriting::Inconclusive);
        assert_eq!(judged(4, &[done()], none()), Rewriting::NotPromoted);
    }

    fn of_another_lineage(key: &TransitKey) -> Arc<TransitKey> {
        let mut identity = vectors::golden_scope();
        identity.key_lineage_id = KeyLineageId::parse("other").unwrap();
        let scope = Arc::new(KeyScope::new(identity));
        Arc::new(TransitKey::new(scope, key.version(), key.created_at()))
    }

    fn any_group() -> impl Strategy<Value = Group> {
        let numbers = || 1..=6_u64;
        let second = (numbers(), any::<bool>());
        let counts = (0..3_u64, 0..3_u64);
        let names = (any::<bool>(), any::<bool>());
        (names, numbers(), second, counts).prop_map(
            |((own_name, own_lineage), number, (second, same), (newest, older))| {
                let key = key(number, if same { number } else { second });
                Group {
                    own_name,
                    key: match own_lineage {
                        true => key,
                        false => of_another_lineage(&key),
                    },
                    newest,
                    older,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn no_version_is_allowed_to_retire_that_the_newest_revision_of_any_object_may_need(
            sources in collection::vec(collection::vec(any_group(), 0..5), 0..4),
            removed in sample::subsequence(vec![1, 2, 3], 1..=3),
            damaged in 0..2_u64,
        ) {
            let read: Vec<_> = sources
                .iter()
                .map(|groups| evidence(groups, usage(damaged, 0)))
                .collect();
            let allowed = judged(&removed, &read) == Retirement::Allowed;
            let lineage = |key: &TransitKey| key.scope().identity() == &vectors::golden_scope();
            let known = |key: &TransitKey| {
                let number = key.version().get();
                number <= 4 && key.created_at().get() == number && lineage(key)
            };
            let ours = |group: &Group| group.own_name || lineage(&group.key);
            let harmless = |group: &Group| {
                let needed = removed.contains(&group.key.version().get());
                // The live key lists the version with another second, so another provider wrote it.
                let others = !group.own_name && [3, 4].contains(&group.key.version().get());
                group.newest == 0 || !ours(group) || ((known(&group.key) || others) && !needed)
            };
            let speaks = |groups: &Vec<Group>| {
                groups.iter().any(|group| group.newest > 0 && ours(group))
            };
            let expected = damaged == 0
                && !sources.is_empty()
                && sources.iter().all(|groups| speaks(groups) && groups.iter().all(harmless));
            prop_assert_eq!(allowed, expected);
        }
    }
}
