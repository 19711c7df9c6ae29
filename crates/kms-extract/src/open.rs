//! Decrypts selected objects with the checks of the provider: the `key_id` must be one of the
//! configured key, the annotations must belong to it, and OpenBao and the etcd key authenticate the
//! rest.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use etcd_snapshot::{
    envelope::{DekSourceType, Envelope},
    open::{DekSource, OpenBuffers},
    value::Protection,
};
use kms_domain::{
    annotations::Annotations,
    ciphertext::TransitCiphertext,
    key::KeyScope,
    prepare::{PreparedDecrypt, prepare_proof},
    recovery::{
        claims::VersionClaims,
        resolve::{KeyResolver, Resolution, ResolveError, StoredKeyId},
    },
};
use kms_node::{
    advice::{self, Cause, extract},
    config::Config,
    connection::{self, Connection},
    report::one_line,
};
use kms_operator::recovery::{
    cause::Context,
    verify_pair::{Unanswered, read_key},
};
use openbao_client::{failure::FailureClass, transit::MAX_BATCH};
use zeroize::Zeroizing;

use crate::{
    error::ExtractError,
    identity,
    local::LocalKeys,
    manifest::{Descriptors, Manifest},
    select::Stored,
};

/// The plaintext of an object, or the reason why it stays closed.
pub type Opened = Result<Zeroizing<Vec<u8>>, Refusal>;

/// Reason why an object stays closed.
#[derive(Debug, Clone)]
pub struct Refusal {
    pub cause: &'static Cause,
    /// The finding in a sentence, without content of the object.
    pub found: String,
    /// Values of the placeholders of the cause.
    pub values: Vec<(&'static str, String)>,
}

/// One encrypted DEK with all that the plugin authenticates.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Dek<'a> {
    provider: &'a str,
    key_id: &'a str,
    annotations: &'a [(&'a str, &'a [u8])],
    kind: DekSourceType,
    encrypted: &'a [u8],
}

/// Decrypted or refused DEKs.
type Deks<'a> = HashMap<Dek<'a>, Result<DekSource, Refusal>>;

/// Opens every object, in their order. OpenBao is asked only if an object needs it, and only then is the
/// configuration needed.
///
/// # Errors
/// OpenBao did not answer, so that objects are neither open nor refused, or the configuration is missing.
pub fn open_all(
    config: Option<&Config>,
    objects: &[Stored],
    claims: Vec<VersionClaims>,
    keys: &LocalKeys,
) -> Result<Vec<Opened>, ExtractError> {
    let read: Vec<Form<'_>> = objects.iter().map(|it| Form::of(it, keys)).collect();
    let envelopes: Vec<&Envelope<'_>> = read
        .iter()
        .filter_map(|it| match it {
            Form::Kms { envelope, .. } => Some(envelope),
            Form::Plaintext | Form::Local(_) | Form::Refused(_) => None,
        })
        .collect();
    let mut deks = Deks::new();
    if !envelopes.is_empty() {
        let config = config.ok_or(ExtractError::NoConfig)?;
        for form in &read {
            if let Form::Kms { provider, envelope } = form {
                // Replaced by the answer of OpenBao.
                deks.insert(Dek::of(provider, envelope), Err(Refusal::closed()));
            }
        }
        let asked = connection::ask(config, async |openbao| {
            decrypt(config, openbao, claims, &mut deks).await
        });
        asked.map_err(Unanswered::from)??;
    }

    let mut buffers = OpenBuffers::default();
    let opened = objects.iter().zip(&read).map(|(object, form)| match form {
        Form::Plaintext => Ok(object.value.clone()),
        Form::Local(plaintext) => Ok(plaintext.clone()),
        Form::Refused(refusal) => Err(refusal.clone()),
        Form::Kms { provider, envelope } => {
            let dek = deks.get(&Dek::of(provider, envelope));
            let source = match dek {
                Some(Ok(source)) => source,
                Some(Err(refusal)) => return Err(refusal.clone()),
                None => return Err(Refusal::closed()),
            };
            reveal(source, object, envelope, &mut buffers)
        }
    });
    Ok(opened.collect())
}

