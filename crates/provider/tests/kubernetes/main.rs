//! A real kube-apiserver encrypts its objects through the built program, with a real etcd and a
//! real OpenBao behind them.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "functions that only tests call may fail like tests, and tell what they counted"
)]

mod cluster;
mod cold_start;
mod encryption_config;
mod extract;
#[cfg(feature = "package-tests")]
mod install;
mod migrate;
mod mistakes;
mod old_client;
mod outages;
mod programs;
mod rewrite;
mod rollout;
mod rotation;
mod runbook;
mod trio;

#[path = "../openbao/bulk.rs"]
mod bulk;
#[path = "../openbao/machine.rs"]
mod machine;
#[path = "../openbao/members.rs"]
mod members;
#[expect(dead_code, reason = "the tests against OpenBao alone use the rest")]
#[path = "../openbao/node.rs"]
mod node;
#[expect(dead_code, reason = "the tests against OpenBao alone use the rest")]
#[path = "../openbao/old_plugin.rs"]
mod old_plugin;
#[expect(dead_code, reason = "the tests against OpenBao alone use the rest")]
#[path = "../openbao/provider.rs"]
mod provider;
