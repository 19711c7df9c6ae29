//! A real kube-apiserver beside the provider, for `cargo xtask test --kubernetes`.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "functions that only tests call may fail like tests"
)]

mod programs;
