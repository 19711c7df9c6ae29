//! Faults of the registry state, from the command that reports them to the provider that serves with
//! a rebuilt one.

use std::fs;

use testkit::wait::wait_until;

use super::{
    node::set_mode,
    site::{Site, give},
};
use crate::{provider::SOON, recover::preview::of_preview};

/// A node at version 2 with objects of both versions, all kinds of evidence chosen for `FILE`, and
/// the pair of version 1.
pub(super) async fn rotated() -> (Site, [Vec<u8>; 2]) {
    let mut site = Site::new().await;
    site.serve().await;
    site.store("secrets/default/one").await;
    let older = site.pair();
    site.rotate(2).await;
    site.store("secrets/default/two").await;
    site.stop().await;
    let snapshot = site.snapshot("etcd.db");
    let peer = site.peer_state("peer.json");
    let record = site.record("record.json", "").await;
    site.choose(
        "--etcd-snapshot FILE",
        format!("--etcd-snapshot {snapshot}"),
    );
    site.choose("--peer-state FILE", format!("--peer-state {peer}"));
    site.choose("--record FILE", format!("--record {record}"));
    (site, older)
}

/// From a report to a provider that serves with the rebuilt state, by printed commands alone.
async fn rebuilds(site: &mut Site, line: &str, code: &str) {
    let line = site.line(line);
    site.follows(&line, code).await;
    site.then("recover-state", "state_planned").await;
    site.then("--apply", "state_rebuilt").await;
    site.clears(&line, code).await;
    site.serving().encrypt_under(2).await;
    site.stop().await;
}

pub(super) async fn a_state_that_is_lost_damaged_or_older() {
    let (mut site, older) = rotated().await;
    let newest = site.pair();
    fs::remove_file(site.node.state_file()).unwrap();
    rebuilds(&mut site, "triage", "state_lost").await;
    site.lose_state();
    rebuilds(&mut site, "triage", "state_lost").await;
    site.lose_state();
    rebuilds(&mut site, "inspect-state", "state_absent").await;
    site.lose_state();
    let record = site.file("none.json").display().to_string();
    // The node is not new.
    site.tolerate("systemctl start bao-kms-provider", 1);
    rebuilds(
        &mut site,
        &format!("record-backup --out {record}"),
        "no_active_version",
    )
    .await;
    site.put_pair(&newest);
    site.put_state(b"{}");
    rebuilds(&mut site, "triage", "state_corrupt").await;
    site.put_pair(&newest);
    site.put_state(&older[0]);
    rebuilds(&mut site, "doctor", "state_rolled_back").await;
    site.put_pair(&newest);
    fs::remove_file(site.node.checkpoint()).unwrap();
    rebuilds(&mut site, "triage", "checkpoint_lost").await;
    site.put_pair(&newest);
    let newer = String::from_utf8(newest[0].clone()).unwrap();
    let newer = newer
        .replace("/v1alpha2", "/v9")
        .replacen('{', "{\"new\": 1, ", 1);
    site.put_state(newer.as_bytes());
    rebuilds(&mut site, "triage", "state_other_release").await;
    site.put_pair(&of_preview(&newest));
    rebuilds(&mut site, "triage", "state_of_preview").await;
}

pub(super) async fn a_directory_that_is_missing() {
    let (mut site, _) = rotated().await;
    let directory = site.node.state_dir();
    let away = site.file("away");
    site.rename(&directory, &away).await;
    let triage = site.line("triage");
    let steps = site.finds(&triage, "state_directory_missing").await;
    // The plan says the same.
    let plan = site.line(&format!(
        "recover-state --etcd-snapshot {}",
        site.file("etcd.db").display()
    ));
    site.choose(
        "--owner USER",
        format!("--owner {}", crate::doctor::fault::SERVICE_USER),
    );
    if !rustix::process::geteuid().is_root() {
        site.choose("--owner USER ", "");
    }
    site.fixes(&plan, "state_directory_missing").await;
    site.carries_out(&steps).await;
    site.then("recover-state", "state_planned").await;
    site.then("--apply", "state_rebuilt").await;
    site.clears(&triage, "state_directory_missing").await;
}

pub(super) async fn a_state_with_a_wrong_mode_or_owner() {
    let (mut site, _) = rotated().await;
    let doctor = site.line("doctor");
    set_mode(&site.node.state_file(), 0o666);
    site.fixes(&doctor, "state_too_open").await;
    let inspect = site.line("inspect-state");
    set_mode(&site.node.state_dir(), 0o777);
    site.follows(&inspect, "state_unreadable").await;
    set_mode(&site.node.state_dir(), 0o750);
    give(&site.node.state_dir());
    site.clears(&inspect, "state_unreadable").await;
}

pub(super) async fn a_state_that_was_replaced_under_its_provider() {
    let (mut site, older) = rotated().await;
    let newest = site.pair();
    site.serve().await;
    site.put_pair(&older);
    let triage = site.line("triage");
    let steps = site.finds(&triage, "state_replaced").await;
    site.put_pair(&newest);
    site.carries_out(&steps).await;
    site.clears(&triage, "state_replaced").await;
    // A rotation finds another pair than this process has written.
    site.put_pair(&older);
    unsaved(&mut site, "foreign_state").await;
    let doctor = site.line("doctor");
    let steps = site.finds(&doctor, "state_replaced").await;
    site.put_pair(&newest);
    site.carries_out(&steps).await;
    site.clears(&doctor, "state_replaced").await;
}

/// Rotates the key, which the provider cannot save.
async fn unsaved(site: &mut Site, word: &str) {
    site.new_version().await;
    wait_until(SOON, "a state that was not saved", async || {
        let why = site.serving().health("/why").await.1;
        why["state"].to_string().contains(word)
    })
    .await;
}

pub(super) async fn a_state_that_cannot_be_saved() {
    let (mut site, _) = rotated().await;
    let directory = site.node.state_dir();
    site.serve().await;
    let away = site.file("away");
    site.rename(&directory, &away).await;
    unsaved(&mut site, "directory_gone").await;
    let doctor = site.line("doctor");
    let steps = site.finds(&doctor, "state_unsaved_directory_gone").await;
    site.carries_out(&steps).await;
    site.rename(&away, &directory).await;
    wait_until(SOON, "the saved state", async || {
        site.serving().health("/why").await.1["state"]["unsaved"].is_null()
    })
    .await;
    site.clears(&doctor, "state_unsaved_directory_gone").await;
    if !rustix::process::geteuid().is_root() {
        return;
    }
    // Its user may not write there any more.
    set_mode(&directory, 0o550);
    unsaved(&mut site, "unsaved").await;
    site.follows(&doctor, "state_unsaved").await;
    set_mode(&directory, 0o750);
    wait_until(SOON, "the saved state", async || {
        site.serving().health("/why").await.1["state"]["unsaved"].is_null()
    })
    .await;
    site.clears(&doctor, "state_unsaved").await;
}

pub(super) async fn a_state_that_contradicts_the_key() {
    let (mut site, _) = rotated().await;
    site.configure_key(serde_json::json!({"min_decryption_version": 2}))
        .await;
    let record = site.file("contradiction.json").display().to_string();
    let line = site.line(&format!("record-backup --out {record}"));
    site.follows(&line, "state_key_conflict").await;
    site.configure_key(serde_json::json!({"min_decryption_version": 1}))
        .await;
    let again = site.file("agreement.json").display().to_string();
    let done = site
        .shell(&site.line(&format!("record-backup --out {again}")))
        .await;
    assert_eq!(done.code, Some(0), "{}{}", done.out, done.err);
}
