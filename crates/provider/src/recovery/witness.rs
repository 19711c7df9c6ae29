//! What tells, beside etcd and OpenBao, which versions of the key there were: the state of this node
//! and the record of a backup set. Neither proves anything; they tell hidden versions apart.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use kms_domain::{
    key::TransitKey,
    recovery::{
        claims::VersionClaims,
        rebuild::OWN_STATE,
        record::{BackupRecord, NotedFile},
    },
    registry::{RecordState, Registry},
};

use super::{
    drift::drift,
    pair_report::{Facts, PairReport},
    verify_pair::{Depth, Pair},
};
use crate::{
    config::Config,
    report::one_line,
    state::{self, StateError, Stored},
};

/// How the record is called where versions are named.
pub const THE_RECORD: &str = "the backup record";

/// What there is of them.
#[derive(Debug)]
pub struct Witnesses {
    /// The configuration file of this node.
    pub config_path: PathBuf,
    /// The state, if it is valid.
    pub stored: Result<Stored, StateError>,
    /// The record, if one was given.
    pub record: Option<BackupRecord>,
}

impl Witnesses {
    /// Reads the state of this node.
    #[must_use]
    pub fn gather(config: &Config, config_path: &Path, record: Option<BackupRecord>) -> Self {
        Self {
            config_path: config_path.to_owned(),
            stored: state::inspect(&config.state_path),
            record,
        }
    }

    /// The versions that they name.
    #[must_use]
    pub fn claims(&self) -> Vec<VersionClaims> {
        let state = self.registry();
        let state = state.map(|it| VersionClaims::of_registry(OWN_STATE, it));
        let record = self.record.as_ref();
        let record = record.map(|it| VersionClaims::of_record(THE_RECORD, it));
        state.into_iter().chain(record).collect()
    }

    /// The versions whose `key_id`s this node refuses, since its state has them as removed.
    #[must_use]
    pub fn removed(&self) -> Vec<Arc<TransitKey>> {
        let records = self.registry().into_iter().flat_map(Registry::records);
        let removed = records.filter(|record| record.state == RecordState::Removed);
        removed.map(|record| Arc::clone(&record.key)).collect()
    }

    fn registry(&self) -> Option<&Registry> {
        let document = self.stored.as_ref().ok()?.document.as_ref()?;
        Some(document.registry())
    }

    /// Puts what was verified with these witnesses into words. `snapshot` is the etcd snapshot that
    /// was read, to be compared with the record's; `rehearsed` tells of a copy of OpenBao that was made
    /// for it.
    #[must_use]
    pub fn report(
        &self,
        config: &Config,
        pair: &Pair,
        depth: Depth,
        snapshot: Option<&NotedFile>,
        rehearsed: bool,
        now: SystemTime,
    ) -> PairReport {
        let stored = self.stored.as_ref();
        let no_state = match stored {
            Ok(_) => "there is no state on this node".to_owned(),
            Err(error) => one_line(error),
        };
        let stored = stored.ok();
        let document = stored.and_then(|stored| stored.document.as_ref());
        let record = self.record.as_ref();
        let compared = record.map(|record| drift(record, config, stored, pair, snapshot));
        let compared = compared.unwrap_or_default();
        let facts = Facts {
            config,
            config_path: &self.config_path,
            pair,
            depth,
            state: document.ok_or(&*no_state),
            record: self.record.as_ref(),
            compared: &compared,
            rehearsed,
        };
        PairReport::new(facts, now)
    }
}
