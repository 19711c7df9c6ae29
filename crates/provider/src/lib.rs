//! The daemon and the command line of `bao-kms-provider`.

#![allow(
    missing_docs,
    reason = "the library of a program: a name that says it all needs no line"
)]

pub mod advice;
pub mod auth;
pub mod benchmark;
pub mod build_info;
pub mod cli;
pub mod clock;
pub mod config;
pub mod connection;
pub mod descriptors;
pub mod dev;
pub mod diagnose;
pub mod drill;
pub mod duration;
pub mod environment;
mod error_chain;
pub mod exit;
pub mod group;
pub mod hardening;
pub mod jitter;
pub mod kms;
pub mod kms_api;
pub mod lifecycle;
pub mod node_files;
pub mod nodes;
pub mod plain_http;
pub mod policy;
pub mod probe;
pub mod process_identity;
pub mod recovery;
pub mod report;
pub mod retirement;
pub mod rotation_report;
pub mod serve;
pub mod state;
pub mod supervisor;
pub mod telemetry;
pub mod triage;
pub mod view;
pub mod watcher;
