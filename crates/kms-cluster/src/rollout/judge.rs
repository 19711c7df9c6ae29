//! The next phase that is safe, from the phases of all API servers.

use std::collections::BTreeSet;

use kms_node::advice::Cause;
use schemars::JsonSchema;
use serde::Serialize;

/// Phase of an API server for Secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// It has no KMS v2 provider of this name.
    None,
    /// It decrypts with the provider, and writes otherwise.
    Readers,
    /// It encrypts with the provider.
    Writers,
    /// As before, and it no longer reads plaintext.
    #[serde(rename = "identity-removed")]
    Sole,
}

/// A step of the whole cluster.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// The provider becomes a reader, one API server after another.
    Readers,
    /// The provider encrypts, one API server after another.
    Writers,
    /// All objects are written again.
    Rewrite,
    /// `identity` is removed, one API server after another.
    IdentityRemoval,
}

/// One examined API server.
#[derive(Debug, Clone)]
pub struct Server {
    pub server: String,
    pub host: Option<String>,
    /// SHA-256 of the name of its lease; absent without an EncryptionConfiguration.
    pub identity: Option<String>,
    /// `None` if the evidence does not decide.
    pub phase: Option<Phase>,
    /// Protection of a Secret that it wrote.
    pub writes: Option<String>,
    pub key_id_hash: Option<String>,
    pub configuration_hash: Option<String>,
    /// Why it was not examined.
    pub problem: Option<&'static Cause>,
}

/// A Secret that an API server did not read.
#[derive(Debug, Clone)]
pub struct Unreadable {
    pub writer: String,
    pub reader: String,
    pub cause: &'static Cause,
}

/// Objects in etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// They were not counted.
    Uncounted(Uncounted),
    /// Objects of the encrypted resources that need another provider than this one.
    Others(u64),
}

/// Why objects in etcd were not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uncounted {
    /// A snapshot is older than the cluster.
    NoRunningEtcd,
    /// The protected resources are known by the files alone.
    NoFile,
    /// Before Kubernetes 1.34, no metric tells the file in use.
    NoHash,
    /// Keys were left unread.
    Unread,
}

/// The state of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// An API server was not examined, or its phase is unknown.
    Unknown(Vec<String>),
    /// Two addresses lead to one API server.
    SameServer([String; 2]),
    /// An API server cannot read what another one writes.
    Unsafe {
        writers: Vec<String>,
        readers: Vec<String>,
    },
    /// These API servers are behind the others.
    Lagging {
        servers: Vec<String>,
        to: Phase,
        /// etcd was read, and no object needs another provider.
        is_rewritten: bool,
    },
    /// All are in one phase, and use different versions of the key.
    KeysDiffer,
    /// All are in one phase. `next` may begin.
    InStep { phase: Phase, next: Option<Step> },
}

/// Evaluates the evidence. `stored` decides between the rewrite and the end of plaintext.
#[must_use]
pub fn judge(servers: &[Server], unreadable: &[Unreadable], stored: Stored) -> Judgement {
    // Certain, whatever else is unknown.
    if !unreadable.is_empty() {
        let of = |which: fn(&Unreadable) -> &String| {
            let names: BTreeSet<&String> = unreadable.iter().map(which).collect();
            names.into_iter().cloned().collect()
        };
        return Judgement::Unsafe {
            writers: of(|it| &it.writer),
            readers: of(|it| &it.reader),
        };
    }
    let of_phase = |wanted: fn(Option<Phase>) -> bool| {
        let found = servers.iter().filter(|it| wanted(it.phase));
        found.map(|it| it.server.clone()).collect::<Vec<_>>()
    };
    let phases = || servers.iter().filter_map(|it| it.phase);
    let unknown = of_phase(|phase| phase.is_none());
    let (Some(least), Some(most), []) = (phases().min(), phases().max(), &*unknown) else {
        return Judgement::Unknown(unknown);
    };
    if let Some(same) = same_server(servers) {
        return Judgement::SameServer(same);
    }
    // Even if the probes were read, for example out of a cache.
    if least == Phase::None && most >= Phase::Writers {
        return Judgement::Unsafe {
            writers: of_phase(|phase| phase >= Some(Phase::Writers)),
            readers: of_phase(|phase| phase == Some(Phase::None)),
        };
    }
    if least != most {
        let behind = servers.iter().filter(|it| it.phase != Some(most));
        return Judgement::Lagging {
            servers: behind.map(|it| it.server.clone()).collect(),
            to: most,
            is_rewritten: stored == Stored::Others(0),
        };
    }
    let mut keys = servers.iter().map(|it| &it.key_id_hash);
    let first = keys.next();
    if keys.any(|key| Some(key) != first) {
        return Judgement::KeysDiffer;
    }
    let next = match least {
        Phase::None => Some(Step::Readers),
        Phase::Readers => Some(Step::Writers),
        Phase::Writers if stored == Stored::Others(0) => Some(Step::IdentityRemoval),
        Phase::Writers => Some(Step::Rewrite),
        Phase::Sole => None,
    };
    Judgement::InStep { phase: least, next }
}

