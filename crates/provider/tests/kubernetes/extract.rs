//! `extract` with a real kube-apiserver: deleted objects come back through `kubectl apply`, and each
//! stored type reads like the API server shows it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{
    control_plane::{Kind, kubectl},
    files,
    memory::Held,
    schema::assert_published,
};

use crate::{
    cluster::Cluster,
    node::{Finished, program},
};

/// In the data of every object.
const MARKER: &str = "marker-of-the-extraction";

/// An operator with a kubeconfig and the snapshot of a night.
struct Operator<'c> {
    cluster: &'c Cluster,
    directory: TempDir,
}

impl<'c> Operator<'c> {
    fn of(cluster: &'c Cluster) -> Self {
        let directory = TempDir::new().unwrap();
        let kubeconfig = cluster.control_plane.kubeconfig();
        files::replace(
            &directory.path().join("kubeconfig"),
            kubeconfig.as_bytes(),
            0o600,
        );
        let snapshot = directory.path().join("etcd.db");
        cluster.control_plane.etcd().save_snapshot(&snapshot);
        Self { cluster, directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The report of an extraction, which shows no data.
    fn extract(&self, options: &[&str]) -> (Option<i32>, Value) {
        let snapshot = self.path("etcd.db");
        let of = [
            "extract",
            "-o",
            "json",
            "--etcd-snapshot",
            snapshot.to_str().unwrap(),
        ];
        let done = self.cluster.node.run(&[&of[..], options].concat());
        assert!(!done.out.contains(MARKER) && !done.err.contains(MARKER));
        let report = serde_json::from_str(&done.out);
        let report: Value = report.unwrap_or_else(|_| panic!("{}{}", done.out, done.err));
        assert_published(&report);
        (done.code, report)
    }

    fn extract_into(&self, name: &str, options: &[&str]) -> (PathBuf, Value) {
        let target = self.path(name);
        let into = ["--output-dir", target.to_str().unwrap()];
        let (code, report) = self.extract(&[&into[..], options].concat());
        assert_eq!(code, Some(0), "{report:#}");
        (target, report)
    }

    /// `--diff` with the live cluster: its verdict, and that of each object.
    fn assert_live(&self, selected: &[&str], verdict: &str, live: &str) -> Value {
        let kubeconfig = self.path("kubeconfig");
        let diff = ["--diff", kubeconfig.to_str().unwrap()];
        let (code, report) = self.extract(&[&diff[..], selected].concat());
        assert_eq!(report["verdict"], verdict, "{report:#}");
        assert_eq!(code, Some(if verdict == "same" { 0 } else { 4 }));
        let objects = report["objects"].as_array().unwrap().iter();
        let other: Vec<_> = objects.filter(|row| row["live"] != live).collect();
        assert!(other.is_empty(), "{other:#?}");
        report
    }

    /// `--diff` without an answer about the live objects.
    fn assert_uncompared(&self, code: i32, cause: &str) -> Value {
        let kubeconfig = self.path("kubeconfig");
        let diff = [
            "--resource",
            "secrets",
            "--diff",
            kubeconfig.to_str().unwrap(),
        ];
        let (found, report) = self.extract(&diff);
        assert_eq!(report["cause"], cause, "{report:#}");
        assert_eq!(found, Some(code));
        report
    }

    /// Begins with that of the administrator.
    fn change_kubeconfig(&self, change: impl FnOnce(&mut Value)) {
        let text = self.cluster.control_plane.kubeconfig();
        let mut kubeconfig: Value = serde_json::from_str(&text).unwrap();
        change(&mut kubeconfig);
        files::replace(
            &self.path("kubeconfig"),
            kubeconfig.to_string().as_bytes(),
            0o600,
        );
    }

    /// Runs the printed command, and returns the directory that it has written.
    fn follow(&self, report: &Value) -> PathBuf {
        let printed = report["nextSteps"][0]["command"].as_str().unwrap();
        let words = shlex::split(printed).unwrap();
        let done: Finished = program()
            .args(words.iter().skip(1))
            .current_dir(self.directory.path())
            .output()
            .unwrap()
            .into();
        assert_eq!(done.code, Some(0), "{printed}: {}{}", done.out, done.err);
        self.path("recovered")
    }

    fn kubectl(&self, arguments: &[&str]) -> String {
        let done: Finished = Command::new(kubectl())
            .args(arguments)
            .env("KUBECONFIG", self.path("kubeconfig"))
            .env("HOME", self.directory.path())
            .output()
            .unwrap()
            .into();
        assert_eq!(
            done.code,
            Some(0),
            "{arguments:?}: {}{}",
            done.out,
            done.err
        );
        done.out
    }

    /// The live objects of the manifests in a directory, as the API server shows them.
    fn live(&self, directory: &Path) -> BTreeMap<String, Value> {
        let directory = directory.to_str().unwrap();
        let list = self.kubectl(&["get", "-f", directory, "-o", "json"]);
        let list: Value = serde_json::from_str(&list).unwrap();
        let items = list["items"].as_array().unwrap().iter();
        items.map(|item| (identity(item), cleaned(item))).collect()
    }
}

fn manifests(directory: &Path) -> BTreeMap<String, Value> {
    let entries = fs::read_dir(directory)
        .unwrap()
        .map(|it| it.unwrap().path());
    let manifests = entries.filter(|path| path.extension().is_some_and(|it| it == "yaml"));
    manifests
        .map(|path| {
            let text = fs::read_to_string(path).unwrap();
            let manifest: Value = serde_saphyr::from_str(&text).unwrap();
            (identity(&manifest), cleaned(&manifest))
        })
        .collect()
}

fn identity(object: &Value) -> String {
    let metadata = &object["metadata"];
    let (namespace, name) = (&metadata["namespace"], &metadata["name"]);
    format!(
        "{} {} {namespace} {name}",
        object["apiVersion"], object["kind"]
    )
}

/// The object without the members that the API server sets.
fn cleaned(object: &Value) -> Value {
    let mut object = object.clone();
    object.as_object_mut().unwrap().remove("status");
    let metadata = object["metadata"].as_object_mut().unwrap();
    for name in [
        "creationTimestamp",
        "generation",
        "managedFields",
        "ownerReferences",
        "resourceVersion",
        "uid",
    ] {
        metadata.remove(name);
    }
    if let Some(annotations) = metadata.get_mut("annotations") {
        let annotations = annotations.as_object_mut().unwrap();
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        if annotations.is_empty() {
            metadata.remove("annotations");
        }
    }
    if object["kind"] == "Job" {
        object["spec"].as_object_mut().unwrap().remove("selector");
        let labels = object
            .pointer_mut("/spec/template/metadata/labels")
            .unwrap();
        let labels = labels.as_object_mut().unwrap();
        labels.retain(|name, _| !name.ends_with("controller-uid") && !name.ends_with("job-name"));
    }
    if let Some(claim) = object.pointer_mut("/spec/claimRef") {
        let claim = claim.as_object_mut().unwrap();
        claim.retain(|name, _| !["resourceVersion", "uid"].contains(&name.as_str()));
        let annotations = object["metadata"]["annotations"].as_object_mut().unwrap();
        annotations.remove("pv.kubernetes.io/bound-by-controller");
    }
    // kube-apiserver adds these when it reads a StatefulSet.
    let claims = object.pointer_mut("/spec/volumeClaimTemplates");
    for claim in claims.into_iter().filter_map(Value::as_array_mut).flatten() {
        let claim = claim.as_object_mut().unwrap();
        claim.retain(|name, _| !["apiVersion", "kind", "status"].contains(&name.as_str()));
    }
    without_null(&mut object);
    object
}

fn without_null(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(without_null);
        }
        Value::Array(items) => items.iter_mut().for_each(without_null),
        _ => {}
    }
}

