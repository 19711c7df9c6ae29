//! OpenBao over HTTPS: one classified request at a time, Transit, logins.
//!
//! The crate opens TLS connections to one configured server, trusts one configured set of roots,
//! follows no redirect, reads no proxy variable and repeats no request that reached the server.
//! Tokens, JWTs and plaintext live in wiping storage and never enter an error. Copies made inside
//! hyper, rustls and the allocator lie outside its reach.

mod connect;

pub mod client;
pub mod credential_file;
pub mod endpoint;
pub mod failure;
pub mod login;
pub mod request;
pub mod token;
pub mod transit;
