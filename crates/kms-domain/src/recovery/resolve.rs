//! Resolves a stored `key_id` to the key version it names.
//!
//! A `key_id` is a one-way hash. The resolver derives every `key_id` from the known names, versions
//! and creation seconds, and looks the stored one up among them.
//!
//! Ownership of an object is independent of the provider name it is stored under
//! ([`KeyResolver::owns`]).

use std::{collections::HashMap, sync::Arc};

use super::claims::{OtherSecond, VersionClaims};
use crate::{
    annotations::{AnnotationMismatch, Annotations, AnnotationsInvalid},
    digest::MalformedDigest,
    identity::{OUTSIDE_ANNOTATIONS, PROVIDER_NAME, differing_names},
    key::{KeyScope, TransitKey},
    key_id::KeyId,
    transit::{CreatedAt, KeyProfile, TransitVersion},
};

/// Known versions of a key lineage: those of the live key, and those named by records, state files
/// and peers.
#[derive(Debug)]
pub struct KeyResolver {
    scope: Arc<KeyScope>,
    live: LiveKey,
    claims: Vec<VersionClaims>,
    /// All derived keys. The live key's own versions are inserted last, so they replace equal
    /// claims.
    keys: HashMap<KeyId, Arc<TransitKey>>,
}

/// The parts of a stored KMS v2 message that name its key, still unchecked.
#[derive(Debug, Clone, Copy)]
pub struct StoredKeyId<'a> {
    /// The name in the value's prefix, as in the `EncryptionConfiguration`.
    pub provider: &'a str,
    /// The `key_id` of the message.
    pub key_id: &'a str,
    /// The annotations of the message.
    pub annotations: Result<&'a Annotations, AnnotationsInvalid>,
}

/// State of the Transit key in OpenBao.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LiveKey {
    /// OpenBao returned the key's metadata.
    Listed(KeyProfile),
    /// OpenBao has no such key.
    Missing,
    /// The state is unknown: OpenBao was not called, or the call failed.
    Unknown,
}

/// Result for one stored `key_id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// A version that the live key lists. Its ciphertexts decrypt unless the key was recreated in
    /// the same second; only a decryption proves it.
    Live(Arc<TransitKey>),
    /// The version is known from a record, a state file or a peer. The live key could not be read.
    Known(Arc<TransitKey>),
    /// No known version decrypts it now.
    Unresolved(ResolveError),
}

/// Reason why a stored `key_id` cannot be decrypted now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// The value is foreign: this provider writes only well-formed `key_id`s.
    #[error("the key_id is malformed")]
    KeyId(#[source] MalformedDigest),
    /// The value is foreign: this provider writes only valid annotations.
    #[error("the annotations are invalid")]
    Annotations(#[source] AnnotationsInvalid),
    /// The annotations were changed, or belong to another object.
    #[error("the annotations do not belong to the key_id")]
    Foreign(#[source] AnnotationMismatch),
    /// Written under another identity.
    #[error(
        "it was written under another identity: {} differs from this configuration",
        .names.join(", ")
    )]
    IdentityMismatch {
        /// The configuration keys that differ. Without a record or a peer that has the `key_id`,
        /// only the three keys with hashes in the annotations can be compared.
        names: Vec<&'static str>,
    },
    /// The key in this OpenBao is yet to be rotated to this version, or was restored to an earlier
    /// point.
    #[error("it needs version {version}, but the key's latest version is {latest}")]
    NewerThanLatest {
        /// From the annotations.
        version: TransitVersion,
        /// `latest_version`
        latest: TransitVersion,
        /// Creation second of the needed version, if a record, a state file or a peer has it.
        recorded: Option<CreatedAt>,
    },
    /// The material is gone from this OpenBao.
    #[error("it needs version {version}, trimmed by min_available_version {minimum}")]
    Trimmed {
        /// From the annotations.
        version: TransitVersion,
        /// `min_available_version`
        minimum: u64,
    },
    /// The material exists, but is unlisted and unusable below `min_decryption_version`.
    #[error("it needs version {version}, below min_decryption_version {minimum}")]
    Hidden {
        /// From the annotations.
        version: TransitVersion,
        /// `min_decryption_version`
        minimum: u64,
        /// Claims about the version by records, state files and peers. They are no proof: that
        /// needs a lower minimum and a trial decryption.
        claimed: Claimed,
    },
    /// The source of the version contradicts the live key at a listed version: another key
    /// encrypted the object.
    #[error(
        "it needs version {version} of another key than the live one: by {evidence}, {contradiction}"
    )]
    Recreated {
        /// From the annotations.
        version: TransitVersion,
        /// Name of the record, state file or peer.
        evidence: String,
        /// The version with two creation seconds.
        contradiction: OtherSecond,
    },
    /// The annotations name this key and a listed version, but the configured names derive another
    /// `key_id`. Another provider of the same key wrote it, or another key of the same names.
    #[error(
        "it needs version {version} of this key for another provider, {provider:?}, whose names \
         this configuration does not have"
    )]
    OtherProvider {
        /// From the annotations.
        version: TransitVersion,
        /// The stored provider name.
        provider: String,
    },
    /// The live version has the same number and another creation second or identity.
    #[error(
        "it needs a version {version} that is not the live one, made at {}: another creation \
         second{}, or another providerName, clusterId or instanceId",
        .live.utc(),
        .recorded.map_or(String::new(), |at| format!(
            " ({} by a record, state file or peer)", at.utc()
        ))
    )]
    CreationTimeMismatch {
        /// From the annotations.
        version: TransitVersion,
        /// Creation second of the live version.
        live: CreatedAt,
        /// Creation second of the needed version, if a record, a state file or a peer has it.
        recorded: Option<CreatedAt>,
    },
    /// The key was deleted from OpenBao, or the configured mount, namespace or name is wrong.
    #[error("it needs version {version}, but there is no such key in this OpenBao")]
    NoKey {
        /// From the annotations.
        version: TransitVersion,
    },
    /// The live key could not be read, and every record, state file and peer lacks the `key_id`.
    #[error("it needs version {version}, unknown to this configuration")]
    Unknown {
        /// From the annotations.
        version: TransitVersion,
    },
}