#[tokio::test]
async fn deleted_objects_come_back_through_kubectl_apply() {
    let (cluster, _provider) = Cluster::encrypting().await;
    let control_plane = &cluster.control_plane;
    for (kind, count) in [
        (Kind::Secret, 1000),
        (Kind::ConfigMap, 50),
        (Kind::Custom, 20),
    ] {
        control_plane.create_many(kind, "kept", count, MARKER).await;
    }
    let labelled = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "example.org/own", "immutable": true,
        "metadata": {"name": "kept-own", "labels": {"on": "yes"}, "annotations": {"a/b": "1e3"}},
        "data": {"binary": "AP/+", "empty": "", "text": "bWFya2VyLW9mLXRoZS1leHRyYWN0aW9u"},
    });
    let (status, _) = control_plane
        .send("POST", "/api/v1/namespaces/default/secrets", &labelled)
        .await;
    assert!(status.is_success());
    let operator = Operator::of(&cluster);

    // What will be deleted: 22 Secrets, 6 ConfigMaps, 2 custom resources.
    let names = ["kept-own", "kept-7", "kept-1?", "kept-99?"];
    let mut selected = vec!["--namespace", "default"];
    for name in names {
        selected.extend(["--name", name]);
    }
    let secrets = [&["--resource", "secrets"], &selected[..]].concat();
    let (first, report) = operator.extract_into("secrets", &secrets);
    assert_eq!(
        report["objects"].as_array().unwrap().len(),
        22,
        "{report:#}"
    );
    let others = [
        "--resource",
        "configmaps",
        "--resource",
        "widgets",
        "--name",
        "kept-4",
        "--name",
        "kept-?5",
        "--name",
        "kept-49",
    ];
    let (second, report) = operator.extract_into("others", &others);
    assert_eq!(report["objects"].as_array().unwrap().len(), 8, "{report:#}");

    for (directory, selected) in [(first, &secrets[..]), (second, &others[..])] {
        let before = operator.live(&directory);
        assert_eq!(manifests(&directory), before);
        let path = directory.to_str().unwrap();
        let _same = operator.assert_live(selected, "same", "same");
        operator.kubectl(&["delete", "-f", path]);
        let report = operator.assert_live(selected, "different", "missing");
        assert_eq!(report["cause"], "live_objects_different");
        let recovered = operator.follow(&report);
        assert_eq!(manifests(&recovered), before);
        fs::remove_dir_all(recovered).unwrap();
        operator.kubectl(&["apply", "-f", path]);
        assert_eq!(operator.live(&directory), before);
        let _same = operator.assert_live(selected, "same", "same");
    }

    // A value, a label and an added member count; the report has none of them.
    let worse = format!("{MARKER}-changed");
    let changed = [
        ("kept-7", json!({"stringData": {"added": worse}})),
        ("kept-10", json!({"metadata": {"labels": {"added": worse}}})),
    ];
    for (name, patch) in changed {
        let patch = patch.to_string();
        operator.kubectl(&["patch", "secret", name, "--type=merge", "-p", &patch]);
    }
    let both = [
        "--resource",
        "secrets",
        "--name",
        "kept-7",
        "--name",
        "kept-10",
    ];
    let _report = operator.assert_live(&both, "different", "different");
    let (directory, report) = operator.extract_into("again", &both);
    let printed = report["nextSteps"][1]["command"].as_str().unwrap();
    assert_eq!(
        printed,
        format!("kubectl replace -f {}", directory.display())
    );
    operator.kubectl(&["replace", "-f", directory.to_str().unwrap()]);
    let _same = operator.assert_live(&both, "same", "same");

    // A server without this path, and a user without the right, prove nothing about the objects.
    operator.change_kubeconfig(|it| {
        let cluster = &mut it["clusters"][0]["cluster"];
        cluster["server"] = format!("{}/elsewhere", cluster["server"].as_str().unwrap()).into();
    });
    let _report = operator.assert_live(&both, "different", "unknown");
    operator.change_kubeconfig(|it| it["users"][0]["user"]["as"] = "nobody".into());
    operator.assert_uncompared(4, "live_object_forbidden");
    let token = "marker-of-a-token";
    operator.change_kubeconfig(|it| {
        it["users"][0]["user"] = json!({"exec": {
            "apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never",
            "command": "sh", "args": ["-c", format!("echo {token}; exit 1")],
        }});
    });
    let report = operator.assert_uncompared(5, "live_kubeconfig_unusable");
    assert!(!report.to_string().contains(token), "{report:#}");
}

