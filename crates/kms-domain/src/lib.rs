//! The rules of the provider, without I/O: no clock, file, socket or log. Callers pass `now`.
//!
//! Formats are byte for byte those of `docs/format`. Values are checked once, on construction, and
//! stay valid.
//!
//! | Topic | Module |
//! |---|---|
//! | Names of a key lineage | [`scope`] |
//! | State of the Transit key and its safety | [`transit`] |
//! | Identity of a key version and its binding to data | [`key_id`], [`key`], [`annotations`], [`aad`] |
//! | Requests to Transit | [`prepare`], [`ciphertext`], [`limits`] |
//! | Versions known to this node | [`registry`], [`bootstrap`] |
//! | Promotion of a new version | [`registry::rotation`] |
//! | Removal of versions by an operator | [`registry::retire`], [`confirmed`] |
//! | State document, its freshness and its owner | [`registry::document`], [`registry::checkpoint`], [`fingerprint`] |
//! | Permission to encrypt | [`health`] |
//! | Versions needed by stored objects and backups | [`recovery`] |
//! | Encoding of digests and JSON, format versions | [`digest`], [`json`], [`schema`] |
//!
//! Invariants, each held by a type:
//!
//! - A `key_id` belongs to the fields of its key: only [`key::TransitKey`] derives it.
//! - Exactly one version is active: every constructor of [`registry::Registry`] ensures it.
//! - Only the active version encrypts, and only in good health: [`health::assess`] alone returns
//!   [`health::ActiveKey`].
//! - A version is probed before its promotion and has no other use until then:
//!   [`registry::ProbeKey`].
//! - A version continues to decrypt until an operator has reviewed its removal. Every document
//!   after the first comes from [`registry::rotation`], a [`registry::retire::Plan`] or, after a
//!   loss, a [`recovery::rebuild::RebuildPlan`]; a plan is applied only as
//!   [`confirmed::Confirmed`].
//! - A removed or rejected version decrypts nothing: [`registry::Registry::lookup`] alone returns
//!   [`registry::DecryptKey`].
//! - Associated data of stored objects matches the stored annotations: [`aad::AssociatedData`]
//!   comes from [`prepare`], or is that of a probe or benchmark.
//! - Any change to a state document other than white space is refused:
//!   [`registry::document::Document::decode`].

#![warn(clippy::wildcard_enum_match_arm)] // A new state must be thought about everywhere.

pub mod aad;
pub mod annotations;
pub mod bootstrap;
pub mod ciphertext;
pub mod confirmed;
pub mod digest;
pub mod fingerprint;
pub mod health;
pub mod identity;
pub mod json;
pub mod key;
pub mod key_id;
pub mod limits;
pub mod prepare;
pub mod recovery;
pub mod registry;
pub mod schema;
pub mod scope;
pub mod transit;
#[cfg(test)]
mod vectors;
