//! `StorageVersionMigration`: kube-controller-manager writes the objects of a resource again.

use std::time::Duration;

use kms_node::advice::cluster;
use serde::Deserialize;
use serde_json::json;

use super::{End, ResistedRow, Rewriter, State, stopped};
use crate::{
    api::{CallError, JSON},
    discovery::Resource,
};

const GROUP: &str = "storagemigration.k8s.io";
/// Without a condition after this time no controller works on the migrations.
const START_WITHIN: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
struct Migration {
    metadata: Named,
    #[serde(default)]
    status: MigrationStatus,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct MigrationStatus {
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct Condition {
    r#type: String,
    status: String,
}

/// Path of the migrations, if the API server serves a version that is known here.
#[must_use]
pub(super) fn path(served: &[Resource]) -> Option<String> {
    let mut served = served.iter();
    let migrations =
        served.find(|it| it.group == GROUP && it.name == "storageversionmigrations")?;
    let path = migrations.path(None);
    let known = path.contains("/v1/") || path.contains("/v1beta1/");
    known.then_some(path)
}

impl MigrationStatus {
    fn has(&self, wanted: &str) -> bool {
        let mut conditions = self.conditions.iter();
        conditions.any(|it| it.r#type == wanted && it.status == "True")
    }
}

impl Rewriter<'_> {
    /// One migration after the other.
    pub(super) async fn migrate_all(&mut self, resources: &[Resource], path: &str) -> End {
        for (index, resource) in resources.iter().enumerate() {
            if self
                .rows
                .get(index)
                .is_none_or(|row| row.state == State::Failed)
            {
                continue;
            }
            let migrated = self.migrate(index, resource, path).await;
            let (state, end) = match migrated {
                Ok(true) => (State::Finished, None),
                Ok(false) => {
                    self.migration_failed(resource);
                    (State::Failed, None)
                }
                Err(end) => (State::Unfinished, Some(end)),
            };
            self.add(index, |row| row.state = state);
            if let Some(end) = end {
                return end;
            }
        }
        End::Completed
    }

    /// Whether the migration succeeded.
    async fn migrate(
        &mut self,
        index: usize,
        resource: &Resource,
        path: &str,
    ) -> Result<bool, End> {
        let version = path.trim_start_matches("/apis/");
        let (api_version, _) = version.rsplit_once('/').unwrap_or((version, ""));
        let object = json!({
            "apiVersion": api_version,
            "kind": "StorageVersionMigration",
            "metadata": {"generateName": "bao-kms-rewrite-"},
            "spec": {"resource": {"group": resource.group, "resource": resource.name}},
        });
        let created: Result<Migration, CallError> = self.api.create(path, &object).await;
        let name = created.map_err(End::Stopped)?.metadata.name;
        self.add(index, |row| row.migration = Some(name.clone()));
        let created = tokio::time::Instant::now();
        let mut stop = self.stop.clone();
        let mut failures = 0;
        loop {
            let read: Result<Migration, _> = self.api.get(&format!("{path}/{name}"), JSON).await;
            match read {
                Ok(migration) if migration.status.has("Succeeded") => return Ok(true),
                Ok(migration) if migration.status.has("Failed") => return Ok(false),
                Ok(migration) if migration.status.conditions.is_empty() => {
                    if created.elapsed() > START_WITHIN {
                        return Err(End::NotStarted);
                    }
                }
                Ok(_) => failures = 0,
                Err(error) if error.is_transient() && failures < super::ATTEMPTS => failures += 1,
                Err(error) => return Err(End::Stopped(error)),
            }
            self.tell(index);
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                () = stopped(&mut stop) => return Err(self.interrupted()),
            }
        }
    }

    fn migration_failed(&mut self, resource: &Resource) {
        let name = resource.full_name();
        let cause = cluster::MIGRATION_FAILED.code;
        let key = (name.clone(), 0, String::new(), cause, None);
        self.resisted.insert(
            key,
            ResistedRow {
                resource: name,
                objects: 0,
                http_status: None,
                reason: "Failed".to_owned(),
                cause,
                denied_by: None,
                names: Vec::new(),
            },
        );
    }
}
