//! Starts and sets up a private, real OpenBao: for the lab mode, restore rehearsals and tests.
//!
//! A server listens on loopback only, trusts nothing but its own CA, keeps its data in one private
//! directory, and cannot outlive the process that started it. It is never a place for production
//! keys: one unseal share, held by whoever started it.
//!
//! The way through the crate: [`binary`] finds the program, [`server`] starts, initializes and
//! unseals it, [`admin`] sets up Transit, policies and logins,
//! [`jwt`] issues the JWTs to log in with. [`child`] and [`port`] serve other test servers as well.
//! For a copy of production data, which is never to act on anything outside, there are
//! [`server::restore`], [`confinement`] and [`scratch`].

mod pki;

pub mod admin;
pub mod binary;
pub mod child;
pub mod confinement;
pub mod files;
pub mod jwt;
pub mod port;
pub mod scratch;
pub mod server;
