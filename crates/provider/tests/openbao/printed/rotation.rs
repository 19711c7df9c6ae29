//! Rotation of the key: what has to be written again, and versions that are taken out of use and back.

use std::fs;

use testkit::{files, stored::Sealer};

use super::site::Site;

/// A node that serves at version 2, an etcd with an object of each version and a snapshot of it.
async fn rotated() -> Site {
    let mut site = Site::new().await;
    site.serve().await;
    site.store("secrets/default/one").await;
    site.rotate(2).await;
    site.store("secrets/default/two").await;
    let snapshot = site.snapshot("etcd.db");
    site.choose(
        "--etcd-snapshot FILE",
        format!("--etcd-snapshot {snapshot}"),
    );
    site
}

pub(super) async fn a_retirement_without_evidence_and_its_way_back() {
    let mut site = rotated().await;
    let retire = site.line("retire-versions --before-version 2");
    site.follows(&retire, "retirement_unchecked").await;
    site.then("--apply", "versions_changed").await;
    site.clears(&retire, "retirement_unchecked").await;

    // A plan with evidence finds that objects need the version that was removed.
    let evidence = site.file("etcd.db").display().to_string();
    let checked = site.line(&format!(
        "retire-versions --before-version 2 --etcd-snapshot {evidence}"
    ));
    site.follows(&checked, "removed_versions_needed").await;
    site.then("restore-versions", "versions_planned").await;
    site.then("--apply", "versions_changed").await;
    site.clears(&checked, "removed_versions_needed").await;

    // So does the check of a backup.
    site.follows(&retire, "retirement_unchecked").await;
    let verify = site.line(&format!("verify-backup --etcd-snapshot {evidence}"));
    site.follows(&verify, "versions_removed").await;
    site.stop().await;
    site.then("restore-versions", "versions_planned").await;
    site.clears(&verify, "versions_removed").await;
}

pub(super) async fn versions_that_objects_need() {
    let mut site = rotated().await;
    let retire = format!("retire-versions --before-version 2 {}", site.live());
    let retire = site.line(&retire);
    site.finds(&retire, "versions_needed").await;
    site.rewrite().await;
    site.clears(&retire, "versions_needed").await;
    site.follows(&retire, "versions_planned").await;
    site.then("--apply", "versions_changed").await;
    site.clears(&retire, "versions_planned").await;
    for (words, code, right) in [
        (
            "retire-versions --before-version 3",
            "version_choice_invalid",
            "retire-versions --before-version 2",
        ),
        (
            "restore-versions --versions 2",
            "version_choice_invalid",
            "restore-versions --versions 1",
        ),
    ] {
        let line = site.line(words);
        site.follows(&line, code).await;
        let line = site.line(right);
        site.clears(&line, code).await;
    }
}

pub(super) async fn objects_that_were_not_written_again() {
    let mut site = rotated().await;
    let verify = site.line(&format!("verify-rotation {}", site.live()));
    let saved = site.file("saved.db").display().to_string();
    site.choose("snapshot save FILE", format!("snapshot save {saved}"));
    site.finds(&verify, "objects_under_older_versions").await;
    site.rewrite().await;
    site.clears(&verify, "objects_under_older_versions").await;
    site.follows(&verify, "objects_rewritten").await;
    site.etcd().put("/other/x", b"value");
    let bounded = site.line(&format!(
        "verify-rotation {} --etcd-prefix-only",
        site.live()
    ));
    site.follows(&bounded, "keys_unread").await;
    site.clears(&verify, "keys_unread").await;
    let retire = format!(
        "retire-versions --before-version 2 {} --etcd-prefix-only",
        site.live()
    );
    let retire = site.line(&retire);
    site.follows(&retire, "keys_unread").await;
    let retire = site.line(&format!(
        "retire-versions --before-version 2 {}",
        site.live()
    ));
    site.clears(&retire, "keys_unread").await;
}

pub(super) async fn a_node_that_has_not_followed_the_key() {
    let mut site = rotated().await;
    let verify = site.line(&format!("verify-rotation {}", site.live()));
    site.stop().await;
    site.rotate(3).await;
    let steps = site.finds(&verify, "newest_version_not_promoted").await;
    site.serve().await;
    site.serving().encrypt_under(3).await;
    site.carries_out(&steps).await;
    site.clears(&verify, "newest_version_not_promoted").await;
}

pub(super) async fn a_node_without_a_state() {
    let mut site = Site::new().await;
    site.start_etcd().await;
    site.tolerate("verify-rotation", 5);
    let evidence = site.snapshot("evidence.db");
    site.choose(
        "--etcd-snapshot FILE",
        format!("--etcd-snapshot {evidence}"),
    );
    let verify = site.line(&format!("verify-rotation {}", site.live()));
    site.fixes(&verify, "no_active_version").await;
}

pub(super) async fn sources_that_show_too_little() {
    let mut site = rotated().await;
    let retire = |file: &str| format!("retire-versions --before-version 2 --etcd-snapshot {file}");
    site.tolerate("retire-versions", 5);
    let own = site.etcd.take();
    site.start_etcd().await;
    site.etcd()
        .put("/registry/pods/default/one", b"k8s\0 plain");
    let empty = site.snapshot("empty.db");
    site.etcd = own;
    let line = site.line(&retire(&empty));
    site.follows(&line, "no_objects").await;
    site.snapshot("empty.db");
    site.clears(&line, "no_objects").await;

    let file = site.snapshot("evidence.db");
    let whole = fs::read(&file).unwrap();
    files::replace(file.as_ref(), &whole[..whole.len() - 1000], 0o600);
    let verify = site.line(&format!("verify-rotation --etcd-snapshot {file}"));
    let steps = site.finds(&verify, "snapshot_damaged").await;
    site.snapshot("evidence.db");
    site.carries_out(&steps).await;
    site.clears(&verify, "snapshot_damaged").await;

    // Without the hash at its end.
    files::replace(file.as_ref(), &whole[..whole.len() - 32], 0o600);
    site.choose("snapshot save FILE", format!("snapshot save {file}"));
    let line = site.line(&retire(&file));
    site.fixes(&line, "source_unverified").await;

    let own = site.store("secrets/default/three").await;
    let strange = Sealer {
        key_id: format!("obk2.{}", "A".repeat(43)),
        ..own
    };
    site.put("secrets/default/strange", &strange);
    site.snapshot("evidence.db");
    site.follows(&line, "key_ids_unknown").await;
    site.delete("secrets/default/strange");
    site.snapshot("evidence.db");
    site.clears(&line, "key_ids_unknown").await;
}
