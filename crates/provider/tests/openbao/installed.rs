//! The commands of a node, with the true paths of an installation, in a root directory of the test.
//!
//! Each command line runs in a mount namespace, changed into that root: programs of this machine are
//! there read-only, and no directory of an installed product is touched. `systemctl`, `crictl` and `sudo`
//! are stand-ins. This takes root; an ordinary user has tests of its own.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use openbao_lab::port::free_port;
use rustix::process::geteuid;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{files, schema::assert_published, wait::wait_until};
use tokio::task::spawn_blocking;

use crate::{
    doctor::fault::SERVICE_USER,
    init::Plan,
    node::{Finished, program},
    provider::SOON,
};

/// Changes into the root `$0` with the program `$1`, and runs the line `$2`.
const ENTER: &str = r#"
for system in usr proc dev; do mount --rbind /$system "$0/$system" || exit 99; done
mount -o remount,bind,ro "$0/usr" || exit 99
mount --bind "$1" "$0/opt/bin/bao-kms-provider" || exit 99
exec chroot "$0" /usr/bin/env -i PATH=/opt/bin:/usr/sbin:/usr/bin HOME=/root sh -c "cd /root && $2"
"#;

/// Does with the unit as systemd does. A shell reaps the provider, and tells its end to a stop.
const SYSTEMCTL: &str = r#"#!/bin/sh
unit=/etc/systemd/system/bao-kms-provider.service
active() { kill -0 "$(cat /run/pid 2>/dev/null)" 2>/dev/null; }
start() {
    active && return
    rm -f /run/started /run/ended
    mkfifo /run/started /run/ended
    command=$(sed -n 's|^ExecStart=/usr/bin/|/opt/bin/|p' $unit)
    setsid sh -c "
        setpriv --reuid openbao-kms --regid openbao-kms --init-groups $command &
        echo \$! >/run/pid; echo >/run/started; wait \$!; echo >/run/ended
    " </dev/null >>/run/journal 2>&1 &
    read -r _ </run/started
}
stop() {
    active && kill "$(cat /run/pid)"
    test -p /run/ended && read -r _ </run/ended
    rm -f /run/ended
}
case $1 in
    is-enabled) test -e /etc/enabled ;;
    is-active) active ;;
    enable) touch /etc/enabled; start ;;
    disable) rm -f /etc/enabled; stop ;;
    daemon-reload) ;;
    *) exit 64 ;;
esac
"#;
const CRICTL: &str = r#"#!/bin/sh
case $1 in
    images) cat /run/images 2>/dev/null; exit 0 ;;
    pull) echo "\"$2\"" >>/run/images ;;
esac
"#;

/// A node with an empty root, and the installation in `/root/openbao-kms`.
struct Machine {
    plan: Plan,
    root: TempDir,
}

impl Machine {
    /// OpenBao is prepared by the script of the installation.
    async fn new(name: &str, options: &[&str]) -> Self {
        let plan = Plan::new(name).await;
        let [health, metrics] = [(); 2].map(|()| free_port().unwrap());
        let pod = options.contains(&"static-pod");
        let made = plan.init(
            |values| {
                let server = &mut values["server"];
                server["socketGroup"] = json!("openbao-kms-socket");
                server["healthAddress"] = json!(format!("127.0.0.1:{health}"));
                server["metricsAddress"] = json!(format!("127.0.0.1:{metrics}"));
                // Below the timeout of the EncryptionConfiguration.
                values["openbao"]["timeout"] = json!("2s");
                values["openbao"]["caCertFile"] = json!("/etc/openbao-kms/tls/ca.crt");
                values["auth"]["jwt"]["jwtFile"] = json!(match pod {
                    true => "/var/lib/openbao-kms/credentials/identity.jwt",
                    false => "/var/lib/openbao-kms/identity.jwt",
                });
            },
            options,
        );
        assert_eq!(made.code, Some(0), "{}{}", made.out, made.err);
        let done = plan.script("all").await;
        assert_eq!(done.code, Some(0), "{}{}", done.out, done.err);
        let machine = Self {
            plan,
            root: TempDir::new().unwrap(),
        };
        machine.lay_out();
        machine
    }

