//! A restore drill: restores OpenBao from its snapshot into a private copy, and decrypts every
//! object of the etcd snapshot with the key in the copy. The copy is removed afterwards, even after
//! a failure; on request it is kept for a limited time, for other commands on the same host.
//!
//! The drill never contacts production. The unseal shares stay in memory and are sent to the copy
//! only. The copy's root token stays within the process and is revoked. The copy's data stays in a
//! private directory; a shell removes it if this process is killed. `openbao_lab::server::restore`
//! describes the measures against actions of the copy on other systems.

pub mod age;
pub mod failure;
mod inputs;
pub mod isolation;
pub mod kept;
pub mod metrics;
pub mod report;

use std::{
    io,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use clap::Args;
use etcd_snapshot::file::Progress;
use kms_domain::{
    recovery::record::{BackupRecord, FileInfo},
    transit::TransitVersion,
};
use kms_node::{
    clock::{Clock as _, SystemClock},
    config::Config,
    connection::Access,
    duration::parse_positive,
};
use openbao_client::endpoint::Endpoint;
use openbao_lab::{
    admin::{Admin, transit::KeyConfig},
    binary::find_bao,
    server::{
        Installation, UnsealKey,
        restore::{RestoreError, Restored, StaticSeal},
    },
    temp_workspace::TempWorkspace,
};
use tokio::time::Instant;

use crate::recovery::{
    EtcdError, EtcdSource,
    backup_record::{note_as_recorded, note_source},
    backups::newest::newest_pair,
    local_knowledge::LocalKnowledge,
    verify_pair::{self, Depth, Pair, VerifyOptions, Watch},
};
use age::Made;
use failure::DrillError;
use inputs::{checked, copy, share};
use isolation::Isolation;
use kept::Kept;

/// Name prefix of the private directories.
const PREFIX: &str = "bao-kms-drill-";
/// Lifetime of the token for the copy. The token is deleted with the copy.
const TOKEN_LIFE: Duration = Duration::from_secs(24 * 3600);

/// Options of a drill.
#[derive(Debug, Args)]
pub struct Setup {
    /// What `etcdctl snapshot save` wrote
    #[arg(long, value_name = "FILE", required_unless_present_any = ["etcd_dir", "openbao_dir"])]
    pub etcd_snapshot: Option<PathBuf>,
    /// What `bao operator raft snapshot save` wrote
    #[arg(long, value_name = "FILE", required_unless_present_any = ["etcd_dir", "openbao_dir"])]
    pub openbao_snapshot: Option<PathBuf>,
    /// Take the newest pair of two directories, in place of both snapshots: this one with those of etcd
    #[arg(
        long,
        value_name = "DIRECTORY",
        requires = "openbao_dir",
        conflicts_with_all = ["etcd_snapshot", "openbao_snapshot"]
    )]
    pub etcd_dir: Option<PathBuf>,
    /// The directory with those of OpenBao
    #[arg(long, value_name = "DIRECTORY", requires = "etcd_dir")]
    pub openbao_dir: Option<PathBuf>,
    /// A file with one unseal key share, or recovery key share of an OpenBao that unseals itself, readable
    /// for nobody else; repeat up to the threshold
    #[arg(long, value_name = "FILE", required = true)]
    pub unseal_key_file: Vec<PathBuf>,
    /// The current_key of `seal "static"`, where OpenBao unseals itself with it
    #[arg(long, value_name = "FILE", requires = "static_seal_key_id")]
    pub static_seal_key_file: Option<PathBuf>,
    /// The current_key_id of `seal "static"`
    #[arg(
        long,
        value_name = "ID",
        value_parser = key_id,
        requires = "static_seal_key_file"
    )]
    pub static_seal_key_id: Option<String>,
    /// The record that record-backup wrote for this set
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// The `bao` program [default: BAO_BIN, then PATH, then target/tools]
    #[arg(long, value_name = "PATH")]
    pub bao: Option<PathBuf>,
    /// Where the private directory is made; needs three times the size of the OpenBao snapshot
    #[arg(long, value_name = "DIRECTORY", default_value = "/tmp")]
    pub work_dir: PathBuf,
    /// Go on although nothing keeps the restored copy from other systems
    #[arg(long)]
    pub allow_network: bool,
    /// Name the first few objects that do not open
    #[arg(long)]
    pub show_names: bool,
    /// How old both snapshots may be, such as 26h
    #[arg(long, value_name = "DURATION", value_parser = parse_positive)]
    pub max_age: Option<Duration>,
    /// Keep the restored copy afterwards for this long, such as 1h and at most 768h, for other commands
    /// on this host; Ctrl-C ends it earlier
    #[arg(long, value_name = "DURATION", value_parser = kept::time)]
    pub keep: Option<Duration>,
    /// Limitations of the selected pair.
    #[arg(skip)]
    pub limitations: Vec<String>,
}

