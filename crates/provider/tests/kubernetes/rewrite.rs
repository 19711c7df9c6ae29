//! `rewrite` with a real kube-apiserver: earlier providers and versions, objects that resist, races
//! with other writers, and runs that are killed.

mod long;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kms_node::advice::Cause;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{
    control_plane::{ControlPlane, Kind, WITHIN, identity, kubectl},
    etcd::tool,
    files,
    schema::assert_published,
    wait::wait_until,
};

use crate::{
    cluster::Cluster,
    node::{Finished, program},
    provider::Provider,
};

const SEEN: &str = "apiserver_envelope_encryption_key_id_hash_status_last_timestamp_seconds";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";

/// Options of an API server that serves `StorageVersionMigration`.
const MIGRATIONS: [&str; 2] = [
    "--runtime-config=storagemigration.k8s.io/v1beta1=true",
    "--feature-gates=StorageVersionMigrator=true",
];

/// Appears in the objects, and nowhere in what the program writes.
const MARKER: &str = "marker-of-the-content";

/// The operator of a cluster, in a directory of its own.
pub(crate) struct Operator<'c> {
    cluster: &'c Cluster,
    directory: TempDir,
}

impl<'c> Operator<'c> {
    fn of(cluster: &'c Cluster) -> Self {
        let this = Self {
            cluster,
            directory: TempDir::new().unwrap(),
        };
        let kubeconfig = cluster.control_plane.kubeconfig();
        files::replace(&this.kubeconfig(), kubeconfig.as_bytes(), 0o600);
        this
    }

    fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    /// Another user from now on.
    fn become_user(&self, user: &str) {
        let text = self.cluster.control_plane.kubeconfig();
        let mut kubeconfig: Value = serde_json::from_str(&text).unwrap();
        kubeconfig["users"][0]["user"]["as"] = user.into();
        files::replace(&self.kubeconfig(), kubeconfig.to_string().as_bytes(), 0o600);
    }

    fn progress(&self) -> PathBuf {
        self.directory.path().join("rewrite-progress.json")
    }

    fn snapshot(&self) -> PathBuf {
        self.directory.path().join("etcd.db")
    }

    fn command(&self, options: &[&str]) -> Command {
        let kubeconfig = self.kubeconfig();
        let kubeconfig = kubeconfig.to_str().unwrap();
        let fixed = ["rewrite", "--kubeconfig", kubeconfig, "-o", "json"];
        let mut command = self.cluster.node.program(&[&fixed, options].concat());
        command.current_dir(self.directory.path());
        command
    }

    fn run(&self, options: &[&str]) -> Finished {
        self.command(options).output().unwrap().into()
    }

    /// The result of this exit code.
    #[track_caller]
    fn rewritten(&self, code: i32, options: &[&str]) -> Value {
        let finished = self.run(options);
        assert_eq!(
            finished.code,
            Some(code),
            "{}{}",
            finished.out,
            finished.err
        );
        assert!(!finished.out.contains(MARKER) && !finished.err.contains(MARKER));
        let result = serde_json::from_str(&finished.out).unwrap();
        assert_published(&result);
        result
    }

    /// Runs every printed command, as printed; each must succeed.
    #[track_caller]
    fn follow(&self, result: &Value) {
        let bin = self.directory.path().join("bin");
        if !bin.exists() {
            fs::create_dir(&bin).unwrap();
            for (name, path) in [
                ("bao-kms-provider", program().get_program().into()),
                ("kubectl", kubectl()),
                ("etcdctl", tool("etcdctl")),
            ] {
                symlink(path.canonicalize().unwrap(), bin.join(name)).unwrap();
            }
        }
        let etcd = self.cluster.control_plane.etcd();
        let mut commands = 0;
        for step in result["nextSteps"].as_array().unwrap() {
            let Some(command) = step["command"].as_str() else {
                continue;
            };
            let saved = format!("save {}", self.snapshot().display());
            let command = command
                .replace("127.0.0.1:2379", etcd.endpoint())
                .replace("save FILE", &saved)
                .replace("--kubeconfig FILE", "--kubeconfig other-kubeconfig");
            let mut shell = Command::new("/bin/sh");
            let ran = shell
                .args(["-c", &command])
                .current_dir(self.directory.path())
                .env("PATH", format!("{}:/usr/bin:/bin", bin.display()))
                .env("KUBECONFIG", self.kubeconfig())
                .env("BAO_KMS_PROVIDER_CONFIG", self.cluster.node.write_config())
                .env("ETCDCTL_ENDPOINTS", etcd.endpoint())
                .env("ETCDCTL_CACERT", etcd.file("ca.crt"))
                .env("ETCDCTL_CERT", etcd.file("client.crt"))
                .env("ETCDCTL_KEY", etcd.file("client.key"))
                .output()
                .unwrap();
            assert!(ran.status.success(), "{command}: {ran:?}");
            commands += 1;
        }
        assert!(commands > 0, "{result:#}");
    }

