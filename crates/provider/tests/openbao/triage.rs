//! `triage` on faults that are really made: for each, what it says is broken, what it means for the
//! data, what to do and what not to do; and that it changed nothing.

mod case;
mod node;
mod openbao;