/// It goes into OpenBao's configuration, where `${` would begin something else.
fn key_id(text: &str) -> Result<String, &'static str> {
    let plain = |c: char| c.is_ascii_graphic() && !"\"\\$".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => Ok(text.to_owned()),
        false => Err("Must be visible ASCII characters without quotes, backslashes and dollars"),
    }
}

/// Progress callbacks.
pub struct ProgressReporter {
    /// Start of each step.
    pub step: Box<dyn Fn(&'static str)>,
    /// Progress of the first reading of etcd.
    pub reading: Arc<dyn Fn(Progress) + Send + Sync>,
    /// Progress of the second reading of etcd.
    pub opening: Arc<dyn Fn(Progress) + Send + Sync>,
    /// The copy is kept from now on.
    pub kept: Box<dyn Fn(&Kept)>,
}

/// A finished drill with its findings.
#[derive(Debug)]
pub struct DrillRun {
    /// Cause of a failed drill; `None` for a complete one.
    pub failure: Option<DrillError>,
    /// The last step started.
    pub stage: Stage,
    /// Isolation of the copy from other systems.
    pub isolation: Isolation,
    /// Directories of earlier drills removed by this one; `None` before the search.
    pub leftovers: Option<Vec<PathBuf>>,
    /// Hash and size of the etcd snapshot.
    pub etcd: Option<FileInfo>,
    /// The same, or those of the unpacked database if the record contains them.
    pub etcd_as_recorded: Option<FileInfo>,
    /// Creation time of the etcd snapshot.
    pub etcd_made: Option<Made>,
    /// Hash and size of the OpenBao snapshot.
    pub openbao: Option<FileInfo>,
    /// Creation time of the OpenBao snapshot.
    pub openbao_made: Option<Made>,
    /// OpenBao version of the copy.
    pub version: Option<String>,
    /// Number of audit devices removed from the copy.
    pub audit_devices: Option<usize>,
    pub durations: Durations,
    /// Result of decrypting etcd with the key in the copy.
    pub verified: Option<Result<Pair, EtcdError>>,
    /// Private directory after a failed removal.
    pub not_removed: Option<(PathBuf, io::Error)>,
}

/// Durations of the steps.
#[derive(Debug, Default)]
pub struct Durations {
    /// Until the copy has the snapshot.
    pub restore: Option<Duration>,
    /// From then until the copy serves.
    pub unseal: Option<Duration>,
    /// Decryption of every object.
    pub verify: Option<Duration>,
    /// Entire drill, including the removal and the time in which the copy was kept.
    pub total: Duration,
}

/// The steps in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Check of the isolation.
    Isolation,
    /// Check of all inputs.
    Inputs,
    /// Restore of the OpenBao snapshot.
    Restore,
    /// Test of the unseal shares, and removal of the audit devices.
    Unseal,
    /// Start of the copy as a server.
    Start,
    /// Decryption of etcd with the key in the copy.
    Verify,
}

impl Setup {
    /// Selects the newest pair of the directories, if they are given.
    async fn select(&mut self) -> Result<(), DrillError> {
        if let (Some(etcd), Some(openbao)) = (self.etcd_dir.clone(), self.openbao_dir.clone()) {
            let pair = run_blocking(move || newest_pair(&etcd, &openbao)).await??;
            self.etcd_snapshot = Some(pair.etcd);
            self.openbao_snapshot = Some(pair.openbao);
            self.limitations = pair.limitations;
        }
        Ok(())
    }

    /// The etcd snapshot; the directory before its selection.
    #[must_use]
    pub fn etcd(&self) -> &Path {
        let given = self.etcd_snapshot.as_ref().or(self.etcd_dir.as_ref());
        given.map_or(Path::new(""), PathBuf::as_path)
    }

    /// The OpenBao snapshot; the directory before its selection.
    pub(crate) fn openbao(&self) -> &Path {
        let given = self.openbao_snapshot.as_ref().or(self.openbao_dir.as_ref());
        given.map_or(Path::new(""), PathBuf::as_path)
    }

    fn seal(&self) -> Option<StaticSeal> {
        Some(StaticSeal {
            key_file: self.static_seal_key_file.clone()?,
            key_id: self.static_seal_key_id.clone()?,
        })
    }
}

