//! Rebuilds a lost or damaged registry state from evidence. Gathers the evidence, creates a plan in
//! the domain crate and, after an operator's review, writes the state.
//!
//! Planning takes no lock and writes nothing. Applying takes the writer lock, gathers and plans
//! again, and requires the plan to equal the reviewed one. Access to OpenBao and etcd is read-only.

mod evidence;
mod input_error;

use std::{mem, num::NonZeroU64, sync::Arc, time::SystemTime};

pub use evidence::{GatheredItem, Kind, read_file, read_peer, read_record};
pub use input_error::{FileProblem, InputError};
use kms_domain::{
    key::KeyScope,
    recovery::{
        claims::VersionClaims,
        journal::Journal,
        rebuild::{
            EtcdEvidence, EtcdFinding, Evidence, OWN_STATE, PeerEvidence, PlanBlocker,
            PlanBlockers, PlanHash, RebuildPlan, RecordEvidence, Unreadable, rebuild,
        },
        resolve::{LiveKey, Resolution},
    },
    registry::document::{Document, StateHash},
    transit::{KeyProfile, TransitVersion},
};
use kms_node::{
    advice::restore::limitation,
    auth::CallFailure,
    build_info::BuildInfo,
    config::Config,
    connection,
    report::rfc3339,
    state::{
        Holder, LockedState, StateError,
        rebuild::{RebuildError, Remains},
    },
};

use super::{
    EtcdSource,
    backup_record::note_source,
    verify_pair::{self, Row, VerifyOptions, Watch},
};

/// Options of the operator.
#[derive(Debug)]
pub struct Request {
    /// Etcd snapshots and running etcd clusters.
    pub etcd: Vec<EtcdSource>,
    /// Prefix of the selected API server; see [`VerifyOptions::prefix`].
    pub prefix: Option<String>,
    /// Results of [`read_record`].
    pub records: Vec<Read<RecordEvidence>>,
    /// Results of [`read_peer`].
    pub peers: Vec<Read<PeerEvidence>>,
    /// Maximum number of distinct encrypted DEKs tried per `key_id`; `None` for all.
    pub sample: Option<NonZeroU64>,
    /// Hash of the valid state to replace.
    pub replace: Option<StateHash>,
    /// Whether to replace files of a newer release like damaged ones.
    pub replace_newer_release: bool,
    /// Operator's assertion: no node has promoted this version or a later one.
    pub not_promoted: Option<TransitVersion>,
    /// Number of unreadable objects accepted by the operator.
    pub accepted: Option<NonZeroU64>,
    /// Keep the names of the first few unreadable objects.
    pub names: bool,
}

/// A file of the evidence. Root reads it before it becomes the owner of the state.
pub type Read<T> = Result<(T, GatheredItem), InputError>;

/// Evidence and its assessment.
#[derive(Debug, Default)]
pub struct Weighed {
    /// Readable evidence.
    pub items: Vec<GatheredItem>,
    /// Errors of the inputs.
    pub obstacles: Vec<InputError>,
    /// Reasons in the evidence that block a plan.
    pub refusals: Vec<PlanBlocker>,
    /// Unreadable objects, accepted or not.
    pub unreadable: Vec<Unreadable>,
    /// The plan, if there are neither obstacles nor refusals.
    pub plan: Option<RebuildPlan>,
    /// Remaining files of the state.
    pub remains: Option<Remains>,
    /// Properties of the live key.
    pub key: Option<KeyProfile>,
    /// Process that holds the state, if known.
    pub holder: Option<Holder>,
}

/// Result of an application.
#[derive(Debug)]
pub enum Applied {
    /// The state was rebuilt.
    Rebuilt(Box<Weighed>),
    /// An interrupted application of this plan was completed: state and checkpoint are in place.
    Continued(Box<(Document, Journal)>),
    /// The application was rejected; all files are unchanged.
    Refused(Box<Weighed>),
}

/// Creates the plan. Read-only, without a lock.
#[must_use]
pub fn plan(config: &Config, request: &mut Request, watch: Watch<'_>) -> Weighed {
    let mut weighed = weigh(config, request, config.state().remains(), watch);
    // A process invisible from here is detected by `apply`, through the lock.
    weighed.holder = Holder::of(&config.state_path.lock()).unwrap_or_default();
    weighed
}

/// Applies the reviewed plan under the writer lock, or completes an interrupted application of it.
///
/// # Errors
/// [`RebuildError`] if a file operation fails. All files are unchanged unless the error says
/// otherwise.
pub fn apply(
    config: &Config,
    request: &mut Request,
    reviewed: &PlanHash,
    now: SystemTime,
    watch: Watch<'_>,
) -> Result<Applied, RebuildError> {
    let refused = |input_error| {
        Ok(Applied::Refused(Box::new(Weighed {
            obstacles: vec![input_error],
            ..Weighed::default()
        })))
    };

    let locked: LockedState = match config.state().lock() {
        Ok(locked) => locked,
        Err(error) => return refused(InputError::State(error)),
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
            weighed.obstacles.push(InputError::Outdated(outdated));
            return Ok(Applied::Refused(Box::new(weighed)));
        }
    };

    let journal = journal(config, request, &weighed, confirmed.plan(), now);
    locked.rebuild(&confirmed, &journal)?;
    weighed.plan = Some(confirmed.into_plan());
    Ok(Applied::Rebuilt(Box::new(weighed)))
}

