//! The checked values of an installation.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use kms_node::config::{
    self, Config, Environment, Flags, LoadError, Loaded, Method, Problem, ProblemKind,
};

use crate::{
    policy::{UnsafePolicyPath, policy},
    values::Values,
};

/// Lifetime of a token under the generated role.
pub const TOKEN_TTL: Duration = Duration::from_secs(30 * 60);

const SOCKET_DIRECTORY: &str = "/run/openbao-kms";
const STATE_DIRECTORY: &str = "/var/lib/openbao-kms/state";

/// How the provider runs on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Model {
    /// The packaged systemd unit.
    Systemd,
    /// A static pod of kubelet.
    StaticPod {
        /// `repository@sha256:...`.
        image: String,
        /// Number of the group with access to the socket.
        socket_gid: u32,
    },
}

/// Everything that the files need.
#[derive(Debug, Clone)]
pub struct Plan {
    pub loaded: Loaded,
    pub model: Model,
    /// Name of the policy in OpenBao.
    pub policy_name: String,
    /// The policy in HCL.
    pub policy: String,
}

/// The values break rules.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// At least one, in the order of the configuration.
    #[error("the values are incomplete or break rules; problems: {}", .0.len())]
    Invalid(Vec<Problem>),
}

impl Plan {
    /// Options of `node prepare` for the files that only the operator has.
    #[must_use]
    pub fn operator_files(&self) -> &'static str {
        match self.loaded.config.auth.credential_files().is_empty() {
            true => "--ca FILE",
            false => "--ca FILE --credential FILE",
        }
    }

    /// Completes and checks the values as `serve` would, and by the rules of a new installation.
    ///
    /// # Errors
    /// Every problem at once.
    pub fn new(
        mut values: Values,
        model: Model,
        policy_name: Option<String>,
    ) -> Result<Self, PlanError> {
        let credentials = match &model {
            Model::Systemd => "/var/lib/openbao-kms",
            Model::StaticPod { socket_gid, .. } => {
                values.replace("server.socketGroup", socket_gid.to_string());
                "/var/lib/openbao-kms/credentials"
            }
        };
        values.complete(credentials);

        let mut problems = Vec::new();
        if let Some(name) = &policy_name
            && !is_policy_name(name)
        {
            problems.push(problem(
                "--policy-name",
                "must have letters, digits, '_', '-' and '.', begin with a letter, digit or '_', and \
                 be neither root nor default",
            ));
        }
        problems.extend(missing_claims(&values));
        let loaded = load(&values.document().to_string());
        match loaded {
            Err(PlanError::Invalid(more)) => {
                problems.extend(more);
                Err(PlanError::Invalid(problems))
            }
            Ok(loaded) => {
                problems.extend(broken_rules(&loaded, &model));
                let config = &loaded.config;
                let policy = policy_of(config).unwrap_or_else(|unsafe_path| {
                    problems.push(problem("transit.mountPath", unsafe_path.to_string()));
                    String::new()
                });
                let policy_name = policy_name
                    .unwrap_or_else(|| format!("openbao-kms-{}", config.scope.cluster_id));
                match problems.is_empty() {
                    true => Ok(Self {
                        loaded,
                        model,
                        policy_name,
                        policy,
                    }),
                    false => Err(PlanError::Invalid(problems)),
                }
            }
        }
    }
}

pub(crate) fn problem(path: &str, rule: impl Into<String>) -> Problem {
    Problem {
        path: path.to_owned(),
        kind: ProblemKind::Value,
        origin: None,
        value: None,
        rule: rule.into(),
        hint: None,
    }
}

/// Loads a configuration text. Its positions mean nothing to a user with flags and another file.
pub(crate) fn load(text: &str) -> Result<Loaded, PlanError> {
    let (flags, environment) = (Flags::default(), Environment::default());
    config::parse(text, PathBuf::from("config.yaml"), &flags, &environment).map_err(|error| {
        let problems = match error {
            LoadError::Invalid { problems, .. } => problems,
            // The text was made here, from a tree.
            other => vec![Problem {
                path: "(values)".to_owned(),
                kind: ProblemKind::Shape,
                origin: None,
                value: None,
                rule: other.to_string(),
                hint: None,
            }],
        };
        let without_origin = problems.into_iter().map(|problem| Problem {
            origin: None,
            ..problem
        });
        PlanError::Invalid(without_origin.collect())
    })
}

