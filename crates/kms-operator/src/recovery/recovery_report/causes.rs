//! The cause in the catalogue of each finding of recover-state, with the values of its steps.

use std::collections::BTreeMap;

use kms_domain::{
    recovery::{
        rebuild::{OWN_STATE, PlanBlocker},
        record::RecordError,
        resolve::ResolveError,
    },
    registry::{checkpoint::CheckpointError, document::DocumentError},
    transit::{TransitVersion, VersionProblem},
};
use kms_node::{
    advice::{
        Advice, Cause, Site, configuration, evidence, key,
        restore::{self as causes, KEEP_KEY},
        versions,
    },
    report::{counted, shell},
    state::{LockError, StateError},
};

use crate::recovery::recover_state::{InputError, Kind, Weighed};

/// The command line that asked for a report.
#[derive(Debug, Default)]
pub struct Typed {
    /// All of it.
    pub whole: String,
    /// Without the flags that apply a plan, sample, or accept unreadable objects.
    pub planning: String,
    /// `planning` without the flags that replace a state.
    pub keeping: String,
    /// `planning` without the assertion on promotions.
    pub unassumed: String,
    /// `planning` without the limit to a prefix of etcd.
    pub unbounded: String,
    /// The options of each etcd source, by its name.
    pub etcd: BTreeMap<String, String>,
}

/// Values of placeholders.
pub(super) type Values = Vec<(&'static str, String)>;

/// Common properties of the findings.
pub(super) struct Advisor<'a> {
    pub(super) site: Site<'a>,
    pub(super) typed: &'a Typed,
    pub(super) weighed: &'a Weighed,
}

