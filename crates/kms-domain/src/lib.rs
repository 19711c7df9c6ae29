//! The rules of the provider, without I/O: no clock, file, socket or log. Callers pass `now`.
//!
//! Formats are byte for byte those of `docs/format`; a value of a type here has been checked once
//! and stays valid.
//!
//! | Question | Module |
//! |---|---|
//! | Which names make one key lineage? | [`scope`] |
//! | What is known of the Transit key, and is it safe to use? | [`transit`] |
//! | What is one version of it called, and how is it bound? | [`key_id`], [`key`], [`annotations`], [`aad`] |
//! | What is Transit asked for? | [`prepare`], [`ciphertext`], [`limits`] |
//! | Which versions does this node know? | [`registry`], [`bootstrap`] |
//! | How does a new version become active? | [`registry::rotation`] |
//! | How does an operator take versions out of use? | [`registry::retire`], [`confirmed`] |
//! | How is that kept, and is it ours and the newest? | [`registry::document`], [`registry::anchor`], [`fingerprint`] |
//! | May this node encrypt? | [`health`] |
//! | What do stored objects and backups need of the key? | [`recovery`] |
//! | How are digests and JSON spelled, and which release wrote a file? | [`digest`], [`json`], [`schema`] |
//!
//! Invariants, each held by a type:
//!
//! - A `key_id` belongs to the fields of its key: [`key::TransitKey`] has no other way to get one.
//! - Exactly one version is active: a [`registry::Registry`] cannot be made otherwise.
//! - Only the active version encrypts, and only in good health: [`health::ActiveKey`] comes from
//!   [`health::assess`] alone.
//! - A version is tried before it is promoted, and not used for anything else until then:
//!   [`registry::ProbeKey`].
//! - What decrypts goes on decrypting until an operator has reviewed its removal: every document
//!   after the first is made by [`registry::rotation`], by a [`registry::retire::Plan`] or, where it
//!   was lost, by a [`recovery::rebuild::RebuildPlan`], and a plan is carried out only as
//!   [`confirmed::Confirmed`].
//! - A removed or rejected version decrypts nothing: [`registry::DecryptKey`] comes from
//!   [`registry::Registry::lookup`] alone.
//! - Nothing is sent to Transit under associated data that the stored annotations do not match:
//!   [`aad::AssociatedData`] comes from [`prepare`], or is that of the status probe.
//! - A state document that was changed in any way but its white space is refused:
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