    fn lay_out(&self) {
        for directory in [
            "usr",
            "proc",
            "dev",
            "tmp",
            "root",
            "run",
            "var/lib",
            "opt/bin",
            "etc/systemd/system",
            "etc/sysusers.d",
            "etc/kubernetes/manifests",
        ] {
            fs::create_dir_all(self.path(directory)).unwrap();
        }
        self.open(self.root.path());
        for link in ["bin", "sbin", "lib", "lib64"] {
            symlink(Path::new("usr").join(link), self.path(link)).unwrap();
        }
        let packaged = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/systemd");
        let copy = |from: &str, to: &str| {
            fs::copy(packaged.join(from), self.path(to)).unwrap();
        };
        copy(
            "bao-kms-provider.service",
            "etc/systemd/system/bao-kms-provider.service",
        );
        copy(
            "sysusers.d/bao-kms-provider.conf",
            "etc/sysusers.d/bao-kms-provider.conf",
        );
        self.write("etc/passwd", "root:x:0:0::/root:/bin/sh\n", 0o644);
        self.write("etc/group", "root:x:0:\n", 0o644);
        self.write("opt/bin/bao-kms-provider", "", 0o755);
        self.write("opt/bin/systemctl", SYSTEMCTL, 0o755);
        self.write("opt/bin/crictl", CRICTL, 0o755);
        self.write("opt/bin/sudo", "#!/bin/sh\nexec \"$@\"\n", 0o755);
        let tenant = &self.plan.node.tenant;
        for (file, name) in [
            (tenant.ca_file(), "ca.crt"),
            (tenant.jwt_file(), "identity.jwt"),
        ] {
            fs::copy(file, self.path("root").join(name)).unwrap();
        }
        let installation = self.path("root/openbao-kms");
        fs::create_dir(&installation).unwrap();
        for entry in fs::read_dir(self.plan.out()).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), installation.join(entry.file_name())).unwrap();
        }
    }

    fn open(&self, path: &Path) {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A path of the node from outside.
    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn write(&self, path: &str, text: &str, mode: u32) {
        files::replace(&self.path(path), text.as_bytes(), mode);
    }

    /// The command for a line in the root.
    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", ENTER])
            .arg(self.root.path())
            .arg(Path::new(program().get_program()).canonicalize().unwrap())
            .arg(line)
            .stdin(Stdio::null());
        command
    }

    #[track_caller]
    fn run(&self, line: &str) -> Finished {
        let done: Finished = self.command(line).output().unwrap().into();
        assert_ne!(done.code, Some(99), "{}", done.err);
        done
    }

    /// A command of the node with this exit code and verdict; its result in JSON.
    #[track_caller]
    fn node(&self, words: &str, code: i32, verdict: &str) -> Value {
        let line = format!("bao-kms-provider node {words} --output json");
        let done = self.run(&line);
        let result: Value = serde_json::from_str(&done.out)
            .unwrap_or_else(|_| panic!("{line}: {}{}", done.out, done.err));
        assert_published(&result);
        let shown = (&result["headline"], &result["found"], &result["steps"]);
        assert_eq!(done.code, Some(code), "{line}: {shown:?} {}", done.err);
        assert_eq!(result["verdict"], verdict, "{line}: {shown:?}");
        result
    }

    /// Runs the printed commands, but for those with one of these parts. `diff` tells a difference by
    /// its exit code.
    #[track_caller]
    fn follow(&self, result: &Value, but: &[&str]) {
        let steps = result["nextSteps"].as_array().unwrap().iter();
        for command in steps.filter_map(|step| step["command"].as_str()) {
            if but.iter().any(|part| command.contains(part)) {
                continue;
            }
            let done = self.run(command);
            let is_shown = command.starts_with("diff ") && done.code == Some(1);
            assert!(
                is_shown || done.code == Some(0),
                "{command}: {}{}",
                done.out,
                done.err
            );
        }
    }

    /// Owner, group and mode.
    fn access(&self, path: &str) -> (u32, u32, u32) {
        let found = fs::symlink_metadata(self.path(path)).unwrap();
        (found.uid(), found.gid(), found.mode() & 0o7777)
    }

    /// Numbers of users and groups by name.
    fn numbers(&self, file: &str) -> BTreeMap<String, u32> {
        let text = fs::read_to_string(self.path(file)).unwrap();
        let lines = text.lines().map(|line| {
            let fields: Vec<_> = line.split(':').collect();
            (fields[0].to_owned(), fields[2].parse().unwrap())
        });
        lines.collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.command("systemctl disable --now bao-kms-provider")
            .status()
            .ok();
    }
}