impl Advisor<'_> {
    pub(super) fn of_blocker(&self, blocker: &PlanBlocker) -> Advice {
        let (cause, values) = self.cause_of_blocker(blocker);
        let mut advice = self.advise(cause, blocker.evidence(), values);
        let of_key = matches!(
            blocker,
            PlanBlocker::Undecryptable { .. } | PlanBlocker::AboveLatest { .. }
        );
        if of_key && !advice.warnings.contains(&KEEP_KEY) {
            advice.warnings.push(KEEP_KEY);
        }
        advice
    }

    pub(super) fn of_input(&self, error: &InputError) -> Advice {
        let (cause, values) = self.cause_of_input(error);
        self.advise(cause, error.evidence().as_slice(), values)
    }

    /// With the options of the etcd that the finding is about, or of the only one that was given.
    pub(super) fn advise(&self, cause: &Cause, about: &[String], values: Values) -> Advice {
        let Typed {
            whole,
            planning,
            keeping,
            unassumed,
            unbounded,
            etcd,
        } = self.typed;
        let mut values: Vec<_> = values.iter().map(|(name, it)| (*name, &**it)).collect();
        values.extend([
            ("whole", &**whole),
            ("plan", planning),
            ("keeping", keeping),
            ("unassumed", unassumed),
            ("unbounded", unbounded),
        ]);
        let of_finding = about.iter().find_map(|name| etcd.get(name));
        let only = etcd.values().next().filter(|_| etcd.len() == 1);
        let options = of_finding.or(only).map_or("--etcd-snapshot FILE", |it| it);
        values.push(("etcd", options));
        cause.advise(&self.site, &values)
    }

    fn cause_of_blocker(&self, blocker: &PlanBlocker) -> (&'static Cause, Values) {
        let plain = |cause| (cause, Vec::new());
        match blocker {
            PlanBlocker::NoEvidence => plain(&causes::NO_EVIDENCE),
            PlanBlocker::StateInPlace { hash, .. } => {
                (self.of_state_in_place(), vec![("hash", hash.to_string())])
            }
            PlanBlocker::OtherState { .. } => plain(&causes::OTHER_STATE),
            PlanBlocker::NothingToReplace { .. } => plain(&causes::NOTHING_TO_REPLACE),
            PlanBlocker::OtherIdentity { .. } => plain(&causes::OTHER_IDENTITY),
            PlanBlocker::PeerNoPair { .. } | PlanBlocker::PeerUnanchored { .. } => {
                plain(&causes::PEER_NO_PAIR)
            }
            PlanBlocker::NoObjects { .. } => plain(&causes::NO_OBJECTS),
            PlanBlocker::Undecryptable { evidence, gap, .. } => self.cause_of_gap(evidence, gap),
            PlanBlocker::NotDecrypted { .. } => plain(&causes::NOT_DECRYPTED),
            PlanBlocker::Untried { .. } => plain(&causes::UNTRIED),
            PlanBlocker::Unreadable {
                objects, sampled, ..
            } => (
                &causes::UNREADABLE_OBJECTS,
                self.of_unreadable(*objects, *sampled),
            ),
            PlanBlocker::AcceptanceIdle { .. } => plain(&causes::ACCEPTANCE_IDLE),
            PlanBlocker::ActiveUnproven { .. } => plain(&causes::ACTIVE_UNPROVEN),
            PlanBlocker::ActiveRemoved { .. } => plain(&causes::ACTIVE_REMOVED),
            PlanBlocker::NeverRotated { .. } => plain(&causes::NEVER_ROTATED),
            PlanBlocker::AboveLatest { .. } => plain(&versions::ROLLED_BACK),
            PlanBlocker::Recreated { .. } => plain(&causes::OTHER_KEY),
            PlanBlocker::Contradiction { .. } => plain(&causes::CONTRADICTION),
            PlanBlocker::Unresolved { problem, .. } => {
                (&causes::UNRESOLVED, self.of_problem(problem))
            }
            PlanBlocker::ActiveUnusable { problem, .. } => {
                (&causes::ACTIVE_UNUSABLE, self.of_problem(problem))
            }
            PlanBlocker::ActiveBlocked { active, .. } => (
                &causes::ACTIVE_BLOCKED,
                vec![("active", active.to_string())],
            ),
            PlanBlocker::Undecided { versions, .. } => (
                &causes::UNDECIDED,
                vec![("first", versions.first.to_string())],
            ),
            PlanBlocker::AssumptionWrong { .. } => plain(&causes::ASSUMPTION_WRONG),
            PlanBlocker::AssumptionIdle { .. } => plain(&causes::ASSUMPTION_IDLE),
            PlanBlocker::Document(_) => plain(&causes::UNWRITABLE),
        }
    }

    /// The provider starts with the state only if nothing else speaks against the state.
    fn of_state_in_place(&self) -> &'static Cause {
        let of_own = |it: &&PlanBlocker| it.evidence().iter().any(|name| name == OWN_STATE);
        let of_own: Vec<_> = self.weighed.refusals.iter().filter(of_own).collect();
        let ahead = |it: &&PlanBlocker| matches!(it, PlanBlocker::AboveLatest { .. });
        match of_own[..] {
            [] => &causes::STATE_IN_PLACE,
            _ if of_own.iter().any(ahead) => &causes::STATE_AHEAD,
            _ => &causes::STATE_UNFIT,
        }
    }

    fn cause_of_gap(&self, evidence: &str, gap: &ResolveError) -> (&'static Cause, Values) {
        let cause = match gap {
            ResolveError::KeyId(_) | ResolveError::Annotations(_) | ResolveError::Foreign(_) => {
                &evidence::OBJECTS_DAMAGED
            }
            // Other objects of this etcd prove that the configured names are right for them.
            ResolveError::IdentityMismatch { .. } => {
                let mut items = self.weighed.items.iter();
                match items.any(|it| it.name == evidence && it.deks.proven > 0) {
                    true => &causes::OBJECTS_OF_OTHER_IDENTITY,
                    false => &causes::OTHER_IDENTITY,
                }
            }
            ResolveError::NewerThanLatest { .. } => &versions::ROLLED_BACK,
            ResolveError::Trimmed { .. } => {
                return (&causes::TRIMMED, vec![("missing", self.lowest_trimmed())]);
            }
            ResolveError::Hidden { .. } => {
                return (
                    &versions::BELOW_MINIMUM,
                    vec![("lowest", self.lowest_hidden())],
                );
            }
            ResolveError::CreationTimeMismatch { .. } | ResolveError::Recreated { .. } => {
                &causes::OTHER_KEY
            }
            ResolveError::OtherProvider { .. } => &causes::OBJECTS_OF_OTHER_PROVIDER,
            ResolveError::NoKey { .. } | ResolveError::Unknown { .. } => &key::LOST,
        };
        (cause, Vec::new())
    }

    fn of_problem(&self, problem: &VersionProblem) -> Values {
        match problem {
            VersionProblem::Hidden { .. } => vec![("lowest", self.lowest_hidden())],
            VersionProblem::AboveLatest { version, .. }
            | VersionProblem::Trimmed { version, .. }
            | VersionProblem::Unlisted(version)
            | VersionProblem::CreationTimeMismatch { version, .. } => {
                vec![("missing", version.to_string())]
            }
        }
    }

    /// One minimum that suffices for every finding.
    fn lowest_hidden(&self) -> String {
        lowest(self.weighed.refusals.iter().filter_map(|it| match it {
            PlanBlocker::Undecryptable {
                gap: ResolveError::Hidden { version, .. },
                ..
            }
            | PlanBlocker::Unresolved {
                problem: VersionProblem::Hidden { version, .. },
                ..
            }
            | PlanBlocker::ActiveUnusable {
                problem: VersionProblem::Hidden { version, .. },
                ..
            } => Some(*version),
            _ => None,
        }))
    }

    /// A backup from before this one was trimmed has all of them.
    fn lowest_trimmed(&self) -> String {
        lowest(self.weighed.refusals.iter().filter_map(|it| match it {
            PlanBlocker::Undecryptable {
                gap: ResolveError::Trimmed { version, .. },
                ..
            } => Some(*version),
            _ => None,
        }))
    }

    /// The present values choose the steps.
    fn of_unreadable(&self, objects: u64, sampled: bool) -> Values {
        let counted = counted(objects, "object");
        let mut values = vec![("objects", counted.clone())];
        let others = !self.weighed.obstacles.is_empty()
            || self
                .weighed
                .refusals
                .iter()
                .any(|it| !it.is_settled_by_acceptance());
        values.push(match (sampled, others) {
            (true, _) => ("all", self.typed.planning.clone()),
            (false, true) => ("beside", counted),
            (false, false) => ("lost", objects.to_string()),
        });
        values
    }

    fn cause_of_input(&self, error: &InputError) -> (&'static Cause, Values) {
        let plain = |cause| (cause, Vec::new());
        match error {
            InputError::State(StateError::Lock(LockError::Locked { .. })) => {
                plain(&causes::PROVIDER_RUNNING)
            }
            InputError::State(StateError::NoDirectory { path }) => {
                (&causes::NO_DIRECTORY, vec![("directory", shell(path))])
            }
            InputError::State(StateError::OtherRelease { .. }) => plain(&causes::NEWER_STATE),
            InputError::State(StateError::OtherConfiguration { .. }) => {
                plain(&configuration::IDENTITY_CHANGED)
            }
            InputError::State(
                StateError::Lock(_)
                | StateError::Unreadable(_)
                | StateError::CorruptCheckpoint { .. }
                | StateError::CorruptDocument { .. }
                | StateError::RolledBack { .. }
                | StateError::CheckpointMissing { .. }
                | StateError::CheckpointWrite(_),
            ) => plain(&causes::STATE_UNUSABLE),
            InputError::Connection(_) | InputError::Metadata(_) | InputError::Unanswered { .. } => {
                plain(&causes::KEY_UNASKED)
            }
            InputError::NoKey(_) => plain(&key::LOST),
            InputError::Profile(_) => plain(&causes::KEY_UNFIT),
            InputError::KeyMoved => plain(&causes::KEY_CHANGED),
            InputError::Etcd { error, .. } => match error.next_step() {
                Some(form) => (&causes::ETCD_FORM, vec![("form", form)]),
                None => plain(&causes::ETCD_UNREAD),
            },
            InputError::Unhashed { .. } => plain(&causes::ETCD_UNREAD),
            InputError::Unread { unread, .. } => plain(match unread.keys {
                Some(_) => &causes::KEYS_LEFT_OUT,
                None => &causes::KEYS_FORBIDDEN,
            }),
            InputError::Unreadable { .. } => plain(&causes::FILE_UNREADABLE),
            InputError::Record {
                problem: RecordError::NewerRelease(_),
                ..
            }
            | InputError::PeerDocument {
                problem: DocumentError::NewerRelease(_),
                ..
            }
            | InputError::PeerCheckpoint {
                problem: CheckpointError::NewerRelease(_),
                ..
            } => plain(&causes::NEWER_EVIDENCE),
            InputError::Record { .. } => plain(&causes::RECORD_INVALID),
            InputError::PeerDocument { .. } | InputError::PeerCheckpoint { .. } => {
                plain(&causes::PEER_INVALID)
            }
            InputError::PeerIsOwn { .. } => plain(&causes::PEER_IS_OWN),
            InputError::Outdated(_) => plain(&causes::PLAN_OUTDATED),
        }
    }

    /// The advice of a plan that was made or carried out.
    pub(super) fn of_plan(&self, cause: &Cause, mut values: Values) -> Advice {
        if let Some(holder) = &self.weighed.holder {
            values.push(("pid", holder.pid.to_string()));
            values.push(("program", holder.program.clone()));
        }
        let mut items = self.weighed.items.iter();
        let etcd = items.find(|it| matches!(it.kind, Kind::Etcd | Kind::EtcdSnapshot));
        let about: Vec<_> = etcd.map(|it| it.name.clone()).into_iter().collect();
        self.advise(cause, &about, values)
    }
}