/// An object whose content is that of another key is plaintext or under a cipher without the key.
#[tokio::test]
async fn a_replaced_object_without_authentication_is_refused() {
    let cluster = Cluster::new().await;
    let etcd = cluster.control_plane.etcd();
    let object = |kind: &str, name: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "default"}});
    for (name, content) in [
        ("own", object("ConfigMap", "own")),
        ("moved", object("ConfigMap", "own")),
        ("other", object("Secret", "other")),
    ] {
        let key = format!("/registry/configmaps/default/{name}");
        etcd.put(&key, content.to_string().as_bytes());
    }
    let operator = Operator::of(&cluster);
    let (code, report) =
        operator.extract(&["--resource", "configmaps", "--output-dir", "/nowhere"]);
    assert_eq!(code, Some(4), "{report:#}");
    assert_eq!(report["cause"], "object_not_authentic");
    let refused = report["refused"].as_array().unwrap().iter();
    let refused: Vec<_> = refused.map(|row| row["found"].as_str().unwrap()).collect();
    assert_eq!(
        refused,
        [
            "its content is ConfigMap default/own of core",
            "its content is Secret default/other of core"
        ]
    );
}

mod long {
    use std::time::Duration;

    use testkit::{control_plane::ControllerManager, wait::wait_until};

    use super::*;

