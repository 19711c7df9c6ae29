//! The result of the rewriting in a sentence, and its cause in the catalogue.

use std::collections::BTreeSet;

use kms_domain::{recovery::evidence::Rewriting, registry::Registry};
use kms_node::advice::{
    Advice, Cause,
    retirement::{
        NEEDS_UNRESOLVED, NO_ACTIVE_VERSION, NOT_PROMOTED, NOT_REWRITTEN, PARTLY_READ, REWRITTEN,
        SOURCE_WITHOUT_OBJECTS,
    },
};

use super::{Facts, listed};
use crate::recovery::evidence_report::{Values, limits, rewrite};

impl Facts<'_> {
    pub(super) fn limitations(&self) -> Vec<String> {
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
        limits
    }

    pub(super) fn headline(&self, judged: Option<Rewriting>) -> String {
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
            Some(Rewriting::Unresolved) => format!(
                "the version that some objects {at} need is unknown, and so is whether rewriting is \
                 finished"
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

    pub(super) fn advice(&self, judged: Option<Rewriting>) -> Advice {
        let (cause, values): (&Cause, Values) = match judged {
            None => (&NO_ACTIVE_VERSION, Vec::new()),
            Some(Rewriting::NotPromoted) => (&NOT_PROMOTED, Vec::new()),
            Some(Rewriting::Unfinished) => (&NOT_REWRITTEN, self.rewrite()),
            Some(Rewriting::Unresolved) => (&NEEDS_UNRESOLVED, Vec::new()),
            Some(Rewriting::Inconclusive) => (&SOURCE_WITHOUT_OBJECTS, Vec::new()),
            Some(Rewriting::Finished) => match (self.decisive(), self.unread()) {
                (Some(source), Some(unread)) => {
                    (&PARTLY_READ, self.asker.of_unread(&source.name, unread))
                }
                _ => (&REWRITTEN, self.retire()),
            },
        };
        self.asker.advise(cause, &values)
    }

    fn rewrite(&self) -> Values {
        let Some(source) = self.decisive() else {
            return Vec::new();
        };
        let old = self.old(source).into_iter();
        let resources: BTreeSet<_> = old
            .flat_map(|(_, usage)| usage.newest.keys().map(String::as_str))
            .collect();
        let mut values = rewrite(resources);
        if !source.is_live() {
            values.push(("snapshot", "FILE".to_owned()));
        }
        values
    }

    /// Without a value, if this node has no older version to retire.
    fn retire(&self) -> Values {
        let records = self.registry.map(Registry::records).unwrap_or_default();
        let active = self.active();
        let is_old = |version| active.is_some_and(|active| version < active);
        let old = records
            .iter()
            .any(|record| record.state.is_retained() && is_old(record.key.version()));
        let Some(active) = active.filter(|_| old) else {
            return Vec::new();
        };
        let backups = self.needing_backups();
        let kept: Vec<_> = backups
            .iter()
            .map(|(name, versions)| format!("version {} for {name}", listed(versions)))
            .collect();
        let mut values = vec![("active", active.to_string())];
        if !kept.is_empty() {
            values.push(("kept", kept.join("; ")));
        }
        values
    }
}
