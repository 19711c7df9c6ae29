//! Objects in etcd that are damaged, strange, in plaintext or of others.

use testkit::stored::Sealer;

use super::{restore::damaged, site::Site};

/// A node that serves, and an etcd with an object of it.
async fn served() -> Site {
    let mut site = Site::new().await;
    site.serve().await;
    site.store("secrets/default/one").await;
    site
}

/// The file for `FILE`, saved anew.
fn save(site: &mut Site) -> String {
    let snapshot = site.snapshot("etcd.db");
    site.choose(
        "--etcd-snapshot FILE",
        format!("--etcd-snapshot {snapshot}"),
    );
    snapshot
}

pub(super) async fn objects_that_were_damaged() {
    let mut site = served().await;
    let sound = site.store("secrets/default/two").await;
    site.put("secrets/default/two", &damaged(&sound));
    save(&mut site);
    let triage = site.line(&format!("triage {}", site.live()));
    site.follows(&triage, "objects_damaged").await;
    site.delete("secrets/default/two");
    site.clears(&triage, "objects_damaged").await;
}

pub(super) async fn values_that_are_damaged() {
    let mut site = served().await;
    let cut = b"k8s:enc:kms:v2:kms-test:\n\x7f";
    site.etcd().put("/registry/secrets/default/cut", cut);
    let file = save(&mut site);
    let scan = site.line(&format!("scan-etcd --etcd-snapshot {file}"));
    site.follows(&scan, "values_damaged").await;
    site.delete("secrets/default/cut");
    save(&mut site);
    site.clears(&scan, "values_damaged").await;
    let of_others = b"k8s:enc:kms:v2:lab-kms2:qqqqqqqqqqqqqqqqqqqq";
    site.etcd()
        .put("/registry/secrets/default/other", of_others);
    save(&mut site);
    let verify = site.line(&format!("verify-backup --etcd-snapshot {file}"));
    site.follows(&verify, "damaged_of_others").await;
    site.delete("secrets/default/other");
    save(&mut site);
    site.clears(&verify, "damaged_of_others").await;
}

pub(super) async fn key_ids_without_a_version() {
    let mut site = served().await;
    let own = site.store("secrets/default/two").await;
    let strange = Sealer {
        key_id: format!("obk2.{}", "A".repeat(43)),
        ..own
    };
    site.put("secrets/default/strange", &strange);
    let file = save(&mut site);
    let scan = site.line(&format!("scan-etcd --etcd-snapshot {file}"));
    site.follows(&scan, "key_ids_unknown").await;
    let out = site.file("record.json").display().to_string();
    let record = site.line(&format!("record-backup --etcd-snapshot {file} --out {out}"));
    site.follows(&record, "set_unfit").await;
    site.delete("secrets/default/strange");
    save(&mut site);
    site.clears(&scan, "key_ids_unknown").await;
    std::fs::remove_file(&out).unwrap();
    site.clears(&record, "set_unfit").await;
}

pub(super) async fn keys_that_were_not_read() {
    let mut site = served().await;
    site.etcd().put("/other/x", b"value");
    let file = site.file("saved.db").display().to_string();
    site.choose("snapshot save FILE", format!("snapshot save {file}"));
    let verify = site.line(&format!("verify-backup {} --etcd-prefix-only", site.live()));
    site.follows(&verify, "keys_unread").await;
    let verify = site.line(&format!("verify-backup --etcd-snapshot {file}"));
    site.clears(&verify, "keys_unread").await;
}