    /// Runs a command of the node, which must find the cause, and then every command that it prints for
    /// it. Afterwards the cause is gone.
    #[track_caller]
    fn fixes(&self, command: &[&str], code: &str) {
        let found = || {
            let done = self.cluster.node.run(&[command, &["-o", "json"]].concat());
            let result = serde_json::from_str(&done.out);
            result.unwrap_or_else(|_| panic!("{}{}", done.out, done.err))
        };
        let before: Value = found();
        let cause = of_cause(&before, code);
        self.follow(cause.unwrap_or_else(|| panic!("no {code}: {before:#}")));
        let after = found();
        assert!(of_cause(&after, code).is_none(), "{after:#}");
    }

    fn spawn(&self, options: &[&str]) -> Child {
        let mut command = self.command(options);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    /// Options that let the result be proven by the running etcd.
    fn proof(&self) -> Vec<String> {
        self.cluster.control_plane.etcd().options()
    }

    /// All resources of the API server's file, proven by etcd.
    #[track_caller]
    fn prove(&self) -> Value {
        let file = self.cluster.control_plane.encryption_file();
        self.proven(&[
            "--encryption-config",
            file.to_str().unwrap(),
            "--rate",
            "1000",
        ])
    }

    #[track_caller]
    fn proven(&self, options: &[&str]) -> Value {
        let proof = self.proof();
        let mut options = options.to_vec();
        options.extend(proof.iter().map(String::as_str));
        let result = self.rewritten(0, &options);
        assert_eq!(result["verdict"], "proven", "{result:#}");
        assert!(!self.progress().exists());
        result
    }
}

/// The result, or the check in it, with this cause.
pub(crate) fn of_cause<'r>(result: &'r Value, code: &str) -> Option<&'r Value> {
    match result {
        Value::Array(items) => items.iter().find_map(|item| of_cause(item, code)),
        Value::Object(members) => {
            // A check has the effect of its cause on the data.
            let data = Cause::named(code).unwrap().data();
            let is_cause = result["cause"] == code || result["impact"] == data;
            match is_cause && result["nextSteps"].is_array() {
                true => Some(result),
                false => members.values().find_map(|member| of_cause(member, code)),
            }
        }
        _ => None,
    }
}

/// The row of a resource.
#[track_caller]
fn row<'r>(result: &'r Value, resource: &str) -> &'r Value {
    let mut rows = result["resources"].as_array().unwrap().iter();
    rows.find(|row| row["resource"] == resource).unwrap()
}

fn count(result: &Value, resource: &str, column: &str) -> u64 {
    row(result, resource)[column].as_u64().unwrap()
}

/// For each object of the kind in the namespace default: how often it was written, and its revision.
fn writes(cluster: &Cluster, kind: Kind) -> BTreeMap<String, (u64, u64)> {
    let prefix = kind.etcd_key("");
    let read = cluster
        .control_plane
        .etcd()
        .ctl(&["get", &prefix, "--prefix", "--write-out=json"]);
    let read: Value = serde_json::from_slice(&read).unwrap();
    let kvs = read["kvs"].as_array().unwrap().iter();
    kvs.map(|kv| {
        let key = STANDARD.decode(kv["key"].as_str().unwrap()).unwrap();
        let key = String::from_utf8(key).unwrap();
        let number = |name: &str| kv[name].as_u64().unwrap();
        (
            key.trim_start_matches(&prefix).to_owned(),
            (number("version"), number("mod_revision")),
        )
    })
    .collect()
}

