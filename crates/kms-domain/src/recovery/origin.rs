//! From a stored `key_id` back to the version of the key that it names.
//!
//! A `key_id` is a hash, so it cannot be read; but whoever knows the names, the versions and their
//! creation seconds can derive every `key_id` there can be, and find the stored one among them.
//!
//! An object is this key's whatever provider name it is stored under ([`Lineage::owns`]).

use std::{collections::HashMap, sync::Arc};

use super::claims::{OtherSecond, VersionClaims};
use crate::{
    annotations::{AnnotationMismatch, Annotations, AnnotationsInvalid},
    digest::MalformedDigest,
    fingerprint::{PROVIDER_NAME, differing_names},
    key::{KeyScope, TransitKey},
    key_id::KeyId,
    transit::{CreatedAt, KeyProfile, TransitVersion},
};

/// What is known of a key lineage: the live key, and what records, state files and peers say.
#[derive(Debug)]
pub struct Lineage {
    scope: Arc<KeyScope>,
    live: LiveKey,
    claims: Vec<VersionClaims>,
    /// Everything derivable, the live key's own versions last so that they win.
    keys: HashMap<KeyId, Arc<TransitKey>>,
}

/// The parts of a stored KMS v2 message that name its key. Nothing is checked yet.
#[derive(Debug, Clone, Copy)]
pub struct StoredKeyId<'a> {
    /// The name in the value's prefix, as in the `EncryptionConfiguration`.
    pub provider: &'a str,
    /// The `key_id` of the message.
    pub key_id: &'a str,
    /// The annotations of the message.
    pub annotations: Result<&'a Annotations, AnnotationsInvalid>,
}

/// What OpenBao says of the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LiveKey {
    /// What it has.
    Listed(KeyProfile),
    /// That there is none.
    Missing,
    /// Nothing.
    Unknown,
}

/// What one stored `key_id` is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A version that the live key lists: what it encrypted can be decrypted, unless the key was
    /// made anew in the same second. A decryption proves it.
    Live(Arc<TransitKey>),
    /// The version is known from a record, a state file or a peer, and the live key could not be
    /// looked at.
    Known(Arc<TransitKey>),
    /// Nothing that is known decrypts it now.
    Gap(Gap),
}

/// Why a stored `key_id` cannot be decrypted now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Gap {
    /// No provider of this design wrote it.
    #[error("the key_id is malformed")]
    KeyId(#[source] MalformedDigest),
    /// No provider of this design wrote them.
    #[error("the annotations are invalid")]
    Annotations(#[source] AnnotationsInvalid),
    /// The annotations were changed, or belong to another object.
    #[error("the annotations do not belong to the key_id")]
    Foreign(#[source] AnnotationMismatch),
    /// Written under other names.
    #[error(
        "it was written under another identity: {} differs from this configuration",
        .names.join(", ")
    )]
    OtherScope {
        /// The configuration keys that differ. Without a record or a peer that has the `key_id`,
        /// only the three whose hashes are in the annotations can be told.
        names: Vec<&'static str>,
    },
    /// The key was never rotated so far, or was restored to before.
    #[error("it needs version {version}, but the key's latest version is {latest}")]
    NewerThanLatest {
        /// By the annotations.
        version: TransitVersion,
        /// `latest_version`
        latest: TransitVersion,
        /// When the version that is needed was made, if a record, a state file or a peer tells.
        recorded: Option<CreatedAt>,
    },
    /// The material is gone from this OpenBao.
    #[error("it needs version {version}, which was trimmed: min_available_version is {minimum}")]
    Trimmed {
        /// By the annotations.
        version: TransitVersion,
        /// `min_available_version`
        minimum: u64,
    },
    /// The material is there, but OpenBao neither lists nor uses it.
    #[error("it needs version {version}, which min_decryption_version {minimum} hides")]
    Hidden {
        /// By the annotations.
        version: TransitVersion,
        /// `min_decryption_version`
        minimum: u64,
        /// What records, state files and peers say of the version. None of it proves that the
        /// version decrypts: that needs a lower minimum and a trial.
        claimed: Claimed,
    },
    /// The source that names the version names another one of a number that the live key lists:
    /// the live key is not the one that encrypted.
    #[error(
        "it needs version {version} of another key than the live one: by {evidence}, {contradiction}"
    )]
    Recreated {
        /// By the annotations.
        version: TransitVersion,
        /// The record, state file or peer.
        evidence: String,
        /// The version that differs.
        contradiction: OtherSecond,
    },
    /// The annotations name this key and a version that is listed, and the configured names do not
    /// give the `key_id`. Another provider of the key wrote it, or another key of the same names.
    #[error(
        "it needs version {version} of this key for another provider, {provider:?}, whose names \
         this configuration does not have"
    )]
    OtherProvider {
        /// By the annotations.
        version: TransitVersion,
        /// The stored name.
        provider: String,
    },
    /// The live version of that number is another one.
    #[error(
        "it needs a version {version} that is not the live one, made at {live}: another creation \
         second{}, or another providerName, clusterId or instanceId",
        .recorded.map_or(String::new(), |at| format!(" ({at} by a record, state file or peer)"))
    )]
    OtherCreation {
        /// By the annotations.
        version: TransitVersion,
        /// When the live version was made.
        live: CreatedAt,
        /// When the version that is needed was made, if anything tells.
        recorded: Option<CreatedAt>,
    },
    /// OpenBao has lost the key, or it is elsewhere.
    #[error("it needs version {version}, but there is no such key in this OpenBao")]
    NoKey {
        /// By the annotations.
        version: TransitVersion,
    },
    /// The live key could not be looked at, and nothing else names it.
    #[error("it needs version {version}, of which nothing is known here")]
    Unknown {
        /// By the annotations.
        version: TransitVersion,
    },
}

