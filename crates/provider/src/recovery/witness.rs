//! What tells, beside etcd and OpenBao, which versions of the key there were: the state of this node
//! and the record of a backup set. Neither proves anything; they tell hidden versions apart.

use std::{sync::Arc, time::SystemTime};

use kms_domain::{
    key::TransitKey,
    recovery::record::{BackupRecord, NotedFile},
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

/// What there is of them.
#[derive(Debug)]
pub struct Witnesses {
    /// The state, if it is valid.
    pub stored: Result<Stored, StateError>,
    /// The record, if one was given.
    pub record: Option<BackupRecord>,
}

impl Witnesses {
    /// Reads the state of this node.
    #[must_use]
    pub fn gather(config: &Config, record: Option<BackupRecord>) -> Self {
        Self {
            stored: state::inspect(&config.state_path),
            record,
        }
    }

    /// The keys that they tell of.
    #[must_use]
    pub fn keys(&self) -> Vec<Arc<TransitKey>> {
        let mut keys = Vec::new();
        if let Ok(stored) = &self.stored
            && let Some(document) = &stored.document
        {
            let records = document.registry().records().iter();
            keys.extend(records.map(|record| record.key.clone()));
        }
        if let Some(record) = &self.record {
            let versions = record.note().versions.values();
            keys.extend(versions.map(|version| version.key.clone()));
        }
        keys
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
        let drift = self.record.as_ref().map_or_else(Vec::new, |record| {
            drift(record, config, stored, pair, snapshot)
        });
        let facts = Facts {
            config,
            pair,
            depth,
            state: document.ok_or(&*no_state),
            record: self.record.as_ref(),
            drift: &drift,
            rehearsed,
        };
        PairReport::new(facts, now)
    }
}