fn policy_of(config: &Config) -> Result<String, UnsafePolicyPath> {
    let namespace = config.scope.openbao_namespace.as_ref();
    let place = namespace.map_or("the root namespace".to_owned(), |name| {
        format!("namespace {name}")
    });
    policy(config, true, &place)
}

/// Claims that bind the login in OpenBao. The provider alone would do without them.
fn missing_claims(values: &Values) -> Vec<Problem> {
    let jwt = values.text("auth.method") == Some("jwt");
    let missing = |path: &&str| jwt && values.text(path).is_none_or(str::is_empty);
    ["auth.jwt.expectedIssuer", "auth.jwt.expectedSubject"]
        .into_iter()
        .filter(missing)
        .map(|path| problem(path, "must be written: OpenBao binds the login to it"))
        .collect()
}

/// Rules of a new installation, beyond those of the provider.
fn broken_rules(loaded: &Loaded, model: &Model) -> Vec<Problem> {
    let config = &loaded.config;
    let auth = &config.auth;
    let (socket, state) = (
        &config.server.socket_path,
        config.state_path.directory().to_owned(),
    );
    let mut problems = Vec::new();
    let mut refuse_if = |broken: bool, path: &str, rule: &str| {
        if broken {
            problems.push(problem(path, rule));
        }
    };
    refuse_if(
        auth.login_before_token_expiry >= TOKEN_TTL,
        "auth.loginBeforeTokenExpiry",
        "must be shorter than 30m, the lifetime of tokens under the generated role",
    );
    let method = auth.method.name();
    refuse_if(
        auth.mount_path()
            .is_some_and(|path| !path.as_str().starts_with("auth/")),
        &format!("auth.{method}.mountPath"),
        "must begin with auth/",
    );
    match model {
        Model::Systemd => {
            refuse_if(
                !socket.starts_with(SOCKET_DIRECTORY),
                "server.socketPath",
                "must be below /run/openbao-kms, which the unit may write",
            );
            refuse_if(
                !state.starts_with(STATE_DIRECTORY),
                "state.path",
                "must be below /var/lib/openbao-kms/state, which the unit may write",
            );
        }
        Model::StaticPod { image, socket_gid } => {
            refuse_if(
                !is_image(image),
                "--image",
                "must be repository@sha256:<64 hexadecimal digits>, without a tag",
            );
            refuse_if(
                *socket_gid == 0,
                "--socket-gid",
                "must be the number of a group other than root's",
            );
            refuse_if(
                auth.methods().any(|method| method.pkcs11().is_some()),
                "auth.cert.source",
                "must be file for a static pod: the image has no PKCS#11 module",
            );
            let mut mounted = credential_directories(config);
            mounted.extend(socket.parent().map(ToOwned::to_owned));
            mounted.push(state);
            let nested = mounted.iter().enumerate().any(|(at, one)| {
                let mut others = mounted.iter().enumerate().filter(|(other, _)| *other != at);
                others.any(|(_, other)| one.starts_with(other))
            });
            refuse_if(
                nested,
                "server.socketPath, state.path and the credential",
                "must be in directories of their own, none inside another: each is mounted alone",
            );
        }
    }
    problems
}

/// Directories of the files that the provider reads again for each login, and of the socket of a
/// SPIFFE agent, each once.
pub(crate) fn credential_directories(config: &Config) -> Vec<PathBuf> {
    let files = config.auth.credential_files().into_iter();
    let sockets = config
        .auth
        .methods()
        .filter_map(Method::workload_api_socket);
    let files = files.map(|(_, path)| path).chain(sockets);
    let directories = files.filter_map(Path::parent);
    let distinct: BTreeSet<_> = directories.map(ToOwned::to_owned).collect();
    distinct.into_iter().collect()
}

fn is_policy_name(name: &str) -> bool {
    let first = name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    let plain = name
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    first && plain && !["root", "default"].contains(&name)
}