/// What records, state files and peers say of a version that the live key does not list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claimed {
    /// None of them has the `key_id`.
    No,
    /// One has the `key_id`, and nothing that it says differs from the live key.
    Yes,
    /// Those that have the `key_id`, or all of them if none has it, differ from the live key in
    /// other versions. The live key was recreated, or is an older copy that was rotated again.
    OtherKey,
}

impl Lineage {
    /// Derives every `key_id` of the live key and takes those that other evidence names, of this or
    /// of another scope.
    #[must_use]
    pub fn new(
        scope: Arc<KeyScope>,
        live: LiveKey,
        claims: impl IntoIterator<Item = VersionClaims>,
    ) -> Self {
        let claims: Vec<_> = claims.into_iter().collect();
        let derived = |(version, created_at)| {
            Arc::new(TransitKey::new(Arc::clone(&scope), version, created_at))
        };
        let listed = match &live {
            LiveKey::Listed(profile) => profile.listed().map(derived).collect(),
            LiveKey::Missing | LiveKey::Unknown => Vec::new(),
        };
        let claimed = claims.iter().flat_map(|it| it.keys.iter().map(Arc::clone));
        let keys = claimed.chain(listed);
        let keys = keys.map(|key| (key.id().clone(), key)).collect();
        Self {
            scope,
            live,
            claims,
            keys,
        }
    }

    /// The names that the key is looked for under.
    #[must_use]
    pub fn scope(&self) -> &Arc<KeyScope> {
        &self.scope
    }

    /// The live key.
    #[must_use]
    pub fn live(&self) -> &LiveKey {
        &self.live
    }

    /// What records, state files and peers say.
    #[must_use]
    pub fn claims(&self) -> &[VersionClaims] {
        &self.claims
    }

    /// Whether an object depends on this key: it is stored under the configured provider name, or
    /// its `key_id` is known here, or its annotations carry the hashes of the configured mount,
    /// lineage and namespace. The last holds for a version that is gone, too, whatever the name.
    #[must_use]
    pub fn owns(&self, stored: StoredKeyId<'_>) -> bool {
        let named = || {
            let annotations = stored.annotations.ok();
            annotations.is_some_and(|it| it.names_outside(&self.scope).is_empty())
        };
        self.is_configured(stored.provider)
            || KeyId::parse(stored.key_id).is_ok_and(|key_id| self.keys.contains_key(&key_id))
            || named()
    }

    /// Finds the version that a stored object names.
    #[must_use]
    pub fn origin(&self, stored: StoredKeyId<'_>) -> Origin {
        match self.find(stored) {
            Ok(origin) => origin,
            Err(gap) => Origin::Gap(gap),
        }
    }

    /// Finds the version that a stored object names, whether or not OpenBao has it still.
    ///
    /// # Errors
    /// Why it is none that is known here.
    pub fn named(&self, stored: StoredKeyId<'_>) -> Result<&Arc<TransitKey>, Gap> {
        let (version, key) = self.identify(stored)?;
        key.ok_or_else(|| self.gap(stored, version, None))
    }

    fn is_configured(&self, provider: &str) -> bool {
        self.scope.identity().provider_name.as_str() == provider
    }