async fn patches(cluster: &Cluster) -> f64 {
    let labels = ["verb=\"PATCH\"", "resource=\"secrets\""];
    let name = "apiserver_request_total";
    cluster.control_plane.metric(name, &labels).await
}

/// Waits until the API server has seen a second `key_id`.
async fn follows_rotation(control_plane: &ControlPlane) {
    wait_until(WITHIN, "the API server's new key", async || {
        control_plane.get("/readyz").await;
        let (_, metrics) = control_plane.get("/metrics").await.unwrap();
        let series = metrics.lines().filter(|line| line.starts_with(SEEN));
        series.count() > 1
    })
    .await;
}

/// A local key of the API server.
pub(crate) fn local(kind: &str) -> Value {
    let secret = STANDARD.encode([7; 32]);
    json!({kind: {"keys": [{"name": "key1", "secret": secret}]}})
}

#[tokio::test]
async fn objects_of_earlier_providers_and_versions_are_written_again() {
    let mut cluster = Cluster::new().await;
    let _provider = cluster.node.serve().await;
    cluster.control_plane.start(&[]).await;
    cluster.control_plane.define_custom_resource().await;
    cluster.write_each("of-identity", MARKER).await;
    let (aescbc, secretbox) = (local("aescbc"), local("secretbox"));
    cluster.restart_with(&[aescbc.clone(), identity()]).await;
    cluster.write_each("of-aescbc", MARKER).await;
    let readers = [secretbox.clone(), aescbc.clone(), identity()];
    cluster.restart_with(&readers).await;
    cluster.write_each("of-secretbox", MARKER).await;
    let all = [cluster.kms(), secretbox, aescbc, identity()];
    cluster.restart_with(&all).await;
    cluster.write_each("of-kms", MARKER).await;

    let operator = Operator::of(&cluster);
    let before = writes(&cluster, Kind::Secret);
    let planned = operator.rewritten(0, &["--resource", "secrets", "--dry-run"]);
    assert_eq!(planned["verdict"], "rewrite_planned");
    assert_eq!(count(&planned, "secrets", "objects"), 4);
    assert_eq!(writes(&cluster, Kind::Secret), before, "a dry run writes");

    let result = operator.prove();
    for resource in ["secrets", "widgets.test.example.org"] {
        assert_eq!(count(&result, resource, "objects"), 4, "{result:#}");
        assert_eq!(count(&result, resource, "rewritten"), 3, "{result:#}");
        assert_eq!(count(&result, resource, "current"), 1, "{result:#}");
    }
    let key_id = cluster.key_id_of(1).await;
    let names = ["of-identity", "of-aescbc", "of-secretbox", "of-kms"];
    for kind in Kind::ALL {
        for name in names {
            cluster.assert_stored_under(kind, name, &key_id);
        }
    }

    let etcd = cluster.control_plane.etcd();
    let former = cluster.control_plane.stored(Kind::Secret, "of-kms");
    cluster.node.rotate().await;
    let key_id = cluster.key_id_of(2).await;
    follows_rotation(&cluster.control_plane).await;
    etcd.save_snapshot(&operator.snapshot());
    let snapshot = operator.snapshot().display().to_string();
    let verify = ["verify-rotation", "--etcd-snapshot", &snapshot];
    operator.fixes(&verify, "objects_under_older_versions");
    let live = operator.proof();
    let live: Vec<&str> = live.iter().map(String::as_str).collect();
    etcd.put(&Kind::Secret.etcd_key("of-kms"), &former);
    let retire = ["retire-versions", "--before-version", "2"];
    operator.fixes(&[&retire[..], &live].concat(), "versions_needed");
    let plain = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {
        "name": "of-identity", "namespace": "default",
        "uid": "5d2b3b4e-7f0c-4d51-9d2a-3a7d2c5e8f10", "creationTimestamp": "2026-01-01T00:00:00Z",
    }, "data": {"text": STANDARD.encode(MARKER)}});
    etcd.put(
        &Kind::Secret.etcd_key("of-identity"),
        plain.to_string().as_bytes(),
    );
    operator.fixes(&[&["scan-etcd"][..], &live].concat(), "otherwise_protected");
    let result = operator.prove();
    assert_eq!(count(&result, "secrets", "current"), 4, "{result:#}");
    assert_ne!(
        planned["encryptionBefore"]["keyIdHashes"],
        result["encryptionBefore"]["keyIdHashes"]
    );
    for kind in Kind::ALL {
        for name in names {
            cluster.assert_stored_under(kind, name, &key_id);
        }
    }
    for name in names {
        cluster.assert_each(name, MARKER).await;
    }
    // Everything that the API server stores can be written again, also what it writes all the time.
    let every = ["--resource", "*.*", "--rate", "1000"];
    let planned = operator.rewritten(0, &[&every[..], &["--dry-run"]].concat());
    let left_out = planned["leftOut"].to_string();
    for name in ["events.events.k8s.io", "componentstatuses", "bindings"] {
        assert!(left_out.contains(&format!("\"{name}\"")), "{left_out}");
    }
    let result = operator.rewritten(0, &every);
    println!("{result:#}");
    assert_eq!(count(&result, "secrets", "current"), 4, "{result:#}");

    cluster.restart_with(&[cluster.kms()]).await;
    for name in names {
        cluster.assert_each(name, MARKER).await;
    }
}

