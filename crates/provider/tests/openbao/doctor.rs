//! `doctor` on seeded faults: each is named first, and what the report says to do mends it.
//!
//! All faults are made on real files, processes and servers; only a wrong clock of OpenBao is a
//! scripted one. Root and an ordinary user run the same faults.

pub(crate) mod fault;
mod key;
mod node;
pub(crate) mod openbao;
mod reports;
