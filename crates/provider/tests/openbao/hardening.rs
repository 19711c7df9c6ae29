//! What a running provider has given up, as the kernel shows it, and that it still does all that it
//! is there for.

use std::{
    ffi::OsStr,
    fs,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            fs::symlink,
            net::{SocketAddr, UnixDatagram},
        },
    },
    path::{Path, PathBuf},
};

use kms_node::{
    advice::Site,
    config::{Environment, Flags, load},
};
use kms_operator::diagnose::hardening::check;
use rustix::process::Pid;
use serde_json::{Value, json};
use testkit::{files, relay::Line, wait::wait_until};

use crate::{
    load::node_behind_relay,
    login::revoke_tokens,
    node::{Node, QUIET, TIMING},
    provider::{Provider, SOON, to_decrypt},
};

fn proc_file(provider: &Provider, name: &str) -> String {
    fs::read_to_string(format!("/proc/{}/{name}", provider.pid())).unwrap()
}

fn leaves_no_core(process: &Provider) -> bool {
    let limits = proc_file(process, "limits");
    let core = limits.lines().find(|line| line.starts_with("Max core"));
    let core: Vec<_> = core.unwrap().split_whitespace().skip(4).collect();
    core[..2] == ["0", "0"]
}

/// The check of `doctor`, as the node's configuration and this process give it.
fn checked(node: &Node, provider: Option<&Provider>) -> Value {
    let flags = Flags {
        config: Some(node.write_config()),
        ..Flags::default()
    };
    let variables = node.program(&[]);
    let variables = variables.get_envs().map(|(name, value)| {
        let text = |text: &OsStr| text.to_str().unwrap().to_owned();
        (text(name), value.map_or_else(String::new, text))
    });
    let environment = Environment {
        variables: variables.collect(),
        ..Environment::of_process()
    };
    let config = load(&flags, &environment).unwrap().config;
    let pid = provider.map(|provider| Pid::from_raw(provider.pid().cast_signed()).unwrap());
    serde_json::to_value(check(&Site::none(), &config, pid)).unwrap()
}

#[tokio::test]
async fn every_thread_of_a_running_provider_has_given_up_what_it_does_not_need() {
    let node = Node::new(TIMING).await;
    let provider = node.serve().await;
    provider.encrypt(b"seed").await.unwrap();

    let hardened = provider.events("process.hardened").next().unwrap();
    for measure in ["core_dumps", "tracing", "capabilities", "no_new_privileges"] {
        assert_eq!(hardened[measure], "enforced", "{hardened}");
    }
    assert_eq!(hardened["memory_lock"], "disabled");
    assert!(leaves_no_core(&provider));

    let tasks = fs::read_dir(format!("/proc/{}/task", provider.pid())).unwrap();
    let statuses: Vec<_> = tasks
        .map(|task| task.unwrap().path().join("status"))
        .filter_map(|status| fs::read_to_string(status).ok())
        .collect();
    assert!(statuses.len() > 1, "blocking work has a thread of its own");
    for status in statuses {
        for line in [
            "NoNewPrivs:\t1",
            "CapPrm:\t0000000000000000",
            "CapEff:\t0000000000000000",
        ] {
            assert!(status.contains(line), "{line} is missing: {status}");
        }
    }
    let check = checked(&node, Some(&provider));
    assert_eq!(check["status"], "pass", "{check}");
    assert_eq!(check["details"]["landlock"], hardened["landlock"]);
    assert_eq!(checked(&node, None)["status"], "skip");
}

#[tokio::test]
async fn no_command_leaves_an_image_of_its_memory() {
    let (node, relay) = node_behind_relay().await;
    relay.set(Line::Held);
    let directory = tempfile::tempdir().unwrap();
    for command in ["verify-key", "rotation-plan", "doctor"] {
        let command = node.program(&[command]);
        let waiting = Provider::spawn(command, directory.path(), PathBuf::new());
        wait_until(SOON, "the limit", async || leaves_no_core(&waiting)).await;
    }
}

