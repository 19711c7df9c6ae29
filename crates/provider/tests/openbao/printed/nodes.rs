//! Nodes that differ.

use std::fs;

use serde_json::json;
use testkit::wait::wait_until;

use super::{key::recreate_key, site::Site};
use crate::provider::SOON;

fn metrics(name: &str, site: &Site) -> String {
    let address = site.node.config["server"]["metricsAddress"]
        .as_str()
        .unwrap();
    format!("--metrics {name}=http://{address}")
}

fn state(name: &str, site: &Site) -> String {
    format!("--state {name}={}", site.node.state_file().display())
}

fn compare(nodes: &[String]) -> String {
    format!("bao-kms-provider compare-nodes {}", nodes.join(" "))
}

/// Nodes of one cluster that serve.
async fn fleet<const N: usize>() -> [Site; N] {
    let first = Site::new().await;
    let mut sites: Vec<_> = (1..N).map(|_| first.peer()).collect();
    sites.insert(0, first);
    for site in &mut sites {
        site.serve().await;
        site.tolerate("compare-nodes", 5);
    }
    sites.try_into().unwrap_or_else(|_| panic!("{N} nodes"))
}

/// On the node that the steps name, where its configuration is at the usual place.
fn on(site: &mut Site) -> &mut Site {
    let config = site.write_config().display().to_string();
    site.choose("/etc/openbao-kms/config.yaml", config)
}

pub(super) async fn a_node_that_does_not_answer() {
    let [a, mut b] = fleet().await;
    let both = compare(&[metrics("a", &a), metrics("b", &b)]);
    b.stop().await;
    let steps = b.finds(&both, "node_no_answer").await;
    b.serve().await;
    b.carries_out(&steps).await;
    b.clears(&both, "node_no_answer").await;
    let same = compare(&[metrics("a", &a), metrics("b", &a)]);
    b.follows(&same, "same_node").await;
    b.clears(&both, "same_node").await;
}

pub(super) async fn a_node_of_other_names() {
    let [a, b, mut c] = fleet().await;
    let all = compare(&[metrics("a", &a), metrics("b", &b), metrics("c", &c)]);
    c.stop().await;
    let state = c.pair();
    c.lose_state();
    c.configure("/transit/keyIdScope/clusterId", "another-cluster");
    c.serve().await;
    on(&mut c).follows(&all, "other_identity_on_nodes").await;
    c.configure("/transit/keyIdScope/clusterId", "cluster-test");
    c.put_pair(&state);
    c.serve().await;
    c.clears(&all, "other_identity_on_nodes").await;
}

pub(super) async fn nodes_with_two_keys() {
    let [mut a, mut b, mut c] = fleet().await;
    for site in [&mut a, &mut b, &mut c] {
        site.stop().await;
    }
    let original = a.pair();
    recreate_key(&a).await;
    for site in [&mut b, &mut c] {
        site.lose_state();
        site.serve().await;
    }
    b.store("secrets/default/one").await;
    let snapshot = b.snapshot("etcd.db");
    let two = compare(&[state("a", &a), metrics("b", &b)]);
    let all = compare(&[state("a", &a), metrics("b", &b), metrics("c", &c)]);
    a.tolerate("compare-nodes", 5);
    a.choose(
        "--etcd-snapshot FILE",
        format!("--etcd-snapshot {snapshot}"),
    );
    on(&mut a).follows(&two, "other_key").await;
    a.follows(&all, "other_key").await;
    assert_ne!(original, b.pair());
    a.lose_state();
    a.serve().await;
    let all = compare(&[metrics("a", &a), metrics("b", &b), metrics("c", &c)]);
    a.clears(&all, "other_key").await;
}