    fn find(&self, stored: StoredKeyId<'_>) -> Result<Origin, Gap> {
        let (version, key) = self.identify(stored)?;
        match (&self.live, key) {
            (LiveKey::Listed(profile), Some(key))
                if profile.created_at(version) == Some(key.created_at()) =>
            {
                Ok(Origin::Live(Arc::clone(key)))
            }
            (LiveKey::Unknown, Some(key)) => Ok(Origin::Known(Arc::clone(key))),
            (_, key) => Err(self.gap(stored, version, key.map(|key| &**key))),
        }
    }

    /// What the annotations claim, once they are found to be those of the `key_id` and of these
    /// names; and the version itself, if it is known.
    fn identify(
        &self,
        stored: StoredKeyId<'_>,
    ) -> Result<(TransitVersion, Option<&Arc<TransitKey>>), Gap> {
        let key_id = KeyId::parse(stored.key_id).map_err(Gap::KeyId)?;
        let annotations = stored.annotations.map_err(Gap::Annotations)?;
        annotations.require_key_id(&key_id).map_err(Gap::Foreign)?;
        let version = annotations.transit_version();
        let key = self.keys.get(&key_id);
        if let Some(key) = key {
            annotations.require_match(key).map_err(Gap::Foreign)?;
            let names = differing_names(self.scope.identity(), key.scope().identity());
            let stored_name = key.scope().identity().provider_name.as_str() == stored.provider;
            if names == [PROVIDER_NAME] && stored_name {
                return Err(Gap::OtherProvider {
                    version,
                    provider: stored.provider.to_owned(),
                });
            }
            if !names.is_empty() {
                return Err(Gap::OtherScope { names });
            }
        }
        let names = annotations.names_outside(&self.scope);
        if !names.is_empty() {
            return Err(Gap::OtherScope { names });
        }
        Ok((version, key))
    }

    /// Why the live key is of no help; `key` is the version itself, if it is known.
    fn gap(
        &self,
        stored: StoredKeyId<'_>,
        version: TransitVersion,
        key: Option<&TransitKey>,
    ) -> Gap {
        let recorded = key.map(TransitKey::created_at);
        let profile = match &self.live {
            LiveKey::Missing => return Gap::NoKey { version },
            LiveKey::Unknown => return Gap::Unknown { version },
            LiveKey::Listed(profile) => profile,
        };
        match profile.created_at(version) {
            Some(_) if key.is_none() && !self.is_configured(stored.provider) => {
                Gap::OtherProvider {
                    version,
                    provider: stored.provider.to_owned(),
                }
            }
            Some(live) => Gap::OtherCreation {
                version,
                live,
                recorded,
            },
            None => self.unlisted(profile, version, recorded),
        }
    }

    /// `keys` of the metadata begins at `min_decryption_version`.
    fn unlisted(
        &self,
        profile: &KeyProfile,
        version: TransitVersion,
        recorded: Option<CreatedAt>,
    ) -> Gap {
        if let Some(created_at) = recorded
            && let Some((evidence, contradiction)) = self.recreated(profile, version, created_at)
        {
            return Gap::Recreated {
                version,
                evidence,
                contradiction,
            };
        }
        if version > profile.latest() {
            Gap::NewerThanLatest {
                version,
                latest: profile.latest(),
                recorded,
            }
        } else if version.get() < profile.min_available() {
            Gap::Trimmed {
                version,
                minimum: profile.min_available(),
            }
        } else {
            let of_other_key = || self.own_claims().any(|it| it.contradicts(profile));
            Gap::Hidden {
                version,
                minimum: profile.min_decryption(),
                claimed: match recorded {
                    Some(created_at) if self.in_doubt(profile, version, created_at) => {
                        Claimed::OtherKey
                    }
                    Some(_) => Claimed::Yes,
                    None if of_other_key() => Claimed::OtherKey,
                    None => Claimed::No,
                },
            }
        }
    }

    /// The source that has the version and differs from the live key at that version or below, unless
    /// another source has it that agrees with the live key. A difference above it proves nothing: an
    /// older OpenBao that was rotated again has the original versions below.
    fn recreated(
        &self,
        profile: &KeyProfile,
        version: TransitVersion,
        created_at: CreatedAt,
    ) -> Option<(String, OtherSecond)> {
        let mut sources = self.sources_of(version, created_at);
        if sources.clone().any(|claims| claims.agrees(profile)) {
            return None;
        }
        sources.find_map(|claims| {
            let mut contradictions = claims.other_seconds(profile);
            let contradiction = contradictions.find(|it| it.version <= version)?;
            Some((claims.source.clone(), contradiction))
        })
    }

