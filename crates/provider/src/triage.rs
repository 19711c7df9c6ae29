//! The way through an incident, walked to the first thing that is broken.
//!
//! [`walk`] asks the questions of [`diagnose`](crate::diagnose) and a few of its own in an order in which
//! every answer can rely on those before it, and ends at the first that is not as it should be. A
//! [`verdict`] says what that is and what it means for the data; [`advice`] what to do about it, and what
//! never to do. Nothing here writes; what is encrypted on the way are random bytes.

pub mod advice;
pub mod evidence;
pub mod report;
pub mod service;
pub mod verdict;
pub mod walk;
mod way;
