//! `rewrite`: stores objects again, so that kube-apiserver encrypts them with its present key.
//!
//! A merge patch with the uid and the resourceVersion of an object changes nothing. kube-apiserver
//! stores the object again if its stored form is stale (another key, another provider, plaintext),
//! and otherwise leaves it alone. The resourceVersion in the answer tells which.
//!
//! An object with a greater resourceVersion than the first list of its resource was written after the
//! rewrite began, so a later run skips it. The progress file holds these numbers alone.

pub mod migration;
pub mod progress;
pub mod report;

use std::{
    cmp::Ordering,
    collections::BTreeMap,
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use kms_node::advice::{Found, cluster};
use kms_operator::recovery::etcd_live::{LiveError, LiveEtcd};
use serde::Deserialize;
use serde_json::json;
use tokio::{sync::watch, task::JoinSet, time::Instant};

use crate::{
    api::{Api, CallError, METADATA, METADATA_LIST},
    discovery::{Resource, Selection, discover, segment},
    servers::{Comparison, compare, is_etcd_of},
};
use progress::{ProgressError, ProgressFile};
use report::{LeftOutRow, ResistedRow, ResourceRow, State};

/// Objects of one list request.
const PAGE: u32 = 500;
/// Attempts of one request that the API server cannot answer now.
const ATTEMPTS: u32 = 6;
/// Pause after the first of them; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Limit of a pause that the API server asks for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Failed objects in a row that end the rewrite.
const RUN_OF_FAILURES: u32 = 5;
/// Attempts to write an object that others write at the same time.
const CONFLICTS: u32 = 4;
/// Lists of one resource that may expire without a token to continue.
const RESTARTS: u32 = 5;
/// Names shown for each kind of refusal.
const FEW: usize = 10;

#[derive(Debug)]
pub struct Settings {
    /// Resources and wildcards, as an `EncryptionConfiguration` names them.
    pub rules: Vec<String>,
    pub namespace: Option<String>,
    /// Writes a second.
    pub rate: NonZeroU32,
    /// Writes at a time.
    pub concurrency: NonZeroUsize,
    pub progress: PathBuf,
    pub names: bool,
    pub method: Method,
    /// The running etcd that proves the rewrite.
    pub etcd: Option<LiveEtcd>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Counts and writes nothing.
    DryRun,
    Patch,
    StorageVersionMigration,
}

/// A moment of the work.
#[derive(Debug)]
pub struct Progress<'a> {
    pub resource: &'a str,
    /// Objects of all resources.
    pub done: u64,
    pub total: u64,
    pub elapsed: Duration,
}

/// Everything that a run found and did.
#[derive(Debug)]
pub struct Done {
    pub server: String,
    /// uid of the namespace kube-system.
    pub cluster: String,
    pub before: Comparison,
    /// `None` after an API server that stopped the rewrite.
    pub after: Option<Comparison>,
    pub resources: Vec<ResourceRow>,
    pub left_out: Vec<LeftOutRow>,
    pub resisted: Vec<ResistedRow>,
    pub end: End,
    pub elapsed: Duration,
}

