//! Reads etcd snapshots and what Kubernetes stored in them, as evidence of what a backup needs.
//!
//! Every byte read here may be damaged or hostile. So nothing is mapped into memory, every length is
//! a claim to be checked, and an answer exists only once the whole of it was read: a damaged file
//! gives an error that names the page and the offset, never a part of the answer. Nothing is ever
//! written, and no decrypted byte leaves the crate.
//!
//! The way through the crate: [`mod@file`] opens a snapshot, checks its hash and chooses the state to
//! read; [`revision`] hands out the objects of that state; [`value`] says how one is protected;
//! [`envelope`] takes a KMS v2 value apart, and [`familiar`] saves doing so for each; [`open`] proves
//! that a key opens it. Only `file` knows where bytes come from, and objects from a running etcd fit
//! the same later steps.
//!
//! Implements `docs/format/etcd-snapshot.md`.

// Every length is the file's claim.
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

pub mod damage;
pub mod envelope;
pub mod familiar;
pub mod file;
pub mod open;
pub mod protobuf;
pub mod revision;
pub mod value;

mod page;
mod tree;

#[cfg(test)]
mod handmade;
