//! The daemon: serves the KMS v2 API on its socket, follows the Transit key, and reports its own health.

#![allow(
    missing_docs,
    reason = "the library of a program: a name that says it all needs no line"
)]

pub mod descriptors;
pub mod kms;
pub mod lifecycle;
pub mod serve;
pub mod supervisor;
pub mod telemetry;
pub mod trust;
pub mod view;
pub mod watcher;
