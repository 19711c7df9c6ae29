//! A restore rehearsal: OpenBao comes up from its snapshot somewhere else, and every object of the etcd
//! snapshot is opened with the key in it. Afterwards nothing of the copy is left, whatever happened.
//!
//! Nothing here contacts what is in service. The unseal shares are in memory and go to the copy alone;
//! its root token is revoked and never leaves the process; its data never leave a private directory
//! that a shell removes should this process be killed. `openbao_lab::server::restore` says what keeps
//! the copy from acting on what it knows.

pub mod age;
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
use kms_domain::{
    recovery::record::{BackupRecord, NotedFile},
    transit::TransitVersion,
};
use openbao_client::endpoint::Endpoint;
use openbao_lab::{
    admin::{Admin, transit::KeyConfig},
    binary::find_bao,
    scratch::Scratch,
    server::{
        Installation, UnsealKey,
        restore::{RestoreError, Restored, StaticSeal},
    },
};
use tokio::time::Instant;

use crate::{
    config::Config,
    connection::Access,
    recovery::{
        EtcdError, EtcdSource,
        backup_record::{note_as_recorded, note_source},
        verify_pair::{self, Depth, Pair, Question, Watch},
        witness::Witnesses,
    },
};
use age::Made;
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
    /// How old the backups may be.
    pub max_age: Option<Duration>,
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
    /// The same, or that of the database in it where the record has that one.
    pub etcd_as_recorded: Option<NotedFile>,
    /// When the etcd snapshot was made.
    pub etcd_made: Option<Made>,
    /// That of the OpenBao snapshot.
    pub openbao: Option<NotedFile>,
    /// When the OpenBao snapshot was made.
    pub openbao_made: Option<Made>,
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
        etcd_as_recorded: None,
        etcd_made: None,
        openbao: None,
        openbao_made: None,
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
        let record = witnesses.record.clone();
        let (etcd, looked_at, copied) = aside(move || {
            let looked_at = look_at(&etcd, record.as_ref());
            let copied = copy(&from, &to);
            (etcd, looked_at, copied)
        })
        .await?;
        let looked_at = looked_at?;
        self.etcd = looked_at.given;
        self.etcd_as_recorded = looked_at.as_recorded;
        self.etcd_made = looked_at.made;
        let path = setup.openbao_snapshot.clone();
        let copied = match copied {
            Ok(copied) => copied,
            Err(source) => return Err(DrillError::Snapshot { path, source }),
        };
        self.openbao = Some(copied.file);
        self.openbao_made = copied.made;
        if let Err(problem) = copied.inspected {
            return Err(DrillError::NotRestorable { path, problem });
        }

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
        let question = Question {
            prefix: None,
            claims: witnesses.claims(),
            removed: witnesses.removed(),
            depth: Depth::Data,
            names: setup.names,
            sample: None,
            superseded: false,
        };
        let trial = Arc::new(Trial {
            config: Arc::clone(&setup.config),
            etcd,
            question,
            reading,
            opening,
        });
        let mut verified = trial.run(&copy).await?;
        // The limit is a setting of the copy, so the versions below it can be tried.
        if let Ok(pair) = &mut verified
            && let Some(minimum) = pair.lowered_minimum()
        {
            step("opening the objects of versions below min_decryption_version");
            trial.lower_minimum(&copy, minimum).await?;
            match trial.run(&copy).await? {
                Ok(lowered) => *pair = lowered.after_lowering(minimum),
                Err(error) => verified = Err(error),
            }
        }
        self.verified = Some(verified);
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

/// The verification of the copy.
struct Trial {
    config: Arc<Config>,
    etcd: EtcdSource,
    question: Question,
    reading: Box<dyn Fn(Progress) + Send + Sync>,
    opening: Box<dyn Fn(Progress) + Send + Sync>,
}

impl Trial {
    async fn run(self: &Arc<Self>, copy: &Restored) -> Result<Result<Pair, EtcdError>, DrillError> {
        let access = Access::Given {
            endpoint: self.endpoint(copy),
            grant: copy.grant(TOKEN_LIFE).await?,
        };
        let trial = Arc::clone(self);
        aside(move || {
            let watch = Watch {
                reading: &*trial.reading,
                trying: &|_| {},
                opening: &*trial.opening,
            };
            let question = trial.question.clone();
            verify_pair::verify_with(&trial.config, access, &trial.etcd, question, watch)
        })
        .await
    }

    /// Lowers `min_decryption_version` in the copy.
    async fn lower_minimum(
        &self,
        copy: &Restored,
        minimum: TransitVersion,
    ) -> Result<(), RestoreError> {
        let grant = copy.grant(TOKEN_LIFE).await?;
        let admin = Admin::new(self.endpoint(copy), Some(&grant.token))?;
        let lowered = KeyConfig {
            min_decryption_version: Some(minimum.get()),
            ..KeyConfig::default()
        };
        let key = &self.config.key;
        admin
            .configure_key(key.mount_path.as_str(), key.key_name.as_str(), lowered)
            .await?;
        Ok(())
    }

    fn endpoint(&self, copy: &Restored) -> Endpoint {
        Endpoint {
            namespace: self.config.scope.openbao_namespace.clone(),
            ..copy.server.endpoint()
        }
    }
}

/// An etcd snapshot before anything is started with it.
#[derive(Default)]
struct LookedAt {
    given: Option<NotedFile>,
    as_recorded: Option<NotedFile>,
    made: Option<Made>,
}

/// Unpacks the snapshot, and tells when it was made: by the record if that has its hash.
fn look_at(etcd: &EtcdSource, record: Option<&BackupRecord>) -> Result<LookedAt, DrillError> {
    let EtcdSource::File(snapshot) = etcd else {
        return Ok(LookedAt::default());
    };
    snapshot.database()?;
    let given = note_source(etcd)?;
    let recorded = record.and_then(|record| Some((record, &record.note().etcd.as_ref()?.file)));
    let as_recorded = match (given.clone(), recorded) {
        (Some(given), Some((_, recorded))) => Some(note_as_recorded(etcd, given, recorded)?),
        (given, _) => given,
    };
    let is_recorded = recorded.filter(|(_, recorded)| as_recorded.as_ref() == Some(*recorded));
    let by_record = is_recorded.and_then(|(record, _)| Made::by_record(record));
    Ok(LookedAt {
        given,
        as_recorded,
        made: by_record.or_else(|| Made::by_file(snapshot.given())),
    })
}

/// Long work on a thread of its own, so that a signal is noticed meanwhile.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, DrillError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| DrillError::Lost)
}