    /// Whether each source that has the version and can be compared differs from the live key.
    fn in_doubt(
        &self,
        profile: &KeyProfile,
        version: TransitVersion,
        created_at: CreatedAt,
    ) -> bool {
        let mut sources = self.sources_of(version, created_at);
        let agreed = sources.clone().any(|claims| claims.agrees(profile));
        !agreed && sources.any(|claims| claims.contradicts(profile))
    }

    /// The sources of the configured names that have this very version.
    fn sources_of(
        &self,
        version: TransitVersion,
        created_at: CreatedAt,
    ) -> impl Iterator<Item = &VersionClaims> + Clone {
        self.own_claims().filter(move |claims| {
            let mut keys = claims.keys.iter();
            keys.any(|key| key.version() == version && key.created_at() == created_at)
        })
    }

    /// Those that were made under the configured names.
    fn own_claims(&self) -> impl Iterator<Item = &VersionClaims> + Clone {
        let identity = self.scope.identity();
        let own = move |claims: &&VersionClaims| {
            let mut keys = claims.keys.iter();
            keys.all(|key| key.scope().identity() == identity)
        };
        self.claims.iter().filter(own)
    }
}

impl Gap {
    /// The stable word for reports.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::KeyId(_) => "key_id_malformed",
            Self::Annotations(_) => "annotation_invalid",
            Self::Foreign(_) => "annotation_mismatch",
            Self::OtherScope { .. } => "other_scope",
            Self::NewerThanLatest { .. } => "newer_than_latest",
            Self::Trimmed { .. } => "trimmed",
            Self::Hidden { .. } => "hidden",
            Self::Recreated { .. } => "recreated",
            Self::OtherProvider { .. } => "other_provider",
            Self::OtherCreation { .. } => "other_creation",
            Self::NoKey { .. } => "no_key",
            Self::Unknown { .. } => "unknown",
        }
    }

    /// The version that is needed, as far as it can be told.
    #[must_use]
    pub fn version(&self) -> Option<TransitVersion> {
        match self {
            Self::KeyId(_) | Self::Annotations(_) | Self::Foreign(_) | Self::OtherScope { .. } => {
                None
            }
            Self::NewerThanLatest { version, .. }
            | Self::Trimmed { version, .. }
            | Self::Hidden { version, .. }
            | Self::Recreated { version, .. }
            | Self::OtherProvider { version, .. }
            | Self::OtherCreation { version, .. }
            | Self::NoKey { version }
            | Self::Unknown { version } => Some(*version),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        annotations::PluginVersion,
        scope::{ClusterId, KeyLineageId, Namespace, TransitMountId},
        vectors,
    };

    fn scope() -> Arc<KeyScope> {
        Arc::new(KeyScope::new(vectors::golden_scope()))
    }

    fn key(number: u64, seconds: u64) -> Arc<TransitKey> {
        let version = vectors::version(number);
        let created_at = vectors::created_at(seconds);
        Arc::new(TransitKey::new(scope(), version, created_at))
    }

    fn written(key: &TransitKey) -> Annotations {
        Annotations::for_key(key, &PluginVersion::new("v1").unwrap())
    }

    /// An object that was written under `key`.
    fn stored<'a>(key: &'a TransitKey, annotations: &'a Annotations) -> StoredKeyId<'a> {
        StoredKeyId {
            provider: key.scope().identity().provider_name.as_str(),
            key_id: key.id().as_str(),
            annotations: Ok(annotations),
        }
    }

    /// What `lineage` makes of an object that was written under `key`.
    fn origin(lineage: &Lineage, key: &TransitKey) -> Origin {
        lineage.origin(stored(key, &written(key)))
    }

    fn claims(keys: impl IntoIterator<Item = Arc<TransitKey>>) -> VersionClaims {
        VersionClaims {
            source: "the record".to_owned(),
            keys: keys.into_iter().collect(),
        }
    }

    fn gap(lineage: &Lineage, key: &TransitKey) -> Gap {
        let found = origin(lineage, key);
        let Origin::Gap(gap) = found else {
            panic!("{found:?}")
        };
        gap
    }

    /// Versions 3 to 5 are listed, 2 is hidden, 1 is trimmed; version `n` was made at second `n`.
    fn live() -> Lineage {
        let profile = vectors::profile(&[(3, 3), (4, 4), (5, 5)], 2, 3);
        Lineage::new(scope(), LiveKey::Listed(profile), [])
    }

    #[test]
    fn a_listed_version_is_live() {
        assert_eq!(origin(&live(), &key(4, 4)), Origin::Live(key(4, 4)));
    }

    #[test]
    fn a_version_that_the_key_does_not_have_is_named_with_the_limit_that_hides_it() {
        let version = vectors::version;
        assert_eq!(
            gap(&live(), &key(6, 6)),
            Gap::NewerThanLatest {
                version: version(6),
                latest: version(5),
                recorded: None,
            }
        );
        assert_eq!(
            gap(&live(), &key(1, 1)),
            Gap::Trimmed {
                version: version(1),
                minimum: 2,
            }
        );
        let hidden = |claimed| Gap::Hidden {
            version: version(2),
            minimum: 3,
            claimed,
        };
        assert_eq!(gap(&live(), &key(2, 2)), hidden(Claimed::No));
        let key_now = live().live().clone();
        let told = Lineage::new(scope(), key_now, [claims([key(2, 2)])]);
        assert_eq!(gap(&told, &key(2, 2)), hidden(Claimed::Yes));
    }

    #[test]
    fn a_claim_that_differs_from_the_live_key_disproves_what_it_names() {
        let told = |all: Vec<VersionClaims>| Lineage::new(scope(), live().live().clone(), all);
        let contradicting = || claims([key(2, 2), key(3, 30), key(6, 6)]);
        let found = gap(&told(vec![contradicting()]), &key(6, 6));
        let Gap::Recreated {
            version,
            evidence,
            contradiction,
        } = found
        else {
            panic!("{found:?}")
        };
        assert_eq!((version.get(), evidence.as_str()), (6, "the record"));
        let shown = "version 3 was created at 30, the live one at 3";
        assert_eq!(contradiction.to_string(), shown);
        let hidden = |found: Gap| {
            let Gap::Hidden { claimed, .. } = found else {
                panic!("{found:?}")
            };
            claimed
        };
        // Below the difference the versions may be the original ones.
        let doubted = gap(&told(vec![contradicting()]), &key(2, 2));
        assert_eq!(hidden(doubted), Claimed::OtherKey);
        let trimmed = told(vec![claims([key(1, 1), key(3, 30)])]);
        assert_eq!(gap(&trimmed, &key(1, 1)).code(), "trimmed");
        // An older record may be of the key before; a state that agrees outweighs it.
        let agreeing = claims([key(2, 2), key(3, 3)]);
        let both = told(vec![contradicting(), agreeing]);
        assert_eq!(hidden(gap(&both, &key(2, 2))), Claimed::Yes);
        // A version that nothing names is in doubt, not disproved.
        let silent = told(vec![claims([key(3, 30)])]);
        assert_eq!(hidden(gap(&silent, &key(2, 2))), Claimed::OtherKey);
    }

    #[test]
    fn an_object_is_of_the_key_by_key_id_or_annotations_whatever_its_name() {
        let renamed = |key: &TransitKey, provider| {
            let annotations = written(key);
            let stored = StoredKeyId {
                provider,
                ..stored(key, &annotations)
            };
            (live().owns(stored), live().origin(stored))
        };
        assert_eq!(
            renamed(&key(4, 4), "events"),
            (true, Origin::Live(key(4, 4)))
        );
        let (owned, trimmed) = renamed(&key(1, 1), "events");
        assert!(owned && matches!(trimmed, Origin::Gap(Gap::Trimmed { .. })));
        let (owned, unknown) = renamed(&key(4, 40), "events");
        assert!(owned && matches!(unknown, Origin::Gap(Gap::OtherProvider { .. })));

        let mut identity = vectors::golden_scope();
        let version = vectors::version(4);
        identity.key_lineage_id = KeyLineageId::parse("other").unwrap();
        let foreign = Arc::new(KeyScope::new(identity));
        let foreign = TransitKey::new(foreign, version, vectors::created_at(4));
        assert!(!renamed(&foreign, "events").0);
        // Under the configured name it is an object of this provider that it cannot read.
        let own_name = vectors::golden_scope().provider_name;
        assert!(renamed(&foreign, own_name.as_str()).0);
    }

    #[test]
    fn the_same_number_made_at_another_second_is_another_version() {
        let other = |recorded| Gap::OtherCreation {
            version: vectors::version(4),
            live: vectors::created_at(4),
            recorded,
        };
        assert_eq!(gap(&live(), &key(4, 40)), other(None));
        let key_now = live().live().clone();
        let told = Lineage::new(scope(), key_now, [claims([key(4, 40)])]);
        let recorded = Some(vectors::created_at(40));
        assert_eq!(gap(&told, &key(4, 40)), other(recorded));
    }

    #[test]
    fn a_name_that_differs_is_told_by_the_annotations_or_else_by_a_record() {
        let renamed = |change: fn(&mut crate::scope::IdentityScope)| {
            let mut identity = vectors::golden_scope();
            change(&mut identity);
            let scope = Arc::new(KeyScope::new(identity));
            Arc::new(TransitKey::new(
                scope,
                vectors::version(4),
                vectors::created_at(4),
            ))
        };
        for (change, name) in [
            (
                renamed(|it| it.openbao_namespace = Some(Namespace::parse("other").unwrap())),
                "openbao.namespace",
            ),
            (
                renamed(|it| it.transit_mount_id = TransitMountId::parse("other").unwrap()),
                "transit.keyIdScope.transitMountId",
            ),
            (
                renamed(|it| it.key_lineage_id = KeyLineageId::parse("other").unwrap()),
                "transit.keyIdScope.keyLineageId",
            ),
        ] {
            let names = vec![name];
            assert_eq!(gap(&live(), &change), Gap::OtherScope { names });
        }
        let other_cluster =
            renamed(|identity| identity.cluster_id = ClusterId::parse("other").unwrap());
        assert_eq!(gap(&live(), &other_cluster).code(), "other_creation");
        let key_now = live().live().clone();
        let told = Lineage::new(scope(), key_now, [claims([Arc::clone(&other_cluster)])]);
        assert_eq!(
            gap(&told, &other_cluster),
            Gap::OtherScope {
                names: vec!["transit.keyIdScope.clusterId"],
            }
        );
    }

    #[test]
    fn what_no_provider_writes_is_told_from_what_was_exchanged() {
        let own = key(4, 4);
        let unknown = key(4, 40);
        let annotations = written(&own);
        let malformed = live().origin(StoredKeyId {
            key_id: "no key_id",
            ..stored(&own, &annotations)
        });
        assert!(matches!(malformed, Origin::Gap(Gap::KeyId(_))));
        let invalid = live().origin(StoredKeyId {
            annotations: Err(AnnotationsInvalid::Empty),
            ..stored(&own, &annotations)
        });
        assert!(matches!(invalid, Origin::Gap(Gap::Annotations(_))));
        for key in [own, unknown] {
            let exchanged = live().origin(stored(&key, &written(&self::key(5, 5))));
            assert!(matches!(exchanged, Origin::Gap(Gap::Foreign(_))));
        }
    }

    #[test]
    fn without_a_live_key_evidence_names_the_version_and_proves_nothing() {
        let lineage = Lineage::new(scope(), LiveKey::Unknown, [claims([key(1, 1), key(1, 1)])]);
        assert_eq!(origin(&lineage, &key(1, 1)), Origin::Known(key(1, 1)));
        let version = vectors::version(2);
        assert_eq!(gap(&lineage, &key(2, 2)), Gap::Unknown { version });
        let lost = Lineage::new(scope(), LiveKey::Missing, [claims([key(2, 2)])]);
        assert_eq!(gap(&lost, &key(2, 2)), Gap::NoKey { version });
    }

    #[test]
    fn a_version_that_openbao_has_no_more_is_still_the_one_that_is_named() {
        let key_now = live().live().clone();
        let lineage = Lineage::new(scope(), key_now, [claims([key(1, 1), key(2, 2)])]);
        let named = |key: &TransitKey| lineage.named(stored(key, &written(key))).cloned();
        for number in 1..=5 {
            assert_eq!(named(&key(number, number)), Ok(key(number, number)));
        }
        for unknown in [key(4, 40), key(1, 2), key(6, 6)] {
            assert_eq!(named(&unknown), Err(gap(&lineage, &unknown)));
        }
        let other = written(&key(2, 2));
        assert!(matches!(
            lineage.named(stored(&key(1, 1), &other)),
            Err(Gap::Foreign(_))
        ));
    }

    proptest! {
        #[test]
        fn nothing_but_a_listed_version_of_the_same_names_is_live(
            object in vectors::any_key(),
            evidence in vectors::any_key(),
        ) {
            let key_now = live().live().clone();
            let lineage = Lineage::new(scope(), key_now, [claims([Arc::new(evidence)])]);
            prop_assert!(matches!(origin(&lineage, &object), Origin::Gap(_)));
        }
    }
}
