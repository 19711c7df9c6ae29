//! Findings that block the rebuild of a state.

use std::fs;

use serde_json::{Value, json};
use testkit::{files, openbao::shared_openbao, stored::Sealer, tenant::KEY};

use super::{
    key::{Backups, recreate_key},
    site::Site,
    state::rotated,
};

/// Runs the printed plan's `state_planned` and the steps after its application.
async fn rebuilt(site: &mut Site, part: &str) {
    site.then(part, "state_planned").await;
    site.then("--apply", "state_rebuilt").await;
    site.stop().await;
}

fn recover(site: &Site, options: &str) -> String {
    site.line(&format!("recover-state {options}"))
}

fn from_snapshot(site: &Site, options: &str) -> String {
    let file = site.file("etcd.db");
    recover(
        site,
        &format!("--etcd-snapshot {} {options}", file.display()),
    )
}

fn from_peer(site: &Site, options: &str) -> String {
    let file = site.file("peer.json");
    recover(site, &format!("--peer-state {} {options}", file.display()))
}

/// A token takes the place of the login. It is root's alone, and read before the change of user.
pub(super) async fn a_login_that_does_not_work() {
    let (mut site, _) = rotated().await;
    let token = site.file("token");
    let root = &shared_openbao().await.secrets().root_token;
    files::replace(&token, root.expose().as_bytes(), 0o600);
    let option = format!("--token-file {}", token.display());
    site.configure("/auth/jwt/role", "nobody");
    site.record("second.json", &option).await;
    let retire = site.line(&format!("retire-versions --before-version 2 {option}"));
    let planned = site.shell(&retire).await;
    assert_eq!(planned.code, Some(0), "{}{}", planned.out, planned.err);

    site.lose_state();
    let line = from_snapshot(&site, &option);
    site.follows(&line, "state_planned").await;
    assert!(site.node.state_file().exists());
}

pub(super) async fn a_plan_without_evidence() {
    let (mut site, _) = rotated().await;
    site.lose_state();
    let line = recover(&site, "");
    site.follows(&line, "no_evidence").await;
    rebuilt(&mut site, "--record").await;
    site.lose_state();
    let line = from_peer(&site, "");
    site.clears(&line, "no_evidence").await;
}

pub(super) async fn a_state_that_is_in_place() {
    let (mut site, _) = rotated().await;
    let line = from_snapshot(&site, "");
    site.follows(&line, "state_in_place").await;
    rebuilt(&mut site, "--replace").await;
    let wrong = format!("krs1.{}", "A".repeat(43));
    let replace = |hash: &str| format!("--replace --expected-state-hash {hash}");
    let line = from_snapshot(&site, &replace(&wrong));
    site.follows(&line, "state_in_place").await;
    let inspected = site.node.inspect();
    site.write_config();
    let line = from_snapshot(&site, &replace(inspected["stateHash"].as_str().unwrap()));
    site.clears(&line, "state_in_place").await;
    site.lose_state();
    site.follows(&line, "option_unfit").await;
    rebuilt(&mut site, "recover-state").await;
}

/// The hash of the plan.
async fn planned(site: &mut Site, line: &str) -> String {
    let plan = site.shell(&format!("{line} --output json")).await;
    let plan: Value = serde_json::from_str(&plan.out).unwrap();
    plan["planHash"].as_str().unwrap().to_owned()
}

pub(super) async fn a_plan_that_is_applied_too_early_or_too_late() {
    let (mut site, _) = rotated().await;
    site.lose_state();
    let peer = from_peer(&site, "");
    let hash = planned(&mut site, &peer).await;
    let apply = format!("--apply --expected-plan-hash {hash}");
    let outdated = from_snapshot(&site, &apply);
    site.follows(&outdated, "plan_outdated").await;
    rebuilt(&mut site, "recover-state").await;
    // A provider that serves.
    let inspected = site.node.inspect();
    site.write_config();
    let replace = inspected["stateHash"].as_str().unwrap();
    let replace = format!("--replace --expected-state-hash {replace}");
    let line = from_peer(&site, &replace);
    let hash = planned(&mut site, &line).await;
    site.serve().await;
    let apply = format!("{line} --apply --expected-plan-hash {hash}");
    site.follows(&apply, "provider_running").await;
    assert!(site.service.is_none());
    site.then("--apply", "state_rebuilt").await;
}

