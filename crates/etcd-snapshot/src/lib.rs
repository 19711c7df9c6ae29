//! Reads etcd snapshots and the Kubernetes objects in them, as evidence for disaster recovery.
//!
//! Every byte may be damaged or hostile. Files are therefore not mapped into memory, every length
//! is checked, and a result is returned only after a complete read. A damaged file gives an error
//! with the page and the offset, never a partial result. The crate is read-only. Decrypted bytes
//! stay inside it, except for `kms-extract` ([`open::DekSource::reveal`]).
//!
//! Processing order: [`mod@file`] opens a snapshot, checks its hash and selects the state to read;
//! [`revision`] passes on the objects of that state, the newest of each key by [`keys`]; [`value`]
//! detects the protection of an object; [`envelope`] parses a KMS v2 value, and [`cache`] avoids
//! repeated parsing; [`open`] proves that a key opens the object. Only `file` depends on the byte
//! source; objects from a running etcd use the same later steps.
//!
//! Implements `docs/format/etcd-snapshot.md`.

// Every length is untrusted.
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

pub mod cache;
pub mod damage;
pub mod envelope;
pub mod file;
pub mod keys;
pub mod open;
pub mod protobuf;
pub mod revision;
pub mod value;

mod page;
mod source;
mod tree;

#[cfg(test)]
mod fixtures;
