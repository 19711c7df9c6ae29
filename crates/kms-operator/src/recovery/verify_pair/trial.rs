//! Proof of a version: OpenBao decrypts a DEK from etcd with its associated data.

use std::{collections::HashMap, num::NonZeroU64, sync::Arc};

use etcd_snapshot::{
    file::{OnProgress, Progress},
    open::DekSource,
};
use kms_domain::{
    annotations::Annotations,
    ciphertext::TransitCiphertext,
    key::TransitKey,
    prepare::{PreparedDecrypt, prepare_proof},
    recovery::resolve::{KeyResolver, Resolution},
};
use kms_node::connection::Connection;
use openbao_client::{
    failure::FailureClass,
    transit::{MAX_BATCH, Plaintext},
};
use zeroize::Zeroizing;

use super::{SeedProblem, Unanswered};
use crate::recovery::inventory::{GroupIndex, Inventory, Seed};

/// Result of each tried DEK.
pub(super) type Outcomes<'i> = HashMap<(GroupIndex, Seed<'i>), Result<DekSource, SeedProblem>>;

/// Trial decryption of every distinct encrypted DEK of a live version.
pub(super) struct Trial<'i> {
    /// DEKs to decrypt. Each request takes 1,000 to 2,000 bytes, so it is built with its batch.
    due: Vec<Due<'i>>,
    /// Contains tried DEKs only.
    pub(super) outcomes: Outcomes<'i>,
}

/// An encrypted DEK and its associated data.
struct Due<'i> {
    group: GroupIndex,
    seed: Seed<'i>,
    key: Arc<TransitKey>,
    annotations: &'i Annotations,
}

impl<'i> Trial<'i> {
    pub(super) fn new(
        inventory: &'i Inventory,
        lineage: &KeyResolver,
        sample: Option<NonZeroU64>,
    ) -> Self {
        let mut trial = Self {
            due: Vec::new(),
            outcomes: HashMap::new(),
        };

        let most = sample.map_or(u64::MAX, NonZeroU64::get);
        // Groups that differ only in the provider's program version share a `key_id`, and its
        // sample.
        let mut tried: HashMap<&str, u64> = HashMap::new();
        for (index, group) in inventory.of_key(lineage) {
            let Resolution::Live(key) = lineage.origin(group.stored()) else {
                continue;
            };
            let Ok(annotations) = &group.parsed else {
                continue;
            };
            let tried = tried.entry(&group.key_id).or_default();
            for (seed, _) in group.seeds() {
                if *tried >= most {
                    break;
                }
                *tried = tried.saturating_add(1);
                let due = Due {
                    group: index,
                    seed,
                    key: Arc::clone(&key),
                    annotations,
                };
                if due.prepare().is_some() {
                    trial.due.push(due);
                } else {
                    let refused = Err(SeedProblem::OtherCiphertext);
                    trial.outcomes.insert((index, seed), refused);
                }
            }
        }
        trial
    }

    /// Decrypts in batches; a DEK without a conclusive answer gets no outcome. The only conclusive
    /// failure is an authentication error of a single ciphertext, because other errors may affect
    /// all of them.
    pub(super) async fn decrypt_all(
        &mut self,
        openbao: &Connection,
        on_progress: OnProgress<'_>,
    ) -> Result<(), Unanswered> {
        let transit = &openbao.transit;
        let mut undecided = None;
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let mut tried = 0_u64;
        let total = count(self.due.len());

        for portion in self.due.chunks(MAX_BATCH) {
            let items: Vec<_> = portion.iter().filter_map(Due::prepare).collect();
            let answers = openbao
                .session
                .call(async |token| transit.decrypt_batch(&token, &items).await)
                .await
                .map_err(Unanswered::Decrypt)?;
            let decided = self.outcomes.len();
            for (due, answer) in portion.iter().zip(answers) {
                let (index, seed) = (due.group, due.seed);
                let outcome = match answer {
                    Ok(plaintext) => source(&plaintext, seed),
                    Err(failure) => match failure.class() {
                        FailureClass::DecryptFailed => Err(SeedProblem::NotDecrypted),
                        _ => {
                            undecided.get_or_insert(failure);
                            continue;
                        }
                    },
                };
                self.outcomes.insert((index, seed), outcome);
            }
            if self.outcomes.len() == decided {
                // OpenBao rejected the whole batch; the next one would fail too.
                break;
            }
            tried = tried.saturating_add(count(portion.len()));
            on_progress(Progress { done: tried, total });
        }

        match undecided {
            None => Ok(()),
            Some(failure) => Err(Unanswered::Item(failure)),
        }
    }
}

impl Due<'_> {
    fn prepare(&self) -> Option<PreparedDecrypt> {
        let ciphertext = TransitCiphertext::parse(self.seed.encrypted).ok()?;
        prepare_proof(&self.key, self.annotations, ciphertext).ok()
    }
}

fn source(plaintext: &Plaintext, seed: Seed<'_>) -> Result<DekSource, SeedProblem> {
    let secret = Zeroizing::new(plaintext.expose().to_vec());
    DekSource::new(&secret, seed.kind).map_err(|_| SeedProblem::NoDek)
}
