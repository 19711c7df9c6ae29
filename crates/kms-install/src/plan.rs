//! The checked values of an installation.

use std::{path::PathBuf, time::Duration};

use kms_domain::scope::TransitKeyPath;
use kms_node::config::{
    self, Environment, Flags, JwtSource, LoadError, Loaded, Method, Problem, ProblemKind,
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
    /// Completes and checks the values as `serve` would, and by the rules of a new installation.
    ///
    /// # Errors
    /// Every problem at once.
    pub fn new(
        mut values: Values,
        model: Model,
        policy_name: Option<String>,
    ) -> Result<Self, PlanError> {
        if let Model::StaticPod { socket_gid, .. } = &model {
            values.replace("server.socketGroup", socket_gid.to_string());
            values.fill(
                "auth.jwt.jwtFile",
                "/var/lib/openbao-kms/credentials/identity.jwt",
            );
        }
        values.complete();
        let loaded = load(&values.document().to_string())?;

        let config = &loaded.config;
        let policy_name =
            policy_name.unwrap_or_else(|| format!("openbao-kms-{}", config.scope.cluster_id));
        let mut problems = Vec::new();
        let mut refuse = |path: &str, rule: &str| {
            problems.push(Problem {
                path: path.to_owned(),
                kind: ProblemKind::Value,
                origin: None,
                value: None,
                rule: rule.to_owned(),
                hint: None,
            });
        };
        if let Err(unsupported) = config.auth.supported() {
            refuse("auth.method", &unsupported.to_string());
        }
        check_login(&loaded, &mut refuse);
        check_places(&loaded, &model, &mut refuse);
        if !is_policy_name(&policy_name) {
            refuse(
                "--policy-name",
                "must have letters, digits, '_', '-' and '.', begin with a letter, digit or '_', and \
                 be neither root nor default",
            );
        }
        let policy = policy_of(&config.key, config);
        match policy {
            Ok(policy) if problems.is_empty() => Ok(Self {
                loaded,
                model,
                policy_name,
                policy,
            }),
            Ok(_) => Err(PlanError::Invalid(problems)),
            Err(unsafe_path) => {
                problems.push(Problem {
                    path: "transit.mountPath".to_owned(),
                    kind: ProblemKind::Value,
                    origin: None,
                    value: None,
                    rule: unsafe_path.to_string(),
                    hint: None,
                });
                Err(PlanError::Invalid(problems))
            }
        }
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

fn policy_of(key: &TransitKeyPath, config: &config::Config) -> Result<String, UnsafePolicyPath> {
    let namespace = config.scope.openbao_namespace.as_ref();
    let place = namespace.map_or("the root namespace".to_owned(), |name| {
        format!("namespace {name}")
    });
    policy(key, true, &place)
}

fn check_login(loaded: &Loaded, refuse: &mut impl FnMut(&str, &str)) {
    let auth = &loaded.config.auth;
    if auth.login_before_token_expiry >= TOKEN_TTL {
        refuse(
            "auth.loginBeforeTokenExpiry",
            "must be shorter than 30m, the lifetime of tokens under the generated role",
        );
    }
    if !auth.mount_path().as_str().starts_with("auth/") {
        refuse("auth mountPath", "must begin with auth/");
    }
    if let Method::Jwt(jwt) = &auth.method {
        let claims = &jwt.claims;
        if claims.expected_issuer.is_none() {
            refuse(
                "auth.jwt.expectedIssuer",
                "must be written: OpenBao binds the login to it",
            );
        }
        if claims.expected_audience.is_empty() {
            refuse(
                "auth.jwt.expectedAudience",
                "must have an entry: OpenBao binds the role to it",
            );
        }
        if claims.expected_subject.is_none() {
            refuse(
                "auth.jwt.expectedSubject",
                "must be written: OpenBao binds the role to it",
            );
        }
    }
}

fn check_places(loaded: &Loaded, model: &Model, refuse: &mut impl FnMut(&str, &str)) {
    let config = &loaded.config;
    let (socket, state) = (&config.server.socket_path, config.state_path.directory());
    match model {
        Model::Systemd => {
            if !socket.starts_with(SOCKET_DIRECTORY) {
                refuse(
                    "server.socketPath",
                    "must be below /run/openbao-kms, which the unit may write",
                );
            }
            if !state.starts_with(STATE_DIRECTORY) {
                refuse(
                    "state.path",
                    "must be below /var/lib/openbao-kms/state, which the unit may write",
                );
            }
        }
        Model::StaticPod { image, socket_gid } => {
            if !is_image(image) {
                refuse(
                    "--image",
                    "must be repository@sha256:<64 hexadecimal digits>, without a tag",
                );
            }
            if *socket_gid == 0 {
                refuse(
                    "--socket-gid",
                    "must be the number of a group other than root's",
                );
            }
            let Method::Jwt(jwt) = &config.auth.method else {
                refuse("auth.method", "must be jwt for a static pod");
                return;
            };
            let JwtSource::File(credential) = &jwt.source else {
                return;
            };
            let parents = [
                Some(&**socket),
                Some(&*config.state_path.document()),
                Some(&**credential),
            ]
            .map(|path| {
                path.and_then(std::path::Path::parent)
                    .map(ToOwned::to_owned)
            });
            let disjoint = parents.iter().enumerate().all(|(at, one)| {
                parents.iter().enumerate().all(|(other_at, other)| {
                    at == other_at
                        || one
                            .as_ref()
                            .zip(other.as_ref())
                            .is_some_and(|(one, other)| !one.starts_with(other))
                })
            });
            if !disjoint {
                refuse(
                    "server.socketPath, state.path, auth.jwt.jwtFile",
                    "must be in three directories, none inside another: each is mounted alone",
                );
            }
        }
    }
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
mod tests {
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
        ] {
            assert!(found.iter().any(|it| it == path), "{path}: {found:?}");
        }

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

        let mut nested = values();
        nested
            .set("auth.jwt.jwtFile=/var/lib/openbao-kms/state/jwt/identity.jwt")
            .unwrap();
        let good = pod(format!("provider@sha256:{digest}"), 990);
        assert_eq!(problems(nested, good).len(), 1);
    }
}
