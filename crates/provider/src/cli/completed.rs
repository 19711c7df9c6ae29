//! Options that were left out, from the environment and from kubeadm's files.
//!
//! They are added to the typed line before it is parsed. So one set of rules holds for all options,
//! and the printed commands also run where the variables are unset, as below `sudo`.

use std::{ffi::OsString, fs::File, path::Path};

use clap::CommandFactory as _;
use kms_node::{config::Environment, report::outcome::OptionSource};

use super::{Cli, Line};

/// Directory of etcd's certificates on a control-plane node of kubeadm.
pub(super) const KUBEADM_ETCD: &str = "/etc/kubernetes/pki/etcd";

/// Kubeconfig of the administrator on a control-plane node of kubeadm.
const ADMIN_CONF: &str = "/etc/kubernetes/admin.conf";

/// Options of a connection to OpenBao, with the variables of `bao`.
pub(super) const OPENBAO: [(&str, &str); 4] = [
    ("openbao-address", "BAO_ADDR"),
    ("openbao-cacert", "BAO_CACERT"),
    ("openbao-namespace", "BAO_NAMESPACE"),
    ("openbao-server-name", "BAO_TLS_SERVER_NAME"),
];

/// Commands that need one source of etcd data. For all others a reading of etcd is typed evidence: it
/// decides verdicts, so no variable may add it.
const ONE_SOURCE: [&str; 3] = ["extract", "scan-etcd", "verify-backup"];

/// A command line with the options that were left out.
pub(super) struct Completed {
    pub(super) arguments: Vec<OsString>,
    pub(super) sources: Vec<OptionSource>,
}

impl Completed {
    /// Adds the options that the command has and the line lacks.
    pub(super) fn new(arguments: Vec<OsString>, environment: &Environment, kubeadm: &Path) -> Self {
        let cli = Cli::command();
        let command = Line::of(&arguments).command;
        // `help COMMAND` has the name of a command and none of its options.
        let command = command.filter(|_| !arguments.iter().any(|it| it == "help"));
        let command = command.and_then(|command| cli.find_subcommand(command));
        let has = |option| {
            let mut options = command.into_iter().flat_map(clap::Command::get_arguments);
            options.any(|it| it.get_long() == Some(option))
        };
        let mut line = Self {
            arguments,
            sources: Vec::new(),
        };

        // The address of init is a setting of the installation.
        let asks_openbao = has("token-file");
        for (option, variable) in OPENBAO {
            if asks_openbao && has(option) && !line.names(option) {
                line.add_variable(option, variable, environment);
            }
        }
        if has("kubeconfig") && !line.names("kubeconfig") {
            line.complete_kubeconfig(environment);
        }
        if has("endpoints") {
            let is_required = command.is_some_and(|it| ONE_SOURCE.contains(&it.get_name()));
            line.complete_etcd(is_required, environment, kubeadm);
        }
        line
    }

    /// As `kubectl` looks for it, then the file of kubeadm's administrator.
    fn complete_kubeconfig(&mut self, environment: &Environment) {
        if environment.variable("KUBECONFIG").is_some() {
            return self.add_variable("kubeconfig", "KUBECONFIG", environment);
        }
        let home = environment.variable("HOME").map(Path::new);
        let of_home = home.map(|home| home.join(".kube/config"));
        let files = [(of_home, "HOME"), (Some(ADMIN_CONF.into()), "kubeadm")];
        for (file, source) in files {
            if let Some(file) = file.filter(|file| File::open(file).is_ok()) {
                return self.add("kubeconfig", &file.to_string_lossy(), source);
            }
        }
    }

    fn complete_etcd(&mut self, is_required: bool, environment: &Environment, kubeadm: &Path) {
        if is_required && !self.names("endpoints") && !self.names("etcd-snapshot") {
            self.add_variable("endpoints", "ETCDCTL_ENDPOINTS", environment);
        }
        if !self.names("endpoints") {
            return;
        }
        if !self.names("cacert") {
            self.add_variable("cacert", "ETCDCTL_CACERT", environment);
        }
        // A certificate and the key of another one make no client.
        if !self.names("cert") && !self.names("key") {
            self.add_variable("cert", "ETCDCTL_CERT", environment);
            self.add_variable("key", "ETCDCTL_KEY", environment);
        }
        if ["cacert", "cert", "key"].iter().any(|it| self.names(it)) || self.is_plain() {
            return;
        }
        let files = [
            ("cacert", "ca.crt"),
            ("cert", "server.crt"),
            ("key", "server.key"),
        ];
        let files = files.map(|(option, name)| (option, kubeadm.join(name)));
        if files.iter().all(|(_, file)| file.exists()) {
            for (option, file) in files {
                self.add(option, &file.to_string_lossy(), "kubeadm");
            }
        }
    }

    /// Whether the line has the option.
    fn names(&self, option: &str) -> bool {
        self.values(option).next().is_some()
    }

