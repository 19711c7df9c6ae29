//! The rules for files and directories that a configuration names, one broken at a time.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "functions that only tests call may fail like tests"
)]

use std::{
    fs::{self, File},
    io::Write,
    os::unix::{
        fs::{PermissionsExt, chown, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

use kms_node::{
    config::{Config, Environment, Flags, Problem, ProblemKind, parse},
    node_files,
};
use rustix::process::geteuid;
use tempfile::TempDir;

#[test]
fn a_node_as_it_should_be_has_no_problem() {
    let node = Node::new();
    assert_eq!(node.check(), []);
    let _listener = UnixListener::bind(node.path("sockets/kms/kms.sock")).unwrap();
    assert_eq!(node.check(), []);
}

#[test]
fn modes_that_let_others_read_or_write_are_refused_with_the_command_that_mends_them() {
    for (name, mode, path) in [
        ("config.yaml", 0o644, "(configuration file)"),
        ("config.yaml", 0o660, "(configuration file)"),
        ("ca.crt", 0o664, "openbao.caCertFile"),
        ("identity.jwt", 0o644, "auth.jwt.jwtFile"),
        ("identity.jwt", 0o650, "auth.jwt.jwtFile"),
        ("state", 0o770, "state.path"),
        ("sockets/kms", 0o720, "server.socketPath"),
        ("sockets", 0o702, "server.socketPath"),
        ("", 0o750, "server.socketPath"),
    ] {
        let node = Node::new();
        set_mode(&node.path(name), mode);
        let problem = node.only_problem();
        assert_eq!(
            (problem.path.as_str(), problem.kind),
            (path, ProblemKind::File)
        );
        let hint = problem.hint.unwrap();
        let (allowed, named) = hint
            .strip_prefix("run: chmod ")
            .and_then(|command| command.split_once(' '))
            .unwrap();
        assert_eq!(Path::new(named), node.path(name));
        set_mode(&node.path(name), u32::from_str_radix(allowed, 8).unwrap());
        assert_eq!(node.check(), []);
    }
}

#[test]
fn what_is_missing_or_of_another_kind_is_refused() {
    for (name, path) in [
        ("config.yaml", "(configuration file)"),
        ("ca.crt", "openbao.caCertFile"),
        ("identity.jwt", "auth.jwt.jwtFile"),
        ("state", "state.path"),
    ] {
        let node = Node::new();
        let aside = node.path("aside");
        rustix::fs::rename(node.path(name), &aside).unwrap();
        assert_eq!(node.only_problem().path, path, "{name} is missing");
        symlink(&aside, node.path(name)).unwrap();
        let problem = node.only_problem();
        assert_eq!(problem.path, path);
        assert!(problem.rule.contains("symbolic link"), "{}", problem.rule);
    }
    let node = Node::new();
    write(&node.path("sockets/kms/kms.sock"), b"");
    assert!(node.only_problem().rule.contains("not a socket"));
}

#[test]
fn a_bundle_without_a_certificate_is_refused() {
    let node = Node::new();
    for (content, rule) in [
        (&b""[..], "at least one PEM certificate"),
        (
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "usable",
        ),
    ] {
        write(&node.path("ca.crt"), content);
        let problem = node.only_problem();
        assert_eq!(problem.path, "openbao.caCertFile");
        assert!(problem.rule.contains(rule), "{}", problem.rule);
    }
}

#[test]
fn directories_of_another_user_are_refused() {
    let mut node = Node::new();
    node.environment.effective_uid += 1;
    let problems = node.check();
    let paths: Vec<_> = problems
        .iter()
        .map(|problem| problem.path.as_str())
        .collect();
    assert_eq!(paths, ["server.socketPath", "state.path"]);
    assert!(problems[0].rule.contains("belongs to user"));
}

#[test]
fn a_start_as_root_leaves_their_owner_to_the_directories_of_the_service() {
    let node = Node::new();
    let root = Environment {
        effective_uid: 0,
        ..node.environment.clone()
    };
    for (problems, start) in [
        (
            node.check_as(&root),
            "run: systemctl start bao-kms-provider",
        ),
        (
            node.check_instance_as(&root),
            "run: systemctl start bao-kms-provider@east",
        ),
    ] {
        let foreign = problems.iter().filter(|it| it.rule.contains("belongs to"));
        let foreign: Vec<_> = foreign.collect();
        assert!(foreign.len() >= 2, "{problems:?}");
        for problem in foreign {
            assert!(problem.rule.contains("keep this owner"), "{problem:?}");
            assert_eq!(problem.hint.as_deref(), Some(start));
        }
    }
}

#[test]
fn a_group_that_does_not_exist_is_refused() {
    let mut node = Node::new();
    node.text = node.text.replace("\"990\"", "no-such-group-of-anybody");
    let problem = node.only_problem();
    assert_eq!(problem.path, "server.socketGroup");
    assert!(
        problem.rule.contains("no-such-group-of-anybody"),
        "{}",
        problem.rule
    );
}

#[test]
fn every_problem_is_reported_at_once() {
    let node = Node::new();
    for name in [
        "config.yaml",
        "ca.crt",
        "identity.jwt",
        "state",
        "sockets/kms",
    ] {
        set_mode(&node.path(name), 0o777);
    }
    assert_eq!(node.check().len(), 5);
}

/// The files of one node below a private runtime directory.
struct Node {
    directory: TempDir,
    environment: Environment,
    text: String,
}

impl Node {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().display();
        let text = format!(
            "configVersion: v1alpha1\n\
             server: {{socketGroup: \"990\", socketPath: {root}/sockets/kms/kms.sock}}\n\
             openbao:\n  address: https://bao.example\n  caCertFile: {root}/ca.crt\n  \
             tlsServerName: bao.example\n  instanceId: i\n\
             auth: {{jwt: {{mountPath: auth/jwt, role: kms, jwtFile: {root}/identity.jwt}}}}\n\
             transit: {{mountPath: transit, keyName: k, keyIdScope: {{providerName: p, \
             clusterId: c, transitMountId: m, keyLineageId: l}}}}\n\
             state: {{path: {root}/state/key-registry.json}}\n"
        );
        let authority = rcgen::generate_simple_self_signed(["bao.example".to_owned()]).unwrap();
        for (name, mode, content) in [
            ("config.yaml", 0o640, text.as_bytes()),
            ("ca.crt", 0o644, authority.cert.pem().as_bytes()),
            ("identity.jwt", 0o640, b"not read here"),
        ] {
            let path = directory.path().join(name);
            write(&path, content);
            set_mode(&path, mode);
        }
        set_mode(directory.path(), 0o700);
        for (name, mode) in [("sockets", 0o755), ("sockets/kms", 0o750), ("state", 0o750)] {
            let path = directory.path().join(name);
            fs::create_dir(&path).unwrap();
            set_mode(&path, mode);
        }
        let environment = Environment {
            variables: [("XDG_RUNTIME_DIR".to_owned(), root.to_string())].into(),
            effective_uid: user_of(&directory),
        };
        Self {
            directory,
            environment,
            text,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn check(&self) -> Vec<Problem> {
        self.check_as(&self.environment)
    }

    /// For a start in another environment.
    fn check_as(&self, environment: &Environment) -> Vec<Problem> {
        let path = self.path("config.yaml");
        let config: Config = parse(
            &self.text,
            path.clone(),
            &Flags::default(),
            &self.environment,
        )
        .unwrap()
        .config;
        node_files::check(&config, &path, environment)
            .err()
            .unwrap_or_default()
    }

    /// As [`Self::check_as`], with the configuration of a packaged instance, which is absent here.
    fn check_instance_as(&self, environment: &Environment) -> Vec<Problem> {
        let path = PathBuf::from("/etc/openbao-kms/east/config.yaml");
        let loaded = parse(
            &self.text,
            path.clone(),
            &Flags::default(),
            &self.environment,
        );
        node_files::check(&loaded.unwrap().config, &path, environment).unwrap_err()
    }

    fn only_problem(&self) -> Problem {
        let mut problems = self.check();
        match (problems.pop(), problems.as_slice()) {
            (Some(problem), []) => problem,
            (last, others) => panic!("{last:?} {others:?}"),
        }
    }
}

/// The user whose runtime directory this is. Root has none, so root gives it away.
fn user_of(directory: &TempDir) -> u32 {
    let user = geteuid();
    if !user.is_root() {
        return user.as_raw();
    }
    let stranger = 61_234;
    for name in ["", "sockets/kms", "state"] {
        chown(directory.path().join(name), Some(stranger), None).unwrap();
    }
    stranger
}

fn write(path: &Path, content: &[u8]) {
    File::create(path).unwrap().write_all(content).unwrap();
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}
