//! As many objects as a large cluster has.

use std::time::{Duration, Instant};

use serde_json::json;
use testkit::{
    control_plane::{ControllerManager, Kind, WITHIN},
    wait::wait_until,
};

use super::{
    MARKER, MIGRATIONS, Operator, SECRETS, count, create, patches, row, with_plain_objects, writes,
};

const OBJECTS: usize = 20_000;
const RATE: f64 = 400.0;

#[tokio::test]
#[ignore = "minutes: 20,000 objects"]
async fn twenty_thousand_secrets_are_written_once_each_through_two_kills() {
    let (cluster, _provider) = with_plain_objects(OBJECTS, &[]).await;
    let operator = Operator::of(&cluster);
    let options = [
        "--resource",
        "secrets",
        "--rate",
        "400",
        "--concurrency",
        "8",
    ];
    let begun = Instant::now();
    for target in [5_000.0, 12_000.0] {
        let (started, before) = (Instant::now(), patches(&cluster).await);
        let mut child = operator.spawn(&options);
        let within = Duration::from_secs(300);
        wait_until(within, "a part of the work", async || {
            let now = patches(&cluster).await;
            let rate = (now - before) / started.elapsed().as_secs_f64();
            assert!(rate <= RATE, "{rate} writes a second");
            now >= target
        })
        .await;
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let result = operator.proven(&options);
    let (rewritten, earlier) = (
        count(&result, "secrets", "rewritten"),
        count(&result, "secrets", "earlier"),
    );
    println!(
        "{OBJECTS} objects in {:?}: {rewritten} by the last run, {earlier} before",
        begun.elapsed()
    );
    assert_eq!(rewritten + earlier, OBJECTS as u64 + 1);
    let after = writes(&cluster, Kind::Secret);
    assert_eq!(after.len(), OBJECTS + 1);
    for (name, (times, _)) in after {
        let expected = if name == "ending" { 4 } else { 2 };
        assert_eq!(times, expected, "{name}");
    }
    for name in ["plain-0", "plain-9999", "plain-19999"] {
        let read = cluster.control_plane.read(Kind::Secret, name).await;
        assert_eq!(read.unwrap().as_deref(), Some(MARKER));
    }
}

#[tokio::test]
#[ignore = "kube-controller-manager takes minutes to build"]
async fn kube_controller_manager_carries_out_the_migrations() {
    let (cluster, _provider) = with_plain_objects(1_000, &MIGRATIONS).await;
    let control_plane = &cluster.control_plane;
    let _manager = ControllerManager::spawn(control_plane);
    let operator = Operator::of(&cluster);
    let options = ["--resource", "secrets", "--storage-version-migration"];
    let begun = Instant::now();
    let result = operator.proven(&options);
    println!("1,001 objects in {:?}", begun.elapsed());
    assert_eq!(row(&result, "secrets")["state"], "finished", "{result:#}");
    for (name, (times, _)) in writes(&cluster, Kind::Secret) {
        let expected = if name == "ending" { 4 } else { 2 };
        assert_eq!(times, expected, "{name}");
    }

    // An object that a policy refuses ends the migration with `Failed`.
    let admission = "/apis/admissionregistration.k8s.io/v1";
    let policies = format!("{admission}/validatingadmissionpolicies");
    create(&cluster, &policies, json!({"metadata": {"name": "no-updates"}, "spec": {
        "matchConstraints": {"resourceRules": [{
            "apiGroups": [""], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["secrets"],
        }]},
        "validations": [{"expression": "object.metadata.name != 'plain-7'"}],
    }}))
    .await;
    let bindings = format!("{admission}/validatingadmissionpolicybindings");
    create(
        &cluster,
        &bindings,
        json!({"metadata": {"name": "no-updates"}, "spec": {
            "policyName": "no-updates", "validationActions": ["Deny"],
        }}),
    )
    .await;
    let label = json!({"metadata": {"labels": {"x": "y"}}});
    let refused = format!("{SECRETS}/plain-7?dryRun=All");
    wait_until(WITHIN, "the policy", async || {
        let (status, _) = control_plane.send("PATCH", &refused, &label).await;
        !status.is_success()
    })
    .await;
    let result = operator.rewritten(4, &options);
    assert_eq!(result["verdict"], "objects_resisted", "{result:#}");
    assert_eq!(
        result["resisted"][0]["cause"], "migration_failed",
        "{result:#}"
    );
    // The printed step, without `--storage-version-migration`, names the cause.
    let named = operator.rewritten(4, &options[..2]);
    assert_eq!(count(&named, "secrets", "resisted"), 1, "{named:#}");
    let [refused] = &named["resisted"].as_array().unwrap()[..] else {
        panic!("{named:#}");
    };
    assert_eq!(refused["cause"], "policy_denied", "{named:#}");
    assert_eq!(refused["deniedBy"], "no-updates", "{named:#}");
}
