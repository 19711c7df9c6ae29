//! Evidence about a lost or restored key: what stored data needs, and what a key can give.
//!
//! | Question | Module |
//! |---|---|
//! | Which version of the key is a stored object's `key_id`, and if none, why not? | [`origin`] |
//! | Does the live key have the versions that records and states name? | [`claims`] |
//! | What do objects still need: may a version retire, is a rotation over? | [`evidence`] |
//! | May a restored pair of backups go into service? | [`pair`] |
//! | What is noted with every backup set? | [`record`] |
//! | Which registry did a node have that has lost it? | [`rebuild`] |
//! | What was it rebuilt from? | [`journal`] |
//! | Do the nodes of a cluster agree? | [`nodes`] |

pub mod claims;
pub mod evidence;
pub mod journal;
pub mod nodes;
pub mod origin;
pub mod pair;
pub mod rebuild;
pub mod record;