/// Claims of records, state files and peers about a version that the live key does not list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claimed {
    /// All sources lack the `key_id`.
    No,
    /// A source has the `key_id`, and all its listed versions agree with the live key.
    Yes,
    /// The sources with the `key_id`, or all sources if none has it, contradict the live key at
    /// other versions. The live key was recreated, or is an older copy that was rotated again.
    OtherKey,
}

impl KeyResolver {
    /// Derives every `key_id` of the live key and adds the keys of `claims`, of this or another
    /// scope.
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

    /// The configured names.
    #[must_use]
    pub fn scope(&self) -> &Arc<KeyScope> {
        &self.scope
    }

    /// State of the live key.
    #[must_use]
    pub fn live(&self) -> &LiveKey {
        &self.live
    }

    /// Versions named by records, state files and peers.
    #[must_use]
    pub fn claims(&self) -> &[VersionClaims] {
        &self.claims
    }

    /// Whether an object depends on this key. One of three conditions is enough: it is stored under
    /// the configured provider name, its `key_id` is known here, or its annotations carry the
    /// hashes of the configured mount, lineage and namespace. The third also covers deleted
    /// versions and other provider names.
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

    /// Resolves the version of a stored object against the live key.
    #[must_use]
    pub fn origin(&self, stored: StoredKeyId<'_>) -> Resolution {
        match self.find(stored) {
            Ok(origin) => origin,
            Err(gap) => Resolution::Unresolved(gap),
        }
    }

    /// Resolves the version of a stored object, including versions that OpenBao no longer has.
    ///
    /// # Errors
    /// The reason why the version is unknown.
    pub fn named(&self, stored: StoredKeyId<'_>) -> Result<&Arc<TransitKey>, ResolveError> {
        let (version, key) = self.identify(stored)?;
        key.ok_or_else(|| self.gap(stored, version, None))
    }

    fn is_configured(&self, provider: &str) -> bool {
        self.scope.identity().provider_name.as_str() == provider
    }

    fn find(&self, stored: StoredKeyId<'_>) -> Result<Resolution, ResolveError> {
        let (version, key) = self.identify(stored)?;
        match (&self.live, key) {
            (LiveKey::Listed(profile), Some(key))
                if profile.created_at(version) == Some(key.created_at()) =>
            {
                Ok(Resolution::Live(Arc::clone(key)))
            }
            (LiveKey::Unknown, Some(key)) => Ok(Resolution::Known(Arc::clone(key))),
            (_, key) => Err(self.gap(stored, version, key.map(|key| &**key))),
        }
    }

