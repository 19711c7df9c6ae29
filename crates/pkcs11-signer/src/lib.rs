//! Signatures by a private key on a PKCS#11 token.
//!
//! A module is foreign code: a call of it can hang, crash, or read and write any file. It therefore
//! runs in a process of its own, and no other process loads it.
//!
//! ```text
//! provider ── Helper ──socket── keeper ──socket── worker: loads the module
//! ```
//!
//! The keeper starts before the provider enters its sandbox, stays outside of it, and lives as long
//! as the provider. It starts a worker for each use of the token and kills it afterwards; one that
//! hangs is killed at its time limit. Between uses only the keeper runs.
//!
//! The PIN travels on the sockets alone.

/// Whether this build can load modules.
pub const IS_BUILT: bool = cfg!(feature = "module");

mod frame;
mod helper;
mod keeper;
#[cfg(feature = "module")]
mod module;
mod problem;
mod worker;

pub use self::{
    frame::{KeyKind, Mechanism, TokenKey},
    helper::{Helper, OpenKey},
    keeper::keep,
    problem::TokenProblem,
    worker::work,
};