    const VOLUMES: &str = "/api/v1/persistentvolumes";
    const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";

    /// With the `uid` of the old claim, the controller deletes the volume and its data.
    #[tokio::test]
    #[ignore = "kube-controller-manager takes minutes to build"]
    async fn a_recovered_volume_keeps_its_data() {
        let (cluster, _provider) = Cluster::encrypting().await;
        let control_plane = &cluster.control_plane;
        // The controller deletes directories below /tmp alone.
        let data = TempDir::new_in("/tmp").unwrap();
        files::replace(&data.path().join("db"), b"data", 0o600);
        let size = json!({"storage": "1Gi"});
        let send = async |method: &str, path: &str, object: &Value| {
            let (status, answer) = control_plane.send(method, path, object).await;
            assert!(status.is_success(), "{method} {path}: {answer}");
        };
        let volume = json!({"metadata": {"name": "volume"}, "spec": {
            "capacity": size, "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Delete", "storageClassName": "",
            "hostPath": {"path": data.path()},
        }});
        send("POST", VOLUMES, &volume).await;
        let claim = json!({"metadata": {"name": "data"}, "spec": {
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": size}, "storageClassName": "",
        }});
        send("POST", CLAIMS, &claim).await;
        let bound = async |path: &str| {
            let (_, object) = control_plane.send("GET", path, &Value::Null).await;
            object["status"]["phase"] == "Bound"
        };
        let all = [format!("{VOLUMES}/volume"), format!("{CLAIMS}/data")];
        let both_bound = async || bound(&all[0]).await && bound(&all[1]).await;
        let manager = ControllerManager::spawn(control_plane);
        wait_until(Duration::from_secs(60), "the binding", both_bound).await;
        drop(manager);

        let operator = Operator::of(&cluster);
        let selected = [
            "--resource",
            "persistentvolumes",
            "--resource",
            "persistentvolumeclaims",
        ];
        let (directory, _report) = operator.extract_into("volumes", &selected);
        for path in &all {
            send("PATCH", path, &json!({"metadata": {"finalizers": null}})).await;
            send("DELETE", path, &json!({})).await;
        }
        operator.kubectl(&["create", "-f", directory.to_str().unwrap()]);
        let _manager = ControllerManager::spawn(control_plane);
        wait_until(Duration::from_secs(60), "the binding", both_bound).await;
        assert_eq!(fs::read(data.path().join("db")).unwrap(), b"data");
    }
}

/// Texts that a YAML parser could read otherwise.
fn odd_texts() -> Vec<String> {
    let letters = (0..0x300_u32)
        .chain(0x2020..0x2030)
        .chain(0xfef0..0x1_0010)
        .chain([0x1_f600, 0x10_ffff]);
    let with_letters = letters.filter_map(char::from_u32).flat_map(|it| {
        [
            it.to_string(),
            format!("a{it}b"),
            format!("{it}a\n{it}b{it}\n"),
            format!("a{it}: {it}b\nc"),
        ]
    });
    let words = [
        "",
        "  ",
        "-",
        "---",
        "- a",
        "a: b",
        "a #b",
        "~",
        "Null",
        "y",
        "NO",
        "On",
        "0x1f",
        "0o7",
        "012",
        "1_0",
        "1:30",
        ".5",
        "1e3",
        "=",
        "<<",
        "!a",
        "&a",
        "*a",
        "%a",
        "@a",
        "`a",
        "2001-01-01",
        "NaN",
        ".inf",
        "a\n",
        "\n",
        "a\n\n",
        "a\n  b\n",
        "a\n   ",
        "---\n- a\n...\n",
        "|\na",
        "\ta\n\tb",
        "a\n\tb\n  c",
    ];
    let words = words.iter().map(|&word| word.to_owned());
    words.chain(with_letters).collect()
}

