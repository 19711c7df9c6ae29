//! Evidence about a lost or restored key: versions that stored data needs, and versions that a key
//! has.
//!
//! | Task | Module |
//! |---|---|
//! | Resolve a stored object's `key_id` to a version | [`resolve`] |
//! | Compare the versions of records and states with the live key | [`claims`] |
//! | Decide whether a version may retire and whether a rotation is finished | [`evidence`] |
//! | Decide whether a restored pair of backups may go into service | [`pair`] |
//! | Record the key versions with every backup set | [`record`] |
//! | Judge a pair of backups without a key | [`offer`] |
//! | Rebuild the lost registry of a node | [`rebuild`] |
//! | Record the evidence of a rebuild | [`journal`] |
//! | Compare the nodes of a cluster | [`nodes`] |

pub mod claims;
pub mod evidence;
pub mod journal;
pub mod nodes;
pub mod offer;
pub mod pair;
pub mod rebuild;
pub mod record;
pub mod resolve;