const PREPARE: &str = "prepare openbao-kms --ca ca.crt --credential identity.jwt";

/// The statuses of the steps, without repetition.
fn statuses(result: &Value) -> Vec<&str> {
    let steps = result["steps"].as_array().unwrap().iter();
    let mut statuses: Vec<_> = steps.map(|step| step["status"].as_str().unwrap()).collect();
    statuses.sort_unstable();
    statuses.dedup();
    statuses
}

#[tokio::test]
async fn a_node_is_prepared_checked_started_called_and_removed() {
    if !geteuid().is_root() {
        return;
    }
    let machine = Machine::new("installed", &[]).await;
    let planned = machine.node(PREPARE, 0, "planned");
    assert!(statuses(&planned).contains(&"planned"), "{planned:#}");
    assert!(!machine.path("etc/openbao-kms").exists());

    let done = machine.node(&format!("{PREPARE} --apply"), 0, "prepared");
    assert_eq!(statuses(&done), ["done", "present"], "{done:#}");
    let (users, groups) = (machine.numbers("etc/passwd"), machine.numbers("etc/group"));
    let (own, group) = (users["openbao-kms"], groups["openbao-kms"]);
    let sockets = groups["openbao-kms-socket"];
    for (path, access) in [
        ("etc/openbao-kms", (0, group, 0o750)),
        ("etc/openbao-kms/tls", (0, 0, 0o755)),
        ("etc/openbao-kms/config.yaml", (0, group, 0o640)),
        ("etc/openbao-kms/tls/ca.crt", (0, 0, 0o644)),
        ("var/lib/openbao-kms", (own, group, 0o750)),
        ("var/lib/openbao-kms/identity.jwt", (0, group, 0o640)),
        ("var/lib/openbao-kms/state", (own, group, 0o750)),
        ("run/openbao-kms", (own, sockets, 0o2750)),
        (
            "etc/kubernetes/openbao-kms/encryption-config.yaml",
            (0, 0, 0o644),
        ),
    ] {
        assert_eq!(machine.access(path), access, "{path}");
    }
    let again = machine.node(&format!("{PREPARE} --apply"), 0, "prepared");
    assert_eq!(statuses(&again), ["present"], "{again:#}");
    machine.node("check openbao-kms", 0, "passed");

    machine.node("start openbao-kms", 0, "planned");
    let started = machine.node("start openbao-kms --apply", 0, "ready");
    assert_eq!(statuses(&started), ["done"], "{started:#}");
    assert!(started["keyIdHash"].is_string(), "{started:#}");
    machine.node("start openbao-kms", 0, "started");
    machine.node("check openbao-kms", 0, "passed");

    // A configuration that came after the start takes a restart.
    machine.run("mv /etc/openbao-kms/config.yaml /root/moved");
    let renewed = machine.node(&format!("{PREPARE} --apply"), 0, "prepared");
    let steps = renewed["nextSteps"].to_string();
    assert!(steps.contains("systemctl restart"), "{steps}");

    // Like an API server in the group of the socket, and like any other user.
    let probe = |gid: u32| {
        machine.run(&format!(
            "setpriv --reuid {SERVICE_USER} --regid {gid} --clear-groups bao-kms-provider probe"
        ))
    };
    assert_eq!(probe(sockets).code, Some(0));
    let refused = probe(SERVICE_USER);
    assert_eq!(refused.code, Some(4), "{}{}", refused.out, refused.err);

    // An API server still has it: refused, and everything goes on.
    let manifest = "etc/kubernetes/manifests/kube-apiserver.yaml";
    let pod = "spec: {containers: [{command: [kube-apiserver, \
        --encryption-provider-config=/etc/kubernetes/openbao-kms/encryption-config.yaml]}]}\n";
    machine.write(manifest, pod, 0o600);
    let used = machine.node("remove openbao-kms --apply", 4, "provider_in_use");
    assert!(
        used["found"]
            .as_str()
            .unwrap()
            .contains("encryption-config.yaml")
    );
    assert_eq!(probe(sockets).code, Some(0));
    fs::remove_file(machine.path(manifest)).unwrap();

    machine.node("remove openbao-kms", 0, "planned");
    let removed = machine.node("remove openbao-kms --apply", 0, "removed");
    assert_eq!(statuses(&removed), ["done", "kept"], "{removed:#}");
    for gone in [
        "etc/openbao-kms/config.yaml",
        "run/openbao-kms",
        "etc/kubernetes/openbao-kms",
    ] {
        assert!(!machine.path(gone).exists(), "{gone}");
    }
    let state = machine.path("var/lib/openbao-kms/state/key-registry.json");
    assert!(state.exists());

    // The same node again: with its state.
    machine.node(&format!("{PREPARE} --apply"), 0, "prepared");
    let restarted = machine.node("start openbao-kms --apply", 0, "ready");
    assert_eq!(restarted["keyIdHash"], started["keyIdHash"]);
    let fingerprint = restarted["identityFingerprint"].as_str().unwrap();
    machine.node(
        "remove openbao-kms --apply --delete-state",
        2,
        "deletion_unconfirmed",
    );
    let other = "remove openbao-kms --apply --delete-state --confirm other";
    machine.node(other, 2, "deletion_unconfirmed");
    assert!(state.exists());
    // Typed on a terminal.
    let typed = |answer: &str| {
        let line = "bao-kms-provider node remove openbao-kms --apply --delete-state";
        machine.run(&format!("echo {answer} | script -qec '{line}' /dev/null"))
    };
    assert_eq!(typed("other").code, Some(2));
    assert!(state.exists());
    let deleted = typed(fingerprint);
    assert_eq!(deleted.code, Some(0), "{}", deleted.out);
    assert!(
        deleted.out.contains("Type the fingerprint"),
        "{}",
        deleted.out
    );
    assert!(!state.exists());
}

