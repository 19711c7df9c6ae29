//! A control-plane node as the package lays it out, and root's shell on it: the provider runs as a
//! user of its own, and evidence is root's alone. An ordinary user owns all of it.
//!
//! The programs are the real ones, but for those of a whole machine: `systemctl` starts and stops
//! the provider of this test, `journalctl` shows its log, and `sudo` changes the user.

use std::{
    fs::{self, Permissions},
    os::unix::{
        fs::{PermissionsExt as _, chown, symlink},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use openbao_lab::{admin::Admin, port::free_port};
use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    process::{Signal, geteuid},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{
    etcd::{self, Etcd},
    files,
    openbao::{OpenBao, binary, shared_openbao},
    runbook::terminal::Terminal,
    stored::{Sealer, SourceType},
    tenant::{KEY, Tenant, Timing},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::unix::pipe,
    task::spawn_blocking,
};

use super::report::{Report, Step};
use crate::{
    corpus::{OBJECT, sealer},
    doctor::fault::SERVICE_USER,
    node::{Finished, Node, TIMING, program},
    provider::Provider,
};

/// Promotes as soon as the rules allow it.
pub(super) const FAST: Timing = Timing {
    probe_interval: Duration::from_millis(100),
    activation_delay: Duration::from_millis(100),
    stable_observations: 1,
    ..TIMING
};

/// Asks the test for what a whole machine does.
const ASK: &str =
    r#"echo "${0##*/} $*" >HOME/asked && read -r code <HOME/answered && exit "$code""#;
const SUDO: &str = r#"case $1 in
    -u) case $2 in openbao-kms|nobody) shift 2; exec AS_SERVICE "$@" ;; esac ;;
    *) exec "$@" ;;
esac"#;

pub(super) struct Site {
    pub(super) node: Node,
    pub(super) service: Option<Provider>,
    pub(super) etcd: Option<Etcd>,
    /// A server of its own, instead of the shared one.
    pub(super) server: Option<OpenBao>,
    /// Evidence and programs: root's alone.
    pub(super) home: TempDir,
    /// Words of printed commands that a person replaces, and the person's choice.
    pub(super) choices: Vec<(String, String)>,
    /// Parts of commands that end with this code: they show a fault that an action has yet to fix.
    tolerated: Vec<(&'static str, i32)>,
    /// Every printed command that was run, with its result.
    ran: Vec<Report>,
}

impl Site {
    /// A node of the shared server that has never served.
    pub(super) async fn new() -> Self {
        Self::of(Node::new(FAST).await, None)
    }

    /// A node with a server of its own.
    pub(super) async fn alone() -> Self {
        let server = OpenBao::start().await;
        Self::of(Node::on(&server, FAST).await, Some(server))
    }

    pub(super) fn of_tenant(tenant: Tenant) -> Self {
        Self::of(Node::of(tenant, FAST), None)
    }

    /// Another node of the same cluster.
    pub(super) fn peer(&self) -> Self {
        Self::of(self.node.peer(FAST), None)
    }

    fn of(mut node: Node, server: Option<OpenBao>) -> Self {
        let home = tempfile::Builder::new()
            .permissions(Permissions::from_mode(0o700))
            .tempdir()
            .unwrap();
        for listener in ["healthAddress", "metricsAddress"] {
            let address = format!("127.0.0.1:{}", free_port().unwrap());
            node.config["server"][listener] = json!(address);
        }
        if geteuid().is_root() {
            node.config["server"]["socketGroup"] = json!(SERVICE_USER.to_string());
        }
        let site = Self {
            node,
            service: None,
            etcd: None,
            server,
            home,
            choices: Vec::new(),
            tolerated: Vec::new(),
            ran: Vec::new(),
        };
        site.install_programs();
        site.lay_out();
        site
    }

