//! Starts and configures a private, real OpenBao: for the lab mode, restore drills and tests.
//!
//! A server listens only on loopback, trusts only its own CA and keeps its data in one private
//! directory. It cannot outlive the process that started it. Never use it for production keys: it
//! has one unseal share, held by the caller.
//!
//! Use the modules in this order: [`binary`] finds the program; [`server`] starts, initializes and
//! unseals it; [`admin`] creates Transit keys, policies and logins; [`jwt`] issues JWTs for the
//! logins. [`child`] and [`port`] serve other test servers as well. [`server::restore`],
//! [`confinement`] and [`temp_workspace`] are for a copy of production data, which must never act
//! on other systems.

mod pki;

pub mod admin;
pub mod binary;
pub mod child;
pub mod confinement;
pub mod files;
pub mod jwt;
pub mod port;
pub mod server;
pub mod temp_workspace;
