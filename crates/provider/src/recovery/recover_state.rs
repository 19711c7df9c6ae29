//! Rebuilds a lost or damaged registry state from evidence: gathers it, lets the domain weigh it and,
//! once an operator has reviewed the plan, puts the state in place.
//!
//! A plan takes no lock and writes nothing. An application takes the writer's lock first, gathers and
//! plans again, and acts only on the very plan that was reviewed. OpenBao and etcd are only read.

mod exhibit;
mod obstacle;

use std::{num::NonZeroU64, path::PathBuf, sync::Arc, time::SystemTime};

pub use exhibit::{Exhibited, Kind};
use exhibit::{read_peer, read_record};
use jiff::Timestamp;
use kms_domain::{
    key::KeyScope,
    recovery::{
        claims::VersionClaims,
        journal::{Exhibit, Journal},
        origin::{LiveKey, Origin},
        rebuild::{
            EtcdEvidence, EtcdFinding, Evidence, OWN_STATE, PlanHash, RebuildPlan, Refusal,
            Refusals, Unreadable, rebuild,
        },
    },
    registry::document::{Document, StateHash},
    transit::{KeyProfile, TransitVersion},
};
pub use obstacle::Obstacle;
use openbao_client::failure::FailureClass;

use super::{
    EtcdSource,
    backup_record::note_source,
    verify_pair::{self, Depth, Question, Row, Watch},
};
use crate::{
    auth::CallFailure,
    build_info::BuildInfo,
    config::Config,
    connection,
    state::{
        Holder, LockedState, StateError,
        rebuild::{RebuildError, Remains},
    },
};

/// What the operator asks for and offers.
#[derive(Debug)]
pub struct Request {
    /// Etcd data, a file or a running one.
    pub etcd: Vec<EtcdSource>,
    /// Of the API server in question; see [`Question::prefix`].
    pub prefix: Option<String>,
    /// Files that record-backup wrote.
    pub records: Vec<PathBuf>,
    /// Copies of peers' states, each with its checkpoint beside it.
    pub peers: Vec<PathBuf>,
    /// At most how many distinct encrypted DEKs of each `key_id` are tried.
    pub sample: Option<NonZeroU64>,
    /// The valid state that is to be given up.
    pub replace: Option<StateHash>,
    /// Whether files that a newer release wrote are given up like damaged ones.
    pub replace_newer_release: bool,
    /// The operator's word that no node has promoted this version or one above it.
    pub not_promoted: Option<TransitVersion>,
    /// The number of unreadable objects that the operator accepts.
    pub accepted: Option<NonZeroU64>,
    /// Keep the names of the first few unreadable objects.
    pub names: bool,
}

/// What was looked at, and what came of it.
#[derive(Debug, Default)]
pub struct Weighed {
    /// The evidence, as far as it could be read.
    pub exhibits: Vec<Exhibited>,
    /// What kept evidence from being weighed.
    pub obstacles: Vec<Obstacle>,
    /// What stands against a plan in the evidence itself.
    pub refusals: Vec<Refusal>,
    /// Objects that stay unreadable, whether or not they are accepted.
    pub unreadable: Vec<Unreadable>,
    /// The plan, if nothing does.
    pub plan: Option<RebuildPlan>,
    /// What is left of the state.
    pub remains: Option<Remains>,
    /// The live key.
    pub key: Option<KeyProfile>,
    /// Who holds the state, if it could be told.
    pub holder: Option<Holder>,
}

/// What an application came to.
#[derive(Debug)]
pub enum Applied {
    /// The state is in place.
    Rebuilt(Box<Weighed>),
    /// The state was in place already, of the same plan, and its checkpoint is now too.
    Continued(Box<(Document, Journal)>),
    /// Nothing was changed.
    Refused(Box<Weighed>),
}

/// What would be done. Changes nothing and takes no lock.
#[must_use]
pub fn plan(config: &Config, request: &Request, watch: Watch<'_>) -> Weighed {
    let mut weighed = weigh(config, request, config.state().remains(), watch);
    // A process that is not visible from here is found by the application.
    weighed.holder = Holder::of(&config.state_path.lock()).unwrap_or_default();
    weighed
}