/// Refuses content that nothing authenticates, if it is that of another object than the etcd key.
pub(crate) fn require_own(
    types: &Descriptors,
    object: &Stored,
    plaintext: Zeroizing<Vec<u8>>,
) -> Opened {
    if matches!(Protection::of(&object.value), Protection::KmsV2 { .. }) {
        return Ok(plaintext);
    }
    let other = Manifest::decode(types, &plaintext)
        .ok()
        .and_then(|manifest| identity::other(&object.path, &manifest));
    match other {
        Some(other) => Err(Refusal::of(
            &extract::OBJECT_NOT_AUTHENTIC,
            format!("its content is {other}"),
        )),
        None => Ok(plaintext),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the plaintext goes into a file of the operator, and nowhere else"
)]
fn reveal(
    source: &DekSource,
    object: &Stored,
    envelope: &Envelope<'_>,
    buffers: &mut OpenBuffers,
) -> Opened {
    source
        .reveal(&object.key, envelope.encrypted_data, buffers)
        .map_err(|error| Refusal::of(&extract::OBJECT_NOT_AUTHENTIC, one_line(&error)))
}

/// How a value is protected.
enum Form<'a> {
    Plaintext,
    /// By a key of the `EncryptionConfiguration`, and opened with it.
    Local(Zeroizing<Vec<u8>>),
    Kms {
        provider: &'a str,
        envelope: Envelope<'a>,
    },
    Refused(Refusal),
}

impl<'a> Form<'a> {
    fn of(object: &'a Stored, keys: &LocalKeys) -> Self {
        match Protection::of(&object.value) {
            Protection::Plaintext(_) => Self::Plaintext,
            Protection::KmsV2 { provider, message } => match Envelope::parse(message) {
                Ok(envelope) => Self::Kms { provider, envelope },
                Err(error) => Self::Refused(Refusal::of(
                    &advice::evidence::OBJECTS_DAMAGED,
                    one_line(&error),
                )),
            },
            Protection::KmsV1 { provider } => Self::foreign(format!("by KMS v1, {provider:?}")),
            Protection::Local { key_name, .. } => match keys.open(&object.key, &object.value) {
                Some(plaintext) => Self::Local(plaintext),
                None if keys.has(&object.value) => Self::Refused(Refusal::of(
                    &extract::OBJECT_NOT_AUTHENTIC,
                    "no local key of its name opens it".to_owned(),
                )),
                None => Self::foreign(format!("by a local key, by its first bytes {key_name:?}")),
            },
            Protection::Unknown | Protection::NotAnObject => {
                Self::foreign("in an unknown way".to_owned())
            }
        }
    }

    fn foreign(how: String) -> Self {
        let found = format!("it is encrypted {how}");
        Self::Refused(Refusal::of(&extract::OTHER_ENCRYPTION, found))
    }
}

impl<'a> Dek<'a> {
    fn of(provider: &'a str, envelope: &'a Envelope<'a>) -> Self {
        Self {
            provider,
            key_id: envelope.key_id,
            annotations: &envelope.annotations,
            kind: envelope.dek_source_type,
            encrypted: envelope.encrypted_dek_source,
        }
    }
}

impl Refusal {
    fn of(cause: &'static Cause, found: String) -> Self {
        Self {
            cause,
            found,
            values: Vec::new(),
        }
    }

    fn closed() -> Self {
        Self::of(
            &advice::openbao::INCONCLUSIVE,
            "OpenBao was not asked for its DEK".to_owned(),
        )
    }
}

