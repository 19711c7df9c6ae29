//! A real kube-apiserver beside the provider, for `cargo xtask test --kubernetes`.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "functions that only tests call may fail like tests"
)]

mod old_client;
mod programs;

#[expect(dead_code, reason = "the tests against OpenBao alone use the rest")]
#[path = "../openbao/node.rs"]
mod node;
#[expect(dead_code, reason = "the tests against OpenBao alone use the rest")]
#[path = "../openbao/provider.rs"]
mod provider;
