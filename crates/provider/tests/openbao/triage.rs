//! `triage` on faults that are really made: for each, what it says is broken, what it means for the
//! data, what to do and what not to do; and that it changed nothing.

pub(crate) mod case;
mod evidence;
mod key;
mod node;
mod openbao;