#[tokio::test]
async fn a_restart_of_the_api_server_is_outlasted() {
    let (mut cluster, _provider) = with_plain_objects(150, &[]).await;
    let operator = Operator::of(&cluster);
    let child = operator.spawn(&["--resource", "secrets", "--rate", "30"]);
    wait_until(WITHIN, "a part of the work", async || {
        patches(&cluster).await >= 30.0
    })
    .await;
    let Operator { directory, .. } = operator;
    cluster.control_plane.kill();
    let operator = Operator {
        cluster: &cluster,
        directory,
    };
    let unreachable =
        operator.rewritten(5, &["--resource", "secrets", "--rate", "1000", "--dry-run"]);
    assert_eq!(unreachable["verdict"], "api_server_unreachable");
    let Operator { directory, .. } = operator;
    cluster.control_plane.start(&[]).await;
    let finished: Finished = child.wait_with_output().unwrap().into();
    let result = finished.json();
    assert_eq!(row(&result, "secrets")["state"], "finished", "{result:#}");
    let operator = Operator {
        cluster: &cluster,
        directory,
    };
    operator.follow(&unreachable);
    for (name, (times, _)) in writes(&cluster, Kind::Secret) {
        let expected = if name == "ending" { 4 } else { 2 };
        assert_eq!(times, expected, "{name}");
    }
}

#[tokio::test]
async fn objects_below_another_prefix_are_written_again_through_their_own_api_server() {
    let (cluster, _provider) = with_plain_objects(1, &[]).await;
    let mut other = cluster.control_plane.beside("other");
    other.encrypt_with(&[cluster.kms(), identity()]);
    other.start(&["--etcd-prefix=/other"]).await;
    let operator = Operator::of(&cluster);
    let kubeconfig = operator.directory.path().join("other-kubeconfig");
    files::replace(&kubeconfig, other.kubeconfig().as_bytes(), 0o600);
    for control_plane in [&cluster.control_plane, &other] {
        let written = control_plane.write(Kind::Secret, "of-kms", MARKER).await;
        written.unwrap();
    }

    cluster.node.rotate().await;
    cluster.key_id_of(2).await;
    follows_rotation(&cluster.control_plane).await;
    follows_rotation(&other).await;
    let snapshot = operator.snapshot().display().to_string();
    cluster
        .control_plane
        .etcd()
        .save_snapshot(&operator.snapshot());
    let verify = ["verify-rotation", "--etcd-snapshot", &snapshot];
    operator.fixes(&verify, "objects_under_older_versions");
}