fn is_image(image: &str) -> bool {
    let Some((repository, digest)) = image.split_once("@sha256:") else {
        return false;
    };
    let name = repository.rsplit('/').next().unwrap_or_default();
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-/:".contains(c);
    let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    digest.len() == 64
        && digest.bytes().all(hex)
        && !name.is_empty()
        && !name.contains(':')
        && repository.chars().all(plain)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The fewest values.
    pub(crate) fn values() -> Values {
        let mut values = Values::default();
        for assignment in [
            "transit.keyIdScope.clusterId=east",
            "openbao.address=https://bao.test:8200",
            "auth.jwt.expectedIssuer=https://issuer.test",
            "auth.jwt.expectedSubject=kms",
            "transit.keyIdScope.keyLineageId=4b1f0c6a9d5e47e2b8c3a07715d2f9e6",
        ] {
            values.set(assignment).unwrap();
        }
        values
    }

    fn problems(values: Values, model: Model) -> Vec<String> {
        match Plan::new(values, model, None) {
            Ok(_) => Vec::new(),
            Err(PlanError::Invalid(problems)) => problems
                .iter()
                .map(|problem| problem.path.clone())
                .collect(),
        }
    }

    #[test]
    fn five_values_are_enough() {
        let plan = Plan::new(values(), Model::Systemd, None).unwrap();
        assert_eq!(plan.policy_name, "openbao-kms-east");
        assert!(plan.policy.contains("kubernetes-kms/encrypt/east"));
    }

    #[test]
    fn all_problems_are_named_at_once() {
        let mut bad = Values::default();
        bad.set("server.socketMode=0999").unwrap();
        bad.set("auth.jwt.rolle=x").unwrap();
        let found = problems(bad, Model::Systemd);
        for path in [
            "auth.jwt.rolle",
            "openbao.address",
            "server.socketMode",
            "transit.keyIdScope.clusterId",
            "transit.keyIdScope.keyLineageId",
            "auth.jwt.expectedIssuer",
            "auth.jwt.expectedSubject",
        ] {
            assert!(found.iter().any(|it| it == path), "{path}: {found:?}");
        }
        // What follows from a missing value is no problem of its own.
        assert_eq!(found.len(), 7, "{found:?}");

        let mut elsewhere = values();
        elsewhere
            .set("state.path=/srv/state/key-registry.json")
            .unwrap();
        elsewhere
            .set("server.socketPath=/run/kms/kms.sock")
            .unwrap();
        elsewhere.set("auth.loginBeforeTokenExpiry=45m").unwrap();
        let found = problems(elsewhere, Model::Systemd);
        assert_eq!(
            found,
            [
                "auth.loginBeforeTokenExpiry",
                "server.socketPath",
                "state.path"
            ]
        );
    }

    #[test]
    fn a_static_pod_has_an_image_by_digest_and_a_group() {
        let digest = "a".repeat(64);
        let pod = |image: String, socket_gid| Model::StaticPod { image, socket_gid };
        let good = pod(
            format!("registry.test:5000/kms/provider@sha256:{digest}"),
            990,
        );
        assert_eq!(problems(values(), good), Vec::<String>::new());
        for image in [
            format!("provider:1@sha256:{digest}"),
            "provider@sha256:abc".to_owned(),
            "provider:latest".to_owned(),
            format!("@sha256:{digest}"),
        ] {
            assert_eq!(
                problems(values(), pod(image.clone(), 990)),
                ["--image"],
                "{image}"
            );
        }
        let root = pod(format!("provider@sha256:{digest}"), 0);
        assert_eq!(
            problems(values(), root),
            ["server.socketGroup", "--socket-gid"][1..]
        );

        let mut certificate = values();
        certificate.set("auth.method=cert").unwrap();
        let good = pod(format!("provider@sha256:{digest}"), 990);
        assert_eq!(problems(certificate.clone(), good), Vec::<String>::new());
        for assignment in [
            "auth.cert.source=pkcs11",
            "auth.cert.pkcs11.certificateFile=/var/lib/openbao-kms/credentials/client.crt",
            "auth.cert.pkcs11.modulePath=/usr/lib/module.so",
            "auth.cert.pkcs11.tokenLabel=t",
            "auth.cert.pkcs11.keyLabel=k",
            "auth.cert.pkcs11.pinFile=/var/lib/openbao-kms/credentials/pin",
            "auth.cert.pkcs11.maxSessions=2",
        ] {
            certificate.set(assignment).unwrap();
        }
        let token = pod(format!("provider@sha256:{digest}"), 990);
        assert_eq!(problems(certificate, token), ["auth.cert.source"]);

        let mut nested = values();
        nested
            .set("auth.jwt.jwtFile=/var/lib/openbao-kms/state/jwt/identity.jwt")
            .unwrap();
        let good = pod(format!("provider@sha256:{digest}"), 990);
        assert_eq!(problems(nested, good).len(), 1);
    }
}