    /// Checks the annotations against the `key_id` and the configured names. Returns the annotated
    /// version, and its key if it is known.
    fn identify(
        &self,
        stored: StoredKeyId<'_>,
    ) -> Result<(TransitVersion, Option<&Arc<TransitKey>>), ResolveError> {
        let key_id = KeyId::parse(stored.key_id).map_err(ResolveError::KeyId)?;
        let annotations = stored.annotations.map_err(ResolveError::Annotations)?;
        annotations
            .require_key_id(&key_id)
            .map_err(ResolveError::Foreign)?;

        let version = annotations.transit_version();
        let key = self.keys.get(&key_id);

        if let Some(key) = key {
            annotations
                .require_match(key)
                .map_err(ResolveError::Foreign)?;
            let names = differing_names(self.scope.identity(), key.scope().identity());
            let stored_name = key.scope().identity().provider_name.as_str() == stored.provider;
            if names == [PROVIDER_NAME] && stored_name {
                return Err(ResolveError::OtherProvider {
                    version,
                    provider: stored.provider.to_owned(),
                });
            }
            if !names.is_empty() {
                return Err(ResolveError::IdentityMismatch { names });
            }
        }

        let names = annotations.names_outside(&self.scope);
        if !names.is_empty() {
            return Err(ResolveError::IdentityMismatch { names });
        }

        Ok((version, key))
    }

    /// Reason why the live key cannot decrypt the object; `key` is its version, if known.
    fn gap(
        &self,
        stored: StoredKeyId<'_>,
        version: TransitVersion,
        key: Option<&TransitKey>,
    ) -> ResolveError {
        let recorded = key.map(TransitKey::created_at);
        let profile = match &self.live {
            LiveKey::Missing => return ResolveError::NoKey { version },
            LiveKey::Unknown => return ResolveError::Unknown { version },
            LiveKey::Listed(profile) => profile,
        };

        match profile.created_at(version) {
            Some(_) if key.is_none() && !self.is_configured(stored.provider) => {
                ResolveError::OtherProvider {
                    version,
                    provider: stored.provider.to_owned(),
                }
            }
            // The live version is that of the evidence, so another one of these names never existed.
            Some(live) if recorded.is_none() && self.sources_of(version, live).next().is_some() => {
                ResolveError::IdentityMismatch {
                    names: OUTSIDE_ANNOTATIONS.to_vec(),
                }
            }
            Some(live) => ResolveError::CreationTimeMismatch {
                version,
                live,
                recorded,
            },
            None => self.unlisted(profile, version, recorded),
        }
    }

