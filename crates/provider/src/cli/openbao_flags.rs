//! Another OpenBao, or another token, for one command.

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use kms_domain::scope::Namespace;
use kms_node::token_file::TokenFile;

use super::Context;

/// For isolated restores, and for a login that does not work. The report names what was replaced.
#[derive(Debug, Args)]
#[command(next_help_heading = "OpenBao")]
pub(super) struct OpenBaoFlags {
    /// Ask this OpenBao alone, in place of openbao.address [env: BAO_ADDR]
    #[arg(long, value_name = "URL")]
    openbao_address: Option<String>,
    /// Replaces openbao.caCertFile [env: BAO_CACERT]
    #[arg(long, value_name = "FILE")]
    openbao_cacert: Option<String>,
    /// Replaces openbao.tlsServerName [env: BAO_TLS_SERVER_NAME] [default: host of --openbao-address]
    #[arg(long, value_name = "NAME")]
    openbao_server_name: Option<String>,
    /// Namespace of the requests; the one in every key_id stays that of the configuration [env:
    /// BAO_NAMESPACE]
    #[arg(long, value_name = "NAMESPACE", value_parser = Namespace::parse)]
    openbao_namespace: Option<Namespace>,
    #[command(flatten)]
    token: TokenFlags,
}

/// Another token, for a login that does not work.
#[derive(Debug, Args)]
#[command(next_help_heading = "OpenBao")]
pub(super) struct TokenFlags {
    /// File with a token, used in place of a login; closed to other users like any credential file
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl TokenFlags {
    /// Reads the token, while the process has the rights of its user.
    pub(super) fn apply(&self, context: &mut Context<'_>) {
        if let Some(path) = &self.token_file {
            let shown = Some(path.display().to_string());
            context.add_source("--token-file", &shown);
            let file = TokenFile::read(path);
            context.flags.substitute.token_file = Some(Arc::new(file));
        }
    }
}

impl OpenBaoFlags {
    /// Puts the options in place of the configuration's, and into the report.
    pub(super) fn apply(&self, context: &mut Context<'_>) {
        let namespace = self.openbao_namespace.as_ref().map(ToString::to_string);
        for (option, value) in [
            ("--openbao-address", &self.openbao_address),
            ("--openbao-cacert", &self.openbao_cacert),
            ("--openbao-server-name", &self.openbao_server_name),
            ("--openbao-namespace", &namespace),
        ] {
            context.add_source(option, value);
        }
        self.token.apply(context);
        context
            .flags
            .openbao_address
            .clone_from(&self.openbao_address);
        context
            .flags
            .openbao_cacert
            .clone_from(&self.openbao_cacert);
        context
            .flags
            .openbao_server_name
            .clone_from(&self.openbao_server_name);
        context
            .flags
            .substitute
            .namespace
            .clone_from(&self.openbao_namespace);
    }
}
