//! A machine as the pages of the runbook know it: standard paths, which lie below a temporary
//! directory, a shell with the programs of an operator, and the provider as a service.
//!
//! The programs are the real ones. What stands in for something else is here and in
//! `Scene::instead`: `sudo` and `install` know no users and groups, and `scp` copies between
//! directories of this test.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{
    etcd::{self, Etcd},
    files::{self, SocketDir},
    openbao::{OpenBao, binary},
    runbook::{Done, Shell},
    tenant::{Tenant, Timing},
};

use crate::{node::program, provider::Provider};

/// Of a machine with the package and with kubeadm's files.
const DIRECTORIES: [&str; 7] = [
    "/etc/openbao-kms/tls",
    "/etc/openbao-kms/client",
    "/etc/openbao-kms/pkcs11",
    "/etc/kubernetes/manifests",
    "/etc/kubernetes/pki/etcd",
    "/var/lib/openbao-kms/state",
    "/root",
];

/// Below the root of the machine.
const PROGRAMS: &str = "bin";

/// Everything below these is the machine's own; `/backup` is the same on all machines.
const OWN: [&str; 3] = ["/etc", "/var/lib", "/root"];

/// Runs the rest of the line as somebody else.
const SUDO: &str = "#!/bin/sh\nwhile [ \"${1#-}\" != \"$1\" ]; do shift 2; done\nexec \"$@\"\n";

/// As `install`, without owners and groups.
const INSTALL: &str = r#"#!/bin/sh
for word; do
    shift
    case $word in
        --owner=*|--group=*) ;;
        *) set -- "$@" "$word" ;;
    esac
done
exec /usr/bin/install "$@"
"#;

pub(crate) const CONFIG: &str = "/etc/openbao-kms/config.yaml";
pub(crate) const STATE: &str = "/var/lib/openbao-kms/state/key-registry.json";
pub(crate) const CHECKPOINT: &str = "/var/lib/openbao-kms/state/key-registry.json.checkpoint";
pub(crate) const JWT: &str = "/var/lib/openbao-kms/identity.jwt";
const CA: &str = "/etc/openbao-kms/tls/ca.crt";

/// Its provider is killed when it is dropped.
pub(crate) struct Machine {
    pub(crate) provider: Option<Provider>,
    pub(crate) shell: Shell,
    sockets: SocketDir,
    root: TempDir,
    /// What providers that have ended had to say.
    journal: String,
    /// Variables of the service, from a drop-in.
    variables: Vec<(&'static str, PathBuf)>,
}

impl Machine {
    /// A machine without a provider's files.
    pub(crate) fn new(backup: &Path) -> Self {
        let root = TempDir::new().unwrap();
        for directory in DIRECTORIES {
            fs::create_dir_all(below(&root, directory)).unwrap();
        }
        set_mode(&below(&root, "/var/lib/openbao-kms/state"), 0o750);
        let programs = root.path().join(PROGRAMS);
        fs::create_dir(&programs).unwrap();
        for (name, path) in [
            ("bao-kms-provider", program().get_program().into()),
            ("bao", binary().path().to_owned()),
            ("etcdctl", etcd::tool("etcdctl")),
            ("etcdutl", etcd::tool("etcdutl")),
        ] {
            symlink(path.canonicalize().unwrap(), programs.join(name)).unwrap();
        }
        for (name, script) in [("sudo", SUDO), ("install", INSTALL)] {
            files::replace(&programs.join(name), script.as_bytes(), 0o755);
        }
        let sockets = SocketDir::new();
        let home = below(&root, "/root");
        let mut shell = Shell::in_directory(&home);
        for directory in OWN {
            shell.name(directory, below(&root, directory).display());
        }
        shell.name("/backup", backup.display());
        shell.name("/run/openbao-kms", sockets.path().display());
        shell.set("PATH", format!("{}:/usr/bin:/bin", programs.display()));
        shell.set("HOME", home);
        shell.set("BAO_KMS_PROVIDER_CONFIG", below(&root, CONFIG));
        let mut command = Command::new("true");
        sockets.set_environment(&mut command);
        for (variable, value) in command.get_envs() {
            shell.set(variable.to_str().unwrap(), value.unwrap());
        }
        Self {
            provider: None,
            shell,
            sockets,
            root,
            journal: String::new(),
            variables: Vec::new(),
        }
    }

    /// Lets the machine's operator and the pages reach this OpenBao.
    pub(crate) fn reach_openbao(&mut self, openbao: &OpenBao, tenant: &Tenant) {
        let address = openbao.endpoint().address.to_string();
        self.shell.name("https://openbao.example:8200", &address);
        self.shell.name("kms-transit", &tenant.transit_mount);
        self.shell.name("kms-jwt", &tenant.jwt_mount);
        for method in ["approle", "cert", "userpass", "oauth", "spiffe"] {
            let mount = format!("{method}-of-{}", tenant.jwt_mount);
            self.shell.name(&format!("kms-{method}"), mount);
        }
        self.shell.name("10.0.0.11/32", "127.0.0.1/32");
        // A subject of a certificate.
        self.shell.name("/CN", "/CN");
        self.shell.name("kms-policy", &tenant.policy);
        self.shell.set("BAO_ADDR", &address);
        self.shell.set("BAO_CACERT", openbao.ca_file());
    }

