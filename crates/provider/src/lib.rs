//! The command line of `bao-kms-provider`.

#![allow(
    missing_docs,
    reason = "the library of a program: a name that says it all needs no line"
)]

pub mod cli;
pub mod dev;
