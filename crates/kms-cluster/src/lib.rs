//! One cluster by its Kubernetes API.
//!
//! Requests ask for the metadata of objects alone, so the data of a Secret stays in the API server;
//! only `extract --diff` compares whole objects ([`api::Api::object`]).
//! An annotation may repeat it (`kubectl.kubernetes.io/last-applied-configuration`): answers are
//! parsed for the few fields that are used here, and dropped. Messages of the API server may quote an
//! object, so they are classified and never shown.

#![allow(
    missing_docs,
    reason = "the library of a program: a name that says it all needs no line"
)]

pub mod api;
pub mod discovery;
pub mod encryption;
pub mod rewrite;
pub mod rollout;
pub mod servers;