#[tokio::test]
async fn the_commands_of_the_page_bring_a_node_to_a_ready_provider() {
    if !geteuid().is_root() {
        return;
    }
    let page = include_str!("../../../../docs/operate/node.md");
    let (_, rest) = page.split_once("```\n").unwrap();
    let (block, _) = rest.split_once("```").unwrap();
    let machine = Machine::new("page", &[]).await;
    for line in block.lines() {
        let done = machine.run(line);
        assert_eq!(done.code, Some(0), "{line}: {}{}", done.out, done.err);
    }
    assert!(block.ends_with("start openbao-kms --apply\n"), "{block}");
}

#[tokio::test]
async fn a_static_pod_starts_by_its_manifest() {
    if !geteuid().is_root() {
        return;
    }
    let image = format!("registry.test/provider@sha256:{}", "a".repeat(64));
    let options = [
        "--model",
        "static-pod",
        "--socket-gid",
        "7990",
        "--image",
        &image,
    ];
    let machine = Machine::new("pod", &options).await;
    machine.node(&format!("{PREPARE} --apply"), 0, "prepared");
    for (path, access) in [
        ("etc/openbao-kms/config.yaml", (0, 65532, 0o640)),
        ("var/lib/openbao-kms/credentials", (0, 65532, 0o750)),
        (
            "var/lib/openbao-kms/credentials/identity.jwt",
            (0, 65532, 0o640),
        ),
        ("var/lib/openbao-kms/state", (65532, 65532, 0o750)),
        ("run/openbao-kms", (65532, 7990, 0o2750)),
    ] {
        assert_eq!(machine.access(path), access, "{path}");
    }
    let boot = fs::read_to_string(machine.path("etc/tmpfiles.d/openbao-kms-static-pod.conf"));
    assert_eq!(boot.unwrap(), "d /run/openbao-kms 2750 65532 7990 -\n");

    // As printed: the image is loaded first.
    let missing = machine.node("start openbao-kms --apply", 4, "image_missing");
    let manifest = machine.path("etc/kubernetes/manifests/bao-kms-provider.yaml");
    assert!(!manifest.exists());
    machine.follow(&missing, &[]);

    let mut start = machine.command("bao-kms-provider node start openbao-kms --apply -o json");
    let started = spawn_blocking(move || Finished::from(start.output().unwrap()));
    wait_until(SOON, "the manifest", async || manifest.exists()).await;
    // As kubelet does with it.
    let pod: Value = serde_saphyr::from_str(&fs::read_to_string(&manifest).unwrap()).unwrap();
    let arguments = pod["spec"]["containers"][0]["args"]
        .as_array()
        .unwrap()
        .iter();
    let arguments: Vec<_> = arguments.map(|word| word.as_str().unwrap()).collect();
    let mut kubelet = machine.command(&format!(
        "exec setpriv --reuid 65532 --regid 65532 --groups 7990 bao-kms-provider {}",
        arguments.join(" ")
    ));
    let mut provider = kubelet
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let started = started.await.unwrap();
    assert_eq!(started.code, Some(0), "{}{}", started.out, started.err);
    let result: Value = serde_json::from_str(&started.out).unwrap();
    assert_published(&result);
    assert!(result["keyIdHash"].is_string(), "{result:#}");
    machine.node("check openbao-kms", 0, "passed");
    let beside = fs::read_dir(machine.path("etc/kubernetes")).unwrap();
    let hidden = beside.filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_string_lossy().starts_with('.')
    });
    assert_eq!(hidden.count(), 0);

    // Another manifest is moved out of the directory that kubelet reads.
    let ours = fs::read_to_string(&manifest).unwrap();
    machine.write(
        "etc/kubernetes/manifests/bao-kms-provider.yaml",
        "{}\n",
        0o600,
    );
    let differs = machine.node("start openbao-kms --apply", 4, "node_file_differs");
    let steps = differs["nextSteps"].to_string();
    let moved = "mv --backup=numbered /etc/kubernetes/manifests/bao-kms-provider.yaml \
        /etc/kubernetes/bao-kms-provider.yaml.before";
    assert!(steps.contains(moved), "{steps}");
    machine.follow(&differs, &[]);
    assert_eq!(fs::read_to_string(&manifest).unwrap(), ours);

    let mut remove = machine.command("bao-kms-provider node remove openbao-kms --apply");
    let removed = spawn_blocking(move || Finished::from(remove.output().unwrap()));
    wait_until(SOON, "the end of the manifest", async || !manifest.exists()).await;
    let pid = rustix::process::Pid::from_child(&provider);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    provider.wait().unwrap();
    let removed = removed.await.unwrap();
    assert_eq!(removed.code, Some(0), "{}{}", removed.out, removed.err);
    let state = machine.path("var/lib/openbao-kms/state/key-registry.json");
    assert!(state.exists());
    let fingerprint = result["identityFingerprint"].as_str().unwrap();
    let confirmed = format!("remove openbao-kms --apply --delete-state --confirm {fingerprint}");
    machine.node(&confirmed, 0, "removed");
    assert!(!state.exists());
}

