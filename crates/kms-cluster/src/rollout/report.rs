//! The result of `rollout`.

use std::time::SystemTime;

use kms_node::{
    advice::{Advice, Cause, NextStep, Site, cluster},
    exit::Exit,
    report::{counted, outcome::Outcome, table::Table},
};
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    Gathered,
    judge::{Judgement, Phase, Server, Step, Stored, Unreadable, judge},
};

/// The members of `rollout`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// Name of the KMS provider in the EncryptionConfiguration.
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<String>,
    servers: Vec<ServerRow>,
    unreadable: Vec<UnreadableRow>,
    /// Host names of running API servers without an examination; absent if they are unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    unexamined: Option<Vec<String>>,
    /// The step that may begin; absent if none may.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Step>,
    /// Objects in etcd outside this provider, of the encrypted resources; absent if etcd was not read.
    #[serde(skip_serializing_if = "Option::is_none")]
    other_objects: Option<u64>,
}

/// One API server.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ServerRow {
    server: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    phase: Option<Phase>,
    /// Protection of a Secret that it wrote.
    #[serde(skip_serializing_if = "Option::is_none")]
    writes: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_id_hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    configuration_hash: Option<String>,
    /// Code in the catalogue of causes.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<&'static str>,
}

/// A Secret that an API server did not read.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct UnreadableRow {
    writer: String,
    reader: String,
    cause: &'static str,
}

/// What was asked, for verdict and steps.
pub struct Asked<'a> {
    /// The step that is to begin.
    pub step: Option<Step>,
    /// The command line.
    pub again: &'a str,
    pub namespace: &'a str,
}

/// Verdict and next steps.
#[must_use]
pub fn outcome(
    gathered: Gathered,
    stored: Stored,
    asked: &Asked<'_>,
    now: SystemTime,
) -> Outcome<Rollout> {
    let Gathered {
        servers,
        unreadable,
        unexamined,
        left,
        provider,
    } = gathered;
    let mut judgement = judge(&servers, &unreadable, stored);
    let open = match &unexamined {
        Some(hosts) => hosts.clone(),
        None => vec!["further API servers: the leases in kube-system cannot be read".to_owned()],
    };
    if !open.is_empty() && !matches!(judgement, Judgement::Unsafe { .. }) {
        judgement = Judgement::Unknown(open);
    }
    let next = match &judgement {
        Judgement::InStep { next, .. } => *next,
        _ => None,
    };
    let causes: Vec<_> = servers.iter().filter_map(|it| it.problem).collect();
    let count = servers.len();
    let result = Rollout {
        provider,
        servers: servers.into_iter().map(ServerRow::from).collect(),
        unreadable: unreadable.into_iter().map(UnreadableRow::from).collect(),
        unexamined,
        next,
        other_objects: match stored {
            Stored::Others(objects) => Some(objects),
            Stored::Uncounted(_) => None,
        },
    };
    let tables = result.tables();
    let uncounted = match (&judgement, stored) {
        (
            Judgement::InStep {
                phase: Phase::Writers,
                ..
            },
            Stored::Uncounted(why),
        ) => Some(format!(
            "objects in etcd were not counted: {}",
            why.as_str()
        )),
        _ => None,
    };
    let mut outcome = Outcome::new("rollout", now, result);
    conclude(&mut outcome, &judgement, asked, count);
    for cause in causes {
        outcome.add_actions(&advise(cause, asked, &[]));
    }
    if !left.is_empty() {
        let secrets = left.join(" ");
        let values = [("secrets", &*secrets), ("namespace", asked.namespace)];
        outcome.add_actions(&advise(&cluster::PROBE_LEFT, asked, &values));
    }
    outcome.add_tables(tables);
    outcome.add_limitations([
        "The phases are those for Secrets. Other resources follow the same file if it has a rule for \
         them.",
    ]);
    outcome.add_limitations(uncounted);
    outcome
}

fn advise(cause: &Cause, asked: &Asked<'_>, values: &[(&'static str, &str)]) -> Advice {
    let values = [values, &[("again", asked.again), ("whole", asked.again)]].concat();
    cause.advise(&Site::none(), &values)
}