#[tokio::test]
async fn a_list_that_expires_continues_with_each_object_written_once() {
    // Without its cache of lists, the API server reads the second page at the revision of the first.
    let gate = "--feature-gates=ListFromCacheSnapshot=false";
    let (cluster, _provider) = with_plain_objects(600, &[gate]).await;
    let operator = Operator::of(&cluster);
    let child = operator.spawn(&["--resource", "secrets", "--rate", "200"]);
    wait_until(WITHIN, "a part of the first page", async || {
        patches(&cluster).await >= 50.0
    })
    .await;
    let etcd = cluster.control_plane.etcd();
    let read: Value = serde_json::from_slice(&etcd.ctl(&["get", "/", "-w", "json"])).unwrap();
    let revision = read["header"]["revision"].to_string();
    assert!(!etcd.ctl(&["compact", &revision]).is_empty());
    let finished: Finished = child.wait_with_output().unwrap().into();
    let result = finished.json();
    assert_eq!(count(&result, "secrets", "rewritten"), 601, "{result:#}");
    let expired = ["code=\"410\"", "resource=\"secrets\"", "verb=\"LIST\""];
    let name = "apiserver_request_total";
    assert!(cluster.control_plane.metric(name, &expired).await > 0.0);
    for (name, (times, _)) in writes(&cluster, Kind::Secret) {
        let expected = if name == "ending" { 4 } else { 2 };
        assert_eq!(times, expected, "{name}");
    }
}

