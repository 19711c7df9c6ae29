//! A restore rehearsal: OpenBao comes up from its snapshot somewhere else, and every object of the etcd
//! snapshot is opened with the key in it. Afterwards nothing of the copy is left, whatever happened.
//!
//! Nothing here contacts what is in service. The unseal shares are in memory and go to the copy alone;
//! its root token is revoked and never leaves the process; its data never leave a private directory
//! that a shell removes should this process be killed. `openbao_lab::server::restore` says what keeps
//! the copy from acting on what it knows.

pub mod failure;
mod inputs;
pub mod isolation;
pub mod metrics;
pub mod report;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use etcd_snapshot::file::Progress;
use kms_domain::recovery::record::NotedFile;
use openbao_client::endpoint::Endpoint;
use openbao_lab::{
    binary::find_bao,
    scratch::Scratch,
    server::{
        Installation, UnsealKey,
        restore::{RestoreError, StaticSeal},
    },
};
use tokio::time::Instant;

use crate::{
    config::Config,
    connection::Access,
    recovery::{
        EtcdError, EtcdSource,
        backup_record::note_source,
        verify_pair::{self, Depth, Pair, Question, Watch},
        witness::Witnesses,
    },
};
use failure::DrillError;
use inputs::{checked, copy, share};
use isolation::Isolation;

/// Names the private directories of drills.
const PREFIX: &str = "bao-kms-drill-";
/// Of the token that asks the copy; it goes with the copy.
const TOKEN_LIFE: Duration = Duration::from_secs(24 * 3600);

/// What is rehearsed, with what.
#[derive(Debug)]
pub struct Setup {
    /// Names, namespace, mount and key; its server is not contacted.
    pub config: Arc<Config>,
    /// The program, or wherever it is found.
    pub bao: Option<PathBuf>,
    /// What `etcdctl snapshot save` wrote.
    pub etcd_snapshot: PathBuf,
    /// What `bao operator raft snapshot save` wrote.
    pub openbao_snapshot: PathBuf,
    /// For an OpenBao that unseals itself.
    pub seal: Option<StaticSeal>,
    /// A share a file.
    pub unseal_key_files: Vec<PathBuf>,
    /// Where the private directory is made.
    pub work_dir: PathBuf,
    /// Go on although the copy could reach other systems.
    pub allow_network: bool,
    /// Name the first few objects that do not open.
    pub names: bool,
}

/// Who is told how it comes on.
pub struct Told {
    /// Of each step.
    pub step: Box<dyn Fn(&'static str)>,
    /// Of the first reading of etcd.
    pub reading: Box<dyn Fn(Progress) + Send + Sync>,
    /// Of the second.
    pub opening: Box<dyn Fn(Progress) + Send + Sync>,
}

/// A rehearsal that has ended, and what was found until then.
#[derive(Debug)]
pub struct Rehearsal {
    /// Where it ended, or `None` if it went through.
    pub failure: Option<DrillError>,
    /// The last step that was begun.
    pub stage: Stage,
    /// What kept the copy from other systems.
    pub isolation: Isolation,
    /// What earlier drills had left and this one has removed; `None` if it did not look.
    pub leftovers: Option<Vec<PathBuf>>,
    /// The hash of the very etcd snapshot that was read.
    pub etcd: Option<NotedFile>,
    /// That of the OpenBao snapshot.
    pub openbao: Option<NotedFile>,
    /// The version of the program that the copy ran.
    pub version: Option<String>,
    /// How many audit devices were removed from the copy.
    pub audit_devices: Option<usize>,
    /// How long the steps took.
    pub durations: Durations,
    /// Whether the key in the copy opens what etcd holds.
    pub verified: Option<Result<Pair, EtcdError>>,
    /// What may be left on disk.
    pub not_removed: Option<(PathBuf, io::Error)>,
}

/// How long the steps took that were made.
#[derive(Debug, Default)]
pub struct Durations {
    /// Until the snapshot was in the copy.
    pub restore: Option<Duration>,
    /// From there until the copy served.
    pub unseal: Option<Duration>,
    /// To open every object.
    pub verify: Option<Duration>,
    /// All of it, with the removal.
    pub total: Duration,
}

/// The steps in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Is the copy kept from other systems?
    Isolation,
    /// Are all parts there?
    Inputs,
    /// Does OpenBao take the snapshot?
    Restore,
    /// Do the shares open it?
    Unseal,
    /// Does the copy serve?
    Start,
    /// Does its key open what etcd holds?
    Verify,
}

