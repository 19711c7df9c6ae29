//! A node of the provider: its configuration, its state, its login and connection to OpenBao, and the form of all
//! results. Shared by the daemon and the commands.

#![allow(
    missing_docs,
    reason = "the library of a program: a name that says it all needs no line"
)]

pub mod advice;
pub mod auth;
pub mod build_info;
pub mod clock;
pub mod config;
pub mod connection;
pub mod duration;
pub mod environment;
pub mod error_chain;
pub mod exit;
pub mod formats;
pub mod group;
pub mod hardening;
pub mod jitter;
pub mod kms_api;
pub mod node_files;
pub mod pkcs11_helper;
pub mod plain_http;
pub mod probe;
pub mod process_identity;
pub mod report;
pub mod state;
pub mod token_file;
pub mod transit_key;
pub mod why;
