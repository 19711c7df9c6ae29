//! Key versions known besides etcd and OpenBao: from the state of this node and the record of a
//! backup set. They are claims without proof, and identify versions below the minimum of the live
//! key.

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
        record::{BackupRecord, FileInfo},
    },
    registry::{RecordState, Registry},
};
use kms_node::{
    config::Config,
    report::one_line,
    state::{self, StateError, Stored},
};

use super::{
    drift::drift,
    pair_report::{self, Facts, Line, PairReport},
    verify_pair::{Depth, Pair},
};

/// Name of the record in messages about versions.
pub const THE_RECORD: &str = "the backup record";

/// State and record, as far as available.
#[derive(Debug)]
pub struct LocalKnowledge {
    /// Path of the configuration file of this node.
    pub config_path: PathBuf,
    /// The state, or the reason why it is unusable.
    pub stored: Result<Stored, StateError>,
    /// The record, if one was given.
    pub record: Option<BackupRecord>,
}

impl LocalKnowledge {
    /// Reads the state of this node.
    #[must_use]
    pub fn gather(config: &Config, config_path: &Path, record: Option<BackupRecord>) -> Self {
        Self {
            config_path: config_path.to_owned(),
            stored: state::inspect(&config.state_path),
            record,
        }
    }

    /// Versions claimed by the state and the record.
    #[must_use]
    pub fn claims(&self) -> Vec<VersionClaims> {
        let state = self.registry();
        let state = state.map(|it| VersionClaims::of_registry(OWN_STATE, it));
        let record = self.record.as_ref();
        let record = record.map(|it| VersionClaims::of_record(THE_RECORD, it));
        state.into_iter().chain(record).collect()
    }

    /// Versions marked as removed in the state. This node refuses their `key_id`s.
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

    /// Creates the report on a verified pair. `snapshot` is the file of the etcd snapshot, for
    /// comparison with the record. `rehearsed` is true if the pair includes a temporary copy of
    /// OpenBao. `again` is the command line.
    #[must_use]
    #[expect(clippy::too_many_arguments, reason = "each is a fact of its own")]
    pub fn report(
        &self,
        config: &Config,
        pair: &Pair,
        depth: Depth,
        snapshot: Option<&FileInfo>,
        rehearsed: bool,
        line: Line<'_>,
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
            line,
        };
        pair_report::outcome(facts, now)
    }
}
