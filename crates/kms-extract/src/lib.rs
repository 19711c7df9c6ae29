//! `extract`: single objects of an etcd snapshot or of a running etcd in plaintext.
//!
//! Only this crate takes the plaintext of an object out of `etcd-snapshot` (`clippy.toml` refuses it to
//! all others), and only [`output`] writes it, or the stream that the operator has asked for.
//!
//! Processing order: [`select`] reads the objects, [`open`] decrypts them, [`manifest`] decodes them,
//! [`output`] writes all of them or none, and [`report`] lists files and refusals; [`extraction`] joins
//! the steps. [`local`] opens objects with keys of an `EncryptionConfiguration`, `identity` compares the
//! content of such objects with their etcd keys, and [`diff`] compares objects with a live cluster in place
//! of writing them.

#![allow(
    missing_docs,
    reason = "the library of a program: a name that says it all needs no line"
)]
// Objects are untrusted, and their content must not be in a panic.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

pub mod diff;
pub mod error;
pub mod extraction;
mod identity;
pub mod local;
pub mod manifest;
pub mod open;
pub mod output;
pub mod report;
pub mod select;
