//! The cause in the catalogue of each finding of recover-state, with the values of its steps.

use std::collections::BTreeMap;

use kms_domain::{
    recovery::{
        rebuild::{OWN_STATE, PlanBlocker},
        resolve::ResolveError,
    },
    transit::{TransitVersion, VersionProblem},
};
use kms_node::{
    advice::{
        Advice, Cause, Found, Site, configuration, evidence,
        key::{self, KEEP_KEY},
        node, restore as causes, snapshot, state, texts, versions,
    },
    report::{CheckName, counted, one_line},
    state::{LockError, StateError},
};

use crate::recovery::recover_state::{FileProblem, InputError, Kind, Weighed};

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

pub(super) const PROVIDER: CheckName =
    CheckName("provider.stopped", "Use of the state by a process");
pub(super) const DIRECTORY: CheckName = CheckName("state.directory", "State directory");
pub(super) const REMAINS: CheckName = CheckName("state.remains", "Remaining files of the state");
pub(super) const KEY: CheckName = CheckName("openbao.key", "Key and its settings");
pub(super) const EVIDENCE: CheckName = CheckName("evidence.read", "Reading of the evidence");
pub(super) const IDENTITY: CheckName = CheckName("evidence.identity", "Identity of the evidence");
pub(super) const MAPPED: CheckName = CheckName("key_ids.mapped", "Resolution of each key_id");
pub(super) const DECRYPTS: CheckName =
    CheckName("deks.decrypt", "Decryption of the encrypted DEKs");
pub(super) const ACCOUNTED: CheckName =
    CheckName("versions.accounted", "Versions in use by the evidence");
pub(super) const ACTIVE: CheckName = CheckName("active.known", "Active version");
pub(super) const PLAN: CheckName = CheckName("plan.reviewed", "Match with the reviewed plan");

/// A finding that blocks a plan.
pub(super) struct Blocking {
    pub(super) code: &'static str,
    /// The check that it fails.
    pub(super) subject: CheckName,
    /// The files or servers that it is about; empty where it is about none.
    pub(super) evidence: Vec<String>,
    pub(super) message: String,
    pub(super) advice: Advice,
    /// An error of the inputs, so that the evidence was not weighed as a whole.
    pub(super) is_input: bool,
    /// The remains of this node's own state name another configuration.
    pub(super) of_configuration: bool,
}

