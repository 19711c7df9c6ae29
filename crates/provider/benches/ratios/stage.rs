//! A real OpenBao for the benchmark, and the files of one node for the provider.

use std::{path::PathBuf, process::Command, time::Duration};

use serde_json::Value;
use testkit::{
    files::SocketDir,
    openbao::OpenBao,
    tenant::{Tenant, Timing},
};

use crate::provider_process::Provider;

/// Limits probes to the start, so that every further request to OpenBao belongs to a call.
const QUIET: Timing = Timing {
    probe_interval: Duration::from_secs(3600),
    deep_probe_interval: Duration::from_secs(3600),
    max_staleness: Duration::from_secs(7200),
    activation_delay: Duration::from_secs(60),
    stable_observations: 2,
    grace_timeout: Duration::from_secs(30),
    retry_interval: Duration::from_millis(100),
};

pub(crate) struct Stage {
    /// The measured program.
    pub(crate) program: PathBuf,
    pub(crate) server: OpenBao,
    pub(crate) tenant: Tenant,
    /// Same name as in the encryption configuration of an API server.
    pub(crate) provider_name: String,
    sockets: SocketDir,
    settings: Value,
    config: PathBuf,
}

impl Stage {
    pub(crate) async fn set(program: PathBuf) -> Self {
        let server = OpenBao::start().await;
        let tenant = Tenant::new(&server).await;
        let sockets = SocketDir::new();
        let mut config = tenant.config(&sockets, QUIET);
        config["openbao"]["timeout"] = "10s".into();
        // Same value as for Decrypt, for equal measurements.
        config["server"]["maxConcurrentEncrypt"] = 64.into();
        let name = config["transit"]["keyIdScope"]["providerName"].as_str();
        let provider_name = name.unwrap().to_owned();
        let path = tenant.write_config(&config);
        Self {
            program,
            server,
            tenant,
            provider_name,
            sockets,
            settings: config,
            config: path,
        }
    }

    /// Starts the provider and waits until it answers.
    pub(crate) async fn provider(&self) -> Provider {
        let mut command = self.command("serve");
        self.sockets.set_environment(&mut command);
        let log = self.tenant.path().join("serve.log");
        Provider::start(command, log, self.sockets.socket()).await
    }

    /// The same with another address of OpenBao.
    pub(crate) async fn provider_at(&self, address: &str) -> Provider {
        let mut config = self.settings.clone();
        config["openbao"]["address"] = address.into();
        let changed = self.tenant.write_config(&config);
        assert_eq!(changed, self.config);
        let provider = self.provider().await;
        assert_eq!(self.tenant.write_config(&self.settings), self.config);
        provider
    }

    /// The program with its configuration.
    pub(crate) fn command(&self, name: &str) -> Command {
        let mut command = self.plain_command();
        command.arg(name).arg("--config").arg(&self.config);
        command
    }

    pub(crate) fn plain_command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear();
        command
    }

    pub(crate) fn state_file(&self) -> PathBuf {
        self.tenant.state_dir().join("key-registry.json")
    }

    pub(crate) async fn openbao_version(&self) -> String {
        let health = self.server.admin().read("sys/health").await.unwrap();
        let health: Value = health.json().unwrap();
        health["version"].as_str().unwrap().to_owned()
    }
}