#[tokio::test]
async fn a_failed_start_names_its_cause() {
    if !geteuid().is_root() {
        return;
    }
    let machine = Machine::new("start-fails", &[]).await;
    let tenant = &machine.plan.node.tenant;
    let mut claims = tenant.claims();
    claims["aud"] = json!(["another"]);
    machine.write("root/identity.jwt", &tenant.jwt(&claims), 0o600);
    machine.node(&format!("{PREPARE} --apply"), 0, "prepared");
    let failed = machine.run("bao-kms-provider node start openbao-kms --apply --wait 2s -o json");
    assert_ne!(failed.code, Some(0), "{}", failed.out);
    let result: Value = serde_json::from_str(&failed.out).unwrap();
    assert!(
        result["found"].as_str().unwrap().contains("aud"),
        "{result:#}"
    );
    assert!(!result["nextSteps"].as_array().unwrap().is_empty());
}

/// A file that came from elsewhere is kept, and a run that was interrupted continues.
pub(crate) async fn a_node_with_other_files() {
    if !geteuid().is_root() {
        return;
    }
    let machine = Machine::new("other-files", &[]).await;
    machine.node("start openbao-kms --apply", 4, "node_unprepared");

    // The steps before an interruption, and a rest of it.
    fs::create_dir_all(machine.path("etc/openbao-kms")).unwrap();
    machine.write("etc/openbao-kms/.config.yaml.new", "half", 0o600);
    // Another configuration.
    let ours = fs::read_to_string(machine.path("root/openbao-kms/config.yaml")).unwrap();
    let other = ours.replace("timeout: \"2s\"", "timeout: \"1s\"");
    assert_ne!(ours, other);
    machine.write("etc/openbao-kms/config.yaml", &other, 0o640);
    let before = machine.access("etc/openbao-kms");
    let differs = machine.node(&format!("{PREPARE} --apply"), 4, "node_file_differs");
    let found = differs["found"].as_str().unwrap();
    assert!(
        found.contains("has other values of openbao.timeout"),
        "{found}"
    );
    assert_eq!(machine.access("etc/openbao-kms"), before);
    assert!(!machine.path("var/lib/openbao-kms").exists());
    let kept = fs::read_to_string(machine.path("etc/openbao-kms/config.yaml")).unwrap();
    assert_eq!(kept, other);
    machine.follow(&differs, &[]);
    machine.node(PREPARE, 0, "prepared");
    assert!(!machine.path("etc/openbao-kms/.config.yaml.new").exists());

    // A service that does not wait for the unit, which is that of an earlier package.
    let unit = "etc/systemd/system/bao-kms-provider.service";
    let text = fs::read_to_string(machine.path(unit)).unwrap();
    let earlier = text.replace(" k3s.service", "");
    assert_ne!(text, earlier);
    machine.write(unit, &earlier, 0o644);
    machine.write("etc/systemd/system/k3s.service", "[Unit]\n", 0o644);
    let order = machine.node("check openbao-kms", 4, "failed");
    assert_eq!(order["cause"], "start_order", "{order:#}");
    machine.follow(&order, &[]);
    machine.node("check openbao-kms", 0, "passed");

    // A user's socket in place of the state's directory leads nowhere.
    fs::remove_dir(machine.path("var/lib/openbao-kms/state")).unwrap();
    symlink("/etc", machine.path("var/lib/openbao-kms/state")).unwrap();
    let before = machine.access("etc");
    machine.node(&format!("{PREPARE} --apply"), 4, "node_file_differs");
    assert_eq!(machine.access("etc"), before);
}