#[derive(Debug)]
pub enum End {
    Counted,
    Completed,
    /// With the signal.
    Interrupted(&'static str),
    Stopped(CallError),
    /// Nobody works on the migrations.
    NotStarted,
}

#[derive(Debug, thiserror::Error)]
pub enum RewriteError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Progress(#[from] ProgressError),
    #[error("no resource to rewrite is served by {0}")]
    Nothing(String),
    #[error("another key_id or EncryptionConfiguration has {}", .0.join(", "))]
    ServersDiffer(Vec<String>),
    #[error(transparent)]
    Etcd(#[from] LiveError),
    #[error("the lease of {0} is not in {1} as the API server shows it")]
    AnotherEtcd(String, String),
    #[error("{0} serves no storagemigration.k8s.io/v1 or v1beta1")]
    NoMigrationApi(String),
}

impl RewriteError {
    /// The cause in the catalogue, with its values.
    #[must_use]
    pub fn found(&self) -> Found {
        let cause = match self {
            Self::Call(error) => error.cause(),
            Self::Progress(error) => return error.found(),
            Self::Nothing(_) => &cluster::NOTHING_SELECTED,
            Self::ServersDiffer(_) => &cluster::SERVERS_DIFFER,
            Self::Etcd(error) => error.cause(),
            Self::AnotherEtcd(..) => &cluster::ANOTHER_ETCD,
            Self::NoMigrationApi(_) => &cluster::NO_MIGRATION_API,
        };
        (cause, Vec::new())
    }
}

/// A page of a list, and the answer to a patch: the few fields that are used.
#[derive(Deserialize)]
struct Page {
    metadata: PageMetadata,
    /// `null` without objects.
    items: Option<Vec<Object>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMetadata {
    resource_version: String,
    #[serde(default)]
    r#continue: String,
    #[serde(default)]
    remaining_item_count: u64,
}

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    namespace: Option<String>,
    uid: String,
    resource_version: String,
}

/// Rewrites the objects until all are done, or until `stop` completes with the name of a signal.
/// `others` are the other API servers of the cluster.
///
/// # Errors
/// Failures before the first write.
pub async fn rewrite(
    api: &Api,
    others: &[Api],
    settings: &Settings,
    on_progress: &dyn Fn(&Progress<'_>),
    stop: impl Future<Output = &'static str>,
) -> Result<Done, RewriteError> {
    let (stopped, stopping) = watch::channel(None);
    let work = run(api, others, settings, on_progress, stopping);
    let mut work = std::pin::pin!(work);
    tokio::select! {
        done = &mut work => done,
        signal = stop => {
            stopped.send_replace(Some(signal));
            work.await
        }
    }
}

async fn run(
    api: &Api,
    others: &[Api],
    settings: &Settings,
    on_progress: &dyn Fn(&Progress<'_>),
    stop: watch::Receiver<Option<&'static str>>,
) -> Result<Done, RewriteError> {
    let namespace = settings.namespace.as_deref();
    let system: Object = api.get("/api/v1/namespaces/kube-system", METADATA).await?;
    let served = discover(api).await?;
    let Selection {
        resources,
        left_out,
    } = Selection::of(&settings.rules, &served, namespace);
    if resources.is_empty() {
        return Err(RewriteError::Nothing(api.server().to_owned()));
    }
    let cluster = system.metadata.uid;
    // An object that another API server writes meanwhile counts as rewritten, so all must encrypt alike.
    let before = compare(api, others).await;
    if !before.differing.is_empty() {
        return Err(RewriteError::ServersDiffer(before.differing));
    }
    // It would prove nothing afterwards.
    if let Some(etcd) = &settings.etcd
        && is_etcd_of(api, etcd).await? == Some(false)
    {
        let (server, etcd) = (api.server().to_owned(), etcd.name());
        return Err(RewriteError::AnotherEtcd(server, etcd));
    }
    let file = match settings.method {
        Method::Patch => Some(ProgressFile::open(
            &settings.progress,
            &cluster,
            namespace,
            before.encryption.as_ref(),
        )?),
        Method::DryRun | Method::StorageVersionMigration => None,
    };
    let migrations = match settings.method {
        Method::StorageVersionMigration => Some(
            migration::path(&served)
                .ok_or_else(|| RewriteError::NoMigrationApi(api.server().to_owned()))?,
        ),
        Method::DryRun | Method::Patch => None,
    };

    let mut rewriter = Rewriter {
        api,
        settings,
        pace: Arc::new(Pace::new(settings.rate)),
        stop,
        on_progress,
        begun: Instant::now(),
        rows: Vec::new(),
        resisted: BTreeMap::new(),
        failures: 0,
    };
    let mut end = rewriter.count(&resources).await;
    if let (Some(mut file), End::Completed) = (file, &end) {
        end = rewriter.patch_all(&resources, &mut file).await?;
    }
    if let (Some(path), End::Completed) = (migrations, &end) {
        end = rewriter.migrate_all(&resources, &path).await;
    }
    if settings.method == Method::DryRun && matches!(end, End::Completed) {
        end = End::Counted;
    }
    let after = match end {
        End::Stopped(_) => None,
        _ => Some(compare(api, others).await),
    };
    Ok(Done {
        server: api.server().to_owned(),
        cluster,
        before,
        after,
        resources: rewriter.rows,
        left_out: left_out.into_iter().map(LeftOutRow::from).collect(),
        resisted: rewriter.resisted.into_values().collect(),
        end,
        elapsed: rewriter.begun.elapsed(),
    })
}

struct Rewriter<'a> {
    api: &'a Api,
    settings: &'a Settings,
    pace: Arc<Pace>,
    stop: watch::Receiver<Option<&'static str>>,
    on_progress: &'a dyn Fn(&Progress<'_>),
    begun: Instant,
    /// One for each resource, in order.
    rows: Vec<ResourceRow>,
    /// By resource, status, reason, cause and the name of a webhook.
    resisted: BTreeMap<ResistedKey, ResistedRow>,
    /// In a row.
    failures: u32,
}

type ResistedKey = (String, u16, String, &'static str, Option<String>);

/// The work on one resource ends before its last object.
enum Break {
    /// The resource alone: it cannot be listed, or all of its writes are forbidden.
    Resource,
    Signal,
    Stopped(CallError),
}

/// An object, and where to write it.
struct Task {
    path: String,
    shown: String,
    object: Metadata,
}

/// Result of one object.
enum Written {
    Rewritten,
    /// By others, after the list.
    ByOthers,
    /// The stored form was the present one.
    Current,
    /// Deleted, or deleted and created again, which stored it with the present key.
    Gone,
    Refused(CallError),
    /// Not tried, because a signal came.
    Stopped,
}

impl Rewriter<'_> {
    /// The number of objects of each resource, before the first write: it also shows missing rights.
    async fn count(&mut self, resources: &[Resource]) -> End {
        for resource in resources {
            let name = resource.full_name();
            self.rows.push(ResourceRow::new(&name));
            let path = resource.path(self.settings.namespace.as_deref());
            match self.page(&format!("{path}?limit=1")).await {
                Ok(page) => {
                    let listed = page.items.map_or(0, |items| items.len());
                    let listed = u64::try_from(listed).unwrap_or(u64::MAX);
                    let objects = listed.saturating_add(page.metadata.remaining_item_count);
                    if let Some(row) = self.rows.last_mut() {
                        row.objects = objects;
                    }
                }
                Err(Break::Signal) => return self.interrupted(),
                Err(Break::Stopped(error)) if error.refusal().is_some() => {
                    self.resist(&name, &error, None);
                    if let Some(row) = self.rows.last_mut() {
                        row.state = State::Failed;
                    }
                }
                Err(Break::Stopped(error)) => return End::Stopped(error),
                Err(Break::Resource) => {}
            }
        }
        End::Completed
    }

    async fn patch_all(
        &mut self,
        resources: &[Resource],
        file: &mut ProgressFile,
    ) -> Result<End, ProgressError> {
        for (index, resource) in resources.iter().enumerate() {
            let name = resource.full_name();
            let row = self.rows.get(index);
            if row.is_none_or(|it| it.state == State::Failed) {
                continue;
            }
            let ended = match file.is_finished(&name) {
                true => {
                    if let Some(row) = self.rows.get_mut(index) {
                        row.earlier = row.objects;
                    }
                    Ok(())
                }
                false => self.patch(index, resource, file).await?,
            };
            let whole = self.rows.get(index).is_some_and(|it| it.resisted == 0);
            let state = match &ended {
                Ok(()) => State::Finished,
                Err(Break::Resource) => State::Failed,
                Err(Break::Signal | Break::Stopped(_)) => State::Unfinished,
            };
            if let Some(row) = self.rows.get_mut(index) {
                row.state = state;
            }
            match ended {
                Ok(()) if whole => file.finish(&name)?,
                Ok(()) | Err(Break::Resource) => {}
                Err(Break::Signal) => return Ok(self.interrupted()),
                Err(Break::Stopped(error)) => return Ok(End::Stopped(error)),
            }
        }
        if self.resisted.is_empty() {
            file.remove()?;
        }
        Ok(End::Completed)
    }

    async fn patch(
        &mut self,
        index: usize,
        resource: &Resource,
        file: &mut ProgressFile,
    ) -> Result<Result<(), Break>, ProgressError> {
        let name = resource.full_name();
        let list = resource.path(self.settings.namespace.as_deref());
        let first = format!("{list}?limit={PAGE}");
        let mut next = first.clone();
        let mut restarts = 0;
        let mut tasks = JoinSet::new();
        loop {
            let page = match self.page(&next).await {
                Ok(page) => page,
                Err(Break::Stopped(CallError::Refused(refusal))) if refusal.status == 410 => {
                    // The snapshot of the list is compacted. The token of the refusal continues
                    // behind the last object, with the objects as they are now.
                    if let Err(ended) = self.drain(index, &mut tasks, 0).await {
                        return Ok(Err(ended));
                    }
                    next = match &refusal.continues {
                        Some(token) => format!("{first}&continue={}", segment(token)),
                        None if restarts < RESTARTS => {
                            restarts += 1;
                            self.restart(index);
                            first.clone()
                        }
                        None => {
                            self.resist(&name, &CallError::Refused(refusal), None);
                            return Ok(Err(Break::Resource));
                        }
                    };
                    continue;
                }
                Err(ended) => {
                    let drained = self.drain(index, &mut tasks, 0).await;
                    return Ok(Err(match ended {
                        Break::Stopped(error) if error.refusal().is_some() => {
                            self.resist(&name, &error, None);
                            drained.err().unwrap_or(Break::Resource)
                        }
                        ended => ended,
                    }));
                }
            };
            let started = file.begin(&name, &page.metadata.resource_version)?;
            for Object { metadata } in page.items.into_iter().flatten() {
                if is_newer(&metadata.resource_version, &started) {
                    self.add(index, |row| row.earlier += 1);
                    continue;
                }
                let most = self.settings.concurrency.get().saturating_sub(1);
                if let Err(ended) = self.drain(index, &mut tasks, most).await {
                    self.drain(index, &mut tasks, 0).await.ok();
                    return Ok(Err(ended));
                }
                let task = Task::of(resource, metadata);
                let (api, pace) = (self.api.clone(), Arc::clone(&self.pace));
                let stop = self.stop.clone();
                tasks.spawn(async move {
                    let written = task.write(&api, &pace, stop).await;
                    (task.shown, written)
                });
            }
            if page.metadata.r#continue.is_empty() {
                return Ok(self.drain(index, &mut tasks, 0).await);
            }
            let token = segment(&page.metadata.r#continue);
            next = format!("{first}&continue={token}");
        }
    }

    /// Waits until at most `most` tasks are under way.
    async fn drain(
        &mut self,
        index: usize,
        tasks: &mut JoinSet<(String, Written)>,
        most: usize,
    ) -> Result<(), Break> {
        let mut ended = Ok(());
        while tasks.len() > most {
            // A task of ours neither panics nor is aborted.
            let Some(Ok((shown, written))) = tasks.join_next().await else {
                continue;
            };
            let one = self.take(index, &shown, written);
            if ended.is_ok() {
                ended = one;
            }
        }
        ended
    }

    fn take(&mut self, index: usize, shown: &str, written: Written) -> Result<(), Break> {
        let ended = match written {
            Written::Rewritten => self.count_up(index, |row| row.rewritten += 1),
            Written::ByOthers => self.count_up(index, |row| row.earlier += 1),
            Written::Current => self.count_up(index, |row| row.current += 1),
            Written::Gone => self.count_up(index, |row| row.gone += 1),
            Written::Stopped => return Err(Break::Signal),
            Written::Refused(error) => {
                let name = self.rows.get(index).map(|row| row.resource.clone());
                self.resist(&name.unwrap_or_default(), &error, Some(shown));
                self.add(index, |row| row.resisted += 1);
                self.failures = match error.is_transient() {
                    true => self.failures.saturating_add(1),
                    false => 0,
                };
                match error.cause() == &cluster::FORBIDDEN {
                    // The same rights hold for all of its objects.
                    true => Err(Break::Resource),
                    false if self.failures >= RUN_OF_FAILURES || is_final(&error) => {
                        Err(Break::Stopped(error))
                    }
                    false => Ok(()),
                }
            }
        };
        self.tell(index);
        ended
    }

    fn count_up(
        &mut self,
        index: usize,
        count: impl FnOnce(&mut ResourceRow),
    ) -> Result<(), Break> {
        self.failures = 0;
        self.add(index, count);
        Ok(())
    }

    fn add(&mut self, index: usize, count: impl FnOnce(&mut ResourceRow)) {
        if let Some(row) = self.rows.get_mut(index) {
            count(row);
        }
    }

    fn tell(&self, index: usize) {
        let sum = |of: fn(&ResourceRow) -> u64| self.rows.iter().map(of).sum();
        if let Some(row) = self.rows.get(index) {
            (self.on_progress)(&Progress {
                resource: &row.resource,
                done: sum(ResourceRow::done),
                total: sum(|row| row.objects),
                elapsed: self.begun.elapsed(),
            });
        }
    }

    /// Counts the resource from its first object again.
    fn restart(&mut self, index: usize) {
        if let Some(row) = self.rows.get_mut(index) {
            let (resource, objects) = (row.resource.clone(), row.objects);
            self.resisted.retain(|(of, ..), _| *of != resource);
            *row = ResourceRow::new(&resource);
            row.objects = objects;
        }
    }

    /// A page, in several attempts.
    async fn page(&self, path: &str) -> Result<Page, Break> {
        let mut attempt = 0;
        let mut stop = self.stop.clone();
        loop {
            let asked = tokio::select! {
                asked = self.api.get::<Page>(path, METADATA_LIST) => asked,
                () = stopped(&mut stop) => return Err(Break::Signal),
            };
            match asked {
                Ok(page) => return Ok(page),
                Err(error) if error.is_transient() && attempt < ATTEMPTS => {
                    let wait = pause(&error, attempt);
                    attempt += 1;
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = stopped(&mut stop) => return Err(Break::Signal),
                    }
                }
                Err(error) => return Err(Break::Stopped(error)),
            }
        }
    }

    fn resist(&mut self, resource: &str, error: &CallError, shown: Option<&str>) {
        let refusal = error.refusal();
        let row = ResistedRow {
            resource: resource.to_owned(),
            objects: 0,
            http_status: refusal.map(|it| it.status),
            reason: refusal.map_or_else(String::new, |it| it.reason.clone()),
            cause: error.cause().code,
            denied_by: refusal.and_then(|it| it.denied_by()).map(str::to_owned),
            names: Vec::new(),
        };
        let status = row.http_status.unwrap_or_default();
        let key = (
            row.resource.clone(),
            status,
            row.reason.clone(),
            row.cause,
            row.denied_by.clone(),
        );
        let row = self.resisted.entry(key).or_insert(row);
        if let Some(shown) = shown {
            row.objects += 1;
            if self.settings.names && row.names.len() < FEW {
                row.names.push(shown.to_owned());
            }
        }
    }

    fn interrupted(&self) -> End {
        End::Interrupted(self.stop.borrow().unwrap_or("interrupted"))
    }
}

impl Task {
    fn of(resource: &Resource, object: Metadata) -> Self {
        let path = resource.path(object.namespace.as_deref());
        let shown = match &object.namespace {
            Some(namespace) => format!("{namespace}/{}", object.name),
            None => object.name.clone(),
        };
        Self {
            path: format!("{path}/{}", segment(&object.name)),
            shown,
            object,
        }
    }

