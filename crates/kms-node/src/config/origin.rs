//! Origins of values, and the few settings that a flag or variable may replace.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use kms_domain::scope::Namespace;
use openbao_client::endpoint::Address;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::{
    resolve::Setting,
    settings::{Logging, OpenBao, Server},
};
use crate::{environment::Environment, token_file::TokenFile};

/// The default of `--config` for every command that needs a configuration.
pub const DEFAULT_CONFIG_PATH: &str = "/etc/openbao-kms/config.yaml";

const CONFIG_PATH_VARIABLES: [&str; 2] =
    ["BAO_KMS_PROVIDER_CONFIG", "BAO_KMS_PROVIDER_CONFIG_PATH"];

const LOG_LEVEL_VARIABLES: [&str; 2] = [
    "BAO_KMS_PROVIDER_LOG_LEVEL",
    "BAO_KMS_PROVIDER_LOGGING_LEVEL",
];

const METRICS_VARIABLES: [&str; 2] = [
    "BAO_KMS_PROVIDER_SERVER_METRICS_ADDRESS",
    "BAO_KMS_PROVIDER_SERVER_METRICSADDRESS",
];

const HEALTH_VARIABLES: [&str; 2] = [
    "BAO_KMS_PROVIDER_SERVER_HEALTH_ADDRESS",
    "BAO_KMS_PROVIDER_SERVER_HEALTHADDRESS",
];

/// Where the value of a setting came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "origin", rename_all = "camelCase")]
pub enum Origin {
    /// The built-in default.
    Default,
    /// The configuration file; lines and columns begin at 1.
    File {
        /// The line of the value.
        line: u64,
        /// The column of the value.
        column: u64,
    },
    /// An environment variable.
    Environment {
        /// Its name.
        name: &'static str,
    },
    /// A command line flag.
    Flag {
        /// With its dashes.
        name: &'static str,
    },
    /// Not written, but certain from another setting.
    Inferred {
        /// That setting.
        from: &'static str,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { line, column } => write!(f, "line {line}, column {column}"),
            Self::Environment { name } | Self::Flag { name } => write!(f, "from {name}"),
            Self::Inferred { from } => write!(f, "inferred from {from}"),
        }
    }
}

/// The flags that replace a part of the configuration; an empty text is a value.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    pub config: Option<PathBuf>,
    pub log_level: Option<String>,
    pub metrics_address: Option<String>,
    pub health_address: Option<String>,
    /// Of one-shot commands.
    pub openbao_address: Option<String>,
    pub openbao_cacert: Option<String>,
    pub openbao_server_name: Option<String>,
    pub substitute: Substitute,
}

/// Parts of the connection to OpenBao that a one-shot command replaces. The identity in every key_id
/// stays that of the configuration.
#[derive(Debug, Clone, Default)]
pub struct Substitute {
    /// Namespace of the requests.
    pub namespace: Option<Namespace>,
    /// File with a token, in place of a login.
    pub token_file: Option<Arc<TokenFile>>,
}

impl Flags {
    /// The file to load: flag, then variables, then [`DEFAULT_CONFIG_PATH`].
    #[must_use]
    pub fn config_path(&self, environment: &Environment) -> PathBuf {
        let variable = first(environment, CONFIG_PATH_VARIABLES);
        let or_variable = variable.map_or(DEFAULT_CONFIG_PATH, |(_, path)| path);
        self.config.clone().unwrap_or_else(|| or_variable.into())
    }

