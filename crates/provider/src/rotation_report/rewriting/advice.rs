//! What was found of the rewriting in a sentence, and what to do next.

use std::collections::BTreeSet;

use kms_domain::{recovery::evidence::Rewriting, registry::Registry};

use super::{Facts, listed};
use crate::recovery::evidence_report::{limits, rewrite};

impl Facts<'_> {
    pub(super) fn limitations(&self) -> String {
        let mut limits = limits(self.sources);
        if self.profile.is_none() {
            limits.push(
                "The key could not be read, so a newer version of it would not be known."
                    .to_owned(),
            );
        }
        limits.push(
            "Until you retire them, older versions must stay decryptable in OpenBao.".to_owned(),
        );
        limits.join(" ")
    }

    pub(super) fn summary(&self, judged: Option<Rewriting>) -> String {
        let at = match self.decisive() {
            Some(source) if source.is_live() => match self.unread() {
                Some(unread) => format!("below {} in the running etcd", unread.below),
                None => "in the running etcd".to_owned(),
            },
            Some(source) => format!(
                "in {}, which is of etcd revision {}",
                source.name, source.revision
            ),
            None => "in etcd".to_owned(),
        };
        match judged {
            None => "this node has no state, so no version is active that objects could have been \
                     rewritten under"
                .to_owned(),
            Some(Rewriting::Finished) => format!(
                "no object {at} is under an older version than the active one: rewriting is \
                 finished there"
            ),
            Some(Rewriting::Unfinished) => {
                format!("objects {at} are still under older versions: rewriting is not finished")
            }
            Some(Rewriting::Unaccounted) => format!(
                "it cannot be told what some objects {at} need: whether rewriting is finished is \
                 not established"
            ),
            Some(Rewriting::NotPromoted) => {
                "the key has a newer version than the active one: the rotation is not over, and \
                 rewriting would come too early"
                    .to_owned()
            }
            Some(Rewriting::Inconclusive) => format!(
                "there is no object of provider {} {at}, so nothing is established",
                self.provider
            ),
        }
    }

    pub(super) fn next_step(&self, judged: Option<Rewriting>) -> String {
        match judged {
            None => "start the provider on this node, or restore state and checkpoint from a \
                     backup or a peer; then verify again"
                .to_owned(),
            Some(Rewriting::NotPromoted) => {
                "wait until every node has promoted the newest version; rotation-plan shows what \
                 it waits for. Then rewrite all objects and verify again"
                    .to_owned()
            }
            Some(Rewriting::Unfinished) => self.rewrite(),
            Some(Rewriting::Unaccounted) => {
                "run verify-backup with the same source: it tells for each key_id what is missing \
                 and what helps; then verify again"
                    .to_owned()
            }
            Some(Rewriting::Inconclusive) => {
                "name the etcd of this cluster, and compare transit.keyIdScope.providerName with the EncryptionConfiguration"
                    .to_owned()
            }
            Some(Rewriting::Finished) => match self.unread() {
                Some(unread) => format!("{}; then verify again", unread.remedy()),
                None => self.retire(),
            },
        }
    }

    fn rewrite(&self) -> String {
        let Some(source) = self.decisive() else {
            return String::new();
        };
        let old = self.old(source).into_iter();
        let resources: BTreeSet<_> = old
            .flat_map(|(_, usage)| usage.newest.keys().map(String::as_str))
            .collect();
        let then = match source.is_live() {
            true => "then verify again",
            false => "then save a new snapshot and verify again",
        };
        format!("{}; {then}", rewrite(resources))
    }

    fn retire(&self) -> String {
        let records = self.registry.map(Registry::records).unwrap_or_default();
        let active = self.active();
        let is_old = |version| active.is_some_and(|active| version < active);
        let old = records
            .iter()
            .any(|record| record.state.is_retained() && is_old(record.key.version()));
        let Some(active) = active.filter(|_| old) else {
            return "none: this node has no older version to retire".to_owned();
        };
        let backups = self.needing_backups();
        let keep: Vec<_> = backups
            .iter()
            .map(|(name, versions)| format!("keep version {} for {name}", listed(versions)))
            .collect();
        let keep = match keep.is_empty() {
            true => String::new(),
            false => format!("{}; ", keep.join("; ")),
        };
        format!(
            "{keep}once no backup that may be restored needs an older version, plan its \
             retirement with the running etcd and all backups as evidence: bao-kms-provider \
             retire-versions --before-version {active}"
        )
    }
}
