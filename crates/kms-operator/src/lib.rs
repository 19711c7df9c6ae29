//! The commands of an operator: diagnosis, recovery from etcd data, rehearsals, rotation and retirement.

#![allow(
    missing_docs,
    reason = "the library of a program: a name that says it all needs no line"
)]

pub mod attestation;
pub mod benchmark;
#[cfg(test)]
mod claims;
pub mod diagnose;
pub mod drill;
pub mod nodes;
pub mod recovery;
pub mod retirement;
pub mod rotation_report;
pub mod triage;