#[tokio::test]
async fn storage_version_migrations_are_followed_to_their_ends() {
    let (cluster, _provider) = with_plain_objects(1, &MIGRATIONS).await;
    let control_plane = &cluster.control_plane;
    let operator = Operator::of(&cluster);
    let path = "/apis/storagemigration.k8s.io/v1beta1/storageversionmigrations";
    let options = ["--resource", "secrets", "--storage-version-migration"];
    // Without kube-controller-manager, which takes minutes to build, the test sets its conditions.
    // `long` has it.
    for (condition, code, verdict) in [
        ("Succeeded", 0, "inconclusive"),
        ("Failed", 4, "objects_resisted"),
    ] {
        let child = operator.spawn(&options);
        let mut name = String::new();
        wait_until(WITHIN, "the migration", async || {
            let (_, list) = control_plane.send("GET", path, &json!({})).await;
            let mut items = list["items"].as_array().unwrap().iter();
            let new = items.find(|it| it["status"]["conditions"].is_null());
            name = new.map_or(String::new(), |it| {
                it["metadata"]["name"].as_str().unwrap().to_owned()
            });
            !name.is_empty()
        })
        .await;
        let status = json!({"status": {"resourceVersion": "1", "conditions": [{
            "type": condition, "status": "True", "reason": "Test", "message": "by the test",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]}});
        let path = format!("{path}/{name}/status");
        let (code_of_status, answer) = control_plane.send("PATCH", &path, &status).await;
        assert!(code_of_status.is_success(), "{answer:#}");
        let finished: Finished = child.wait_with_output().unwrap().into();
        assert_eq!(
            finished.code,
            Some(code),
            "{}{}",
            finished.out,
            finished.err
        );
        let result: Value = serde_json::from_str(&finished.out).unwrap();
        assert_published(&result);
        assert_eq!(result["verdict"], verdict, "{result:#}");
        assert_eq!(row(&result, "secrets")["migration"], name.as_str());
        if code == 4 {
            // `migration_failed`
            operator.follow(&result);
        }
    }
}

/// An API server that encrypts, and Secrets from before: `plain-0` and so on, and `ending`.
async fn with_plain_objects(count: usize, options: &[&str]) -> (Cluster, Provider) {
    let mut cluster = Cluster::new().await;
    let provider = cluster.node.serve().await;
    cluster.control_plane.start(&[]).await;
    cluster.control_plane.define_custom_resource().await;
    let control_plane = &cluster.control_plane;
    control_plane
        .create_many(Kind::Secret, "plain", count, MARKER)
        .await;
    // A finalizer keeps an object under deletion, and it is stored again all the same.
    control_plane
        .write(Kind::Secret, "ending", MARKER)
        .await
        .unwrap();
    let finalizers = json!({"metadata": {"finalizers": ["test.example.org/kept"]}});
    let ending = format!("{SECRETS}/ending");
    control_plane.send("PATCH", &ending, &finalizers).await;
    control_plane.send("DELETE", &ending, &json!({})).await;
    cluster
        .control_plane
        .encrypt_with(&[cluster.kms(), identity()]);
    cluster.control_plane.stop().await;
    cluster.control_plane.start(options).await;
    (cluster, provider)
}

async fn create(cluster: &Cluster, path: &str, object: Value) {
    let (status, answer) = cluster.control_plane.send("POST", path, &object).await;
    assert!(status.is_success(), "{answer:#}");
}

#[tokio::test]
async fn objects_that_resist_are_listed_with_their_causes_and_steps() {
    let (cluster, _provider) = with_plain_objects(3, &[]).await;
    let control_plane = &cluster.control_plane;
    let operator = Operator::of(&cluster);
    let admission = "/apis/admissionregistration.k8s.io/v1";

    // Objects that the present schema of their resource refuses. It tolerates unchanged values that
    // break a new rule, so the rule is one on the change.
    control_plane
        .write(Kind::Custom, "odd", MARKER)
        .await
        .unwrap();
    let definition =
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.test.example.org";
    let schema = json!({"type": "object", "properties": {"spec": {
        "type": "object", "properties": {"text": {"type": "string"}},
        "x-kubernetes-validations": [{"rule": "self.text != oldSelf.text"}],
    }}});
    let tightened = json!({"spec": {"versions": [{
        "name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
    }]}});
    let (status, _) = control_plane.send("PATCH", definition, &tightened).await;
    assert!(status.is_success());
    wait_until(WITHIN, "the tightened schema", async || {
        let odd = json!({"metadata": {"labels": {"x": "y"}}});
        let path = "/apis/test.example.org/v1/namespaces/default/widgets/odd?dryRun=All";
        let (status, _) = control_plane.send("PATCH", path, &odd).await;
        status.as_u16() == 422
    })
    .await;

    // A policy that freezes one object, and a webhook without a server for ConfigMaps.
    let name = json!({"name": "frozen"});
    let rule = |resource: &str| {
        json!({
            "apiGroups": [""], "apiVersions": ["v1"], "operations": ["UPDATE"],
            "resources": [resource],
        })
    };
    let policy = json!({"metadata": name, "spec": {
        "matchConstraints": {"resourceRules": [rule("secrets")]},
        "validations": [{"expression": "object.metadata.name != 'plain-1'", "message": MARKER}],
    }});
    create(
        &cluster,
        &format!("{admission}/validatingadmissionpolicies"),
        policy,
    )
    .await;
    let binding = json!({"metadata": name, "spec": {
        "policyName": "frozen", "validationActions": ["Deny"],
    }});
    let bindings = format!("{admission}/validatingadmissionpolicybindings");
    create(&cluster, &bindings, binding).await;
    let webhook = json!({"metadata": {"name": "away"}, "webhooks": [{
        "name": "away.test.example.org",
        "clientConfig": {"url": "https://127.0.0.1:9/"},
        "rules": [rule("configmaps")],
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "timeoutSeconds": 2,
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}},
    }]});
    let webhooks = format!("{admission}/validatingwebhookconfigurations");
    create(&cluster, &webhooks, webhook).await;
    control_plane
        .write(Kind::ConfigMap, "of-webhook", MARKER)
        .await
        .unwrap();
    wait_until(WITHIN, "the policy and the webhook", async || {
        let label = json!({"metadata": {"labels": {"x": "y"}}});
        let mut refused = true;
        for path in [
            format!("{SECRETS}/plain-1?dryRun=All"),
            "/api/v1/namespaces/default/configmaps/of-webhook?dryRun=All".to_owned(),
        ] {
            let (status, _) = control_plane.send("PATCH", &path, &label).await;
            refused &= !status.is_success();
        }
        refused
    })
    .await;

    let file = control_plane.encryption_file();
    let rules = [
        "--encryption-config",
        file.to_str().unwrap(),
        "--show-names",
    ];
    let result = operator.rewritten(4, &rules);
    assert_eq!(result["verdict"], "objects_resisted");
    let resisted: Vec<_> = result["resisted"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            let text = |name: &str| row[name].as_str().unwrap_or_default();
            let names: Vec<_> = row["names"].as_array().unwrap().iter().collect();
            let names: Vec<_> = names.iter().map(|it| it.as_str().unwrap()).collect();
            (
                text("resource"),
                text("cause"),
                text("deniedBy"),
                names.join(" "),
            )
        })
        .collect();
    println!("{result:#}");
    let expected = [
        (
            "configmaps",
            "webhook_failed",
            "away.test.example.org",
            "default/of-webhook".to_owned(),
        ),
        (
            "secrets",
            "policy_denied",
            "frozen",
            "default/plain-1".to_owned(),
        ),
        (
            "widgets.test.example.org",
            "object_invalid",
            "",
            "default/odd".to_owned(),
        ),
    ];
    assert_eq!(resisted, expected);
    let steps = result["nextSteps"].as_array().unwrap();
    let last = steps.last().unwrap()["command"].as_str().unwrap();
    assert!(last.starts_with("bao-kms-provider rewrite"), "{last}");
    assert_eq!(count(&result, "secrets", "rewritten"), 3, "{result:#}");

    // Corrected, the same command finishes, and the objects of the first run are skipped.
    for path in [format!("{bindings}/frozen"), format!("{webhooks}/away")] {
        control_plane.send("DELETE", &path, &json!({})).await;
    }
    let loose = json!({"spec": {"versions": [{
        "name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema":
            {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
    }]}});
    control_plane.send("PATCH", definition, &loose).await;
    wait_until(WITHIN, "the loosened rules", async || {
        let label = json!({"metadata": {"labels": {"x": "y"}}});
        let mut accepted = true;
        for path in [
            format!("{SECRETS}/plain-1?dryRun=All"),
            "/api/v1/namespaces/default/configmaps/of-webhook?dryRun=All".to_owned(),
            "/apis/test.example.org/v1/namespaces/default/widgets/odd?dryRun=All".to_owned(),
        ] {
            let (status, _) = control_plane.send("PATCH", &path, &label).await;
            accepted &= status.is_success();
        }
        accepted
    })
    .await;
    assert!(operator.progress().exists());
    let first = result;
    let result = operator.prove();
    assert_eq!(count(&result, "secrets", "rewritten"), 1, "{result:#}");
    assert_eq!(count(&result, "secrets", "earlier"), 3, "{result:#}");

    // `policy_denied`, `webhook_failed` and `object_invalid`: all is corrected by now.
    operator.follow(&first);
    for (code, verdict, options) in [
        (
            4,
            "migration_api_missing",
            &["--resource", "secrets", "--storage-version-migration"][..],
        ),
        (
            4,
            "nothing_selected",
            &["--resource", "nothing.example.org"],
        ),
        (
            5,
            "kubeconfig_unusable",
            &["--resource", "secrets", "--context", "none"],
        ),
    ] {
        let result = operator.rewritten(code, options);
        assert_eq!(result["verdict"], verdict, "{result:#}");
        operator.follow(&result);
    }

    // Rights: none at all, then to list alone.
    operator.become_user("nobody");
    operator
        .run(&["--resource", "secrets"])
        .assert_refused(4, &["HTTP 403", "kubectl auth can-i"]);
    let rights = "/apis/rbac.authorization.k8s.io/v1";
    let role = json!({"metadata": {"name": "lister"}, "rules": [
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["list"]},
        {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get"]},
    ]});
    create(&cluster, &format!("{rights}/clusterroles"), role).await;
    let binding = json!({"metadata": {"name": "lister"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "lister"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "lister"}],
    });
    create(&cluster, &format!("{rights}/clusterrolebindings"), binding).await;
    operator.become_user("lister");
    let result = operator.rewritten(4, &["--resource", "secrets", "--concurrency", "1"]);
    assert_eq!(result["resisted"][0]["cause"], "rewrite_forbidden");
    assert_eq!(row(&result, "secrets")["state"], "failed");
    // All of its objects are refused alike, so one is enough.
    assert_eq!(count(&result, "secrets", "resisted"), 1);
    let limited = result["limitations"].to_string();
    assert!(limited.contains("metrics of the API server could not be read"));
    let granted = json!({"rules": [
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["list", "patch"]},
        {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get"]},
    ]});
    let role = format!("{rights}/clusterroles/lister");
    control_plane.send("PATCH", &role, &granted).await;
    operator.follow(&result);
}