pub(super) async fn a_node_without_a_usable_state() {
    let [mut a, mut b] = fleet().await;
    a.rotate(2).await;
    b.serving().encrypt_under(2).await;
    b.stop().await;
    let peer = b.file("peer.json");
    fs::copy(a.node.state_file(), &peer).unwrap();
    fs::copy(a.node.checkpoint(), b.file("peer.json.checkpoint")).unwrap();
    b.choose(
        "--peer-state FILE",
        format!("--peer-state {}", peer.display()),
    );
    a.store("secrets/default/one").await;
    let snapshot = a.snapshot("etcd.db");
    b.choose(
        "--etcd-snapshot FILE",
        format!("--etcd-snapshot {snapshot}"),
    );
    on(&mut b);
    let both = compare(&[metrics("a", &a), state("b", &b)]);
    let serving = compare(&[metrics("a", &a), metrics("b", &b)]);
    let whole = b.pair();
    b.lose_state();
    rebuilds(&mut b, &both, "no_state").await;
    b.clears(&serving, "no_state").await;
    b.stop().await;
    b.put_pair(&whole);
    fs::remove_file(b.node.checkpoint()).unwrap();
    rebuilds(&mut b, &both, "no_state").await;
    b.clears(&serving, "no_state").await;
    a.stop().await;
}

/// By printed commands alone.
async fn rebuilds(site: &mut Site, line: &str, code: &str) {
    site.follows(line, code).await;
    site.then("recover-state", "state_planned").await;
    site.then("--apply", "state_rebuilt").await;
    site.clears(line, code).await;
}

pub(super) async fn nodes_at_different_versions() {
    let [mut a, mut b] = fleet().await;
    let both = compare(&[metrics("a", &a), metrics("b", &b)]);
    on(&mut b);
    // It finds the next version, and waits longer than the test before it promotes it.
    b.stop().await;
    b.configure("/rotation/activationDelay", "1h");
    b.serve().await;
    let with_state = compare(&[metrics("a", &a), state("b", &b)]);
    a.rotate(2).await;
    wait_until(SOON, "the new version", async || {
        b.serving().events("key.pending").next().is_some()
    })
    .await;
    b.follows(&both, "promotion_pending_on_nodes").await;
    a.stop().await;
    a.configure("/rotation/activationDelay", "1h");
    a.serve().await;
    a.new_version().await;
    wait_until(SOON, "the new version", async || {
        a.serving().events("key.pending").next().is_some()
    })
    .await;
    a.follows(&both, "promotion_pending_on_nodes").await;
    for site in [&mut a, &mut b] {
        site.stop().await;
        site.configure("/rotation/activationDelay", "100ms");
        site.serve().await;
        site.serving().encrypt_under(3).await;
    }
    a.clears(&both, "promotion_pending_on_nodes").await;
    b.clears(&both, "promotion_pending_on_nodes").await;

    // Stopped, and set back to an older pair.
    let older = b.pair();
    a.rotate(4).await;
    b.serving().encrypt_under(4).await;
    b.stop().await;
    let newer = b.pair();
    b.put_pair(&older);
    b.follows(&with_state, "behind").await;
    b.put_pair(&newer);
    b.serve().await;
    b.clears(&both, "behind").await;
}

pub(super) async fn a_node_that_reads_less_or_does_not_serve() {
    let [mut a, mut b] = fleet().await;
    a.rotate(2).await;
    b.serving().encrypt_under(2).await;
    on(&mut b);
    b.choose("--versions N", "--versions 1");
    let both = compare(&[metrics("a", &a), metrics("b", &b)]);
    let retire = b.line("retire-versions --before-version 2");
    b.choose("--etcd-snapshot FILE", "");
    b.follows(&retire, "retirement_unchecked").await;
    b.then("--apply", "versions_changed").await;
    b.follows(&both, "missing_versions").await;
    b.then("restore-versions", "versions_planned").await;
    b.then("--apply", "versions_changed").await;
    b.clears(&both, "missing_versions").await;

    // It refuses to encrypt, as its peer would.
    a.stop().await;
    let mount = format!("{}/config/keys", b.mount());
    let upsert = |disabled: bool| json!({"disable_upsert": disabled});
    b.admin().await.write(&mount, &upsert(false)).await.unwrap();
    b.serving().wait_for_reasons(&["upsert_allowed"]).await;
    let both = compare(&[state("a", &a), metrics("b", &b)]);
    b.follows(&both, "not_ready").await;
    b.then("triage", "upsert_allowed").await;
    b.serving().wait_for_reasons(&[]).await;
    b.clears(&both, "not_ready").await;
}