#[tokio::test]
async fn every_text_and_number_comes_back_through_kubectl() {
    let (cluster, _provider) = Cluster::encrypting().await;
    let control_plane = &cluster.control_plane;
    let texts = odd_texts();
    let data = texts.iter().enumerate();
    let data: BTreeMap<_, _> = data.map(|(index, it)| (format!("k{index}"), it)).collect();
    let config = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "odd"}, "data": data,
    });
    let keys: BTreeMap<_, _> = texts.iter().map(|it| (it, [it])).collect();
    let numbers = [
        json!(0),
        json!(-1),
        json!(i64::MAX),
        json!(i64::MIN),
        json!(0.1),
        json!(1.5e300),
        json!(5e-324),
        json!(1e21),
        json!(123_456_789.125),
    ];
    let custom = json!({
        "apiVersion": "test.example.org/v1", "kind": "Widget", "metadata": {"name": "odd"},
        "spec": {"texts": keys, "numbers": numbers, "nested": [[], {}, [[null, true]]]},
    });
    for (path, object) in [
        ("/api/v1/namespaces/default/configmaps", config),
        (
            "/apis/test.example.org/v1/namespaces/default/widgets",
            custom,
        ),
    ] {
        let (status, answer) = control_plane.send("POST", path, &object).await;
        assert!(status.is_success(), "{answer}");
    }
    let operator = Operator::of(&cluster);
    let selected = [
        "--resource",
        "configmaps",
        "--resource",
        "widgets",
        "--name",
        "odd",
    ];
    let (directory, _report) = operator.extract_into("odd", &selected);
    let before = operator.live(&directory);
    assert_eq!(before.len(), 2);
    let path = directory.to_str().unwrap();
    operator.kubectl(&["delete", "-f", path]);
    operator.kubectl(&["create", "-f", path]);
    let after = operator.live(&directory);
    for (name, object) in &before {
        assert_same(object, &after[name]);
    }
    let _same = operator.assert_live(&selected, "same", "same");
}

/// Names the first value that differs.
fn assert_same(one: &Value, two: &Value) {
    match (one, two) {
        (Value::Object(a), Value::Object(b)) => {
            assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
            a.iter()
                .for_each(|(name, value)| assert_same(value, &b[name]));
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).for_each(|(one, two)| assert_same(one, two));
        }
        _ => assert_eq!(one, two),
    }
}

/// One object of many types, with each special form of a value.
const TYPES: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: pod, namespace: default, labels: {app: x}}
spec:
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: example.org/image
    command: ["sh", "-c", "echo \"a\\b\"\n"]
    ports: [{containerPort: 80, hostPort: 0}]
    env:
    - {name: A, value: ""}
    - {name: B, valueFrom: {secretKeyRef: {name: s, key: k, optional: false}}}
    - {name: C, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: "0"}}}
    envFrom: [{configMapRef: {name: c}}]
    resources: {limits: {cpu: 100m, memory: 1Gi}, requests: {cpu: "0.1"}}
    livenessProbe: {httpGet: {path: /, port: http}}
    readinessProbe: {tcpSocket: {port: 80}, initialDelaySeconds: 0}
    lifecycle: {preStop: {exec: {command: ["true"]}}}
    securityContext: {runAsUser: 0, privileged: false}
    volumeMounts: [{name: e, mountPath: /e}]
  volumes:
  - {name: e, emptyDir: {sizeLimit: 1Mi}}
  - {name: p, projected: {sources: [{secret: {name: s}}, {downwardAPI: {items: [{path: l, fieldRef: {fieldPath: metadata.labels}}]}}]}}
  - {name: h, hostPath: {path: /h, type: ""}}
  - {name: c, configMap: {name: c, defaultMode: 0, optional: true}}
  tolerations: [{key: a, operator: Exists, effect: NoExecute, tolerationSeconds: 0}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: deployment, namespace: default}
spec:
  replicas: 0
  selector: {matchLabels: {app: x}}
  strategy: {rollingUpdate: {maxSurge: 25%, maxUnavailable: 0}}
  template:
    metadata: {labels: {app: x}}
    spec: {containers: [{name: main, image: i}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: stateful, namespace: default}
spec:
  serviceName: s
  selector: {matchLabels: {app: x}}
  template:
    metadata: {labels: {app: x}}
    spec: {containers: [{name: main, image: i}]}
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: cron, namespace: default}
spec:
  schedule: "0 0 * * *"
  suspend: false
  jobTemplate:
    spec: {template: {spec: {restartPolicy: Never, containers: [{name: main, image: i}]}}}