#[tokio::test]
async fn other_writers_and_kills_leave_each_object_written_once() {
    let (cluster, _provider) = with_plain_objects(300, &[]).await;
    let control_plane = &cluster.control_plane;
    let operator = Operator::of(&cluster);
    let options = ["--resource", "secrets", "--rate", "60"];

    for target in [60.0, 150.0] {
        let mut child = operator.spawn(&options);
        wait_until(WITHIN, "a part of the work", async || {
            patches(&cluster).await >= target
        })
        .await;
        child.kill().unwrap();
        child.wait().unwrap();
        let progress = fs::read_to_string(operator.progress()).unwrap();
        assert!(
            !progress.contains(MARKER) && !progress.contains("plain-"),
            "{progress}"
        );
    }
    // Others write, delete and recreate objects after the list of the last run.
    let child = operator.spawn(&options);
    let listed = control_plane
        .metric(
            "apiserver_request_total",
            &["verb=\"LIST\"", "resource=\"secrets\""],
        )
        .await;
    wait_until(WITHIN, "the list of the last run", async || {
        let labels = ["verb=\"LIST\"", "resource=\"secrets\""];
        let now = control_plane
            .metric("apiserver_request_total", &labels)
            .await;
        now >= listed + 2.0
    })
    .await;
    let text = json!({"metadata": {"labels": {"by": "another"}}});
    for name in ["plain-97", "plain-98"] {
        let path = format!("{SECRETS}/{name}");
        let (status, _) = control_plane.send("PATCH", &path, &text).await;
        assert!(status.is_success());
    }
    control_plane
        .send("DELETE", &format!("{SECRETS}/plain-99"), &json!({}))
        .await;
    let recreated = format!("{SECRETS}/plain-96");
    control_plane.send("DELETE", &recreated, &json!({})).await;
    control_plane
        .write(Kind::Secret, "plain-96", MARKER)
        .await
        .unwrap();
    let finished: Finished = child.wait_with_output().unwrap().into();
    assert_eq!(finished.code, Some(0), "{}{}", finished.out, finished.err);
    let result: Value = serde_json::from_str(&finished.out).unwrap();
    assert_published(&result);
    println!("{result:#}");
    assert_eq!(result["verdict"], "inconclusive");
    assert!(result["nextSteps"].to_string().contains("verify-rotation"));
    assert!(count(&result, "secrets", "gone") >= 1, "{result:#}");
    assert_eq!(row(&result, "secrets")["state"], "finished");
    assert!(!operator.progress().exists());

    let after = writes(&cluster, Kind::Secret);
    assert_eq!(after.len(), 300);
    for (name, (times, _)) in after {
        let expected = match name.as_str() {
            "plain-96" => 1..=1,
            // With its finalizer and its deletion.
            "ending" => 4..=4,
            // By the other writer alone, or also by us before it.
            "plain-97" | "plain-98" => 2..=3,
            _ => 2..=2,
        };
        assert!(
            expected.contains(&times),
            "{name} was written {times} times"
        );
    }
    let read = control_plane.read(Kind::Secret, "plain-5").await.unwrap();
    assert_eq!(read.as_deref(), Some(MARKER));

    // A progress file of another rewrite is refused, and a signal ends the work with the command to
    // continue it.
    let other = json!({
        "schema": "bao-kms-provider/rewrite-progress/v1", "cluster": "another", "resources": {},
    });
    for (text, verdict) in [
        ("{}".to_owned(), "progress_invalid"),
        (other.to_string(), "progress_of_other_rewrite"),
    ] {
        files::replace(&operator.progress(), text.as_bytes(), 0o600);
        let result = operator.rewritten(4, &["--resource", "secrets", "--rate", "1000"]);
        assert_eq!(result["verdict"], verdict, "{result:#}");
        operator.follow(&result);
    }
    let planned = operator.rewritten(0, &["--resource", "secrets", "--rate", "1000", "--dry-run"]);
    assert_eq!(planned["verdict"], "rewrite_planned");
    operator.follow(&planned);
    let before = patches(&cluster).await;
    let child = operator.spawn(&["--resource", "secrets", "--rate", "100"]);
    wait_until(WITHIN, "a part of the work", async || {
        patches(&cluster).await > before
    })
    .await;
    let pid = rustix::process::Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let finished: Finished = child.wait_with_output().unwrap().into();
    finished.assert_told(5, &["rewrite_interrupted", "terminated", "--rate 100"]);
    let result = serde_json::from_str(&finished.out).unwrap();
    assert_published(&result);
    operator.follow(&result);
    // `rewrite_unproven`
    let result = operator.rewritten(0, &["--resource", "secrets", "--rate", "1000"]);
    operator.follow(&result);
}