#[tokio::test]
async fn a_hardened_provider_logs_in_anew_with_a_renewed_jwt_and_saves_a_rotation() {
    let mut node = Node::new(TIMING).await;
    // A name, so that the resolver is needed too.
    let address = node.config["openbao"]["address"].as_str().unwrap();
    node.config["openbao"]["address"] = json!(address.replace("127.0.0.1", "localhost"));
    node.config["hardening"] = json!({"landlock": "required"});
    let provider = node.serve().await;
    let encrypted = provider.encrypt(b"seed").await.unwrap();

    node.tenant.write_jwt(&node.tenant.claims());
    revoke_tokens(&node).await;
    let decrypted = provider.decrypt(to_decrypt(&encrypted)).await.unwrap();
    assert_eq!(decrypted, &b"seed"[..]);
    assert!(provider.metric("auth_login_total{status=\"ok\"}").await >= 2.0);

    node.rotate().await;
    provider.encrypt_under(2).await;
    let stopped = provider.stop().await;
    assert_eq!(stopped.code, Some(0), "{}", stopped.err);
    assert!(!node.sockets.socket().exists());
    assert_eq!(node.versions().len(), 2);
}

/// Gives the node's JWT a path of its own, and asks for Landlock.
fn move_jwt(node: &mut Node, file: &Path) {
    files::directory(file.parent().unwrap(), 0o750);
    fs::copy(node.tenant.jwt_file(), file).unwrap();
    node.config["auth"]["jwt"]["jwtFile"] = json!(file);
    node.config["hardening"] = json!({"landlock": "required"});
}

/// A login with the JWT in the file that its path leads to now.
async fn log_in_anew(node: &Node, provider: &Provider) {
    let before = provider.metric("auth_login_total{status=\"ok\"}").await;
    revoke_tokens(node).await;
    wait_until(SOON, "another login", async || {
        provider.encrypt(b"seed").await.ok();
        provider.metric("auth_login_total{status=\"ok\"}").await > before
    })
    .await;
}

#[tokio::test]
async fn a_volume_whose_link_is_swapped_stays_inside() {
    let mut node = Node::new(TIMING).await;
    let volume = node.state_dir().with_file_name("volume");
    let [first, second] = ["..first", "..second"].map(|name| volume.join(name));
    fs::create_dir(&volume).unwrap();
    move_jwt(&mut node, &first.join("jwt"));
    symlink("..first", volume.join("..data")).unwrap();
    node.config["auth"]["jwt"]["jwtFile"] = json!(volume.join("..data/jwt"));
    let provider = node.serve().await;

    files::directory(&second, 0o750);
    fs::copy(first.join("jwt"), second.join("jwt")).unwrap();
    symlink("..second", volume.join("..new")).unwrap();
    rustix::fs::rename(volume.join("..new"), volume.join("..data")).unwrap();
    fs::remove_dir_all(&first).unwrap();
    log_in_anew(&node, &provider).await;
    assert_eq!(provider.events("file.unreadable").count(), 0);
}

#[tokio::test]
async fn a_directory_that_an_agent_makes_anew_is_followed_if_it_has_a_parent_of_its_own() {
    let mut node = Node::new(TIMING).await;
    let own = node.state_dir().with_file_name("agent").join("own");
    fs::create_dir(own.parent().unwrap()).unwrap();
    move_jwt(&mut node, &own.join("jwt"));
    let provider = node.serve().await;
    fs::remove_dir_all(&own).unwrap();
    files::directory(&own, 0o750);
    fs::copy(node.tenant.jwt_file(), own.join("jwt")).unwrap();
    log_in_anew(&node, &provider).await;
}

#[tokio::test]
async fn a_directory_made_anew_beside_other_files_is_named_as_outside() {
    let mut node = Node::new(TIMING).await;
    let own = node.state_dir().with_file_name("own");
    move_jwt(&mut node, &own.join("jwt"));
    let mut provider = node.serve().await;
    fs::remove_dir_all(&own).unwrap();
    files::directory(&own, 0o750);
    fs::copy(node.tenant.jwt_file(), own.join("jwt")).unwrap();
    let outside = async || {
        let mut events = provider.events("file.unreadable");
        events.any(|event| event["reason"] == "sandbox")
    };
    wait_until(SOON, "the reason", outside).await;
    let event = provider.events("file.unreadable").last().unwrap();
    assert_eq!(event["setting"], "auth.jwt.jwtFile");
    let series = r#"file_unreadable{setting="auth.jwt.jwtFile"}"#;
    assert_eq!(provider.metric(series).await, 1.0);
    provider.encrypt(b"seed").await.unwrap();
    provider.assert_running();
}