    /// A program in front of all others of this name.
    pub(crate) fn add_program(&self, name: &str, script: &str) {
        let path = self.root.path().join(PROGRAMS).join(name);
        files::replace(&path, script.as_bytes(), 0o755);
    }

    /// Sets a variable of the operator and of the service.
    pub(crate) fn set(&mut self, variable: &'static str, value: PathBuf) {
        self.shell.set(variable, &value);
        self.variables.push((variable, value));
    }

    /// Lets the machine's operator and the pages reach this etcd.
    pub(crate) fn reach_etcd(&mut self, etcd: &Etcd) {
        self.reach_member(etcd, 0);
    }

    /// As [`Self::reach_etcd`], with this member on the machine.
    pub(crate) fn reach_member(&mut self, etcd: &Etcd, number: usize) {
        let url = etcd.client_url_of(number);
        self.shell.name("https://127.0.0.1:2379", url);
        let data = etcd.data_dir_of(number);
        self.shell.name("/var/lib/etcd", data.display());
        self.shell.set("ETCDCTL_ENDPOINTS", url);
        for (variable, name, page) in [
            ("ETCDCTL_CACERT", "ca.crt", "ca.crt"),
            ("ETCDCTL_CERT", "client.crt", "server.crt"),
            ("ETCDCTL_KEY", "client.key", "server.key"),
        ] {
            let file = etcd.file(name);
            let page = self.path(&format!("/etc/kubernetes/pki/etcd/{page}"));
            fs::copy(&file, page).unwrap();
            self.shell.set(variable, file);
        }
    }

    /// Puts the files of a new installation in place.
    pub(crate) fn install(&self, tenant: &Tenant, timing: Timing) {
        let ca = fs::read(tenant.ca_file()).unwrap();
        files::replace(&self.path(CA), &ca, 0o644);
        let jwt = fs::read(tenant.jwt_file()).unwrap();
        files::replace(&self.path(JWT), &jwt, 0o640);
        self.configure(&self.config(tenant, timing));
    }

    /// Puts what configuration management has where a page fetches it from.
    pub(crate) fn provide_files(&self, tenant: &Tenant, config: &Value) {
        let jwt = fs::read(tenant.jwt_file()).unwrap();
        files::replace(&self.path("/root/identity.jwt"), &jwt, 0o600);
        let ca = fs::read(tenant.ca_file()).unwrap();
        files::replace(&self.path("/backup/ca.crt"), &ca, 0o644);
        let config = yaml(config);
        files::replace(&self.path("/backup/config.yaml"), config.as_bytes(), 0o640);
    }

    /// Removes everything that its disk has held of the provider and of Kubernetes.
    pub(crate) async fn lose_disk(&mut self) {
        self.stop().await;
        for directory in [
            "/etc/openbao-kms",
            "/etc/kubernetes",
            "/var/lib/openbao-kms",
        ] {
            fs::remove_dir_all(self.path(directory)).unwrap();
        }
        for directory in ["/etc/kubernetes/manifests", "/var/lib/openbao-kms"] {
            fs::create_dir_all(self.path(directory)).unwrap();
        }
    }

    /// The configuration of a new installation.
    pub(crate) fn config(&self, tenant: &Tenant, timing: Timing) -> Value {
        let mut config = tenant.config(&self.sockets, timing);
        config["openbao"]["caCertFile"] = json!(self.path(CA));
        config["openbao"]["timeout"] = json!("10s");
        config["openbao"]["instanceId"] = json!("bao-prod");
        config["auth"]["jwt"]["jwtFile"] = json!(self.path(JWT));
        config["logging"] = json!({"level": "info"});
        config["state"]["path"] = json!(self.path(STATE));
        config["transit"]["keyIdScope"] = json!({
            "providerName": "openbao-kms",
            "clusterId": "prod-1",
            "transitMountId": "transit-prod-1",
            "keyLineageId": "7d1c0f7e0a6b4c5f9b1e2d3c4b5a6978",
        });
        config
    }

    /// Writes the configuration.
    pub(crate) fn configure(&self, config: &Value) {
        files::replace(&self.path(CONFIG), yaml(config).as_bytes(), 0o640);
    }

