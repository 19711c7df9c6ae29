//! The daemon and the command line of `bao-kms-provider`.

pub mod auth;
pub mod benchmark;
pub mod build_info;
pub mod cli;
pub mod clock;
pub mod config;
pub mod connection;
pub mod dev;
pub mod diagnose;
pub mod drill;
pub mod hardening;
pub mod kms;
pub mod lifecycle;
pub mod policy;
pub mod probe;
pub mod process_identity;
pub mod recovery;
pub mod report;
pub mod retirement;
pub mod rotation_report;
pub mod serve;
pub mod state;
pub mod telemetry;
pub mod triage;
pub mod view;
pub mod watcher;