#[tokio::test]
async fn a_directory_that_takes_the_place_of_the_credentials_is_outside() {
    let mut node = Node::new(QUIET).await;
    let [here, new, aside] =
        ["credentials", "new", "aside"].map(|name| node.state_dir().with_file_name(name));
    for directory in [&here, &new] {
        files::directory(directory, 0o750);
        fs::copy(node.tenant.jwt_file(), directory.join("node.jwt")).unwrap();
    }
    node.config["auth"]["jwt"]["jwtFile"] = json!(here.join("node.jwt"));
    let provider = node.serve().await;
    let encrypted = provider.encrypt(b"seed").await.unwrap();
    rustix::fs::rename(&here, &aside).unwrap();
    rustix::fs::rename(&new, &here).unwrap();
    revoke_tokens(&node).await;
    let refused = provider.decrypt(to_decrypt(&encrypted)).await;
    refused.unwrap_err();

    rustix::fs::rename(&here, &new).unwrap();
    rustix::fs::rename(&aside, &here).unwrap();
    wait_until(SOON, "a login with the former directory", async || {
        provider.decrypt(to_decrypt(&encrypted)).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn memory_is_locked_or_the_log_says_why_not() {
    let mut node = Node::new(QUIET).await;
    node.config["hardening"] = json!({"lockMemory": "best-effort"});
    let provider = node.serve().await;
    provider.encrypt(b"seed").await.unwrap();
    let hardened = provider.events("process.hardened").next().unwrap();
    let status = proc_file(&provider, "status");
    let locked = !status.contains("VmLck:\t       0 kB");
    let refused = provider.events("process.not_hardened");
    let refused: Vec<_> = refused.map(|event| event["measure"].clone()).collect();
    if locked {
        assert_eq!(hardened["memory_lock"], "enforced");
        assert_eq!(refused, Vec::<Value>::new());
    } else {
        assert_eq!(hardened["memory_lock"], "refused");
        assert_eq!(refused, ["memory_lock"]);
    }
    let check = checked(&node, Some(&provider));
    assert_eq!(check["status"], if locked { "pass" } else { "warn" });
}

/// Receives what a service manager is told.
struct Manager(UnixDatagram);

impl Manager {
    fn new(name: &str) -> Self {
        let address = match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name).unwrap(),
            None => SocketAddr::from_pathname(name).unwrap(),
        };
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        Self(socket)
    }

    fn told(&self) -> String {
        let mut message = [0; 256];
        let length = self.0.recv(&mut message).unwrap();
        String::from_utf8(message[..length].to_vec()).unwrap()
    }
}

#[tokio::test]
async fn a_service_manager_learns_of_start_readiness_life_and_stop() {
    let node = Node::new(QUIET).await;
    let abstract_name = format!("@bao-kms-provider-test-{}", std::process::id());
    let path = node.state_dir().join("notify");
    for name in [abstract_name.as_str(), path.to_str().unwrap()] {
        let manager = Manager::new(name);
        let mut command = node.program(&["serve"]);
        command.env("NOTIFY_SOCKET", name);
        command.env("WATCHDOG_USEC", "100000");
        let mut provider = node.spawn_as(command);
        let starting = manager.told();
        assert!(starting.starts_with("EXTEND_TIMEOUT_USEC=60000000\n"));
        let mut told = manager.told();
        while told == "WATCHDOG=1" {
            told = manager.told();
        }
        assert_eq!(told, "READY=1\nSTATUS=serving");
        provider.ready().await;
        assert_eq!([manager.told(), manager.told()], ["WATCHDOG=1"; 2]);
        let stopped = provider.stop().await;
        assert_eq!(stopped.code, Some(0), "{}", stopped.err);
        let mut told = manager.told();
        while told == "WATCHDOG=1" {
            told = manager.told();
        }
        assert!(told.starts_with("STOPPING=1\n"), "{told}");
    }
}

#[tokio::test]
async fn the_watchdog_of_another_process_is_not_fed() {
    let node = Node::new(QUIET).await;
    let path = node.state_dir().join("notify");
    let manager = Manager::new(path.to_str().unwrap());
    let mut command = node.program(&["serve"]);
    command.env("NOTIFY_SOCKET", &path);
    command.env("WATCHDOG_USEC", "100000");
    command.env("WATCHDOG_PID", "1");
    let mut provider = node.spawn_as(command);
    provider.ready().await;
    provider.stop().await;
    assert!(manager.told().starts_with("EXTEND_TIMEOUT_USEC"));
    assert!(manager.told().starts_with("READY=1"));
    assert!(manager.told().starts_with("STOPPING=1"));
}