    /// Replaces the sections of the configuration that this text of a page has.
    pub(crate) fn replace_sections(&self, text: &str) {
        let heading = |line: &&str| !line.starts_with([' ', '#']) && line.ends_with(':');
        let replaced: Vec<&str> = text.lines().filter(heading).collect();
        let config = fs::read_to_string(self.path(CONFIG)).unwrap();
        let mut kept = true;
        let mut sections = String::new();
        for line in config.lines() {
            if heading(&line) {
                kept = !replaced.contains(&line);
            }
            if kept {
                sections.push_str(line);
                sections.push('\n');
            }
        }
        sections.push_str(&self.shell.as_here(text));
        files::replace(&self.path(CONFIG), sections.as_bytes(), 0o640);
    }

    /// Where a path of a page is here.
    pub(crate) fn path(&self, page: &str) -> PathBuf {
        let here = self.shell.as_here(page);
        assert_ne!(here, page, "the path is not the test's own");
        here.into()
    }

    /// The provider, which must run.
    pub(crate) fn serving(&self) -> &Provider {
        self.provider.as_ref().unwrap()
    }

    /// Does as `systemctl` does with the provider's unit.
    pub(crate) async fn systemctl(&mut self, verb: &str) -> Done {
        match verb {
            "start" => self.start().await,
            "stop" => {
                self.stop().await;
                Done::silently()
            }
            "restart" => {
                self.stop().await;
                self.start().await
            }
            "is-active" => {
                let running = self.provider.is_some();
                Done {
                    code: Some(if running { 0 } else { 3 }),
                    output: (if running { "active\n" } else { "inactive\n" }).to_owned(),
                }
            }
            other => panic!("systemctl {other}"),
        }
    }

    /// What `journalctl` shows of the provider's unit.
    pub(crate) fn journal(&self) -> String {
        let running = self.provider.as_ref().map(Provider::log);
        format!("{}{}", self.journal, running.unwrap_or_default())
    }

    /// What `journalctl` shows of the provider's unit with this number of lines.
    pub(crate) fn journalctl(&self, lines: &str) -> Done {
        let journal = self.journal();
        let said: Vec<&str> = journal.lines().collect();
        let last = said.len().saturating_sub(lines.parse().unwrap());
        Done {
            code: Some(0),
            output: said[last..].join("\n"),
        }
    }

    /// Where the metrics of the provider are.
    pub(crate) fn metrics(&self) -> String {
        self.provider.as_ref().map_or_else(
            || "http://127.0.0.1:1".to_owned(),
            |provider| {
                let listening = provider.events("metrics.listening").next().unwrap();
                format!("http://{}", listening["address"].as_str().unwrap())
            },
        )
    }

    /// Copies a file of another machine. It keeps its name in a directory.
    pub(crate) fn scp(&self, peer: &Self, from: &str, to: &str) -> Done {
        let (from, to) = (peer.path(from), self.path(to));
        let to = match to.is_dir() {
            true => to.join(from.file_name().unwrap()),
            false => to,
        };
        fs::copy(from, to).unwrap();
        Done::silently()
    }

    async fn start(&mut self) -> Done {
        let mut command = program();
        self.sockets.set_environment(&mut command);
        command.envs(self.variables.iter().cloned());
        command.arg("serve").arg("--config").arg(self.path(CONFIG));
        let mut provider = Provider::spawn(command, self.root.path(), self.sockets.socket());
        if provider.ready_or_ended().await {
            for (event, page) in [("health", "8082"), ("metrics", "8081")] {
                let listening = provider.events(&format!("{event}.listening")).next();
                let address = listening.and_then(|it| it["address"].as_str().map(str::to_owned));
                if let Some(address) = address {
                    let page = format!("http://127.0.0.1:{page}");
                    self.shell.name(&page, format!("http://{address}"));
                }
            }
            self.provider = Some(provider);
            return Done::silently();
        }
        self.journal.push_str(&provider.ended().await.err);
        Done {
            code: Some(1),
            output: "Job for bao-kms-provider.service failed because the control process exited \
                     with error code.\nSee \"systemctl status bao-kms-provider.service\" and \
                     \"journalctl -xeu bao-kms-provider.service\" for details.\n"
                .to_owned(),
        }
    }

    async fn stop(&mut self) {
        if let Some(provider) = self.provider.take() {
            self.journal.push_str(&provider.stop().await.err);
        }
    }
}

fn below(root: &TempDir, page: &str) -> PathBuf {
    root.path().join(page.trim_start_matches('/'))
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A configuration as a person would write it, for pages that show its lines.
fn yaml(config: &Value) -> String {
    fn members(value: &Value, indent: usize, text: &mut String) {
        for (name, value) in value.as_object().unwrap() {
            text.push_str(&format!("{:indent$}{name}:", ""));
            if value.is_object() {
                text.push('\n');
                members(value, indent + 2, text);
            } else {
                text.push_str(&format!(" {value}\n"));
            }
        }
    }
    let mut text = String::new();
    members(config, 0, &mut text);
    text
}