    fn install_programs(&self) {
        let programs = self.file("bin");
        fs::create_dir(&programs).unwrap();
        for (name, path) in [
            ("bao-kms-provider", program().get_program().into()),
            ("bao", binary().path().to_owned()),
            ("etcdctl", etcd::tool("etcdctl")),
        ] {
            symlink(path.canonicalize().unwrap(), programs.join(name)).unwrap();
        }
        let home = self.home.path().to_str().unwrap();
        for (name, script) in [
            ("systemctl", ASK.to_owned()),
            ("journalctl", "exec cat HOME/journal".to_owned()),
            ("sudo", SUDO.replace("AS_SERVICE", as_user(SERVICE_USER))),
        ] {
            let script = format!("#!/bin/sh\n{script}\n").replace("HOME", home);
            files::replace(&programs.join(name), script.as_bytes(), 0o755);
        }
        for name in ["asked", "answered"] {
            let mode = Mode::from_raw_mode(0o600);
            mknodat(CWD, self.file(name), FileType::Fifo, mode, 0).unwrap();
        }
        files::replace(&self.file("journal"), b"", 0o600);
    }

    /// Owners and modes of the package.
    pub(super) fn lay_out(&self) {
        self.write_config();
        let node = self.node.state_dir().parent().unwrap().to_owned();
        for open in [&node, self.node.tenant.path()] {
            fs::set_permissions(open, Permissions::from_mode(0o755)).unwrap();
        }
        for own in [&self.node.state_dir(), self.node.sockets.path()] {
            give(own);
        }
        give(&self.node.tenant.jwt_file());
        let mode = Permissions::from_mode(0o2750);
        fs::set_permissions(self.node.sockets.path(), mode).unwrap();
    }

    /// Root's, and readable for the provider.
    pub(super) fn write_config(&self) -> PathBuf {
        let path = self.node.write_config();
        if geteuid().is_root() {
            chown(&path, Some(0), Some(SERVICE_USER)).unwrap();
        }
        path
    }

    pub(super) fn configure(&mut self, pointer: &str, value: impl Into<Value>) {
        let (parent, member) = pointer.rsplit_once('/').unwrap();
        self.node.config.pointer_mut(parent).unwrap()[member] = value.into();
        self.write_config();
    }

    pub(super) fn write_jwt(&self, claims: &Value) {
        self.node.tenant.write_jwt(claims);
        give(&self.node.tenant.jwt_file());
    }

    /// A file of root.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// This option in place of the one with a placeholder.
    pub(super) fn choose(&mut self, printed: &str, chosen: impl Into<String>) -> &mut Self {
        self.choices.insert(0, (printed.to_owned(), chosen.into()));
        self
    }

    /// Commands with this part show the fault, and end with this code.
    pub(super) fn tolerate(&mut self, part: &'static str, code: i32) -> &mut Self {
        self.tolerated.push((part, code));
        self
    }

    pub(super) async fn admin(&self) -> Admin<'_> {
        match &self.server {
            Some(server) => server.admin(),
            None => shared_openbao().await.admin(),
        }
    }

    pub(super) fn mount(&self) -> String {
        self.node.tenant.transit_mount.clone()
    }

    /// Writes the key's settings.
    pub(super) async fn configure_key(&self, settings: Value) {
        let path = format!("{}/keys/{KEY}/config", self.mount());
        self.admin().await.write(&path, &settings).await.unwrap();
    }

    /// Adds a version to the key.
    pub(super) async fn new_version(&self) {
        let admin = self.admin().await;
        admin.rotate_key(&self.mount(), KEY).await.unwrap();
    }

    /// Adds a version to the key, which a running provider promotes.
    pub(super) async fn rotate(&self, version: u64) {
        self.new_version().await;
        if let Some(provider) = &self.service {
            provider.encrypt_under(version).await;
        }
    }

    pub(super) async fn serve(&mut self) {
        assert_eq!(self.systemctl("start").await, 0, "{}", self.journal());
    }

    pub(super) async fn stop(&mut self) {
        self.systemctl("stop").await;
    }

    pub(super) fn serving(&self) -> &Provider {
        self.service.as_ref().unwrap()
    }

    pub(super) fn journal(&self) -> String {
        fs::read_to_string(self.file("journal")).unwrap()
    }

    pub(super) fn etcd(&self) -> &Etcd {
        self.etcd.as_ref().unwrap()
    }