    async fn write(
        &self,
        api: &Api,
        pace: &Pace,
        mut stop: watch::Receiver<Option<&'static str>>,
    ) -> Written {
        let Metadata {
            uid,
            resource_version,
            ..
        } = &self.object;
        let (mut attempt, mut conflicts) = (0, 0);
        loop {
            tokio::select! {
                () = pace.turn() => {}
                () = stopped(&mut stop) => return Written::Stopped,
            }
            // After a conflict the version is unknown; the uid still names the same object.
            let patch = match conflicts {
                0 => json!({"metadata": {"uid": uid, "resourceVersion": resource_version}}),
                _ => json!({"metadata": {"uid": uid}}),
            };
            let error = match api.patch::<Object>(&self.path, &patch).await {
                Ok(answer) if answer.metadata.resource_version == *resource_version => {
                    return Written::Current;
                }
                Ok(_) if conflicts > 0 => return Written::ByOthers,
                Ok(_) => return Written::Rewritten,
                Err(error) => error,
            };
            match error.refusal() {
                Some(refusal) if refusal.status == 404 || refusal.is_recreated() => {
                    return Written::Gone;
                }
                Some(refusal) if refusal.cause() == &cluster::CONFLICT && conflicts < CONFLICTS => {
                    conflicts += 1;
                }
                _ if error.is_transient() && attempt < ATTEMPTS => {
                    pace.delay(pause(&error, attempt));
                    attempt += 1;
                }
                _ => return Written::Refused(error),
            }
        }
    }
}

/// Spaces requests evenly, also those of several tasks.
struct Pace {
    interval: Duration,
    next: Mutex<Instant>,
}

impl Pace {
    fn new(rate: NonZeroU32) -> Self {
        Self {
            interval: Duration::from_secs(1) / rate.get(),
            next: Mutex::new(Instant::now()),
        }
    }