    /// The replaced settings: flag before variable. Identity and credentials never come from here.
    pub(super) fn replacements(&self, environment: &Environment) -> Vec<Setting> {
        let replace = |path, flag, given: &Option<String>, variables| {
            let (text, origin) = match (given, first(environment, variables)) {
                (Some(text), _) => (text.as_str(), Origin::Flag { name: flag }),
                (None, Some((name, text))) => (text, Origin::Environment { name }),
                (None, None) => return None,
            };
            let value = Value::from(text);
            Some(Setting {
                path,
                value,
                origin,
            })
        };
        let replaced = |path, flag, given: &Option<String>| {
            given.as_ref().map(|text| Setting {
                path,
                value: Value::from(text.as_str()),
                origin: Origin::Flag { name: flag },
            })
        };
        let address = "--openbao-address";
        // The other addresses and the name in the certificate belong to the configured server.
        let elsewhere = self.openbao_address.as_ref();
        let parsed = elsewhere.and_then(|text| Address::parse(text).ok());
        let host = parsed.map(|address| address.host().to_owned());
        let (name, named_by) = match &self.openbao_server_name {
            Some(_) => (&self.openbao_server_name, "--openbao-server-name"),
            None => (&host, address),
        };
        let no_failover = elsewhere.map(|_| Setting {
            path: OpenBao::failover_addresses.into(),
            value: Value::Array(Vec::new()),
            origin: Origin::Flag { name: address },
        });
        let level = Logging::level.into();
        let (metrics, health) = (Server::metrics.into(), Server::health.into());
        [
            replace(level, "--log-level", &self.log_level, LOG_LEVEL_VARIABLES),
            replace(
                metrics,
                "--metrics-address",
                &self.metrics_address,
                METRICS_VARIABLES,
            ),
            replace(
                health,
                "--health-address",
                &self.health_address,
                HEALTH_VARIABLES,
            ),
            replaced(OpenBao::address.into(), address, &self.openbao_address),
            replaced(
                OpenBao::ca_cert_file.into(),
                "--openbao-cacert",
                &self.openbao_cacert,
            ),
            replaced(OpenBao::server_name.into(), named_by, name),
            no_failover,
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// The first variable with a value, and its name.
fn first<'a>(
    environment: &'a Environment,
    names: [&'static str; 2],
) -> Option<(&'static str, &'a str)> {
    let mut names = names.into_iter();
    names.find_map(|name| Some((name, environment.variable(name)?)))
}

/// The packaged unit with this configuration file: the directory names the instance.
#[must_use]
pub fn packaged_unit(config_path: &Path) -> String {
    let below = config_path.strip_prefix("/etc/openbao-kms");
    let parts: Vec<_> = below.iter().flat_map(|below| below.iter()).collect();
    let name = match parts[..] {
        [instance, file] if file == "config.yaml" => instance.to_str(),
        _ => None,
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    match name.filter(|name| name.chars().all(plain)) {
        Some(instance) => format!("bao-kms-provider@{instance}"),
        None => "bao-kms-provider".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment {
            variables: variables
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            effective_uid: 1000,
        }
    }

    #[test]
    fn a_flag_wins_over_a_variable_and_the_first_variable_over_the_second() {
        let both = environment(&[
            ("BAO_KMS_PROVIDER_LOGGING_LEVEL", "warn"),
            ("BAO_KMS_PROVIDER_LOG_LEVEL", "error"),
        ]);
        let by_variable = Flags::default().replacements(&both);
        assert_eq!(by_variable[0].value, "error");
        let flags = Flags {
            log_level: Some("debug".to_owned()),
            ..Flags::default()
        };
        assert_eq!(flags.replacements(&both)[0].value, "debug");
    }

    #[test]
    fn an_empty_variable_is_unset_but_an_empty_flag_disables_the_listener() {
        let empty = environment(&[("BAO_KMS_PROVIDER_SERVER_METRICS_ADDRESS", "")]);
        assert!(Flags::default().replacements(&empty).is_empty());
        let flags = Flags {
            metrics_address: Some(String::new()),
            ..Flags::default()
        };
        let [metrics] = &flags.replacements(&empty)[..] else {
            panic!("the flag is a value");
        };
        assert_eq!(
            (metrics.path, &metrics.value),
            ("server.metricsAddress", &"".into())
        );
    }

    #[test]
    fn another_openbao_has_its_own_name_and_no_other_addresses() {
        let mut flags = Flags {
            openbao_address: Some("https://[::1]:8300".to_owned()),
            ..Flags::default()
        };
        let replaced = |flags: &Flags| -> Vec<_> {
            let settings = flags.replacements(&environment(&[])).into_iter();
            settings.map(|it| (it.path, it.value.to_string())).collect()
        };
        let expected = |name: &str| {
            [
                ("openbao.address", r#""https://[::1]:8300""#),
                ("openbao.tlsServerName", name),
                ("openbao.failoverAddresses", "[]"),
            ]
            .map(|(path, value)| (path, value.to_owned()))
        };
        assert_eq!(replaced(&flags), expected(r#""::1""#));
        flags.openbao_server_name = Some("bao.example".to_owned());
        assert_eq!(replaced(&flags), expected(r#""bao.example""#));
    }

    #[test]
    fn the_path_is_the_flag_then_the_variables_then_the_default() {
        let second = environment(&[
            ("BAO_KMS_PROVIDER_CONFIG", ""),
            ("BAO_KMS_PROVIDER_CONFIG_PATH", "/b.yaml"),
        ]);
        let flags = Flags {
            config: Some("/a.yaml".into()),
            ..Flags::default()
        };
        assert_eq!(flags.config_path(&second).to_str(), Some("/a.yaml"));
        let none = Flags::default();
        assert_eq!(none.config_path(&second).to_str(), Some("/b.yaml"));
        assert_eq!(
            none.config_path(&environment(&[])).to_str(),
            Some(DEFAULT_CONFIG_PATH)
        );
    }

    #[test]
    fn the_unit_is_the_instance_of_the_configuration() {
        for (path, unit) in [
            ("/etc/openbao-kms/config.yaml", "bao-kms-provider"),
            (
                "/etc/openbao-kms/east-1/config.yaml",
                "bao-kms-provider@east-1",
            ),
            ("/etc/openbao-kms/east-1/other.yaml", "bao-kms-provider"),
            ("/etc/openbao-kms/a b/config.yaml", "bao-kms-provider"),
            ("/etc/openbao-kms/a/b/config.yaml", "bao-kms-provider"),
            ("/home/ann/east/config.yaml", "bao-kms-provider"),
            ("", "bao-kms-provider"),
        ] {
            assert_eq!(packaged_unit(Path::new(path)), unit, "{path}");
        }
    }
}