---
apiVersion: v1
kind: Service
metadata: {name: service, namespace: default}
spec: {ports: [{name: http, port: 80, targetPort: web}, {name: other, port: 81, targetPort: 8080}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: odd, namespace: default}
data: {"a.b": "x: y\n- z\t\u0001é\u2028😀", "null": "null", "empty": ""}
binaryData: {bytes: AP8=}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: volume}
spec:
  capacity: {storage: 5Gi}
  accessModes: [ReadWriteOnce]
  nfs: {server: 192.0.2.1, path: /}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: policy, namespace: default}
spec: {podSelector: {}, ingress: [{}], egress: [{ports: [{port: 80}, {port: web}]}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: ingress, namespace: default}
spec:
  rules:
  - http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: s, port: {number: 80}}}}]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: "system:odd:role", namespace: default}
rules: [{apiGroups: [""], resources: ["*"], verbs: [get]}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: budget, namespace: default}
spec: {minAvailable: 50%, selector: {}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: scaler, namespace: default}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: deployment}
  maxReplicas: 3
  metrics: [{type: Resource, resource: {name: cpu, target: {type: AverageValue, averageValue: 500m}}}]
---
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata: {name: lease, namespace: default}
spec: {holderIdentity: "", leaseDurationSeconds: 5, renewTime: "2026-01-02T03:04:05.000006Z"}
---
apiVersion: resource.k8s.io/v1
kind: DeviceClass
metadata: {name: devices}
spec:
  selectors: [{cel: {expression: "device.driver == 'd.example.org'"}}]
  config: [{opaque: {driver: d.example.org, parameters: {a: [1, null, "x"]}}}]
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata: {name: claim, namespace: default}
spec:
  devices:
    requests:
    - {name: one, exactly: {deviceClassName: devices, allocationMode: ExactCount, count: 2}}
    - {name: two, firstAvailable: [{name: a, deviceClassName: devices}]}
    constraints: [{requests: [one], matchAttribute: d.example.org/zone}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: job, namespace: default}
spec: {suspend: true, template: {metadata: {labels: {app: x}}, spec: {restartPolicy: Never, containers: [{name: main, image: i}]}}}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: bound, annotations: {pv.kubernetes.io/bound-by-controller: "yes", kept: "1"}}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Delete
  hostPath: {path: /nowhere}
  claimRef: {namespace: default, name: data, uid: 11111111-2222-3333-4444-555555555555, resourceVersion: "7"}
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: class}
provisioner: example.org/p
allowVolumeExpansion: false
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: hook}
webhooks:
- name: hook.example.org
  sideEffects: None
  admissionReviewVersions: [v1]
  clientConfig: {url: "https://192.0.2.1/"}
  failurePolicy: Ignore
  rules: [{apiGroups: ["none.example.org"], apiVersions: ["*"], operations: ["*"], resources: ["*"]}]
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: gadgets.test.example.org}
spec:
  group: test.example.org
  names: {kind: Gadget, plural: gadgets}
  scope: Cluster
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            default: {number: 1}
            additionalProperties: true
            x-kubernetes-preserve-unknown-fields: true
          list: {type: array, items: {type: number, minimum: 0, maximum: 1.5}}
          choice: {type: string, enum: [a, "null"], nullable: true}
"#;

