//! Where the value of a setting came from, and the few that a flag or variable may replace.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use schemars::JsonSchema;
use serde::Serialize;

/// The default of `--config` for every command that needs a configuration.
pub const DEFAULT_CONFIG_PATH: &str = "/etc/openbao-kms/config.yaml";

/// The settings that a flag or a variable may replace, with their variables (the first one set
/// wins) and flag. Identity and credentials never come from here.
const REPLACEABLE: [(&str, [&str; 2], &str); 3] = [
    (
        "logging.level",
        [
            "BAO_KMS_PROVIDER_LOG_LEVEL",
            "BAO_KMS_PROVIDER_LOGGING_LEVEL",
        ],
        "--log-level",
    ),
    (
        "server.metricsAddress",
        [
            "BAO_KMS_PROVIDER_SERVER_METRICS_ADDRESS",
            "BAO_KMS_PROVIDER_SERVER_METRICSADDRESS",
        ],
        "--metrics-address",
    ),
    (
        "server.healthAddress",
        [
            "BAO_KMS_PROVIDER_SERVER_HEALTH_ADDRESS",
            "BAO_KMS_PROVIDER_SERVER_HEALTHADDRESS",
        ],
        "--health-address",
    ),
];

const CONFIG_PATH_VARIABLES: [&str; 2] =
    ["BAO_KMS_PROVIDER_CONFIG", "BAO_KMS_PROVIDER_CONFIG_PATH"];

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
            Self::Environment { name } => write!(f, "from {name}"),
            Self::Flag { name } => write!(f, "from {name}"),
            Self::Inferred { from } => write!(f, "inferred from {from}"),
        }
    }
}

/// What the process was started with, as a value, so that tests need no process of their own.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// The environment variables; one that is not UTF-8 is left out.
    pub variables: BTreeMap<String, String>,
    /// The effective user.
    pub effective_uid: u32,
}

impl Environment {
    /// The environment of this process.
    #[must_use]
    pub fn of_process() -> Self {
        Self {
            variables: std::env::vars_os()
                .filter_map(|(name, value)| {
                    Some((name.into_string().ok()?, value.into_string().ok()?))
                })
                .collect(),
            effective_uid: rustix::process::geteuid().as_raw(),
        }
    }

    /// For a user other than root, the private runtime directory that the session manager made.
    /// That it is private is checked with the other files.
    #[must_use]
    pub fn runtime_directory(&self) -> Option<PathBuf> {
        let runtime = self.variable("XDG_RUNTIME_DIR")?;
        (self.effective_uid != 0 && runtime.starts_with('/')).then(|| PathBuf::from(runtime))
    }

    /// The directories below which a directory may hold the socket: those that are empty after
    /// boot, so that no socket outlives the machine's uptime.
    pub(super) fn socket_roots(&self) -> Vec<PathBuf> {
        ["/run", "/var/run"]
            .into_iter()
            .map(PathBuf::from)
            .chain(self.runtime_directory())
            .collect()
    }

    /// An empty variable counts as unset.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }
}

/// The flags that replace a part of the configuration; an empty text is a value, not absence.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--config`
    pub config: Option<PathBuf>,
    /// `--log-level`
    pub log_level: Option<String>,
    /// `--metrics-address`
    pub metrics_address: Option<String>,
    /// `--health-address`
    pub health_address: Option<String>,
}

impl Flags {
    /// The file to load: flag, then variables, then [`DEFAULT_CONFIG_PATH`].
    #[must_use]
    pub fn config_path(&self, environment: &Environment) -> PathBuf {
        let variable = || {
            CONFIG_PATH_VARIABLES
                .iter()
                .find_map(|name| environment.variable(name))
        };
        self.config
            .clone()
            .or_else(|| variable().map(PathBuf::from))
            .unwrap_or_else(|| PathBuf::from(DEFAULT_CONFIG_PATH))
    }

    /// The replaced settings by path: flag before variable.
    pub(super) fn replacements(
        &self,
        environment: &Environment,
    ) -> BTreeMap<&'static str, (String, Origin)> {
        let flags = [&self.log_level, &self.metrics_address, &self.health_address];
        let mut replacements = BTreeMap::new();
        for ((path, variables, flag), given) in REPLACEABLE.into_iter().zip(flags) {
            let from_flag = given
                .as_ref()
                .map(|text| (text.clone(), Origin::Flag { name: flag }));
            let from_variable = || {
                variables.into_iter().find_map(|name| {
                    let text = environment.variable(name)?.to_owned();
                    Some((text, Origin::Environment { name }))
                })
            };
            if let Some(replacement) = from_flag.or_else(from_variable) {
                replacements.insert(path, replacement);
            }
        }
        replacements
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
        assert_eq!(by_variable["logging.level"].0, "error");
        let flags = Flags {
            log_level: Some("debug".to_owned()),
            ..Flags::default()
        };
        assert_eq!(flags.replacements(&both)["logging.level"].0, "debug");
    }

    #[test]
    fn an_empty_variable_is_unset_but_an_empty_flag_disables_the_listener() {
        let empty = environment(&[("BAO_KMS_PROVIDER_SERVER_METRICS_ADDRESS", "")]);
        assert!(Flags::default().replacements(&empty).is_empty());
        let flags = Flags {
            metrics_address: Some(String::new()),
            ..Flags::default()
        };
        assert_eq!(flags.replacements(&empty)["server.metricsAddress"].0, "");
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
}