fn conclude(
    outcome: &mut Outcome<Rollout>,
    judgement: &Judgement,
    asked: &Asked<'_>,
    count: usize,
) {
    let refuse = |outcome: &mut Outcome<Rollout>, cause, values: &[(&'static str, &str)], found| {
        outcome.conclude_with(&advise(cause, asked, values));
        outcome.set_found(found);
    };
    match judgement {
        Judgement::Unknown(servers) => {
            refuse(outcome, &cluster::ROLLOUT_UNKNOWN, &[], servers.join(", "));
        }
        Judgement::SameServer([first, second]) => {
            let found = format!("{first} and {second} lead to one API server");
            refuse(outcome, &cluster::ROLLOUT_UNKNOWN, &[], found);
        }
        Judgement::Unsafe { writers, readers } => {
            let (writers, readers) = (writers.join(", "), readers.join(", "));
            let found = format!("{readers} cannot read what {writers} writes");
            let values = [("writers", &*writers), ("readers", &*readers)];
            refuse(outcome, &cluster::ROLLOUT_UNSAFE, &values, found);
        }
        Judgement::Lagging { servers, to, .. }
            if !asked.step.is_some_and(|it| judgement.allows(it)) =>
        {
            let lagging = servers.join(", ");
            let values = [("lagging", &*lagging), ("phase", to.as_str())];
            let found = format!("before the phase {}: {lagging}", to.as_str());
            refuse(outcome, &cluster::ROLLOUT_LAGGING, &values, found);
        }
        Judgement::Lagging { servers, to, .. } => {
            let left = counted(servers.len(), "API server");
            let found = format!("the phase {} may go on; {left} to come", to.as_str());
            outcome.conclude("allowed", Exit::Success, found);
        }
        Judgement::KeysDiffer => {
            let hashes = "their key_id hashes differ".to_owned();
            refuse(outcome, &cluster::ROLLOUT_KEYS_DIFFER, &[], hashes);
        }
        Judgement::InStep { phase, next } => {
            let servers = counted(count, "API server");
            let phase = format!("{servers} in the phase {}", phase.as_str());
            match (asked.step, next) {
                (Some(step), Some(next)) if !judgement.allows(step) => {
                    let found = format!("{phase}; next is {}", next.as_str());
                    let values = [("next", next.as_str())];
                    refuse(outcome, &cluster::ROLLOUT_TOO_EARLY, &values, found);
                }
                (_, Some(next)) => {
                    let found = format!("{phase}; {} may begin", next.as_str());
                    outcome.conclude("allowed", Exit::Success, found);
                    outcome.add_step(step(*next));
                }
                (_, None) => {
                    outcome.conclude("complete", Exit::Success, phase);
                }
            }
        }
    }
}

/// The action of a step.
fn step(next: Step) -> NextStep {
    NextStep::act(match next {
        Step::Readers => {
            "give one API server after another the EncryptionConfiguration for readers: identity \
             first, then the KMS provider"
        }
        Step::Writers => {
            "give one API server after another the EncryptionConfiguration for writers: the KMS \
             provider first, then identity"
        }
        Step::Rewrite => {
            "write all objects again with `bao-kms-provider rewrite`, then repeat this command with \
             --endpoints and --encryption-config"
        }
        Step::IdentityRemoval => {
            "remove identity from the EncryptionConfiguration of one API server after another"
        }
    })
}

impl From<Server> for ServerRow {
    fn from(server: Server) -> Self {
        Self {
            server: server.server,
            host: server.host,
            phase: server.phase,
            writes: server.writes,
            key_id_hash: server.key_id_hash,
            configuration_hash: server.configuration_hash,
            problem: server.problem.map(|cause| cause.code),
        }
    }
}

impl From<Unreadable> for UnreadableRow {
    fn from(unreadable: Unreadable) -> Self {
        Self {
            writer: unreadable.writer,
            reader: unreadable.reader,
            cause: unreadable.cause.code,
        }
    }
}

impl Rollout {
    fn tables(&self) -> Vec<Table> {
        let servers = Table::of("API servers", &self.servers)
            .column("server", |it| &it.server)
            .column("host", |it| it.host.as_ref())
            .column("phase", |it| it.phase.map_or("unknown", Phase::as_str))
            .column("writes", |it| it.writes.as_ref())
            .column("key_id hash", |it| it.key_id_hash.as_ref())
            .column("problem", |it| it.problem);
        let unreadable = Table::of("Secrets that could not be read", &self.unreadable)
            .column("written through", |it| &it.writer)
            .column("read through", |it| &it.reader)
            .column("cause", |it| it.cause);
        vec![servers.table(), unreadable.table()]
    }
}

#[cfg(test)]
mod tests {
    use super::{super::judge::Uncounted, *};

    #[test]
    fn without_the_leases_nothing_may_begin() {
        let server = Server {
            server: "https://10.0.0.11:6443".to_owned(),
            host: None,
            identity: None,
            phase: Some(Phase::None),
            writes: None,
            key_id_hash: None,
            configuration_hash: None,
            problem: None,
        };
        let verdict = |unexamined: Option<Vec<String>>| {
            let gathered = Gathered {
                servers: vec![server.clone()],
                unreadable: Vec::new(),
                unexamined,
                left: Vec::new(),
                provider: None,
            };
            let asked = Asked {
                step: None,
                again: "bao-kms-provider rollout",
                namespace: "kube-system",
            };
            let now = SystemTime::UNIX_EPOCH;
            let stored = Stored::Uncounted(Uncounted::NoRunningEtcd);
            let outcome = outcome(gathered, stored, &asked, now);
            (outcome.exit(), outcome.result.next)
        };
        assert_eq!(
            verdict(Some(Vec::new())),
            (Exit::Success, Some(Step::Readers))
        );
        assert_eq!(verdict(Some(vec!["cp-2".to_owned()])).0, Exit::Runtime);
        assert_eq!(verdict(None).0, Exit::Runtime);
    }
}