fn same_server(servers: &[Server]) -> Option<[String; 2]> {
    for (place, server) in servers.iter().enumerate() {
        let earlier = servers.get(..place).unwrap_or_default();
        let same = earlier
            .iter()
            .find(|it| it.identity.is_some() && it.identity == server.identity);
        if let Some(same) = same {
            return Some([same.server.clone(), server.server.clone()]);
        }
    }
    None
}

impl Phase {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Readers => "readers",
            Self::Writers => "writers",
            Self::Sole => "identity-removed",
        }
    }
}

impl Step {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Readers => "readers",
            Self::Writers => "writers",
            Self::Rewrite => "rewrite",
            Self::IdentityRemoval => "identity-removal",
        }
    }
}

impl Uncounted {
    /// The reason, with the remedy.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoRunningEtcd => "give a running etcd with --endpoints",
            Self::NoFile => {
                "give the EncryptionConfiguration of each API server with --encryption-config"
            }
            Self::NoHash => {
                "an API server before Kubernetes 1.34 does not show its EncryptionConfiguration; \
                 count the objects with scan-etcd"
            }
            Self::Unread => "keys of etcd were left unread",
        }
    }
}

impl Judgement {
    /// Whether the step may begin or go on at the next API server. Steps that the cluster has passed
    /// are allowed.
    #[must_use]
    pub fn allows(&self, step: Step) -> bool {
        match self {
            Self::InStep { next, .. } => next.is_none_or(|next| step <= next),
            // A phase goes from one API server to the next, so it goes on while some lag.
            Self::Lagging {
                to, is_rewritten, ..
            } => match step {
                Step::Readers => *to >= Phase::Readers,
                Step::Writers => *to >= Phase::Writers,
                Step::Rewrite => *to == Phase::Sole,
                Step::IdentityRemoval => *to == Phase::Sole && *is_rewritten,
            },
            // The remedy.
            Self::Unsafe { .. } => step == Step::Readers,
            Self::Unknown(_) | Self::SameServer(_) | Self::KeysDiffer => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::slice;

    use kms_node::advice::cluster;

    use super::*;

    const UNCOUNTED: Stored = Stored::Uncounted(Uncounted::NoRunningEtcd);

    fn servers(phases: &[Option<Phase>]) -> Vec<Server> {
        let server = |(place, phase): (usize, &Option<Phase>)| Server {
            server: format!("s{place}"),
            host: None,
            identity: (*phase != Some(Phase::None)).then(|| format!("id{place}")),
            phase: *phase,
            writes: None,
            key_id_hash: (*phase != Some(Phase::None)).then(|| "sha256:a".to_owned()),
            configuration_hash: None,
            problem: None,
        };
        phases.iter().enumerate().map(server).collect()
    }

    fn judged(phases: &[Phase], stored: Stored) -> Judgement {
        let phases: Vec<_> = phases.iter().copied().map(Some).collect();
        judge(&servers(&phases), &[], stored)
    }

    #[test]
    fn a_phase_begins_once_all_api_servers_are_in_the_one_before() {
        use Phase::{None, Readers, Sole, Writers};
        let in_step = |phase, next| Judgement::InStep { phase, next };
        let lagging = |servers: &[&str], to| Judgement::Lagging {
            servers: servers.iter().map(|&it| it.to_owned()).collect(),
            to,
            is_rewritten: false,
        };
        let unknown = UNCOUNTED;
        for (phases, stored, expected) in [
            (
                &[None, None][..],
                unknown,
                in_step(None, Some(Step::Readers)),
            ),
            (&[None, Readers], unknown, lagging(&["s0"], Readers)),
            (
                &[Readers, Readers],
                unknown,
                in_step(Readers, Some(Step::Writers)),
            ),
            (&[Writers, Readers], unknown, lagging(&["s1"], Writers)),
            (
                &[Writers, Writers],
                unknown,
                in_step(Writers, Some(Step::Rewrite)),
            ),
            (
                &[Writers, Writers],
                Stored::Others(3),
                in_step(Writers, Some(Step::Rewrite)),
            ),
            (
                &[Writers, Writers],
                Stored::Others(0),
                in_step(Writers, Some(Step::IdentityRemoval)),
            ),
            (&[Sole, Writers], unknown, lagging(&["s1"], Sole)),
            (&[Sole, Sole], unknown, in_step(Sole, Option::None)),
        ] {
            assert_eq!(judged(phases, stored), expected, "{phases:?}");
        }
    }

    #[test]
    fn a_writer_beside_an_api_server_without_the_provider_is_unsafe() {
        let judgement = judged(&[Phase::Writers, Phase::None, Phase::Readers], UNCOUNTED);
        let expected = Judgement::Unsafe {
            writers: vec!["s0".to_owned()],
            readers: vec!["s1".to_owned()],
        };
        assert_eq!(judgement, expected);
        assert!(judgement.allows(Step::Readers), "it is the remedy");
        for step in [Step::Writers, Step::Rewrite, Step::IdentityRemoval] {
            assert!(!judgement.allows(step));
        }
        let unread = Unreadable {
            writer: "s1".to_owned(),
            reader: "s0".to_owned(),
            cause: &cluster::OBJECT_UNREADABLE,
        };
        let all = servers(&[Some(Phase::Writers), Some(Phase::Writers)]);
        let judgement = judge(&all, slice::from_ref(&unread), Stored::Others(0));
        let partly = servers(&[Some(Phase::Writers), None]);
        assert_eq!(judge(&partly, &[unread], UNCOUNTED), judgement);
        assert!(
            matches!(judgement, Judgement::Unsafe { .. }),
            "{judgement:?}"
        );
    }

    #[test]
    fn what_is_unknown_allows_nothing() {
        let all = servers(&[Some(Phase::Readers), None]);
        let judgement = judge(&all, &[], UNCOUNTED);
        assert_eq!(judgement, Judgement::Unknown(vec!["s1".to_owned()]));
        let mut same = servers(&[Some(Phase::Readers), Some(Phase::Readers)]);
        same[1].identity = same[0].identity.clone();
        let judgement = judge(&same, &[], UNCOUNTED);
        assert_eq!(
            judgement,
            Judgement::SameServer(["s0".to_owned(), "s1".to_owned()])
        );
        let mut keys = servers(&[Some(Phase::Writers), Some(Phase::Writers)]);
        keys[1].key_id_hash = Some("sha256:b".to_owned());
        let judgement = judge(&keys, &[], Stored::Others(0));
        assert_eq!(judgement, Judgement::KeysDiffer);
        assert!(!judgement.allows(Step::Readers));
    }

    #[test]
    fn a_step_goes_on_while_api_servers_lag_and_the_next_one_waits() {
        let lagging = judged(&[Phase::Writers, Phase::Readers], Stored::Others(0));
        assert!(lagging.allows(Step::Writers));
        assert!(!lagging.allows(Step::Rewrite) && !lagging.allows(Step::IdentityRemoval));
        let removing = [Phase::Sole, Phase::Writers];
        assert!(judged(&removing, Stored::Others(0)).allows(Step::IdentityRemoval));
        assert!(!judged(&removing, Stored::Others(1)).allows(Step::IdentityRemoval));
        assert!(!judged(&removing, UNCOUNTED).allows(Step::IdentityRemoval));
        let ready = judged(&[Phase::Writers, Phase::Writers], UNCOUNTED);
        assert!(ready.allows(Step::Rewrite) && ready.allows(Step::Writers));
        assert!(!ready.allows(Step::IdentityRemoval));
    }
}