    pub(super) async fn start_etcd(&mut self) {
        self.etcd = Some(Etcd::start().await);
    }

    /// Stores an object under a new seed of the running provider.
    pub(super) async fn store(&mut self, name: &str) -> Sealer {
        if self.etcd.is_none() {
            self.start_etcd().await;
        }
        let sealer = sealer(&self.node, self.serving(), SourceType::HkdfSeed).await;
        self.put(name, &sealer);
        sealer
    }

    pub(super) fn put(&self, name: &str, sealer: &Sealer) {
        let key = format!("/registry/{name}");
        self.etcd().put(&key, &sealer.value(&key, OBJECT));
    }

    pub(super) fn delete(&self, name: &str) {
        let _answer = self.etcd().ctl(&["del", &format!("/registry/{name}")]);
    }

    /// Saves a snapshot of etcd.
    pub(super) fn snapshot(&self, name: &str) -> String {
        let file = self.file(name);
        fs::remove_file(&file).ok();
        self.etcd().save_snapshot(&file);
        file.display().to_string()
    }

    /// The options that name the running etcd.
    pub(super) fn live(&self) -> String {
        let etcd = self.etcd();
        let file = |name| etcd.file(name).display().to_string();
        format!(
            "--endpoints {} --cacert {} --cert {} --key {}",
            etcd.endpoint(),
            file("ca.crt"),
            file("client.crt"),
            file("client.key")
        )
    }

    /// Copies state and checkpoint, as from a peer that serves.
    pub(super) fn peer_state(&self, name: &str) -> String {
        let file = self.file(name);
        fs::copy(self.node.state_file(), &file).unwrap();
        let beside = file.with_file_name(format!("{name}.checkpoint"));
        fs::copy(self.node.checkpoint(), beside).unwrap();
        file.display().to_string()
    }

    pub(super) async fn record(&mut self, name: &str, options: &str) -> String {
        let file = self.file(name).display().to_string();
        let line = self.line(&format!("record-backup --out {file} {options}"));
        let done = self.shell(&line).await;
        assert!(done.code == Some(0), "{}{}", done.out, done.err);
        file
    }

    /// The bytes of state and checkpoint.
    pub(super) fn pair(&self) -> [Vec<u8>; 2] {
        [self.node.state_file(), self.node.checkpoint()].map(|path| fs::read(path).unwrap())
    }

    pub(super) fn put_pair(&self, [state, checkpoint]: &[Vec<u8>; 2]) {
        for (path, bytes) in [
            (self.node.state_file(), state),
            (self.node.checkpoint(), checkpoint),
        ] {
            files::replace(&path, bytes, 0o640);
            give(&path);
        }
    }

    pub(super) fn put_state(&self, state: &[u8]) {
        files::replace(&self.node.state_file(), state, 0o640);
        give(&self.node.state_file());
    }

    pub(super) fn lose_state(&self) {
        for path in [self.node.state_file(), self.node.checkpoint()] {
            if path.exists() {
                fs::remove_file(path).unwrap();
            }
        }
    }

    pub(super) async fn rename(&mut self, from: &Path, to: &Path) {
        let line = format!("mv {} {}", from.display(), to.display());
        assert_eq!(self.shell(&line).await.code, Some(0));
    }

    /// A command of the program for this node.
    pub(super) fn line(&self, words: &str) -> String {
        let config = self.node.state_dir().with_file_name("config.yaml");
        format!("bao-kms-provider {words} --config {}", config.display())
    }

    /// The same as another user with this group.
    pub(super) fn line_as(&self, user: u32, group: u32, words: &str) -> String {
        match geteuid().is_root() {
            true => {
                let who = format!("setpriv --reuid {user} --regid {group} --clear-groups");
                format!("{who} {}", self.line(words))
            }
            false => self.line(words),
        }
    }

    /// Runs the line in text and in JSON, and requires the cause. The steps of the cause, as printed.
    pub(super) async fn finds(&mut self, line: &str, code: &str) -> Vec<Step> {
        let report = self.report(line).await;
        report.steps_of(code)
    }