pub(crate) async fn a_change_by_an_ordinary_user() {
    if !geteuid().is_root() {
        return;
    }
    let machine = Machine::new("ordinary", &[]).await;
    machine.open(&machine.path("root"));
    for name in ["root/ca.crt", "root/identity.jwt", "root/openbao-kms"] {
        chown(machine.path(name), Some(SERVICE_USER), None).unwrap();
    }
    for entry in fs::read_dir(machine.path("root/openbao-kms")).unwrap() {
        chown(entry.unwrap().path(), Some(SERVICE_USER), None).unwrap();
    }
    let as_user = format!("setpriv --reuid {SERVICE_USER} --clear-groups bao-kms-provider node");
    let line = format!("{as_user} {PREPARE} --apply --output json");
    let refused = machine.run(&line);
    assert_eq!(refused.code, Some(1), "{}{}", refused.out, refused.err);
    let result: Value = serde_json::from_str(&refused.out).unwrap();
    assert_eq!(result["cause"], "root_required", "{result:#}");
    assert!(!machine.path("etc/openbao-kms").exists());
    machine.follow(&result, &[]);
    machine.node(PREPARE, 0, "prepared");
    // The plan of an ordinary user names the files that it cannot compare.
    let planned = machine.run(&format!("{as_user} prepare openbao-kms --output json"));
    assert_eq!(planned.code, Some(0), "{}{}", planned.out, planned.err);
    assert!(
        planned.out.contains("readable for root alone"),
        "{}",
        planned.out
    );
}