    /// Reason for an unlisted version; `keys` of the metadata starts at `min_decryption_version`.
    fn unlisted(
        &self,
        profile: &KeyProfile,
        version: TransitVersion,
        recorded: Option<CreatedAt>,
    ) -> ResolveError {
        if let Some(created_at) = recorded
            && let Some((evidence, contradiction)) = self.recreated(profile, version, created_at)
        {
            return ResolveError::Recreated {
                version,
                evidence,
                contradiction,
            };
        }

        if version > profile.latest() {
            ResolveError::NewerThanLatest {
                version,
                latest: profile.latest(),
                recorded,
            }
        } else if version.get() < profile.min_available() {
            ResolveError::Trimmed {
                version,
                minimum: profile.min_available(),
            }
        } else {
            let of_other_key = || self.own_claims().any(|it| it.contradicts(profile));
            ResolveError::Hidden {
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

    /// The source with the version that contradicts the live key at that version or below. `None`
    /// if another source with the version agrees with the live key. A contradiction above the
    /// version is irrelevant: an older OpenBao that was rotated again keeps the original versions
    /// below.
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

    /// Whether the sources with the version contradict the live key, without one in agreement.
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

    /// The sources of the configured names with this version and creation second.
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

    /// The sources made under the configured names.
    fn own_claims(&self) -> impl Iterator<Item = &VersionClaims> + Clone {
        let identity = self.scope.identity();
        let own = move |claims: &&VersionClaims| {
            let mut keys = claims.keys.iter();
            keys.all(|key| key.scope().identity() == identity)
        };
        self.claims.iter().filter(own)
    }
}

impl ResolveError {
    /// The stable code in reports.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::KeyId(_) => "key_id_malformed",
            Self::Annotations(_) => "annotation_invalid",
            Self::Foreign(_) => "annotation_mismatch",
            Self::IdentityMismatch { .. } => "identity_mismatch",
            Self::NewerThanLatest { .. } => "newer_than_latest",
            Self::Trimmed { .. } => "trimmed",
            Self::Hidden { .. } => "hidden",
            Self::Recreated { .. } => "recreated",
            Self::OtherProvider { .. } => "other_provider",
            Self::CreationTimeMismatch { .. } => "creation_time_mismatch",
            Self::NoKey { .. } => "no_key",
            Self::Unknown { .. } => "unknown",
        }
    }

    /// The needed version, if the error establishes one.
    #[must_use]
    pub fn version(&self) -> Option<TransitVersion> {
        match self {
            Self::KeyId(_)
            | Self::Annotations(_)
            | Self::Foreign(_)
            | Self::IdentityMismatch { .. } => None,
            Self::NewerThanLatest { version, .. }
            | Self::Trimmed { version, .. }
            | Self::Hidden { version, .. }
            | Self::Recreated { version, .. }
            | Self::OtherProvider { version, .. }
            | Self::CreationTimeMismatch { version, .. }
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

    /// An object written under `key`.
    fn stored<'a>(key: &'a TransitKey, annotations: &'a Annotations) -> StoredKeyId<'a> {
        StoredKeyId {
            provider: key.scope().identity().provider_name.as_str(),
            key_id: key.id().as_str(),
            annotations: Ok(annotations),
        }
    }

    /// Resolution by `lineage` of an object written under `key`.
    fn origin(lineage: &KeyResolver, key: &TransitKey) -> Resolution {
        lineage.origin(stored(key, &written(key)))
    }

    fn claims(keys: impl IntoIterator<Item = Arc<TransitKey>>) -> VersionClaims {
        VersionClaims {
            source: "the record".to_owned(),
            keys: keys.into_iter().collect(),
        }
    }

    fn gap(lineage: &KeyResolver, key: &TransitKey) -> ResolveError {
        let found = origin(lineage, key);
        let Resolution::Unresolved(gap) = found else {
            panic!("{found:?}")
        };
        gap
    }

    /// Versions 3 to 5 are listed, 2 is hidden, 1 is trimmed; version `n` was made at second `n`.
    fn live() -> KeyResolver {
        let profile = vectors::profile(&[(3, 3), (4, 4), (5, 5)], 2, 3);
        KeyResolver::new(scope(), LiveKey::Listed(profile), [])
    }

    #[test]
    fn a_listed_version_is_live() {
        assert_eq!(origin(&live(), &key(4, 4)), Resolution::Live(key(4, 4)));
    }

    #[test]
    fn a_version_that_the_key_does_not_have_is_named_with_the_limit_that_hides_it() {
        let version = vectors::version;
        assert_eq!(
            gap(&live(), &key(6, 6)),
            ResolveError::NewerThanLatest {
                version: version(6),
                latest: version(5),
                recorded: None,
            }
        );
        assert_eq!(
            gap(&live(), &key(1, 1)),
            ResolveError::Trimmed {
                version: version(1),
                minimum: 2,
            }
        );
        let hidden = |claimed| ResolveError::Hidden {
            version: version(2),
            minimum: 3,
            claimed,
        };
        assert_eq!(gap(&live(), &key(2, 2)), hidden(Claimed::No));
        let key_now = live().live().clone();
        let told = KeyResolver::new(scope(), key_now, [claims([key(2, 2)])]);
        assert_eq!(gap(&told, &key(2, 2)), hidden(Claimed::Yes));
    }

    #[test]
    fn a_claim_that_differs_from_the_live_key_disproves_what_it_names() {
        let told = |all: Vec<VersionClaims>| KeyResolver::new(scope(), live().live().clone(), all);
        let contradicting = || claims([key(2, 2), key(3, 30), key(6, 6)]);
        let found = gap(&told(vec![contradicting()]), &key(6, 6));
        let ResolveError::Recreated {
            version,
            evidence,
            contradiction,
        } = found
        else {
            panic!("{found:?}")
        };
        assert_eq!((version.get(), evidence.as_str()), (6, "the record"));
        let shown =
            "version 3 was created at 1970-01-01T00:00:30Z, the live one at 1970-01-01T00:00:03Z";
        assert_eq!(contradiction.to_string(), shown);
        let hidden = |found: ResolveError| {
            let ResolveError::Hidden { claimed, .. } = found else {
                panic!("{found:?}")
            };
            claimed
        };
        // Below the contradiction, the versions may be the original ones.
        let doubted = gap(&told(vec![contradicting()]), &key(2, 2));
        assert_eq!(hidden(doubted), Claimed::OtherKey);
        let trimmed = told(vec![claims([key(1, 1), key(3, 30)])]);
        assert_eq!(gap(&trimmed, &key(1, 1)).code(), "trimmed");
        // The older record may describe the previous key; a state that agrees outweighs it.
        let agreeing = claims([key(2, 2), key(3, 3)]);
        let both = told(vec![contradicting(), agreeing]);
        assert_eq!(hidden(gap(&both, &key(2, 2))), Claimed::Yes);
        // A version without any claim is in doubt, but not disproved.
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
            (true, Resolution::Live(key(4, 4)))
        );
        let (owned, trimmed) = renamed(&key(1, 1), "events");
        assert!(
            owned
                && matches!(
                    trimmed,
                    Resolution::Unresolved(ResolveError::Trimmed { .. })
                )
        );
        let (owned, unknown) = renamed(&key(4, 40), "events");
        assert!(
            owned
                && matches!(
                    unknown,
                    Resolution::Unresolved(ResolveError::OtherProvider { .. })
                )
        );

        let mut identity = vectors::golden_scope();
        let version = vectors::version(4);
        identity.key_lineage_id = KeyLineageId::parse("other").unwrap();
        let foreign = Arc::new(KeyScope::new(identity));
        let foreign = TransitKey::new(foreign, version, vectors::created_at(4));
        assert!(!renamed(&foreign, "events").0);
        // Under the configured name it is an object of this provider, although unreadable.
        let own_name = vectors::golden_scope().provider_name;
        assert!(renamed(&foreign, own_name.as_str()).0);
    }

    #[test]
    fn the_same_number_made_at_another_second_is_another_version() {
        let other = |recorded| ResolveError::CreationTimeMismatch {
            version: vectors::version(4),
            live: vectors::created_at(4),
            recorded,
        };
        assert_eq!(gap(&live(), &key(4, 40)), other(None));
        let key_now = live().live().clone();
        let told = KeyResolver::new(scope(), key_now, [claims([key(4, 40)])]);
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
            assert_eq!(
                gap(&live(), &change),
                ResolveError::IdentityMismatch { names }
            );
        }
        let other_cluster =
            renamed(|identity| identity.cluster_id = ClusterId::parse("other").unwrap());
        assert_eq!(
            gap(&live(), &other_cluster).code(),
            "creation_time_mismatch"
        );
        let key_now = live().live().clone();
        let told = KeyResolver::new(scope(), key_now, [claims([Arc::clone(&other_cluster)])]);
        assert_eq!(
            gap(&told, &other_cluster),
            ResolveError::IdentityMismatch {
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
        assert!(matches!(
            malformed,
            Resolution::Unresolved(ResolveError::KeyId(_))
        ));
        let invalid = live().origin(StoredKeyId {
            annotations: Err(AnnotationsInvalid::Empty),
            ..stored(&own, &annotations)
        });
        assert!(matches!(
            invalid,
            Resolution::Unresolved(ResolveError::Annotations(_))
        ));
        for key in [own, unknown] {
            let exchanged = live().origin(stored(&key, &written(&self::key(5, 5))));
            assert!(matches!(
                exchanged,
                Resolution::Unresolved(ResolveError::Foreign(_))
            ));
        }
    }

    #[test]
    fn without_a_live_key_evidence_names_the_version_and_proves_nothing() {
        let lineage = KeyResolver::new(scope(), LiveKey::Unknown, [claims([key(1, 1), key(1, 1)])]);
        assert_eq!(origin(&lineage, &key(1, 1)), Resolution::Known(key(1, 1)));
        let version = vectors::version(2);
        assert_eq!(gap(&lineage, &key(2, 2)), ResolveError::Unknown { version });
        let lost = KeyResolver::new(scope(), LiveKey::Missing, [claims([key(2, 2)])]);
        assert_eq!(gap(&lost, &key(2, 2)), ResolveError::NoKey { version });
    }

    #[test]
    fn a_version_that_openbao_has_no_more_is_still_the_one_that_is_named() {
        let key_now = live().live().clone();
        let lineage = KeyResolver::new(scope(), key_now, [claims([key(1, 1), key(2, 2)])]);
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
            Err(ResolveError::Foreign(_))
        ));
    }

    proptest! {
        #[test]
        fn nothing_but_a_listed_version_of_the_same_names_is_live(
            object in vectors::any_key(),
            evidence in vectors::any_key(),
        ) {
            let key_now = live().live().clone();
            let lineage = KeyResolver::new(scope(), key_now, [claims([Arc::new(evidence)])]);
            prop_assert!(matches!(origin(&lineage, &object), Resolution::Unresolved(_)));
        }
    }
}
