//! What tests need: real OpenBao servers, and a scripted one for answers that a real one cannot be
//! made to give.
//!
//! Everything here fails the test that uses it, with the command that helps where there is one;
//! nothing is skipped.

mod daemon;

pub mod big_endian;
#[cfg(feature = "kubernetes")]
pub mod control_plane;
pub mod etcd;
pub mod fake;
pub mod files;
pub mod openbao;
pub mod pki;
pub mod relay;
pub mod runbook;
pub mod schema;
pub mod stored;
pub mod tenant;
pub mod wait;