    /// Requires that the line no longer reports the cause.
    pub(super) async fn clears(&mut self, line: &str, code: &str) {
        let done = self.shell(&as_json(line)).await;
        let report = Report::of_json(line, &done);
        assert!(!report.names(code), "{line}: {}", report.text);
    }

    /// Requires the cause, and runs its commands.
    pub(super) async fn follows(&mut self, line: &str, code: &str) {
        let steps = self.finds(line, code).await;
        self.carries_out(&steps).await;
    }

    /// Requires the cause, runs its commands, and requires that the cause is gone.
    pub(super) async fn fixes(&mut self, line: &str, code: &str) {
        self.follows(line, code).await;
        self.clears(line, code).await;
    }

    /// Requires the cause in the output of the last printed command with this part, and runs its
    /// commands.
    pub(super) async fn then(&mut self, part: &str, code: &str) {
        let ran = self.ran.iter().rev().find(|it| it.line.contains(part));
        let ran = ran.unwrap_or_else(|| panic!("{part}"));
        let steps = ran.steps_of(code);
        self.carries_out(&steps).await;
    }

    /// Runs the commands in a shell, as printed but for a person's choices; each must succeed.
    pub(super) async fn carries_out(&mut self, steps: &[Step]) {
        let commands = steps.iter().filter_map(|step| step.command.clone());
        for printed in commands.collect::<Vec<_>>() {
            let mut command = printed.clone();
            for (word, choice) in &self.choices {
                command = command.replace(word.as_str(), choice);
            }
            let done = self.shell(&command).await;
            let report = Report::of_text(&command, &done);
            let text = &report.text;
            assert!(
                self.may_end(&command, done.code),
                "{command}: {:?} {text}",
                done.code
            );
            self.ran.push(report);
        }
    }

    fn may_end(&self, command: &str, code: Option<i32>) -> bool {
        let mut tolerated = self.tolerated.iter();
        let shown = tolerated.any(|(part, with)| command.contains(part) && code == Some(*with));
        let examines = command.contains("bao-kms-provider ") && !command.contains("--apply");
        shown || code == Some(0) || (examines && code == Some(4))
    }

    async fn report(&mut self, line: &str) -> Report {
        let mut text = self.shell(line).await;
        // A change is made once, and `serve` has one form.
        if line.contains("--apply") || line.contains(" serve ") {
            return Report::of_text(line, &text);
        }
        // A record is never overwritten.
        if let Some((_, out)) = line.split_once("--out ") {
            fs::remove_file(out.split(' ').next().unwrap()).ok();
        }
        let mut json = self.shell(&as_json(line)).await;
        let same = |text: &Finished, json: &Finished| {
            let json: Value = serde_json::from_str(&json.out).unwrap_or_default();
            text.out
                .contains(json["headline"].as_str().unwrap_or_default())
        };
        // The provider may have noticed more between the two.
        if !same(&text, &json) {
            text = self.shell(line).await;
            json = self.shell(&as_json(line)).await;
        }
        Report::of_both(line, &text, &json)
    }