pub(super) async fn a_state_of_a_newer_release() {
    let (mut site, _) = rotated().await;
    let state = String::from_utf8(site.pair()[0].clone()).unwrap();
    let newer = state
        .replace("/v1alpha2", "/v9")
        .replacen('{', "{\"new\": 1, ", 1);
    site.put_state(newer.as_bytes());
    let line = from_snapshot(&site, "");
    site.follows(&line, "state_other_release").await;
    rebuilt(&mut site, "--replace-newer-release").await;
}

pub(super) async fn a_key_that_cannot_be_asked_or_used() {
    let (mut site, _) = rotated().await;
    site.lose_state();
    let line = from_snapshot(&site, "");
    let right = site.node.config["openbao"]["address"].clone();
    site.configure("/openbao/address", "https://127.0.0.1:1");
    let steps = site.finds(&line, "key_unasked").await;
    site.configure("/openbao/address", right);
    site.carries_out(&steps).await;
    site.clears(&line, "key_unasked").await;
    site.configure_key(json!({"deletion_allowed": true})).await;
    site.follows(&line, "key_unusable").await;
    site.clears(&line, "key_unusable").await;
}

/// With another byte in its ciphertext.
pub(super) fn damaged(sealer: &Sealer) -> Sealer {
    let mut damaged = sealer.clone();
    let place = damaged.encrypted_source.len() - 8;
    let byte = &mut damaged.encrypted_source[place];
    *byte = if *byte == b'A' { b'B' } else { b'A' };
    damaged
}

pub(super) async fn objects_that_stay_unreadable() {
    let (mut site, _) = rotated().await;
    site.serve().await;
    let sound = site.store("secrets/default/three").await;
    site.put("secrets/default/damaged", &damaged(&sound));
    site.stop().await;
    site.lose_state();
    let live = site.live();
    let line = recover(&site, &live);
    let sampled = recover(&site, &format!("{live} --sample 9"));
    site.follows(&sampled, "unreadable_objects").await;
    site.follows(&line, "deks_not_decrypted").await;
    site.follows(&line, "unreadable_objects").await;
    rebuilt(&mut site, "--accept-unreadable").await;
    site.delete("secrets/default/damaged");
    site.clears(&line, "deks_not_decrypted").await;
    site.lose_state();
    let accepted = recover(&site, &format!("{live} --accept-unreadable 1"));
    site.follows(&accepted, "option_unfit").await;
    rebuilt(&mut site, "recover-state").await;
}

pub(super) async fn a_promotion_that_is_not_known() {
    let (mut site, _) = rotated().await;
    site.lose_state();
    let wrong = from_snapshot(&site, "--assume-not-promoted 2");
    site.follows(&wrong, "option_unfit").await;
    rebuilt(&mut site, "recover-state").await;
    site.lose_state();
    let idle = from_snapshot(&site, "--assume-not-promoted 9");
    site.follows(&idle, "option_unfit").await;
    rebuilt(&mut site, "recover-state").await;
    site.lose_state();
    site.rotate(3).await;
    let line = from_peer(&site, "");
    site.follows(&line, "promotion_undecided").await;
    rebuilt(&mut site, "--assume-not-promoted 3").await;
}

pub(super) async fn minimums_that_hide_versions() {
    let (mut site, _) = rotated().await;
    site.lose_state();
    site.configure_key(json!({"min_decryption_version": 2}))
        .await;
    let peer = from_peer(&site, "");
    site.fixes(&peer, "version_unresolved").await;
    rebuilt(&mut site, "--etcd-snapshot").await;
    // A valid state beside it.
    site.configure_key(json!({"min_decryption_version": 2}))
        .await;
    let snapshot = from_snapshot(&site, "");
    site.follows(&snapshot, "state_in_place_unfit").await;
    site.configure_key(json!({"min_decryption_version": 1}))
        .await;
    site.clears(&snapshot, "state_in_place_unfit").await;

    site.lose_state();
    site.rotate(3).await;
    let assumed = from_peer(&site, "--assume-not-promoted 3");
    site.configure_key(json!({"min_encryption_version": 3}))
        .await;
    site.fixes(&assumed, "encryption_blocked").await;
    let raised = json!({"min_encryption_version": 0, "min_decryption_version": 3});
    site.configure_key(raised).await;
    site.fixes(&assumed, "active_unusable").await;
}

