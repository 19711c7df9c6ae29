//! Statements on a rebuild of the state.

use serde_json::json;

use super::fleet::Fleet;
use crate::attest::{Signing, sha256};

#[tokio::test]
async fn a_rebuild_is_attested_with_its_evidence_and_the_new_state() {
    let fleet = Fleet::new(1, 2).await;
    let snapshot = fleet.snapshot("etcd.db");
    let evidence = [snapshot.to_vec(), fleet.record("record.json").to_vec()].concat();
    let plan = {
        fleet.lose_state();
        fleet.plan(&evidence)
    };
    let signing = Signing::p256();
    let hash = plan["planHash"].as_str().unwrap();
    let options = signing.options("statement");
    let mut apply: Vec<&str> = evidence.iter().map(String::as_str).collect();
    apply.extend(["--apply", "--expected-plan-hash", hash]);
    apply.extend(options.iter().map(String::as_str));
    let applied = fleet.recover(&apply);
    assert_eq!(applied.code, Some(0), "{applied:?}");
    let statement = signing.statement("statement");
    let subject =
        |name: &str, path: &str| json!({"name": name, "digest": {"sha256": sha256(path)}});
    let state = fleet.lost.state_file();
    assert_eq!(
        statement["subject"],
        json!([
            subject("backup-record", &evidence[3]),
            subject("etcd-snapshot", &evidence[1]),
            subject("registry-state", state.to_str().unwrap()),
        ])
    );
    assert_eq!(statement["predicate"]["verdict"], "applied");

    // A running etcd alone has no digest, and a plan leaves no file: known before the work.
    fleet.lose_state();
    let (live, options) = (fleet.live(), signing.options("live"));
    let live: Vec<&str> = live.iter().chain(&options).map(String::as_str).collect();
    let refused = fleet.recover(&live);
    refused.assert_refused(1, &["no file was read", "a running etcd"]);
    assert_eq!(refused.out, "", "no work was done");
}