/// Does what was reviewed under this hash, with the writer's lock; or completes it, if it was cut
/// short.
///
/// # Errors
/// When the files fail; but for what [`RebuildError`] tells nothing was changed.
pub fn apply(
    config: &Config,
    request: &Request,
    reviewed: &PlanHash,
    now: SystemTime,
    watch: Watch<'_>,
) -> Result<Applied, RebuildError> {
    let refused = |obstacle| {
        Ok(Applied::Refused(Box::new(Weighed {
            obstacles: vec![obstacle],
            ..Weighed::default()
        })))
    };
    let locked: LockedState = match config.state().lock() {
        Ok(locked) => locked,
        Err(error) => return refused(Obstacle::State(error)),
    };
    if let Some((journal, document)) = locked.complete_rebuild(reviewed)? {
        return Ok(Applied::Continued(Box::new((document, journal))));
    }
    let mut weighed = weigh(config, request, locked.remains(), watch);
    let Some(plan) = weighed.plan.take() else {
        return Ok(Applied::Refused(Box::new(weighed)));
    };
    let confirmed = match plan.confirm(reviewed) {
        Ok(confirmed) => confirmed,
        Err(outdated) => {
            weighed.obstacles.push(Obstacle::Outdated(outdated));
            return Ok(Applied::Refused(Box::new(weighed)));
        }
    };
    let journal = journal(config, request, &weighed, confirmed.plan(), now);
    locked.rebuild(&confirmed, &journal)?;
    weighed.plan = Some(confirmed.into_plan());
    Ok(Applied::Rebuilt(Box::new(weighed)))
}

fn weigh(
    config: &Config,
    request: &Request,
    remains: Result<Remains, StateError>,
    watch: Watch<'_>,
) -> Weighed {
    let mut weighed = Weighed::default();
    let remains = match request.replace_newer_release {
        true => remains,
        false => remains.and_then(Remains::require_known_release),
    };
    match remains {
        Ok(remains) => weighed.remains = Some(remains),
        Err(error) => weighed.obstacles.push(Obstacle::State(error)),
    }
    match read_key(config) {
        Ok(profile) => weighed.key = Some(profile),
        Err(obstacle) => weighed.obstacles.push(obstacle),
    }
    let mut records = Vec::new();
    for path in &request.records {
        match read_record(path) {
            Ok((record, exhibited)) => {
                records.push(record);
                weighed.exhibits.push(exhibited);
            }
            Err(obstacle) => weighed.obstacles.push(obstacle),
        }
    }
    let mut peers = Vec::new();
    for path in &request.peers {
        match read_peer(path, &config.state_path) {
            Ok((peer, exhibited)) => {
                peers.push(peer);
                weighed.exhibits.push(exhibited);
            }
            Err(obstacle) => weighed.obstacles.push(obstacle),
        }
    }
    let (Some(key), Some(remains)) = (weighed.key.clone(), &weighed.remains) else {
        return weighed;
    };

    let own = remains.files.document.valid();
    let own = own.map(|it| VersionClaims::of_registry(OWN_STATE, it.registry()));
    let of_peers = peers.iter();
    let of_peers = of_peers.map(|it| VersionClaims::of_registry(&*it.name, it.document.registry()));
    let of_records = records.iter();
    let of_records = of_records.map(|it| VersionClaims::of_record(&*it.name, &it.record));
    let claims: Vec<_> = of_peers.chain(own).chain(of_records).collect();
    let own = remains.files.clone();
    let mut etcd = Vec::new();
    for source in &request.etcd {
        match look_at(config, request, source, &claims, &key, watch) {
            Ok((evidence, exhibited)) => {
                etcd.push(evidence);
                weighed.exhibits.push(exhibited);
            }
            Err(obstacle) => weighed.obstacles.push(obstacle),
        }
    }
    let evidence = Evidence {
        scope: Arc::new(KeyScope::new(config.scope.clone())),
        path: config.key.clone(),
        key,
        own,
        replace: request.replace.clone(),
        etcd,
        records,
        peers,
        not_promoted: request.not_promoted,
        accepted: request.accepted,
    };
    weighed.unreadable = evidence
        .etcd
        .iter()
        .flat_map(EtcdEvidence::unreadable)
        .collect();
    match rebuild(&evidence) {
        Ok(plan) if weighed.obstacles.is_empty() => weighed.plan = Some(plan),
        Ok(_) => {}
        Err(refusals) => weighed.refusals = beside(&weighed.obstacles, &refusals),
    }
    weighed
}

