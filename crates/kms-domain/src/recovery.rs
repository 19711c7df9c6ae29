//! Evidence about a lost or restored key: what stored data needs, and what a key can give.
//!
//! | Question | Module |
//! |---|---|
//! | Which version of the key is a stored object's `key_id`, and if none, why not? | [`origin`] |
//! | May a restored pair of backups go into service? | [`pair`] |
//! | What is noted with every backup set? | [`record`] |
//! | Do the nodes of a cluster agree? | [`nodes`] |

pub mod nodes;
pub mod origin;
pub mod pair;
pub mod record;