    /// Runs the line in a shell of root with the environment of an operator, and meanwhile does
    /// what a whole machine would.
    pub(super) async fn shell(&mut self, line: &str) -> Finished {
        let secrets = match &self.server {
            Some(server) => server.secrets(),
            None => shared_openbao().await.secrets(),
        };
        let unseal = line.starts_with("bao operator unseal");
        let terminal = unseal.then(|| Terminal::with(secrets.unseal_key.expose()));
        // A command that hangs leaves its reader without the next one.
        let mut shell = Command::new("timeout");
        shell.args(["--foreground", "60", "/bin/sh"]).env_clear();
        self.node.sockets.set_environment(&mut shell);
        let programs = self.file("bin").display().to_string();
        let path = format!("{programs}:/usr/sbin:/usr/bin:/sbin:/bin");
        shell
            .args(["-c", line])
            .env("PATH", path)
            .env("HOME", self.home.path());
        shell.env("BAO_TOKEN", secrets.root_token.expose());
        if let Some(etcd) = &self.etcd {
            shell.env("ETCDCTL_ENDPOINTS", etcd.endpoint());
            for (variable, name) in [
                ("ETCDCTL_CACERT", "ca.crt"),
                ("ETCDCTL_CERT", "client.crt"),
                ("ETCDCTL_KEY", "client.key"),
            ] {
                shell.env(variable, etcd.file(name));
            }
        }
        shell.current_dir(self.home.path());
        shell.stdin(terminal.as_ref().map_or_else(Stdio::null, Terminal::stdin));
        let mut ends = spawn_blocking(move || Finished::from(shell.output().unwrap()));
        let mut fifo = pipe::OpenOptions::new();
        let mut asked = fifo
            .read_write(true)
            .open_receiver(self.file("asked"))
            .unwrap();
        let mut answered = fifo.open_sender(self.file("answered")).unwrap();
        loop {
            let mut question = [0; 4096];
            tokio::select! {
                done = &mut ends => return done.unwrap(),
                length = asked.read(&mut question) => {
                    let words = String::from_utf8(question[..length.unwrap()].to_vec()).unwrap();
                    let code = self.stands_in(words.trim_end()).await;
                    answered.write_all(format!("{code}\n").as_bytes()).await.unwrap();
                }
            }
        }
    }

    async fn stands_in(&mut self, words: &str) -> i32 {
        let words: Vec<_> = words.split(' ').collect();
        match words[..] {
            ["systemctl", "daemon-reload"] => 0,
            ["systemctl", verb, "bao-kms-provider"]
            | [
                "systemctl",
                verb,
                "bao-kms-provider.socket",
                "bao-kms-provider.service",
            ] => self.systemctl(verb).await,
            _ => panic!("{words:?}"),
        }
    }

    async fn systemctl(&mut self, verb: &str) -> i32 {
        if matches!(verb, "stop" | "restart")
            && let Some(provider) = self.service.take()
        {
            // As systemd does: a process that was suspended ends too.
            provider.signal(Signal::TERM);
            provider.signal(Signal::CONT);
            provider.ended().await;
        }
        match verb {
            "start" | "restart" if self.service.is_none() => self.start().await,
            "status" if self.service.is_none() => 3,
            "start" | "stop" | "status" => 0,
            _ => panic!("systemctl {verb}"),
        }
    }

    async fn start(&mut self) -> i32 {
        let mut command = program();
        self.node.sockets.set_environment(&mut command);
        command.args(["serve", "--config"]).arg(self.write_config());
        if geteuid().is_root() {
            command.uid(SERVICE_USER).gid(SERVICE_USER);
        }
        let mut provider = self.node.spawn_as(command);
        let ready = provider.ready_or_ended().await;
        let journal = self.file("journal");
        fs::remove_file(&journal).unwrap();
        symlink(provider.log_file(), journal).unwrap();
        if ready {
            self.service = Some(provider);
        } else {
            provider.ended().await;
        }
        i32::from(!ready)
    }

    /// Writes every object of this provider again, and every one in plaintext.
    pub(super) async fn rewrite(&self) {
        let keys = self
            .etcd()
            .ctl(&["get", "--prefix", "--keys-only", "/registry/"]);
        let keys = String::from_utf8(keys).unwrap();
        let newest = sealer(&self.node, self.serving(), SourceType::HkdfSeed).await;
        for name in keys
            .lines()
            .filter_map(|key| key.strip_prefix("/registry/"))
        {
            self.put(name, &newest);
        }
    }
}

fn as_json(line: &str) -> String {
    format!("{line} --output json")
}

/// Runs the rest of a line as this user.
fn as_user(user: u32) -> &'static str {
    match (geteuid().is_root(), user) {
        (true, SERVICE_USER) => "setpriv --reuid 65534 --regid 65534 --clear-groups",
        _ => "",
    }
}

/// Gives the file, or all in the directory, to the user of the provider.
pub(super) fn give(path: &Path) {
    if !geteuid().is_root() {
        return;
    }
    chown(path, Some(SERVICE_USER), Some(SERVICE_USER)).unwrap();
    if path.is_dir() {
        for entry in path.read_dir().unwrap() {
            give(&entry.unwrap().path());
        }
    }
}
