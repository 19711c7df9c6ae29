//! Test fixtures: real OpenBao, etcd, kube-apiserver, Ory Hydra and SPIRE servers, and a scripted OpenBao for
//! faults.
//!
//! A missing program or a failed set-up fails the test and prints the command to install the
//! program. Tests are never skipped.

mod daemon;

pub mod big_endian;
#[cfg(feature = "kubernetes")]
pub mod control_plane;
pub mod cosign;
pub mod etcd;
pub mod fake;
pub mod files;
pub mod fresh_root;
pub mod hydra;
pub mod memory;
pub mod openbao;
pub mod pki;
pub mod relay;
pub mod runbook;
pub mod schema;
pub mod softhsm;
pub mod spire;
pub mod stored;
pub mod tenant;
pub mod wait;