    /// Values of the option; empty at the end of the line.
    fn values(&self, option: &str) -> impl Iterator<Item = String> {
        let next = self.arguments.iter().skip(1).map(Some).chain([None]);
        self.arguments
            .iter()
            .zip(next)
            .filter_map(move |(it, next)| {
                let it = it.to_string_lossy();
                let rest = it.strip_prefix("--")?.strip_prefix(option)?;
                match rest.strip_prefix('=') {
                    Some(value) => Some(value.to_owned()),
                    None if rest.is_empty() => {
                        Some(next.map_or_else(String::new, |it| it.to_string_lossy().into_owned()))
                    }
                    None => None,
                }
            })
    }

    /// Whether every endpoint is one without TLS.
    fn is_plain(&self) -> bool {
        let mut values = self.values("endpoints");
        values.all(|urls| urls.split(',').all(|url| url.starts_with("http://")))
    }

    fn add_variable(
        &mut self,
        option: &'static str,
        variable: &'static str,
        environment: &Environment,
    ) {
        if let Some(value) = environment.variable(variable) {
            self.add(option, value, variable);
        }
    }

    fn add(&mut self, option: &str, value: &str, source: &'static str) {
        let option = format!("--{option}");
        self.arguments.push(format!("{option}={value}").into());
        self.sources.push(OptionSource {
            option,
            value: value.to_owned(),
            source,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(
        line: &str,
        variables: &[(&str, &str)],
        kubeadm: &Path,
    ) -> (String, Vec<&'static str>) {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let environment = Environment {
            variables: variables.iter().map(owned).collect(),
            effective_uid: 0,
        };
        let typed = line.split(' ').map(OsString::from).collect();
        let completed = Completed::new(typed, &environment, kubeadm);
        let texts: Vec<_> = completed
            .arguments
            .iter()
            .map(|it| it.to_string_lossy())
            .collect();
        let sources = completed.sources.iter().map(|it| it.source);
        (texts.join(" "), sources.collect())
    }

    const ETCDCTL: [(&str, &str); 4] = [
        ("ETCDCTL_ENDPOINTS", "a:2379"),
        ("ETCDCTL_CACERT", "/ca"),
        ("ETCDCTL_CERT", "/cert"),
        ("ETCDCTL_KEY", "/key"),
    ];

    #[test]
    fn a_typed_option_wins_over_its_variable() {
        let none = Path::new("/nonexistent");
        let whole = complete("x scan-etcd", &ETCDCTL, none).0;
        assert_eq!(
            whole,
            "x scan-etcd --endpoints=a:2379 --cacert=/ca --cert=/cert --key=/key"
        );
        let typed = complete(
            "x scan-etcd --endpoints b:1 --cert=/c --key /k",
            &ETCDCTL,
            none,
        );
        assert_eq!(
            typed.0,
            "x scan-etcd --endpoints b:1 --cert=/c --key /k --cacert=/ca"
        );
        assert_eq!(typed.1, ["ETCDCTL_CACERT"]);
        let bao = [("BAO_ADDR", "https://a:1"), ("BAO_CACERT", "")];
        let openbao = complete("x verify-key", &bao, none).0;
        assert_eq!(openbao, "x verify-key --openbao-address=https://a:1");
    }

    #[test]
    fn a_snapshot_or_a_command_without_the_option_leaves_the_variables_unread() {
        let none = Path::new("/nonexistent");
        for line in [
            "x scan-etcd --etcd-snapshot /db",
            "x version",
            "x nothing",
            "x",
            "x serve",
            "x doctor",
            "x triage",
            "x help scan-etcd",
        ] {
            assert_eq!(complete(line, &ETCDCTL, none), (line.to_owned(), vec![]));
        }
        for line in [
            "x doctor",
            "x triage --endpoints=http://b:1",
            "x recover-state",
            "x init",
        ] {
            let bao = [("BAO_ADDR", "https://a:1")];
            assert_eq!(complete(line, &bao, none), (line.to_owned(), vec![]));
        }
    }

    #[test]
    fn the_files_of_kubeadm_are_used_together_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let kubeadm = directory.path();
        let line = "x verify-rotation --endpoints 127.0.0.1:2379";
        for name in ["ca.crt", "server.crt"] {
            File::create(kubeadm.join(name)).unwrap();
        }
        assert_eq!(complete(line, &[], kubeadm).1, [""; 0]);
        File::create(kubeadm.join("server.key")).unwrap();
        let (typed, sources) = complete(line, &[], kubeadm);
        assert_eq!(sources, ["kubeadm"; 3]);
        assert!(typed.contains("/server.key"), "{typed}");
        assert_eq!(
            complete(line, &ETCDCTL[1..2], kubeadm).1,
            ["ETCDCTL_CACERT"]
        );
        let plain = "x verify-rotation --endpoints=http://127.0.0.1:2379";
        assert_eq!(complete(plain, &[], kubeadm).1, [""; 0]);
    }
}