/// Of evidence that could not be read nobody knows whether it would have sufficed.
fn beside(obstacles: &[Obstacle], refusals: &Refusals) -> Vec<Refusal> {
    let stands = |refusal: &&Refusal| {
        obstacles.is_empty()
            || !matches!(
                refusal,
                Refusal::NoEvidence | Refusal::Undecided { .. } | Refusal::Unaccounted { .. }
            )
    };
    refusals.all().iter().filter(stands).cloned().collect()
}

fn read_key(config: &Config) -> Result<KeyProfile, Obstacle> {
    let metadata = connection::ask_for_key(config)?;
    let metadata = metadata.map_err(|failure| match failure {
        CallFailure::OpenBao(failure) if failure.class() == FailureClass::NotFound => {
            Obstacle::NoKey(config.key.clone())
        }
        failure => Obstacle::Metadata(failure),
    })?;
    Ok(KeyProfile::check(&metadata, &config.key.key_name)?)
}

/// Every `key_id` of the source, held against the key, and its DEKs tried.
fn look_at(
    config: &Config,
    request: &Request,
    source: &EtcdSource,
    claims: &[VersionClaims],
    key: &KeyProfile,
    watch: Watch<'_>,
) -> Result<(EtcdEvidence, Exhibited), Obstacle> {
    let name = source.name();
    let question = Question {
        prefix: request.prefix.clone(),
        claims: claims.to_vec(),
        removed: Vec::new(),
        depth: Depth::Dek,
        sample: request.sample,
        names: request.names,
        superseded: true,
    };
    let pair =
        verify_pair::verify(config, source, question, watch).map_err(|error| Obstacle::Etcd {
            name: name.clone(),
            error: Box::new(error),
        })?;
    if let Some(unanswered) = pair.unanswered {
        return Err(Obstacle::Unanswered {
            name,
            unanswered: Box::new(unanswered),
        });
    }
    if *pair.lineage.live() != LiveKey::Listed(key.clone()) {
        return Err(Obstacle::KeyMoved);
    }
    let file = note_source(source).map_err(|error| Obstacle::Unhashed {
        name: name.clone(),
        error: Box::new(error),
    })?;
    let sha256 = file.map(|file| file.sha256_hex()).unwrap_or_default();
    let inventory = &pair.inventory;
    let superseded = verify_pair::superseded(inventory, &pair.lineage);
    let findings: Vec<_> = pair.rows.into_iter().map(found).collect();
    let revision = inventory.totals.revision.unsigned_abs();
    let exhibited = Exhibited::etcd(&name, &sha256, revision, &findings, &superseded);
    let mut doubts: Vec<_> = inventory.trust.doubt().into_iter().collect();
    if let Some(unread) = &inventory.unread {
        if !unread.is_allowed() {
            return Err(Obstacle::Unread {
                name,
                unread: unread.clone(),
            });
        }
        doubts.push(unread.describe());
    }
    let evidence = EtcdEvidence {
        name,
        content: sha256,
        findings,
        superseded,
        damaged: pair.damaged,
        doubts,
        sample: request.sample,
    };
    Ok((evidence, exhibited))
}

fn found(row: Row) -> EtcdFinding {
    EtcdFinding {
        unreadable: match &row.finding.origin {
            Origin::Gap(_) => row.resources,
            Origin::Live(_) | Origin::Known(_) => row.refused,
        },
        names: row.undecryptable_names,
        finding: row.finding,
    }
}

fn journal(
    config: &Config,
    request: &Request,
    weighed: &Weighed,
    plan: &RebuildPlan,
    now: SystemTime,
) -> Journal {
    let next = plan.next();
    let exhibits = weighed.exhibits.iter().map(|it| Exhibit {
        kind: it.kind.as_str().to_owned(),
        name: it.name.clone(),
        sha256: it.sha256.clone(),
        revision: it.revision,
    });
    Journal {
        recovered_at: Timestamp::try_from(now)
            .unwrap_or_default()
            .strftime("%Y-%m-%dT%H:%M:%SZ")
            .to_string(),
        plugin_version: BuildInfo::CURRENT.version.to_owned(),
        plan: plan.hash().clone(),
        fingerprint: config.fingerprint(),
        generation: next.generation(),
        previous_hash: next.previous_hash().cloned(),
        state_hash: next.hash().clone(),
        active: next.registry().active().version(),
        evidence: exhibits.collect(),
        not_promoted: request.not_promoted,
        kept: weighed.remains.iter().flat_map(Remains::kept).collect(),
        limitations: plan.limitations().iter().map(ToString::to_string).collect(),
    }
}