/// Any user: the installation of another directory, and an image below a root of its own.
pub(crate) async fn an_installation_that_was_edited() {
    let plan = Plan::new("edited").await;
    let made = plan.init(|_| {}, &[]);
    assert_eq!(made.code, Some(0), "{}", made.err);
    let out = plan.out();
    let root = TempDir::new().unwrap();
    for directory in ["usr/lib/systemd/system", "etc"] {
        fs::create_dir_all(root.path().join(directory)).unwrap();
    }
    let unit = root
        .path()
        .join("usr/lib/systemd/system/bao-kms-provider.service");
    let run = |words: &[&str], directory: &Path| -> (Option<i32>, Value) {
        let mut command = program();
        command
            .args(["node", words[0]])
            .arg(directory)
            .args(&words[1..]);
        command
            .args(["--output", "json", "--root"])
            .arg(root.path());
        command.env("PATH", "/usr/sbin:/usr/bin");
        let done = Finished::from(command.output().unwrap());
        let result = serde_json::from_str(&done.out);
        let result = result.unwrap_or_else(|_| panic!("{}{}", done.out, done.err));
        assert_published(&result);
        (done.code, result)
    };
    let (code, missing) = run(&["prepare"], &out);
    assert_eq!(
        (code, &missing["verdict"]),
        (Some(4), &json!("package_missing"))
    );
    files::replace(&unit, b"[Unit]\nBefore=kubelet.service\n", 0o644);
    let (code, planned) = run(&["prepare"], &out);
    assert_eq!(
        (code, &planned["verdict"]),
        (Some(0), &json!("planned")),
        "{planned:#}"
    );
    assert!(!root.path().join("etc/openbao-kms").exists());
    if geteuid().is_root() {
        let (code, awaited) = run(&["prepare", "--apply"], &out);
        assert_eq!(
            (code, &awaited["verdict"]),
            (Some(4), &json!("node_files_awaited"))
        );
        let steps = awaited["nextSteps"].to_string();
        assert!(
            steps.contains("(credential) with --ca or --credential"),
            "{steps}"
        );
        let (code, removed) = run(&["remove", "--apply"], &out);
        assert_eq!(
            (code, &removed["verdict"]),
            (Some(0), &json!("removed")),
            "{removed:#}"
        );
        assert!(!root.path().join("etc/openbao-kms").exists());
    } else {
        let (code, refused) = run(&["prepare", "--apply"], &out);
        assert_eq!(
            (code, &refused["cause"]),
            (Some(1), &json!("root_required"))
        );
    }

    let config = out.join("config.yaml");
    let text = fs::read_to_string(&config).unwrap();
    let changed = text.replace("timeout: \"10s\"", "timeout: \"9s\"");
    files::replace(&config, changed.as_bytes(), 0o640);
    let (code, edited) = run(&["prepare"], &out);
    assert_eq!(
        (code, &edited["cause"]),
        (Some(3), &json!("installation_edited"))
    );
    assert_eq!(
        edited["found"],
        "changed since init, or missing: config.yaml"
    );
    let command = edited["nextSteps"][0]["command"].as_str().unwrap();
    let programs = Path::new(program().get_program())
        .parent()
        .unwrap()
        .to_owned();
    let mut shell = Command::new("/bin/sh");
    shell
        .args(["-c", command])
        .env_clear()
        .env("PATH", programs);
    let again = Finished::from(shell.output().unwrap());
    assert_eq!(again.code, Some(0), "{command}: {}", again.err);
    let directory = out.with_file_name("made-2");
    let (code, planned) = run(&["prepare"], &directory);
    assert_eq!(code, Some(0), "{planned:#}");

    fs::remove_file(out.join("installation.json")).unwrap();
    let (code, unusable) = run(&["prepare"], &out);
    assert_eq!(
        (code, &unusable["cause"]),
        (Some(3), &json!("installation_unusable"))
    );
}