/// Rehearses until the end, a failure, or `stop`, and removes everything.
pub async fn rehearse(
    setup: &Setup,
    witnesses: &Witnesses,
    told: Told,
    stop: impl Future<Output = &'static str>,
) -> Rehearsal {
    let begun = Instant::now();
    let mut rehearsal = Rehearsal {
        failure: None,
        stage: Stage::Isolation,
        isolation: Isolation::found(),
        leftovers: None,
        etcd: None,
        openbao: None,
        version: None,
        audit_devices: None,
        durations: Durations::default(),
        verified: None,
        not_removed: None,
    };
    let mut scratch = None;
    let ended = tokio::select! {
        ended = rehearsal.go(setup, witnesses, told, &mut scratch) => ended,
        // The copy is killed as it is dropped.
        signal = stop => Err(DrillError::Interrupted(signal)),
    };
    rehearsal.failure = ended.err();
    if let Some(scratch) = scratch {
        let path = scratch.path().to_owned();
        rehearsal.not_removed = scratch.remove().err().map(|error| (path, error));
    }
    rehearsal.durations.total = begun.elapsed();
    rehearsal
}

impl Rehearsal {
    async fn go(
        &mut self,
        setup: &Setup,
        witnesses: &Witnesses,
        told: Told,
        scratch: &mut Option<Scratch>,
    ) -> Result<(), DrillError> {
        let Told {
            step,
            reading,
            opening,
        } = told;
        if !self.isolation.holds() && !setup.allow_network {
            return Err(DrillError::NotIsolated);
        }
        if !Isolation::loopback_is_up() {
            return Err(DrillError::NoLoopback);
        }

        self.stage = Stage::Inputs;
        let scratch: &Scratch = scratch.insert(self.make_scratch(&setup.work_dir)?);
        let bao = find_bao(setup.bao.as_deref())?;
        let shares = setup.unseal_key_files.iter().map(|file| share(file));
        let shares: Vec<UnsealKey> = shares.collect::<Result<_, _>>()?;
        let seal = setup.seal.clone().map(checked).transpose()?;
        let etcd = EtcdSource::file(&setup.etcd_snapshot)?;
        let snapshot = scratch.path().join("openbao.snap");
        let (from, to) = (setup.openbao_snapshot.clone(), snapshot.clone());
        let (etcd, noted, copied) = aside(move || {
            let noted = note_source(&etcd);
            let copied = copy(&from, &to);
            (etcd, noted, copied)
        })
        .await?;
        self.etcd = noted?;
        self.openbao = Some(copied.map_err(|source| DrillError::Snapshot {
            path: setup.openbao_snapshot.clone(),
            source,
        })?);

        self.stage = Stage::Restore;
        step("restoring OpenBao into a private directory");
        let begun = Instant::now();
        let confined = self.isolation.confined.is_ok();
        let directory = scratch.path().join("openbao");
        let installation = Installation::prepare_copy(bao, &directory, confined);
        let installation = installation.map_err(RestoreError::from)?;
        let taken_over = installation.take_over(&snapshot).await?;
        self.durations.restore = Some(begun.elapsed());

        self.stage = Stage::Unseal;
        step("removing its audit devices");
        let begun = Instant::now();
        let silenced = taken_over.silence(seal, &shares).await?;
        self.audit_devices = Some(silenced.audit_devices);

        self.stage = Stage::Start;
        step("starting and unsealing it");
        let copy = silenced.open(&shares).await?;
        drop(shares);
        self.durations.unseal = Some(begun.elapsed());
        let version = copy.server.version().await;
        self.version = Some(version.map_err(RestoreError::from)?);

        self.stage = Stage::Verify;
        step("opening every object");
        let begun = Instant::now();
        let config = Arc::clone(&setup.config);
        let access = Access::Given {
            endpoint: Endpoint {
                namespace: config.scope.openbao_namespace.clone(),
                ..copy.server.endpoint()
            },
            grant: copy.grant(TOKEN_LIFE).await?,
        };
        let question = Question {
            prefix: None,
            claims: witnesses.claims(),
            removed: witnesses.removed(),
            depth: Depth::Data,
            names: setup.names,
            sample: None,
            superseded: false,
        };
        let verified = aside(move || {
            let watch = Watch {
                reading: &*reading,
                trying: &|_| {},
                opening: &*opening,
            };
            verify_pair::verify_with(&config, access, &etcd, question, watch)
        });
        self.verified = Some(verified.await?);
        self.durations.verify = Some(begun.elapsed());
        copy.close().await?;
        Ok(())
    }

    fn make_scratch(&mut self, parent: &Path) -> Result<Scratch, DrillError> {
        let scratch = Scratch::create(parent, PREFIX).map_err(|source| DrillError::WorkDir {
            path: parent.to_owned(),
            source,
        })?;
        let removed = scratch.remove_leftovers(PREFIX);
        self.leftovers = Some(removed.map_err(|source| DrillError::Leftovers {
            path: parent.to_owned(),
            source,
        })?);
        Ok(scratch)
    }
}

/// Long work on a thread of its own, so that a signal is noticed meanwhile.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, DrillError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| DrillError::Lost)
}