impl Advisor<'_> {
    /// The errors of the inputs, then the blockers in the evidence.
    pub(super) fn findings(&self) -> Vec<Blocking> {
        let of_inputs = self.weighed.obstacles.iter().map(|it| self.of_input(it));
        let of_blockers = self.weighed.refusals.iter().map(|it| self.of_blocker(it));
        of_inputs.chain(of_blockers).collect()
    }

    fn of_blocker(&self, blocker: &PlanBlocker) -> Blocking {
        let (subject, (cause, values)) = self.cause_of_blocker(blocker);
        let mut advice = self.advise(cause, blocker.evidence(), values);
        let of_key = matches!(
            blocker,
            PlanBlocker::Undecryptable { .. } | PlanBlocker::AboveLatest { .. }
        );
        if of_key && !advice.warnings.contains(&KEEP_KEY) {
            advice.warnings.push(KEEP_KEY);
        }
        let names_another = matches!(blocker, PlanBlocker::OtherIdentity { .. });
        Blocking {
            code: blocker.code(),
            subject,
            evidence: blocker.evidence().to_vec(),
            message: blocker.to_string(),
            advice,
            is_input: false,
            of_configuration: names_another && blocker.evidence() == [OWN_STATE],
        }
    }

    fn of_input(&self, error: &InputError) -> Blocking {
        let (code, subject, (cause, values)) = self.cause_of_input(error);
        let evidence = Vec::from_iter(error.evidence());
        Blocking {
            code,
            subject,
            message: one_line(error),
            advice: self.advise(cause, &evidence, values),
            evidence,
            is_input: true,
            of_configuration: false,
        }
    }

    /// With the options of the etcd that the finding is about, or of the only one that was given.
    pub(super) fn advise(&self, cause: &Cause, about: &[String], values: Values) -> Advice {
        let Typed {
            whole,
            planning,
            keeping,
            unassumed,
            unbounded: _,
            etcd,
        } = self.typed;
        let mut values = texts(&values);
        values.extend([
            ("whole", &**whole),
            ("plan", planning),
            ("again", planning),
            ("keeping", keeping),
            ("unassumed", unassumed),
        ]);
        let of_finding = about.iter().find_map(|name| etcd.get(name));
        let only = etcd.values().next().filter(|_| etcd.len() == 1);
        let options = of_finding.or(only).map_or("--etcd-snapshot FILE", |it| it);
        values.push(("etcd", options));
        cause.advise(&self.site, &values)
    }

    fn cause_of_blocker(&self, blocker: &PlanBlocker) -> (CheckName, Found) {
        use PlanBlocker as B;
        let plain = |cause| (cause, Vec::new());
        match blocker {
            B::NoEvidence => (EVIDENCE, plain(&causes::NO_EVIDENCE)),
            B::StateInPlace { hash, .. } => {
                let values = vec![("hash", hash.to_string())];
                (REMAINS, (self.of_state_in_place(), values))
            }
            B::OtherState { found, .. } => {
                let values = vec![("hash", found.to_string())];
                (REMAINS, (&causes::STATE_IN_PLACE, values))
            }
            B::NothingToReplace { .. } => (REMAINS, self.without(&self.typed.keeping)),
            B::OtherIdentity { .. } => (IDENTITY, plain(&configuration::IDENTITY_CHANGED)),
            B::PeerNoPair { .. } | B::PeerUnanchored { .. } => {
                (IDENTITY, plain(&causes::PEER_INVALID))
            }
            B::NoObjects { .. } => (EVIDENCE, plain(&evidence::NO_OBJECTS)),
            B::Undecryptable { evidence, gap, .. } => (MAPPED, self.cause_of_gap(evidence, gap)),
            B::NotDecrypted { .. } => (DECRYPTS, plain(&causes::NOT_DECRYPTED)),
            B::Untried { .. } => (DECRYPTS, plain(&causes::UNTRIED)),
            B::Unreadable {
                objects, sampled, ..
            } => {
                let values = self.of_unreadable(*objects, *sampled);
                (ACCOUNTED, (&causes::UNREADABLE_OBJECTS, values))
            }
            B::AcceptanceIdle { .. } => (ACCOUNTED, self.without(&self.typed.planning)),
            B::ActiveUnproven { .. } => (ACTIVE, plain(&causes::ACTIVE_UNPROVEN)),
            B::ActiveRemoved { .. } => (ACTIVE, plain(&causes::ACTIVE_REMOVED)),
            B::NeverRotated { .. } => (IDENTITY, plain(&causes::NEVER_ROTATED)),
            B::AboveLatest { .. } => (IDENTITY, plain(&versions::ROLLED_BACK)),
            B::Recreated { .. } => (IDENTITY, plain(&causes::OTHER_KEY)),
            B::Contradiction { .. } => (IDENTITY, plain(&causes::CONTRADICTION)),
            B::Unresolved { problem, .. } => {
                (ACCOUNTED, (&causes::UNRESOLVED, self.of_problem(problem)))
            }
            B::ActiveUnusable { problem, .. } => {
                (ACTIVE, (&causes::ACTIVE_UNUSABLE, self.of_problem(problem)))
            }
            B::ActiveBlocked { active, .. } => {
                let values = vec![("active", active.to_string())];
                (ACTIVE, (&versions::ENCRYPTION_BLOCKED, values))
            }
            B::Undecided { versions, .. } => {
                let values = vec![("first", versions.first.to_string())];
                (ACTIVE, (&causes::UNDECIDED, values))
            }
            B::AssumptionWrong { .. } | B::AssumptionIdle { .. } => {
                (ACTIVE, self.without(&self.typed.unassumed))
            }
            B::Document(_) => (ACTIVE, plain(&causes::UNWRITABLE)),
        }
    }

    /// For an option that contradicts the evidence, or has no effect.
    fn without(&self, planning: &str) -> Found {
        (
            &causes::OPTION_UNFIT,
            vec![("without", planning.to_owned())],
        )
    }

    /// The provider starts with the state only if nothing else speaks against the state, and OpenBao
    /// hides no version.
    fn of_state_in_place(&self) -> &'static Cause {
        let of_own = |it: &&PlanBlocker| match it {
            PlanBlocker::Undecryptable { gap, .. } => matches!(gap, ResolveError::Hidden { .. }),
            other => other.evidence().iter().any(|name| name == OWN_STATE),
        };
        let of_own: Vec<_> = self.weighed.refusals.iter().filter(of_own).collect();
        let ahead = |it: &&PlanBlocker| matches!(it, PlanBlocker::AboveLatest { .. });
        match of_own[..] {
            [] => &causes::STATE_IN_PLACE,
            _ if of_own.iter().any(ahead) => &causes::STATE_AHEAD,
            _ => &causes::STATE_UNFIT,
        }
    }

    fn cause_of_gap(&self, evidence: &str, gap: &ResolveError) -> Found {
        let cause = match gap {
            ResolveError::KeyId(_) | ResolveError::Annotations(_) | ResolveError::Foreign(_) => {
                &evidence::OBJECTS_DAMAGED
            }
            // Other objects of this etcd prove that the configured names are right for them.
            ResolveError::IdentityMismatch { .. } => {
                let mut items = self.weighed.items.iter();
                match items.any(|it| it.name == evidence && it.deks.proven > 0) {
                    true => &evidence::OTHER_IDENTITY,
                    false => &configuration::IDENTITY_CHANGED,
                }
            }
            ResolveError::NewerThanLatest { .. } => &versions::ROLLED_BACK,
            ResolveError::Trimmed { .. } => {
                return (&versions::LOST, vec![("missing", self.lowest_trimmed())]);
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
            ResolveError::OtherProvider { provider, .. } => {
                let values = vec![("provider", format!("{provider:?}"))];
                return (&evidence::OTHER_PROVIDER, values);
            }
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

    /// Code, subject and cause of an error.
    fn cause_of_input(&self, error: &InputError) -> (&'static str, CheckName, Found) {
        use InputError as E;
        let (code, subject, cause): (_, _, &Cause) = match error {
            E::State(error) => {
                let (code, cause): (_, &Cause) = match error {
                    StateError::Lock(LockError::Locked { .. }) => {
                        let cause = (&causes::PROVIDER_RUNNING, Vec::new());
                        return ("provider_running", PROVIDER, cause);
                    }
                    StateError::NoDirectory { .. } => {
                        ("no_directory", &node::STATE_DIRECTORY_MISSING)
                    }
                    StateError::OtherRelease { .. } => ("other_release", &state::OTHER_RELEASE),
                    StateError::OfPreview { .. } => ("of_preview", &state::OF_PREVIEW),
                    StateError::OtherConfiguration { .. } => {
                        ("state_unusable", &configuration::IDENTITY_CHANGED)
                    }
                    StateError::Lock(_)
                    | StateError::Unreadable(_)
                    | StateError::CorruptCheckpoint { .. }
                    | StateError::CorruptDocument { .. }
                    | StateError::RolledBack { .. }
                    | StateError::CheckpointMissing { .. }
                    | StateError::CheckpointWrite(_) => ("state_unusable", &state::UNREADABLE),
                };
                (code, DIRECTORY, cause)
            }
            E::Connection(_) | E::Metadata(_) => ("openbao", KEY, &causes::KEY_UNASKED),
            E::Unanswered { .. } => ("openbao", DECRYPTS, &causes::KEY_UNASKED),
            E::KeyMoved => ("key_moved", KEY, &causes::KEY_UNASKED),
            E::NoKey(_) => ("no_key", KEY, &key::LOST),
            E::Profile(refused) => return ("key_profile", KEY, key::found_profile(refused)),
            E::Etcd { error, .. } => return ("etcd_unread", EVIDENCE, error.cause()),
            E::Unread { name, unread } => {
                let found = unread.cause(name, Some(&self.typed.unbounded));
                return ("keys_unread", EVIDENCE, found);
            }
            E::Unreadable { .. } => ("unreadable", EVIDENCE, &snapshot::NOT_OPENED),
            E::Invalid { problem, .. } if problem.is_newer() => {
                ("other_release", EVIDENCE, &evidence::NEWER_RELEASE)
            }
            E::Invalid { problem, .. } => match **problem {
                FileProblem::Record(_) => ("record_invalid", EVIDENCE, &evidence::RECORD_INVALID),
                FileProblem::PeerDocument(_) | FileProblem::PeerCheckpoint(_) => {
                    ("peer_invalid", EVIDENCE, &causes::PEER_INVALID)
                }
            },
            E::PeerIsOwn { .. } => ("peer_is_own", EVIDENCE, &causes::PEER_INVALID),
            E::Outdated(_) => ("plan_outdated", PLAN, &causes::PLAN_OUTDATED),
        };
        (code, subject, (cause, Vec::new()))
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
            let advice = advisor.of_blocker(it).advice;
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