/// Takes records and peers out of the request.
fn weigh(
    config: &Config,
    request: &mut Request,
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
        Err(error) => weighed.obstacles.push(InputError::State(error)),
    }
    match read_key(config) {
        Ok(profile) => weighed.key = Some(profile),
        Err(input_error) => weighed.obstacles.push(input_error),
    }
    let records = weighed.take(mem::take(&mut request.records));
    let peers = weighed.take(mem::take(&mut request.peers));
    let (Some(key), Some(remains)) = (weighed.key.clone(), &weighed.remains) else {
        return weighed;
    };

    let own = remains.files.document.readable();
    let own = own.map(|it| VersionClaims::of_registry(OWN_STATE, it.registry()));
    let of_peers = peers.iter();
    let of_peers = of_peers.map(|it| VersionClaims::of_registry(&*it.name, it.document.registry()));
    let of_records = records.iter();
    let of_records = of_records.map(|it| VersionClaims::of_record(&*it.name, &it.record));
    let claims: Vec<_> = of_peers.chain(own).chain(of_records).collect();
    let own = remains.files.clone();
    let sources = request.etcd.iter();
    let etcd = sources.map(|source| look_at(config, request, source, &claims, &key, watch));
    let etcd = weighed.take(etcd);
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

impl Weighed {
    /// The readable ones. Notes their items, and the errors of the others.
    fn take<T>(&mut self, evidence: impl IntoIterator<Item = Read<T>>) -> Vec<T> {
        let mut taken = Vec::new();
        for read in evidence {
            match read {
                Ok((evidence, item)) => {
                    taken.push(evidence);
                    self.items.push(item);
                }
                Err(input_error) => self.obstacles.push(input_error),
            }
        }
        taken
    }
}

/// Drops refusals for lack of evidence if an input failed: that input could be sufficient.
fn beside(obstacles: &[InputError], refusals: &PlanBlockers) -> Vec<PlanBlocker> {
    let stands = |refusal: &&PlanBlocker| {
        obstacles.is_empty()
            || !matches!(
                refusal,
                PlanBlocker::NoEvidence
                    | PlanBlocker::Undecided { .. }
                    | PlanBlocker::Unresolved { .. }
            )
    };
    refusals.all().iter().filter(stands).cloned().collect()
}

fn read_key(config: &Config) -> Result<KeyProfile, InputError> {
    let metadata = connection::ask_for_key(config)?;
    let metadata = metadata.map_err(|failure| match failure {
        CallFailure::OpenBao(failure) if failure.is_absence() => {
            InputError::NoKey(config.key.clone())
        }
        failure => InputError::Metadata(failure),
    })?;
    Ok(KeyProfile::check(&metadata, &config.key.key_name)?)
}

/// Resolves every `key_id` of the source and tries its DEKs.
fn look_at(
    config: &Config,
    request: &Request,
    source: &EtcdSource,
    claims: &[VersionClaims],
    key: &KeyProfile,
    watch: Watch<'_>,
) -> Result<(EtcdEvidence, GatheredItem), InputError> {
    let name = source.name();
    let options = VerifyOptions {
        prefix: request.prefix.clone(),
        claims: claims.to_vec(),
        sample: request.sample,
        names: request.names,
        superseded: true,
        ..VerifyOptions::default()
    };

    let pair =
        verify_pair::verify(config, source, options, watch).map_err(|error| InputError::Etcd {
            name: name.clone(),
            error: Box::new(error),
        })?;
    if let Some(unanswered) = pair.unanswered {
        return Err(InputError::Unanswered {
            name,
            unanswered: Box::new(unanswered),
        });
    }
    if *pair.lineage.live() != LiveKey::Listed(key.clone()) {
        return Err(InputError::KeyMoved);
    }

    let file = note_source(source).map_err(|error| InputError::Etcd {
        name: name.clone(),
        error: Box::new(error),
    })?;
    let sha256 = file.map(|file| file.sha256_hex()).unwrap_or_default();

    let inventory = &pair.inventory;
    let superseded = verify_pair::superseded(inventory, &pair.lineage);
    let findings: Vec<_> = pair.rows.into_iter().map(found).collect();
    let revision = inventory.totals.revision.unsigned_abs();
    let exhibited = GatheredItem::etcd(&name, &sha256, revision, &findings, &superseded);

    let mut doubts: Vec<_> = inventory.trust.doubt().into_iter().collect();
    if let Some(unread) = &inventory.unread {
        if !unread.is_allowed() {
            return Err(InputError::Unread {
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
            Resolution::Unresolved(_) => row.resources,
            Resolution::Live(_) | Resolution::Known(_) => row.refused,
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
    Journal {
        recovered_at: rfc3339(now),
        plugin_version: BuildInfo::CURRENT.version.to_owned(),
        plan: plan.hash().clone(),
        fingerprint: config.fingerprint(),
        generation: next.generation(),
        previous_hash: next.previous_hash().cloned(),
        state_hash: next.hash().clone(),
        active: next.registry().active().version(),
        evidence: weighed.items.iter().map(GatheredItem::item).collect(),
        not_promoted: request.not_promoted,
        kept: weighed.remains.iter().flat_map(Remains::kept).collect(),
        limitations: plan.limitations().iter().map(limitation).collect(),
    }
}