/// Runs the drill until its end, a failure, or `stop`, then removes the private directory.
pub async fn rehearse(
    config: &Arc<Config>,
    setup: &mut Setup,
    known: &LocalKnowledge,
    told: ProgressReporter,
    stop: impl Future<Output = &'static str>,
) -> DrillRun {
    let begun = Instant::now();
    let mut rehearsal = DrillRun {
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
    let mut stop = pin!(stop);
    let ended = tokio::select! {
        ended = rehearsal.go(config, setup, known, &told, &mut scratch) => ended,
        // Dropping the copy kills its process.
        signal = &mut stop => Err(DrillError::Interrupted(signal)),
    };
    let ended = match (ended, setup.keep, &scratch) {
        (Ok(copy), Some(time), Some(scratch)) => {
            let so_far = report::outcome(config, setup, known, &rehearsal, "", SystemClock.now());
            let set = (setup.etcd(), &so_far);
            kept::keep(copy, time, scratch.path(), set, &told.kept, stop).await
        }
        (Ok(copy), _, _) => tokio::select! {
            closed = copy.close() => closed.map_err(DrillError::from),
            signal = stop => Err(DrillError::Interrupted(signal)),
        },
        (Err(error), _, _) => Err(error),
    };

    rehearsal.failure = ended.err();
    if let Some(scratch) = scratch {
        let path = scratch.path().to_owned();
        rehearsal.not_removed = scratch.remove().err().map(|error| (path, error));
    }
    rehearsal.durations.total = begun.elapsed();
    rehearsal
}

impl DrillRun {
    async fn go(
        &mut self,
        config: &Arc<Config>,
        setup: &mut Setup,
        known: &LocalKnowledge,
        told: &ProgressReporter,
        scratch: &mut Option<TempWorkspace>,
    ) -> Result<Restored, DrillError> {
        let ProgressReporter {
            step,
            reading,
            opening,
            ..
        } = told;
        if !self.isolation.holds() && !setup.allow_network {
            return Err(DrillError::NotIsolated);
        }
        if !Isolation::loopback_is_up() {
            return Err(DrillError::NoLoopback);
        }

        self.stage = Stage::Inputs;
        let scratch: &TempWorkspace = scratch.insert(self.make_scratch(&setup.work_dir)?);
        let bao = find_bao(setup.bao.as_deref())?;
        let shares = setup.unseal_key_file.iter().map(|file| share(file));
        let shares: Vec<UnsealKey> = shares.collect::<Result<_, _>>()?;
        let seal = setup.seal().map(checked).transpose()?;
        setup.select().await?;
        let etcd = EtcdSource::file(setup.etcd())?;
        let snapshot = scratch.path().join("openbao.snap");
        let (from, to) = (setup.openbao().to_owned(), snapshot.clone());
        let record = known.record.clone();
        let by_name = Made::by_name(setup.etcd());
        let (etcd, looked_at, copied) = run_blocking(move || {
            let looked_at = look_at(&etcd, by_name, record.as_ref());
            let copied = copy(&from, &to);
            (etcd, looked_at, copied)
        })
        .await?;
        let looked_at = looked_at?;
        self.etcd = looked_at.given;
        self.etcd_as_recorded = looked_at.as_recorded;
        self.etcd_made = looked_at.made;
        let path = setup.openbao().to_owned();
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
        let options = VerifyOptions {
            claims: known.claims(),
            removed: known.removed(),
            depth: Depth::Data,
            names: setup.show_names,
            ..VerifyOptions::default()
        };
        let trial = Arc::new(Trial {
            config: Arc::clone(config),
            etcd,
            options,
            reading: Arc::clone(reading),
            opening: Arc::clone(opening),
        });
        let mut verified = trial.run(&copy).await?;
        // The minimum is a setting of the copy, so the versions below it can be tried.
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
        Ok(copy)
    }

    fn make_scratch(&mut self, parent: &Path) -> Result<TempWorkspace, DrillError> {
        let scratch =
            TempWorkspace::create(parent, PREFIX).map_err(|source| DrillError::WorkDir {
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

/// Verification of the copy.
struct Trial {
    config: Arc<Config>,
    etcd: EtcdSource,
    options: VerifyOptions,
    reading: Arc<dyn Fn(Progress) + Send + Sync>,
    opening: Arc<dyn Fn(Progress) + Send + Sync>,
}

impl Trial {
    async fn run(self: &Arc<Self>, copy: &Restored) -> Result<Result<Pair, EtcdError>, DrillError> {
        let access = Access::Token {
            endpoint: self.endpoint(copy),
            grant: copy.grant(TOKEN_LIFE).await?,
        };
        let trial = Arc::clone(self);
        run_blocking(move || {
            let watch = Watch {
                reading: &*trial.reading,
                trying: &|_| {},
                opening: &*trial.opening,
            };
            let options = trial.options.clone();
            verify_pair::verify_with(&trial.config, access, &trial.etcd, options, watch)
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

/// Facts about the etcd snapshot before the restore.
#[derive(Default)]
struct LookedAt {
    given: Option<FileInfo>,
    as_recorded: Option<FileInfo>,
    made: Option<Made>,
}

/// Unpacks the snapshot and determines its creation time: from the record if the hash matches, else the
/// earlier one of the times in its name and of its file, since a copy may have a later one.
fn look_at(
    etcd: &EtcdSource,
    by_name: Option<Made>,
    record: Option<&BackupRecord>,
) -> Result<LookedAt, DrillError> {
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
        made: by_record.or_else(|| {
            let times = by_name.into_iter().chain(Made::by_file(snapshot.given()));
            times.min_by_key(|made| made.at)
        }),
    })
}

/// Runs long work on a separate thread, so that signals are handled meanwhile.
async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, DrillError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| DrillError::Lost)
}
