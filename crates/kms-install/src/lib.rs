//! Makes every file of an installation from a few values: configuration of the provider, OpenBao,
//! kube-apiserver and monitoring.
//!
//! [`values`] completes the given settings, [`plan`] checks them as the provider would, [`files`] makes
//! the content of each file, and [`directory`] writes them. [`node`] brings one node from such a directory
//! to a running provider. The same values give the same bytes, and no
//! file holds a secret. Nothing is sent to OpenBao. Page: docs/operate/init.md.

#![allow(
    missing_docs,
    reason = "the library of a program: a name that says it all needs no line"
)]

pub mod directory;
pub mod files;
pub mod node;
pub mod plan;
pub mod policy;
pub mod questions;
pub mod values;