pub(super) async fn an_etcd_that_shows_too_little() {
    let (mut site, _) = rotated().await;
    site.lose_state();
    site.etcd().put("/other/x", b"value");
    let bounded = recover(&site, &format!("{} --etcd-prefix-only", site.live()));
    site.follows(&bounded, "keys_unread").await;
    rebuilt(&mut site, "recover-state").await;
    site.lose_state();
    let full = site.etcd.take();
    site.start_etcd().await;
    site.etcd()
        .put("/registry/pods/default/one", b"k8s\0 plain");
    let empty = site.snapshot("empty.db");
    site.etcd = full;
    let line = recover(&site, &format!("--etcd-snapshot {empty}"));
    site.follows(&line, "no_objects").await;
    let line = from_snapshot(&site, "");
    site.clears(&line, "no_objects").await;
}

pub(super) async fn objects_of_other_names() {
    let mut site = Site::new().await;
    site.serve().await;
    site.store("secrets/default/one").await;
    site.stop().await;
    site.lose_state();
    let line = recover(&site, &site.live());
    let mut other = site.peer();
    other.configure("/transit/keyIdScope/transitMountId", "other");
    other.serve().await;
    std::mem::swap(&mut other.etcd, &mut site.etcd);
    other.store("secrets/default/other").await;
    std::mem::swap(&mut other.etcd, &mut site.etcd);
    // A command reads the configuration with the runtime directory of this node.
    let own = other.node.config["server"]["socketPath"].clone();
    let socket = site.node.sockets.socket().display().to_string();
    other.configure("/server/socketPath", socket);
    let config = other.write_config().display().to_string();
    site.choose("--config FILE", format!("--config {config}"));
    site.follows(&line, "other_identity").await;
    site.delete("secrets/default/other");
    site.clears(&line, "other_identity").await;
    other.configure("/server/socketPath", own);
}

pub(super) async fn a_key_that_is_not_that_of_the_evidence() {
    let mut backups = Backups::new().await;
    let pair = backups.site.pair();
    let site = &mut backups.site;
    site.peer_state("peer.json");
    site.lose_state();
    let raised = json!({"min_decryption_version": 2, "min_encryption_version": 2});
    site.configure_key(raised).await;
    let admin = site.admin().await;
    admin.trim_key(&site.mount(), KEY, 2).await.unwrap();
    let line = "recover-state --etcd-snapshot ";
    let line = format!("{line}{}", site.file("etcd.db").display());
    backups.recovers(&line, "versions_lost").await;
    recreate_key(&backups.site).await;
    backups.recovers(&line, "evidence_of_other_key").await;

    // A state and checkpoint that are newer than OpenBao.
    backups.site.put_pair(&pair);
    backups.take_back().await;
    let site = &mut backups.site;
    let earlier = site.file("earlier.db").display().to_string();
    let root = site.file("root");
    fs::create_dir(&root).unwrap();
    site.choose(" /root", format!(" {}", root.display()));
    let plan = recover(site, &format!("--etcd-snapshot {earlier}"));
    site.follows(&plan, "state_ahead_of_openbao").await;
    rebuilt(site, &format!("--etcd-snapshot {earlier}")).await;

    // Only the checkpoint is left of it.
    backups.site.put_pair(&pair);
    fs::remove_file(backups.site.node.state_file()).unwrap();
    let site = &mut backups.site;
    let peer = recover(
        site,
        &format!("--peer-state {}", site.file("earlier.json").display()),
    );
    site.follows(&peer, "key_never_rotated").await;
    backups.restore_later().await;
    backups.site.clears(&peer, "key_never_rotated").await;
    backups.site.lose_state();
}