    async fn turn(&self) {
        let slot = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let slot = (*next).max(Instant::now());
            *next = slot + self.interval;
            slot
        };
        tokio::time::sleep_until(slot).await;
    }

    /// Lets all tasks wait.
    fn delay(&self, pause: Duration) {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        *next = (*next).max(Instant::now() + pause);
    }
}

fn pause(error: &CallError, attempt: u32) -> Duration {
    let asked = error.refusal().and_then(|it| it.retry_after);
    let own = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(attempt));
    asked.unwrap_or(own).min(LONGEST_PAUSE)
}

/// Whether every further write fails alike.
fn is_final(error: &CallError) -> bool {
    let cause = error.cause();
    let all = [
        &cluster::UNAUTHENTICATED,
        &cluster::KUBECONFIG_UNUSABLE,
        &cluster::ETCD_FULL,
        &cluster::NOT_ENCRYPTED,
    ];
    all.contains(&cause)
}

async fn stopped(stop: &mut watch::Receiver<Option<&'static str>>) {
    // The sender outlives the work.
    if stop.wait_for(Option::is_some).await.is_err() {
        std::future::pending().await
    }
}

/// Whether a revision of etcd is later than another. Others than decimal numbers are not compared.
fn is_newer(version: &str, than: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
    let by_value = version
        .len()
        .cmp(&than.len())
        .then_with(|| version.cmp(than));
    number(version) && number(than) && by_value == Ordering::Greater
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_compare_as_numbers() {
        assert!(is_newer("10", "9"));
        assert!(!is_newer("9", "10"));
        assert!(!is_newer("10", "10"));
        assert!(!is_newer("x", "9"));
        assert!(!is_newer("10", ""));
    }

    #[tokio::test(start_paused = true)]
    async fn all_tasks_together_keep_the_rate_and_wait_when_one_is_told_to() {
        let pace = Arc::new(Pace::new(NonZeroU32::new(10).unwrap()));
        let begun = Instant::now();
        let mut tasks = JoinSet::new();
        for _ in 0..21 {
            let pace = Arc::clone(&pace);
            tasks.spawn(async move { pace.turn().await });
        }
        tasks.join_all().await;
        assert_eq!(begun.elapsed().as_millis(), 2000);
        pace.delay(Duration::from_secs(5));
        pace.turn().await;
        assert_eq!(begun.elapsed().as_secs(), 7);
    }
}