#[tokio::test]
async fn every_type_reads_like_the_api_server_shows_it() {
    let (cluster, _provider) = Cluster::encrypting().await;
    cluster.write_each("one", MARKER).await;
    let operator = Operator::of(&cluster);
    files::replace(&operator.path("types.yaml"), TYPES.as_bytes(), 0o600);
    let types = operator.path("types.yaml");
    operator.kubectl(&["apply", "-f", types.to_str().unwrap()]);
    let snapshot = operator.path("etcd.db");
    fs::remove_file(&snapshot).unwrap();
    cluster.control_plane.etcd().save_snapshot(&snapshot);

    let (directory, report) = operator.extract_into("all", &["--resource", "*"]);
    let objects = report["objects"].as_array().unwrap();
    let undecoded: Vec<_> = objects
        .iter()
        .filter(|it| it["undecoded"].is_string())
        .collect();
    assert!(undecoded.is_empty(), "{undecoded:#?}");
    let found = manifests(&directory);
    assert_eq!(found.len(), objects.len());
    println!("{} objects of {} kinds", found.len(), {
        let kinds = found.values().map(|it| it["kind"].to_string());
        kinds.collect::<std::collections::BTreeSet<_>>().len()
    });

    let mut live = operator.live(&directory);
    let mut different = Vec::new();
    for (name, manifest) in found {
        // The API server renews the lease of its identity.
        if name.contains("\"apiserver-") {
            continue;
        }
        let shown = live.remove(&name).unwrap_or_else(|| panic!("no {name}"));
        if manifest != shown {
            different.push(format!("{name}\n{manifest}\n{shown}"));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[tokio::test]
async fn objects_under_keys_of_the_file_come_back_with_it() {
    let mut cluster = Cluster::new().await;
    let provider = |word: &str| json!({word: {"keys": [{"name": "key1", "secret": SECRET}]}});
    let mut providers = vec![json!({"identity": {}})];
    cluster.control_plane.encrypt_with(&providers);
    cluster.control_plane.start(&[]).await;
    let write = async |cluster: &Cluster, name: &str| {
        let written = cluster.control_plane.write(Kind::Secret, name, MARKER);
        written.await.unwrap();
    };
    write(&cluster, "kept-plaintext").await;
    for word in ["aescbc", "aesgcm", "secretbox"] {
        providers.insert(0, provider(word));
        cluster.restart_with(&providers).await;
        write(&cluster, &format!("kept-{word}")).await;
    }
    let operator = Operator::of(&cluster);

    let selected = ["--resource", "secrets", "--name", "kept-*"];
    let (code, report) = operator.extract(&[&selected[..], &["--output-dir", "/nowhere"]].concat());
    assert_eq!(code, Some(4), "{report:#}");
    assert_eq!(report["cause"], "other_encryption");
    assert_eq!(report["refused"].as_array().unwrap().len(), 3, "{report:#}");
    let file = cluster.control_plane.encryption_file();
    let with_keys = ["--encryption-config", file.to_str().unwrap()];
    let (directory, report) = operator.extract_into("all", &[&selected[..], &with_keys].concat());
    assert!(!report.to_string().contains(SECRET));
    let objects = report["objects"].as_array().unwrap().iter();
    let protections: Vec<_> = objects
        .map(|row| row["protection"].as_str().unwrap())
        .collect();
    assert_eq!(protections, ["aescbc", "aesgcm", "plaintext", "secretbox"]);
    assert_eq!(manifests(&directory), operator.live(&directory));

    operator
        .assert_wiped(&[&selected[..], &with_keys].concat())
        .await;

    let damaged = operator.path("damaged.yaml");
    files::replace(&damaged, format!("[{SECRET}").as_bytes(), 0o600);
    let options = ["--list", "--encryption-config", damaged.to_str().unwrap()];
    let (_, report) = operator.extract(&[&selected[..], &options].concat());
    assert_eq!(report["cause"], "local_keys_unusable", "{report:#}");
    assert!(!report.to_string().contains(SECRET));
}

impl Operator<'_> {
    /// Neither the objects of etcd, nor those of the API server, nor the keys of the file stay in
    /// the memory of a comparison.
    async fn assert_wiped(&self, options: &[&str]) {
        let (snapshot, kubeconfig) = (self.path("etcd.db"), self.path("kubeconfig"));
        let of = [
            "extract",
            "--etcd-snapshot",
            snapshot.to_str().unwrap(),
            "--diff",
            kubeconfig.to_str().unwrap(),
        ];
        let mut command = self.cluster.node.program(&[&of[..], options].concat());
        let Some(held) = Held::start(&mut command).await else {
            return;
        };
        let key = STANDARD.decode(SECRET).unwrap();
        let texts = [
            MARKER.to_owned(),
            STANDARD.encode(MARKER),
            SECRET.to_owned(),
            String::from_utf8(key).unwrap(),
        ];
        let found = held.found(&texts);
        let out = held.finish();
        assert!(out.starts_with("extract: same\n"), "{out}");
        assert_eq!(found, [""; 0]);
    }
}

/// A key of an `EncryptionConfiguration`.
const SECRET: &str = "a2V5LW9mLXRoZS1maWxlLTAxMjM0NTY3ODlhYmNkZWY=";