fn lowest(versions: impl Iterator<Item = TransitVersion>) -> String {
    versions.min().map_or(String::new(), |it| it.to_string())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use kms_domain::registry::document::{Generation, StateHash};

    use super::*;
    use crate::claims::config;

    fn version(number: u64) -> TransitVersion {
        TransitVersion::new(number).unwrap()
    }

    /// Cause and commands of each finding.
    fn advised(refusals: Vec<PlanBlocker>) -> Vec<(&'static str, Vec<String>)> {
        let config = config();
        let typed = Typed {
            planning: "recover".to_owned(),
            unassumed: "recover".to_owned(),
            ..Typed::default()
        };
        let weighed = Weighed {
            refusals,
            ..Weighed::default()
        };
        let advisor = Advisor {
            site: Site::new(Path::new("/etc/c.yaml"), Some(&config)),
            typed: &typed,
            weighed: &weighed,
        };
        let advised = weighed.refusals.iter().map(|it| {
            let advice = advisor.of_blocker(it);
            let commands = advice.steps.into_iter().filter_map(|step| step.command);
            (advice.code, commands.collect())
        });
        advised.collect()
    }

    fn in_place() -> PlanBlocker {
        PlanBlocker::StateInPlace {
            generation: Generation::FIRST,
            hash: StateHash::parse(&format!("krs1.{}", "A".repeat(43))).unwrap(),
        }
    }

    #[test]
    fn a_state_that_is_newer_than_openbao_is_not_to_be_started_with() {
        let ahead = PlanBlocker::AboveLatest {
            evidence: OWN_STATE.to_owned(),
            version: version(5),
            latest: version(1),
        };
        let [(cause, commands), _] = &advised(vec![in_place(), ahead])[..] else {
            panic!("two findings");
        };
        assert_eq!(*cause, "state_ahead_of_openbao");
        let start = "systemctl start bao-kms-provider";
        assert!(commands.iter().all(|it| it != start), "{commands:?}");
        let away = |it: &String| it.starts_with("mv --no-clobber ") && it.ends_with(" /root");
        assert!(commands.iter().any(away), "{commands:?}");
        assert_eq!(commands.last().unwrap(), "recover");

        let [(alone, commands)] = &advised(vec![in_place()])[..] else {
            panic!("one finding");
        };
        assert_eq!((*alone, &*commands[0]), ("state_in_place", start));
    }

    #[test]
    fn one_minimum_suffices_for_all_versions_below_it() {
        let hidden = |number| PlanBlocker::Undecryptable {
            evidence: "etcd.db".to_owned(),
            objects: 1,
            gap: ResolveError::Hidden {
                version: version(number),
                minimum: 4,
                claimed: kms_domain::recovery::resolve::Claimed::No,
            },
        };
        let advised = advised(vec![hidden(3), hidden(2)]);
        assert_eq!(advised[0], advised[1]);
        let (cause, commands) = &advised[0];
        assert_eq!(*cause, "versions_below_minimum");
        assert!(commands[0].ends_with(" min_decryption_version=2"));
    }

    #[test]
    fn a_single_node_need_not_wait_for_peers() {
        let undecided = PlanBlocker::Undecided {
            evidence: Vec::new(),
            active: version(3),
            versions: kms_domain::recovery::rebuild::VersionRange {
                first: version(4),
                last: version(5),
            },
        };
        let [(_, commands)] = &advised(vec![undecided])[..] else {
            panic!("one finding");
        };
        assert_eq!(commands[0], "recover --etcd-snapshot FILE");
        assert_eq!(commands.last().unwrap(), "recover --assume-not-promoted 4");
    }
}
