//! The rules of the provider, without I/O: no clock, file, socket or log. Callers pass `now`.
//!
//! Formats are byte for byte those of `docs/format`; a value of a type here has been checked once
//! and stays valid.

pub mod scope;
pub mod transit;
