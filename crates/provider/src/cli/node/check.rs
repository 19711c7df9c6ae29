//! `node check`: doctor, and the relations of this node to its installation.

use std::{
    io::ErrorKind,
    net::TcpListener,
    path::{Path, PathBuf},
};

use clap::Args;
use kms_install::{
    directory::Directory,
    files::API_SERVER_DIRECTORY,
    node::{MANIFEST, Unit, disk::Root},
    plan::Model,
};
use kms_node::{
    advice::{Cause, NextStep, Site, Values, install, node, site::shell},
    clock::{Clock as _, SystemClock},
    config::{Config, Listener},
    report::{
        CheckName, CheckResult, one_line,
        outcome::{Nothing, Outcome},
    },
    state::Holder,
};

use super::{Context, Exit, Failure, NodeError, UNREAD, compare_nodes, of_this_node, unprepared};
use crate::cli::{OutputFlag, doctor};

const FILES: CheckName = CheckName("node.files", "Files of the installation on this node");
const IDENTITY: CheckName = CheckName("node.identity", "Identity of the installation");
const UNIT: CheckName = CheckName("node.unit", "Unit or manifest of the provider");
const ORDER: CheckName = CheckName("node.order", "Start before kube-apiserver");
const PORTS: CheckName = CheckName("node.ports", "Addresses for metrics and health");

/// Check this node like doctor, with its installation, ports and start order
///
/// Changes nothing on this node. Exit codes of doctor: 4 when a check fails, 3 when it is one of the
/// configuration. Run it as root.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Directory that init wrote
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
    #[command(flatten)]
    output: OutputFlag,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        let installation = Directory::read(&self.directory).map_err(NodeError::from)?;
        let mut outcome = Outcome::new("node check", SystemClock.now(), Nothing {});
        // Before doctor's change of user.
        let mut checks = vec![self.files(&installation), identity(&installation, context)];
        checks.extend(start(&installation));
        checks.push(ports(&installation.loaded.config));
        let encryption = Path::new(API_SERVER_DIRECTORY).join("encryption-config.yaml");
        let encryption = encryption.exists().then_some(&*encryption);
        checks.extend(doctor::examined(&mut outcome, encryption, context)?);
        kms_operator::diagnose::conclude(&mut outcome, checks);
        if outcome.exit() == Exit::Success {
            let directory = shell(&self.directory);
            outcome.add_step(NextStep::run(
                "start the provider",
                format!("bao-kms-provider node start {directory} --apply"),
            ));
            outcome.add_steps(compare_nodes(&installation.loaded.config));
        }
        self.output.show(&outcome, context)
    }

    fn files(&self, installation: &Directory) -> CheckResult {
        let missing = unprepared(installation);
        if missing.iter().any(|row| row.status == UNREAD) {
            return FILES.skip("some files are readable for root alone");
        }
        let shown = missing.iter().map(|row| {
            let detail = format!("{} ({}) {}", row.object, row.status, row.detail);
            detail.trim_end().to_owned()
        });
        let shown: Vec<_> = shown.collect();
        match shown.is_empty() {
            true => FILES.pass(),
            false => {
                let directory = shell(&self.directory);
                let values = [("directory", &*directory)];
                failed(FILES, shown.join("; "), &install::UNPREPARED, &values)
            }
        }
    }
}

fn failed(name: CheckName, found: String, cause: &Cause, values: Values<'_>) -> CheckResult {
    let site = Site::new(Path::new(kms_install::node::CONFIG), None);
    name.fail(found).because(cause.advise(&site, values))
}

fn identity(installation: &Directory, context: &Context<'_>) -> CheckResult {
    let expected = installation.loaded.config.fingerprint();
    match of_this_node(installation, context.environment) {
        Ok(_) => IDENTITY.pass().message(expected.to_string()),
        // A check of doctor has the cause.
        Err(Err(error)) => IDENTITY.skip(one_line(&error)),
        Err(Ok(found)) => {
            let message = format!("this node has {found}, and the installation {expected}");
            failed(IDENTITY, message, &install::OTHER_INSTALLATION, &[]).of_configuration()
        }
    }
}

fn start(installation: &Directory) -> Vec<CheckResult> {
    let root = Root::new(Path::new("/"));
    if let Model::StaticPod { .. } = installation.model {
        let check = match root.look(Path::new(MANIFEST)) {
            Ok(Some(_)) => UNIT.pass().message(MANIFEST),
            _ => UNIT.warn(format!(
                "{MANIFEST} does not exist yet: node start installs it"
            )),
        };
        let order = "kubelet starts all static pods together, and kube-apiserver retries";
        return vec![check, ORDER.pass().message(order)];
    }
    let Some(unit) = Unit::find(&root) else {
        let message = "the packaged unit is not installed".to_owned();
        return vec![
            failed(UNIT, message, &install::PACKAGE_MISSING, &[]),
            ORDER.skip("because node.unit failed"),
        ];
    };
    let order = match unit.starts_after(&root) {
        None => ORDER.pass(),
        Some(service) => {
            let message = format!("{service} does not wait for {}", unit.path.display());
            failed(
                ORDER,
                message,
                &install::START_ORDER,
                &[("service", service)],
            )
        }
    };
    vec![UNIT.pass().message(unit.path.display().to_string()), order]
}

/// The running provider holds its own addresses.
fn ports(config: &Config) -> CheckResult {
    let holder = Holder::of(&config.state_path.lock());
    if matches!(holder, Ok(Some(holder)) if holder.is_provider()) {
        return PORTS.pass().message("in use by the running provider");
    }
    let listeners = [&config.server.metrics, &config.server.health].into_iter();
    let taken = listeners.flatten().map(Listener::bind_to).find(|address| {
        matches!(TcpListener::bind(address), Err(error) if error.kind() == ErrorKind::AddrInUse)
    });
    match taken {
        None => PORTS.pass(),
        Some((host, port)) => {
            let message = format!("{host}:{port} is in use by another process");
            failed(PORTS, message, &node::LISTENER_UNUSABLE, &[])
        }
    }
}
