//! Incident analysis: the checks of [`diagnose`](crate::diagnose) and a few more in an order in which
//! each result relies on those before it, up to the first failure.
//!
//! `sequence` is that order, with the [`Cause`](kms_node::advice::Cause) of each failure; [`walk`]
//! gathers facts and evaluates. It writes nothing; round trips encrypt random bytes.

pub mod evidence;
pub mod report;
mod sequence;
pub mod service;
pub mod walk;