async fn decrypt(
    config: &Config,
    openbao: &Connection,
    claims: Vec<VersionClaims>,
    deks: &mut Deks<'_>,
) -> Result<(), Unanswered> {
    let (live, unread) = read_key(config, openbao).await;
    if let Some(unanswered) = unread {
        return Err(unanswered);
    }
    let resolver = KeyResolver::new(Arc::new(KeyScope::new(config.scope.clone())), live, claims);

    let mut due: Vec<(
        PreparedDecrypt,
        DekSourceType,
        &mut Result<DekSource, Refusal>,
    )> = Vec::new();
    let mut unresolved = Vec::new();
    for (dek, outcome) in deks.iter_mut() {
        let annotations = Annotations::parse(dek.annotations.iter().copied());
        let stored = StoredKeyId {
            provider: dek.provider,
            key_id: dek.key_id,
            annotations: annotations.as_ref().map_err(|invalid| *invalid),
        };
        match (resolver.origin(stored), &annotations) {
            (Resolution::Live(key), Ok(annotations)) => {
                let prepared = TransitCiphertext::parse(dek.encrypted)
                    .map_err(|error| one_line(&error))
                    .and_then(|ciphertext| {
                        prepare_proof(&key, annotations, ciphertext)
                            .map_err(|error| one_line(&error))
                    });
                match prepared {
                    Ok(prepared) => due.push((prepared, dek.kind, outcome)),
                    Err(found) => {
                        *outcome = Err(Refusal::of(&advice::evidence::OBJECTS_DAMAGED, found));
                    }
                }
            }
            (Resolution::Unresolved(error), _) => unresolved.push((error, outcome)),
            (Resolution::Live(_) | Resolution::Known(_), _) => {}
        }
    }

    let is_asked = !due.is_empty();
    let mut proven = HashSet::new();
    for portion in due.chunks_mut(MAX_BATCH) {
        let items: Vec<&PreparedDecrypt> = portion.iter().map(|(item, ..)| item).collect();
        let transit = &openbao.transit;
        let answers = openbao
            .session
            .call(async |token| transit.decrypt_batch(&token, &items).await)
            .await
            .map_err(Unanswered::Decrypt)?;
        for ((item, kind, outcome), answer) in portion.iter_mut().zip(answers) {
            **outcome = match answer {
                Ok(plaintext) => {
                    proven.insert(item.ciphertext.version());
                    let secret = Zeroizing::new(plaintext.expose().to_vec());
                    DekSource::new(&secret, *kind).map_err(|error| {
                        Refusal::of(&advice::evidence::OBJECTS_DAMAGED, one_line(&error))
                    })
                }
                Err(failure) if failure.class() == FailureClass::DecryptFailed => {
                    Err(Refusal::of(&extract::DEK_NOT_DECRYPTED, String::new()))
                }
                Err(failure) => return Err(Unanswered::Item(failure)),
            };
        }
    }
    // Only another DEK of the same version shows that the key is the right one.
    for (item, _, outcome) in due {
        if let Err(refusal) = outcome
            && refusal.cause == &extract::DEK_NOT_DECRYPTED
        {
            let version = item.ciphertext.version();
            let is_right = proven.contains(&version);
            if is_right {
                refusal.cause = &advice::evidence::OBJECTS_DAMAGED;
            }
            refusal.found = format!(
                "OpenBao does not decrypt its DEK with version {version}: {}",
                match is_right {
                    true => "the DEK or its annotations were changed",
                    false =>
                        "the DEK or its annotations were changed, or the version is of another key",
                }
            );
        }
    }

    let context = Context::with(proven.is_empty(), is_asked);
    for (error, outcome) in unresolved {
        let mut refusal = Refusal::of(context.of_gap(&error), one_line(&error));
        refusal.values = values(&error);
        *outcome = Err(refusal);
    }
    Ok(())
}

/// Values of the placeholders in the causes of unresolved `key_id`s.
fn values(error: &ResolveError) -> Vec<(&'static str, String)> {
    let version = error.version().map(|version| version.to_string());
    let version = version.into_iter().flat_map(|version| {
        [
            ("highest", version.clone()),
            ("lowest", version.clone()),
            ("missing", version),
        ]
    });
    version.collect()
}
