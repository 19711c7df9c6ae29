//! Faults of the Transit key, and of an OpenBao that was restored.

use openbao_lab::admin::transit::NewKey;
use serde_json::{Value, json};
use testkit::{
    openbao::shared_openbao,
    tenant::{KEY, Tenant},
    wait::wait_until,
};

use super::site::Site;
use crate::provider::SOON;

pub(super) async fn settings_that_can_be_corrected() {
    let mut site = Site::new().await;
    site.serve().await;
    site.rotate(2).await;
    site.stop().await;
    let (doctor, verify) = (site.line("doctor"), site.line("verify-key"));
    site.configure_key(json!({"deletion_allowed": true})).await;
    site.finds(&verify, "key_unusable").await;
    site.fixes(&doctor, "key_unusable").await;
    let settings = format!("{}/config/keys", site.mount());
    let allowed = json!({"disable_upsert": false});
    site.admin().await.write(&settings, &allowed).await.unwrap();
    site.fixes(&doctor, "upsert_allowed").await;
    let raised = json!({"min_decryption_version": 2});
    site.configure_key(raised).await;
    site.finds(&verify, "versions_below_minimum").await;
    site.fixes(&doctor, "versions_below_minimum").await;
    let key = format!("{}/keys/{KEY}/soft-delete", site.mount());
    site.admin().await.delete(&key).await.unwrap();
    site.fixes(&doctor, "key_soft_deleted").await;
    site.rotate(3).await;
    site.configure_key(json!({"min_encryption_version": 3}))
        .await;
    let triage = site.line("triage");
    site.fixes(&triage, "encryption_blocked").await;
}

pub(super) async fn a_key_that_can_never_be_used() {
    let tenant = Tenant::without_key(shared_openbao().await).await;
    let mut site = Site::of_tenant(tenant);
    let key = NewKey {
        exportable: true,
        ..NewKey::default()
    };
    let mount = site.mount();
    site.admin()
        .await
        .create_key(&mount, KEY, &key)
        .await
        .unwrap();
    site.configure_key(json!({"deletion_allowed": true})).await;
    site.choose("keys/NAME", "keys/other");
    let doctor = site.line("doctor");
    site.follows(&doctor, "key_unfit").await;
    site.configure("/transit/keyName", "other");
    let lineage = "ffeeddccbbaa99887766554433221100";
    site.configure("/transit/keyIdScope/keyLineageId", lineage);
    let line = site.line("policy openbao");
    let policy = site.shell(&line).await.out;
    let name = site.node.tenant.policy.clone();
    site.admin()
        .await
        .write_policy(&name, &policy)
        .await
        .unwrap();
    site.clears(&doctor, "key_unfit").await;
}

pub(super) async fn a_key_that_is_yet_to_be_created() {
    let tenant = Tenant::without_key(shared_openbao().await).await;
    let mut site = Site::of_tenant(tenant);
    let mount = format!("sys/mounts/{}", site.mount());
    site.start_etcd().await;
    let plain = b"k8s\0 plain";
    site.etcd().put("/registry/secrets/default/plain", plain);
    let live = site.live();
    site.choose(
        "--endpoints URLS --cacert FILE --cert FILE --key FILE",
        live.clone(),
    );
    for (line, code) in [
        ("triage".to_owned(), "key_absent"),
        (format!("triage {live}"), "first_installation"),
    ] {
        site.admin().await.delete(&mount).await.unwrap();
        let line = site.line(&line);
        site.fixes(&line, code).await;
    }
}

/// The creation seconds of the key.
pub(super) async fn seconds(site: &Site) -> Option<Value> {
    let path = format!("{}/keys/{KEY}", site.mount());
    let metadata: Value = site.admin().await.read(&path).await.ok()?.json().ok()?;
    Some(metadata["data"]["keys"].clone())
}

pub(super) async fn delete_key(site: &Site) {
    site.configure_key(json!({"deletion_allowed": true})).await;
    let admin = site.admin().await;
    admin.delete_key(&site.mount(), KEY).await.unwrap();
}

/// Another key of the name, of another second.
pub(super) async fn recreate_key(site: &Site) {
    let original = seconds(site).await.unwrap()["1"].clone();
    wait_until(SOON, "a key of another second", async || {
        delete_key(site).await;
        let new = NewKey::default();
        let admin = site.admin().await;
        admin.create_key(&site.mount(), KEY, &new).await.unwrap();
        seconds(site).await.unwrap()["1"] != original
    })
    .await;
}

/// A key at version 2 in OpenBao's later backup, at version 1 in its earlier one, and objects of
/// both versions.
pub(super) struct Backups {
    pub(super) site: Site,
    later_key: Value,
}

impl Backups {
    pub(super) async fn new() -> Self {
        let mut site = Site::alone().await;
        site.serve().await;
        site.store("secrets/default/one").await;
        site.snapshot("earlier.db");
        site.peer_state("earlier.json");
        let earlier = site.file("earlier.snap");
        site.server.as_ref().unwrap().save_snapshot(&earlier).await;
        site.rotate(2).await;
        site.store("secrets/default/two").await;
        let later = site.file("later.snap");
        site.server.as_ref().unwrap().save_snapshot(&later).await;
        let snapshot = site.snapshot("etcd.db");
        site.choose(
            "--etcd-snapshot FILE",
            format!("--etcd-snapshot {snapshot}"),
        );
        let later_key = seconds(&site).await.unwrap();
        site.stop().await;
        Self { site, later_key }
    }

    pub(super) async fn take_back(&self) {
        self.restore("earlier.snap", &json!({"1": self.later_key["1"]}))
            .await;
    }

    /// The action that the steps ask for.
    pub(super) async fn restore_later(&self) {
        self.restore("later.snap", &self.later_key).await;
    }

    async fn restore(&self, name: &str, key: &Value) {
        let server = self.site.server.as_ref().unwrap();
        server.return_to_snapshot(&self.site.file(name)).await;
        wait_until(SOON, "the key of the snapshot", async || {
            seconds(&self.site).await.as_ref() == Some(key)
        })
        .await;
    }

    /// Requires the cause, restores the later backup, and runs the commands.
    pub(super) async fn recovers(&mut self, line: &str, code: &str) {
        let line = self.site.line(line);
        let steps = self.site.finds(&line, code).await;
        self.restore_later().await;
        self.site.carries_out(&steps).await;
        self.site.clears(&line, code).await;
    }
}

pub(super) async fn an_openbao_from_an_earlier_backup() {
    let mut backups = Backups::new().await;
    backups.take_back().await;
    backups.recovers("triage", "openbao_rolled_back").await;
    backups.take_back().await;
    let verify = format!(
        "verify-backup --etcd-snapshot {}",
        backups.site.file("etcd.db").display()
    );
    backups.recovers(&verify, "openbao_rolled_back").await;

    recreate_key(&backups.site).await;
    backups.recovers("triage", "key_recreated").await;

    delete_key(&backups.site).await;
    backups.recovers("triage", "key_lost").await;

    let raised = json!({"min_decryption_version": 2, "min_encryption_version": 2});
    backups.site.configure_key(raised).await;
    let admin = backups.site.admin().await;
    admin.trim_key(&backups.site.mount(), KEY, 2).await.unwrap();
    backups.recovers("triage", "versions_lost").await;
}
